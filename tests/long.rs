//! Tests that take minutes: `tests/run long`.

#[path = "service/increments.rs"]
mod increments;
#[path = "service/place.rs"]
#[allow(dead_code, reason = "the target `main` uses the rest")]
mod place;

#[test]
fn ten_more_than_ten_thousand_images_write_less_than_a_fiftieth_of_the_tables() {
    increments::ten_more(10_000, 0.02);
}
