//! Readers of Delta tables other than Everpair: DuckDB, deltalake and polars in Python, and Spark.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{peer, s3::sign};

pub const PYTHON_READERS: [&str; 3] = ["duckdb", "deltalake", "polars"];

/// A table, at a version or as it is now, and the columns to read.
pub struct Ask<'a> {
    pub table: &'a Path,
    pub version: Option<u64>,
    pub columns: &'a [&'a str],
}

impl Ask<'_> {
    fn version(&self) -> String {
        self.version.map_or("latest".to_owned(), |version| version.to_string())
    }
}

/// Tells a program where the S3 server is, if that is where tables are.
pub fn find(command: &mut Command, server: Option<&str>) {
    if let Some(server) = server {
        sign(command).env("AWS_ENDPOINT_URL", format!("http://{server}"));
        command.env("AWS_REGION", "us-east-1").env("AWS_DEFAULT_REGION", "us-east-1");
    }
}

/// Rows as one of `PYTHON_READERS` sees them, each an array of the columns, sorted by their text.
pub fn rows(reader: &str, ask: &Ask) -> Vec<Value> {
    rows_at(None, reader, ask)
}

/// The same of a table that may be in S3, on this server.
pub fn rows_at(server: Option<&str>, reader: &str, ask: &Ask) -> Vec<Value> {
    let mut command = python();
    find(&mut command, server);
    command.args(["rows", reader]).arg(ask.table).arg(ask.version()).args(ask.columns);
    sorted(lines(&mut command))
}

/// The same by Spark, for several tables, because its start takes half a minute.
pub fn spark_rows(asks: &[Ask]) -> Vec<Vec<Value>> {
    spark_rows_at(None, asks)
}

/// The same of tables that may be in S3, on this server.
pub fn spark_rows_at(server: Option<&str>, asks: &[Ask]) -> Vec<Vec<Value>> {
    let spark = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/spark");
    let mut command = Command::new(peer("EVERPAIR_JAVA"));
    command.arg(format!("@{}", spark.join("java.options").display()));
    command.args(["-cp", &format!("{}/*", peer("EVERPAIR_SPARK_CLASSPATH"))]);
    find(&mut command, server);
    command.arg(spark.join("DeltaRows.java"));
    for ask in asks {
        command.arg(ask.table).arg(ask.version()).arg(ask.columns.join(","));
    }
    let tables = lines(&mut command);
    assert_eq!(tables.len(), asks.len(), "one line per table");
    tables.into_iter().map(|rows| sorted(rows.as_array().expect("rows").clone())).collect()
}

/// DuckDB's answer to a query over all tables under `root`.
pub fn sql(root: &Path, query: &str) -> Vec<Value> {
    sql_at(&root.display().to_string(), None, query)
}

/// The same of tables that may be in S3, on this server.
pub fn sql_at(root: &str, server: Option<&str>, query: &str) -> Vec<Value> {
    let mut command = python();
    find(&mut command, server);
    lines(command.args(["sql", root, query]))
}

/// DuckDB's answer to a query after the SQL in a file.
pub fn duckdb_script(file: &Path, query: &str) -> Vec<Value> {
    // Keys alone: where tables in S3 are, the SQL says.
    lines(sign(&mut python()).arg("script").arg(file).arg(query))
}

/// Spark's answers, in one session, to queries that each come after the SQL in a file.
pub fn spark_scripts(asks: &[(&Path, &str)]) -> Vec<Vec<Value>> {
    let mut command = spark();
    sign(&mut command).arg("script");
    for (file, query) in asks {
        command.arg(file).arg(query);
    }
    let answers = lines(&mut command).into_iter();
    answers.map(|rows| rows.as_array().expect("rows").clone()).collect()
}

fn spark() -> Command {
    let spark = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/spark");
    let mut command = Command::new(peer("EVERPAIR_JAVA"));
    command.arg(format!("@{}", spark.join("java.options").display()));
    command.args(["-cp", &format!("{}/*", peer("EVERPAIR_SPARK_CLASSPATH"))]);
    command.arg(spark.join("DeltaRows.java"));
    command
}

pub fn python() -> Command {
    let mut command = Command::new(peer("EVERPAIR_PYTHON"));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/delta_rows.py"));
    command
}

pub fn sorted(mut rows: Vec<Value>) -> Vec<Value> {
    rows.sort_by_cached_key(Value::to_string);
    rows
}

fn lines(command: &mut Command) -> Vec<Value> {
    let output = command.output().expect("the reader starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{stderr}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}
