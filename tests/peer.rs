//! Tests against real peers: an Apache Kafka broker, and the programs that others read the tables
//! with. `tests/run ci` installs them and says where they are (tests/peers/README.md).

mod peers {
    pub mod alike;
    pub mod chaos;
    pub mod epochs;
    pub mod faults;
    pub mod http;
    pub mod kafka;
    pub mod pipeline;
    pub mod readers;
    pub mod s3;
    pub mod scale;
    pub mod soak;
    pub mod watch;

    /// What `tests/run` says about a peer. A missing peer is a failure: these tests never skip.
    pub fn peer(variable: &str) -> String {
        let why = "tells where a peer is: start these tests with tests/run ci";
        std::env::var(variable).unwrap_or_else(|_| panic!("{variable} {why}"))
    }
}

#[path = "service/history.rs"]
mod history;
/// A model's server; the target `main` plays its faults.
#[allow(dead_code)]
#[path = "annotator/server.rs"]
mod model;
/// The folder with a log and tables that the target `main` uses too, and more of it.
#[allow(dead_code)]
#[path = "service/place.rs"]
mod place;

mod annotator_peer;
mod bounds_peer;
mod chaos_peer;
mod export_peer;
/// The messages alone: what they are by a file log is tested in the target `main`.
mod bad_input {
    pub mod cases;
    pub mod check;
    pub mod files;
}

mod bad_input_peer;
mod benchmark_peer;
mod console_peer;
mod deploy_peer;
mod gc_peer;
mod kafka_life_peer;
#[cfg(feature = "kafka-tls")]
mod kafka_tls_peer;
mod pipeline_peer;
mod push_peer;
mod s3_peer;
mod soak_peer;
mod source_peer;
mod stops_peer;
mod tables_read;
mod validate_peer;
mod views_peer;

/// The target `long` does it with a hundred thousand.
#[test]
fn thousands_of_images_go_through_kafka_into_s3() {
    peers::scale::grow(3_000);
}

/// The target `long` does it with a hundred thousand.
#[test]
fn thousands_of_images_that_are_all_alike_cost_what_others_do() {
    peers::alike::alike(5_000);
}
