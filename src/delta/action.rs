//! The Delta protocol's actions, as they stand in a commit (one JSON object a line) and, column by
//! column, in a checkpoint. Field names are the protocol's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Error, Result};

pub(super) type Strings = BTreeMap<String, Option<String>>;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Add {
    pub path: String,
    #[serde(default)]
    pub partition_values: Strings,
    pub size: i64,
    pub modification_time: i64,
    pub data_change: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_vector: Option<DeletionVector>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Remove {
    pub path: String,
    pub deletion_timestamp: Option<i64>,
    pub data_change: bool,
    pub extended_file_metadata: Option<bool>,
    pub partition_values: Option<Strings>,
    pub size: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_vector: Option<DeletionVector>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeletionVector {
    pub storage_type: String,
    pub path_or_inline_dv: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<i32>,
    pub size_in_bytes: i32,
    pub cardinality: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Txn {
    pub app_id: String,
    pub version: i64,
    pub last_updated: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Format {
    pub provider: String,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    pub id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub format: Format,
    pub schema_string: String,
    pub partition_columns: Vec<String>,
    #[serde(default)]
    pub configuration: BTreeMap<String, String>,
    pub created_time: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Protocol {
    pub min_reader_version: i32,
    pub min_writer_version: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reader_features: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writer_features: Option<Vec<String>>,
}

/// One action: exactly one field is set. Actions that change nothing for a reader of rows (such as
/// change data files) leave all of them empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Action {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub txn: Option<Txn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add: Option<Add>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remove: Option<Remove>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meta_data: Option<Metadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
}

/// A commit read back: its own words about itself, and its actions.
#[derive(Debug, Default)]
pub(super) struct Commit {
    pub info: serde_json::Map<String, serde_json::Value>,
    pub actions: Vec<Action>,
}

impl Commit {
    /// What tells this commit from every other; the protocol names the field.
    pub(super) fn id(&self) -> Option<&str> {
        self.info.get("txnId")?.as_str()
    }

    pub(super) fn txn(&self, app_id: &str) -> Option<i64> {
        let txns = self.actions.iter().filter_map(|action| action.txn.as_ref());
        txns.filter(|txn| txn.app_id == app_id).map(|txn| txn.version).next()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut lines = serde_json::json!({ "commitInfo": self.info }).to_string();
        for action in &self.actions {
            lines.push('\n');
            lines += &serde_json::to_string(action).expect("actions have string keys only");
        }
        lines.push('\n');
        lines.into_bytes()
    }

    pub(super) fn decode(content: &[u8], name: &str) -> Result<Commit> {
        #[derive(Deserialize)]
        struct Line {
            #[serde(rename = "commitInfo")]
            info: Option<serde_json::Map<String, serde_json::Value>>,
            #[serde(flatten)]
            action: Action,
        }
        let mut commit = Commit::default();
        let text = std::str::from_utf8(content)
            .map_err(|error| Error::Unreadable(format!("{name}: {error}")))?;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let line: Line = serde_json::from_str(line)
                .map_err(|error| Error::Unreadable(format!("{name}: {error}")))?;
            match line.info {
                Some(info) => commit.info = info,
                None => commit.actions.push(line.action),
            }
        }
        // Every commit says at least who made it.
        if commit.actions.is_empty() && commit.info.is_empty() {
            return Err(Error::Unreadable(format!(
                "{name} is empty: a disk has lost what was written to it. Put all of [tables] root back \
                 as it was at one time; or begin under another root, from the source"
            )));
        }
        Ok(commit)
    }
}

impl From<Add> for Action {
    fn from(add: Add) -> Self {
        Action { add: Some(add), ..Action::default() }
    }
}

impl From<Remove> for Action {
    fn from(remove: Remove) -> Self {
        Action { remove: Some(remove), ..Action::default() }
    }
}

impl From<Txn> for Action {
    fn from(txn: Txn) -> Self {
        Action { txn: Some(txn), ..Action::default() }
    }
}

impl From<Metadata> for Action {
    fn from(metadata: Metadata) -> Self {
        Action { meta_data: Some(metadata), ..Action::default() }
    }
}

impl From<Protocol> for Action {
    fn from(protocol: Protocol) -> Self {
        Action { protocol: Some(protocol), ..Action::default() }
    }
}

impl Add {
    /// The remove that takes this file, with this deletion vector, out of the table.
    pub(super) fn removal(&self, now_ms: i64) -> Remove {
        Remove {
            path: self.path.clone(),
            deletion_timestamp: Some(now_ms),
            data_change: true,
            extended_file_metadata: Some(true),
            partition_values: Some(self.partition_values.clone()),
            size: Some(self.size),
            deletion_vector: self.deletion_vector.clone(),
        }
    }
}
