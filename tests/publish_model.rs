//! A model of how epochs become real, small enough to be put through any order of steps of two
//! writers: each step is one call to a store, of which an answer may be lost, which may happen
//! late, and after which the writer may be dead. The decisions are those of the service itself.

use everpair::delta::decide::{
    Admit, Answer, Attempt, Claim, Found, Resume, admit, attempt, claim, latest_lags, plan, resume,
};
use proptest::prelude::*;

const MESSAGES: u64 = 12;
/// Tables in the order of their commits: a memo, two that follow the messages, the anchor.
const TABLES: usize = 4;
const MEMO: usize = 0;
const PAIRS: usize = 1;
const CHANGES: usize = 2;
const ANCHOR: usize = 3;
/// The order of claims on start.
const CLAIMS: [usize; TABLES] = [ANCHOR, MEMO, PAIRS, CHANGES];

/// One version of a table: what its commit left behind.
#[derive(Clone, Debug, Default, PartialEq)]
struct Version {
    /// Tells this commit from every other.
    id: u64,
    generation: u64,
    epoch: Option<u64>,
    /// Next offset; the anchor's only.
    next: u64,
    /// Epoch and message of each row.
    rows: Vec<(u64, u64)>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Latest {
    epoch: Option<u64>,
    versions: [usize; TABLES],
}

#[derive(Clone, Debug)]
enum Call {
    Generation(u64),
    Commit { table: usize, at: usize, version: Version },
    Latest(Latest),
}

#[derive(Default)]
struct World {
    generations: Vec<u64>,
    logs: [Vec<Version>; TABLES],
    latest: Latest,
    late: Vec<Call>,
    ids: u64,
}

impl World {
    /// A put that reaches the store.
    fn put(&mut self, call: Call) -> Answer {
        match call {
            Call::Generation(n) if self.generations.contains(&n) => return Answer::Exists,
            Call::Generation(n) => self.generations.push(n),
            Call::Commit { table, at, .. } if at < self.logs[table].len() => return Answer::Exists,
            Call::Commit { table, at, version } => {
                assert_eq!(at, self.logs[table].len(), "a commit leaves a hole in the log");
                self.logs[table].push(version);
            }
            Call::Latest(latest) => self.latest = latest,
        }
        Answer::Created
    }

    fn id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// What must hold at any moment, whatever has been started and not finished.
    fn check(&self) {
        // Facts that were paid for stay, also those of an epoch that never became real.
        if let [.., before, newest] = &self.logs[MEMO][..] {
            assert!(newest.rows.starts_with(&before.rows), "a memo forgets");
        }
        let of = |rows: &[(u64, u64)], epoch: u64| -> Vec<u64> {
            rows.iter().filter(|row| row.0 <= epoch).map(|row| row.1).collect()
        };
        if let Some(epoch) = self.latest.epoch {
            let at = |table: usize| &self.logs[table][self.latest.versions[table]];
            let next = at(ANCHOR).next;
            assert_eq!(at(ANCHOR).epoch, Some(epoch));
            assert_eq!(of(&at(CHANGES).rows, u64::MAX), oracle(CHANGES, next), "latest");
            assert_eq!(of(&at(PAIRS).rows, u64::MAX), oracle(PAIRS, next), "latest");
        }
        if let Some(anchor) = self.logs[ANCHOR].last()
            && let Some(epoch) = anchor.epoch
        {
            for table in [PAIRS, CHANGES] {
                let newest = self.logs[table].last().expect("claimed before the anchor's commit");
                assert_eq!(of(&newest.rows, epoch), oracle(table, anchor.next), "newest");
            }
        }
    }
}

/// Messages with a row in a table, of those below `next`, each once.
fn oracle(table: usize, next: u64) -> Vec<u64> {
    (0..next).filter(|message| has_row(table, *message)).collect()
}

/// Of some messages no table has anything: they move the offset alone.
fn has_row(table: usize, message: u64) -> bool {
    message % 4 != 1 && (table != PAIRS || message.is_multiple_of(3))
}

#[derive(Clone, Copy, Debug)]
enum Outcome {
    Normal,
    Lost,
    Unreported,
    Late,
}

/// What a writer does next; each is one call.
#[derive(Clone, Debug)]
enum Step {
    ListGenerations,
    TakeGeneration(u64),
    Read(usize),
    Put { table: usize, at: usize, version: Version, then: Then },
    Look { table: usize, at: usize, version: Version, then: Then, answer: Answer },
    ReadLatest,
    WriteLatest,
    Work,
}

#[derive(Clone, Copy, Debug)]
enum Then {
    Claimed(usize),
    Restored(usize),
    Committed(usize),
}

struct Writer {
    step: Step,
    generation: u64,
    cut: u64,
    /// Version numbers and versions as this writer knows them.
    held: [(usize, Version); TABLES],
    plan: Vec<usize>,
}

impl Writer {
    fn new(cut: u64) -> Writer {
        let (generation, held, plan) = (0, Default::default(), Vec::new());
        Writer { step: Step::ListGenerations, generation, cut, held, plan }
    }

    /// Makes one call. `false`: the writer has ended, with all work done or because it must.
    fn step(&mut self, world: &mut World, outcome: Outcome) -> bool {
        let next = match self.step.clone() {
            Step::ListGenerations => {
                Some(Step::TakeGeneration(world.generations.iter().max().unwrap_or(&0) + 1))
            }
            Step::TakeGeneration(n) => match call(world, Call::Generation(n), outcome) {
                Answer::Created => {
                    self.generation = n;
                    Some(Step::Read(0))
                }
                Answer::Exists => Some(Step::TakeGeneration(n + 1)),
                Answer::Failed => None,
            },
            Step::Read(claiming) => self.read(world, claiming),
            Step::Put { table, at, version, then } => {
                let commit = Call::Commit { table, at, version: version.clone() };
                match call(world, commit, outcome) {
                    Answer::Created => self.done(world, table, at, version, then),
                    answer => Some(Step::Look { table, at, version, then, answer }),
                }
            }
            Step::Look { table, at, version, then, answer } => {
                let found = match world.logs[table].get(at) {
                    None => Found::Nothing,
                    Some(there) if there.id == version.id => Found::Ours,
                    Some(_) => Found::Another,
                };
                match (attempt(answer, found), then) {
                    (Attempt::Committed, _) => self.done(world, table, at, version, then),
                    (Attempt::Taken, Then::Claimed(claiming)) => Some(Step::Read(claiming)),
                    _ => None,
                }
            }
            Step::ReadLatest => {
                let lags = latest_lags(self.held[ANCHOR].1.epoch, world.latest.epoch);
                Some(if lags { Step::WriteLatest } else { Step::Work })
            }
            Step::WriteLatest => {
                let epoch = self.held[ANCHOR].1.epoch;
                let versions = [0, 1, 2, 3].map(|table: usize| self.held[table].0);
                let answer = call(world, Call::Latest(Latest { epoch, versions }), outcome);
                (answer == Answer::Created).then_some(Step::Work)
            }
            Step::Work => self.work(world),
        };
        let goes_on = next.is_some();
        self.step = next.unwrap_or(Step::Work);
        goes_on
    }

    fn read(&self, world: &mut World, claiming: usize) -> Option<Step> {
        let table = CLAIMS[claiming];
        let newest = world.logs[table].last().cloned();
        let held = newest.as_ref().map(|version| version.generation);
        match claim(held, self.generation) {
            Claim::Leave => None,
            Claim::Held => panic!("nobody else has our generation"),
            Claim::Write => {
                let (id, at, then) = (world.id(), world.logs[table].len(), Then::Claimed(claiming));
                let version =
                    Version { id, generation: self.generation, ..newest.unwrap_or_default() };
                Some(Step::Put { table, at, version, then })
            }
        }
    }

    /// A commit of ours is in the table.
    fn done(
        &mut self,
        world: &mut World,
        table: usize,
        at: usize,
        version: Version,
        then: Then,
    ) -> Option<Step> {
        self.held[table] = (at, version);
        let anchor_epoch = self.held[ANCHOR].1.epoch;
        let after_claim = |claiming: usize| match CLAIMS.len() == claiming + 1 {
            true => Some(Step::ReadLatest),
            false => Some(Step::Read(claiming + 1)),
        };
        match then {
            Then::Claimed(claiming) if table != ANCHOR => {
                let epoch = self.held[table].1.epoch;
                match resume(anchor_epoch, epoch, table == MEMO) {
                    Resume::Keep => after_claim(claiming),
                    Resume::Restore => {
                        let log = &world.logs[table];
                        // The version before the one that first carried the epoch on top.
                        let above = (1..=at).rev().find(|v| log[*v].epoch != log[*v - 1].epoch);
                        let target = log[above.expect("version 0 has no epoch") - 1].clone();
                        let (id, generation) = (world.id(), self.generation);
                        let version = Version { id, generation, ..target };
                        let then = Then::Restored(claiming);
                        Some(Step::Put { table, at: at + 1, version, then })
                    }
                }
            }
            Then::Claimed(claiming) | Then::Restored(claiming) => after_claim(claiming),
            Then::Committed(done) if done + 1 == self.plan.len() => Some(Step::WriteLatest),
            Then::Committed(done) => self.commit(world, done + 1),
        }
    }

    fn work(&mut self, world: &mut World) -> Option<Step> {
        let next = self.held[ANCHOR].1.next;
        for table in [PAIRS, CHANGES] {
            let rows: Vec<u64> = self.held[table].1.rows.iter().map(|row| row.1).collect();
            assert_eq!(rows, oracle(table, next), "a writer works on what was not real");
        }
        let changed: Vec<bool> = (0..TABLES).map(|table| !self.fresh(table).is_empty()).collect();
        self.plan = plan(&changed, self.end() != next);
        if self.plan.is_empty() { None } else { self.commit(world, 0) }
    }

    fn end(&self) -> u64 {
        (self.held[ANCHOR].1.next + self.cut).min(MESSAGES)
    }

    /// Messages whose rows the next epoch adds to a table.
    fn fresh(&self, table: usize) -> Vec<u64> {
        let messages = self.held[ANCHOR].1.next..self.end();
        let memo = &self.held[MEMO].1.rows;
        match table {
            ANCHOR => Vec::new(),
            MEMO => {
                let fresh = |m: &u64| has_row(table, *m) && memo.iter().all(|row| row.1 != *m);
                messages.filter(fresh).collect()
            }
            _ => messages.filter(|m| has_row(table, *m)).collect(),
        }
    }

    fn commit(&self, world: &mut World, nth: usize) -> Option<Step> {
        let table = self.plan[nth];
        let (at, held) = &self.held[table];
        let epoch = self.held[ANCHOR].1.epoch.unwrap_or(0) + 1;
        let go = admit(self.generation, Some(held.generation), held.epoch, epoch, table == MEMO);
        assert_eq!(go, Admit::Go, "a started writer knows its tables");
        let mut version = Version { id: world.id(), epoch: Some(epoch), ..held.clone() };
        version.rows.extend(self.fresh(table).into_iter().map(|message| (epoch, message)));
        version.next = if table == ANCHOR { self.end() } else { 0 };
        Some(Step::Put { table, at: at + 1, version, then: Then::Committed(nth) })
    }
}

/// What the caller is told of a put.
fn call(world: &mut World, call: Call, outcome: Outcome) -> Answer {
    match outcome {
        Outcome::Normal => world.put(call),
        Outcome::Lost => Answer::Failed,
        Outcome::Unreported => {
            world.put(call);
            Answer::Failed
        }
        Outcome::Late => {
            world.late.push(call);
            Answer::Failed
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    /// A writer makes its next call; with `dies` it is the last one of its life.
    Call { writer: usize, outcome: Outcome, dies: bool },
    /// A put that was given up reaches the store.
    Arrives(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let outcome = prop_oneof![
        12 => Just(Outcome::Normal),
        1 => Just(Outcome::Lost),
        1 => Just(Outcome::Unreported),
        1 => Just(Outcome::Late),
    ];
    let call = (0..2_usize, outcome, prop::bool::weighted(0.02));
    let call = call.prop_map(|(writer, outcome, dies)| Event::Call { writer, outcome, dies });
    // Runs of calls of one writer, so that lives get far before the other one interferes.
    let run = (call, 1..25_usize).prop_map(|(call, length)| {
        let mut run = vec![call.clone()];
        if let Event::Call { writer, .. } = call {
            let calm = Event::Call { writer, outcome: Outcome::Normal, dies: false };
            run.splice(0..0, std::iter::repeat_n(calm, length));
        }
        run
    });
    let arrives = (0..8_usize).prop_map(|which| vec![Event::Arrives(which)]);
    let part = prop_oneof![5 => run, 1 => arrives];
    prop::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]
    #[test]
    fn every_epoch_happens_exactly_once(events in events(), cuts in prop::array::uniform2(1..5_u64)) {
        let mut world = World::default();
        let mut writers = cuts.map(Writer::new);
        for event in events {
            match event {
                Event::Call { writer, outcome, dies } => {
                    if !writers[writer].step(&mut world, outcome) || dies {
                        writers[writer] = Writer::new(cuts[writer]);
                    }
                }
                Event::Arrives(which) if which < world.late.len() => {
                    let late = world.late.remove(which);
                    arrive(&mut world, late);
                }
                Event::Arrives(_) => {}
            }
            world.check();
        }
        // One by one, so that some epochs move an offset and nothing else.
        let mut last = Writer::new(1);
        while last.step(&mut world, Outcome::Normal) {
            world.check();
        }
        // A page that arrives later than this may set readers back: it lags, it never disagrees.
        let newest = world.logs[ANCHOR].last().and_then(|anchor| anchor.epoch);
        assert_eq!(world.latest.epoch, newest, "readers are told of everything");
        for late in std::mem::take(&mut world.late) {
            arrive(&mut world, late);
            world.check();
        }
        let anchor = world.logs[ANCHOR].last().expect("the last writer claimed it");
        assert_eq!(anchor.next, MESSAGES);
    }
}

/// A writer that has mistaken itself must not write: the table is its own, and the epoch is a new
/// one, or for a memo at least no earlier one.
#[test]
fn an_epoch_is_admitted_by_its_own_writer_and_once() {
    let some = || (0..4_u64).map(Some).chain([None]);
    let mut cases = 0;
    for (mine, epoch) in (0..4).flat_map(|mine| (0..4).map(move |epoch| (mine, epoch))) {
        for (table, held) in some().flat_map(|table| some().map(move |held| (table, held))) {
            for memo in [false, true] {
                let least = held.map_or(0, |held| if memo { held } else { held + 1 });
                let want = match (table == Some(mine), epoch >= least) {
                    (false, _) => Admit::Fenced,
                    (true, false) => Admit::Replay,
                    (true, true) => Admit::Go,
                };
                let said = admit(mine, table, held, epoch, memo);
                assert_eq!(said, want, "{mine} {table:?} {held:?} {epoch} {memo}");
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 4 * 4 * 5 * 5 * 2);
}

/// Nobody waits for the answer any more.
fn arrive(world: &mut World, late: Call) {
    world.put(late);
}
