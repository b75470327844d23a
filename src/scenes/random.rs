//! A small generator of numbers that are the same everywhere and forever.

/// SplitMix64 (Steele, Lea and Flood): one word of state, good enough to place circles.
pub(super) struct Random(u64);

impl Random {
    /// A stream of its own for every list of numbers that names it.
    pub fn of(names: &[u64]) -> Random {
        let mut random = Random(0x6576_6572_7061_6972);
        for &name in names {
            random.0 ^= name;
            random.0 = random.next();
        }
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number under `n`, which is far below 2^32: the bias is too small to see.
    pub fn below(&mut self, n: usize) -> usize {
        (((self.next() >> 32) * n as u64) >> 32) as usize
    }

    /// True so many times in a thousand.
    pub fn permille(&mut self, n: usize) -> bool {
        self.below(1000) < n
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// A multiple of 1/1024 from −`half` to just under `half`.
    pub fn spread(&mut self, half: f32) -> f32 {
        (self.below(2048) as f32 / 1024.0 - 1.0) * half
    }
}
