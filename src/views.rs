//! `everpair views`: SQL that opens all tables at the versions of one epoch, so that they agree with
//! each other however far the service has gone on.

use std::{collections::BTreeMap, path::PathBuf};

use clap::{ArgGroup, Args};
use schemas::{config::Config, tables::Table};

use crate::{
    cli::read_config,
    dataset::{At, Dataset},
    delta::Latest,
    errln, outln,
    service::open_tables,
    snapshot,
};

/// Arguments of the command.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("engine").required(true).args(["duckdb", "spark"])))]
pub struct ViewsArgs {
    /// The config file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// For DuckDB.
    #[arg(long)]
    pub duckdb: bool,
    /// For Spark with Delta.
    #[arg(long)]
    pub spark: bool,
    /// The epoch or the snapshot.
    #[arg(long, value_name = "EPOCH|SNAPSHOT|latest", default_value = "latest")]
    pub at: At,
}

/// Prints the statements, one a line, so that Spark can be given each by `spark.sql(line)`.
pub fn run(args: &ViewsArgs) -> anyhow::Result<()> {
    let config = read_config(&args.config)?;
    let dataset = Dataset::open(&open_tables(&config)?, &args.at)?;
    let mut lines = match args.duckdb {
        true => duckdb(&config, dataset.page()),
        false => spark(&config, dataset.page()),
    };
    if let Some(words) = gone(&dataset)? {
        errln!("warning: {words}");
        match args.duckdb {
            true => lines.insert(1, format!("-- {words}")),
            // A comment alone is no statement for Spark, one in front of a statement is part of it.
            false => {
                let view = lines.iter_mut().find(|line| line.starts_with("CREATE"));
                view.into_iter().for_each(|line| *line = format!("/* {words} */ {line}"));
            }
        }
    }
    for line in lines {
        outln!("{line}");
    }
    Ok(())
}

/// What of an older epoch may no longer be used, in words; none where nothing has gone.
fn gone(dataset: &Dataset) -> anyhow::Result<Option<String>> {
    if Dataset::open(dataset.store(), &At::Latest)?.epoch() == dataset.epoch() {
        return Ok(None);
    }
    let gone = snapshot::losses(dataset)?.ids().count();
    Ok((gone > 0).then(|| {
        format!(
            "{gone} images of epoch {} are no longer to be used (taken down, blocked, or turned away \
             since), and these views still show them: leave out rows that name one whose (image_id, \
             since) is not in the newest images",
            dataset.epoch()
        )
    }))
}

/// Statements for DuckDB.
pub fn duckdb(config: &Config, page: &Latest) -> Vec<String> {
    let Root { scheme, bucket, path } = Root::of(&config.tables.root);
    let settings = Settings::of(config);
    let mut lines = vec![comment(page), "INSTALL delta; LOAD delta;".to_owned()];
    let mut root = config.tables.root.trim_end_matches('/').to_owned();
    match scheme {
        "s3" | "s3a" => {
            root = format!("s3://{bucket}/{path}");
            lines.push("INSTALL httpfs; LOAD httpfs; INSTALL aws; LOAD aws;".to_owned());
            let mut secret = vec!["TYPE s3".to_owned(), "PROVIDER credential_chain".to_owned()];
            secret.push(format!("SCOPE {}", text(&root)));
            secret.extend(settings.get("region").map(|region| format!("REGION {}", text(region))));
            if let Some(endpoint) = settings.get("endpoint") {
                let plain = endpoint.strip_prefix("http://");
                let host = plain.or(endpoint.strip_prefix("https://")).unwrap_or(endpoint);
                secret.push(format!("ENDPOINT {}", text(host.trim_end_matches('/'))));
                secret.push(format!("USE_SSL {}", plain.is_none()));
                if !settings.is("virtual_hosted_style_request") {
                    secret.push("URL_STYLE 'path'".to_owned());
                }
            }
            lines.push(format!("CREATE OR REPLACE SECRET everpair ({});", secret.join(", ")));
        }
        "az" | "abfs" | "abfss" => {
            lines.push("INSTALL azure; LOAD azure;".to_owned());
            let account = settings.get("account_name");
            let account = account.map(|name| format!(", ACCOUNT_NAME {}", text(name)));
            let secret =
                format!("TYPE azure, PROVIDER credential_chain{}", account.unwrap_or_default());
            lines.push(format!("CREATE OR REPLACE SECRET everpair ({secret});"));
        }
        "gs" => lines.push(
            "-- gs:// needs HMAC keys: CREATE SECRET (TYPE gcs, KEY_ID '...', SECRET '...');"
                .to_owned(),
        ),
        _ => {}
    }
    lines.extend(tables(page).map(|(table, version)| {
        let scan =
            format!("delta_scan({}, version => {version})", text(&format!("{root}/{table}")));
        format!("CREATE OR REPLACE VIEW {table} AS SELECT * FROM {scan};")
    }));
    lines
}

/// Statements for Spark; its session must have Delta's extension and catalog.
pub fn spark(config: &Config, page: &Latest) -> Vec<String> {
    let Root { scheme, bucket, path } = Root::of(&config.tables.root);
    let settings = Settings::of(config);
    let mut lines = Vec::new();
    let mut root = config.tables.root.trim_end_matches('/').to_owned();
    match scheme {
        "s3" | "s3a" => {
            root = format!("s3a://{bucket}/{path}");
            let mut set = |key: &str, value: &str| lines.push(format!("SET fs.s3a.{key}={value};"));
            if let Some(endpoint) = settings.get("endpoint") {
                set("endpoint", endpoint);
                let style = !settings.is("virtual_hosted_style_request");
                set("path.style.access", &style.to_string());
            }
            if let Some(region) = settings.get("region") {
                set("endpoint.region", region);
            }
        }
        "az" => {
            if let Some(account) = settings.get("account_name") {
                root = format!("abfss://{bucket}@{account}.dfs.core.windows.net/{path}");
            }
        }
        _ => {}
    }
    let root = root.trim_end_matches('/');
    lines.extend(tables(page).map(|(table, version)| {
        let path = format!("{root}/{table}").replace('`', "``");
        let scan = format!("delta.`{path}` VERSION AS OF {version}");
        format!("CREATE OR REPLACE TEMPORARY VIEW {table} AS SELECT * FROM {scan};")
    }));
    lines
}

/// The first line for DuckDB. Spark gets none: a comment is no statement of its own there.
fn comment(page: &Latest) -> String {
    format!("-- Everpair's tables at epoch {}: these versions agree with each other", page.epoch)
}

fn tables(page: &Latest) -> impl Iterator<Item = (&'static str, u64)> {
    let versions = Table::ALL.map(Table::as_str).into_iter();
    versions.filter_map(|table| Some((table, *page.tables.get(table)?)))
}

/// A root taken apart: a folder has no scheme.
struct Root<'a> {
    scheme: &'a str,
    bucket: &'a str,
    path: &'a str,
}

impl Root<'_> {
    fn of(root: &str) -> Root<'_> {
        let (scheme, rest) = root.split_once("://").unwrap_or(("", root));
        let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
        Root { scheme, bucket, path: path.trim_end_matches('/') }
    }
}

/// `[tables.settings]` by their names without a cloud's prefix; there are no secrets among them.
struct Settings(BTreeMap<String, String>);

impl Settings {
    fn of(config: &Config) -> Settings {
        let names = config.tables.settings.iter().map(|(name, value)| {
            let name = name.to_lowercase();
            let prefixes = ["aws_", "azure_storage_", "azure_", "google_"];
            let short = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix));
            let short = short.unwrap_or(&name);
            (if short == "endpoint_url" { "endpoint" } else { short }.to_owned(), value.clone())
        });
        Settings(names.collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn is(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }
}

/// A text as SQL writes it.
pub fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Latest {
        let tables = Table::ALL.map(|table| (table.as_str().to_owned(), 7)).into();
        let (offsets, info) = Default::default();
        Latest { epoch: 3, generation: 1, tables, offsets, info }
    }

    fn config(root: &str, settings: &[(&str, &str)]) -> Config {
        let text = format!("[source]\nfiles = [\"log/*.jsonl\"]\n[tables]\nroot = {root:?}\n");
        let mut config = Config::parse(&text).expect("a config");
        let settings = settings.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        config.tables.settings = settings.collect();
        config
    }

    #[test]
    fn an_s3_root_brings_its_endpoint_and_no_secret() {
        let settings = [("aws_endpoint", "http://127.0.0.1:9000/"), ("region", "eu-1")];
        let config = config("s3://lake/pairs/", &settings);
        let lines = duckdb(&config, &page());
        let secret = "CREATE OR REPLACE SECRET everpair (TYPE s3, PROVIDER credential_chain, \
                      SCOPE 's3://lake/pairs', REGION 'eu-1', ENDPOINT '127.0.0.1:9000', \
                      USE_SSL false, URL_STYLE 'path');";
        assert!(lines.iter().any(|line| line == secret), "{lines:#?}");
        let view = "CREATE OR REPLACE VIEW images AS SELECT * FROM \
                    delta_scan('s3://lake/pairs/images', version => 7);";
        assert_eq!(lines.last().map(String::as_str), Some(view));
        let lines = spark(&config, &page());
        assert_eq!(lines[0], "SET fs.s3a.endpoint=http://127.0.0.1:9000/;");
        let view = "CREATE OR REPLACE TEMPORARY VIEW images AS SELECT * FROM \
                    delta.`s3a://lake/pairs/images` VERSION AS OF 7;";
        assert_eq!(lines.last().map(String::as_str), Some(view));
    }

    #[test]
    fn a_container_of_azure_is_named_as_each_engine_wants_it() {
        let config = config("az://box/pairs", &[("account_name", "acme")]);
        let lines = duckdb(&config, &page());
        assert!(lines.iter().any(|line| line.contains("ACCOUNT_NAME 'acme'")), "{lines:#?}");
        assert!(lines.last().is_some_and(|line| line.contains("'az://box/pairs/images'")));
        let lines = spark(&config, &page());
        let path = "`abfss://box@acme.dfs.core.windows.net/pairs/images`";
        assert!(lines.last().is_some_and(|line| line.contains(path)), "{lines:#?}");
    }
}
