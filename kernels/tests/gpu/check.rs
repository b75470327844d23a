//! The device against the CPU, to the bit.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use kernels::cuda::corpus::{CANDIDATES_PER_PASS, Corpus, QUERIES_PER_PASS, Queries, bytes};
use kernels::cuda::{Choice, Chosen, Device, Error, Options, choose};
use kernels::similarity::{Rows, scan};
use kernels::vector::{UNIT, dot, quantize};

use crate::cases::{Case, Random, fresh_seed};

type Hits = Vec<(usize, usize, i32)>;
type Outcome = Result<(), String>;

/// Queries, rows and dimension of the cases; the second list is for when there is time.
const SMALL: [(usize, usize, usize); 5] =
    [(1, 1, 1), (3, 130, 65), (129, 260, 33), (40, 700, 330), (QUERIES_PER_PASS + 5, 9, 33)];
const LARGE: [(usize, usize, usize); 4] =
    [(513, 20_000, 768), (QUERIES_PER_PASS + 5, 9_000, 1024), (7, 100_000, 256), (64, 500, 8192)];

pub fn all(chosen: &Chosen, small: bool, kernels_only: bool) -> Outcome {
    let device = chosen.device.clone().ok_or("no device")?;
    let seed = fresh_seed();
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let shapes = SMALL.iter().chain(if small || kernels_only { &[][..] } else { &LARGE });
    for &(queries, rows, dim) in shapes {
        for case in Case::all(&mut random, quantize, queries, rows, dim) {
            decided_as_on_the_cpu(&device, &case)?;
        }
    }
    rows_come_and_go(&device, &mut random)?;
    if small || kernels_only {
        far_rows(&device, &mut random, 64, 300, &[128, 256])?;
    } else {
        // Offsets of 2^31 bytes and of 2^31 components; codes' pass 2^31 bytes at the latter too.
        far_rows(&device, &mut random, 1024, (1 << 21) + 5000, &[1 << 20, 1 << 21])?;
    }
    if !kernels_only {
        memory_runs_out()?;
    }
    if !small && !kernels_only {
        passes_overflow(&device, &mut random)?;
    }
    device.synchronize().map_err(|e| e.to_string())
}

fn references(vectors: &[Vec<i16>]) -> Vec<&[i16]> {
    vectors.iter().map(|v| &v[..]).collect()
}

fn on_cpu(queries: &[&[i16]], rows: &Rows, scores: &RangeInclusive<i32>) -> Hits {
    let mut hits = Vec::new();
    scan(queries, rows, 0..rows.len(), *scores.start(), &mut |q, r, score| {
        if scores.contains(&score) {
            hits.push((q, r, score));
        }
    });
    hits.sort_unstable();
    hits
}

fn on_device(
    device: &Arc<Device>,
    corpus: &mut Corpus,
    queries: &[&[i16]],
    rows: Range<usize>,
    scores: &RangeInclusive<i32>,
) -> Result<Hits, String> {
    let said = |e: Error| e.to_string();
    let mut loaded = Queries::new(device.clone(), corpus.dim(), queries.len()).map_err(said)?;
    loaded.load(queries).map_err(said)?;
    let mut hits = Vec::new();
    let mut take = |q, r, score| hits.push((q, r, score));
    corpus.scan(&loaded, rows, scores.clone(), &mut take).map_err(said)?;
    hits.sort_unstable();
    Ok(hits)
}

fn equal(name: &str, device: &Hits, cpu: &Hits) -> Outcome {
    let different = device.iter().zip(cpu).find(|(a, b)| a != b);
    if device == cpu {
        return Ok(());
    }
    let (here, there) = (device.len(), cpu.len());
    Err(format!("{name}: {here} hits on the device, {there} on the CPU; first {different:?}"))
}

fn corpus(device: &Arc<Device>, dim: usize, rows: &[Vec<i16>]) -> Result<Corpus, String> {
    let mut corpus = Corpus::new(device.clone(), dim, rows.len()).map_err(|e| e.to_string())?;
    corpus.extend(&references(rows)).map_err(|e| e.to_string())?;
    Ok(corpus)
}

fn on_host(dim: usize, rows: &[Vec<i16>]) -> Rows {
    let mut host = Rows::new(dim);
    rows.iter().for_each(|row| {
        host.push(row);
    });
    host
}

fn decided_as_on_the_cpu(device: &Arc<Device>, case: &Case) -> Outcome {
    let mut corpus = corpus(device, case.dim, &case.rows)?;
    let (queries, rows) = (references(&case.queries), on_host(case.dim, &case.rows));
    let there = on_cpu(&queries, &rows, &case.scores);
    let here = on_device(device, &mut corpus, &queries, 0..rows.len(), &case.scores)?;
    println!("{}: {} hits", case.name, there.len());
    equal(&case.name, &here, &there)
}

/// Rows are appended, replaced and cleared at random; after each step both sides agree.
fn rows_come_and_go(device: &Arc<Device>, random: &mut Random) -> Outcome {
    let (dim, capacity) = (100, 600);
    let vector = |random: &mut Random| {
        let drawn: Vec<f32> = (0..dim).map(|_| random.component()).collect();
        quantize(&drawn).map_or(vec![0; dim], |v| v.into_vec())
    };
    let mut corpus = Corpus::new(device.clone(), dim, capacity).map_err(|e| e.to_string())?;
    let mut model: Vec<Vec<i16>> = Vec::new();
    for step in 0..40 {
        let failed = |e: Error| format!("step {step}: {e}");
        match random.below(3) {
            0 if !model.is_empty() => {
                let (i, row) = (random.below(model.len()), vector(random));
                corpus.set(i, &row).map_err(failed)?;
                model[i] = row;
            }
            1 if !model.is_empty() => {
                let i = random.below(model.len());
                corpus.clear(i).map_err(failed)?;
                model[i] = vec![0; dim];
            }
            _ => {
                let room = capacity - model.len();
                let many = random.below(room.min(70) + 1);
                let rows: Vec<Vec<i16>> = (0..many).map(|_| vector(random)).collect();
                corpus.extend(&references(&rows)).map_err(failed)?;
                model.extend(rows);
            }
        }
        let queries: Vec<Vec<i16>> = (0..9).map(|_| vector(random)).collect();
        let scores = 1 << 26..=i32::MAX;
        let there = on_cpu(&references(&queries), &on_host(dim, &model), &scores);
        let (queries, all) = (references(&queries), 0..model.len());
        let here = on_device(device, &mut corpus, &queries, all, &scores)?;
        equal(&format!("rows come and go, step {step}"), &here, &there)?;
    }
    let too_many = vec![&[0i16; 100][..]; capacity + 1];
    match corpus.extend(&too_many) {
        Err(Error::OutOfMemory { .. }) if corpus.len() == model.len() => {}
        other => return Err(format!("more rows than there is room for: {other:?}")),
    }
    let mut queries = Queries::new(device.clone(), dim, 2).map_err(|e| e.to_string())?;
    queries.load(&too_many[..2]).map_err(|e| e.to_string())?;
    match queries.load(&too_many[..3]) {
        Err(Error::OutOfMemory { .. }) if queries.is_empty() => Ok(()),
        other => Err(format!("more queries than there is room for: {other:?}")),
    }
}

/// Rows of noise, and each query's own row on both sides of the `edges` and at both ends: each is
/// found where it was put, and nowhere else.
fn far_rows(
    device: &Arc<Device>,
    random: &mut Random,
    dim: usize,
    rows: usize,
    edges: &[usize],
) -> Outcome {
    let mut vector = || {
        let drawn: Vec<f32> = (0..dim).map(|_| random.component()).collect();
        quantize(&drawn).map_or(vec![0; dim], |v| v.into_vec())
    };
    let noise: Vec<Vec<i16>> = (0..1000.min(rows)).map(|_| vector()).collect();
    let mut places: Vec<usize> = edges.iter().flat_map(|&edge| edge - 2..edge + 2).collect();
    places.extend([0, rows - 1]);
    let queries: Vec<Vec<i16>> = places.iter().map(|_| vector()).collect();
    let queries = references(&queries);
    let mut content: Vec<&[i16]> = (0..rows).map(|i| &noise[i % noise.len()][..]).collect();
    places.iter().zip(&queries).for_each(|(&place, query)| content[place] = query);

    let said = |e: Error| e.to_string();
    let mut corpus = Corpus::new(device.clone(), dim, rows).map_err(said)?;
    corpus.extend(&content).map_err(said)?;
    let scores = UNIT / 10 * 8..=i32::MAX;
    for start in edges.iter().flat_map(|&edge| [edge - 1, edge]).chain([0]) {
        let mut there: Hits = Vec::new();
        for (q, (&place, query)) in places.iter().zip(&queries).enumerate() {
            if place >= start {
                there.push((q, place, dot(query, query)));
            }
        }
        let here = on_device(device, &mut corpus, &queries, start..rows, &scores)?;
        equal(&format!("far rows, {start} to {rows}"), &here, &there)?;
    }
    println!("far rows, {} × {rows} × {dim}: found in their places", queries.len());
    Ok(())
}

/// A budget that is too small is an error that leaves everything usable.
fn memory_runs_out() -> Outcome {
    let dim = 64;
    let budget = bytes(dim, 1000);
    let options = Options { memory: Some(budget), ..Options::default() };
    let chosen = choose(Choice::Auto, &options).map_err(|e| e.to_string())?;
    let device = chosen.device.ok_or("the device went away")?;
    match Corpus::new(device.clone(), dim, 2000) {
        Err(Error::OutOfMemory { wanted, left }) if wanted > left => {}
        other => return Err(format!("twice the budget: {:?}", other.map(|c| c.len()))),
    }
    if device.memory_left() != budget {
        return Err(format!("{} of {budget} bytes were given back", device.memory_left()));
    }
    let fits = Corpus::new(device.clone(), dim, 1000).map_err(|e| e.to_string())?;
    drop(fits);
    // Within one budget, but another has the memory: the driver's own answer.
    let most = Options { memory: Some(usize::MAX), ..Options::default() };
    let open = || {
        let chosen = choose(Choice::Auto, &most).map_err(|e| e.to_string())?;
        chosen.device.ok_or("the device went away".to_string())
    };
    let (first, second) = (open()?, open()?);
    let much = first.memory_left() / 5 * 3;
    let taken = first.buffer::<u8>(much).map_err(|e| e.to_string())?;
    match second.buffer::<u8>(much) {
        Err(Error::OutOfMemory { wanted, left }) if wanted == much && left < much => {}
        other => return Err(format!("six fifths of the card: {other:?}")),
    }
    drop(taken);
    first.synchronize().map_err(|e| e.to_string())?;
    second.buffer::<u8>(much).map(drop).map_err(|e| format!("after memory was given back: {e}"))
}

/// More hits than one pass has room for.
fn passes_overflow(device: &Arc<Device>, random: &mut Random) -> Outcome {
    let cases = Case::all(random, quantize, 700, 3 * CANDIDATES_PER_PASS / 700, 64);
    let everything = Case { scores: i32::MIN..=i32::MAX, ..cases[0].clone() };
    decided_as_on_the_cpu(device, &everything)
}
