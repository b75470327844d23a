//! Tests that take minutes: `tests/run long`.

/// Real peers; the target `peer` uses the rest of them.
#[allow(dead_code)]
mod peers {
    pub mod kafka;
    pub mod pipeline;
    pub mod readers;
    pub mod s3;
    pub mod scale;

    /// What `tests/run` says about a peer. A missing peer is a failure: these tests never skip.
    pub fn peer(variable: &str) -> String {
        let why = "tells where a peer is: start these tests with tests/run long";
        std::env::var(variable).unwrap_or_else(|_| panic!("{variable} {why}"))
    }
}
#[path = "service/increments.rs"]
mod increments;
#[path = "service/place.rs"]
#[allow(dead_code, reason = "the target `main` uses the rest")]
mod place;
#[path = "service/restart_times.rs"]
mod restart_times;

#[test]
fn ten_more_than_ten_thousand_images_write_less_than_a_fiftieth_of_the_tables() {
    increments::ten_more(10_000, 0.02);
}

#[test]
fn a_hundred_thousand_images_go_through_kafka_into_s3() {
    peers::scale::grow(100_000);
}

/// Sizes by EVERPAIR_RESTART_IMAGES, such as "10000,50000,200000": at 200,000 images mining alone
/// takes half an hour on two cores.
#[test]
fn a_restart_takes_seconds_whatever_the_size() {
    let sizes = std::env::var("EVERPAIR_RESTART_IMAGES").unwrap_or_else(|_| "10000,50000".into());
    for images in sizes.split(',') {
        restart_times::restart_times(images.trim().parse().expect("a number of images"));
    }
}
