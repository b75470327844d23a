//! Whole searches, timed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use kernels::{
    search::{CodedRows, Floors, NEVER, Path, Queries, Sides, paths, search_by},
    similarity::{Rows, scan},
    vector::Band,
};

use crate::{ceilings::Ceilings, corpus::Corpus};

/// Length of a list.
pub const NEIGHBORS: usize = 10;

/// The best so far: score and row, best first, ties by row.
type List = Vec<(i32, u32)>;

pub struct Timed {
    corpus: String,
    rows: usize,
    dim: usize,
    batch: usize,
    what: String,
    seconds: f64,
    /// Of the ceiling of products of bytes, if all stages were multiplied; a filter that stops
    /// early may pass 1.
    of_ops: f64,
    /// The same of reading each code or vector once.
    of_bandwidth: f64,
}

impl Timed {
    pub fn json(&self) -> String {
        let Timed { corpus, rows, dim, batch, what, seconds, of_ops, of_bandwidth } = self;
        format!(
            "{{\"corpus\": \"{corpus}\", \"rows\": {rows}, \"dim\": {dim}, \"batch\": {batch}, \
             \"what\": \"{what}\", \"seconds\": {seconds:.6}, \"of_ops\": {of_ops:.3}, \
             \"of_bandwidth\": {of_bandwidth:.3}}}"
        )
    }
}

fn insert(list: &mut List, score: i32, row: u32) {
    let at = list.partition_point(|&(s, r)| (s, !r) > (score, !row));
    if at < NEIGHBORS {
        list.truncate(NEIGHBORS - 1);
        list.insert(at, (score, row));
    }
}

fn floor(list: &List, lo: i32) -> i32 {
    if list.len() == NEIGHBORS { list[NEIGHBORS - 1].0 } else { lo }
}

/// Rows of one thread, and the lists of those rows.
struct Share {
    first: usize,
    coded: CodedRows,
    lists: Vec<List>,
}

fn shares(corpus: &Corpus, threads: usize, band: Band) -> Vec<Share> {
    let step = corpus.rows.len().div_ceil(threads);
    std::thread::scope(|scope| {
        let one = |t: usize| {
            let rows = &corpus.rows[(t * step).min(corpus.rows.len())..];
            let mut coded = CodedRows::new(corpus.dim);
            for row in &rows[..step.min(rows.len())] {
                let i = coded.push(Arc::from(&**row));
                coded.set_floor(i, band.lo);
            }
            let lists = vec![List::new(); coded.len()];
            Share { first: t * step, coded, lists }
        };
        let running: Vec<_> = (0..threads).map(|t| scope.spawn(move || one(t))).collect();
        running.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    })
}

/// Lists of all queries from every share, merged.
fn merged(parts: Vec<Vec<List>>) -> Vec<List> {
    let mut all = vec![List::new(); parts.first().map_or(0, Vec::len)];
    for (list, &(score, row)) in parts.iter().flat_map(|lists| {
        lists.iter().enumerate().flat_map(|(q, list)| list.iter().map(move |entry| (q, entry)))
    }) {
        insert(&mut all[list], score, row);
    }
    all
}

/// On one thread for each share.
fn on_all<T: Send>(shares: &mut [Share], work: impl Fn(&mut Share) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> =
            shares.iter_mut().map(|share| scope.spawn(move || work(share))).collect();
        running.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    })
}

/// The ten nearest in the band of each query: filter, exact score, lists, threads' lists merged.
fn searched(
    path: Path,
    shares: &mut [Share],
    queries: &[&[i16]],
    band: Band,
    sides: Sides,
) -> Vec<List> {
    merged(on_all(shares, |share| {
        let mut lists = vec![List::new(); queries.len()];
        let mut prepared = Queries::new(&share.coded, queries, vec![band.lo; queries.len()]);
        let Share { first, coded, lists: of_rows } = share;
        let all = 0..coded.len();
        let scores = band.lo..=band.hi - 1;
        search_by(path, &mut prepared, coded, all, scores, sides, &mut |q, r, score| {
            insert(&mut lists[q], score, (*first + r) as u32);
            let mut floors = Floors { query: floor(&lists[q], band.lo), row: NEVER };
            if sides == Sides::Both {
                insert(&mut of_rows[r], score, q as u32);
                floors.row = floor(&of_rows[r], band.lo);
            }
            floors
        });
        lists
    }))
}

/// The same by the scan that knows neither codes nor floors.
fn scanned(rows: &mut [(Share, Rows)], queries: &[&[i16]], band: Band) -> Vec<List> {
    merged(std::thread::scope(|scope| {
        let one = |(share, rows): &(Share, Rows)| {
            let mut lists = vec![List::new(); queries.len()];
            scan(queries, rows, 0..rows.len(), band.lo, &mut |q, r, score| {
                if score < band.hi {
                    insert(&mut lists[q], score, (share.first + r) as u32);
                }
            });
            lists
        };
        let running: Vec<_> = rows.iter().map(|rows| scope.spawn(move || one(rows))).collect();
        running.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    }))
}

pub fn found(corpus: &Corpus, band: Band, threads: usize) -> Vec<Vec<u32>> {
    let queries: Vec<&[i16]> = corpus.queries.iter().map(|q| &**q).collect();
    let mut shares = shares(corpus, threads, band);
    let lists = searched(paths()[0], &mut shares, &queries, band, Sides::Queries);
    lists.into_iter().map(|list| list.into_iter().map(|(_, row)| row).collect()).collect()
}

/// The least of at least three runs, and of as many as two seconds hold.
fn least<T>(mut work: impl FnMut() -> T) -> (f64, T) {
    let begin = Instant::now();
    let (mut best, mut runs) = (Duration::MAX, 0);
    loop {
        let start = Instant::now();
        let result = work();
        best = best.min(start.elapsed());
        runs += 1;
        if runs >= 3 && begin.elapsed() > Duration::from_secs(2) {
            return (best.as_secs_f64(), result);
        }
    }
}

/// Times every way to search in the corpus, and checks that all find the same.
pub fn of(
    corpus: &Corpus,
    band: Band,
    batches: &[usize],
    threads: usize,
    ceilings: &Ceilings,
) -> Vec<Timed> {
    let (n, dim) = (corpus.rows.len(), corpus.dim);
    println!("\n{}, {n} rows of {dim}, {threads} threads", corpus.name);
    let rows = shares(corpus, threads, band).into_iter().map(|share| {
        let mut rows = Rows::new(dim);
        (0..share.coded.len()).for_each(|i| {
            rows.push(share.coded.row(i));
        });
        (share, rows)
    });
    let mut rows: Vec<(Share, Rows)> = rows.collect();
    let mut timed = Vec::new();
    for &batch in batches {
        let batch = batch.min(corpus.queries.len());
        let queries: Vec<&[i16]> = corpus.queries[..batch].iter().map(|q| &**q).collect();
        let mut note = |what: &str, seconds: f64, bytes: usize, found: &[List]| {
            let ops = (2 * batch * n * dim) as f64 / seconds;
            let read = (n * dim * bytes) as f64 / seconds;
            let of_ops = ops / ceilings.byte_ops;
            let of_bandwidth = read / ceilings.bandwidth;
            let entries: usize = found.iter().map(Vec::len).sum();
            println!(
                "  batch {batch:5} {what:22} {:9.3} ms {:8.3} TOP/s ({:5.1} %) \
                 {:6.1} GB/s ({:5.1} %), {:.1} found each",
                seconds * 1e3,
                ops / 1e12,
                of_ops * 100.0,
                read / 1e9,
                of_bandwidth * 100.0,
                entries as f64 / batch as f64
            );
            timed.push(Timed {
                corpus: corpus.name.clone(),
                rows: n,
                dim,
                batch,
                what: what.into(),
                seconds,
                of_ops,
                of_bandwidth,
            });
        };
        let (seconds, expected) = least(|| scanned(&mut rows, &queries, band));
        note("scan of 16 bits", seconds, 2, &expected);
        let (mut shares, exact): (Vec<Share>, Vec<Rows>) = rows.drain(..).unzip();
        for path in paths() {
            if path.name == "portable" && batch > 1 {
                continue;
            }
            let (seconds, found) =
                least(|| searched(path, &mut shares, &queries, band, Sides::Queries));
            assert!(found == expected, "{} finds what the scan finds", path.name);
            note(&format!("search {}", path.name), seconds, 1, &found);
        }
        // Rows' lists fill in the first run; in a corpus that has been mined they are full too.
        let path = paths()[0];
        let (seconds, found) = least(|| searched(path, &mut shares, &queries, band, Sides::Both));
        assert!(found == expected, "{} finds what the scan finds, for both", path.name);
        note(&format!("both sides {}", path.name), seconds, 1, &found);
        rows.extend(shares.into_iter().zip(exact));
    }
    timed
}
