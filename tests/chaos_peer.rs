//! Ten kills; the target `long` has a hundred and more.

use crate::peers::chaos::{Plan, chaos};

#[test]
fn ten_kills_between_kafka_and_s3_change_nothing() {
    let seed = 20_261_122;
    chaos(Plan { kills: 10, seed, images: 90, first: 20, rows: 8, all_points: false });
}
