//! What differs between two pictures by their captions: things are compared, not letters.

use super::{
    Difference, listed,
    phrases::{Thing, things},
    template::Comparison,
};

/// Shared things that a description names at most.
const SHARED_MAX: usize = 3;

/// Compares two captions, the most telling difference first: other things, then things that are
/// otherwise placed, then things that came or went. Nothing differs if they name the same things.
pub(super) fn compare(query: &str, target: &str) -> Comparison {
    let (mut went, came) = (things(query), things(target));
    let mut shared: Vec<(Thing, Thing)> = Vec::new();
    let mut came: Vec<Thing> = take_pairs(&mut went, came, &mut shared, |q, t| q.key() == t.key());
    let mut replaced = Vec::new();
    came = take_pairs(&mut went, came, &mut replaced, |q, t| q.kind() == t.kind());
    came = take_pairs(&mut went, came, &mut replaced, |q, t| singular(q) == singular(t));
    came = take_pairs(&mut went, came, &mut replaced, |q, t| q.before == t.before);
    // What is left is paired from the end, where captions name the surroundings.
    went.reverse();
    came.reverse();
    came = take_pairs(&mut went, came, &mut replaced, |_, _| true);
    went.reverse();
    came.reverse();
    let mut differences: Vec<Difference> =
        replaced.iter().map(|(q, t)| recoloured(q, t).unwrap_or_else(|| swapped(q, t))).collect();
    let named = things(target);
    differences.extend(shared.iter().filter_map(|(q, t)| placed(q, t, &named)));
    differences.extend(came.iter().map(added));
    differences.extend(went.iter().map(removed));
    let both: Vec<String> = shared.iter().take(SHARED_MAX).map(|(_, t)| t.indefinite()).collect();
    let both = if both.is_empty() { None } else { Some(format!("show {}", listed(&both))) };
    Comparison { both, differences }
}

/// Moves the first match of each of `came` out of `went` into `pairs`; gives back the rest.
fn take_pairs(
    went: &mut Vec<Thing>,
    came: Vec<Thing>,
    pairs: &mut Vec<(Thing, Thing)>,
    alike: impl Fn(&Thing, &Thing) -> bool,
) -> Vec<Thing> {
    let mut rest = Vec::new();
    for thing in came {
        match went.iter().position(|other| alike(other, &thing)) {
            Some(i) => pairs.push((went.remove(i), thing)),
            None => rest.push(thing),
        }
    }
    rest
}

fn singular(thing: &Thing) -> String {
    let head = thing.head().to_lowercase();
    head.strip_suffix('s').map_or(head.clone(), |stem| stem.to_owned())
}

fn is(thing: &Thing) -> &'static str {
    if thing.plural() { "are" } else { "is" }
}

/// The same noun with other plain adjectives: "make the circle red".
fn recoloured(query: &Thing, target: &Thing) -> Option<Difference> {
    if query.head() != target.head() {
        return None;
    }
    let only = |a: &Thing, b: &Thing| -> Vec<String> {
        a.words.iter().filter(|w| !b.words.contains(w)).cloned().collect()
    };
    let (was, now) = (only(query, target), only(target, query));
    let plain = |words: &[String]| {
        !words.is_empty() && words.iter().all(|w| ADJECTIVES.contains(&w.as_str()))
    };
    if !plain(&was) || !plain(&now) || was.len() != now.len() {
        return None;
    }
    let (was, now, head) = (was.join(" "), now.join(" "), target.head());
    let (is, the) = (is(target), format!("the {head}"));
    Some(Difference {
        order: format!("make {the} {now} instead of {was}"),
        but: format!("with {} instead of {}", target.indefinite(), ones(&was, query)),
        holds: format!("{the} {is} {now}, not {was}"),
        asked: format!("{the} were {now}"),
        query: format!("has {}", query.indefinite()),
        target: format!("has {}", target.indefinite()),
    })
}

/// "a blue one", "blue ones".
fn ones(adjective: &str, thing: &Thing) -> String {
    if thing.plural() {
        return format!("{adjective} ones");
    }
    let vowel = adjective.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {adjective} one", if vowel { "an" } else { "a" })
}

fn swapped(query: &Thing, target: &Thing) -> Difference {
    let (old, mut new) = (query.definite(), target.indefinite());
    if !target.after.is_empty() && target.after != query.after {
        new = format!("{new} {}", target.after);
    }
    Difference {
        order: format!("replace {old} with {new}"),
        but: format!("with {new} instead of {old}"),
        holds: format!("there {} {new} and no {}", is(target), query.bare()),
        asked: format!("there were {new} in place of {old}"),
        query: format!("has {}", query.indefinite()),
        target: format!("has {new}"),
    }
}

fn added(thing: &Thing) -> Difference {
    let new = thing.indefinite();
    Difference {
        order: format!("add {new}"),
        but: format!("with {new} as well"),
        holds: format!("there {} also {new}", is(thing)),
        asked: format!("there were also {new}"),
        query: format!("has no {}", thing.bare()),
        target: format!("has {new}"),
    }
}

fn removed(thing: &Thing) -> Difference {
    let old = thing.definite();
    Difference {
        order: format!("remove {old}"),
        but: format!("without {old}"),
        holds: format!("there {} no {}", is(thing), thing.bare()),
        asked: format!("{old} were gone"),
        query: format!("has {}", thing.indefinite()),
        target: format!("has no {}", thing.bare()),
    }
}

/// The same thing, otherwise placed or doing something else.
fn placed(query: &Thing, target: &Thing, named: &[Thing]) -> Option<Difference> {
    if !target.after.is_empty() && query.after != target.after {
        let (thing, now, was) = (target.definite(), &target.after, &query.after);
        let not = if was.is_empty() { String::new() } else { format!(" rather than {was}") };
        return Some(Difference {
            order: format!("show {thing} {now}{not}"),
            but: format!("with {thing} {now}"),
            holds: format!("{thing} {} {now}{not}", is(target)),
            asked: format!("{thing} were {now}"),
            query: match was.is_empty() {
                true => format!("just has {}", target.indefinite()),
                false => format!("has {} {was}", target.indefinite()),
            },
            target: format!("has {} {now}", target.indefinite()),
        });
    }
    let (now, was) = (&target.before, &query.before);
    if now == was || now.is_empty() || was.is_empty() {
        return None;
    }
    let at = named.iter().position(|thing| thing == target)?;
    let other = named.get(at.checked_sub(1)?)?;
    let (thing, place) = (other.definite(), target.definite());
    Some(Difference {
        order: format!("put {thing} {now} {place} instead of {was} it"),
        but: format!("with {thing} {now} {place}"),
        holds: format!("{thing} {} {now} {place}", is(other)),
        asked: format!("{thing} were {now} {place}"),
        query: format!("has {} {was} {place}", other.indefinite()),
        target: format!("has {} {now} {place}", other.indefinite()),
    })
}

/// Words that stand after "is" as well as before a noun.
const ADJECTIVES: [&str; 72] = [
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
    "black",
    "white",
    "grey",
    "gray",
    "teal",
    "cyan",
    "magenta",
    "violet",
    "turquoise",
    "golden",
    "silver",
    "beige",
    "dark",
    "bright",
    "pale",
    "light",
    "colourful",
    "colorful",
    "small",
    "large",
    "big",
    "tiny",
    "huge",
    "little",
    "tall",
    "short",
    "long",
    "wide",
    "narrow",
    "round",
    "square",
    "flat",
    "striped",
    "dotted",
    "checkered",
    "plain",
    "spotted",
    "wooden",
    "metal",
    "wet",
    "dry",
    "open",
    "closed",
    "empty",
    "full",
    "old",
    "young",
    "new",
    "sunny",
    "cloudy",
    "rainy",
    "snowy",
    "fading",
    "shiny",
    "lime",
    "navy",
    "sky",
    "cream",
    "mint",
    "lavender",
    "rose",
    "sand",
    "peach",
    "charcoal",
];
