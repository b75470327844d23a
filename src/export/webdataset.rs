//! Tar files for WebDataset: the files of one row share a key, the triplet's id.

use std::{fs::File, io::BufWriter};

use anyhow::{Context, bail};
use serde_json::json;

use super::{
    folder::{self, DataFile},
    images::{Example, Picture},
    shards::Names,
};

/// A tar file's block; each member begins with one, and its content fills whole ones.
const BLOCK: usize = 512;

/// A tar file that is being written.
struct Open {
    tar: tar::Builder<BufWriter<File>>,
    bytes: usize,
    rows: u64,
}

impl Open {
    fn append(&mut self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_entry_type(tar::EntryType::Regular);
        self.tar.append_data(&mut header, name, content).with_context(|| format!("add {name}"))?;
        self.bytes += size(content.len());
        Ok(())
    }
}

/// What a member takes.
fn size(content: usize) -> usize {
    BLOCK + content.next_multiple_of(BLOCK)
}

/// As many tar files as the bytes ask for.
pub struct Writer {
    names: Names,
    open: Option<Open>,
    files: Vec<DataFile>,
}

impl Writer {
    /// Files of these names.
    pub fn new(names: Names) -> Writer {
        Writer { names, open: None, files: Vec::new() }
    }

    fn begin(&self) -> anyhow::Result<Open> {
        let file = folder::create(&self.names.folder.join(self.names.path(self.files.len())))?;
        // A tar file ends with two empty blocks.
        Ok(Open { tar: tar::Builder::new(BufWriter::new(file)), bytes: 2 * BLOCK, rows: 0 })
    }

    fn close(&mut self) -> anyhow::Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let file = open.tar.into_inner().context("finish a tar file")?;
        file.into_inner().map_err(|error| error.into_error()).context("finish a tar file")?;
        self.files.push(self.names.finished(self.files.len(), open.rows)?);
        Ok(())
    }
}

/// The members of one row, by the end of their names.
fn members(row: Example) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let negatives = row.negatives.iter().enumerate().map(|(at, one)| (format!("neg{at}"), one));
    let pictures = [("query".to_owned(), &row.query), ("target".to_owned(), &row.target)];
    let mut members = Vec::new();
    for (name, Picture { extension, bytes, path, .. }) in pictures.into_iter().chain(negatives) {
        let Some(bytes) = bytes else { bail!("{path}: no bytes to put into a tar file") };
        members.push((format!("{name}.{extension}"), bytes.clone()));
    }
    let triplet = row.triplet;
    let about = json!({
        "triplet_id": triplet.triplet_id,
        "query_id": triplet.query_id,
        "target_id": triplet.target_id,
        "instructions": triplet.instructions,
        "audits": triplet.audits,
        "hard_negatives": triplet.hard_negatives,
        "channels": triplet.channels,
        "scores": triplet.scores,
        "description": triplet.description,
        "model": triplet.model,
        "prompt_version": triplet.prompt_version,
        "request_id": triplet.request_id,
        "query_content_id": triplet.query_content_id,
        "target_content_id": triplet.target_content_id,
        "query_source": row.query.source,
        "query_licence": row.query.licence,
        "target_source": row.target.source,
        "target_licence": row.target.licence,
        "epoch": triplet.epoch,
        "export_epoch": row.export_epoch,
    });
    members.push(("json".to_owned(), about.to_string().into_bytes()));
    Ok(members)
}

impl super::Writer for Writer {
    fn write(&mut self, rows: Vec<Example>) -> anyhow::Result<()> {
        for row in rows {
            let key = row.triplet.triplet_id.clone();
            let members = members(row)?;
            let bytes: usize = members.iter().map(|(_, content)| size(content.len())).sum();
            if self.open.as_ref().is_some_and(|open| open.bytes + bytes > self.names.bytes_max) {
                self.close()?;
            }
            let mut open = match self.open.take() {
                Some(open) => open,
                None => self.begin()?,
            };
            for (end, content) in &members {
                open.append(&format!("{key}.{end}"), content)?;
            }
            open.rows += 1;
            self.open = Some(open);
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> anyhow::Result<Vec<DataFile>> {
        if self.open.is_none() && self.files.is_empty() {
            self.open = Some(self.begin()?);
        }
        self.close()?;
        Ok(self.files)
    }
}
