//! Exports hold the live rows of their epoch, whole or in increments, and say what they will not do.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use arrow_array::{Array, RecordBatch, cast::AsArray, types::Int64Type};
use everpair::{
    dataset::{At, Dataset},
    export::{CARD, Format, Images, MANIFEST, Manifest},
    scenes,
};
use parquet::{
    arrow::arrow_reader::ParquetRecordBatchReaderBuilder, file::metadata::ParquetMetaData,
};
use schemas::{
    ContentId,
    tables::{
        AnnotationRow, ContentRow, EmbeddingRow, ImageRow, PairRow, Row, Table, TripletRow,
        from_batch,
    },
};
use serde_json::Value;

use crate::service::place::{Message, Place, files, wait_until};

const SEED: u64 = 20_260_412;
const SCENES: usize = 90;
/// Small enough for several files, large enough for a row.
const SHARD: &str = "1 MiB";

/// Tables at two epochs: the first load, then replacements and take-downs.
struct Two {
    place: Place,
    first: u64,
}

fn two(rest: &str) -> Two {
    println!("seed {SEED}");
    let place = Place::new();
    place.configure("tables", &format!("[epoch]\nlinger = \"50 ms\"\n{rest}"));
    let mut log = place.log();
    let about = |(at, message): (usize, Message)| match at % 3 {
        0 => message.with("licence", "CC0 | <b>").with("source", "museum"),
        _ => message.with("uri", &format!("https://example.org/{at}.png")),
    };
    log.send(scenes::scenes(SCENES, SEED).map(Message::from).enumerate().map(about));
    place.catch_up("tables");
    let first = place.epoch("tables");
    let down = scenes::scenes(SCENES, SEED).step_by(9).map(|scene| Message::tombstone(&scene.id));
    log.send(down);
    let replaced = (1..SCENES).step_by(11).map(|at| scenes::replacement(at, 0, SEED).into());
    log.send(replaced.map(|message: Message| message.with("uri", "https://example.org/new.png")));
    place.catch_up("tables");
    assert!(place.epoch("tables") > first);
    Two { place, first }
}

impl Two {
    fn dataset(&self, at: &At) -> Dataset {
        Dataset::open(&self.place.store("tables"), at).expect("the epoch is kept")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path(name)
    }

    /// Images of an epoch that have been taken down since.
    fn gone(&self, dataset: &Dataset) -> BTreeSet<String> {
        let lives = |dataset: &Dataset| -> BTreeSet<(String, Option<String>)> {
            let rows = dataset.rows::<ImageRow>().expect("rows").into_iter();
            rows.map(|row| (row.image_id, row.since)).collect()
        };
        let gone = &lives(dataset) - &lives(&self.dataset(&At::Latest));
        gone.into_iter().map(|(image_id, _)| image_id).collect()
    }

    /// The triplets of an epoch that name no image that has been taken down since.
    fn triplets(&self, dataset: &Dataset) -> Vec<TripletRow> {
        let gone = self.gone(dataset);
        let mut rows = dataset.rows::<TripletRow>().expect("rows");
        rows.retain(|row| {
            let mut ids = [&row.query_id, &row.target_id].into_iter().chain(&row.hard_negatives);
            !ids.any(|id| gone.contains(id))
        });
        rows
    }

    /// Exports into a folder; gives the summary.
    fn export(&self, format: &str, to: &str, more: &[&str]) -> Value {
        let to = self.path(to).display().to_string();
        let arguments = [&["export", "--format", format, "--to", &to, "--json"], more].concat();
        let said = self.place.everpair("tables", &arguments).ended(0);
        assert!(
            said.err.contains(" rows in ") || said.err.contains("nothing to add"),
            "{}",
            said.err
        );
        serde_json::from_str(&said.out).expect("a summary")
    }

    /// What an export says that it refuses.
    fn refuses(&self, code: i32, format: &str, to: &str, more: &[&str], words: &str) {
        let to = self.path(to).display().to_string();
        let arguments = [&["export", "--format", format, "--to", &to], more].concat();
        self.place.everpair("tables", &arguments).ended(code).says(words);
    }
}

fn manifest(folder: &Path) -> Manifest {
    let text = fs::read(folder.join(MANIFEST)).expect("a manifest");
    serde_json::from_slice(&text).expect("a manifest")
}

/// The paths of the data files, of all parts, which must be all that there are.
fn data_files(folder: &Path) -> Vec<PathBuf> {
    let manifest = manifest(folder);
    let parts = manifest.parts.iter().flat_map(|part| part.files.iter().chain(&part.deleted));
    let named: BTreeSet<PathBuf> = parts
        .map(|file| {
            let path = folder.join(&file.path);
            assert_eq!(fs::metadata(&path).expect("it is there").len(), file.bytes);
            path
        })
        .collect();
    let aside = |path: &Path| {
        let below = path.strip_prefix(folder).expect("below");
        let picture = path.extension().is_some_and(|end| end == "jpg");
        picture || below == Path::new(MANIFEST) || below == Path::new(CARD)
    };
    let found: BTreeSet<PathBuf> =
        files(folder).into_iter().map(|(path, _)| path).filter(|path| !aside(path)).collect();
    assert_eq!(named, found);
    named.into_iter().filter(|path| path.parent() != Some(folder)).collect()
}

fn read_parquet(path: &Path) -> (ParquetMetaData, Vec<RecordBatch>) {
    let file = File::open(path).expect("it is there");
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet");
    let about = builder.metadata().as_ref().clone();
    let batches = builder.build().expect("Parquet").map(|batch| batch.expect("rows"));
    (about, batches.collect())
}

/// Rows of one table of a `parquet` export, and how many files there are.
pub fn table_rows<R: Row>(folder: &Path) -> (Vec<R>, usize) {
    let below = folder.join(R::TABLE.as_str());
    let paths: Vec<PathBuf> =
        data_files(folder).into_iter().filter(|path| path.starts_with(&below)).collect();
    let batches = paths.iter().flat_map(|path| read_parquet(path).1);
    let rows = batches.flat_map(|batch| from_batch::<R>(&batch).expect("the table's columns"));
    (rows.collect(), paths.len())
}

fn sorted<R: Row + std::fmt::Debug>(rows: Vec<R>) -> Vec<String> {
    let mut rows: Vec<String> = rows.iter().map(|row| format!("{row:?}")).collect();
    rows.sort();
    rows
}

/// A picture's bytes and path.
type Picture = (Option<Vec<u8>>, String);

/// A row of an `hf` export.
#[derive(Clone, Debug, PartialEq)]
struct HfRow {
    triplet: TripletRow,
    query: Picture,
    target: Picture,
    negatives: Vec<Picture>,
    licence: Option<String>,
}

fn pictures(column: &dyn Array) -> Vec<Picture> {
    let column = column.as_struct();
    let (bytes, path) = (column.column(0).as_binary::<i32>(), column.column(1).as_string::<i32>());
    let bytes = bytes.iter().map(|bytes| bytes.map(<[u8]>::to_vec));
    bytes.zip(path.iter().map(|path| path.expect("a path").to_owned())).collect()
}

/// Rows of an `hf` export by triplet, as a reader that follows its rule sees them.
fn hf_rows(folder: &Path) -> BTreeMap<String, HfRow> {
    let mut gone: HashMap<String, i64> = HashMap::new();
    for part in manifest(folder).parts {
        let Some(deleted) = part.deleted else { continue };
        let text = fs::read_to_string(folder.join(&deleted.path)).expect("it is there");
        assert_eq!(text.lines().count() as u64, deleted.rows);
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).expect("JSON");
            let id = line["triplet_id"].as_str().expect("an id").to_owned();
            let epoch = line["epoch"].as_i64().expect("an epoch");
            let held = gone.entry(id).or_insert(epoch);
            *held = epoch.max(*held);
        }
    }
    let mut rows = BTreeMap::new();
    for batch in data_files(folder).iter().flat_map(|path| read_parquet(path).1) {
        let triplets = from_batch::<TripletRow>(&batch).expect("the columns of triplets");
        let column = |name: &str| batch.column_by_name(name).expect("a column");
        let [query, target] = ["query_image", "target_image"].map(|name| pictures(column(name)));
        let exported = column("export_epoch").as_primitive::<Int64Type>();
        for (at, triplet) in triplets.into_iter().enumerate() {
            let exported = exported.value(at);
            if gone.get(&triplet.triplet_id).is_some_and(|epoch| *epoch > exported) {
                continue;
            }
            let licence = column("query_licence").as_string::<i32>();
            let row = HfRow {
                query: query[at].clone(),
                target: target[at].clone(),
                negatives: pictures(&column("negatives").as_list::<i32>().value(at)),
                licence: licence.is_valid(at).then(|| licence.value(at).to_owned()),
                triplet,
            };
            let before = rows.insert(row.triplet.triplet_id.clone(), row);
            assert!(before.is_none(), "a row is live once");
        }
    }
    rows
}

#[test]
fn exports_hold_the_rows_that_are_live_at_their_epoch() {
    let two = two("");
    for (name, at) in [("latest", At::Latest), ("first", At::Epoch(two.first))] {
        let dataset = two.dataset(&at);
        let epoch = dataset.epoch().to_string();
        let more = ["--as-of", if name == "latest" { name } else { &epoch }, "--shard", SHARD];
        let said = two.export("parquet", &format!("parquet-{name}"), &more);
        assert_eq!(said["epoch"], dataset.epoch());
        let folder = two.path(&format!("parquet-{name}"));
        let (triplets, _) = table_rows::<TripletRow>(&folder);
        assert!(triplets.len() > 100);
        assert_eq!(sorted(triplets), sorted(two.triplets(&dataset)));
        let gone = two.gone(&dataset);
        assert_eq!(gone.is_empty(), name == "latest");
        let (mut images, mut contents) = (
            dataset.rows::<ImageRow>().expect("rows"),
            dataset.rows::<ContentRow>().expect("rows"),
        );
        let (left, kept): (Vec<ImageRow>, _) =
            images.drain(..).partition(|row| gone.contains(&row.image_id));
        let only = |row: &ContentRow| {
            let of = |image: &ImageRow| image.content_id == row.content_id;
            left.iter().any(of) && !kept.iter().any(of)
        };
        contents.retain(|row| !only(row));
        assert_eq!(sorted(table_rows::<ImageRow>(&folder).0), sorted(kept));
        let (exported, shards) = table_rows::<ContentRow>(&folder);
        assert_eq!(sorted(exported), sorted(contents));
        assert_eq!(shards, 1);
        for table in Table::ALL.map(Table::as_str) {
            assert!(folder.join(table).is_dir(), "{table}");
        }

        let said = two.export("hf", &format!("hf-{name}"), &more);
        let folder = two.path(&format!("hf-{name}"));
        let rows = hf_rows(&folder);
        assert_eq!(said["rows"], rows.len());
        let triplets = rows.values().map(|row| row.triplet.clone()).collect();
        assert_eq!(sorted(triplets), sorted(two.triplets(&dataset)));
        check_pictures(&rows, &dataset);
        check_files(&folder);
    }
    let [first, latest] = ["first", "latest"].map(|name| hf_rows(&two.path(&format!("hf-{name}"))));
    assert_ne!(first.keys().collect::<Vec<_>>(), latest.keys().collect::<Vec<_>>());
    let card = fs::read_to_string(two.path("hf-latest").join(CARD)).expect("a card");
    for words in
        ["builtin:layout@", "template:v1", "CC0 \\| &lt;b>", "dtype: image", "| triplets |"]
    {
        assert!(card.contains(words), "no {words:?} in\n{card}");
    }
}

/// Pictures are those of the images that the row names, the query first among the negatives.
fn check_pictures(rows: &BTreeMap<String, HfRow>, dataset: &Dataset) {
    let images = dataset.rows::<ImageRow>().expect("rows");
    let images: HashMap<&str, &ImageRow> =
        images.iter().map(|row| (row.image_id.as_str(), row)).collect();
    let contents = dataset.rows::<ContentRow>().expect("rows");
    let contents: HashMap<&str, &ContentRow> =
        contents.iter().map(|row| (row.content_id.as_str(), row)).collect();
    let picture = |id: &str| -> Picture {
        let content = contents[images[id].content_id.as_str()];
        let stored = content.image.clone();
        (stored.bytes, stored.path.expect("a stored picture has a name"))
    };
    let mut licences = 0;
    for row in rows.values() {
        assert_eq!(row.query, picture(&row.triplet.query_id));
        assert_eq!(row.target, picture(&row.triplet.target_id));
        assert_eq!(row.negatives[0], row.query);
        let negatives: Vec<Picture> =
            row.triplet.hard_negatives.iter().map(|id| picture(id)).collect();
        assert_eq!(row.negatives, negatives);
        assert_eq!(row.licence, images[row.triplet.query_id.as_str()].licence);
        licences += usize::from(row.licence.is_some());
    }
    assert!(licences > 10);
}

/// Files and their groups are bounded, and have what readers look for.
fn check_files(folder: &Path) {
    let paths = data_files(folder);
    assert!(paths.len() > 3, "{paths:?}");
    for path in paths {
        let bytes = fs::metadata(&path).expect("it is there").len();
        // Footer, page index and bloom filters come on top.
        assert!(bytes < (1 << 20) + (300 << 10), "{}: {bytes}", path.display());
        let (about, _) = read_parquet(&path);
        let told = about.file_metadata().key_value_metadata().expect("keys and values");
        assert!(told.iter().any(|entry| entry.key == "huggingface"));
        let group = about.row_group(0);
        let column = |name: &str| {
            let found = group.columns().iter().find(|c| c.column_path().string() == name);
            found.unwrap_or_else(|| panic!("no {name}"))
        };
        assert!(column("triplet_id").bloom_filter_offset().is_some());
        assert!(column("triplet_id").column_index_offset().is_some(), "a page index");
        assert!(column("query_image.bytes").statistics().is_none());
        assert!(column("negatives.list.element.bytes").dictionary_page_offset().is_none());
    }
}

#[test]
fn an_export_and_its_increments_are_the_export_of_the_last_epoch() {
    let two = two("");
    let first = two.first.to_string();
    let latest = two.dataset(&At::Latest).epoch();
    for images in ["embed", "path"] {
        let [base, whole] = ["base", "whole"].map(|name| format!("{name}-{images}"));
        let more = ["--images", images, "--shard", SHARD];
        two.export("hf", &whole, &more);
        two.export("hf", &base, &[&more[..], &["--as-of", &first]].concat());
        let before = hf_rows(&two.path(&base));
        let said = two.export("hf", &base, &[&more[..], &["--since", &first]].concat());
        let after = hf_rows(&two.path(&base));
        same_rows(&after, &hf_rows(&two.path(&whole)));
        let dataset = two.dataset(&At::Epoch(two.first));
        assert_eq!(before.len(), two.triplets(&dataset).len());
        let new = after.iter().filter(|(id, row)| before.get(*id) != Some(row)).count();
        let left = before.iter().filter(|(id, row)| after.get(*id) != Some(row)).count();
        assert!(new > 10 && left > 10, "{new}, {left}");
        assert_eq!(said["rows"], new);
        // It names those too that the base left out already.
        let dropped = dataset.rows::<TripletRow>().expect("rows").len() - before.len();
        assert_eq!(said["deleted"], left + dropped);
        assert!((new as u64) < said["live_rows"].as_u64().expect("rows"), "not all is new");
        assert_eq!(said["live_rows"], after.len());
        assert_eq!(manifest(&two.path(&base)).parts.len(), 2);
        for row in after.values().filter(|_| images == "path") {
            assert!(two.path(&base).join(&row.query.1).is_file(), "{}", row.query.1);
        }

        // Once more: nothing.
        let latest = latest.to_string();
        let held = files(&two.path(&base));
        let said = two.export("hf", &base, &[&more[..], &["--since", &latest]].concat());
        assert_eq!((&said["rows"], held), (&0.into(), files(&two.path(&base))));
        let wrong = [&more[..], &["--since", &first]].concat();
        two.refuses(2, "hf", &base, &wrong, &format!("is at epoch {latest}"));
    }
    let since = ["--since", &first];
    two.refuses(2, "webdataset", "base-embed", &since, "is an export of --format hf");
    two.refuses(2, "hf", "nowhere", &since, "holds no export yet");
    two.refuses(2, "parquet", "base-embed", &since, "only triplets have a log of changes");
}

fn same_rows(one: &BTreeMap<String, HfRow>, other: &BTreeMap<String, HfRow>) {
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    for (id, row) in one {
        let other = &other[id];
        assert_eq!(row.triplet, other.triplet);
        assert_eq!(row.licence, other.licence);
        // Bytes tell nobody anything.
        let paths = |row: &HfRow| -> Vec<String> {
            let pictures = [&row.query, &row.target].into_iter().chain(&row.negatives);
            pictures.map(|picture| picture.1.clone()).collect()
        };
        assert_eq!(paths(row), paths(other));
        assert!(row == other, "{id}: other bytes");
    }
}

fn json_lines(folder: &Path) -> Vec<Value> {
    let texts = data_files(folder).into_iter().map(|path| fs::read_to_string(path).expect("text"));
    let lines = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
    lines.map(|line| serde_json::from_str(&line).expect("JSON")).collect()
}

/// What README's table says of each form: the pattern of files, and names in the third column.
fn readme_forms() -> BTreeMap<String, (Vec<String>, BTreeSet<String>)> {
    let readme = include_str!("../README.md");
    let (_, table) = readme.split_once("| form | files below the folder |").expect("the table");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let names = |cell: &str| -> Vec<String> {
        cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
        (names(cells[0])[0].clone(), (names(cells[1]), names(cells[2]).into_iter().collect()))
    };
    rows.map(row).collect()
}

#[test]
fn the_layout_of_every_form_is_as_readme_says() {
    let two = two("");
    let epoch = two.dataset(&At::Latest).epoch();
    let forms = readme_forms();
    assert_eq!(forms.len(), 5);
    let of_triplets = TripletRow::fields();
    let of_triplets: BTreeSet<&str> = of_triplets.iter().map(|f| f.name().as_str()).collect();
    for (form, (patterns, said)) in forms {
        two.export(&form, &form, &[]);
        let folder = two.path(&form);
        let below = |path: &Path| path.strip_prefix(&folder).expect("below").display().to_string();
        let found: Vec<String> = files(&folder).iter().map(|(path, _)| below(path)).collect();
        for pattern in patterns {
            let name = pattern.replace("EPOCH", &epoch.to_string());
            let fits = |path: &String| match name.split_once("ab/CONTENT") {
                Some((start, end)) => path.starts_with(start) && path.ends_with(end),
                None => *path == name.replace("TABLE", "pairs"),
            };
            assert!(found.iter().any(fits), "{form}: {pattern} of {found:?}");
        }
        let columns: BTreeSet<String> = match form.as_str() {
            "parquet" => continue,
            "megapairs" | "mmeb" => {
                let lines = json_lines(&folder);
                lines[0].as_object().expect("an object").keys().cloned().collect()
            }
            "webdataset" => {
                let tar = File::open(&data_files(&folder)[0]).expect("it is there");
                let mut tar = tar::Archive::new(tar);
                let names = tar.entries().expect("a tar file").map(|entry| {
                    let entry = entry.expect("a member");
                    entry.path().expect("a name").display().to_string()
                });
                let ends = names.map(|name| name.split_once('.').expect("a key").1.to_owned());
                let ends: BTreeSet<String> = ends.map(|end| format!("KEY.{end}")).collect();
                for name in said.iter().filter(|name| name.starts_with("KEY.")) {
                    assert!(ends.contains(name), "{name}: {ends:?}");
                }
                continue;
            }
            _ => {
                let batch = &read_parquet(&data_files(&folder)[0]).1[0];
                let names = batch.schema().fields().iter().map(|f| f.name().clone()).collect();
                let all: BTreeSet<String> = names;
                assert!(of_triplets.iter().all(|name| all.contains(*name)));
                all.into_iter().filter(|name| !of_triplets.contains(name.as_str())).collect()
            }
        };
        let said: BTreeSet<String> = said.into_iter().filter(|name| name != "triplets").collect();
        assert_eq!(columns, said, "{form}");
    }
}

/// Neither a row nor a picture nor a text of an image that was taken down after the epoch goes out
/// with it, in any form, and it is said how many are missing.
#[test]
fn an_older_epoch_goes_out_without_what_was_taken_down_since() {
    let two = two("");
    let create = ["snapshot", "create", "pin", "--at", &two.first.to_string()];
    two.place.everpair("tables", &create).ended(0);
    let at = At::Snapshot("pin".into());
    let dataset = two.dataset(&at);
    let (gone, kept) = (two.gone(&dataset), two.triplets(&dataset));
    let left_out = dataset.rows::<TripletRow>().expect("rows").len() - kept.len();
    assert!(gone.len() > 5 && left_out > 20 && kept.len() > 100, "{gone:?} {left_out}");
    let ids: BTreeSet<&str> = kept.iter().map(|row| row.triplet_id.as_str()).collect();
    let held = dataset.rows::<ImageRow>().expect("rows");
    let of_gone = held.iter().filter(|row| gone.contains(&row.image_id));
    let of_gone: Vec<&ImageRow> = of_gone.collect();
    let mut stored = dataset.rows::<ContentRow>().expect("rows");
    stored.retain(|row| {
        let mut of = held.iter().filter(|image| image.content_id == row.content_id).peekable();
        of.peek().is_some() && of.all(|image| gone.contains(&image.image_id))
    });
    assert!(stored.len() > 5);
    let pin = ["--as-of", "pin"];
    for (format, more) in [
        ("hf", &[][..]),
        ("hf", &["--images", "path"]),
        ("webdataset", &[]),
        ("megapairs", &[]),
        ("mmeb", &[]),
        ("parquet", &[]),
        ("parquet", &["--images", "path"]),
    ] {
        let to = format!("{format}{}", more.len());
        let said = two.export(format, &to, &[&pin, more].concat());
        assert_eq!(said["left_out"]["images"], gone.len(), "{said}");
        assert_eq!(said["left_out"]["rows"], left_out, "{said}");
        let folder = two.path(&to);
        let card = fs::read_to_string(folder.join(CARD)).expect("a card");
        let words = format!("{} images of this epoch are no longer live", gone.len());
        assert!(card.contains(&words), "{card}");
        assert!(card.contains(&format!("the {left_out} training rows")), "{card}");
        for (path, _) in files(&folder) {
            let bytes = fs::read(&path).expect("a file");
            for row in &stored {
                let picture = row.image.bytes.as_deref().expect("stored pictures have bytes");
                let found = bytes.windows(picture.len()).any(|part| part == picture);
                assert!(!found, "{}: {}", path.display(), row.content_id);
            }
        }
        if ["megapairs", "mmeb"].contains(&format) {
            let lines = json_lines(&folder);
            let named = lines.iter().map(|line| line["triplet_id"].as_str().expect("an id"));
            assert_eq!(named.collect::<BTreeSet<_>>(), ids);
        }
    }
    let folder = two.path("parquet0");
    for row in table_rows::<PairRow>(&folder).0 {
        let mut ids = [&row.query_id, &row.target_id].into_iter().chain(&row.hard_negatives);
        assert!(!ids.any(|id| gone.contains(id)), "{row:?}");
    }
    let content = |id: &str| stored.iter().any(|row| row.content_id == id);
    for row in table_rows::<AnnotationRow>(&folder).0 {
        assert!(!content(&row.query_content_id) && !content(&row.target_content_id), "{row:?}");
    }
    let only = |caption: &Option<String>| {
        let same = held.iter().filter(|row| row.caption == *caption);
        caption.is_some() && same.into_iter().all(|row| gone.contains(&row.image_id))
    };
    let captions = of_gone.iter().filter(|row| only(&row.caption));
    let captions: Vec<String> = captions
        .filter_map(|row| Some(ContentId::of(row.caption.as_deref()?.trim().as_bytes()).hex()))
        .collect();
    assert!(!captions.is_empty());
    for row in table_rows::<EmbeddingRow>(&folder).0 {
        assert!(!content(&row.content_id) && !captions.contains(&row.content_id));
    }
    // The way on is told.
    let to = two.path("more").display().to_string();
    let hf = ["export", "--format", "hf", "--to", &to, "--as-of"];
    let said = two.place.everpair("tables", &[&hf[..], &["pin"]].concat()).ended(0);
    said.says(&format!("{} images of epoch {} are no longer live", gone.len(), two.first))
        .says(&format!("the {left_out} triplets that name them are left out"));
    let said = two.place.everpair("tables", &[&hf[..], &["latest"]].concat()).ended(0);
    assert!(!said.err.contains("no longer live"), "{}", said.err);
    let words = format!("{} images of epoch {} are no longer to be used", gone.len(), two.first);
    for (engine, begins) in [("--duckdb", "-- "), ("--spark", "/* ")] {
        let views = ["views", engine, "--at", "pin"];
        let said = two.place.everpair("tables", &views).ended(0).says(&words);
        let comment =
            said.out.lines().find(|line| line.starts_with(begins) && line.contains("no longer"));
        assert!(comment.is_some_and(|line| line.contains(&words)), "{}", said.out);
        let said = two.place.everpair("tables", &["views", engine]).ended(0);
        assert!(!said.out.contains("no longer to be") && said.err.is_empty(), "{}", said.err);
    }

    // An increment up to such an epoch could not say what of the older files has gone.
    let (first, middle) = (two.first.to_string(), two.dataset(&At::Latest).epoch().to_string());
    two.place.log().send([Message::tombstone(&kept[0].query_id)]);
    two.place.catch_up("tables");
    two.export("hf", "base", &["--as-of", &first]);
    let up_to_middle = ["--since", &first, "--as-of", &middle];
    two.refuses(2, "hf", "base", &up_to_middle, "taken down since: leave --as-of out");
    two.export("hf", "base", &["--since", &first]);
    two.export("hf", "whole", &[]);
    same_rows(&hf_rows(&two.path("base")), &hf_rows(&two.path("whole")));
}

#[test]
fn text_and_tar_hold_the_same_rows() {
    let two = two("");
    let triplets = two.dataset(&At::Latest).rows::<TripletRow>().expect("rows");
    let triplets: BTreeMap<&str, &TripletRow> =
        triplets.iter().map(|row| (row.triplet_id.as_str(), row)).collect();
    two.export("megapairs", "megapairs", &["--shard", "64 KiB"]);
    let lines = json_lines(&two.path("megapairs"));
    assert_eq!(lines.len(), triplets.len());
    for line in &lines {
        let row = triplets[line["triplet_id"].as_str().expect("an id")];
        assert_eq!(line["hns"][0], line["q_img"]);
        assert_eq!(line["q_text"], serde_json::json!(row.instructions));
        assert_eq!(line["hns"].as_array().map(Vec::len), Some(row.hard_negatives.len()));
        for path in
            [&line["q_img"], &line["t_img"], &line["hns"][1]].into_iter().filter_map(Value::as_str)
        {
            assert!(two.path("megapairs").join(path).is_file(), "{path}");
        }
    }
    assert!(data_files(&two.path("megapairs")).len() > 1);

    two.export("mmeb", "mmeb", &[]);
    let lines = json_lines(&two.path("mmeb"));
    assert_eq!(lines.len(), triplets.values().map(|row| row.instructions.len()).sum::<usize>());
    let of_query =
        lines.iter().filter(|line| line["neg_image_path"] == line["qry_image_path"]).count();
    assert!(of_query >= triplets.len(), "the query is a negative of every row");
    assert!(
        lines
            .iter()
            .all(|line| line["qry"].as_str().is_some_and(|q| q.starts_with("<|image_1|>\n")))
    );

    let said = two.export("webdataset", "webdataset", &["--shard", SHARD]);
    assert_eq!(said["rows"], triplets.len());
    let mut members: BTreeMap<String, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
    let tars = data_files(&two.path("webdataset"));
    assert!(tars.len() > 3);
    for path in tars {
        assert!(fs::metadata(&path).expect("it is there").len() <= 1 << 20, "{}", path.display());
        let mut tar = tar::Archive::new(File::open(path).expect("it is there"));
        for entry in tar.entries().expect("a tar file") {
            let mut entry = entry.expect("a member");
            let name = entry.path().expect("a name").display().to_string();
            let (key, end) = name.split_once('.').expect("a key");
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).expect("its content");
            members.entry(key.to_owned()).or_default().insert(end.to_owned(), content);
        }
    }
    two.export("hf", "hf", &[]);
    let rows = hf_rows(&two.path("hf"));
    assert_eq!(members.keys().collect::<Vec<_>>(), rows.keys().collect::<Vec<_>>());
    for (id, row) in rows {
        let files = &members[&id];
        assert_eq!(Some(&files["query.jpg"]), row.query.0.as_ref());
        assert_eq!(Some(&files["target.jpg"]), row.target.0.as_ref());
        for (at, negative) in row.negatives.iter().enumerate() {
            assert_eq!(Some(&files[&format!("neg{at}.jpg")]), negative.0.as_ref());
        }
        let about: Value = serde_json::from_slice(&files["json"]).expect("JSON");
        assert_eq!(about["instructions"], serde_json::json!(row.triplet.instructions));
        assert_eq!(files.len(), 3 + row.negatives.len());
    }
}

#[test]
fn bytes_that_are_not_stored_are_said_and_referred_to() {
    let two = two("[contents]\nstore = \"reference\"\n");
    let words = "has no uri and its bytes are not stored";
    two.refuses(1, "megapairs", "megapairs", &[], words);
    two.refuses(1, "hf", "hf", &[], "--images path");
    two.refuses(1, "webdataset", "webdataset", &[], "store = \"resized\"");
    assert!(!two.path("hf").exists());
    let said = two.export("parquet", "parquet", &[]);
    assert!(said["not_stored"].as_u64() > Some(50));

    let mut log = two.place.log();
    let every = scenes::scenes(SCENES, SEED).map(Message::from);
    log.send(every.map(|message| message.with("uri", "https://example.org/x.png")));
    two.place.catch_up("tables");
    let said = two.export("hf", "hf", &["--images", "path"]);
    assert!(said["not_stored"].as_u64() > Some(50) && said["pictures"] == 0, "{said}");
    let rows = hf_rows(&two.path("hf"));
    let refers = |row: &HfRow| row.query == (None, "https://example.org/x.png".to_owned());
    assert!(rows.values().all(refers) && !rows.is_empty());
}

#[test]
fn what_is_not_an_exports_is_left_alone_and_a_killed_one_is_none() {
    let two = two("");
    let full = two.path("full");
    fs::create_dir(&full).expect("a folder");
    fs::write(full.join("thesis.tex"), "years of work").expect("a file");
    two.refuses(2, "hf", "full", &[], "is not empty and holds no whole export");
    two.refuses(2, "megapairs", "new", &["--images", "embed"], "leave --images embed out");
    two.refuses(2, "webdataset", "new", &["--images", "path"], "leave --images path out");
    two.refuses(2, "hf", "new", &["--shard", "much"], "write a size as 512 MiB");
    two.refuses(1, "hf", "new", &["--as-of", "no-such"], "no-such");
    two.export("megapairs", "mine", &[]);
    fs::write(two.path("mine/notes.txt"), "mine").expect("a file");
    two.refuses(2, "hf", "mine", &[], "holds notes.txt, which no export made");
    fs::remove_file(two.path("mine/notes.txt")).expect("it was written");
    two.export("hf", "mine", &[]);
    assert_eq!(manifest(&two.path("mine")).format, Format::Hf);
    assert!(!two.path("mine/images").exists(), "nothing of the earlier form is left");
    assert_eq!(fs::read_to_string(full.join("thesis.tex")).expect("it is there"), "years of work");

    let (target, partial) = (two.path("killed"), two.path(".killed.partial"));
    let mut killed = 0;
    for _ in 0..50 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_everpair"));
        command.args(["export", "--format", "webdataset", "--to"]).arg(&target).arg("--config");
        command.arg(two.path("tables.toml")).stderr(Stdio::null());
        let mut child = command.spawn().expect("the program starts");
        wait_until("the export has begun, or is over", || {
            partial.join("scratch").exists() || child.try_wait().expect("it can be asked").is_some()
        });
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
        let whole = target.join(MANIFEST).is_file();
        assert_eq!(target.exists(), whole, "what is there is whole");
        killed += usize::from(!whole);
        if killed == 3 {
            break;
        }
        if whole {
            fs::remove_dir_all(&target).expect("a folder");
        }
    }
    assert!(killed > 0, "every export was over before the kill");
    let said = two.export("webdataset", "killed", &[]);
    assert!(said["rows"].as_u64() > Some(100) && !partial.exists());
    assert_eq!(manifest(&target).images, Images::Embed);
    data_files(&target);
}
