use proptest::prelude::*;

use super::*;
use crate::lanes::Path;

/// Numbers that look random, from -1 to 1, the same every time.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

#[derive(Debug)]
struct Case {
    a: Vec<f32>,
    weights: Vec<f32>,
    bias: Vec<f32>,
    before: Vec<f32>,
    shape: [usize; 3],
    activation: Activation,
    add: bool,
}

impl Case {
    fn run(&self, path: Path, left: &mut Left) -> Vec<f32> {
        let [rows, inputs, outputs] = self.shape;
        let b = Packed::from_outputs(&self.weights, outputs, inputs);
        let mut out = self.before.clone();
        let epilogue =
            Epilogue { bias: Some(&self.bias), activation: self.activation, add: self.add };
        multiply(path, &self.a, rows, &b, epilogue, &mut out, left);
        out
    }

    /// By the definition, in double precision.
    fn oracle(&self) -> Vec<f64> {
        let [rows, inputs, outputs] = self.shape;
        let one = |row: usize, output: usize| {
            let a = &self.a[row * inputs..][..inputs];
            let w = &self.weights[output * inputs..][..inputs];
            let dot: f64 = a.iter().zip(w).map(|(&a, &w)| f64::from(a) * f64::from(w)).sum();
            let x = dot + f64::from(self.bias[output]);
            let x = f64::from(self.activation.of(x as f32));
            x + if self.add { f64::from(self.before[row * outputs + output]) } else { 0.0 }
        };
        (0..rows * outputs).map(|i| one(i / outputs, i % outputs)).collect()
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let activation =
        prop_oneof![Just(Activation::None), Just(Activation::Gelu), Just(Activation::QuickGelu)];
    (1..40usize, 1..150usize, 1..100usize, any::<u64>(), activation, any::<bool>()).prop_map(
        |(rows, inputs, outputs, seed, activation, add)| Case {
            a: numbers(rows * inputs, seed),
            weights: numbers(outputs * inputs, seed ^ 1),
            bias: numbers(outputs, seed ^ 2),
            before: numbers(rows * outputs, seed ^ 3),
            shape: [rows, inputs, outputs],
            activation,
            add,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_product_is_what_it_is_by_definition(case in cases()) {
        let should = case.oracle();
        // Whatever a buffer held before, even what is no number, does not show.
        let mut left = Left { numbers: vec![f32::NAN; 3_000], ..Left::default() };
        let first = case.run(Path::best(), &mut left);
        for (is, should) in first.iter().zip(should) {
            let off = (f64::from(*is) - should).abs();
            prop_assert!(off < 2e-6 * (10.0 + should.abs()), "{is}, not {should}");
        }
        for path in Path::all() {
            prop_assert_eq!(&case.run(path, &mut left), &first, "{:?}", path);
        }
        // A row alone is what it is among others.
        let [rows, inputs, outputs] = case.shape;
        let row = rows / 2;
        let alone = Case {
            a: case.a[row * inputs..][..inputs].to_vec(),
            before: case.before[row * outputs..][..outputs].to_vec(),
            shape: [1, inputs, outputs],
            ..case
        };
        let is = alone.run(Path::best(), &mut left);
        prop_assert_eq!(&is[..], &first[row * outputs..][..outputs]);
    }

    #[test]
    fn both_ways_to_pack_agree(inputs in 1..70usize, outputs in 1..70usize, seed: u64) {
        let rows = numbers(inputs * outputs, seed);
        let turned: Vec<f32> =
            (0..outputs * inputs).map(|i| rows[i % inputs * outputs + i / inputs]).collect();
        let mut packed = Packed::from_outputs(&turned, outputs, inputs);
        let mut other = Packed::from_outputs(&numbers(4_000, 1), 50, 80);
        other.fill_from_inputs(&rows, outputs, inputs, outputs);
        prop_assert_eq!(packed.numbers_mut(), other.numbers_mut());
    }
}
