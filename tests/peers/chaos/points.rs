//! Where a service can be killed: around every kind of request to its store.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    peers::faults::{Fault, When},
    place::Dice,
};

/// Every kind of request, and whether it changes anything.
pub const KINDS: [(&str, bool); 15] = [
    ("take the generation", true),
    ("claim of a table", true),
    ("commit of a memo", true),
    ("commit of a table", true),
    ("commit of images", true),
    ("data file", true),
    ("page of the epoch", true),
    ("latest.json", true),
    ("status.json", true),
    (STATE, true),
    ("request is done with", true),
    ("list names", false),
    ("read a page", false),
    ("read a log", false),
    ("read data", false),
];

/// A cache: where it is missing, a life with enough images writes it at once.
pub const STATE: &str = "state checkpoint";
/// Those of which a life has one, if any.
const ONCE: [&str; 3] = ["take the generation", STATE, "request is done with"];

/// What a request is for.
fn kind(method: &str, path: &str) -> Option<&'static str> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let write = method == "PUT";
    if method == "GET" && query.contains("list-type=") {
        return Some("list names");
    }
    if let Some((_, page)) = path.split_once("/_everpair/") {
        return match page.split('/').next()? {
            "generation" if write => Some("take the generation"),
            "latest.json" if write => Some("latest.json"),
            "status.json" if write => Some("status.json"),
            "epochs" if write => Some("page of the epoch"),
            "state" if write => Some(STATE),
            "requests" if method == "DELETE" => Some("request is done with"),
            _ if method == "GET" => Some("read a page"),
            _ => None,
        };
    }
    if let Some((table, log)) = path.split_once("/_delta_log/") {
        let commit = log.len() == "00000000000000000000.json".len() && log.ends_with(".json");
        return match table.rsplit('/').next()? {
            _ if method == "GET" => Some("read a log"),
            _ if !write || !commit => None,
            "images" => Some("commit of images"),
            "contents" | "embeddings" | "annotations" => Some("commit of a memo"),
            _ => Some("commit of a table"),
        };
    }
    match method {
        "PUT" => Some("data file"),
        "GET" if path.ends_with(".parquet") || path.contains("/_dv/") => Some("read data"),
        _ => None,
    }
}

/// The word for a moment.
pub fn word(when: When) -> &'static str {
    match when {
        When::Before => "before",
        When::After => "after",
        When::Late(_) => "long before",
    }
}

/// A request to kill at: its kind, which of them, and when.
#[derive(Clone, Copy, Debug)]
pub struct Aim {
    pub kind: &'static str,
    /// So many of the kind pass first.
    pub skip: usize,
    pub when: When,
}

/// What the proxy decides by: at most one kill for each life, and faults that are got over.
pub struct Trap {
    aim: Option<Aim>,
    /// The aim of this life was met.
    pub met: bool,
    /// Tables that this life has claimed.
    claimed: BTreeSet<String>,
    /// Requests of each kind.
    pub seen: BTreeMap<&'static str, usize>,
    /// Faults of each kind.
    pub faults: BTreeMap<String, usize>,
    dice: Dice,
}

impl Trap {
    pub fn new(seed: u64) -> Trap {
        let (seen, faults) = Default::default();
        Trap { aim: None, met: false, claimed: BTreeSet::new(), seen, faults, dice: Dice(seed) }
    }

    /// A new life begins.
    pub fn set(&mut self, aim: Option<Aim>) {
        self.aim = aim;
        self.met = false;
        self.claimed.clear();
    }

    /// What happens to a request.
    pub fn decide(&mut self, method: &str, path: &str) -> Fault {
        let mut kind = kind(method, path);
        if let (Some(name), Some((table, _))) = (&mut kind, path.split_once("/_delta_log/"))
            && name.starts_with("commit")
            && self.claimed.insert(table.to_owned())
        {
            *name = "claim of a table";
        }
        if let Some(kind) = kind {
            *self.seen.entry(kind).or_default() += 1;
        }
        if let Some(aim) = &mut self.aim
            && kind == Some(aim.kind)
        {
            if aim.skip == 0 {
                let when = aim.when;
                self.aim = None;
                self.met = true;
                return Fault::Killed(when);
            }
            aim.skip -= 1;
        }
        let fault = match self.dice.below(200) {
            0..3 => Fault::Refused(503),
            3 => Fault::Refused(500),
            4 | 5 => Fault::Lied(500),
            6 | 7 => Fault::Broken,
            8 => Fault::Slow(Duration::from_millis(300)),
            _ => return Fault::None,
        };
        *self.faults.entry(format!("{fault:?}")).or_default() += 1;
        fault
    }
}

/// How often each point was hit.
pub struct Coverage {
    hits: BTreeMap<(&'static str, &'static str), usize>,
    order: Vec<(&'static str, When)>,
    pub at_random: usize,
    dice: Dice,
}

impl Coverage {
    /// In an order of its own for each seed, but for the most telling, which come first.
    pub fn new(seed: u64) -> Coverage {
        let mut dice = Dice(seed);
        let late = When::Late(Duration::ZERO);
        let mut order = vec![
            ("commit of images", When::After),
            ("commit of a table", When::Before),
            ("request is done with", When::Before),
            ("claim of a table", late),
            ("commit of images", late),
            ("latest.json", When::Before),
            ("commit of a memo", When::After),
        ];
        let mut rest = Vec::new();
        for (kind, changes) in KINDS {
            for when in [When::Before, When::After, late] {
                let known = order.contains(&(kind, when));
                if !known && (changes || when == When::Before) {
                    rest.push((kind, when));
                }
            }
        }
        while !rest.is_empty() {
            order.push(rest.swap_remove(dice.below(rest.len())));
        }
        Coverage { hits: BTreeMap::new(), order, at_random: 0, dice }
    }

    /// Where to kill next: at a point that was hit least often, of those tried least lately. `states`:
    /// the life will write a state checkpoint, which few do, so that comes first.
    pub fn aim(&mut self, states: bool) -> Aim {
        let rank = |(kind, when): &(&'static str, When)| {
            let hits = self.hits.get(&(*kind, word(*when))).copied().unwrap_or(0);
            let rare = *kind == STATE;
            (rare && !states, hits, !rare)
        };
        let least = self.order.iter().map(rank).min();
        let at = self.order.iter().position(|point| Some(rank(point)) == least).unwrap_or(0);
        let (kind, when) = self.order.remove(at);
        self.order.push((kind, when));
        let when = match when {
            When::Late(_) => When::Late(Duration::from_millis(100 + self.dice.below(4_000) as u64)),
            other => other,
        };
        let once = ONCE.contains(&kind);
        Aim { kind, skip: if once { 0 } else { self.dice.below(2) }, when }
    }

    pub fn hit(&mut self, aim: &Aim) {
        *self.hits.entry((aim.kind, word(aim.when))).or_default() += 1;
    }

    /// How many points were hit.
    pub fn points(&self) -> usize {
        self.hits.len()
    }

    /// Points that were never hit.
    pub fn missing(&self) -> Vec<(&'static str, &'static str)> {
        let points = self.order.iter().map(|(kind, when)| (*kind, word(*when)));
        points.filter(|point| !self.hits.contains_key(point)).collect()
    }

    /// A line for each kind.
    pub fn print(&self) {
        for (kind, _) in KINDS {
            let of = |when| self.hits.get(&(kind, when)).copied().unwrap_or(0);
            println!(
                "{kind:>22}: killed {} times before, {} after, {} long before it",
                of("before"),
                of("after"),
                of("long before")
            );
        }
        println!("{:>22}: {}", "at random instants", self.at_random);
    }
}
