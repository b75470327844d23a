//! Tests against real peers: an Apache Kafka broker, and the programs that others read the tables
//! with. `tests/run ci` installs them and says where they are (tests/peers/README.md).

mod peers {
    pub mod faults;
    pub mod kafka;
    pub mod pipeline;
    pub mod readers;
    pub mod s3;
    pub mod scale;

    /// What `tests/run` says about a peer. A missing peer is a failure: these tests never skip.
    pub fn peer(variable: &str) -> String {
        let why = "tells where a peer is: start these tests with tests/run ci";
        std::env::var(variable).unwrap_or_else(|_| panic!("{variable} {why}"))
    }
}

/// The folder with a log and tables that the target `main` uses too, and more of it.
#[allow(dead_code)]
#[path = "service/place.rs"]
mod place;

mod export_peer;
/// The messages alone: what they are by a file log is tested in the target `main`.
mod bad_input {
    pub mod cases;
    pub mod check;
    pub mod files;
}

mod bad_input_peer;
mod console_peer;
mod deploy_peer;
mod gc_peer;
#[cfg(feature = "kafka-tls")]
mod kafka_tls_peer;
mod pipeline_peer;
mod push_peer;
mod s3_peer;
mod source_peer;
mod tables_read;
mod validate_peer;
mod views_peer;

/// The target `long` does it with a hundred thousand.
#[test]
fn thousands_of_images_go_through_kafka_into_s3() {
    peers::scale::grow(3_000);
}
