//! What readers of the tables rely on below the rows: the Delta log's words, and how Parquet files
//! are laid out. `UPDATE_GOLDEN=1` rewrites the files; a difference in review is a change of API.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use everpair::scenes;
use parquet::file::{
    metadata::{ColumnChunkMetaData, PageIndexPolicy, ParquetMetaDataReader},
    reader::ChunkReader,
};
use schemas::tables::Table;
use serde_json::Value;

use super::place::{Message, Place, files};

fn compare(name: &str, now: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().expect("it has one")).expect("the tree is writable");
        fs::write(&path, now).expect("the golden folder is writable");
    }
    let held = fs::read_to_string(&path).expect("the golden file is there");
    assert!(held == now, "{name} differs; UPDATE_GOLDEN=1 rewrites it:\n{now}");
}

/// Tables with rows in all of them.
fn place() -> Place {
    let place = Place::new();
    place.configure("tables", "[epoch]\nlinger = \"1 min\"\n");
    let mut log = place.log();
    log.send((0..60).map(|number| scenes::scene(number, 3).into()));
    log.send([Message { value: Some(Vec::new()), ..Message::tombstone("empty") }]);
    place.everpair("tables", &["takedown", "--block", "--kind", "source", "nowhere"]).ended(0);
    place.catch_up("tables");
    log.send([Message::tombstone(&scenes::scene(5, 3).id)]);
    place.catch_up("tables");
    place
}

/// The first data file of a table.
fn data_file(place: &Place, table: Table) -> Option<fs::File> {
    let mut paths: Vec<_> = files(&place.path("tables").join(table.as_str()))
        .into_iter()
        .filter(|(path, _)| path.extension().is_some_and(|end| end == "parquet"))
        .collect();
    paths.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    Some(fs::File::open(&paths.first()?.0).expect("it is there"))
}

fn column(text: &mut String, column: &ColumnChunkMetaData) {
    let yes = |it: bool, word: &str| if it { format!(" {word}") } else { String::new() };
    let codec = format!("{:?}", column.compression());
    writeln!(
        text,
        "  {} {:?} {}{}{}{}{}",
        column.column_path(),
        column.column_type(),
        codec.split('(').next().unwrap_or_default().to_lowercase(),
        yes(column.dictionary_page_offset().is_some(), "dictionary"),
        yes(column.statistics().is_some(), "statistics"),
        yes(column.bloom_filter_offset().is_some(), "bloom"),
        yes(column.offset_index_offset().is_some(), "page-index"),
    )
    .expect("a string grows");
}

#[test]
fn files_are_laid_out_for_readers() {
    let place = place();
    let mut text = String::new();
    for table in Table::ALL {
        let file = data_file(&place, table);
        let file = file.unwrap_or_else(|| panic!("{} has a file", table.as_str()));
        let mut reader =
            ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional);
        reader.try_parse(&file).expect("a Parquet file");
        let metadata = reader.finish().expect("a footer");
        writeln!(text, "{}", table.as_str()).expect("a string grows");
        let group = metadata.row_group(0);
        group.columns().iter().for_each(|chunk| column(&mut text, chunk));
        // Sized by what is in it, not by what there could be.
        let bloom = group.columns().iter().filter_map(|c| c.bloom_filter_length()).sum::<i32>();
        assert!(bloom < 4_096, "{}: {bloom} bytes of bloom filters", table.as_str());
        assert!(file.get_bytes(0, 4).is_ok_and(|magic| &*magic == b"PAR1"));
    }
    compare("parquet.txt", &text);
}

/// The same commit with what differs from run to run left out.
fn plain(value: &mut Value) {
    const VARIES: [&str; 13] = [
        "timestamp",
        "txnId",
        "id",
        "createdTime",
        "modificationTime",
        "lastUpdated",
        "size",
        "path",
        "pathOrInlineDv",
        "sizeInBytes",
        "deletionTimestamp",
        "stats",
        "engineInfo",
    ];
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match VARIES.contains(&name.as_str()) && !value.is_null() {
                    true => *value = Value::from(format!("<{name}>")),
                    false => plain(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(plain),
        _ => {}
    }
}

#[test]
fn the_log_says_what_it_always_said() {
    let place = place();
    let mut text = String::new();
    let mut commits = files(&place.path("tables/images/_delta_log"));
    commits.sort();
    // How many epochs there are is a matter of timing; the first commit of each kind is not.
    let mut seen = BTreeSet::new();
    for (path, _) in commits {
        let content = fs::read_to_string(&path).expect("a commit");
        let actions = content.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        let mut actions: Vec<Value> = actions.collect();
        let operation = actions[0]["commitInfo"]["operation"].to_string();
        if !seen.insert(operation.clone()) {
            continue;
        }
        writeln!(text, "{operation}").expect("a string grows");
        for action in &mut actions {
            plain(action);
            writeln!(text, "  {action}").expect("a string grows");
        }
    }
    assert!(seen.contains("\"MERGE\""), "a row was deleted: {seen:?}");
    let mut latest = place.latest("tables").expect("a page");
    plain(&mut latest);
    writeln!(text, "latest.json\n{latest:#}").expect("a string grows");
    compare("delta_log.txt", &text);
}
