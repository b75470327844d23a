//! Every path against the oracle, and a hunt for pairs that the filter loses.

use std::sync::Arc;

use super::*;
use crate::codes::Coder;
use crate::similarity::{Rows, scan_naive};
use crate::vector::{UNIT, dot_naive, quantize};
use proptest::prelude::*;

mod tight;

type Vector = Box<[i16]>;

/// A small generator, so that a seed replays a failure without a dependency.
fn noise(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(2) + 1;
    move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// What corpora the hunt is made in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Independent directions.
    Noise,
    /// Around a few centres, at many distances.
    Clusters,
    /// One component is nearly everything.
    OneDominates,
    /// A few components are much larger, as in image encoders.
    Outliers,
    /// All the same but for the last digit of one component.
    NearlyEqual,
    AllEqual,
    /// In one stage of the code lies everything, in the next one nothing.
    Sparse,
}

const SHAPES: [Shape; 7] = [
    Shape::Noise,
    Shape::Clusters,
    Shape::OneDominates,
    Shape::Outliers,
    Shape::NearlyEqual,
    Shape::AllEqual,
    Shape::Sparse,
];

fn vectors(shape: Shape, n: usize, dim: usize, seed: u64) -> Vec<Vector> {
    let mut next = noise(seed);
    let mut noise = || (0..dim).map(|_| next()).collect::<Vec<f32>>();
    let centres: Vec<Vec<f32>> = (0..3).map(|_| noise()).collect();
    let mut one = |i: usize| {
        let mut x = noise();
        let apart = (i % 17) as f32 / 8.0;
        match shape {
            Shape::Noise => {}
            Shape::Clusters => {
                x = centres[i % 3].iter().zip(&x).map(|(c, x)| c + apart * x).collect();
            }
            Shape::OneDominates => x[seed as usize % dim] += 40.0,
            Shape::Outliers => (0..dim).step_by(dim / 8 + 1).for_each(|k| x[k] *= 20.0),
            Shape::NearlyEqual | Shape::AllEqual => x = centres[0].clone(),
            Shape::Sparse => x[(i % 2) * dim / 2..][..dim / 2].fill(0.0),
        }
        let mut v = quantize(&x)?;
        if shape == Shape::NearlyEqual {
            v[i % dim] = v[i % dim].saturating_add(1);
        }
        Some(v)
    };
    (0..n).map(|i| one(i).expect("noise is not zero")).collect()
}

fn coded(dim: usize, vectors: &[Vector]) -> CodedRows {
    let mut rows = CodedRows::new(dim);
    vectors.iter().for_each(|v| {
        rows.push(Arc::from(&**v));
    });
    rows
}

/// The vectors alone, as the oracle takes them.
fn plain(rows: &CodedRows) -> Rows {
    let mut plain = Rows::new(rows.dim());
    (0..rows.len()).for_each(|r| {
        plain.push(rows.row(r));
    });
    plain
}

fn slices(vectors: &[Vector]) -> Vec<&[i16]> {
    vectors.iter().map(|v| &**v).collect()
}

type Hits = Vec<(usize, usize, i32)>;

/// What one search finds while floors stay.
fn found(
    path: Path,
    queries: &[Vector],
    floors: &[i32],
    rows: &mut CodedRows,
    range: Range<usize>,
    scores: RangeInclusive<i32>,
    sides: Sides,
) -> Hits {
    let mut hits = Vec::new();
    let of_rows: Vec<i32> = (0..rows.len()).map(|r| rows.floor(r)).collect();
    let mut queries = Queries::new(rows, &slices(queries), floors.to_vec());
    search_by(path, &mut queries, rows, range, scores, sides, &mut |q, r, score| {
        hits.push((q, r, score));
        Floors { query: floors[q], row: of_rows[r] }
    });
    hits.sort_unstable();
    hits
}

fn expected(
    queries: &[Vector],
    floors: &[i32],
    rows: &CodedRows,
    range: Range<usize>,
    scores: RangeInclusive<i32>,
    sides: Sides,
) -> Hits {
    let mut hits = Vec::new();
    let both = sides == Sides::Both;
    scan_naive(&slices(queries), &plain(rows), range, i32::MIN, &mut |q, r, score| {
        let wanted = score >= floors[q] || both && score >= rows.floor(r);
        if wanted && scores.contains(&score) {
            hits.push((q, r, score));
        }
    });
    hits.sort_unstable();
    hits
}

fn assert_all_equal(
    queries: &[Vector],
    floors: &[i32],
    rows: &mut CodedRows,
    range: Range<usize>,
    scores: RangeInclusive<i32>,
    sides: Sides,
) -> usize {
    let expected = expected(queries, floors, rows, range.clone(), scores.clone(), sides);
    for path in paths() {
        let found = found(path, queries, floors, rows, range.clone(), scores.clone(), sides);
        assert_eq!(
            found,
            expected,
            "{}, dim {}, {} queries, rows {range:?}, {scores:?}, {sides:?}",
            path.name,
            rows.dim(),
            queries.len()
        );
    }
    expected.len()
}

#[test]
fn every_shape_of_corpus_and_dimension() {
    let mut hits = 0;
    for dim in [1, 17, 95, 96, 97, 128, 200, 384, 500, 768, 1024] {
        for shape in SHAPES {
            let all = vectors(shape, 75, dim, dim as u64 + shape as u64);
            let mut rows = coded(dim, &all);
            (0..75).step_by(3).for_each(|r| rows.set_floor(r, UNIT / 100 * (r as i32)));
            for low in [-UNIT, 0, UNIT / 2, UNIT / 10 * 8, UNIT / 100 * 99] {
                for sides in [Sides::Queries, Sides::Both] {
                    let range = low..=low.saturating_add(UNIT / 6);
                    let floors = vec![low; 29];
                    hits += assert_all_equal(&all[..29], &floors, &mut rows, 0..75, range, sides);
                }
            }
        }
    }
    assert!(hits > 100_000, "{hits} hits say little");
}

#[test]
fn every_remainder_of_queries_and_rows() {
    let all = vectors(Shape::Clusters, 70, 130, 3);
    let mut rows = coded(130, &all);
    (0..70).for_each(|r| rows.set_floor(r, UNIT / 70 * r as i32));
    for queries in 0..=27 {
        let floors: Vec<i32> = (0..queries as i32).map(|q| UNIT / 30 * q).collect();
        for (start, end) in [(0, 70), (0, 1), (15, 16), (16, 17), (31, 33), (5, 68), (40, 40)] {
            for sides in [Sides::Queries, Sides::Both] {
                let scores = UNIT / 4..=UNIT;
                assert_all_equal(&all[..queries], &floors, &mut rows, start..end, scores, sides);
            }
        }
    }
}

/// The edges of what is asked for lie on scores that occur, and next to them.
#[test]
fn edges_that_are_hit_exactly() {
    for (dim, shape) in [(128, Shape::Clusters), (768, Shape::NearlyEqual), (96, Shape::Outliers)] {
        let all = vectors(shape, 40, dim, 11);
        let mut rows = coded(dim, &all);
        let queries = &all[..5];
        for (q, r) in [(0, 1), (0, 20), (1, 39), (2, 2), (3, 9), (4, 30)] {
            let score = dot_naive(&all[q], &all[r]);
            for off in -1..=1 {
                let (low, high) = (score + off, i32::MAX);
                for scores in [low..=high, i32::MIN..=low, low..=low] {
                    let floors = vec![*scores.start(); 5];
                    let all = (0..40, scores, Sides::Queries);
                    assert_all_equal(queries, &floors, &mut rows, all.0, all.1, all.2);
                }
                // By a floor of the query, and by one of the row.
                let floors = vec![score + off; 5];
                assert_all_equal(queries, &floors, &mut rows, 0..40, -UNIT..=high, Sides::Queries);
                (0..40).for_each(|r| rows.set_floor(r, score + off));
                let never = vec![NEVER; 5];
                assert_all_equal(queries, &never, &mut rows, 0..40, -UNIT..=high, Sides::Both);
            }
        }
    }
}

/// Lists of the best on both sides, whose last scores are the floors: what the search is for.
#[test]
fn lists_come_out_as_without_floors() {
    const ROOM: usize = 3;
    type Lists = Vec<Vec<i32>>;
    fn insert(list: &mut Vec<i32>, score: i32) -> i32 {
        list.push(score);
        list.sort_unstable_by(|a, b| b.cmp(a));
        list.truncate(ROOM);
        if list.len() == ROOM { list[ROOM - 1] } else { 0 }
    }
    for (dim, shape) in SHAPES.map(|shape| (160, shape)).into_iter().chain([(40, Shape::Clusters)])
    {
        let all = vectors(shape, 300, dim, 5);
        let (queries, corpus) = all.split_at(50);
        let mut lists: (Lists, Lists) = (vec![vec![]; 50], vec![vec![]; 250]);
        let scores = 0..=UNIT / 100 * 97;
        scan_naive(&slices(queries), &plain(&coded(dim, corpus)), 0..250, 0, &mut |q, r, score| {
            if scores.contains(&score) {
                insert(&mut lists.0[q], score);
                insert(&mut lists.1[r], score);
            }
        });
        for path in paths() {
            let mut rows = coded(dim, corpus);
            (0..250).for_each(|r| rows.set_floor(r, 0));
            let mut own: (Lists, Lists) = (vec![vec![]; 50], vec![vec![]; 250]);
            let mut queries = Queries::new(&rows, &slices(queries), vec![0; 50]);
            let mut hits = 0;
            let range = 0..250;
            let hit: Hit<'_> = &mut |q, r, score| {
                hits += 1;
                let query = insert(&mut own.0[q], score);
                Floors { query, row: insert(&mut own.1[r], score) }
            };
            search_by(path, &mut queries, &mut rows, range, scores.clone(), Sides::Both, hit);
            assert!(own == lists, "{} {shape:?}", path.name);
            assert!(hits < 250 * 50 / 2, "{} {shape:?}: {hits} hits", path.name);
        }
    }
}

/// However it is done, a dense corpus is not filtered pair by pair.
#[test]
fn what_is_dense_is_multiplied_in_tiles() {
    let all = vectors(Shape::NearlyEqual, 2_000, 128, 1);
    let mut rows = coded(128, &all);
    let floors = vec![0; 20];
    let hits =
        assert_all_equal(&all[..20], &floors, &mut rows, 0..2_000, 0..=i32::MAX, Sides::Both);
    assert_eq!(hits, 20 * 2_000);
}

/// Rows come and go in any order, across panels and chunks: what is there is found where it is, and
/// of what was there nothing is left.
#[test]
fn rows_are_what_was_put_there() {
    // Long codes, of which a chunk has few.
    for dim in [40, 300, 8_000] {
        let all = vectors(Shape::Noise, if dim > 1_000 { 600 } else { 100 }, dim, 2);
        let mut rows = CodedRows::new(dim);
        let mut now: Vec<(Vector, i32)> = Vec::new();
        let mut next = noise(dim as u64);
        let mut draw = |below: usize| ((next() + 1.0) / 2.0 * below as f32) as usize % below;
        let mut most = 0;
        for (phase, more) in [(0, 3), (1, 1), (2, 3), (3, 0)] {
            for v in &all {
                if draw(4) < more {
                    let floor = draw(1_000) as i32;
                    assert_eq!(rows.push(Arc::from(&**v)), now.len());
                    rows.set_floor(now.len(), floor);
                    now.push((v.clone(), floor));
                } else if !now.is_empty() {
                    let gone = draw(now.len());
                    rows.swap_remove(gone);
                    now.swap_remove(gone);
                }
                assert!(rows.spare_is_clear());
            }
            most = most.max(rows.bytes());
            assert_eq!((rows.len(), rows.dim(), rows.is_empty()), (now.len(), dim, now.is_empty()));
            for (r, (row, floor)) in now.iter().enumerate() {
                assert_eq!((rows.row(r), rows.floor(r)), (&**row, *floor), "phase {phase}");
            }
            let queries = &all[..12];
            let range = 0..rows.len();
            let floors = vec![-UNIT; 12];
            let scores = -UNIT..=UNIT / 2;
            assert_all_equal(queries, &floors, &mut rows, range.clone(), scores, Sides::Queries);
            let never = vec![NEVER; 12];
            assert_all_equal(queries, &never, &mut rows, range, -UNIT..=UNIT, Sides::Both);
        }
        while !rows.is_empty() {
            rows.swap_remove(rows.len() / 2);
        }
        // What a few rows need stays; what many needed does not.
        let left = rows.bytes();
        assert!(left * 4 <= most, "{left} bytes of {most} for no rows");
    }
}

/// However many rows there are, no more is spare than half of them or a chunk.
#[test]
fn a_row_takes_a_byte_for_each_component() {
    let dim = 768;
    let row: Arc<[i16]> = Arc::from(&*vectors(Shape::Noise, 1, dim, 1)[0]);
    let mut rows = CodedRows::new(dim);
    let mut most = 0.0f64;
    for n in 1..=20_000usize {
        rows.push(Arc::clone(&row));
        if n >= 10_000 {
            most = most.max(rows.bytes() as f64 / n as f64);
        }
    }
    // A code, 8 reaches, a floor, what it wants, and where the vector is; vectors of those double.
    assert!(most <= 768.0 + 4.0 * 8.0 + 2.0 * (4.0 + 4.0 + 16.0) + 450.0, "{most} bytes a row");
    let each = rows.bytes() as f64 / 20_000.0;
    assert!(each < 768.0 + 32.0 + 2.0 * 24.0 + 210.0, "{each} bytes a row");
}

#[test]
#[should_panic(expected = "rows 0..2 of 1")]
fn refuses_rows_that_do_not_exist() {
    let mut rows = coded(1, &[Box::new([1])]);
    let mut queries = Queries::new(&rows, &[&[1]], vec![0]);
    let floors = Floors { query: 0, row: 0 };
    search(&mut queries, &mut rows, 0..2, 0..=1, Sides::Both, &mut |_, _, _| floors);
}

#[test]
#[should_panic(expected = "dimension")]
fn refuses_a_query_of_another_dimension() {
    Queries::new(&coded(1, &[Box::new([1])]), &[&[1, 2]], vec![0]);
}

/// The largest sums there are, at the largest dimension there is.
#[test]
fn nothing_overflows() {
    for dim in [97, crate::codes::DIM_MAX] {
        let spike = |sign: i16| {
            let mut v = vec![0i16; dim].into_boxed_slice();
            v[dim / 2] = sign * 32767;
            v
        };
        let flat = |x: i16| vec![x; dim].into_boxed_slice();
        // The last ones are longer than any vector is: nothing can be said of them but that they
        // are candidates, and their scores wrap in every path alike.
        let all =
            [spike(1), spike(-1), flat(362), flat(-362), flat(0), flat(i16::MAX), flat(i16::MIN)];
        let mut rows = coded(dim, &all);
        let floors = vec![i32::MIN; all.len()];
        for sides in [Sides::Queries, Sides::Both] {
            let scores = i32::MIN..=i32::MAX;
            let hits = assert_all_equal(&all, &floors, &mut rows, 0..7, scores, sides);
            assert_eq!(hits, 49);
            for floor in [i32::MIN, -1, 0, 1, UNIT, NEVER - 1, NEVER] {
                (0..7).for_each(|r| rows.set_floor(r, floor));
                assert_all_equal(&all, &[floor; 7], &mut rows, 0..7, -UNIT..=i32::MAX, sides);
            }
        }
    }
}

proptest! {
    #[test]
    fn any_corpus(
        dim in 1usize..600, n in 1usize..70, queries in 1usize..30,
        shape in 0..SHAPES.len(), seed: u64,
        low in -UNIT..UNIT, width in 0..UNIT,
        floors in proptest::collection::vec(any::<i32>(), 100),
    ) {
        let all = vectors(SHAPES[shape], n.max(queries), dim, seed);
        let mut rows = coded(dim, &all[..n]);
        (0..n).for_each(|r| rows.set_floor(r, floors[r]));
        let scores = low..=low.saturating_add(width);
        for sides in [Sides::Queries, Sides::Both] {
            let floors = &floors[70..][..queries];
            assert_all_equal(&all[..queries], floors, &mut rows, 0..n, scores.clone(), sides);
        }
    }

    /// The inequality of [`Coder::reaches`], for any vectors.
    #[test]
    fn no_stage_gives_more_than_its_reach(
        pairs in proptest::collection::vec((any::<i16>(), any::<i16>()), 1..700), near: bool
    ) {
        let (q, mut t): (Vec<i16>, Vec<i16>) = pairs.into_iter().unzip();
        let coder = Coder::new(q.len());
        if near {
            t.clone_from(&q);
        }
        let of = |v: &[i16]| {
            let (mut code, mut reaches) = (vec![0; coder.width()], vec![0; coder.stages()]);
            let slack = coder.encode(v, &mut code);
            coder.reaches(&code, slack, &mut reaches);
            (code, slack, reaches)
        };
        let ((a, a_slack, a_reaches), (b, b_slack, b_reaches)) = (of(&q), of(&t));
        let whole = crate::codes::dot(&a, &b) + a_slack + b_slack;
        for stage in 0..coder.stages() {
            let end = coder.width().min((stage + 1) * coder.stage_width());
            let sum = crate::codes::dot(&a[..end], &b[..end]);
            let most = sum + a_reaches[stage] + b_reaches[stage];
            prop_assert!(whole <= most, "stage {stage}");
            // Without a rest nothing is given away.
            prop_assert!(stage + 1 < coder.stages() || whole == most);
        }
    }
}

/// What the filter is for: of a corpus of directions that have nothing to do with each other,
/// nearly every tile ends early, and nothing is scored but what is found.
#[test]
fn most_tiles_end_early() {
    let all = vectors(Shape::Noise, 400, 768, 8);
    let mut rows = coded(768, &all);
    let queries = Queries::new(&rows, &slices(&all[..24]), vec![UNIT / 10 * 8; 24]);
    let last = rows.pair(0..32, Sides::Queries).stages - 1;
    for path in paths() {
        let mut survivors = Vec::new();
        for first in (32..384).step_by(PAIR) {
            let pair = rows.pair(first..first + PAIR, Sides::Queries);
            for tile in queries.tiles() {
                assert!((path.filter)(tile, &pair, last - 2, &mut survivors), "{}", path.name);
            }
        }
        assert!(survivors.is_empty(), "{}: {survivors:?}", path.name);
    }
    let floors = vec![UNIT / 10 * 8; 24];
    let scores = UNIT / 10 * 8..=i32::MAX;
    assert_all_equal(&all[..24], &floors, &mut rows, 0..400, scores, Sides::Queries);
    assert!(rows.check() < last, "the pace is kept: {}", rows.check());
}
