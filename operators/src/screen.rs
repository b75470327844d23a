//! screen: rules on single images. An image outside a limit is turned away with its value and the
//! limit, and counts like a tombstone. Keeps nothing.

#![expect(clippy::result_large_err, reason = "`Err` is the other stream here, not an error")]

use std::sync::Arc;

use schemas::{
    Epoch,
    config::Screen,
    reject::Reason,
    tables::{ContentRow, RejectRow},
};
use timely::dataflow::{StreamVec, operators::vec::Map};

use crate::{
    epochs::split,
    flow::{Arrival, Outcome},
};

/// Applies the rules. An image that breaks several is turned away for the first in the order of
/// [`schemas::reject::Reason`].
pub fn screen<'s>(
    arrivals: StreamVec<'s, Epoch, Arrival>,
    screen: Arc<Screen>,
) -> (StreamVec<'s, Epoch, Arrival>, StreamVec<'s, Epoch, RejectRow>) {
    let screened = arrivals.flat_map(move |mut arrival| {
        let mut reject = None;
        if let Outcome::Live(picture, _) = &arrival.outcome
            && let Some((reason, detail)) = fault(&picture.content, &screen)
        {
            let id = Some(&*arrival.image_id);
            reject = Some(RejectRow::message(reason, detail, id, &arrival.position));
            arrival.outcome = Outcome::Gone;
        }
        [Ok(arrival)].into_iter().chain(reject.map(Err))
    });
    split(screened, |arrival_or_reject| arrival_or_reject)
}

/// The first rule that the image breaks, with the value and the limit.
pub fn fault(content: &ContentRow, screen: &Screen) -> Option<(Reason, String)> {
    let m = &content.measures;
    let below = |what: &str, value: f64, least: f64| {
        (value < least).then(|| format!("{what} {value:.4} is under the limit of {least}"))
    };
    let above = |what: &str, value: f64, most: f64| {
        (value > most).then(|| format!("{what} {value:.4} is above the limit of {most}"))
    };
    let short = i64::from(content.width.min(content.height));
    let too_short = (short < i64::from(screen.side_min)).then(|| {
        let (width, height, least) = (content.width, content.height, screen.side_min);
        format!("the short side of {width} x {height} is under the limit of {least}")
    });
    // Rounding may put the brightest white a hair above 1, where the limit is off.
    let dark_end = (screen.dark_end_max < 1.0)
        .then(|| above("5th percentile of brightness", m.brightness_p05, screen.dark_end_max))
        .flatten();
    [
        (Reason::SideTooShort, too_short),
        (Reason::TooElongated, above("long side over short side", m.aspect, screen.aspect_max)),
        (Reason::Blurry, below("variance of the Laplacian", m.blur, screen.blur_min)),
        (Reason::LowEntropy, below("entropy", m.entropy, screen.entropy_min)),
        (
            Reason::TooDark,
            below("99th percentile of brightness", m.brightness_p99, screen.bright_end_min),
        ),
        (Reason::TooBright, dark_end),
    ]
    .into_iter()
    .find_map(|(reason, detail)| Some((reason, detail?)))
}

#[cfg(test)]
mod tests {
    use schemas::{
        reject::Stage,
        tables::{Measures, StoredImage},
    };

    use super::*;

    fn content() -> ContentRow {
        let measures = Measures {
            brightness_p05: 0.2,
            brightness_p99: 0.8,
            entropy: 5.0,
            blur: 100.0,
            aspect: 1.0,
            ..Measures::default()
        };
        ContentRow {
            content_id: String::new(),
            image: StoredImage { bytes: None, path: None },
            width: 100,
            height: 100,
            format: "png".into(),
            phash: String::new(),
            measures,
            epoch: 0,
        }
    }

    fn reason(change: impl Fn(&mut ContentRow)) -> Option<Reason> {
        let mut content = content();
        change(&mut content);
        let (reason, detail) = fault(&content, &Screen::default())?;
        assert!(detail.contains("limit of"), "{detail}");
        Some(reason)
    }

    #[test]
    fn each_rule_has_its_limit_and_the_limit_itself_passes() {
        let limits = Screen::default();
        assert_eq!(reason(|_| ()), None);
        assert_eq!(reason(|c| c.height = limits.side_min as i32), None);
        assert_eq!(reason(|c| c.height = limits.side_min as i32 - 1), Some(Reason::SideTooShort));
        assert_eq!(reason(|c| c.measures.aspect = limits.aspect_max), None);
        assert_eq!(reason(|c| c.measures.aspect = 3.1), Some(Reason::TooElongated));
        assert_eq!(reason(|c| c.measures.blur = limits.blur_min), None);
        assert_eq!(reason(|c| c.measures.blur = 9.9), Some(Reason::Blurry));
        assert_eq!(reason(|c| c.measures.entropy = limits.entropy_min), None);
        assert_eq!(reason(|c| c.measures.entropy = 0.4), Some(Reason::LowEntropy));
        assert_eq!(reason(|c| c.measures.brightness_p99 = limits.bright_end_min), None);
        assert_eq!(reason(|c| c.measures.brightness_p99 = 0.05), Some(Reason::TooDark));
        assert_eq!(reason(|c| c.measures.brightness_p05 = limits.dark_end_max), None);
        assert_eq!(reason(|c| c.measures.brightness_p05 = 0.995), Some(Reason::TooBright));
    }

    #[test]
    fn rules_can_be_off_and_come_in_the_order_of_reasons() {
        let off = Screen {
            side_min: 0,
            aspect_max: f64::INFINITY,
            blur_min: 0.0,
            entropy_min: 0.0,
            bright_end_min: 0.0,
            dark_end_max: 1.0,
            ..Screen::default()
        };
        let mut worst = content();
        worst.width = 1;
        worst.measures = Measures { aspect: 100.0, ..Measures::default() };
        assert_eq!(fault(&worst, &off), None);
        worst.measures.brightness_p05 = 1.0 + f64::EPSILON;
        assert_eq!(fault(&worst, &off), None);
        assert_eq!(fault(&worst, &Screen::default()).unwrap().0, Reason::SideTooShort);
        let screens = Reason::ALL.iter().filter(|r| r.stage() == Stage::Screen);
        assert!(screens.is_sorted());
    }
}
