//! Vectors that try to find a difference: used on the device, and on the CPU by the emulator.

use std::ops::RangeInclusive;
use std::time::{SystemTime, UNIX_EPOCH};

/// xorshift64*, Vigna 2016.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed ^ 0x9e37_79b9_7f4a_7c15 | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: usize) -> usize {
        ((self.next() >> 32) as usize) % n
    }

    /// Within −1 to 1; a sum of two is near enough to a bell for this.
    pub fn component(&mut self) -> f32 {
        let uniform = |x: u64| (x >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
        uniform(self.next()) + uniform(self.next())
    }
}

/// A seed that no earlier run had; print it.
pub fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    now.as_nanos() as u64
}

/// Queries, rows and the scores to find.
#[derive(Clone)]
pub struct Case {
    pub name: String,
    pub dim: usize,
    pub queries: Vec<Vec<i16>>,
    pub rows: Vec<Vec<i16>>,
    pub scores: RangeInclusive<i32>,
}

/// How [`Case::all`] makes a vector of 16-bit components: `kernels::vector::quantize`.
pub type Quantize = fn(&[f32]) -> Option<Box<[i16]>>;

const UNIT: i32 = 1 << 30;

impl Case {
    /// One case of each kind, of these sizes.
    pub fn all(
        random: &mut Random,
        quantize: Quantize,
        queries: usize,
        rows: usize,
        dim: usize,
    ) -> Vec<Case> {
        let mut cases = Vec::new();
        let mut add = |kind: &str, scores, queries: Vec<Vec<i16>>, rows: Vec<Vec<i16>>| {
            let name = format!("{kind}, {} × {} × {dim}", queries.len(), rows.len());
            cases.push(Case { name, dim, queries, rows, scores });
        };
        let mut many = |n: usize, make: &mut dyn FnMut(usize, &mut Random) -> Vec<f32>| {
            let vector = |i| {
                let drawn = make(i, random);
                quantize(&drawn).map_or(vec![0; dim], |v| v.into_vec())
            };
            (0..n).map(vector).collect::<Vec<Vec<i16>>>()
        };
        let mut noise = |_, random: &mut Random| (0..dim).map(|_| random.component()).collect();

        let (q, r) = (many(queries, &mut noise), many(rows, &mut noise));
        add("noise", UNIT / 10..=i32::MAX, q.clone(), r.clone());
        add("noise, a band", -UNIT / 20..=UNIT / 20, q.clone(), r.clone());
        add("noise, one score", 0..=0, q, r);

        // Copies that differ by less and less, down to none: scores at the upper edge of a band.
        let center: Vec<f32> = many(1, &mut noise)[0].iter().map(|&x| f32::from(x)).collect();
        let mut near = |i: usize, random: &mut Random| {
            let size = 32768.0 / (dim as f32).sqrt() * 0.5f32.powi((i % 24) as i32);
            center.iter().map(|&x| x + size * random.component()).collect()
        };
        let (q, r) = (many(queries, &mut near), many(rows, &mut near));
        add("one cluster, a band", UNIT / 10 * 8..=UNIT / 100 * 96, q.clone(), r.clone());
        add("one cluster, near-duplicates", UNIT / 100 * 99..=i32::MAX, q, r);

        // All in one component, as the codes' rotation is there for; some of the zero vector.
        let mut spike = |i: usize, random: &mut Random| {
            let at = random.below(dim);
            (0..dim).map(|k| if k == at && !i.is_multiple_of(5) { 1.0 } else { 0.0 }).collect()
        };
        let (q, r) = (many(queries, &mut spike), many(rows, &mut spike));
        add("one component each", UNIT / 2..=i32::MAX, q.clone(), r.clone());
        add("opposites too", i32::MIN..=0, q, r);

        // What no rounding produces: sums wrap, and must wrap alike.
        let mut wild = |n: usize| -> Vec<Vec<i16>> {
            let extreme = [i16::MIN, i16::MAX, 0, -1, 1];
            let component = |random: &mut Random| match random.below(3) {
                0 => extreme[random.below(extreme.len())],
                _ => random.next() as i16,
            };
            (0..n).map(|_| (0..dim).map(|_| component(random)).collect()).collect()
        };
        let (q, r) = (wild(queries), wild(rows));
        add("any 16 bits", i32::MIN..=0, q.clone(), r.clone());
        add("any 16 bits, everything", i32::MIN..=i32::MAX, q, r);
        cases
    }
}
