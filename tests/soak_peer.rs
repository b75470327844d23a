//! Five minutes of churn; the target `long` has an hour.

use std::time::Duration;

use crate::peers::soak::{Plan, soak};

#[test]
fn what_a_service_holds_does_not_grow_with_time() {
    soak(Plan {
        images: 150,
        rate: 20.0,
        warm_up: Duration::from_secs(100),
        time: Duration::from_secs(300),
        look_every: Duration::from_secs(10),
        retention: 20,
        epochs_kept: 20,
        // Without upkeep it would be half as many more.
        waves: 1.3,
    });
}
