//! Files of JSON lines, bounded in bytes.

use std::{
    fs::File,
    io::{BufWriter, Write},
};

use anyhow::Context;
use serde_json::Value;

use super::{
    folder::{self, DataFile},
    images::Example,
    shards::Names,
};

/// As many files as the bytes ask for.
pub struct Lines {
    names: Names,
    /// What a row becomes: a line, or several.
    form: fn(&Example) -> Vec<Value>,
    open: Option<(BufWriter<File>, usize, u64)>,
    files: Vec<DataFile>,
}

impl Lines {
    /// Nothing is created before the first line.
    pub fn new(names: Names, form: fn(&Example) -> Vec<Value>) -> Lines {
        Lines { names, form, open: None, files: Vec::new() }
    }

    /// One line.
    fn line(&mut self, line: &Value) -> anyhow::Result<()> {
        let text = format!("{line}\n");
        if let Some((_, bytes, _)) = &self.open
            && bytes + text.len() > self.names.bytes_max
        {
            self.close()?;
        }
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let path = self.names.folder.join(self.names.path(self.files.len()));
                self.open.insert((BufWriter::new(folder::create(&path)?), 0, 0))
            }
        };
        open.0.write_all(text.as_bytes()).context("write a line")?;
        open.1 += text.len();
        open.2 += 1;
        Ok(())
    }

    fn close(&mut self) -> anyhow::Result<()> {
        let Some((mut file, _, rows)) = self.open.take() else { return Ok(()) };
        file.flush().context("write lines")?;
        self.files.push(self.names.finished(self.files.len(), rows)?);
        Ok(())
    }
}

impl super::Writer for Lines {
    fn write(&mut self, rows: Vec<Example>) -> anyhow::Result<()> {
        let form = self.form;
        rows.iter().flat_map(form).try_for_each(|line| self.line(&line))
    }

    /// An empty file where there is no line.
    fn finish(mut self: Box<Self>) -> anyhow::Result<Vec<DataFile>> {
        if self.open.is_none() && self.files.is_empty() {
            folder::create(&self.names.folder.join(self.names.path(0)))?;
            self.files.push(self.names.finished(0, 0)?);
        }
        self.close()?;
        Ok(self.files)
    }
}
