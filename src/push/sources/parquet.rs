//! Rows of Parquet files: Hugging Face datasets (an image is a struct of bytes and path), what
//! img2dataset writes, and anything else with a binary column.

use std::{
    collections::HashMap,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow_array::{
    Array, BinaryArray, BinaryViewArray, LargeBinaryArray, RecordBatch, StringArray, StructArray,
};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};
use schemas::limits;
use serde_json::{Map, Value};

use super::{
    Body, Extent, Found, Item, Opened, Wanted,
    ahead::{Give, ahead},
    fields::{self, Columns},
};

type Builder = ParquetRecordBatchReaderBuilder<File>;

pub fn open(path: &Path, wanted: &Wanted, skip: u64) -> Result<Opened, String> {
    let builder = builder(path)?;
    let schema = Arc::clone(builder.schema());
    let chosen = choose(&schema, wanted)?;
    if chosen.image.is_none() && !wanted.by_reference {
        if path.with_extension("tar").exists() {
            let mut left = Opened::new(std::iter::once(Found::Other), Extent::Things(1));
            left.notes
                .push(format!("{}: left alone, it describes the tar beside it", path.display()));
            return Ok(left);
        }
        return Err(no_image(&schema, &wanted.columns));
    }
    if wanted.by_reference && !chosen.has_uri {
        let columns = names(schema.fields());
        return Err(format!("no column of addresses: --uri-column NAME; it has {columns}"));
    }
    let rows = builder.metadata().file_metadata().num_rows().max(0) as u64;
    let roots = chosen.image.iter().chain(&chosen.described).copied();
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
    let reader = builder
        .with_projection(mask)
        .with_batch_size(limits::PUSH_ROWS_AT_ONCE)
        .with_offset(usize::try_from(skip).unwrap_or(usize::MAX))
        .build()
        .map_err(|e| e.to_string())?;
    let rows_of = Rows {
        name: path.display().to_string(),
        folder: path.parent().unwrap_or(Path::new("")).to_owned(),
        image: chosen.image.map(|at| schema.field(at).name().clone()),
        columns: wanted.columns.clone(),
    };
    let name = rows_of.name.clone();
    let found = ahead(name, move |give| {
        let mut number = skip;
        for batch in reader {
            let given = match batch {
                Ok(batch) => rows_of.give(&batch, number, &give).map(|wanted| (batch, wanted)),
                Err(e) => Err(e.to_string()),
            };
            match given {
                Ok((batch, true)) => number += batch.num_rows() as u64,
                Ok((_, false)) => return,
                Err(why) => {
                    let place = format!("{} row {}", rows_of.name, number + 1);
                    let why = format!("{why}; nothing from there on is read");
                    give.give(Found::Broken(place, why));
                    return;
                }
            }
        }
    })?;
    let mut opened = Opened::new(found, Extent::Things(rows));
    opened.notes.push(format!("{}: {}", path.display(), chosen.in_words));
    opened.notes.extend(chosen.left.map(|left| format!("{}: {left}", path.display())));
    Ok(opened)
}

/// What the rows of img2dataset's Parquet file beside a tar say, by key; nothing if it has no key.
pub fn by_key(path: &Path) -> Result<HashMap<String, Map<String, Value>>, String> {
    let builder = builder(path)?;
    let schema = Arc::clone(builder.schema());
    let Ok(key) = schema.index_of("key") else { return Ok(HashMap::new()) };
    let text = (0..schema.fields().len()).filter(|&at| is_plain(schema.field(at).data_type()));
    let mask = ProjectionMask::roots(builder.parquet_schema(), text.chain([key]));
    let reader = builder.with_projection(mask).build().map_err(|e| e.to_string())?;
    let mut rows = HashMap::new();
    for batch in reader {
        for row in described(&batch.map_err(|e| e.to_string())?, None)? {
            if let Some(key) = row.get("key").and_then(Value::as_str) {
                rows.insert(key.to_owned(), row);
            }
        }
    }
    Ok(rows)
}

fn builder(path: &Path) -> Result<Builder, String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    if file.metadata().map_err(|e| e.to_string())?.len() == 0 {
        return Err("the file is empty".into());
    }
    Builder::try_new(file).map_err(|e| format!("{e}: not a Parquet file, or cut short"))
}

/// Columns by their place in the file.
struct Chosen {
    image: Option<usize>,
    described: Vec<usize>,
    has_uri: bool,
    in_words: String,
    left: Option<String>,
}

fn choose(schema: &Schema, wanted: &Wanted) -> Result<Chosen, String> {
    let columns = &wanted.columns;
    let all = schema.fields();
    for chosen in [
        &columns.image_column,
        &columns.id_column,
        &columns.caption_column,
        &columns.uri_column,
        &columns.source_column,
        &columns.licence_column,
    ] {
        if let Some(name) = chosen.as_deref().filter(|name| schema.index_of(name).is_err()) {
            return Err(format!("no column {name}; it has {}", names(all)));
        }
    }
    let of_images: Vec<&str> =
        all.iter().filter(|f| holds_images(f)).map(|f| f.name().as_str()).collect();
    let usual =
        fields::name_of(of_images.iter().copied(), columns.image_column.as_deref(), &fields::IMAGE);
    let image = match (&columns.image_column, usual, &of_images[..]) {
        _ if wanted.by_reference => None,
        (Some(name), None, _) => {
            let kind = schema.field_with_name(name).map(|f| f.data_type().to_string());
            let kind = kind.unwrap_or_default();
            return Err(format!(
                "column {name} is {kind}, not binary, nor a struct of bytes and path"
            ));
        }
        (_, Some(name), _) => Some(name),
        (None, None, []) => None,
        (None, None, [one]) => Some((*one).to_owned()),
        (None, None, several) => {
            let several = several.join(", ");
            return Err(format!(
                "several columns may hold the images: --image-column, one of {several}"
            ));
        }
    };
    let described: Vec<usize> = (0..all.len())
        .filter(|&at| Some(all[at].name()) != image.as_ref() && is_plain(all[at].data_type()))
        .collect();
    let there = || described.iter().map(|&at| all[at].name().as_str());
    let roles = [
        ("id", &columns.id_column, &fields::ID[..]),
        ("caption", &columns.caption_column, &fields::CAPTION),
        ("uri", &columns.uri_column, &fields::URI),
        ("source", &columns.source_column, &fields::SOURCE),
        ("licence", &columns.licence_column, &fields::LICENCE),
    ];
    let mut in_words: Vec<String> = image.iter().map(|name| format!("image = {name}")).collect();
    let mut used: Vec<String> = image.iter().cloned().collect();
    let mut has_uri = false;
    for (role, chosen, usual) in roles {
        let free = there().filter(|name| !used.iter().any(|u| u == name));
        match fields::name_of(free, chosen.as_deref(), usual) {
            Some(name) => {
                has_uri |= role == "uri";
                in_words.push(format!("{role} = {name}"));
                used.push(name);
            }
            None if role == "id" => in_words.push("id = sha256 of the bytes".into()),
            None => {}
        }
    }
    let rest: Vec<&str> = all.iter().map(|f| f.name().as_str()).collect();
    let unused = |name: &&str| !used.iter().any(|u| u == name);
    let kept = |name: &&str| wanted.attributes && there().any(|d| d == *name);
    let left: Vec<&str> = rest.into_iter().filter(unused).filter(|name| !kept(name)).collect();
    let how = if wanted.attributes { "" } else { " (--attributes sends what is not binary)" };
    let left = (!left.is_empty()).then(|| format!("not sent: {}{how}", left.join(", ")));
    let described = described
        .into_iter()
        // img2dataset says in `status` why there is no image.
        .filter(|&at| {
            wanted.attributes || used.contains(all[at].name()) || all[at].name() == "status"
        });
    Ok(Chosen {
        image: image.and_then(|name| schema.index_of(&name).ok()),
        described: described.collect(),
        has_uri,
        in_words: in_words.join(", "),
        left,
    })
}

fn no_image(schema: &Schema, columns: &Columns) -> String {
    let there = || schema.fields().iter().map(|f| f.name().as_str());
    let uri = fields::name_of(there(), columns.uri_column.as_deref(), &fields::URI);
    let or = uri.map_or(String::new(), |uri| format!(", or --by reference to send its {uri}"));
    let there = names(schema.fields());
    format!(
        "no column of images (binary, or a struct of bytes and path): --image-column NAME{or}; it \
         has {there}"
    )
}

fn names(fields: &[Arc<Field>]) -> String {
    let names: Vec<String> =
        fields.iter().map(|f| format!("{} ({})", f.name(), f.data_type())).collect();
    names.join(", ")
}

fn is_binary(kind: &DataType) -> bool {
    matches!(kind, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

fn holds_images(field: &Field) -> bool {
    match field.data_type() {
        DataType::Struct(inner) => {
            inner.iter().any(|f| f.name() == "bytes" && is_binary(f.data_type()))
        }
        kind => is_binary(kind),
    }
}

/// Whether JSON can hold it.
fn is_plain(kind: &DataType) -> bool {
    match kind {
        DataType::Struct(fields) => fields.iter().all(|f| is_plain(f.data_type())),
        DataType::List(item) | DataType::LargeList(item) => is_plain(item.data_type()),
        DataType::Dictionary(_, values) => is_plain(values),
        DataType::Boolean
        | DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Date32
        | DataType::Timestamp(..) => true,
        kind => kind.is_integer() || matches!(kind, DataType::Float32 | DataType::Float64),
    }
}

/// All columns but one, as JSON.
fn described(batch: &RecordBatch, but: Option<&str>) -> Result<Vec<Map<String, Value>>, String> {
    let schema = batch.schema();
    let kept: Vec<usize> = (0..batch.num_columns())
        .filter(|&at| Some(schema.field(at).name().as_str()) != but)
        .collect();
    if kept.is_empty() {
        return Ok(vec![Map::new(); batch.num_rows()]);
    }
    let batch = batch.project(&kept).map_err(|e| e.to_string())?;
    serde_arrow::from_record_batch(&batch).map_err(|e| e.to_string())
}

/// How rows become images.
struct Rows {
    name: String,
    folder: PathBuf,
    image: Option<String>,
    columns: Columns,
}

impl Rows {
    /// False if nobody wants more.
    fn give(&self, batch: &RecordBatch, before: u64, give: &Give) -> Result<bool, String> {
        let images = self.image.as_deref().and_then(|name| batch.column_by_name(name));
        for (at, row) in described(batch, self.image.as_deref())?.into_iter().enumerate() {
            let place = format!("{} row {}", self.name, before + at as u64 + 1);
            let status = row.get("status").and_then(Value::as_str).map(str::to_owned);
            let mut item = Item { place: place.clone(), ..Item::default() };
            let body = match images {
                Some(column) => image(column, at, &self.folder),
                None => Some(Body::None),
            };
            let sorted = fields::take(row, &self.columns);
            let found = match (body, sorted) {
                (_, Err(why)) => Found::Broken(place, why),
                (None, Ok(_)) => {
                    let status = status.map_or(String::new(), |s| format!("; its status is {s}"));
                    Found::Without(place, format!("the image is null{status}"))
                }
                (Some(body), Ok(said)) => {
                    item.body = body;
                    item.id = said.id;
                    item.caption = said.caption;
                    item.uri = said.uri;
                    item.source = said.source;
                    item.licence = said.licence;
                    item.attributes = said.rest;
                    if item.body == Body::None {
                        item.id = item.id.or_else(|| item.uri.clone());
                    }
                    Found::Image(Box::new(item))
                }
            };
            if !give.give(found) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The image in a row; none if it is null. Hugging Face leaves bytes out of what it finds by path.
fn image(column: &dyn Array, row: usize, folder: &Path) -> Option<Body> {
    if column.is_null(row) {
        return None;
    }
    let Some(pair) = column.as_any().downcast_ref::<StructArray>() else {
        return binary(column, row).map(Body::Bytes);
    };
    if let Some(bytes) = pair.column_by_name("bytes").and_then(|bytes| binary(bytes, row)) {
        return Some(Body::Bytes(bytes));
    }
    let paths = pair.column_by_name("path")?.as_any().downcast_ref::<StringArray>()?;
    let path = (!paths.is_null(row)).then(|| paths.value(row))?;
    Some(Body::File(folder.join(path)))
}

fn binary(column: &dyn Array, row: usize) -> Option<Vec<u8>> {
    if column.is_null(row) {
        return None;
    }
    let any = column.as_any();
    let small = any.downcast_ref::<BinaryArray>().map(|c| c.value(row));
    let large = || any.downcast_ref::<LargeBinaryArray>().map(|c| c.value(row));
    let view = || any.downcast_ref::<BinaryViewArray>().map(|c| c.value(row));
    small.or_else(large).or_else(view).map(<[u8]>::to_vec)
}
