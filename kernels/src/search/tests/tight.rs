//! Pairs that meet the bound exactly: where a constant of it is one too small, one of them is lost.
//!
//! Without a remainder nothing is rounded. Let `m` be integers, few of them not zero; the vector
//! `g·m` is rotated to `g·c`, where `c` is the rotated `m`, so its code is `c` and its slack 0, and
//! scores are products of codes but for a factor. A vector and itself then meet the inequality of
//! the means too: what the stages behind give is what their reaches say, if the sums of squares are
//! even, which an even sum of `m` makes them.
//!
//! With a remainder the bound is met by `(g − 1)·m`: rotated to `(g − 1)·c`, its code is `c` and its
//! remainder `−c`, so remainder and vector are parallel and Cauchy–Schwarz is an equation; between
//! such a vector and its negative all three terms have one sign. If `g·|m|` is as long as a vector
//! can be, nothing is left but what is rounded up.

use super::*;

/// Some `m` whose squares add up to `length`; if that is even, the codes of `g·m` are even too.
fn lattice(coder: &Coder, length: i64, next: &mut impl FnMut() -> f32) -> Vec<i64> {
    let mut draw = |below: usize| ((next() + 1.0) / 2.0 * below as f32) as usize % below;
    loop {
        let (mut m, mut left) = (vec![0i64; coder.dim()], length);
        while left > 0 {
            let most = left.isqrt() as usize;
            let x = 1 + draw(most.min(27)) as i64;
            let (at, sign) = (draw(coder.dim()), if draw(2) == 0 { 1 } else { -1 });
            if m[at] == 0 {
                m[at] = sign * x;
                left -= x * x;
            }
        }
        // Each component of a code is a sum of some of these.
        let of_block = |block: &[i64]| block.iter().map(|x| x.abs()).sum::<i64>();
        let fits = |sum: i64| sum <= 127 && (length % 2 == 1 || sum % 2 == 0);
        if m.chunks(coder.block()).all(|block| fits(of_block(block))) {
            return m;
        }
    }
}

fn times(m: &[i64], factor: i64) -> Vector {
    m.iter().map(|&x| (x * factor) as i16).collect()
}

/// The code, its slack and its reaches.
fn code(coder: &Coder, v: &[i16]) -> (Vec<i8>, i32, Vec<i32>) {
    let (mut code, mut reaches) = (vec![0; coder.width()], vec![0; coder.stages()]);
    let slack = coder.encode(v, &mut code);
    coder.reaches(&code, slack, &mut reaches);
    (code, slack, reaches)
}

/// The longest that vectors of the form `g·m` are: the sum of squares of `m`.
fn longest(coder: &Coder) -> i64 {
    let step = coder.step();
    let most = 32768 + (0.5 * (coder.dim() as f64).sqrt()).ceil() as i64;
    most * most / (step * step)
}

const DIMS: [usize; 7] = [64, 128, 256, 384, 512, 768, 1024];

/// By the query's floor, by the row's, and by both edges of what is asked for; whatever the stage
/// from which on the filter asks.
#[test]
fn a_reach_that_is_met_exactly_loses_nothing() {
    for dim in DIMS {
        let coder = Coder::new(dim);
        let mut next = noise(dim as u64);
        let length = |i: i64| (longest(&coder) - 40 - i % 7) / 2 * 2;
        let all: Vec<Vector> =
            (0..30).map(|i| times(&lattice(&coder, length(i), &mut next), coder.step())).collect();
        let mut rows = coded(dim, &all);
        for (i, v) in all.iter().enumerate() {
            let (code, slack, reaches) = code(&coder, v);
            let score = dot_naive(v, v);
            let whole = crate::codes::dot(&code, &code);
            assert_eq!((slack, coder.thresholds(&(score..=score))), (0, (whole, whole)));
            for (stage, reach) in reaches.iter().enumerate() {
                let end = coder.width().min((stage + 1) * coder.stage_width());
                let sum = crate::codes::dot(&code[..end], &code[..end]);
                assert_eq!(sum + 2 * reach, whole, "dim {dim}: stage {stage} is met exactly");
            }
            let queries = &all[i..=i];
            let expected = |sides, floor_q, floor_r| {
                let mut rows = coded(dim, &all);
                (0..30).for_each(|r| rows.set_floor(r, floor_r));
                expected(queries, &[floor_q], &rows, 0..30, score..=score, sides)
            };
            for check in 0..coder.stages() {
                for (floor_q, floor_r, sides) in
                    [(score, NEVER, Sides::Queries), (NEVER, score, Sides::Both)]
                {
                    (0..30).for_each(|r| rows.set_floor(r, floor_r));
                    let expected = expected(sides, floor_q, floor_r);
                    assert!(expected.contains(&(0, i, score)));
                    for path in paths() {
                        rows.set_check(check);
                        let (scores, range) = (score..=score, 0..30);
                        let found =
                            found(path, queries, &[floor_q], &mut rows, range, scores, sides);
                        let what = (path.name, dim, check, sides);
                        assert_eq!(found, expected, "{what:?}");
                    }
                }
            }
        }
    }
}

/// The slack, from below and from above: were it less by one, the pair would be lost. And none is.
#[test]
fn a_slack_that_is_met_exactly_loses_nothing() {
    let mut exactly = 0;
    for dim in DIMS {
        let coder = Coder::new(dim);
        let m = lattice(&coder, longest(&coder), &mut noise(dim as u64 + 1));
        let pair = [times(&m, coder.step() - 1), times(&m, 1 - coder.step())];
        let [(a, a_slack, _), (b, b_slack, _)] = [code(&coder, &pair[0]), code(&coder, &pair[1])];
        assert!(a_slack > 1 && a_slack == b_slack, "{a_slack} {b_slack}");
        let (below, above) = (dot_naive(&pair[0], &pair[1]), dot_naive(&pair[0], &pair[0]));
        let (least, _) = coder.thresholds(&(below..=i32::MAX));
        let (_, most) = coder.thresholds(&(i32::MIN..=above));
        let to_spare = [
            crate::codes::dot(&a, &b) + 2 * a_slack - least,
            most - (crate::codes::dot(&a, &a) - 2 * a_slack),
        ];
        // What is rounded up, once in each slack and in the lengths that they are made of.
        println!("dim {dim}: slack {a_slack}, to spare {to_spare:?}");
        assert!(to_spare.iter().all(|spare| (0..=4).contains(spare)), "dim {dim}: {to_spare:?}");
        exactly += usize::from(to_spare == [0, 0]);
        let mut rows = coded(dim, &pair);
        for (scores, floor) in [(below..=UNIT, below), (-UNIT..=above, above)] {
            let sides = Sides::Queries;
            let hits = assert_all_equal(&pair, &[floor; 2], &mut rows, 0..2, scores, sides);
            assert!(hits > 0);
        }
    }
    assert!(exactly >= 2, "only {exactly} are met exactly");
}
