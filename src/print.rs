//! Standard output and standard error, as commands write to them.
//!
//! The standard macros panic where nobody reads any more (`everpair status | head -1`). Here that is
//! no failure: what is left is not printed, the work goes on to its end, and the exit code tells of
//! the work. What else standard output refuses (a full disk) is kept for [`finish`].

use std::{
    fmt,
    io::{self, Write},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Standard output took something badly: nothing more is written to it.
static ENDED: AtomicBool = AtomicBool::new(false);
/// Why, unless its reader has just gone.
static REFUSED: Mutex<Option<io::Error>> = Mutex::new(None);

/// As `println!`, for data.
#[macro_export]
macro_rules! outln {
    ($($text:tt)*) => { $crate::print::out(format_args!("{}\n", format_args!($($text)*))) };
}

/// As `eprintln!`, for people.
#[macro_export]
macro_rules! errln {
    ($($text:tt)*) => { $crate::print::err(format_args!("{}\n", format_args!($($text)*))) };
}

/// Writes to standard output.
pub fn out(text: fmt::Arguments<'_>) {
    if !ENDED.load(Ordering::Relaxed) {
        keep(io::stdout().write_fmt(text));
    }
}

/// Writes to standard error; where that is not taken there is nobody to tell.
pub fn err(text: fmt::Arguments<'_>) {
    let _ = io::stderr().write_fmt(text);
}

/// Standard error for whoever wants a writer; never fails.
pub struct Errors;

impl Write for Errors {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes out what is held back.
///
/// # Errors
/// Standard output refused something, but not because its reader has gone.
pub fn finish() -> io::Result<()> {
    if !ENDED.load(Ordering::Relaxed) {
        keep(io::stdout().flush());
    }
    match REFUSED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn keep(written: io::Result<()>) {
    let Err(error) = written else { return };
    ENDED.store(true, Ordering::Relaxed);
    if error.kind() != io::ErrorKind::BrokenPipe {
        *REFUSED.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}
