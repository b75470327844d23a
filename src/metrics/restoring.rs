//! How far a start is: what of the tables has been read, and what has been worked out since.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use operators::neighbors::Counters;
use schemas::limits;

use super::{Metrics, Phase};
use crate::calibrate::report::grouped;

/// Rows to be read, and images among them: how many there are, and how many were read.
#[derive(Debug, Default)]
pub struct Restoring {
    rows: AtomicU64,
    rows_read: AtomicU64,
    images: AtomicU64,
    images_read: AtomicU64,
}

impl Restoring {
    /// The tables hold so many.
    pub fn expect(&self, rows: u64, images: u64) {
        self.rows.store(rows, Ordering::Relaxed);
        self.images.store(images, Ordering::Relaxed);
    }

    /// So many more were read.
    pub fn read(&self, rows: usize, of_images: bool) {
        let rows = rows as u64;
        self.rows_read.fetch_add(rows, Ordering::Relaxed);
        self.images_read.fetch_add(if of_images { rows } else { 0 }, Ordering::Relaxed);
    }

    /// Rows that were read.
    pub fn rows_read(&self) -> u64 {
        self.rows_read.load(Ordering::Relaxed)
    }

    /// What is done of how much, in words; `None` where there is nothing to restore.
    pub fn words(&self, mining: &Counters) -> Option<String> {
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let (rows, read) = (get(&self.rows), get(&self.rows_read));
        let (images, images_read) = (get(&self.images), get(&self.images_read));
        if rows == 0 {
            return None;
        }
        if read < rows {
            return Some(format!(
                "{} of {} images read, {} of {} rows of all tables",
                grouped(images_read),
                grouped(images),
                grouped(read),
                grouped(rows)
            ));
        }
        let placed: u64 = mining.rows.iter().map(get).sum();
        let scores = get(&mining.dot_products) + get(&mining.rescan_dot_products);
        Some(match scores {
            0 => format!(
                "all {} rows are read, {} of {} images are in their lists again",
                grouped(rows),
                grouped(placed),
                grouped(images)
            ),
            // Without a state checkpoint, or for what it does not know.
            _ => format!(
                "all {} rows are read, images are mined anew: {} scores so far",
                grouped(rows),
                grouped(scores)
            ),
        })
    }
}

/// Logs how far the start is, now and then, until it is done or nobody holds the counters any more.
///
/// # Errors
/// There can be no more threads.
pub fn tell(metrics: &Arc<Metrics>) -> std::io::Result<()> {
    let metrics: Weak<Metrics> = Arc::downgrade(metrics);
    let work = move || {
        let mut said = Instant::now();
        while let Some(metrics) = metrics.upgrade()
            && metrics.phase() <= Phase::Restoring
        {
            if said.elapsed() >= limits::RESTORE_SAID_EVERY {
                said = Instant::now();
                metrics.say_restoring();
            }
            drop(metrics);
            std::thread::sleep(limits::RESTORE_LOOK);
        }
    };
    std::thread::Builder::new().name("restoring".into()).spawn(work).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_tell_what_is_done_of_how_much() {
        let (restoring, mining) = (Restoring::default(), Counters::new(2));
        assert_eq!(restoring.words(&mining), None, "new tables");
        restoring.expect(500_000, 50_000);
        restoring.read(310_000, false);
        restoring.read(31_000, true);
        assert_eq!(
            restoring.words(&mining).as_deref(),
            Some("31,000 of 50,000 images read, 341,000 of 500,000 rows of all tables")
        );
        restoring.read(19_000, true);
        restoring.read(140_000, false);
        mining.rows[0].store(20_000, Ordering::Relaxed);
        mining.rows[1].store(3, Ordering::Relaxed);
        assert_eq!(
            restoring.words(&mining).as_deref(),
            Some("all 500,000 rows are read, 20,003 of 50,000 images are in their lists again")
        );
        mining.dot_products.store(7_000, Ordering::Relaxed);
        assert_eq!(
            restoring.words(&mining).as_deref(),
            Some("all 500,000 rows are read, images are mined anew: 7,000 scores so far")
        );
    }
}
