//! Reading ahead: a thread reads while others send.

use std::{
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::JoinHandle,
};

use schemas::limits;

use super::Found;

/// What a thread of its own finds, a few things ahead.
pub struct Ahead {
    name: String,
    found: Receiver<Found>,
    reader: Option<JoinHandle<()>>,
}

/// Where the thread puts what it finds.
pub struct Give(SyncSender<Found>);

impl Give {
    /// False if nobody wants more.
    pub fn give(&self, found: Found) -> bool {
        self.0.send(found).is_ok()
    }
}

/// Starts `read`; a reader that panics on a file is one that says it is corrupt.
pub fn ahead(name: String, read: impl FnOnce(Give) + Send + 'static) -> Result<Ahead, String> {
    let (sender, found) = sync_channel(limits::PUSH_AHEAD);
    let thread = std::thread::Builder::new().name("read".into());
    let reader = thread.spawn(move || read(Give(sender))).map_err(|e| e.to_string())?;
    Ok(Ahead { name, found, reader: Some(reader) })
}

impl Iterator for Ahead {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        if let Ok(found) = self.found.recv() {
            return Some(found);
        }
        match self.reader.take()?.join() {
            Ok(()) => None,
            Err(_) => Some(Found::Broken(self.name.clone(), "corrupt: its reader gave up".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_panics_is_told() {
        let read = |give: Give| {
            assert!(give.give(Found::Part));
            panic!("as a reader of a broken file would");
        };
        let found: Vec<_> = ahead("f".into(), read).unwrap().collect();
        assert!(matches!(&found[..], [Found::Part, Found::Broken(name, _)] if name == "f"));
    }
}
