use std::{collections::BTreeMap, sync::Arc};

use object_store::{memory::InMemory, path::Path};
use proptest::prelude::*;
use schemas::config::AnnotatorKind;

use super::*;

fn store() -> Store {
    Store::new(Arc::new(InMemory::new()), Path::default()).expect("a store")
}

fn config(budget: f64, daily: Option<f64>) -> Annotator {
    Annotator {
        kind: AnnotatorKind::OpenAi,
        budget: Some(budget),
        daily_budget: daily,
        ..Annotator::default()
    }
}

const DAY_US: i64 = 86_400_000_000;

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    /// A call that costs at most so much.
    Call(Nanos),
    /// One of the calls ends, and cost this share of what it could, in percent.
    End(usize, u64),
    /// Killed with what is in flight, which the endpoint may bill in full; started again.
    Kill,
    /// Stopped in order, and started again.
    Stop,
    Midnight,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1..40_000_000_u64).prop_map(Step::Call),
        5 => (0..100_usize, 0..=100_u64).prop_map(|(which, share)| Step::End(which, share)),
        1 => Just(Step::Kill),
        1 => Just(Step::Stop),
        1 => Just(Step::Midnight),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever happens, what the endpoint bills stays within the budgets, and what counts as spent
    /// is at least that.
    #[test]
    fn spending_never_passes_the_budget(
        steps in steps(),
        budget in 1..500_000_000_u64,
        daily in prop::option::of(1..200_000_000_u64),
    ) {
        let store = store();
        let config = config(usd(budget), daily.map(usd));
        let mut ledger = Ledger::open(&store, &config).expect("a ledger");
        let mut calls: Vec<(i64, Reserved)> = Vec::new();
        let mut billed: BTreeMap<i64, Nanos> = BTreeMap::new();
        let mut now = 20_000 * DAY_US;
        for step in steps {
            match step {
                Step::Call(amount) => {
                    let before = ledger.spent();
                    match ledger.reserve(amount, now).expect("the store works") {
                        Draw::Yes(reserved) => calls.push((now, reserved)),
                        Draw::Spent => {
                            // Nothing is refused that the budget allows: slices in use keep what
                            // they have left.
                            let idle = calls.is_empty();
                            prop_assert!(!idle || before + amount > budget, "{before} {amount}");
                        }
                        Draw::SpentToday => prop_assert!(daily.is_some()),
                    }
                }
                Step::End(which, share) => {
                    if !calls.is_empty() {
                        let (at, reserved) = calls.swap_remove(which % calls.len());
                        let cost = reserved.amount() * share / 100;
                        *billed.entry(at / DAY_US).or_default() += cost;
                        ledger.settle(reserved, cost).expect("the store works");
                    }
                }
                Step::Kill | Step::Stop => {
                    for (at, reserved) in calls.drain(..) {
                        *billed.entry(at / DAY_US).or_default() += reserved.amount();
                    }
                    if matches!(step, Step::Stop) {
                        ledger.finish().expect("the store works");
                    }
                    ledger = Ledger::open(&store, &config).expect("a ledger");
                }
                Step::Midnight => now += DAY_US,
            }
            let all: Nanos = billed.values().sum();
            let in_flight: Nanos = calls.iter().map(|(_, reserved)| reserved.amount()).sum();
            prop_assert!(all + in_flight <= budget, "{all} + {in_flight} of {budget}");
            prop_assert!(all + in_flight <= ledger.spent());
            prop_assert!(ledger.spent() <= ledger.counted(None));
            for (day, billed) in &billed {
                prop_assert!(daily.is_none_or(|most| *billed <= most), "{billed} on day {day}");
            }
            let told = Spent::read(&store, now).expect("the store works");
            prop_assert_eq!(told.closed + told.open, ledger.counted(None));
        }
    }
}

#[test]
fn a_budget_is_used_up_to_its_end() {
    let store = store();
    let mut ledger = Ledger::open(&store, &config(1.0, None)).expect("a ledger");
    let mut calls = 0;
    // Each may cost 0.9 cents and costs 0.5.
    while let Draw::Yes(reserved) = ledger.reserve(9_000_000, 0).expect("the store works") {
        ledger.settle(reserved, 5_000_000).expect("the store works");
        calls += 1;
    }
    assert_eq!(calls, 199, "the last one would not be covered: {} spent", ledger.spent());
    ledger.finish().expect("the store works");
    let told = Spent::read(&store, 0).expect("the store works");
    assert_eq!((told.closed, told.open), (995_000_000, 0));
}

#[test]
fn what_was_open_at_a_kill_counts_as_spent() {
    let store = store();
    let config = config(1.0, None);
    let mut ledger = Ledger::open(&store, &config).expect("a ledger");
    let Draw::Yes(reserved) = ledger.reserve(1, 0).expect("the store works") else { panic!() };
    assert_eq!(reserved.amount(), 1);
    drop(ledger);
    let again = Ledger::open(&store, &config).expect("a ledger");
    assert_eq!(again.spent(), 10_000_000, "a hundredth of the budget");
}

#[test]
fn two_writers_draw_from_one_budget() {
    let store = store();
    let config = config(1.0, None);
    let mut one = Ledger::open(&store, &config).expect("a ledger");
    let mut other = Ledger::open(&store, &config).expect("a ledger");
    let mut held: Nanos = 0;
    for n in 0..400 {
        let ledger = if n % 2 == 0 { &mut one } else { &mut other };
        match ledger.reserve(7_000_000, 0).expect("the store works") {
            Draw::Yes(reserved) => held += reserved.amount(),
            Draw::Spent | Draw::SpentToday => {}
        }
    }
    assert!(held <= 1_000_000_000, "{held}");
    assert!(held > 600_000_000, "{held}");
}

#[test]
fn an_endpoint_that_counts_more_than_it_could_is_owed_all() {
    let store = store();
    let config = config(1.0, None);
    let mut ledger = Ledger::open(&store, &config).expect("a ledger");
    let Draw::Yes(reserved) = ledger.reserve(1_000, 0).expect("the store works") else { panic!() };
    ledger.settle(reserved, 999_999_000).expect("the store works");
    drop(ledger);
    let mut again = Ledger::open(&store, &config).expect("a ledger");
    assert_eq!(again.spent(), 999_999_000);
    let drawn = again.reserve(2_000, 0).expect("the store works");
    assert!(matches!(drawn, Draw::Spent), "{drawn:?}");
}

#[test]
fn prices_are_for_a_million_and_rounded_up() {
    let of = |input, output| {
        Prices::of(&Annotator {
            input_price: Some(input),
            output_price: Some(output),
            ..Annotator::default()
        })
    };
    assert_eq!(of(0.15, 0.6).cost(1_000_000, 0), 150_000_000);
    assert_eq!(of(0.15, 0.6).cost(0, 1_000_000), 600_000_000);
    assert_eq!(of(0.0001, 0.0).cost(1, 0), 1);
    assert_eq!(of(0.0, 0.0).cost(1, 1), 0);
}
