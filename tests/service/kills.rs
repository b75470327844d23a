//! `kill -9` at random moments, and start again: the tables of a run that was never killed.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::Arc,
    time::{Duration, Instant},
};

use everpair::scenes;
use operators::{filter, flow::Answer};
use schemas::{
    ContentId,
    tables::{AnnotationRow, ContentRow, ImageRow, RejectRow, Table, WITHDRAWN},
};

pub use super::history::history;
use super::place::{Dice, Message, Place, wait_until};

/// Small epochs, so that there are many moments to be killed at.
pub const SMALL_EPOCHS: &str = "[epoch]\nrows = 8\nlinger = \"50 ms\"\n[service]\nworkers = 2\n\
    [filter]\nwords_min = 6\n";

fn sorted<R: Debug>(rows: impl IntoIterator<Item = R>) -> Vec<String> {
    let mut lines: Vec<String> = rows.into_iter().map(|row| format!("{row:?}")).collect();
    lines.sort();
    lines
}

/// Rejected messages; answers depend on which pairs there were in between.
fn rejected(place: &Place, name: &str) -> Vec<RejectRow> {
    let rows = place.rows::<RejectRow>(name).into_iter();
    rows.filter(|row| row.request_id.is_none()).collect()
}

fn equal(what: &str, one: &[String], other: &[String]) {
    let missing: Vec<_> = other.iter().filter(|row| !one.contains(row)).take(3).collect();
    let surplus: Vec<_> = one.iter().filter(|row| !other.contains(row)).take(3).collect();
    assert!(
        one == other && !one.is_empty(),
        "{what}: {} rows and {}\nmissing {missing:#?}\nsurplus {surplus:#?}",
        one.len(),
        other.len()
    );
}

/// I2: `images`, `pairs`, `rejects`, `triplets`, the column `epoch` aside. What was answered for
/// pairs that held in between differs, so triplets are compared under `keep = "mined"` only.
pub fn same_tables(place: &Place, one: &str, other: &str, triplets: bool) {
    same_tables_but(place, (one, other), triplets, |_| ());
}

/// The same after `aside` has made those columns of `images` equal that may differ.
pub fn same_tables_but(
    place: &Place,
    (one, other): (&str, &str),
    triplets: bool,
    aside: fn(&mut ImageRow),
) {
    let (mut a, mut b) = (place.tables(one), place.tables(other));
    for tables in [&mut a, &mut b] {
        tables.images.iter_mut().for_each(|row| row.epoch = 0);
        tables.images.iter_mut().for_each(aside);
        tables.pairs.iter_mut().for_each(|row| row.epoch = 0);
        tables.triplets.iter_mut().for_each(|row| row.epoch = 0);
    }
    equal("images", &sorted(a.images), &sorted(b.images));
    equal("pairs", &sorted(a.pairs), &sorted(b.pairs));
    if triplets {
        equal("triplets", &sorted(a.triplets), &sorted(b.triplets));
    }
    let rejects = |name: &str| {
        sorted(rejected(place, name).into_iter().map(|row| RejectRow { epoch: 0, ..row }))
    };
    equal("rejects", &rejects(one), &rejects(other));
}

fn once<K: Ord + Debug>(what: &str, keys: impl IntoIterator<Item = K>) {
    let mut count: BTreeMap<K, usize> = BTreeMap::new();
    keys.into_iter().for_each(|key| *count.entry(key).or_default() += 1);
    assert!(!count.is_empty(), "{what} is empty");
    count.retain(|_, count| *count > 1);
    assert!(count.is_empty(), "{what}: stored more than once: {count:?}");
}

/// Memos hold each key once, and each answer that does not pass is in `rejects` once.
fn exactly_once(place: &Place, name: &str) {
    let tables = place.tables(name);
    once("contents", place.rows::<ContentRow>(name).into_iter().map(|row| row.content_id));
    let vector = |row: &schemas::tables::EmbeddingRow| {
        (row.channel.clone(), row.encoder.clone(), row.content_id.clone())
    };
    once("embeddings", tables.embeddings.iter().map(vector));
    let answers = tables.annotations.iter().filter(|row| row.outcome != WITHDRAWN);
    once("annotations", answers.clone().map(|row| row.request_id.clone()));
    let rules = place.config(name).filter;
    let judged = answers.map(|row| filter::accept(Arc::new(Answer::from(row)), &rules));
    let want = sorted(judged.flat_map(|(_, rejects)| rejects));
    let have = place.rows::<RejectRow>(name).into_iter().filter(|row| row.request_id.is_some());
    let have = sorted(have.map(|row| RejectRow { epoch: 0, ..row }));
    println!("{} answers, {} rejects of answers", tables.annotations.len(), want.len());
    equal("rejects of answers", &have, &want);
}

/// When to kill.
#[derive(Debug)]
enum Moment {
    After(Duration),
    /// At the n-th commit of a table since the start; its claim is the first.
    Commit(Table, usize),
}

fn moment(dice: &mut Dice, undisturbed: Duration) -> Moment {
    const WATCHED: [Table; 7] = [
        Table::Contents,
        Table::Embeddings,
        Table::Annotations,
        Table::Pairs,
        Table::Triplets,
        Table::Changes,
        Table::Images,
    ];
    match dice.below(2) {
        0 => Moment::After(undisturbed * (5 + dice.below(100) as u32) / 100),
        _ => Moment::Commit(WATCHED[dice.below(WATCHED.len())], 1 + dice.below(4)),
    }
}

/// Streams the history in; the service is killed so many times meanwhile, and started again.
fn killed(place: &Place, messages: Vec<Message>, kills: usize, seed: u64) {
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let mut log = place.log();
    let mut chunks = messages.chunks(messages.len().div_ceil(kills + 1)).map(<[Message]>::to_vec);
    log.send(chunks.next().expect("a history"));
    let began = Instant::now();
    place.catch_up("killed");
    let undisturbed = began.elapsed();

    let (mut unfinished, mut torn) = (0, 0);
    for chunk in chunks {
        let (early, late) = chunk.split_at(chunk.len() / 2);
        log.send(early.to_vec());
        let moment = moment(&mut dice, undisturbed);
        let held = match &moment {
            Moment::Commit(table, _) => place.commits("killed", table.as_str()),
            Moment::After(_) => 0,
        };
        let began = Instant::now();
        let mut service = place.start("killed");
        log.send(late.to_vec());
        // A commit that does not come, because nothing of this chunk changes the table, is not
        // waited for for ever.
        let patience = undisturbed * 2;
        service.wait_until("the moment", || match &moment {
            Moment::After(wait) => began.elapsed() >= *wait,
            Moment::Commit(table, more) => {
                place.commits("killed", table.as_str()) >= held + more
                    || began.elapsed() >= patience
            }
        });
        service.kill();
        let (committed, epoch) = (place.committed("killed"), place.epoch("killed"));
        let ahead = Table::ALL.map(Table::as_str).into_iter().filter(|table| {
            place.newest("killed", table).is_some_and(|table| table.epoch() > Some(epoch))
        });
        let ahead: Vec<&str> = ahead.collect();
        println!("{moment:?}: {committed} of {} committed, ahead: {ahead:?}", log.count);
        unfinished += usize::from(committed < log.count || !ahead.is_empty());
        torn += usize::from(!ahead.is_empty());
    }
    println!("{unfinished} of {kills} kills left work undone, {torn} tore an epoch");
    assert!(unfinished * 3 >= kills, "the kills came too late to mean anything");
    place.catch_up("killed");
    assert_eq!(place.committed("killed"), log.count);
    place.verify("killed");
    exactly_once(place, "killed");
    let config = place.tables("killed").changes.into_iter().find(|row| row.reason == "config");
    assert_eq!(config, None, "the config never changed");
}

#[test]
fn ten_kills_leave_the_tables_of_a_run_that_was_never_killed() {
    let place = Place::new();
    let rest = format!("{SMALL_EPOCHS}[triplets]\nkeep = \"mined\"\n");
    place.configure("killed", &rest);
    place.configure("whole", &rest);
    killed(&place, history(200, 71), 10, 20_260_301);
    place.catch_up("whole");
    place.verify("whole");
    exactly_once(&place, "whole");
    same_tables(&place, "killed", "whole", true);
}

#[test]
fn what_was_answered_outlives_kills_while_its_images_live() {
    let place = Place::new();
    let rest = format!("{SMALL_EPOCHS}[triplets]\nkeep = \"annotated\"\n");
    place.configure("killed", &rest);
    place.configure("whole", &rest);
    killed(&place, history(100, 72), 4, 20_260_302);
    place.catch_up("whole");
    same_tables(&place, "killed", "whole", false);
    wait_until("no request is left", || place.requests("killed") == 0);
}

/// A killed epoch may have left rows in a memo that epochs without a trace put far above the last
/// one that became real: they stay, what must be said of them is said once, and work goes on.
#[test]
fn a_memo_that_is_epochs_ahead_does_not_stop_the_next_run() {
    let place = Place::new();
    place.configure("killed", "[epoch]\nlinger = \"50 ms\"\n");
    let mut log = place.log();
    log.send(scenes::scenes(30, 77).map(Message::from));
    place.catch_up("killed");

    let epoch = place.epoch("killed") + 5;
    let mut row = place.rows::<ContentRow>("killed").remove(0);
    row.content_id = ContentId::of(b"its epoch never became real").hex();
    row.epoch = epoch as i64;
    place.memo_ahead("killed", epoch, &[row]);
    let answer = place.tables("killed").annotations.remove(0);
    let failed = AnnotationRow {
        request_id: ContentId::of(b"nobody knows").hex(),
        outcome: "refused".into(),
        epoch: epoch as i64,
        ..answer
    };
    place.memo_ahead("killed", epoch, std::slice::from_ref(&failed));
    let said = || {
        let rejects = place.rows::<RejectRow>("killed").into_iter();
        let ours = rejects.filter(|row| row.request_id.as_ref() == Some(&failed.request_id));
        ours.map(|row| row.reason).collect::<Vec<String>>()
    };
    assert_eq!(said(), [""; 0]);
    place.catch_up("killed");
    assert_eq!(said(), ["no_answer"]);

    log.send(scenes::late_arrivals(30, 5, 77).map(Message::from));
    place.catch_up("killed");
    assert_eq!(place.committed("killed"), log.count);
    assert!(place.epoch("killed") > epoch);
    assert_eq!(said(), ["no_answer"]);
    place.verify("killed");
}
