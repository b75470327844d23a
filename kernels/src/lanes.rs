//! One piece of floating-point code for several instruction sets, with the same result on each.
//!
//! Whatever is declared by `per_path!` is compiled for AVX-512, for AVX2 with FMA and for any
//! processor, and the best one is chosen at run time. The operations of `f32` that it may use (sum,
//! product, quotient, square root, [`f32::mul_add`]) are rounded correctly by IEEE 754, their order is
//! written down (sums run in [`WIDTH`] lanes that are added up as a tree), and the compiler does not
//! change it: the paths agree to the bit.
#![allow(unsafe_code)]

/// Lanes of a sum. The same on every path, or the order of additions would not be.
pub const WIDTH: usize = 16;

/// An instruction set that this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path(pub(crate) Isa);

/// What a [`Path`] stands for. Only [`Path`] makes them, after asking the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Path {
    /// Every path that this processor has, the fastest first.
    pub fn all() -> Vec<Path> {
        let mut paths = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if avx2 && avx512 {
                paths.push(Path(Isa::Avx512));
            }
            if avx2 {
                paths.push(Path(Isa::Avx2));
            }
        }
        paths.push(Path(Isa::Portable));
        paths
    }

    /// The fastest path.
    pub fn best() -> Path {
        Path::all()[0]
    }

    /// `avx512`, `avx2` or `portable`.
    pub fn as_str(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            Isa::Portable => "portable",
        }
    }
}

/// Declares `fn name(path, arguments)`, which calls `body::<Machine>(arguments)`, compiled for the
/// path; `Machine` is the path's [`crate::gemm::Machine`].
macro_rules! per_path {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $body:ident) => {
        $(#[$meta])*
        #[allow(unsafe_code, clippy::too_many_arguments)]
        $vis fn $name(path: $crate::lanes::Path, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx512($($arg: $ty),*) {
                $body::<$crate::gemm::Avx512>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx2($($arg: $ty),*) {
                $body::<$crate::gemm::Avx2>($($arg),*)
            }
            match path.0 {
                // SAFETY: there is such a path only where the processor has its features.
                #[cfg(target_arch = "x86_64")]
                $crate::lanes::Isa::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::lanes::Isa::Avx2 => unsafe { avx2($($arg),*) },
                $crate::lanes::Isa::Portable => $body::<$crate::gemm::Portable>($($arg),*),
            }
        }
    };
}
pub(crate) use per_path;

/// The sum of `f` over `x`: lane i takes the components whose index is i modulo [`WIDTH`], in order.
#[inline(always)]
pub(crate) fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; WIDTH];
    let (chunks, rest) = x.as_chunks::<WIDTH>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f(x);
    }
    let mut half = WIDTH / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// The largest of `x`, or the least number there is. Order does not matter to a maximum.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    let mut lanes = [f32::MIN; WIDTH];
    let (chunks, rest) = x.as_chunks::<WIDTH>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = larger(x, *lane);
        }
    }
    let lanes = lanes.iter().chain(rest);
    lanes.fold(f32::MIN, |most, &x| larger(x, most))
}

/// `e^x` within two units in the last place, for x from -87 to 88; clamped beyond.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding 1.5·2^23 rounds to an integer, which is then in the last bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, the first so short that its product with a small integer is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_HIGH, x);
    let r = n.mul_add(-LN2_LOW, r);
    // Taylor's series: |r| is at most ln(2)/2, so the eighth term is below 2^-27.
    let p = r.mul_add(1.0 / 5040.0, 1.0 / 720.0);
    let p = p.mul_add(r, 1.0 / 120.0);
    let p = p.mul_add(r, 1.0 / 24.0);
    let p = p.mul_add(r, 1.0 / 6.0);
    let p = p.mul_add(r, 0.5);
    let p = (p * r).mul_add(r, r) + 1.0;
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000))
}

/// The error function within 2e-7 (Abramowitz and Stegun, 7.1.26).
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let magnitude = x.abs();
    let t = 1.0 / magnitude.mul_add(0.327_591_1, 1.0);
    let p = t.mul_add(1.061_405_4, -1.453_152_1);
    let p = p.mul_add(t, 1.421_413_8);
    let p = p.mul_add(t, -0.284_496_72);
    let p = p.mul_add(t, 0.254_829_6);
    let y = (-(p * t)).mul_add(exp(-magnitude * magnitude), 1.0);
    y.copysign(x)
}

/// The logistic function.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// What a hidden layer does to each of its components.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x`.
    None,
    /// `x·Φ(x)`, by the error function.
    Gelu,
    /// GELU by its usual approximation with tanh.
    GeluTanh,
    /// `x·σ(1.702 x)`: OpenAI's CLIP.
    QuickGelu,
    /// `x·σ(x)`.
    Silu,
}

impl Activation {
    /// Of one component.
    #[inline(always)]
    pub(crate) fn of(self, x: f32) -> f32 {
        match self {
            Activation::None => x,
            Activation::Gelu => 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)),
            Activation::GeluTanh => {
                // (1 + tanh u) / 2 = σ(2u), with u = √(2/π)·(x + 0.044715 x³).
                let u = 0.797_884_6 * x * (x * x).mul_add(0.044_715, 1.0);
                x * sigmoid(2.0 * u)
            }
            Activation::QuickGelu => x * sigmoid(1.702 * x),
            Activation::Silu => x * sigmoid(x),
        }
    }

    /// Of each component of `x`. The choice is made once, or the loop would not be vector code.
    #[inline(always)]
    pub(crate) fn apply(self, x: &mut [f32]) {
        match self {
            Activation::None => {}
            Activation::Gelu => x.iter_mut().for_each(|x| *x = Activation::Gelu.of(*x)),
            Activation::GeluTanh => x.iter_mut().for_each(|x| *x = Activation::GeluTanh.of(*x)),
            Activation::QuickGelu => x.iter_mut().for_each(|x| *x = Activation::QuickGelu.of(*x)),
            Activation::Silu => x.iter_mut().for_each(|x| *x = Activation::Silu.of(*x)),
        }
    }
}

#[inline(always)]
#[allow(clippy::extra_unused_type_parameters)]
fn layer_norm_body<M>(x: &[f32], gain: &[f32], shift: &[f32], eps: f32, out: &mut [f32]) {
    let width = gain.len();
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let mean = sum(x, |x| x) / width as f32;
        let variance = sum(x, |x| (x - mean) * (x - mean)) / width as f32;
        let scale = 1.0 / (variance + eps).sqrt();
        for (((out, &x), &gain), &shift) in out.iter_mut().zip(x).zip(gain).zip(shift) {
            *out = ((x - mean) * scale).mul_add(gain, shift);
        }
    }
}

per_path! {
    /// Rows of `gain.len()` components, each brought to mean 0 and variance 1, then scaled and
    /// shifted: `out = (x − mean) / √(variance + eps) · gain + shift`. `x` and `out` have the same
    /// number of whole rows.
    pub(crate) fn layer_norm(
        x: &[f32], gain: &[f32], shift: &[f32], eps: f32, out: &mut [f32],
    ) = layer_norm_body
}

#[inline(always)]
#[allow(clippy::extra_unused_type_parameters)]
fn add_body<M>(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

per_path! {
    /// `x += y`, component by component.
    pub(crate) fn add(x: &mut [f32], y: &[f32]) = add_body
}

#[inline(always)]
#[allow(clippy::extra_unused_type_parameters)]
fn gate_body<M>(both: &[f32], hidden: usize, activation: Activation, out: &mut [f32]) {
    for (both, out) in both.chunks_exact(2 * hidden).zip(out.chunks_exact_mut(hidden)) {
        let (gate, value) = both.split_at(hidden);
        out.copy_from_slice(gate);
        activation.apply(out);
        out.iter_mut().zip(value).for_each(|(out, value)| *out *= value);
    }
}

per_path! {
    /// Rows of `hidden` gates and `hidden` values to rows of `activation(gate)·value`.
    pub(crate) fn gate(
        both: &[f32], hidden: usize, activation: Activation, out: &mut [f32],
    ) = gate_body
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the functions are, in double precision.
    fn exact(activation: Activation, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match activation {
            Activation::None => x,
            Activation::Gelu => 0.5 * x * (1.0 + exact_erf(x / 2f64.sqrt())),
            Activation::GeluTanh => {
                let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                0.5 * x * (1.0 + u.tanh())
            }
            Activation::QuickGelu => x * sigmoid(1.702 * x),
            Activation::Silu => x * sigmoid(x),
        }
    }

    /// By its series around 0; beyond 4 it is 1 within 2e-8.
    fn exact_erf(x: f64) -> f64 {
        if x.abs() > 4.0 {
            return x.signum();
        }
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while term.abs() > 1e-18 {
            n += 1.0;
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn functions_are_what_they_say() {
        for i in -40_000..=40_000 {
            let x = i as f32 * 2.2e-3;
            let truth = f64::from(x).clamp(-87.0, 88.0).exp();
            assert!((f64::from(exp(x)) / truth - 1.0).abs() < 2.5e-7, "exp({x})");
            if x.abs() < 30.0 {
                for activation in [
                    Activation::Gelu,
                    Activation::GeluTanh,
                    Activation::QuickGelu,
                    Activation::Silu,
                ] {
                    let (is, should) = (activation.of(x), exact(activation, x.into()));
                    let off = (f64::from(is) - should).abs();
                    let most = 3e-7 * f64::from(x.abs().max(0.5));
                    assert!(off < most, "{activation:?}({x}) = {is}, not {should}");
                }
            }
        }
        assert_eq!((exp(-1e30), exp(0.0)), (exp(-87.0), 1.0));
    }

    #[test]
    fn paths_agree_to_the_bit() {
        let width = 77;
        let x: Vec<f32> = (0..3 * width).map(|i| ((i * 7919) % 101) as f32 * 0.37 - 18.0).collect();
        let gain: Vec<f32> = (0..width).map(|i| 1.0 + i as f32 * 1e-3).collect();
        let mut first: Option<Vec<Vec<f32>>> = None;
        for path in Path::all() {
            let mut normed = vec![0.0; x.len()];
            layer_norm(path, &x, &gain, &gain, 1e-6, &mut normed);
            let mut gated = vec![0.0; 3 * 38];
            gate(path, &x[..3 * 76], 38, Activation::Gelu, &mut gated);
            let mut added = x.clone();
            add(path, &mut added, &normed);
            let found = vec![normed, gated, added];
            assert_eq!(first.get_or_insert_with(|| found.clone()), &found, "{path:?}");
        }
        let normed = &first.expect("there is a portable path")[0][..width];
        let row: Vec<f64> = x[..width].iter().map(|&x| f64::from(x)).collect();
        let mean = row.iter().sum::<f64>() / width as f64;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
        for ((is, x), gain) in normed.iter().zip(row).zip(gain) {
            let gain = f64::from(gain);
            let should = (x - mean) / (variance + 1e-6).sqrt() * gain + gain;
            assert!((f64::from(*is) - should).abs() < 1e-5);
        }
    }
}
