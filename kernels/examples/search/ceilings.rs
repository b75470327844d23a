//! What the processor can do at all: products of bytes in registers, and reading.
#![allow(unsafe_code)]

use std::{
    fmt,
    hint::black_box,
    time::{Duration, Instant},
};

/// With all threads at once.
pub struct Ceilings {
    /// Multiplications and additions of bytes in registers, a second; 0 where there is no
    /// instruction for them.
    pub byte_ops: f64,
    /// Bytes read from memory a second.
    pub bandwidth: f64,
}

impl Ceilings {
    pub fn json(&self) -> String {
        format!("{{\"byte_ops\": {:.4e}, \"bandwidth\": {:.4e}}}", self.byte_ops, self.bandwidth)
    }
}

impl fmt::Display for Ceilings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ops, bandwidth) = (self.byte_ops / 1e12, self.bandwidth / 1e9);
        write!(f, "ceilings: {ops:.3} TOP/s of bytes in registers, {bandwidth:.1} GB/s read")
    }
}

pub fn measure(threads: usize) -> Ceilings {
    let byte_ops = best_of(threads, 15, || (), |()| byte_ops());
    let memory = || vec![1u64; (256 << 20) / 8];
    let bandwidth = best_of(threads, 7, memory, |memory| {
        let sums = memory.as_chunks::<16>().0.iter().fold([0u64; 16], |mut sums, chunk| {
            sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum = sum.wrapping_add(*x));
            sums
        });
        black_box(sums);
        (memory.len() * 8) as f64
    });
    Ceilings { byte_ops, bandwidth }
}

/// The sum of all threads' rates in the best of `rounds`, which begin together.
fn best_of<T>(
    threads: usize,
    rounds: usize,
    prepare: impl Fn() -> T + Sync,
    work: impl Fn(&T) -> f64 + Sync,
) -> f64 {
    let barrier = std::sync::Barrier::new(threads);
    let rates: Vec<Vec<f64>> = std::thread::scope(|scope| {
        let one = || {
            let prepared = prepare();
            let round = |_| {
                barrier.wait();
                let start = Instant::now();
                let done = work(&prepared);
                done / start.elapsed().max(Duration::from_nanos(1)).as_secs_f64()
            };
            (0..rounds).map(round).collect()
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        running.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    });
    (0..rounds).map(|round| rates.iter().map(|of| of[round]).sum()).fold(0.0, f64::max)
}

#[cfg(target_arch = "x86_64")]
fn byte_ops() -> f64 {
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
        // SAFETY: the processor has the features.
        return unsafe { vpdpbusd() };
    }
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { vpmaddwd() };
    }
    0.0
}

#[cfg(not(target_arch = "x86_64"))]
fn byte_ops() -> f64 {
    0.0
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
fn vpdpbusd() -> f64 {
    use std::arch::x86_64::*;
    const ROUNDS: usize = 4_000_000;
    let (a, b) = (black_box(_mm512_set1_epi32(0x0102_0304)), black_box(_mm512_set1_epi32(0x0101)));
    let mut sums = [_mm512_setzero_si512(); 16];
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, a, b);
        }
    }
    black_box(sums);
    (ROUNDS * 16 * 64 * 2) as f64
}

/// Bytes widened to 16 bits, as the AVX2 path multiplies them: a product and an addition each.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn vpmaddwd() -> f64 {
    use std::arch::x86_64::*;
    const ROUNDS: usize = 4_000_000;
    let (a, b) = (black_box(_mm256_set1_epi16(3)), black_box(_mm256_set1_epi16(5)));
    let mut sums = [_mm256_setzero_si256(); 12];
    for _ in 0..ROUNDS {
        let a = black_box(a);
        for sum in &mut sums {
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(a, b));
        }
    }
    black_box(sums);
    (ROUNDS * 12 * 16 * 2) as f64
}
