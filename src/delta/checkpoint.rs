//! Checkpoints: the state of a log at one version as one Parquet file, so that a start reads few
//! commits. Only a shortcut: a table without them is the same table.

use std::sync::{Arc, LazyLock};

use arrow_schema::{DataType, Field, Fields, Schema};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};

use super::action::{Action, Metadata};
use super::log::{Snapshot, folder};
use super::{Error, Result, Store, now_ms};

/// The table property that says how many commits go between two checkpoints.
pub(super) const INTERVAL: &str = "delta.checkpointInterval";
pub(super) const INTERVAL_DEFAULT: u64 = 50;
/// How long a removed file stays known, so that a vacuum by another tool spares it: the protocol's
/// default.
const TOMBSTONE_MS: i64 = 7 * 24 * 3600 * 1000;
/// Actions per batch of the checkpoint file.
const BATCH_ACTIONS: usize = 8192;

#[derive(Serialize, Deserialize)]
struct LastCheckpoint {
    version: u64,
    size: u64,
}

static FIELDS: LazyLock<Fields> = LazyLock::new(fields);

fn fields() -> Fields {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let long = |name: &str| Field::new(name, DataType::Int64, true);
    let int = |name: &str| Field::new(name, DataType::Int32, true);
    let flag = |name: &str| Field::new(name, DataType::Boolean, true);
    let group = |name: &str, fields: Vec<Field>| {
        Field::new(name, DataType::Struct(Fields::from(fields)), true)
    };
    let list = |name: &str| {
        Field::new(
            name,
            DataType::List(Arc::new(Field::new("element", DataType::Utf8, true))),
            true,
        )
    };
    let map = |name: &str| {
        let pair = Fields::from(vec![Field::new("key", DataType::Utf8, false), text("value")]);
        let entries = Field::new("key_value", DataType::Struct(pair), false);
        Field::new(name, DataType::Map(Arc::new(entries), false), true)
    };
    let vector = || {
        let fields = [text("storageType"), text("pathOrInlineDv"), int("offset")];
        let sizes = [int("sizeInBytes"), long("cardinality")];
        group("deletionVector", fields.into_iter().chain(sizes).collect())
    };
    let add = [text("path"), map("partitionValues"), long("size"), long("modificationTime")];
    let add = add.into_iter().chain([flag("dataChange"), text("stats"), vector()]);
    let remove = [text("path"), long("deletionTimestamp"), flag("dataChange")];
    let more = [flag("extendedFileMetadata"), map("partitionValues"), long("size"), vector()];
    let metadata = [
        text("id"),
        text("name"),
        group("format", vec![text("provider"), map("options")]),
        text("schemaString"),
        list("partitionColumns"),
        map("configuration"),
        long("createdTime"),
    ];
    let versions = [int("minReaderVersion"), int("minWriterVersion")];
    let features = [list("readerFeatures"), list("writerFeatures")];
    Fields::from(vec![
        group("txn", vec![text("appId"), long("version"), long("lastUpdated")]),
        group("add", add.collect()),
        group("remove", remove.into_iter().chain(more).collect()),
        group("metaData", metadata.into()),
        group("protocol", versions.into_iter().chain(features).collect()),
    ])
}

/// Commits between two checkpoints of a table.
pub(super) fn interval(metadata: &Metadata) -> u64 {
    let set = metadata.configuration.get(INTERVAL).and_then(|interval| interval.parse().ok());
    set.filter(|interval| *interval > 0).unwrap_or(INTERVAL_DEFAULT)
}

pub(super) fn name(table: &str, version: u64) -> String {
    format!("{}/{version:020}.checkpoint.parquet", folder(table))
}

fn pointer(table: &str) -> String {
    format!("{}/_last_checkpoint", folder(table))
}

/// The version of the newest checkpoint, as far as its pointer knows.
pub(super) fn hint(store: &Store, table: &str) -> Result<Option<u64>> {
    let content = store.get(&pointer(table))?;
    let last = content.and_then(|content| serde_json::from_slice::<LastCheckpoint>(&content).ok());
    Ok(last.map(|last| last.version))
}

fn actions(snapshot: &Snapshot) -> Vec<Action> {
    let oldest = now_ms() - TOMBSTONE_MS;
    let mut actions: Vec<Action> =
        vec![snapshot.protocol.clone().into(), snapshot.metadata.clone().into()];
    actions.extend(snapshot.txns.values().cloned().map(Action::from));
    let removed = snapshot
        .removed
        .values()
        .filter(|remove| remove.deletion_timestamp.is_none_or(|removed| removed >= oldest));
    actions.extend(removed.cloned().map(|mut remove| {
        remove.data_change = false;
        Action::from(remove)
    }));
    actions.extend(snapshot.files.values().cloned().map(|mut add| {
        add.data_change = false;
        Action::from(add)
    }));
    actions
}

/// Writes the checkpoint of `snapshot`, then the pointer to it.
pub(super) fn write(store: &Store, table: &str, snapshot: &Snapshot) -> Result<()> {
    let size = write_aside(store, table, snapshot)?;
    let last = LastCheckpoint { version: snapshot.version, size };
    let last = serde_json::to_vec(&last).expect("two numbers are JSON");
    store.replace(&pointer(table), last)
}

/// Writes the checkpoint of an older version, to which nothing points, and gives the number of its
/// actions.
pub(super) fn write_aside(store: &Store, table: &str, snapshot: &Snapshot) -> Result<u64> {
    let failed = |error: &dyn std::fmt::Display| {
        Error::Io(format!("{}: {error}", name(table, snapshot.version)))
    };
    let actions = actions(snapshot);
    let level = ZstdLevel::try_new(1).expect("1 is a zstd level");
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
    let schema = Arc::new(Schema::new(FIELDS.clone()));
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties))
        .map_err(|error| failed(&error))?;
    for chunk in actions.chunks(BATCH_ACTIONS) {
        let fields: Vec<_> = FIELDS.iter().cloned().collect();
        let batch =
            serde_arrow::to_record_batch(&fields, &chunk).map_err(|error| failed(&error))?;
        writer.write(&batch).map_err(|error| failed(&error))?;
    }
    let content = writer.into_inner().map_err(|error| failed(&error))?;
    store.replace(&name(table, snapshot.version), content)?;
    Ok(actions.len() as u64)
}

pub(super) fn read(store: &Store, table: &str, version: u64) -> Result<Snapshot> {
    let name = name(table, version);
    let unreadable = |error: &dyn std::fmt::Display| Error::Unreadable(format!("{name}: {error}"));
    let content = store.get(&name)?.ok_or_else(|| unreadable(&"is missing"))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(content)
        .and_then(|builder| builder.with_batch_size(BATCH_ACTIONS).build())
        .map_err(|error| unreadable(&error))?;
    let mut snapshot = Snapshot::default();
    for batch in reader {
        let batch = batch.map_err(|error| unreadable(&error))?;
        let actions: Vec<Action> =
            serde_arrow::from_record_batch(&batch).map_err(|error| unreadable(&error))?;
        snapshot.apply(version, &actions);
    }
    Ok(snapshot)
}
