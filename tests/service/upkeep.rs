//! What a service does to its tables between epochs, as a reader and a disk see it.

use std::collections::BTreeMap;

use everpair::{
    dataset::{At, Dataset, epochs},
    scenes,
};
use schemas::tables::{ImageRow, PairRow, Table};

use super::place::{Message, Place, files};

const SEED: u64 = 31;
const IMAGES: usize = 12;
const ROUNDS: usize = 60;
const KEPT: usize = 40;

type Rows = (Vec<ImageRow>, Vec<PairRow>);

fn rows(place: &Place, at: &str) -> Rows {
    let Ok(at) = at.parse::<At>();
    let dataset = Dataset::open(&place.store("tables"), &at).expect("it is kept");
    let mut images = dataset.rows::<ImageRow>().expect("images");
    let mut pairs = dataset.rows::<PairRow>().expect("pairs");
    images.sort_by(|a, b| a.image_id.cmp(&b.image_id));
    pairs.sort_by(|a, b| (&a.query_id, &a.target_id).cmp(&(&b.query_id, &b.target_id)));
    (images, pairs)
}

/// Objects of the tables but commits, and commits of their logs, by table.
fn counts(place: &Place) -> BTreeMap<&'static str, (usize, usize)> {
    let count = |table: Table| {
        let name = table.as_str();
        let commits = place.commits("tables", name);
        (name, (files(&place.path("tables").join(name)).len() - commits, commits))
    };
    Table::ALL.map(count).into()
}

/// Hundreds of epochs replace the same few images: files and logs stay as small as what is kept,
/// and the rows of a snapshot and of a kept epoch stay what they were.
#[test]
fn files_and_logs_stay_small_and_readers_of_kept_epochs_see_the_same() {
    println!("seed {SEED}");
    let place = Place::new();
    let rest = format!(
        "retention = \"0 s\"\n[epoch]\nrows = 1\nlinger = \"1 ms\"\n\
         [service]\nepochs_kept = {KEPT}\n"
    );
    place.configure("tables", &rest);
    let mut log = place.log();
    log.send(scenes::scenes(IMAGES, SEED).map(Message::from));
    place.catch_up("tables");
    place.everpair("tables", &["snapshot", "create", "before"]).ended(0);
    let snapshot = rows(&place, "before");
    assert!(snapshot.1.len() > 5, "there are pairs to lose");
    let mut service = place.start("tables");
    let mut round = 0;
    let mut churn = |rounds: usize| {
        for _ in 0..rounds {
            round += 1;
            let replaced = (0..IMAGES).skip(round % 5).step_by(5);
            log.send(replaced.map(|n| scenes::replacement(n, round as u64, SEED).into()));
        }
        service.wait_until("it has caught up", || place.committed("tables") == log.count);
    };
    churn(ROUNDS);
    let half = counts(&place);
    // A kept epoch is read, and read again after some more.
    let kept = epochs(&place.store("tables")).expect("pages").pop().expect("a page");
    let before = rows(&place, &kept.to_string());
    churn(2);
    assert!(rows(&place, &kept.to_string()) == before, "epoch {kept} has changed");
    churn(ROUNDS);
    // An epoch is committed before the oldest one is let go of.
    let kept_now = || epochs(&place.store("tables")).expect("pages").len();
    service.wait_until("as many epochs are kept as are to be", || kept_now() == KEPT);
    let whole = counts(&place);
    println!("after half of it {half:?}\nafter all of it {whole:?}");
    let epoch = place.epoch("tables");
    assert!(epoch > 250, "{epoch} epochs");
    for (table, (objects, commits)) in &whole {
        // What is kept, a checkpoint's interval before it, and what came since a table was last
        // looked at, which is after 16 epochs for each of nine tables.
        let most = KEPT + 50 + 16 * 9 + 10;
        assert!(*commits < most, "{table}: {commits} commits");
        // An epoch makes a file and perhaps a file of vectors.
        assert!(*objects < 2 * most, "{table}: {objects} objects");
    }
    let all = |counts: &BTreeMap<&str, (usize, usize)>| -> usize {
        counts.values().map(|(objects, commits)| objects + commits).sum()
    };
    assert!(all(&whole) < all(&half) * 3 / 2, "{} objects, then {}", all(&half), all(&whole));
    let Ok(at) = kept.to_string().parse::<At>();
    assert!(Dataset::open(&place.store("tables"), &at).is_err(), "epoch {kept} is kept for ever");
    service.terminate();
    let (code, said) = service.wait();
    assert_eq!(code, Some(0), "{said}");
    place.verify("tables");
    assert!(rows(&place, "before") == snapshot, "the snapshot has changed");
    place.everpair("tables", &["snapshot", "drop", "before"]).ended(0);
    place.catch_up("tables");
    place.verify("tables");
}
