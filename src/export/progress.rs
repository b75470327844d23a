//! How far an export is, on a terminal only.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use crate::print;

const EVERY: Duration = Duration::from_millis(200);

/// A counter that is shown now and then.
pub struct Progress {
    shown: bool,
    what: &'static str,
    done: u64,
    of: u64,
    last: Instant,
}

impl Progress {
    /// Shows nothing unless standard error is a terminal.
    pub fn new() -> Progress {
        let shown = std::io::stderr().is_terminal();
        Progress { shown, what: "", done: 0, of: 0, last: Instant::now() }
    }

    /// Begins to count something else.
    pub fn begin(&mut self, what: &'static str, of: u64) {
        self.end();
        (self.what, self.done, self.of) = (what, 0, of);
    }

    /// So many more are done.
    pub fn add(&mut self, count: u64) {
        self.done += count;
        if self.shown && self.last.elapsed() >= EVERY {
            self.last = Instant::now();
            print::err(format_args!("\r{} of {} {}", self.done, self.of, self.what));
        }
    }

    /// Takes the line away.
    pub fn end(&mut self) {
        if self.shown {
            print::err(format_args!("\r\x1b[K"));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}
