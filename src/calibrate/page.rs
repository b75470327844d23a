//! The picture page: one HTML file, no script and no request, on which a person chooses.

use std::fmt::{Result as Written, Write as _};

use schemas::Channel;

use super::{
    mined::{Found, Pick},
    report::{ChannelReport, Choice, Report, band_text, grouped, percent},
    sample::Sample,
};
use crate::gallery::{escape, write_image};

/// Width and height of a histogram, in its own units.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 180.0;

/// The page.
pub fn render(report: &Report, sample: &Sample, found: &Found) -> String {
    let mut html = String::with_capacity(1 << 20);
    write_page(&mut html, report, sample, found).expect("writing to a string cannot fail");
    html
}

fn write_page(out: &mut String, report: &Report, sample: &Sample, found: &Found) -> Written {
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n\
         <title>Where do pairs begin?</title>\n<style>\n{}{}</style>\n</head>\n<body>\n",
        include_str!("../gallery/style.css"),
        include_str!("page.css"),
    )?;
    let about = if report.counted { "" } else { "about " };
    write!(
        out,
        "<header class=\"top\">\n<p class=\"mark\">everpair calibrate</p>\n\
         <h1>Where do pairs begin, and where duplicates?</h1>\n\
         <p class=\"lead\">{} of {about}{} mined images, from {}, seed {}. Each channel's band \
         should begin where pairs stop being strangers and end where they become copies: look at \
         the pictures, level by level, and judge.</p>\n</header>\n<main>\n",
        grouped(report.sample_images as u64),
        grouped(report.corpus_images),
        escape(&report.from),
        report.seed,
    )?;
    write_notes(out, &report.notes)?;
    write_together(out, report)?;
    for channel in &report.channels {
        write_channel(out, channel, sample, &found.picks[channel.channel.index()])?;
    }
    write_method(out)?;
    out.push_str("</main>\n<footer><p>Scores are integers, as mined (rule 2).</p></footer>\n");
    out.push_str("</body>\n</html>\n");
    Ok(())
}

fn write_notes(out: &mut String, notes: &[String]) -> Written {
    notes.iter().try_for_each(|note| writeln!(out, "<p class=\"says\">{}</p>", escape(note)))
}

fn write_together(out: &mut String, report: &Report) -> Written {
    let (now, later) = (&report.together.corpus, &report.together.tenfold);
    out.push_str("<dl class=\"numbers\">\n");
    let numbers = [
        ("pairs per image, all channels", format!("{:.2}", now.pairs_per_image)),
        ("of images have a pair", percent(now.share_with_pair)),
        ("have a near-duplicate", percent(now.share_near_duplicates)),
        ("pairs per image at ten times the size", format!("{:.2}", later.pairs_per_image)),
        ("of images have a pair then", percent(later.share_with_pair)),
    ];
    for (label, value) in numbers {
        writeln!(out, "<div><dt>{label}</dt><dd>{value}</dd></div>")?;
    }
    out.push_str("</dl>\n");
    Ok(())
}

fn write_channel(
    out: &mut String,
    channel: &ChannelReport,
    sample: &Sample,
    picks: &[Vec<Pick>],
) -> Written {
    let name = channel.channel.as_str();
    write!(out, "<section>\n<h2>{name}</h2>\n<p class=\"note\">{}", escape(&channel.encoder))?;
    write!(out, ", {} images with a vector. ", grouped(channel.vectors as u64))?;
    match &channel.proposed {
        Some(choice) => {
            writeln!(out, "Proposed: <code>band = {}</code></p>", band_text(&choice.bands))?
        }
        None => out.push_str("<b>No band is proposed.</b></p>\n"),
    }
    write_notes(out, &channel.says)?;
    write_histogram(out, channel)?;
    write_choices(out, channel)?;
    write_levels(out, channel, sample, picks)?;
    out.push_str("</section>\n");
    Ok(())
}

/// Heights are square roots, so that a few in a thousand can be seen beside the thousand.
fn write_histogram(out: &mut String, channel: &ChannelReport) -> Written {
    let drawn = &channel.drawn;
    let x = |cosine: f64| WIDTH * ((cosine - drawn.from) / (drawn.to - drawn.from)).clamp(0.0, 1.0);
    write!(
        out,
        "<figure class=\"histogram\"><svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" \
         aria-label=\"Scores of random pairs, of nearest neighbours and of mild copies\">",
        HEIGHT + 24.0
    )?;
    for (low, high) in channel.proposed.iter().flat_map(|choice| &choice.bands) {
        let (left, width) = (x(*low), x(*high) - x(*low));
        write!(
            out,
            "<rect class=\"band\" x=\"{left:.1}\" y=\"0\" width=\"{width:.1}\" height=\"{HEIGHT}\"/>"
        )?;
    }
    let series =
        [("random", &drawn.random), ("nearest", &drawn.nearest), ("copies", &drawn.copies)];
    for (class, counts) in series {
        let most = counts.iter().max().copied().unwrap_or(0);
        if most == 0 {
            continue;
        }
        let bar = WIDTH / counts.len() as f64;
        write!(out, "<path class=\"{class}\" d=\"M0 {HEIGHT}")?;
        for (at, count) in counts.iter().enumerate() {
            let top = HEIGHT - (HEIGHT - 6.0) * (*count as f64 / most as f64).sqrt();
            write!(out, "V{top:.1}H{:.1}", (at + 1) as f64 * bar)?;
        }
        write!(out, "V{HEIGHT}Z\"/>")?;
    }
    for tick in (-10..=10).map(|tick| f64::from(tick) / 10.0) {
        if (drawn.from..=1.0).contains(&tick) {
            let at = x(tick);
            write!(
                out,
                "<path class=\"tick\" d=\"M{at:.1} {HEIGHT}v5\"/>\
                 <text x=\"{at:.1}\" y=\"{}\">{tick:.1}</text>",
                HEIGHT + 20.0
            )?;
        }
    }
    let spread = |x: Option<f64>| x.map_or("none".to_owned(), |x| format!("{x:.3}"));
    writeln!(
        out,
        "</svg><figcaption><span class=\"key random\">random pairs, 99.5 % below {}</span> \
         <span class=\"key nearest\">each image's nearest, half below {}</span> \
         <span class=\"key copies\">images and their mild copies, 5 % below {}</span> \
         <span class=\"key band\">the proposed band</span></figcaption></figure>",
        spread(channel.random.q995),
        spread(channel.nearest.median),
        spread(channel.copies_all.q05),
    )
}

fn write_choices(out: &mut String, channel: &ChannelReport) -> Written {
    out.push_str(
        "<div class=\"scroll\"><table class=\"choices\">\n<thead><tr><th>This channel alone</th>\
         <th>band</th><th>pairs per image</th><th>images with a pair</th>\
         <th>with a near-duplicate</th><th>at ten times the size</th></tr></thead>\n<tbody>\n",
    );
    let mut row = |label: String, choice: &Choice| {
        let (now, later) = (&choice.yields.corpus, &choice.yields.tenfold);
        writeln!(
            out,
            "<tr><td>{label}</td><td><code>{}</code></td><td>{:.2}</td><td>{}</td><td>{}</td>\
             <td>{:.2} pairs, {}, {}</td></tr>",
            band_text(&choice.bands),
            now.pairs_per_image,
            percent(now.share_with_pair),
            percent(now.share_near_duplicates),
            later.pairs_per_image,
            percent(later.share_with_pair),
            percent(later.share_near_duplicates),
        )
    };
    if let Some(choice) = &channel.proposed {
        row("<b>proposed</b>".into(), choice)?;
    }
    for other in &channel.others {
        row(format!("low at {} %", 100.0 * other.low_share.unwrap_or_default()), other)?;
    }
    row("in the config now".into(), &channel.now)?;
    out.push_str("</tbody>\n</table></div>\n");
    Ok(())
}

fn write_levels(
    out: &mut String,
    channel: &ChannelReport,
    sample: &Sample,
    picks: &[Vec<Pick>],
) -> Written {
    out.push_str("<div class=\"levels\">\n");
    for (level, picks) in channel.levels.iter().zip(picks).rev() {
        let middle = 0.5 * (level.from + level.to);
        let (class, role) = match channel.proposed.as_ref().map(|c| &c.bands) {
            Some(bands) if bands.last().is_some_and(|band| middle >= band.1) => {
                ("above", "near-duplicates")
            }
            Some(bands) if bands.first().is_some_and(|band| middle < band.0) => {
                ("below", "below the band")
            }
            Some(_) => ("within", "in the band"),
            None => ("unknown", ""),
        };
        write!(
            out,
            "<article class=\"level {class}\"><h3>{:.3} to {:.3} <b>{role}</b> <span>{} pairs in \
             the sample</span></h3>\n<div class=\"pairs\">\n",
            level.from,
            level.to.min(1.0),
            grouped(level.pairs),
        )?;
        if picks.is_empty() {
            out.push_str("<p class=\"none\">no pair to show at this level</p>\n");
        }
        for pick in picks {
            write_pair(out, channel.channel, sample, pick)?;
        }
        out.push_str("</div></article>\n");
    }
    out.push_str("</div>\n");
    Ok(())
}

fn write_pair(out: &mut String, channel: Channel, sample: &Sample, pick: &Pick) -> Written {
    out.push_str("<figure class=\"pair\"><div>");
    for image in [pick.query, pick.target] {
        let image = &sample.images[image];
        let text = image.caption.as_deref().unwrap_or(&image.id);
        write!(out, "<span title=\"{}\">", escape(text))?;
        write_image(out, image.thumb.as_deref().unwrap_or_default(), text)?;
        out.push_str("</span>");
    }
    out.push_str("</div><figcaption>");
    if channel == Channel::Caption {
        for image in [pick.query, pick.target] {
            let caption = sample.images[image].caption.as_deref().unwrap_or_default();
            write!(out, "<q dir=\"auto\">{}</q>", escape(caption))?;
        }
    }
    writeln!(out, "<b>{:.3}</b></figcaption></figure>", super::scores::cosine(pick.score))
}

fn write_method(out: &mut String) -> Written {
    out.push_str(
        "<section>\n<h2>How these numbers are made</h2>\n<p class=\"note\">A band's lower edge is \
         the 99.5 % quantile of the scores of all pairs in the sample, its upper edge the 5 % \
         quantile of scores between images and their mild copies: cropped by 3 %, 10 % brighter or \
         darker, JPEG of quality 60, through half the size and back; captions in other case, with \
         other marks, with a word less.</p>\n<p class=\"note\">Where the sample is the whole corpus \
         its yield is counted. For a larger corpus the number of others that an image has in its \
         band is taken to be negative binomial: the mean and the share of images with none are as \
         counted, and rates grow with the corpus. The text output shows the same estimate made from \
         a tenth of the sample beside what the sample has: that is how far to trust it.</p>\n\
         </section>\n",
    );
    Ok(())
}
