//! Every metric of the service: name, type, unit, labels and meaning, and nowhere else.
//!
//! `deploy/METRICS.md` is [`page`]; the dashboard and the alert rules under `deploy/` are checked
//! against [`ALL`] by a test.

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the process lives; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations by upper bound: `NAME_bucket{le}`, `NAME_sum`, `NAME_count`.
    Histogram,
}

impl Kind {
    /// The word in a `# TYPE` line.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// The name in a scrape.
    pub name: &'static str,
    /// What kind of number.
    pub kind: Kind,
    /// What it counts or is measured in: seconds and bytes where it has a dimension.
    pub unit: &'static str,
    /// Names of labels, in the order of their values.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($id:ident: $kind:ident $name:literal [$($label:literal),*] $unit:literal, $help:literal;)+) => {
        $(
            #[doc = $help]
            pub static $id: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                unit: $unit,
                labels: &[$($label),*],
                help: $help,
            };
        )+
        /// Every metric, in the order of a scrape.
        pub static ALL: &[&Metric] = &[$(&$id),+];
    };
}

metrics! {
    BUILD_INFO: Gauge "everpair_build_info" ["version"] "",
        "1, with the version that runs.";
    READY: Gauge "everpair_ready" [] "",
        "1 when /readyz answers 200, else 0.";
    HEALTHY: Gauge "everpair_healthy" [] "",
        "1 when /healthz answers 200, else 0.";
    RESTORED_ROWS: Gauge "everpair_restored_rows" [] "rows",
        "Rows read from the tables by this start.";
    MESSAGES_READ: Counter "everpair_messages_read_total" ["topic", "partition"] "messages",
        "Messages taken from the source.";
    MESSAGES_COMMITTED: Counter "everpair_messages_committed_total" ["topic", "partition"] "messages",
        "Messages whose epoch is committed.";
    BYTES_READ: Counter "everpair_message_bytes_read_total" [] "bytes",
        "Encoded bytes of messages taken from the source.";
    NEXT_OFFSET: Gauge "everpair_committed_offset" ["topic", "partition"] "offset",
        "The next offset as the tables have it.";
    END_OFFSET: Gauge "everpair_end_offset" ["topic", "partition"] "offset",
        "The end of the partition as the source last saw it.";
    LAG: Gauge "everpair_lag_messages" ["topic", "partition"] "messages",
        "Offsets between the newest commit and the end of the partition.";
    SOURCE_REACHABLE: Gauge "everpair_source_reachable" [] "",
        "1 while a broker is connected, or the files of the log are there.";
    IN_FLIGHT_EPOCHS: Gauge "everpair_in_flight_epochs" [] "epochs",
        "Epochs that are cut and not committed.";
    IN_FLIGHT_MESSAGES: Gauge "everpair_in_flight_messages" ["queue"] "messages",
        "Messages that are read and not committed: of the epoch being filled (open), of epochs cut (cut).";
    IN_FLIGHT_BYTES: Gauge "everpair_in_flight_bytes" ["queue"] "bytes",
        "Encoded bytes of the same messages.";
    REJECTS: Counter "everpair_rejects_total" ["stage", "reason"] "rows",
        "Rows added to the table rejects.";
    MOVED_KEYS: Counter "everpair_moved_keys_total" [] "images",
        "Images whose last two messages came from different partitions.";
    EPOCH: Gauge "everpair_epoch" [] "epoch",
        "The newest committed epoch.";
    EPOCHS: Counter "everpair_epochs_committed_total" [] "epochs",
        "Epochs committed by this process.";
    COMMIT_SECONDS: Histogram "everpair_epoch_commit_seconds" [] "seconds",
        "How long the commit of an epoch took, all tables together.";
    LAST_COMMIT: Gauge "everpair_last_commit_timestamp_seconds" [] "seconds",
        "When this process last committed an epoch, in seconds since 1970; absent before.";
    ROWS_INSERTED: Counter "everpair_rows_inserted_total" ["table"] "rows",
        "Rows added by committed epochs.";
    ROWS_DELETED: Counter "everpair_rows_deleted_total" ["table"] "rows",
        "Rows removed by committed epochs.";
    TABLE_ROWS: Gauge "everpair_table_rows" ["table"] "rows",
        "Live rows.";
    TABLE_FILES: Gauge "everpair_table_files" ["table"] "files",
        "Data files of the newest version.";
    TABLE_BYTES: Gauge "everpair_table_bytes" ["table"] "bytes",
        "Bytes of these files.";
    COMPACTED_FILES: Counter "everpair_compacted_files_total" ["table"] "files",
        "Data files that were made into fewer.";
    COMPACTED_BYTES: Counter "everpair_compacted_bytes_total" ["table"] "bytes",
        "Bytes written again for that.";
    REMOVED_OBJECTS: Counter "everpair_removed_objects_total" ["table"] "objects",
        "Objects removed because no kept epoch needs them: data files, deletion vectors, log entries.";
    REMOVED_BYTES: Counter "everpair_removed_bytes_total" ["table"] "bytes",
        "Bytes of these objects.";
    UPKEEP_SECONDS: Counter "everpair_upkeep_seconds_total" ["task"] "seconds",
        "Time between epochs spent on making fewer files (compact) and on removing (retain).";
    IMAGES_LIVE: Gauge "everpair_images_live" [] "images",
        "Rows of images.";
    IMAGES_MINED: Gauge "everpair_images_mined" [] "images",
        "Images that are mined: one of each live content.";
    PAIRS: Gauge "everpair_pairs" [] "pairs",
        "Rows of pairs.";
    TRIPLETS: Gauge "everpair_triplets" [] "triplets",
        "Rows of triplets.";
    STAGE_SECONDS: Counter "everpair_stage_seconds_total" ["stage"] "seconds",
        "Time spent in a stage, of all threads together.";
    VECTORS: Counter "everpair_vectors_encoded_total" ["channel"] "vectors",
        "Inputs given to an encoder.";
    DOT_PRODUCTS: Counter "everpair_dot_products_total" [] "dot products",
        "New vectors times rows they were compared with.";
    RESCANS: Counter "everpair_rescans_total" [] "lists",
        "Neighbour lists that were gathered again.";
    RESCAN_DOT_PRODUCTS: Counter "everpair_rescan_dot_products_total" [] "dot products",
        "Dot products for lists that were gathered again.";
    GUARD_CHECKS: Counter "everpair_guard_checks_total" [] "scores",
        "Scores worked out for near-duplicates, false negatives and targets.";
    REQUESTS_ASKED: Counter "everpair_annotator_requests_total" [] "requests",
        "Requests given to the annotator.";
    ANSWERS: Counter "everpair_annotator_answers_total" ["outcome"] "answers",
        "Outcomes committed to annotations.";
    REQUESTS_WAITING: Gauge "everpair_annotator_requests_waiting" [] "requests",
        "Committed pairs that wait for an answer, and images that wait for a caption.";
    STORE_REQUESTS: Counter "everpair_store_requests_total" ["operation"] "requests",
        "Requests to the table store; tries of one request count once.";
    STORE_ERRORS: Counter "everpair_store_errors_total" ["operation"] "requests",
        "Requests to the table store that failed after all tries.";
    STORE_SECONDS: Histogram "everpair_store_request_seconds" ["operation"] "seconds",
        "How long requests to the table store took, tries and waits between them included.";
    RESIDENT: Gauge "process_resident_memory_bytes" [] "bytes",
        "Resident memory of the process (Linux).";
    OPEN_FDS: Gauge "process_open_fds" [] "files",
        "Open file descriptors of the process (Linux).";
    STARTED: Gauge "process_start_time_seconds" [] "seconds",
        "When the service started, in seconds since 1970.";
}

/// `deploy/METRICS.md`.
pub fn page() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         What `/metrics` of `everpair run` has (`[service] listen` in the config). Made from\n\
         [src/metrics/names.rs](../src/metrics/names.rs) by `UPDATE_GOLDEN=1 cargo test --test main \
         metrics::`; a test compares.\nCounters begin at 0 with the process.\n\n\
         | name | type | unit | labels | |\n|---|---|---|---|---|\n",
    );
    for metric in ALL {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        text.push_str(&format!(
            "| `{}` | {} | {} | {} | {} |\n",
            metric.name,
            metric.kind.as_str(),
            metric.unit,
            labels.join(", "),
            metric.help
        ));
    }
    text
}
