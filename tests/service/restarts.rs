//! What a start does again: with a state checkpoint nothing, without one everything, and either way
//! the tables say the same.

use std::{fs, path::PathBuf};

use everpair::scenes;

use super::place::{Message, Place, files};

const SEED: u64 = 20_261_122;
const IMAGES: usize = 300;
const WORKERS: u64 = 2;

fn mining(place: &Place, name: &str) -> u64 {
    let counters = place.counters("tables").expect("a run leaves its counters");
    counters["mining"][name].as_u64().unwrap_or_else(|| panic!("no {name} in {counters:#}"))
}

/// Dot products of a start with nothing new to read.
fn idle_start(place: &Place) -> u64 {
    place.catch_up("tables");
    mining(place, "dot_products") + mining(place, "rescan_dot_products")
}

fn checkpoint(place: &Place) -> Vec<PathBuf> {
    files(&place.path("tables/_everpair/state")).into_iter().map(|(path, _)| path).collect()
}

#[test]
fn a_start_mines_only_what_its_checkpoint_does_not_know() {
    println!("seed {SEED}");
    let place = Place::new();
    place.configure("tables", &format!("[service]\nworkers = {WORKERS}\n"));
    let mut log = place.log();
    log.send(scenes::scenes(IMAGES, SEED).map(Message::from));
    place.catch_up("tables");
    let all = mining(&place, "dot_products");
    assert_eq!(mining(&place, "remembered_images"), 0);
    assert_eq!(checkpoint(&place).len() as u64, WORKERS, "one file a worker, at the end");
    let committed = place.latest("tables");

    assert_eq!(idle_start(&place), 0, "everything is known");
    let known = mining(&place, "remembered_images");
    assert!(known > IMAGES as u64 / 2, "{known} images");
    assert_eq!(place.latest("tables"), committed, "and nothing was committed");

    // Ten new images cost a start what they cost a service that runs.
    let before = checkpoint(&place);
    log.send(scenes::late_arrivals(IMAGES, 10, SEED).map(Message::from));
    log.send([Message::tombstone("late-00003")]);
    let new = idle_start(&place);
    assert!(new > 0 && new < all / 5, "{new} dot products, all are {all}");
    let after = checkpoint(&place);
    assert!(after.len() as u64 == WORKERS && before.iter().all(|file| !after.contains(file)));

    // Torn, cut short, gone, of other bands: time is all that it costs.
    let whole: Vec<(_, Vec<u8>)> =
        after.iter().map(|path| (path, fs::read(path).expect("it is there"))).collect();
    let (first, bytes) = &whole[0];
    let spoilt: [&dyn Fn(); 3] = [
        &|| fs::write(first, &bytes[..bytes.len() / 2]).expect("writable"),
        &|| fs::write(first, [&bytes[..bytes.len() - 1], &[0x55]].concat()).expect("writable"),
        &|| fs::remove_file(first).expect("removable"),
    ];
    let mut rebuilt = Vec::new();
    for spoil in spoilt {
        checkpoint(&place).iter().for_each(|path| fs::remove_file(path).expect("removable"));
        whole.iter().for_each(|(path, bytes)| fs::write(path, bytes).expect("writable"));
        spoil();
        rebuilt.push(idle_start(&place));
    }
    assert!(rebuilt.iter().all(|&products| products > all / 2), "{rebuilt:?}, all are {all}");
    place.verify("tables");

    // What it wrote then is whole again, and other workers read it.
    assert_eq!(idle_start(&place), 0);
    place.configure("tables", "[service]\nworkers = 1\n");
    assert_eq!(idle_start(&place), 0);
    place.verify("tables");
}
