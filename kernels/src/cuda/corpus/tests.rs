//! The kernels' own text, run on the CPU by `tests/emulator` and compared with the naive scan.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use proptest::prelude::*;

use super::coded::LANE;
use super::*;
use crate::codes::{self, Coder, is_candidate};
use crate::similarity::{Rows, scan_naive};
use crate::vector::quantize;

#[path = "../../../tests/gpu/cases.rs"]
mod cases;
use cases::{Case, Random};

/// Builds the emulator once a process, with sanitizers where the compiler has them.
fn emulator() -> &'static Path {
    static BUILT: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, program) = BUILT.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("emulator");
        let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
        let compile = |sanitizers: &[&str]| {
            Command::new(std::env::var("CC").as_deref().unwrap_or("cc"))
                .args(["-std=gnu11", "-O2", "-g", "-Wall", "-Werror", "-Wno-unknown-pragmas"])
                .args(sanitizers)
                .arg("-I")
                .arg(tree.join("src/cuda"))
                .arg("-I")
                .arg(tree.join("tests/emulator"))
                .arg(tree.join("tests/emulator/emulator.c"))
                .arg("-o")
                .arg(&program)
                .output()
                .expect("a C compiler: cc, or what CC names")
        };
        let guarded = compile(&["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]);
        if !guarded.status.success() {
            let plain = compile(&[]);
            let said = String::from_utf8_lossy(&plain.stderr).into_owned();
            assert!(plain.status.success(), "{said}");
            println!(
                "the compiler has no sanitizers: {}",
                String::from_utf8_lossy(&guarded.stderr)
            );
        }
        (folder, program)
    });
    program
}

/// Runs a kernel with these arguments (buffers and numbers alike, as bytes) and returns what its
/// output buffers hold.
fn emulate(
    kernel: &str,
    blocks: usize,
    seed: u64,
    arguments: &[Vec<u8>],
) -> Result<Vec<Vec<u8>>, String> {
    let mut input = Vec::new();
    for argument in arguments {
        input.extend((argument.len() as u64).to_le_bytes());
        input.extend(argument);
    }
    let mut child = Command::new(emulator())
        .args([kernel, &blocks.to_string(), &seed.to_string()])
        // Fibers are not what its checks of stacks expect, and a short life may leak.
        .env("ASAN_OPTIONS", "detect_leaks=0:detect_stack_use_after_return=0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    // A program that stopped early has not read everything.
    let _ = writer.join().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let (mut rest, mut results) = (&output.stdout[..], Vec::new());
    while let Some((length, after)) = rest.split_first_chunk::<8>() {
        let (bytes, after) = after.split_at(u64::from_le_bytes(*length) as usize);
        results.push(bytes.to_vec());
        rest = after;
    }
    Ok(results)
}

fn bytes<T: Copy, const N: usize>(numbers: &[T], to: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    numbers.iter().flat_map(|&x| to(x)).collect()
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b)).collect()
}

fn count(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap())
}

/// Vectors as a corpus lays them out.
struct Laid {
    vectors: Vec<i16>,
    codes: Vec<i8>,
    slacks: Vec<i32>,
}

fn lay(coder: &Coder, vectors: &[Vec<i16>]) -> Laid {
    let (stride, width) = (coder.dim().next_multiple_of(LANE), coder.width());
    let mut laid = Laid {
        vectors: vec![0; vectors.len() * stride],
        codes: vec![0; vectors.len() * width],
        slacks: Vec::new(),
    };
    for (i, vector) in vectors.iter().enumerate() {
        laid.vectors[i * stride..][..vector.len()].copy_from_slice(vector);
        laid.slacks.push(coder.encode(vector, &mut laid.codes[i * width..][..width]));
    }
    laid
}

type Pairs = Vec<(u32, u32)>;

/// The filter's candidates, sorted, and its count.
fn filter(case: &Case, coder: &Coder, first_row: u32, capacity: usize, seed: u64) -> (Pairs, u64) {
    let (queries, rows) = (lay(coder, &case.queries), lay(coder, &case.rows));
    let (at_least, at_most) = coder.thresholds(&case.scores);
    let number = |x: u32| x.to_le_bytes().to_vec();
    let arguments = [
        bytes(&queries.codes, i8::to_le_bytes),
        bytes(&queries.slacks, i32::to_le_bytes),
        number(case.queries.len() as u32),
        bytes(&rows.codes, i8::to_le_bytes),
        bytes(&rows.slacks, i32::to_le_bytes),
        number(case.rows.len() as u32),
        number(coder.width() as u32),
        number(at_least as u32),
        number(at_most as u32),
        number(first_row),
        vec![0xaa; capacity * 8],
        (capacity as u64).to_le_bytes().to_vec(),
        vec![0; 8],
    ];
    let blocks = blocks_of_candidates(case.queries.len(), case.rows.len());
    let results = emulate("candidates", blocks, seed, &arguments).unwrap();
    let (found, kept) = (words(&results[0]), count(&results[1]));
    let here = (kept as usize).min(capacity);
    let mut pairs: Pairs = found.chunks_exact(2).take(here).map(|p| (p[0], p[1])).collect();
    pairs.sort_unstable();
    (pairs, kept)
}

/// The decision's hits among these candidates, sorted.
fn decide(
    case: &Case,
    coder: &Coder,
    candidates: &Pairs,
    blocks: usize,
    seed: u64,
) -> Vec<(u32, u32, i32)> {
    let (queries, rows) = (lay(coder, &case.queries), lay(coder, &case.rows));
    let arguments = [
        bytes(&queries.vectors, i16::to_le_bytes),
        bytes(&rows.vectors, i16::to_le_bytes),
        (coder.dim().next_multiple_of(LANE) as u32).to_le_bytes().to_vec(),
        candidates.iter().flat_map(|p| [p.0.to_le_bytes(), p.1.to_le_bytes()].concat()).collect(),
        (candidates.len() as u64).to_le_bytes().to_vec(),
        case.scores.start().to_le_bytes().to_vec(),
        case.scores.end().to_le_bytes().to_vec(),
        vec![0xaa; candidates.len() * 12],
        vec![0; 8],
    ];
    let results = emulate("rescore", blocks, seed, &arguments).unwrap();
    let found = count(&results[1]) as usize;
    let triples = words(&results[0]);
    let triples = triples.chunks_exact(3).take(found);
    let mut hits: Vec<_> = triples.map(|t| (t[0], t[1], t[2] as i32)).collect();
    hits.sort_unstable();
    hits
}

/// What the filter must keep, in plain Rust: the twin of candidates.cu.
fn filter_twin(case: &Case, coder: &Coder) -> Pairs {
    let (queries, rows) = (lay(coder, &case.queries), lay(coder, &case.rows));
    let thresholds = coder.thresholds(&case.scores);
    let width = coder.width();
    let mut kept = Vec::new();
    for q in 0..case.queries.len() {
        for r in 0..case.rows.len() {
            let sum =
                codes::dot(&queries.codes[q * width..][..width], &rows.codes[r * width..][..width]);
            if is_candidate(sum, queries.slacks[q] + rows.slacks[r], thresholds) {
                kept.push((q as u32, r as u32));
            }
        }
    }
    kept
}

fn hits(case: &Case) -> Vec<(u32, u32, i32)> {
    let mut rows = Rows::new(case.dim);
    case.rows.iter().for_each(|row| {
        rows.push(row);
    });
    let queries: Vec<&[i16]> = case.queries.iter().map(|q| &q[..]).collect();
    let mut hits = Vec::new();
    scan_naive(&queries, &rows, 0..rows.len(), *case.scores.start(), &mut |q, r, score| {
        if case.scores.contains(&score) {
            hits.push((q as u32, r as u32, score));
        }
    });
    hits.sort_unstable();
    hits
}

fn check(case: &Case, seed: u64) {
    let coder = Coder::new(case.dim);
    let twin = filter_twin(case, &coder);
    let (kept, number) = filter(case, &coder, 0, twin.len(), seed);
    assert_eq!(number, twin.len() as u64, "{}, seed {seed}", case.name);
    assert_eq!(kept, twin, "{}, seed {seed}", case.name);
    let blocks = 1 + seed as usize % 3;
    assert_eq!(decide(case, &coder, &kept, blocks, seed), hits(case), "{}, seed {seed}", case.name);
}

#[test]
fn every_case_is_decided_as_on_the_cpu() {
    let seed = cases::fresh_seed();
    println!("seed {seed}");
    let mut random = Random::new(seed);
    for (queries, rows, dim) in [(1, 1, 1), (3, 130, 65), (129, 2, 33), (5, 140, 330)] {
        for case in Case::all(&mut random, quantize_all, queries, rows, dim) {
            check(&case, random.next());
        }
    }
}

fn quantize_all(x: &[f32]) -> Option<Box<[i16]>> {
    quantize(x)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, ..ProptestConfig::default() })]

    #[test]
    fn any_shape_is_decided_as_on_the_cpu(
        queries in 1usize..140, rows in 1usize..280, dim in 1usize..200, seed in any::<u64>()
    ) {
        let mut random = Random::new(seed);
        let cases = Case::all(&mut random, quantize_all, queries, rows, dim);
        let pick = random.below(cases.len());
        check(&cases[pick], seed);
    }
}

#[test]
fn what_does_not_fit_is_counted_and_not_written() {
    let mut random = Random::new(1);
    let case = &Case::all(&mut random, quantize_all, 40, 200, 64)[0];
    let everything = Case { scores: i32::MIN..=i32::MAX, ..case.clone() };
    let coder = Coder::new(64);
    for capacity in [0, 1, 31, 1000, 8000] {
        let (kept, number) = filter(&everything, &coder, 7, capacity, 3);
        assert_eq!(number, 40 * 200);
        assert_eq!(kept.len(), capacity);
        assert!(kept.iter().all(|&(q, r)| q < 40 && (7..207).contains(&r)), "rows are shifted");
        assert!(kept.is_sorted() && kept.windows(2).all(|p| p[0] != p[1]), "none twice");
    }
}

#[test]
fn the_emulator_sees_faults() {
    // A buffer that is one row short, as an unchecked launch would pass it.
    let mut random = Random::new(1);
    let case = &Case::all(&mut random, quantize_all, 3, 5, 64)[0];
    let coder = Coder::new(64);
    let candidates: Pairs = vec![(2, 4)];
    let laid = lay(&coder, &case.rows);
    let short = bytes(&laid.vectors[..4 * 64], i16::to_le_bytes);
    let arguments = [
        bytes(&lay(&coder, &case.queries).vectors, i16::to_le_bytes),
        short,
        64u32.to_le_bytes().to_vec(),
        candidates.iter().flat_map(|p| [p.0.to_le_bytes(), p.1.to_le_bytes()].concat()).collect(),
        1u64.to_le_bytes().to_vec(),
        i32::MIN.to_le_bytes().to_vec(),
        i32::MAX.to_le_bytes().to_vec(),
        vec![0; 12],
        vec![0; 8],
    ];
    let result = emulate("rescore", 1, 1, &arguments);
    let guarded = std::fs::read(emulator()).unwrap().windows(6).any(|w| w == b"__asan");
    assert_eq!(result.is_err(), guarded, "{result:?}");
}

proptest! {
    #[test]
    fn passes_cover_the_rows_once_in_order(
        start in 0usize..1000, len in 0usize..100_000, least in 1usize..50, weights in any::<u64>()
    ) {
        // Rows weigh differently; a pass overflows beyond 60.
        let weight = |row: usize| (weights.rotate_left((row / 97) as u32) & 3) as usize;
        let mut covered = start;
        let mut tries = 0;
        in_passes(start..start + len, least, |rows| {
            tries += 1;
            assert_eq!(rows.start, covered);
            let fits = rows.len() <= least || rows.clone().map(weight).sum::<usize>() <= 60 * least;
            if fits {
                covered = rows.end;
            }
            Ok(fits)
        }).unwrap();
        prop_assert_eq!(covered, start + len);
        prop_assert!(tries <= 4 * len / least + 64, "{} tries", tries);
    }
}

#[test]
fn a_pass_that_cannot_overflow_and_does_is_an_error() {
    let stuck = in_passes(0..100, 10, |_| Ok(false)).unwrap_err();
    assert!(matches!(stuck, Error::Shape(_)), "{stuck}");
    let failed = in_passes(0..100, 10, |_| Err(Error::Unavailable("gone".to_string())));
    assert_eq!(failed, Err(Error::Unavailable("gone".to_string())));
}

#[test]
fn no_launch_has_more_blocks_than_work() {
    assert_eq!(blocks_of_candidates(1, 1), 1);
    assert_eq!(blocks_of_candidates(128, 129), 2);
    assert_eq!(blocks_of_candidates(QUERIES_PER_PASS, 20_000_000), 16 * 156_250);
    assert_eq!(blocks_of_rescore(1, 132), 1);
    assert_eq!(blocks_of_rescore(257, 132), 2);
    assert_eq!(blocks_of_rescore(CANDIDATES_PER_PASS, 132), 8 * 132);
}
