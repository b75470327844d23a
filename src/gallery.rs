//! The dataset as a page to look at: one HTML file with everything in it, no script and no request.

use std::fmt::Write as _;

use base64::Engine as _;
use kernels::decode::Format;

pub mod command;
pub mod read;

/// An image on the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// The image id.
    pub id: String,
    /// Its caption, if it has one.
    pub caption: Option<String>,
    /// A model wrote it.
    pub written: bool,
    /// An encoded JPEG, PNG, WebP or GIF file; anything else shows as a grey field.
    pub bytes: Vec<u8>,
}

/// A way to ask for the target, given the query, and what an audit says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instruction {
    /// What it says.
    pub text: String,
    /// The audit's label; empty where there was none.
    pub label: String,
    /// The target's rank by the text alone, the query image alone, and both.
    pub ranks: [Option<i32>; 3],
    /// What a judge has said of it; none where there was none.
    pub verdict: Option<String>,
}

/// An instruction of the same answer that was not fit to train on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// What it says.
    pub text: String,
    /// One of the closed set of reasons, or empty.
    pub reason: String,
    /// The value and the limit, in words.
    pub detail: String,
}

/// One triplet, or an answer that made none.
#[derive(Clone, Debug, PartialEq)]
pub struct GalleryRow {
    /// The image one starts from.
    pub query: Picture,
    /// Those that are fit to train on.
    pub instructions: Vec<Instruction>,
    /// Those that are not.
    pub left_out: Vec<LeftOut>,
    /// Why there is no triplet, where there is none.
    pub why_none: Option<String>,
    /// The image that is asked for.
    pub target: Picture,
    /// Images that are like the target and not what is asked for, hardest first.
    pub negatives: Vec<Picture>,
    /// Each channel with its cosine of query and target, −1 to 1, where both have vectors.
    pub scores: Vec<(String, Option<f64>)>,
    /// The channels, of those above, that proposed the pair.
    pub proposed_by: Vec<String>,
    /// What the two images have in common and where they differ.
    pub description: Option<String>,
    /// Who wrote the instructions.
    pub model: String,
    /// By which version of the prompt.
    pub prompt_version: i32,
    /// What that cost in dollars, with the share of the description.
    pub cost_usd: Option<f64>,
}

/// Something that was turned away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The image id, where it could be read.
    pub image_id: Option<String>,
    /// The box that turned it away.
    pub stage: String,
    /// One of the closed set of reasons.
    pub reason: String,
    /// The value and the limit, in words.
    pub detail: String,
    /// The encoded image, if it is one.
    pub picture: Option<Vec<u8>>,
}

/// Everything on the page, as plain text: what HTML means by `<` and `&` is escaped here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GalleryPage {
    /// The headline.
    pub title: String,
    /// One or two sentences under the headline.
    pub subtitle: String,
    /// Numbers: label, and value as it shall be read.
    pub summary: Vec<(String, String)>,
    /// What happened, in order: heading, and text.
    pub story: Vec<(String, String)>,
    /// The first one is shown large.
    pub triplets: Vec<GalleryRow>,
    /// Answers that made no triplet.
    pub turned_away: Vec<GalleryRow>,
    /// What was turned away.
    pub rejects: Vec<Reject>,
    /// The command that queries the tables.
    pub duckdb: String,
    /// How to go on: what for, and the command.
    pub next_steps: Vec<(String, String)>,
    /// A line at the foot: what to keep in mind about what is shown.
    pub footnote: String,
}

/// The page as one HTML file.
pub fn render(page: &GalleryPage) -> String {
    let mut html = String::with_capacity(1 << 20);
    write_page(&mut html, page).expect("writing to a string cannot fail");
    html
}

type Written = std::fmt::Result;

fn write_page(out: &mut String, page: &GalleryPage) -> Written {
    // The policy forbids what the page does not need: a text that slipped through could not run.
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n\
         <title>{}</title>\n<style>\n{}</style>\n</head>\n<body>\n",
        escape(&page.title),
        include_str!("gallery/style.css"),
    )?;
    write_head(out, page)?;
    out.push_str("<main>\n");
    write_summary(out, &page.summary)?;
    write_triplets(out, page.triplets.get(1..).unwrap_or_default())?;
    write_turned_away(out, &page.turned_away)?;
    write_story(out, &page.story)?;
    write_rejects(out, &page.rejects)?;
    write_commands(out, page)?;
    write!(out, "</main>\n<footer><p>{}</p></footer>\n</body>\n</html>\n", escape(&page.footnote))
}

fn write_head(out: &mut String, page: &GalleryPage) -> Written {
    write!(
        out,
        "<header class=\"top\">\n<p class=\"mark\">everpair</p>\n<h1>{}</h1>\n\
         <p class=\"lead\">{}</p>\n</header>\n",
        escape(&page.title),
        escape(&page.subtitle),
    )?;
    if let Some(first) = page.triplets.first() {
        out.push_str("<section class=\"first\" aria-label=\"One triplet, large\">\n");
        write_triplet(out, first)?;
        out.push_str("</section>\n");
    }
    Ok(())
}

fn write_summary(out: &mut String, summary: &[(String, String)]) -> Written {
    if summary.is_empty() {
        return Ok(());
    }
    out.push_str("<dl class=\"numbers\">\n");
    for (label, value) in summary {
        writeln!(out, "<div><dt>{}</dt><dd>{}</dd></div>", escape(label), escape(value))?;
    }
    out.push_str("</dl>\n");
    Ok(())
}

fn write_triplets(out: &mut String, triplets: &[GalleryRow]) -> Written {
    if triplets.is_empty() {
        return Ok(());
    }
    out.push_str(
        "<section>\n<h2>Triplets</h2>\n<p class=\"note\">Start from the image on the left, follow \
         the instruction, arrive at the image on the right. The small ones are hard negatives: as \
         like as a neighbour is, and not what was asked for. Bars are cosines, one per channel; a \
         filled one proposed the pair.</p>\n<div class=\"triplets\">\n",
    );
    for triplet in triplets {
        write_triplet(out, triplet)?;
    }
    out.push_str("</div>\n</section>\n");
    Ok(())
}

fn write_turned_away(out: &mut String, answers: &[GalleryRow]) -> Written {
    if answers.is_empty() {
        return Ok(());
    }
    out.push_str(
        "<section>\n<h2>Answers that made no triplet</h2>\n<p class=\"note\">Too few of their \
         instructions were fit to train on. What is struck out broke a rule of \
         <code>[filter]</code>; it was paid for and stays in <code>annotations</code>, and other \
         rules would be applied to it without asking again.</p>\n<div class=\"triplets\">\n",
    );
    for row in answers {
        write_triplet(out, row)?;
    }
    out.push_str("</div>\n</section>\n");
    Ok(())
}

fn write_instructions(out: &mut String, row: &GalleryRow) -> Written {
    for Instruction { text, label, ranks, verdict } in &row.instructions {
        write!(out, "<p class=\"bubble\" dir=\"auto\">{}", escape(text))?;
        let rank = |name: &str, rank: Option<i32>| rank.map(|rank| format!("{name} {rank}"));
        let [by_text, by_image, by_both] = *ranks;
        let ranks = [rank("text", by_text), rank("image", by_image), rank("both", by_both)];
        let ranks: Vec<String> = ranks.into_iter().flatten().collect();
        // Of what nobody has looked at there is nothing to say.
        if !ranks.is_empty() {
            write!(
                out,
                "<small class=\"audit\" title=\"the target's rank by each\"><b>{}</b> {}</small>",
                escape(label),
                escape(&ranks.join(", "))
            )?;
        }
        if let Some(verdict) = verdict {
            write!(
                out,
                "<small class=\"audit\" title=\"what a judge chose of two looks\">judge: <b>{}</b>\
                 </small>",
                escape(verdict)
            )?;
        }
        out.push_str("</p>\n");
    }
    for LeftOut { text, reason, detail } in &row.left_out {
        write!(out, "<p class=\"bubble out\"><s dir=\"auto\">{}</s>", escape(text))?;
        if !reason.is_empty() {
            let (reason, detail) = (escape(reason), escape(detail));
            write!(out, "<small><span class=\"reason\">{reason}</span> {detail}</small>")?;
        }
        out.push_str("</p>\n");
    }
    Ok(())
}

fn write_triplet(out: &mut String, row: &GalleryRow) -> Written {
    out.push_str("<article class=\"triplet\">\n<div class=\"walk\">\n");
    write_picture(out, &row.query, "query")?;
    out.push_str("<div class=\"says\">\n");
    write_instructions(out, row)?;
    out.push_str("<span class=\"arrow\" aria-hidden=\"true\"></span>\n</div>\n");
    write_picture(out, &row.target, "target")?;
    out.push_str("</div>\n<div class=\"under\">\n");
    if !row.negatives.is_empty() {
        out.push_str("<div class=\"negatives\"><h3>Hard negatives</h3><ul>");
        for negative in &row.negatives {
            let title = negative.caption.as_deref().map(str::trim).filter(|c| !c.is_empty());
            let by = if title.is_some() && negative.written { " (generated)" } else { "" };
            let title = title.unwrap_or(&negative.id);
            write!(out, "<li title=\"{}{by}\">", escape(title))?;
            write_image(out, &negative.bytes, title)?;
            out.push_str("</li>");
        }
        out.push_str("</ul></div>\n");
    }
    if !row.scores.is_empty() {
        write_scores(out, row)?;
    }
    out.push_str("</div>\n<p class=\"about\">");
    if let Some(why) = &row.why_none {
        write!(out, "<strong>No triplet: {}.</strong> ", escape(why))?;
    }
    if let Some(description) = &row.description {
        write!(out, "<span dir=\"auto\">{}</span> ", escape(description))?;
    }
    let (model, version) = (escape(&row.model), row.prompt_version);
    write!(out, "<span class=\"model\">{model}, prompt {version}")?;
    if let Some(cost) = row.cost_usd {
        write!(out, ", ${cost:.5}")?;
    }
    out.push_str("</span></p>\n</article>\n");
    Ok(())
}

fn write_picture(out: &mut String, picture: &Picture, role: &str) -> Written {
    let caption = picture.caption.as_deref().map(str::trim).filter(|c| !c.is_empty());
    write!(out, "<figure class=\"{role}\">")?;
    write_image(out, &picture.bytes, caption.unwrap_or(&picture.id))?;
    write!(out, "<figcaption><b>{role}</b> ")?;
    match caption {
        Some(caption) => {
            write!(out, "<span dir=\"auto\">{}</span>", escape(caption))?;
            if picture.written {
                out.push_str(" <i>(generated)</i>");
            }
        }
        None => out.push_str("<i>no caption</i>"),
    }
    writeln!(out, "<code>{}</code></figcaption></figure>", escape(&picture.id))
}

pub(crate) fn write_image(out: &mut String, bytes: &[u8], text: &str) -> Written {
    let Some(format) = Format::of(bytes) else {
        return write!(
            out,
            "<span class=\"hole\" role=\"img\" aria-label=\"{}\"></span>",
            escape(text)
        );
    };
    write!(out, "<img alt=\"{}\" src=\"data:image/{};base64,", escape(text), format.as_str())?;
    base64::engine::general_purpose::STANDARD.encode_string(bytes, out);
    out.push_str("\">");
    Ok(())
}

fn write_scores(out: &mut String, row: &GalleryRow) -> Written {
    out.push_str("<dl class=\"scores\">");
    for (channel, score) in &row.scores {
        let proposed = row.proposed_by.contains(channel);
        let (class, said) =
            if proposed { (" class=\"proposed\"", "proposed the pair") } else { ("", "") };
        write!(out, "<div{class} title=\"{said}\"><dt>{}</dt><dd>", escape(channel))?;
        match score.filter(|s| s.is_finite()) {
            Some(score) => {
                let width = 100.0 * score.clamp(0.0, 1.0);
                write!(out, "<i style=\"--w:{width:.1}%\"></i><span>{score:.3}</span>")?;
            }
            None => out.push_str("<i style=\"--w:0%\"></i><span>none</span>"),
        }
        out.push_str("</dd></div>");
    }
    out.push_str("</dl>\n");
    Ok(())
}

fn write_story(out: &mut String, story: &[(String, String)]) -> Written {
    if story.is_empty() {
        return Ok(());
    }
    out.push_str("<section>\n<h2>What just happened</h2>\n<ol class=\"story\">\n");
    for (heading, text) in story {
        writeln!(out, "<li><h3>{}</h3><p>{}</p></li>", escape(heading), escape(text))?;
    }
    out.push_str("</ol>\n</section>\n");
    Ok(())
}

fn write_rejects(out: &mut String, rejects: &[Reject]) -> Written {
    if rejects.is_empty() {
        return Ok(());
    }
    out.push_str(
        "<section>\n<h2>Turned away</h2>\n<p class=\"note\">Nothing stops the stream and nothing \
         disappears: what cannot be used is a row of <code>rejects</code>, with its reason and its \
         offset.</p>\n<div class=\"scroll\"><table>\n<thead><tr><th><span class=\"unseen\">Picture\
         </span></th><th>Image</th><th>Stage</th><th>Reason</th><th>Detail</th></tr></thead>\n<tbody>\n",
    );
    for reject in rejects {
        out.push_str("<tr><td class=\"thumb\">");
        let id = reject.image_id.as_deref();
        write_image(out, reject.picture.as_deref().unwrap_or_default(), id.unwrap_or("no id"))?;
        match id {
            Some(id) => write!(out, "</td><td><code>{}</code></td>", escape(id))?,
            None => out.push_str("</td><td><i>no id</i></td>"),
        }
        let (stage, reason, detail) =
            (escape(&reject.stage), escape(&reject.reason), escape(&reject.detail));
        writeln!(
            out,
            "<td>{stage}</td><td><span class=\"reason\">{reason}</span></td><td>{detail}</td></tr>"
        )?;
    }
    out.push_str("</tbody>\n</table></div>\n</section>\n");
    Ok(())
}

fn write_commands(out: &mut String, page: &GalleryPage) -> Written {
    if !page.duckdb.is_empty() {
        write!(
            out,
            "<section>\n<h2>Query it</h2>\n<p class=\"note\">These are Delta tables, open to DuckDB, \
             Spark and polars while they grow.</p>\n<pre><code>{}</code></pre>\n</section>\n",
            escape(&page.duckdb),
        )?;
    }
    if !page.next_steps.is_empty() {
        out.push_str("<section>\n<h2>Now with your own images</h2>\n<ol class=\"steps\">\n");
        for (what, command) in &page.next_steps {
            write!(out, "<li><p>{}</p>", escape(what))?;
            if !command.is_empty() {
                write!(out, "<pre><code>{}</code></pre>", escape(command))?;
            }
            out.push_str("</li>\n");
        }
        out.push_str("</ol>\n</section>\n");
    }
    Ok(())
}

/// Text as HTML, in elements and in quoted attributes; control characters become a visible mark.
pub(crate) fn escape(text: &str) -> String {
    let mut html = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            '\n' | '\t' => html.push(c),
            c if c.is_control() => html.push('\u{fffd}'),
            c => html.push(c),
        }
    }
    html
}

#[cfg(test)]
mod tests;
