//! Every path against the oracle.

use super::*;
use crate::vector::quantize;
use proptest::prelude::*;

/// A small generator, so that a seed replays a failure without a dependency.
fn noise(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(2) + 1;
    move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

fn unit_vectors(n: usize, dim: usize, seed: u64) -> Vec<Box<[i16]>> {
    let mut next = noise(seed);
    let vector = |_| loop {
        let x: Vec<f32> = (0..dim).map(|_| next()).collect();
        if let Some(v) = quantize(&x) {
            return v;
        }
    };
    (0..n).map(vector).collect()
}

fn matrix(dim: usize, vectors: &[Box<[i16]>]) -> Rows {
    let mut rows = Rows::new(dim);
    for v in vectors {
        rows.push(v);
    }
    rows
}

type Hits = Vec<(usize, usize, i32)>;

fn hits(path: ScanFn, queries: &[Box<[i16]>], rows: &Rows, range: Range<usize>, lo: i32) -> Hits {
    sorted(queries, |queries, hit| path(&Packed::new(rows.dim(), queries), rows, range, lo, hit))
}

fn naive_hits(queries: &[Box<[i16]>], rows: &Rows, range: Range<usize>, lo: i32) -> Hits {
    sorted(queries, |queries, hit| scan_naive(queries, rows, range, lo, hit))
}

fn sorted(
    queries: &[Box<[i16]>],
    path: impl FnOnce(&[&[i16]], &mut dyn FnMut(usize, usize, i32)),
) -> Hits {
    let queries: Vec<&[i16]> = queries.iter().map(|q| &**q).collect();
    let mut hits = Vec::new();
    path(&queries, &mut |q, r, s| hits.push((q, r, s)));
    hits.sort_unstable();
    hits
}

fn assert_all_equal(queries: &[Box<[i16]>], rows: &Rows, range: Range<usize>, lo: i32) {
    let expected = naive_hits(queries, rows, range.clone(), lo);
    let found = sorted(queries, |queries, hit| scan(queries, rows, range.clone(), lo, hit));
    assert_eq!(found, expected, "scan");
    for (name, path) in paths() {
        let found = hits(path, queries, rows, range.clone(), lo);
        assert_eq!(found, expected, "{name}, dim {}, rows {range:?}, lo {lo}", rows.dim());
    }
}

#[test]
fn every_dimension() {
    for dim in (1..=70).chain([255, 256, 257, 768, 1024]) {
        let vectors = unit_vectors(23, dim, dim as u64);
        let rows = matrix(dim, &vectors);
        for lo in [i32::MIN, 0, 1 << 28, i32::MAX] {
            assert_all_equal(&vectors[..7], &rows, 0..23, lo);
        }
    }
}

#[test]
fn every_remainder_of_queries_and_rows() {
    let vectors = unit_vectors(14, 40, 3);
    let rows = matrix(40, &vectors);
    for queries in 0..=9 {
        for start in 0..=5 {
            for end in start..=14 {
                assert_all_equal(&vectors[..queries], &rows, start..end, 0);
            }
        }
    }
}

#[test]
fn more_than_one_block() {
    let vectors = unit_vectors(1500, 256, 9);
    let rows = matrix(256, &vectors);
    assert!(rows.bytes() > 2 * BLOCK_BYTES);
    assert_all_equal(&vectors[..5], &rows, 3..1499, 1 << 27);
}

#[test]
fn equal_to_the_threshold_is_a_hit_and_one_below_is_not() {
    let vectors = unit_vectors(12, 64, 5);
    let rows = matrix(64, &vectors);
    for (q, r, score) in naive_hits(&vectors, &rows, 0..12, i32::MIN) {
        for (name, path) in paths() {
            assert!(hits(path, &vectors, &rows, 0..12, score).contains(&(q, r, score)), "{name}");
            assert!(
                !hits(path, &vectors, &rows, 0..12, score + 1).contains(&(q, r, score)),
                "{name}"
            );
        }
    }
}

#[test]
fn the_largest_components_there_are() {
    for dim in [1, 2, 31, 32, 33, 70, 768] {
        // The sums of the last two wrap, in every path alike.
        let extreme: Vec<Box<[i16]>> = [i16::MAX, -i16::MAX, 0, i16::MIN]
            .iter()
            .map(|&x| vec![x; dim].into_boxed_slice())
            .collect();
        let rows = matrix(dim, &extreme);
        for lo in [i32::MIN, -1, 0, 1, i32::MAX] {
            assert_all_equal(&extreme, &rows, 0..4, lo);
        }
    }
}

#[test]
fn nothing_to_scan() {
    let vectors = unit_vectors(3, 8, 1);
    assert_all_equal(&vectors, &Rows::new(8), 0..0, i32::MIN);
    assert_all_equal(&[], &matrix(8, &vectors), 0..3, i32::MIN);
    assert_all_equal(&vectors, &matrix(8, &vectors), 2..2, i32::MIN);
}

#[test]
fn rows_are_what_was_put_there() {
    let vectors = unit_vectors(5, 37, 2);
    let mut rows = matrix(37, &vectors);
    assert_eq!((rows.len(), rows.dim(), rows.stride(), rows.is_empty()), (5, 37, 64, false));
    assert_eq!(rows.push(&vectors[0]), 5);
    rows.set(2, &vectors[4]);
    rows.clear(3);
    assert_eq!(rows.row(5), &*vectors[0]);
    assert_eq!(rows.row(2), &*vectors[4]);
    assert_eq!(rows.row(3), &[0; 37]);
    assert_eq!(rows.row(1), &*vectors[1]);
    assert_all_equal(&vectors, &rows, 0..6, 0);
}

#[test]
#[should_panic(expected = "rows 0..2 of 1")]
fn refuses_rows_that_do_not_exist() {
    scan(&[&[1]], &matrix(1, &[Box::new([1])]), 0..2, 0, &mut |_, _, _| {});
}

#[test]
#[should_panic(expected = "dimension")]
fn refuses_a_query_of_another_dimension() {
    scan(&[&[1, 2]], &matrix(1, &[Box::new([1])]), 0..1, 0, &mut |_, _, _| {});
}

proptest! {
    #[test]
    fn any_components(
        dim in 1usize..100,
        queries in 0usize..10,
        n in 0usize..40,
        seed: u64,
        lo in -1_000_000_000i32..1_000_000_000,
    ) {
        let mut next = noise(seed);
        let mut any = |n: usize| -> Vec<Box<[i16]>> {
            (0..n).map(|_| (0..dim).map(|_| (next() * 32767.0) as i16).collect()).collect()
        };
        let (queries, vectors) = (any(queries), any(n));
        assert_all_equal(&queries, &matrix(dim, &vectors), 0..n, lo);
    }
}
