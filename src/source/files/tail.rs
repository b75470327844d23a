//! One file of the log, read line by line while it grows.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    os::unix::fs::{FileExt, MetadataExt},
    path::PathBuf,
    sync::Arc,
};

use schemas::{
    limits,
    message::{self, Record},
};

/// A complete line.
pub enum Line {
    /// Nothing but white space.
    Blank,
    /// What it says.
    Text(String),
    /// Why it cannot be read: it is too long, or not UTF-8.
    Unreadable(String),
}

impl Line {
    /// The record of a line that is not blank.
    pub fn record(&self, topic: &Arc<str>, partition: i32, offset: i64) -> Option<Record> {
        match self {
            Line::Blank => None,
            Line::Text(text) => Some(message::read_line(text, topic, partition, offset)),
            Line::Unreadable(why) => Some(message::broken_line(why, topic, partition, offset)),
        }
    }
}

/// A file and the position in it. Memory is bounded by the longest line that is allowed.
pub struct Tail {
    /// The file.
    pub path: PathBuf,
    /// The path now leads to another file, or this one was cut: what was read is not its beginning
    /// any more.
    pub replaced: bool,
    reader: BufReader<File>,
    inode: (u64, u64),
    next_line: i64,
    /// Bytes that were read, those of `begun` included.
    bytes: u64,
    /// The beginning of a line whose newline is not there yet; empty if that is too long already.
    begun: Vec<u8>,
    /// Length of that beginning.
    begun_len: usize,
    /// Bytes and complete lines up to which lines were counted ahead.
    counted: (u64, i64),
}

impl Tail {
    /// Opens a file at its beginning.
    pub fn open(path: PathBuf) -> io::Result<Tail> {
        let file = File::open(&path)?;
        let inode = inode(&file.metadata()?);
        let reader = BufReader::with_capacity(limits::LOG_READ_BYTES, file);
        Ok(Tail {
            path,
            replaced: false,
            reader,
            inode,
            next_line: 0,
            bytes: 0,
            begun: Vec::new(),
            begun_len: 0,
            counted: (0, 0),
        })
    }

    /// The number of the line that comes next.
    pub fn next_line(&self) -> i64 {
        self.next_line
    }

    /// Passes over complete lines up to number `line`; gives the number that it came to.
    pub fn skip_to(&mut self, line: i64) -> io::Result<i64> {
        while self.next_line < line && self.pass_line(|_| ())? {}
        Ok(self.next_line)
    }

    /// The next line, if it is complete.
    pub fn read(&mut self) -> io::Result<Option<Line>> {
        let max = limits::LOG_LINE_BYTES_MAX;
        let (mut begun, mut len) = (std::mem::take(&mut self.begun), self.begun_len);
        let complete = self.pass_line(|piece| {
            len += piece.len();
            if len <= max {
                begun.extend_from_slice(piece);
            } else {
                begun = Vec::new();
            }
        });
        if !complete? {
            (self.begun, self.begun_len) = (begun, len);
            return Ok(None);
        }
        self.begun_len = 0;
        if len > max {
            return Ok(Some(Line::Unreadable(format!("{len} bytes, at most {max}"))));
        }
        if begun.iter().all(u8::is_ascii_whitespace) {
            return Ok(Some(Line::Blank));
        }
        Ok(Some(match String::from_utf8(begun) {
            Ok(text) => Line::Text(text),
            Err(e) => Line::Unreadable(format!("not UTF-8: {}", e.utf8_error())),
        }))
    }

    /// Reads up to and past the next newline, and hands out what lies before it in pieces. False
    /// if the file ended first.
    fn pass_line(&mut self, mut piece: impl FnMut(&[u8])) -> io::Result<bool> {
        loop {
            let available = self.reader.fill_buf()?;
            if available.is_empty() {
                return Ok(false);
            }
            let newline = available.iter().position(|b| *b == b'\n');
            let end = newline.unwrap_or(available.len());
            piece(&available[..end]);
            let used = end + usize::from(newline.is_some());
            self.reader.consume(used);
            self.bytes += used as u64;
            if newline.is_some() {
                self.next_line += 1;
                return Ok(true);
            }
        }
    }

    /// The number of complete lines in the file as of now. Reads what is left of it.
    pub fn end(&self) -> io::Result<i64> {
        let (mut at, mut lines) = (self.bytes, self.next_line);
        let mut buffer = vec![0; limits::LOG_READ_BYTES];
        loop {
            let read = self.reader.get_ref().read_at(&mut buffer, at)?;
            if read == 0 {
                return Ok(lines);
            }
            lines += buffer[..read].iter().filter(|b| **b == b'\n').count() as i64;
            at += read as u64;
        }
    }

    /// The number of complete lines in the file, counted on from where the last call came to; reads
    /// at most about `budget` bytes, and gives `None` while that was not enough to come to the end.
    pub fn count_ahead(&mut self, budget: usize) -> io::Result<Option<i64>> {
        let (mut at, mut lines) = self.counted.max((self.bytes, self.next_line));
        let mut buffer = vec![0; limits::LOG_READ_BYTES];
        for _ in 0..budget.div_ceil(buffer.len()) {
            let read = self.reader.get_ref().read_at(&mut buffer, at)?;
            if read == 0 {
                return Ok(Some(lines));
            }
            lines += buffer[..read].iter().filter(|b| **b == b'\n').count() as i64;
            at += read as u64;
            self.counted = (at, lines);
        }
        Ok(None)
    }

    /// Looks whether the path still leads to this file, and the file is still as long as what was
    /// read of it. A file that was moved away and not replaced is read on.
    pub fn check(&mut self) -> io::Result<()> {
        match std::fs::metadata(&self.path) {
            Ok(now) => self.replaced = inode(&now) != self.inode || now.len() < self.bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }
}

fn inode(metadata: &std::fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}
