//! Parquet for Hugging Face `datasets`: what it must know of the columns is in each file, under the
//! key `huggingface`, so that pictures decode without a loading script.

use std::sync::Arc;

use anyhow::Context;
use arrow_array::{
    ArrayRef, BinaryArray, Int64Array, ListArray, RecordBatch, StringArray, StructArray,
};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef};
use schemas::tables::{Table, TripletRow, to_batch};
use serde_json::{Map, Value, json};

use super::{
    folder::DataFile,
    images::{Example, Picture},
    shards::{Names, Shards},
};

/// The columns, in order. Those that `triplets` has not are pictures or their provenance.
const COLUMNS: [&str; 23] = [
    "query_image",
    "instructions",
    "target_image",
    "negatives",
    "triplet_id",
    "query_id",
    "target_id",
    "hard_negatives",
    "audits",
    "channels",
    "scores",
    "description",
    "model",
    "prompt_version",
    "request_id",
    "query_content_id",
    "target_content_id",
    "query_source",
    "query_licence",
    "target_source",
    "target_licence",
    "epoch",
    "export_epoch",
];

fn picture_fields() -> Fields {
    let bytes = Field::new("bytes", DataType::Binary, true);
    Fields::from(vec![bytes, Field::new("path", DataType::Utf8, true)])
}

/// The columns of a row.
pub fn schema() -> SchemaRef {
    let held = Table::Triplets.schema();
    let picture = DataType::Struct(picture_fields());
    let element = Arc::new(Field::new("element", picture.clone(), false));
    let field = |name: &str| match name {
        "query_image" | "target_image" => Field::new(name, picture.clone(), false),
        "negatives" => Field::new(name, DataType::List(element.clone()), false),
        "export_epoch" => Field::new(name, DataType::Int64, false),
        _ => match held.field_with_name(name) {
            Ok(field) => field.clone(),
            Err(_) => Field::new(name, DataType::Utf8, true),
        },
    };
    Arc::new(Schema::new(COLUMNS.map(field).to_vec()))
}

/// What `datasets` is told of some columns: its `Features`, as JSON.
pub fn features(fields: &Fields) -> Value {
    let entries = fields.iter().map(|field| (field.name().clone(), feature(field.data_type())));
    Value::Object(entries.collect::<Map<String, Value>>())
}

fn feature(kind: &DataType) -> Value {
    match kind {
        DataType::Struct(fields) if *fields == picture_fields() => json!({ "_type": "Image" }),
        DataType::Struct(fields) => features(fields),
        DataType::List(item) => json!({ "feature": feature(item.data_type()), "_type": "List" }),
        other => json!({ "dtype": dtype(other), "_type": "Value" }),
    }
}

/// The word for a type in `datasets`.
fn dtype(kind: &DataType) -> String {
    match kind {
        DataType::Utf8 => "string".to_owned(),
        DataType::Binary => "binary".to_owned(),
        DataType::Timestamp(..) => "timestamp[us, tz=UTC]".to_owned(),
        other => other.to_string().to_lowercase(),
    }
}

/// The same in the YAML of a dataset card, a list of columns.
pub fn features_yaml(fields: &Fields, indent: usize) -> String {
    let entry = |field: &Arc<Field>| {
        let pad = " ".repeat(indent);
        format!("{pad}- name: {}\n{}", field.name(), kind_yaml(field.data_type(), indent + 2))
    };
    fields.iter().map(entry).collect()
}

fn kind_yaml(kind: &DataType, indent: usize) -> String {
    let pad = " ".repeat(indent);
    match kind {
        DataType::Struct(fields) if *fields == picture_fields() => format!("{pad}dtype: image\n"),
        DataType::Struct(fields) => format!("{pad}struct:\n{}", features_yaml(fields, indent)),
        DataType::List(item) => match item.data_type() {
            DataType::Struct(fields) if *fields == picture_fields() => {
                format!("{pad}list: image\n")
            }
            DataType::Struct(fields) => format!("{pad}list:\n{}", features_yaml(fields, indent)),
            item => format!("{pad}list: {}\n", dtype(item)),
        },
        DataType::Timestamp(..) => format!("{pad}dtype: {}\n", json!(dtype(kind))),
        other => format!("{pad}dtype: {}\n", dtype(other)),
    }
}

/// What stands in a file under `huggingface`.
pub fn told(schema: &Schema) -> String {
    json!({ "info": { "features": features(schema.fields()) } }).to_string()
}

/// Parquet files of rows with pictures.
pub struct Writer {
    shards: Shards,
    schema: SchemaRef,
}

impl Writer {
    /// Files of these names.
    pub fn new(names: Names) -> Writer {
        let schema = schema();
        Writer { shards: Shards::new(names, schema.clone(), Some(told(&schema))), schema }
    }

    fn batch(&self, rows: &[Example]) -> anyhow::Result<RecordBatch> {
        let triplets: Vec<TripletRow> = rows.iter().map(|row| row.triplet.clone()).collect();
        let held = to_batch(&triplets).context("rows of triplets")?;
        let text = |of: &dyn Fn(&Example) -> Option<&str>| -> ArrayRef {
            Arc::new(rows.iter().map(of).collect::<StringArray>())
        };
        let columns = COLUMNS.map(|name| -> ArrayRef {
            match name {
                "query_image" => Arc::new(pictures(rows.iter().map(|row| &row.query))),
                "target_image" => Arc::new(pictures(rows.iter().map(|row| &row.target))),
                "negatives" => Arc::new(negatives(rows)),
                "export_epoch" => {
                    Arc::new(rows.iter().map(|row| row.export_epoch).collect::<Int64Array>())
                }
                "query_source" => text(&|row| row.query.source.as_deref()),
                "query_licence" => text(&|row| row.query.licence.as_deref()),
                "target_source" => text(&|row| row.target.source.as_deref()),
                "target_licence" => text(&|row| row.target.licence.as_deref()),
                name => held.column_by_name(name).cloned().unwrap_or_else(|| text(&|_| None)),
            }
        });
        Ok(RecordBatch::try_new(self.schema.clone(), columns.to_vec())?)
    }
}

fn pictures<'a>(of: impl Iterator<Item = &'a Picture> + Clone) -> StructArray {
    let bytes: BinaryArray = of.clone().map(|picture| picture.bytes.as_deref()).collect();
    let path: StringArray = of.map(|picture| Some(picture.path.as_str())).collect();
    StructArray::new(picture_fields(), vec![Arc::new(bytes), Arc::new(path)], None)
}

fn negatives(rows: &[Example]) -> ListArray {
    let offsets = OffsetBuffer::from_lengths(rows.iter().map(|row| row.negatives.len()));
    let values = pictures(rows.iter().flat_map(|row| &row.negatives));
    let element = Field::new("element", DataType::Struct(picture_fields()), false);
    ListArray::new(Arc::new(element), offsets, Arc::new(values), None)
}

impl super::Writer for Writer {
    fn write(&mut self, rows: Vec<Example>) -> anyhow::Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let batch = self.batch(&rows)?;
        self.shards.write(&batch)
    }

    fn finish(self: Box<Self>) -> anyhow::Result<Vec<DataFile>> {
        self.shards.finish()
    }
}

#[cfg(test)]
mod tests {
    use schemas::tables::Row;

    use super::*;

    #[test]
    fn every_column_of_triplets_is_in_a_row() {
        for field in TripletRow::fields() {
            assert!(COLUMNS.contains(&field.name().as_str()), "{}", field.name());
        }
        assert_eq!(schema().field_with_name("epoch").unwrap().data_type(), &DataType::Int64);
    }

    #[test]
    fn datasets_is_told_of_pictures_lists_and_records() {
        let told = features(schema().fields());
        let image = json!({ "_type": "Image" });
        assert_eq!(told["query_image"], image);
        assert_eq!(told["negatives"], json!({ "feature": image, "_type": "List" }));
        assert_eq!(told["scores"]["caption"], json!({ "dtype": "float64", "_type": "Value" }));
        let yaml = features_yaml(schema().fields(), 2);
        assert!(yaml.contains("  - name: negatives\n    list: image\n"), "{yaml}");
        assert!(yaml.contains("  - name: scores\n    struct:\n    - name: semantic\n"), "{yaml}");
    }
}
