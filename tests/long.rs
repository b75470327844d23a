//! Tests that take minutes: `tests/run long`.

/// Real peers; the target `peer` uses the rest of them.
#[allow(dead_code)]
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
        let why = "tells where a peer is: start these tests with tests/run long";
        std::env::var(variable).unwrap_or_else(|_| panic!("{variable} {why}"))
    }
}
mod clouds;
mod disturbed;
#[allow(dead_code, reason = "the target `main` uses the rest")]
mod faulty;
#[path = "service/history.rs"]
mod history;
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

/// By two threads, each with seeds of its own.
#[test]
fn ten_thousand_disturbed_writers_end_like_undisturbed_ones() {
    std::thread::scope(|scope| {
        let halves = [(); 2].map(|()| scope.spawn(|| disturbed::on_a_store_in_memory(5_000)));
        for half in halves {
            half.join().expect("what failed is above");
        }
    });
}

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}

/// `EVERPAIR_SOAK_MINUTES` says how long.
#[test]
fn what_a_service_holds_does_not_grow_in_an_hour() {
    let minutes = number("EVERPAIR_SOAK_MINUTES", 60);
    peers::soak::soak(peers::soak::Plan {
        images: 1_000,
        rate: 20.0,
        warm_up: std::time::Duration::from_secs(60 * minutes / 4),
        time: std::time::Duration::from_secs(60 * minutes),
        look_every: std::time::Duration::from_secs(60),
        retention: 120,
        epochs_kept: 50,
        waves: 1.1,
    });
}

/// `EVERPAIR_KILLS` and `EVERPAIR_SEED` say how many, and which.
#[test]
fn a_hundred_kills_between_kafka_and_s3_change_nothing() {
    let kills = number("EVERPAIR_KILLS", 120) as usize;
    peers::chaos::chaos(peers::chaos::Plan {
        kills,
        seed: number("EVERPAIR_SEED", 20_261_122),
        images: 1_150 + 3 * kills,
        first: 2_500,
        rows: 100,
        patience: std::time::Duration::from_secs(60),
        all_points: kills >= 100,
    });
}

#[test]
fn a_hundred_thousand_images_that_are_all_alike_cost_what_others_do() {
    peers::alike::alike(100_000);
}

#[test]
fn the_five_thousandth_epoch_asks_no_more_of_s3_than_the_hundredth() {
    peers::epochs::flat(5_000, 500);
}
