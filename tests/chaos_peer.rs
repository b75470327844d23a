//! Ten kills; the target `long` has a hundred and more.

use std::time::Duration;

use crate::peers::chaos::{Plan, chaos};

#[test]
fn ten_kills_between_kafka_and_s3_change_nothing() {
    chaos(Plan {
        kills: 10,
        seed: 20_261_122,
        images: 90,
        first: 20,
        rows: 8,
        patience: Duration::from_secs(20),
        all_points: false,
    });
}
