//! Appends to a file log.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Write},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use schemas::{limits, message};

use super::names;
use crate::source::SourceError;

/// A writer of a file log. A key always goes to the same file as long as no file is added by hand.
///
/// Every write is a batch of whole lines, appended under a lock that other writers wait for (and
/// readers do not), and [`FileLog::sync`] returns when all of them are on the disk. A writer that
/// was killed may leave half a line; the next one ends that line, so that it becomes a record that
/// is rejected and nothing else is lost.
pub struct FileLog {
    files: Vec<Part>,
    /// Partition and offsets of what was written since that was last asked.
    landed: Vec<(i32, Range<i64>)>,
}

struct Part {
    path: PathBuf,
    file: File,
    /// Whole lines that are not written yet.
    lines: Vec<u8>,
    /// How many those are.
    count: u64,
    partition: i32,
    /// Bytes of the file whose lines are counted, and their number; none unless that is asked for.
    counted: Option<(u64, i64)>,
}

impl FileLog {
    /// Opens the log in `folder`, and creates what is missing of both: see [`FileLog::open`].
    pub fn in_folder(folder: &Path, partitions: usize) -> Result<FileLog, SourceError> {
        FileLog::open(&[format!("{}/*.jsonl", folder.display())], partitions)
    }

    /// Opens the files that match the patterns of `[source] files`. If there are none, it creates
    /// `partitions` of them, `part-00000.jsonl` and so on, in the folder of the first pattern; or
    /// the file that this pattern names, if it has no `*`. Of several that begin at once one creates
    /// them, and the others wait for all of them: the number of files decides where an id goes.
    pub fn open(patterns: &[String], partitions: usize) -> Result<FileLog, SourceError> {
        let paths = layout(patterns, partitions)?;
        let mut files = Vec::with_capacity(paths.len());
        for (partition, path) in paths {
            let file = open_part(&path).map_err(|e| unwritable(&path, e))?;
            files.push(Part { path, file, lines: Vec::new(), count: 0, partition, counted: None });
        }
        Ok(FileLog { files, landed: Vec::new() })
    }

    /// From now on keeps account of the offsets that [`FileLog::landed`] tells; it costs one pass
    /// over each file that is written to.
    pub fn count_offsets(&mut self) {
        for part in &mut self.files {
            part.counted.get_or_insert((0, 0));
        }
    }

    /// Partition and offsets of what was written, if that is counted, since this was last asked.
    pub fn landed(&mut self) -> Vec<(i32, Range<i64>)> {
        std::mem::take(&mut self.landed)
    }

    /// The number of files.
    pub fn partitions(&self) -> usize {
        self.files.len()
    }

    /// Appends one record of now; `None` is a tombstone. It is durable, and sure to be in the file,
    /// only after [`FileLog::sync`].
    pub fn append(
        &mut self,
        key: &str,
        value: Option<&[u8]>,
        headers: &[(String, String)],
    ) -> Result<(), SourceError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis());
        self.append_at(key, value, headers, now as i64)
    }

    /// Appends one record of a given time, in milliseconds since 1970.
    pub fn append_at(
        &mut self,
        key: &str,
        value: Option<&[u8]>,
        headers: &[(String, String)],
        timestamp_ms: i64,
    ) -> Result<(), SourceError> {
        self.append_line(key, &message::write_line(key, value, headers, timestamp_ms))
    }

    /// Appends any line, which must have no newline in it, where records of `key` go.
    pub fn append_line(&mut self, key: &str, line: &str) -> Result<(), SourceError> {
        assert!(!line.contains('\n'), "a line of the log is one line");
        let index = schemas::shard_of(key) % self.files.len() as u64;
        let part = &mut self.files[index as usize];
        part.lines.extend_from_slice(line.as_bytes());
        part.lines.push(b'\n');
        part.count += 1;
        if part.lines.len() >= limits::LOG_WRITE_BYTES {
            self.landed.extend(part.write().map_err(|e| unwritable(&part.path, e))?);
        }
        Ok(())
    }

    /// Writes what was appended, and returns when it is on the disk.
    pub fn sync(&mut self) -> Result<(), SourceError> {
        for part in &mut self.files {
            let written = part.write().and_then(|landed| part.file.sync_data().map(|()| landed));
            self.landed.extend(written.map_err(|e| unwritable(&part.path, e))?);
        }
        Ok(())
    }
}

impl Part {
    fn write(&mut self) -> io::Result<Option<(i32, Range<i64>)>> {
        if self.lines.is_empty() {
            return Ok(None);
        }
        self.file.lock()?;
        let written = end_line(&mut self.file)
            .and_then(|()| self.next_offset())
            .and_then(|next| self.file.write_all(&self.lines).map(|()| next));
        self.file.unlock()?;
        let next = written?;
        let count = std::mem::take(&mut self.count) as i64;
        let bytes = self.lines.len() as u64;
        self.lines.clear();
        if let Some((end, lines)) = &mut self.counted {
            *end += bytes;
            *lines += count;
        }
        Ok(next.map(|next| (self.partition, next..next + count)))
    }

    /// The offset of the next line, if that is counted: other writers may have been at work.
    fn next_offset(&mut self) -> io::Result<Option<i64>> {
        let Some((end, lines)) = &mut self.counted else { return Ok(None) };
        let mut buffer = vec![0; limits::LOG_READ_BYTES];
        loop {
            let read = self.file.read_at(&mut buffer, *end)?;
            if read == 0 {
                return Ok(Some(*lines));
            }
            *lines += buffer[..read].iter().filter(|byte| **byte == b'\n').count() as i64;
            *end += read as u64;
        }
    }
}

/// The files of the log, by partition, created where there are none. The folder is locked meanwhile:
/// whoever saw some of another's new files, and not yet all, would send ids elsewhere than they do.
fn layout(patterns: &[String], partitions: usize) -> Result<BTreeMap<i32, PathBuf>, SourceError> {
    let Some(pattern) = patterns.first() else {
        let why = "[source] files is empty: there is no file log to write to";
        return Err(SourceError::Unusable(why.into()));
    };
    let (folder, name) = names::split(pattern);
    std::fs::create_dir_all(folder).map_err(|e| unwritable(folder, e))?;
    // Closed, and so unlocked, on every way out.
    let held = File::open(folder).map_err(|e| unwritable(folder, e))?;
    let locked = held.lock();
    let paths = names::list(patterns)?;
    if !paths.is_empty() {
        // Where folders cannot be locked, nobody has created these but by hand.
        return Ok(paths);
    }
    locked.map_err(|e| {
        SourceError::Unusable(format!(
            "{}: cannot be locked ({e}), so two writers could begin a log at once in two ways: \
             create its files by hand, part-00000.jsonl, part-00001.jsonl and so on",
            folder.display()
        ))
    })?;
    for path in new_files(folder, name, partitions)? {
        open_part(&path).map_err(|e| unwritable(&path, e))?;
    }
    names::list(patterns)
}

/// The files of a new log; `name` is the pattern of their names in `folder`.
fn new_files(folder: &Path, name: &str, partitions: usize) -> Result<Vec<PathBuf>, SourceError> {
    if !name.contains('*') {
        return Ok(vec![folder.join(name)]);
    }
    let new_names = (0..partitions.max(1)).map(|p| format!("part-{p:05}.jsonl"));
    if let Some(new) = new_names.clone().find(|new| !names::matches(name, new)) {
        let pattern = folder.join(name);
        return Err(SourceError::Unusable(format!(
            "the log is empty, and {} would not match a new {new}",
            pattern.display()
        )));
    }
    Ok(new_names.map(|new| folder.join(new)).collect())
}

/// Opens a file for appending.
fn open_part(path: &Path) -> io::Result<File> {
    let new = !path.exists();
    let file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
    if new && let Some(folder) = path.parent() {
        // The name is durable only once the folder is.
        File::open(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })?
            .sync_all()?;
    }
    Ok(file)
}

/// Ends the line that a writer who was killed has left half written.
fn end_line(file: &mut File) -> io::Result<()> {
    let len = file.metadata()?.len();
    let mut last = [b'\n'];
    if len > 0 {
        file.read_exact_at(&mut last, len - 1)?;
    }
    if last == [b'\n'] { Ok(()) } else { file.write_all(b"\n") }
}

fn unwritable(path: &Path, error: io::Error) -> SourceError {
    SourceError::Unusable(format!("{}: {error}", path.display()))
}
