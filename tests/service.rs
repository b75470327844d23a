//! The real program on a file log: killed, stopped, told to forget, misconfigured, tampered with,
//! doubled and watched.

mod another_log;
mod benchmarks;
mod fenced;
pub mod fetching;
mod forgetting;
mod format;
mod history;
mod increments;
mod kills;
mod lost;
pub mod place;
mod replaying;
mod restarts;
mod stops;
mod takedowns;
mod upkeep;
mod words;

/// The bound is 2 % of the tables' bytes with 10,000 images, which the target `long` holds.
/// What ten rows write does not depend on how many others there are, so with a fifth of them up to
/// 10 % would do; 3 % leaves room for two epochs where the ten rows are usually one.
#[test]
fn ten_more_images_cost_what_ten_images_cost() {
    increments::ten_more(2_000, 0.03);
}
