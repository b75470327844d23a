//! What differs between two pictures by their measurements.

use kernels::measure::color_name;
use schemas::tables::Measures;

use super::{Difference, Looked, listed, template::Comparison};

/// Below this part of a noticeable step nobody sees a difference.
const VISIBLE: f64 = 0.05;

/// One measured property: the step from query to target in noticeable steps, and its words.
struct Step {
    size: f64,
    difference: Difference,
}

/// Compares two pictures, the most noticeable difference first.
pub(super) fn compare(query: &Looked, target: &Looked) -> Comparison {
    let mut steps: Vec<Step> = properties(query, target)
        .into_iter()
        .map(|p| Step { size: p.step.abs(), difference: p.words() })
        .chain(tone(&query.0, &target.0))
        .filter(|step| step.size.is_finite() && step.size >= VISIBLE)
        .collect();
    // The sort is stable: equal steps stay in the order above.
    steps.sort_by(|a, b| b.size.total_cmp(&a.size));
    // Beside a plain difference a faint one is noise.
    let plain = steps.iter().filter(|step| step.size >= 1.0).count();
    steps.truncate(plain.max(1));
    let differences = steps.into_iter().map(|step| step.difference).collect();
    Comparison { both: Some(both(query, target)), differences }
}

/// A property with a direction: `more` where the target has more of it, else `less`.
struct Property {
    /// Target minus query, in noticeable steps.
    step: f64,
    /// What it is said of: "it", "the colours".
    of: &'static str,
    more: &'static str,
    less: &'static str,
    /// More and less of it after "the same, but"; `{}` is where "slightly " goes.
    but: [&'static str; 2],
}

impl Property {
    fn words(&self) -> Difference {
        let faint = if self.step.abs() < 1.0 { "slightly " } else { "" };
        let (now, then) = match self.step > 0.0 {
            true => (self.more, self.less),
            false => (self.less, self.more),
        };
        let but = if self.step > 0.0 { self.but[0] } else { self.but[1] };
        let of = self.of;
        let (are, were) = if of.ends_with('s') { ("are", "were") } else { ("is", "were") };
        let subject = |adjective: &str| match of {
            "it" => format!("is {faint}{adjective}"),
            "the scene" | "the format" => {
                format!("has a {faint}{adjective} {}", of.trim_start_matches("the "))
            }
            _ => format!("has {faint}{adjective} {}", of.trim_start_matches("the ")),
        };
        Difference {
            order: format!("make {of} {faint}{now}"),
            but: but.replace("{}", faint),
            holds: format!("{of} {are} {faint}{now}"),
            asked: format!("{of} {were} {faint}{now}"),
            query: subject(then),
            target: subject(now),
        }
    }
}

/// All but the colour. The divisors are what one notices side by side.
fn properties(query: &Looked, target: &Looked) -> [Property; 7] {
    let ((q, q_size), (t, t_size)) = (query, target);
    let log_ratio = |a: f64, b: f64| (a.max(1.0) / b.max(1.0)).ln();
    let area = |(w, h): &(i32, i32)| f64::from(*w) * f64::from(*h);
    let shape = |(w, h): &(i32, i32)| f64::from(*w) / f64::from(*h).max(1.0);
    let property = |step: f64, of, [more, less]: [&'static str; 2], but| Property {
        step,
        of,
        more,
        less,
        but,
    };
    let [light, colour, detail, contrast, edges, size, format] = [
        ["with {}more light", "with {}less light"],
        ["in {}stronger colours", "in {}paler colours"],
        ["with {}more going on", "with {}less going on"],
        ["with {}stronger contrasts", "with {}weaker contrasts"],
        ["with {}crisper lines", "with {}blurrier lines"],
        ["at a {}higher resolution", "at a {}lower resolution"],
        ["in a {}wider format", "in a {}taller format"],
    ];
    let [q_shape, t_shape] = [shape(q_size), shape(t_size)].map(|s| s.max(1e-6));
    [
        property((t.brightness - q.brightness) / 0.06, "it", ["brighter", "darker"], light),
        property(
            (t.colorfulness - q.colorfulness) / 8.0,
            "the colours",
            ["stronger", "paler"],
            colour,
        ),
        property((t.entropy - q.entropy) / 0.5, "the scene", ["busier", "plainer"], detail),
        property((t.contrast - q.contrast) / 0.04, "the shadows", ["deeper", "softer"], contrast),
        property(log_ratio(t.blur, q.blur) / 0.5, "the edges", ["sharper", "softer"], edges),
        property(log_ratio(area(t_size), area(q_size)) / 0.4, "it", ["larger", "smaller"], size),
        property((t_shape / q_shape).ln() / 0.15, "the format", ["wider", "taller"], format),
    ]
}

/// The overall colour, where its name differs.
fn tone(query: &Measures, target: &Measures) -> Option<Step> {
    let rgb = |m: &Measures| [m.red, m.green, m.blue];
    let name = |m| color_name(rgb(m).map(|c| c.round().clamp(0.0, 255.0) as u8));
    let (was, now) = (name(query), name(target));
    let squares = rgb(query).into_iter().zip(rgb(target)).map(|(a, b)| (a - b) * (a - b));
    let a = |color: &str| {
        let article = if color.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
        format!("{article} {color}")
    };
    (was != now).then(|| Step {
        // A name that changes at a boundary is no difference by itself; 30 of 255 is.
        size: squares.sum::<f64>().sqrt() / 30.0,
        difference: Difference {
            order: format!("turn the overall colour from {was} to {now}"),
            but: format!("in {} tone instead of {} one", a(now), a(was)),
            holds: format!("the overall colour is {now} rather than {was}"),
            asked: format!("the overall colour were {now}"),
            query: format!("is {was} overall"),
            target: format!("is {now} overall"),
        },
    })
}

/// What two pictures plainly share.
pub(super) fn both(query: &Looked, target: &Looked) -> String {
    let format = |(_, (w, h)): &Looked| match f64::from(*w) / f64::from(*h).max(1.0) {
        ..0.95 => "upright",
        0.95..1.05 => "square",
        _ => "wide",
    };
    let light = |(m, _): &Looked| match m.brightness {
        ..0.35 => "dark",
        0.35..0.65 => "of middling brightness",
        _ => "bright",
    };
    let colors = |(m, _): &Looked| if m.colorfulness < 15.0 { "muted" } else { "colourful" };
    let mut shared = Vec::new();
    for of in [format as fn(&Looked) -> &'static str, light, colors] {
        if of(query) == of(target) {
            shared.push(of(query).to_owned());
        }
    }
    if shared.is_empty() { "are pictures".into() } else { format!("are {}", listed(&shared)) }
}
