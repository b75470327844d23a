//! Every table as plain Parquet: the rows that are live at the epoch, the tables' own columns.

use std::sync::Arc;

use anyhow::Context;
use arrow_array::{
    Array, ArrayRef, BooleanArray, RecordBatch, StringArray, StructArray, cast::AsArray,
    new_null_array, types::Int64Type,
};
use arrow_schema::DataType;
use arrow_select::filter::filter_record_batch;
use schemas::tables::Table;

use super::{
    Export, Images, Made, folder, hf, images,
    shards::{Names, Shards},
};

/// Writes one table.
pub fn table(
    export: &mut Export,
    table: Table,
    names: Names,
    made: &mut Made,
) -> anyhow::Result<()> {
    let open = export.dataset.table(table)?;
    let schema = table.schema();
    let mut shards = Shards::new(names, schema.clone(), Some(hf::told(&schema)));
    export.progress.begin(table.as_str(), open.rows()?);
    let epoch = i64::try_from(export.dataset.epoch()).context("epochs fit into 63 bits")?;
    for batch in open.scan(None)? {
        let batch = committed(&batch?, epoch)?;
        let rows = batch.num_rows();
        let mut batch = export.gone.without(table, &batch)?;
        if table == Table::Triplets {
            made.left_out += (rows - batch.num_rows()) as u64;
        }
        if table == Table::Contents {
            batch = contents(export, batch, made)?;
        }
        if batch.num_rows() > 0 {
            shards.write(&batch)?;
            export.progress.add(batch.num_rows() as u64);
        }
    }
    export.progress.end();
    made.files.extend(shards.finish()?);
    Ok(())
}

/// A memo may be ahead of the epoch.
fn committed(batch: &RecordBatch, epoch: i64) -> anyhow::Result<RecordBatch> {
    let column = batch.column_by_name("epoch").context("a table without the column epoch")?;
    let epochs = column.as_primitive::<Int64Type>();
    let mask: BooleanArray = epochs.iter().map(|row| row.map(|row| row <= epoch)).collect();
    Ok(filter_record_batch(batch, &mask)?)
}

/// Counts contents without bytes; with `--images path` makes files of the others.
fn contents(export: &Export, batch: RecordBatch, made: &mut Made) -> anyhow::Result<RecordBatch> {
    let column = |name: &str| batch.column_by_name(name).context("a column of contents");
    let (ids, formats) = (column("content_id")?, column("format")?);
    let (ids, formats) = (ids.as_string::<i32>(), formats.as_string::<i32>());
    let image = column("image")?.as_struct().clone();
    let (bytes, paths) = (image.column(0).as_binary::<i32>(), image.column(1).as_string::<i32>());
    made.not_stored += bytes.null_count() as u64;
    if export.images == Images::Embed {
        return Ok(batch);
    }
    let mut files: Vec<Option<String>> = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        let held = paths.is_valid(row).then(|| paths.value(row));
        if !bytes.is_valid(row) {
            files.push(held.map(str::to_owned));
            continue;
        }
        let end = images::extension(held, formats.value(row));
        let path = images::file_path(folder::PICTURES, ids.value(row), end);
        folder::write(&export.folder.partial().join(&path), bytes.value(row))?;
        made.pictures.0 += 1;
        made.pictures.1 += bytes.value(row).len() as u64;
        files.push(Some(path));
    }
    let files: ArrayRef = Arc::new(files.into_iter().collect::<StringArray>());
    let nothing = new_null_array(&DataType::Binary, batch.num_rows());
    let fields = image.fields().clone();
    let image: ArrayRef =
        Arc::new(StructArray::new(fields, vec![nothing, files], image.nulls().cloned()));
    let at = batch.schema().index_of("image")?;
    let mut columns = batch.columns().to_vec();
    columns[at] = image;
    Ok(RecordBatch::try_new(batch.schema(), columns)?)
}
