//! Parquet files of a table: rows in, rows out.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, ListArray, RecordBatch, StructArray, new_null_array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::arrow_reader::{
    ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use schemas::limits;
use serde_json::{Map, Value, json};

use super::store::ObjectReader;
use super::{Error, Result, Store};

/// Encoded bytes after which a row group is closed; it bounds what a reader must hold at once.
const ROW_GROUP_BYTES: usize = 64 << 20;
/// Rows after which a row group is closed: enough of them for every thread of a reader. DuckDB
/// scanned groups of 20,000 to 120,000 rows fastest, those of 1,000 seven times slower.
const ROW_GROUP_ROWS: usize = 100_000;
/// Share of look-ups that a bloom filter sends to a row group for nothing.
const BLOOM_FALSE: f64 = 0.01;
/// For what people read; level 1 is for vectors, of which every level saves the same tenth.
const TEXT_LEVEL: i32 = 3;
/// Text columns whose values do not repeat: a dictionary would hold each of them.
const UNIQUE: [&str; 10] = [
    "image_id",
    "content_id",
    "triplet_id",
    "request_id",
    "phash",
    "caption",
    "uri",
    "attributes",
    "description",
    "detail",
];
/// A largest value longer than this is left out of the statistics rather than cut: a cut one would
/// be too small.
const STATISTIC_BYTES: usize = 128;

/// Columns with statistics: ids and epochs, nothing that a take-down would have to erase.
fn has_statistics(field: &Field) -> bool {
    let named = field.name() == "epoch" || field.name().ends_with("_id");
    named && matches!(field.data_type(), DataType::Utf8 | DataType::Int64)
}

/// Whether a look-up by this column should skip files and row groups: ids in text.
fn has_bloom(field: &Field) -> bool {
    field.name().ends_with("_id") && *field.data_type() == DataType::Utf8
}

/// The path of every column of bytes, with whether it is of an image: these are compressed already.
fn binary_leaves(
    fields: &arrow_schema::Fields,
    path: &[String],
    into: &mut Vec<(ColumnPath, bool)>,
) {
    for field in fields {
        let path = [path, std::slice::from_ref(field.name())].concat();
        match field.data_type() {
            DataType::Struct(children) => binary_leaves(children, &path, into),
            DataType::Binary | DataType::LargeBinary => {
                into.push((ColumnPath::new(path), field.name() == "bytes"));
            }
            _ => {}
        }
    }
}

/// How a file of `rows` rows is laid out. What each choice is worth was measured on a million rows
/// with DuckDB and Spark; the layout of every table is held by tests/golden/parquet.txt.
fn properties(schema: &Schema, rows: usize) -> WriterProperties {
    let zstd = |level| Compression::ZSTD(ZstdLevel::try_new(level).expect("a zstd level"));
    let mut builder = WriterProperties::builder()
        .set_compression(zstd(TEXT_LEVEL))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_statistics_enabled(EnabledStatistics::None);
    for field in schema.fields() {
        let column = ColumnPath::from(field.name().as_str());
        if has_statistics(field) {
            builder =
                builder.set_column_statistics_enabled(column.clone(), EnabledStatistics::Page);
        }
        if has_bloom(field) {
            // Sized by the rows that there are: the default would be a megabyte for every column of
            // every small epoch.
            let distinct = rows.clamp(1, ROW_GROUP_ROWS) as u64;
            builder = builder
                .set_column_bloom_filter_fpp(column.clone(), BLOOM_FALSE)
                .set_column_bloom_filter_max_ndv(column.clone(), distinct);
        }
        if UNIQUE.contains(&field.name().as_str()) {
            builder = builder.set_column_dictionary_enabled(column, false);
        }
    }
    let mut binary = Vec::new();
    binary_leaves(schema.fields(), &[], &mut binary);
    // Vectors and pictures do not repeat: a dictionary of them only costs memory.
    for (column, image) in binary {
        let compression = if image { Compression::UNCOMPRESSED } else { zstd(1) };
        builder = builder
            .set_column_dictionary_enabled(column.clone(), false)
            .set_column_compression(column, compression);
    }
    builder.build()
}

/// One file's content, rows and `stats`.
pub(super) struct Written {
    pub content: Vec<u8>,
    pub stats: String,
}

/// Encodes batches, which must have the schema, as one file.
pub(super) fn write(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Written> {
    let refused = |error: &dyn std::fmt::Display| Error::Refused(format!("rows: {error}"));
    let rows = batches.iter().map(RecordBatch::num_rows).sum();
    let properties = Some(properties(schema, rows));
    let mut writer = ArrowWriter::try_new(Vec::new(), schema.clone(), properties)
        .map_err(|error| refused(&error))?;
    for batch in batches {
        writer.write(batch).map_err(|error| refused(&error))?;
    }
    let content = writer.into_inner().map_err(|error| refused(&error))?;
    Ok(Written { content, stats: statistics(schema, batches).to_string() })
}

fn statistics(schema: &Schema, batches: &[RecordBatch]) -> Value {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let (mut least, mut most, mut nulls) = (Map::new(), Map::new(), Map::new());
    for (column, field) in schema.fields().iter().enumerate() {
        if !has_statistics(field) {
            continue;
        }
        let arrays: Vec<&ArrayRef> = batches.iter().map(|batch| batch.column(column)).collect();
        let missing: usize = arrays.iter().map(|array| array.null_count()).sum();
        nulls.insert(field.name().clone(), json!(missing));
        let (low, high) = if *field.data_type() == DataType::Int64 {
            let numbers =
                || arrays.iter().flat_map(|a| a.as_primitive::<Int64Type>().iter()).flatten();
            (numbers().min().map(Value::from), numbers().max().map(Value::from))
        } else {
            let texts = || arrays.iter().flat_map(|a| a.as_string::<i32>().iter()).flatten();
            let short = |text: &&str| text.len() <= STATISTIC_BYTES;
            (
                texts().min().filter(short).map(Value::from),
                texts().max().filter(short).map(Value::from),
            )
        };
        low.map(|value| least.insert(field.name().clone(), value));
        high.map(|value| most.insert(field.name().clone(), value));
    }
    json!({
        "numRecords": rows,
        "minValues": least,
        "maxValues": most,
        "nullCount": nulls,
        "tightBounds": true,
    })
}

/// All rows of a file, dead ones included, in order, with the columns of `schema`; a column that
/// the file lacks is null.
pub(super) fn read(
    store: &Store,
    name: String,
    size: u64,
    schema: &SchemaRef,
) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
    read_from(ObjectReader::new(store.clone(), name, size), schema)
}

/// The same of a file as a reader has it.
pub(super) fn read_from(
    reader: ObjectReader,
    schema: &SchemaRef,
) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
    read_some(reader, schema, None)
}

/// Rows by their numbers, ascending: of the others' pages nothing is read.
pub(super) fn read_rows(
    reader: ObjectReader,
    schema: &SchemaRef,
    rows: &[u64],
) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
    read_some(reader, schema, Some(rows))
}

fn read_some(
    reader: ObjectReader,
    schema: &SchemaRef,
    wanted: Option<&[u64]>,
) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
    let shown: Arc<str> = reader.name().into();
    let failed = move |error: &(dyn std::error::Error + 'static)| match store_failure(error) {
        Some(why) => Error::Io(format!("{shown}: {why}")),
        None => Error::Unreadable(format!("{shown}: {error}")),
    };
    let policy = if wanted.is_some() { PageIndexPolicy::Optional } else { PageIndexPolicy::Skip };
    let options = ArrowReaderOptions::new().with_page_index_policy(policy);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(reader, options)
        .map_err(|error| failed(&error))?;
    let held: Vec<usize> = schema
        .fields()
        .iter()
        .filter_map(|field| builder.schema().index_of(field.name()).ok())
        .collect();
    let mask = ProjectionMask::roots(builder.parquet_schema(), held);
    let rows = rows_at_once(builder.metadata(), schema);
    let mut builder = builder.with_batch_size(rows);
    if let Some(wanted) = wanted {
        let all = builder.metadata().file_metadata().num_rows();
        let all = usize::try_from(all).unwrap_or(0);
        let at = wanted.iter().filter_map(|row| usize::try_from(*row).ok());
        let ranges = at.filter(|row| *row < all).map(|row| row..row + 1);
        builder = builder.with_row_selection(RowSelection::from_consecutive_ranges(ranges, all));
    }
    let reader = builder.with_projection(mask).build().map_err(|error| failed(&error))?;
    let schema = schema.clone();
    Ok(reader.map(move |batch| {
        let batch = batch.map_err(|error| failed(&error))?;
        let rows = batch.num_rows();
        let columns =
            schema.fields().iter().map(|field| match batch.column_by_name(field.name()) {
                Some(column) => completed(column, field.data_type()),
                None => new_null_array(field.data_type(), rows),
            });
        let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(schema.clone(), columns.collect(), &options)
            .map_err(|error| failed(&error))
    }))
}

/// A column with null for fields of structs that are newer than its file.
fn completed(column: &ArrayRef, wanted: &DataType) -> ArrayRef {
    match wanted {
        _ if column.data_type() == wanted => column.clone(),
        DataType::List(item) => match column.as_list_opt::<i32>() {
            None => column.clone(),
            Some(list) => {
                let (_, offsets, values, nulls) = list.clone().into_parts();
                let values = completed(&values, item.data_type());
                let list = ListArray::try_new(item.clone(), offsets, values, nulls);
                list.map_or_else(|_| column.clone(), |list| Arc::new(list))
            }
        },
        DataType::Struct(fields) => match column.as_struct_opt() {
            None => column.clone(),
            Some(held) => {
                let each = fields.iter().map(|field| match held.column_by_name(field.name()) {
                    Some(column) => completed(column, field.data_type()),
                    None => new_null_array(field.data_type(), held.len()),
                });
                let nulls = held.nulls().cloned();
                let held = StructArray::try_new(fields.clone(), each.collect(), nulls);
                held.map_or_else(|_| column.clone(), |held| Arc::new(held))
            }
        },
        _ => column.clone(),
    }
}

/// All rows of a Parquet object, dead ones included, with the columns that it has but those of
/// bytes: whoever looks for traces of rows needs no schema, and no pictures.
pub(super) fn read_plainly(
    store: &Store,
    name: &str,
    size: u64,
) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
    let shown: Arc<str> = name.into();
    let failed = move |error: &(dyn std::error::Error + 'static)| match store_failure(error) {
        Some(why) => Error::Io(format!("{shown}: {why}")),
        None => Error::Unreadable(format!("{shown}: {error}")),
    };
    let reader = ObjectReader::new(store.clone(), name.to_owned(), size);
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(reader).map_err(|error| failed(&error))?;
    let mut binary = Vec::new();
    binary_leaves(builder.schema().fields(), &[], &mut binary);
    let columns = builder.parquet_schema().columns();
    let texts = columns
        .iter()
        .enumerate()
        .filter(|(_, column)| !binary.iter().any(|(path, _)| path == column.path()));
    let texts: Vec<usize> = texts.map(|(at, _)| at).collect();
    let mask = ProjectionMask::leaves(builder.parquet_schema(), texts);
    let builder = builder.with_batch_size(limits::READ_ROWS).with_projection(mask);
    let reader = builder.build().map_err(|error| failed(&error))?;
    Ok(reader.map(move |batch| batch.map_err(|error| failed(&error))))
}

/// How many rows are read at once: of pictures only as many as the memory for them allows.
fn rows_at_once(file: &ParquetMetaData, schema: &Schema) -> usize {
    let mut binary = Vec::new();
    binary_leaves(schema.fields(), &[], &mut binary);
    let groups = file.row_groups().iter();
    let widest = groups.filter(|group| group.num_rows() > 0).map(|group| {
        let columns = group
            .columns()
            .iter()
            .filter(|c| binary.iter().any(|(path, _)| path == c.column_path()));
        let bytes: i64 = columns.map(|column| column.uncompressed_size()).sum();
        usize::try_from(bytes / group.num_rows()).unwrap_or(0)
    });
    let widest = widest.max().unwrap_or(0).max(1);
    (limits::READ_BYTES / widest).clamp(1, limits::READ_ROWS)
}

/// The store's own words, where it and not the file is what failed.
fn store_failure(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(error) = error.downcast_ref::<std::io::Error>() {
        return store_failure(error.get_ref()?);
    }
    match error.downcast_ref::<Error>() {
        Some(Error::Io(why)) => Some(why.clone()),
        _ => store_failure(error.source()?),
    }
}
