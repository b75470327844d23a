//! What is measured.

use std::sync::{Arc, Mutex};

use operators::flow::{Version, VersionChange};

use crate::{
    Options, corpus,
    drive::{Took, drive, resident},
};

type Figures = Result<Vec<String>, String>;

fn id(n: usize) -> Arc<str> {
    format!("image-{n:09}").into()
}

fn add(n: usize, vectors: [Option<Arc<[i16]>>; 3]) -> VersionChange {
    VersionChange::Add(Arc::new(Version { image_id: id(n), row: n as u64, vectors }))
}

fn remove(n: usize) -> VersionChange {
    VersionChange::Remove(id(n), n as u64)
}

/// Collects what a run says.
fn notes() -> (Arc<Mutex<Vec<String>>>, impl Fn(String) + Clone) {
    let notes = Arc::new(Mutex::new(Vec::new()));
    let to = Arc::clone(&notes);
    (notes, move |note| to.lock().expect("nobody panicked").push(note))
}

fn taken(notes: &Mutex<Vec<String>>) -> Vec<String> {
    notes.lock().expect("nobody panicked").drain(..).collect()
}

/// A corpus of families, mixed: what a new image takes while it grows, and what 1 % more and 1 %
/// less take at the end.
pub fn growth(options: &Options) -> Figures {
    let rows = options.rows.unwrap_or(200_000);
    let dims = options.dims.clone().unwrap_or_else(|| vec![768]);
    let (channels, step, cone) = (dims.len(), options.epoch, options.cone);
    let filling = rows.div_ceil(step);
    let percent = (rows / 100).max(1);
    let name = if cone { "cone" } else { "noise" };
    println!("{rows} images, {name}, dims {dims:?}, {} workers", options.workers);
    let of = dims.clone();
    let vectors =
        move |n: usize| std::array::from_fn(|c| Some(corpus::mixed(cone, n, rows, *of.get(c)?, c)));
    let feed = move |epoch: u64| match epoch as usize {
        e if e < filling => {
            (e * step..rows.min((e + 1) * step)).map(|n| add(n, vectors(n))).collect()
        }
        e if e == filling => (rows..rows + percent).map(|n| add(n, vectors(n))).collect(),
        _ => (0..percent).map(|i| remove(i * 97 % rows)).collect(),
    };
    let (kept, note) = notes();
    let total = Mutex::new(0.0);
    let told = move |epoch: u64, took: Took| {
        let mut total = total.lock().expect("nobody panicked");
        let e = epoch as usize;
        let (what, images, live) = match e {
            e if e < filling => {
                *total += took.seconds;
                let live = rows.min((e + 1) * step);
                ("new", live - e * step, live)
            }
            e if e == filling => ("1 % new", percent, rows + percent),
            _ => ("1 % gone", percent, rows),
        };
        let each = took.seconds * 1e3 / images as f64;
        let share = took.seconds / *total;
        println!(
            "{what:9} {images:7} of {live:9}: {each:8.3} ms each, {:5.2} % of all before, {} lists, \
             {} rescans, {:.0} MiB",
            share * 100.0,
            took.lists,
            took.rescans,
            took.resident / 1_048_576.0
        );
        note(format!(
            "{{\"mode\": \"growth\", \"corpus\": \"{name}\", \"dims\": \"{dims:?}\", \"what\": \"{what}\", \"images\": {images}, \"live\": {live}, \
             \"seconds\": {:.6}, \"of_all\": {share:.5}, \"rescans\": {}, \"lists\": {}}}",
            took.seconds, took.rescans, took.lists
        ));
    };
    let mining = options.mining(channels, 0.8, 0.96);
    drive(options.workers, mining, filling as u64 + 2, feed, told, |_| false);
    Ok(taken(&kept))
}

/// Bytes of memory for each image, vectors and ids included.
pub fn memory(options: &Options) -> Figures {
    let rows = options.rows.unwrap_or(50_000);
    let dims = options.dims.clone().unwrap_or_else(|| vec![768; 3]);
    let (channels, components) = (dims.len(), dims.iter().sum::<usize>());
    let cone = options.cone;
    let step = options.epoch.min(rows / 5).max(1);
    let epochs = rows / step;
    let vectors = move |n: usize| {
        std::array::from_fn(|c| Some(corpus::mixed(cone, n, rows, *dims.get(c)?, c)))
    };
    let feed = move |e: u64| {
        let from = e as usize * step;
        (from..from + step).map(|n| add(n, vectors(n))).collect()
    };
    let before = resident();
    let (kept, note) = notes();
    let told = move |epoch: u64, took: Took| {
        let images = (epoch as usize + 1) * step;
        let each = (took.resident - before) / images as f64;
        println!(
            "{images:9} images of {components} components: {each:7.0} bytes each, {:.2} a component",
            each / components as f64
        );
        note(format!(
            "{{\"mode\": \"memory\", \"images\": {images}, \"components\": {components}, \
             \"bytes_each\": {each:.0}}}"
        ));
    };
    drive(options.workers, options.mining(channels, 0.8, 0.96), epochs as u64, feed, told, |_| {
        false
    });
    Ok(taken(&kept))
}

/// Corpora in which every image is in the band of every other.
pub fn alike(options: &Options) -> Figures {
    let rows = options.rows.unwrap_or(100_000);
    let dim = options.dims.as_ref().map_or(64, |dims| dims[0]);
    let step = options.epoch.min(rows / 10).max(1);
    let (kept, note) = notes();
    for kind in &options.kinds {
        corpus::alike(kind, 0, dim)?;
        println!("{kind}: {rows} images of {dim} components, {} workers", options.workers);
        let (to_feed, to_tell, note) = (kind.clone(), kind.clone(), note.clone());
        let feed = move |e: u64| {
            let from = e as usize * step;
            let vector = |n| corpus::alike(&to_feed, n, dim).ok();
            (from..from + step).map(|n| add(n, [vector(n), None, None])).collect()
        };
        let before = resident();
        let told = move |epoch: u64, took: Took| {
            let images = (epoch as usize + 1) * step;
            let each = took.seconds * 1e3 / step as f64;
            let bytes = (took.resident - before) / images as f64;
            println!(
                "{images:9}: {each:7.3} ms each of {step}, {:.2} ns a row before, {bytes:6.0} bytes \
                 an image, {} lists, {} pairs changed",
                each * 1e6 / (images as f64 - step as f64 / 2.0),
                took.lists,
                took.pairs
            );
            note(format!(
                "{{\"mode\": \"alike\", \"kind\": \"{to_tell}\", \"images\": {images}, \
                 \"ms_each\": {each:.4}, \"bytes_each\": {bytes:.0}, \"lists\": {}, \"pairs\": {}}}",
                took.lists, took.pairs
            ));
        };
        let mining = options.mining(1, 0.7, 1.01);
        drive(options.workers, mining, (rows / step) as u64, feed, told, |_| false);
    }
    Ok(taken(&kept))
}

/// Inserts and deletes, from a file that other programs read too.
pub fn stream(options: &Options) -> Figures {
    let path = options.vectors.as_ref().ok_or("stream takes --vectors FILE.npy")?;
    let read = corpus::Read::open(path)?;
    let (changes, rounds) = (options.changes, options.rounds);
    let rows = options.rows.unwrap_or(read.rows.saturating_sub(changes / 2 * rounds));
    if rows == 0 || rows + changes / 2 * rounds > read.rows {
        return Err(format!("{} has {} rows: too few", path.display(), read.rows));
    }
    println!("{rows} images of {} components, {} workers", read.dim, options.workers);
    let feed = move |e: u64| {
        let add = |n: usize| add(n, [Some(read.vector(n)), None, None]);
        if e == 0 {
            return (0..rows).map(add).collect();
        }
        let half = changes / 2;
        let from = (e as usize - 1) * half;
        let gone = (from..from + half).map(|i| remove(gone(i, rows)));
        gone.chain((rows + from..rows + from + half).map(add)).collect()
    };
    let (kept, note) = notes();
    let told = move |epoch: u64, took: Took| {
        let what = if epoch == 0 { "at once" } else { "changes" };
        let changes = if epoch == 0 { rows } else { changes / 2 * 2 };
        println!(
            "{what} {changes}: {:.4} s, {} lists, {} rescans",
            took.seconds, took.lists, took.rescans
        );
        note(format!(
            "{{\"mode\": \"stream\", \"what\": \"{what}\", \"changes\": {changes}, \
             \"seconds\": {:.6}, \"lists\": {}, \"rescans\": {}}}",
            took.seconds, took.lists, took.rescans
        ));
    };
    let mining = options.mining(1, 0.8, 0.96);
    let found = drive(options.workers, mining, rounds as u64 + 1, feed, told, |row| row % 97 == 0);
    let mut figures = taken(&kept);
    figures
        .extend(found.iter().map(|(row, rows)| format!("{{\"row\": {row}, \"found\": {rows:?}}}")));
    Ok(figures)
}

/// The `i`th row that is deleted, of the first `rows`: each once while `i` is below `rows`.
fn gone(i: usize, rows: usize) -> usize {
    let mut step = rows / 2 + 1;
    while gcd(step, rows) > 1 {
        step += 1;
    }
    i * step % rows
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
