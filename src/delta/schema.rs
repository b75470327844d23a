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
/// them at the end, which are null in older rows; so in structs.
pub(super) fn extends(wanted: &str, held: &str) -> Result<bool> {
    let parsed = |text: &str| -> Result<Value> {
        serde_json::from_str(text).map_err(|error| Error::Unreadable(format!("schema: {error}")))
    };
    Ok(goes_on(&parsed(wanted)?, &parsed(held)?))
}

fn goes_on(wanted: &Value, held: &Value) -> bool {
    match (wanted["type"].as_str(), held["type"].as_str()) {
        (Some("struct"), Some("struct")) => {
            let none = Vec::new();
            let [wanted, held] = [wanted, held].map(|of| of["fields"].as_array().unwrap_or(&none));
            let added = wanted.get(held.len()..).unwrap_or_default();
            let same = |(wanted, held): (&Value, &Value)| {
                let but_type = |of: &Value| [of["name"].clone(), of["nullable"].clone()];
                but_type(wanted) == but_type(held) && goes_on(&wanted["type"], &held["type"])
            };
            wanted.len() >= held.len()
                && wanted.iter().zip(held).all(same)
                && added.iter().all(|field| field["nullable"] == json!(true))
        }
        (Some("array"), Some("array")) => {
            wanted["containsNull"] == held["containsNull"]
                && goes_on(&wanted["elementType"], &held["elementType"])
        }
        _ => wanted == held,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_schema::Fields;

    use super::*;

    fn table(of_items: &[(&str, bool)], more: &[(&str, bool)]) -> String {
        let fields = |all: &[(&str, bool)]| -> Vec<Field> {
            all.iter().map(|(name, null)| Field::new(*name, DataType::Utf8, *null)).collect()
        };
        let item = DataType::Struct(Fields::from(fields(of_items)));
        let list = DataType::List(Arc::new(Field::new("element", item, false)));
        let columns = [vec![Field::new("all", list, false)], fields(more)].concat();
        schema_string(&Schema::new(columns)).expect("a schema")
    }

    #[test]
    fn columns_may_be_added_at_the_end_of_a_table_and_of_a_struct() {
        let held = table(&[("a", false)], &[("x", true)]);
        for (goes, wanted) in [
            (true, table(&[("a", false)], &[("x", true)])),
            (true, table(&[("a", false), ("b", true)], &[("x", true)])),
            (true, table(&[("a", false), ("b", true)], &[("x", true), ("y", true)])),
            (false, table(&[("a", false), ("b", false)], &[("x", true)])),
            (false, table(&[("b", true), ("a", false)], &[("x", true)])),
            (false, table(&[], &[("x", true)])),
            (false, table(&[("a", true)], &[("x", true)])),
            (false, table(&[("a", false)], &[])),
            (false, table(&[("a", false)], &[("x", true), ("y", false)])),
        ] {
            assert_eq!(extends(&wanted, &held).expect("schemas"), goes, "{wanted}");
        }
    }
}
