//! Parquet files bounded in bytes, in the form that `datasets`, pandas and their kin read well:
//! row groups that a streaming reader can hold, pictures uncompressed, a page index and bloom filters
//! on ids, no dictionary where nothing repeats.

use std::{fs::File, path::PathBuf};

use ::parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::{
        metadata::KeyValue,
        properties::{EnabledStatistics, WriterProperties},
    },
    schema::types::ColumnPath,
};
use anyhow::Context;
use arrow_array::RecordBatch;
use arrow_schema::{DataType, Fields, Schema, SchemaRef};
use schemas::limits;

use super::folder::{self, DataFile};

/// Columns whose values repeat.
const DICTIONARY: [&str; 14] = [
    "channel", "channels", "encoder", "format", "kind", "label", "licence", "model", "op",
    "outcome", "reason", "source", "stage", "topic",
];

/// Where files go and how they are named: `PREFIX-00000.END` below the folder.
#[derive(Clone)]
pub struct Names {
    /// The folder that the manifest's paths are below.
    pub folder: PathBuf,
    /// `data/train-12`.
    pub prefix: String,
    /// `parquet`.
    pub end: &'static str,
    /// Bytes after which a new file begins.
    pub bytes_max: usize,
}

impl Names {
    /// The path of a file below the folder.
    pub fn path(&self, number: usize) -> String {
        format!("{}-{number:05}.{}", self.prefix, self.end)
    }

    /// A finished file, as the manifest names it.
    pub fn finished(&self, number: usize, rows: u64) -> anyhow::Result<DataFile> {
        let path = self.path(number);
        let about = std::fs::metadata(self.folder.join(&path));
        let bytes = about.with_context(|| format!("look at {path}"))?.len();
        Ok(DataFile { path, rows, bytes })
    }
}

/// A file that is being written.
struct Open {
    writer: ArrowWriter<File>,
    rows: u64,
    group_rows: usize,
    group_bytes: usize,
}

/// Rows of one schema, as many files as their bytes ask for, at least one.
pub struct Shards {
    names: Names,
    schema: SchemaRef,
    properties: WriterProperties,
    open: Option<Open>,
    files: Vec<DataFile>,
}

impl Shards {
    /// `features` is what `datasets` is told of the columns.
    pub fn new(names: Names, schema: SchemaRef, features: Option<String>) -> Shards {
        let properties = properties(&schema, features);
        Shards { names, schema, properties, open: None, files: Vec::new() }
    }

    /// Rows, which must have the schema.
    pub fn write(&mut self, rows: &RecordBatch) -> anyhow::Result<()> {
        self.write_part(rows, rows.get_array_memory_size())
    }

    /// Rows that take so many bytes in memory; more than a group or a file may hold go in halves.
    fn write_part(&mut self, rows: &RecordBatch, bytes: usize) -> anyhow::Result<()> {
        let most = limits::EXPORT_GROUP_BYTES.min(self.names.bytes_max);
        if bytes > most && rows.num_rows() > 1 {
            let half = rows.num_rows() / 2;
            self.write_part(&rows.slice(0, half), bytes / 2)?;
            return self.write_part(&rows.slice(half, rows.num_rows() - half), bytes / 2);
        }
        if let Some(open) = &mut self.open {
            let group = open.group_bytes + bytes > limits::EXPORT_GROUP_BYTES
                || open.group_rows + rows.num_rows() > limits::EXPORT_GROUP_ROWS;
            if open.group_rows > 0 && group {
                open.writer.flush().context("write a row group")?;
                (open.group_rows, open.group_bytes) = (0, 0);
            }
            // What is not flushed yet counts as large as it came.
            let written = open.writer.bytes_written() + open.group_bytes;
            if open.rows > 0 && written + bytes > self.names.bytes_max {
                self.close()?;
            }
        }
        let open = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(open(
                &self.names,
                &self.schema,
                &self.properties,
                self.files.len(),
            )?),
        };
        open.writer.write(rows).context("write rows")?;
        open.rows += rows.num_rows() as u64;
        open.group_rows += rows.num_rows();
        open.group_bytes += bytes;
        Ok(())
    }

    fn close(&mut self) -> anyhow::Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        open.writer.close().context("finish a Parquet file")?;
        self.files.push(self.names.finished(self.files.len(), open.rows)?);
        Ok(())
    }

    /// The files; one without a row tells the columns where there is none.
    pub fn finish(mut self) -> anyhow::Result<Vec<DataFile>> {
        if self.open.is_none() && self.files.is_empty() {
            self.open = Some(open(&self.names, &self.schema, &self.properties, 0)?);
        }
        self.close()?;
        Ok(self.files)
    }
}

fn open(
    names: &Names,
    schema: &SchemaRef,
    properties: &WriterProperties,
    number: usize,
) -> anyhow::Result<Open> {
    let file = folder::create(&names.folder.join(names.path(number)))?;
    let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties.clone()))
        .context("begin a Parquet file")?;
    Ok(Open { writer, rows: 0, group_rows: 0, group_bytes: 0 })
}

/// One column of the file: its path there, and the type.
fn leaves(fields: &Fields, path: &[String], into: &mut Vec<(Vec<String>, DataType)>) {
    for field in fields {
        let path = [path, std::slice::from_ref(field.name())].concat();
        leaf(field.data_type(), path, into);
    }
}

fn leaf(kind: &DataType, mut path: Vec<String>, into: &mut Vec<(Vec<String>, DataType)>) {
    match kind {
        DataType::Struct(fields) => leaves(fields, &path, into),
        DataType::List(item) => {
            path.extend(["list".to_owned(), item.name().clone()]);
            leaf(item.data_type(), path, into);
        }
        other => into.push((path, other.clone())),
    }
}

fn properties(schema: &Schema, features: Option<String>) -> WriterProperties {
    let level = ZstdLevel::try_new(3).expect("3 is a zstd level");
    let told = features.map(|text| vec![KeyValue::new("huggingface".to_owned(), text)]);
    let mut builder = WriterProperties::builder()
        .set_created_by(concat!("everpair ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(level))
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        // Bounded by hand, in bytes.
        .set_max_row_group_row_count(None)
        .set_key_value_metadata(told);
    let mut columns = Vec::new();
    leaves(schema.fields(), &[], &mut columns);
    for (path, kind) in columns {
        let column = ColumnPath::new(path.clone());
        let name = path[0].as_str();
        let last = path.last().map_or("", String::as_str);
        let id = path.len() == 1 && name.ends_with("_id") && kind == DataType::Utf8;
        if last == "bytes" && kind == DataType::Binary {
            builder = builder.set_column_compression(column.clone(), Compression::UNCOMPRESSED);
        }
        if DICTIONARY.iter().any(|repeats| *repeats == name || *repeats == last)
            || name.ends_with("_source")
            || name.ends_with("_licence")
        {
            builder = builder.set_column_dictionary_enabled(column.clone(), true);
        }
        if id || name == "epoch" {
            let pages = EnabledStatistics::Page;
            builder = builder.set_column_statistics_enabled(column.clone(), pages);
        }
        if id {
            builder = builder.set_column_bloom_filter_enabled(column.clone(), true);
            let most = limits::EXPORT_GROUP_ROWS as u64;
            builder = builder.set_column_bloom_filter_max_ndv(column, most);
        }
    }
    builder.build()
}
