//! Arrow schemas in Delta's words.

use arrow_schema::{DataType, Field, Schema, TimeUnit};
use serde_json::{Value, json};

use super::{Error, Result};

/// The `schemaString` of a table.
pub(super) fn schema_string(schema: &Schema) -> Result<String> {
    let fields = schema.fields().iter().map(|field| struct_field(field));
    let fields = fields.collect::<Result<Vec<Value>>>()?;
    Ok(json!({ "type": "struct", "fields": fields }).to_string())
}

fn struct_field(field: &Field) -> Result<Value> {
    let kind = data_type(field.data_type())
        .map_err(|error| Error::Refused(format!("column {}: {error}", field.name())))?;
    let (name, nullable) = (field.name(), field.is_nullable());
    Ok(json!({ "name": name, "type": kind, "nullable": nullable, "metadata": {} }))
}

/// Types that DuckDB, Spark and polars all read; unsigned and half-width numbers are refused,
/// because Spark cannot open a file that has one.
fn data_type(kind: &DataType) -> Result<Value> {
    Ok(match kind {
        DataType::Utf8 | DataType::LargeUtf8 => json!("string"),
        DataType::Binary | DataType::LargeBinary => json!("binary"),
        DataType::Boolean => json!("boolean"),
        DataType::Int8 => json!("byte"),
        DataType::Int16 => json!("short"),
        DataType::Int32 => json!("integer"),
        DataType::Int64 => json!("long"),
        DataType::Float32 => json!("float"),
        DataType::Float64 => json!("double"),
        DataType::Date32 => json!("date"),
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if &**zone == "UTC" => {
            json!("timestamp")
        }
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| struct_field(field));
            json!({ "type": "struct", "fields": fields.collect::<Result<Vec<Value>>>()? })
        }
        DataType::List(item) | DataType::LargeList(item) => json!({
            "type": "array",
            "elementType": data_type(item.data_type())?,
            "containsNull": item.is_nullable(),
        }),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => json!({
                "type": "map",
                "keyType": data_type(pair[0].data_type())?,
                "valueType": data_type(pair[1].data_type())?,
                "valueContainsNull": pair[1].is_nullable(),
            }),
            _ => return Err(Error::Refused("a map without key and value".to_owned())),
        },
        other => return Err(Error::Refused(format!("type {other} has no place in a table"))),
    })
}

/// Whether a table written with `held` may go on with `wanted`: the same columns, perhaps more of
/// them at the end, which are null in older rows.
pub(super) fn extends(wanted: &str, held: &str) -> Result<bool> {
    let fields = |text: &str| -> Result<Vec<Value>> {
        let schema: Value = serde_json::from_str(text)
            .map_err(|error| Error::Unreadable(format!("schema: {error}")))?;
        Ok(schema["fields"].as_array().cloned().unwrap_or_default())
    };
    let (wanted, held) = (fields(wanted)?, fields(held)?);
    let added = wanted.get(held.len()..).unwrap_or_default();
    Ok(wanted.starts_with(&held) && added.iter().all(|field| field["nullable"] == json!(true)))
}
