//! `everpair export`: live rows of one epoch as files for training, or for programs that do not read
//! Delta. Small memory: rows stream, pictures wait in a scratch file, files are bounded in bytes.
//!
//! ```text
//!   changes   which rows an increment adds, and which it says are gone
//!      ▼
//!   images ── triplets ──► Example ──► hf | webdataset | megapairs | mmeb ──► shards, lines
//!   tables ─────────────────────────► parquet ────────────────────────────► shards
//!      ▼
//!   card, folder: what it is in words, and everything put in place at once
//! ```

mod card;
mod changes;
mod folder;
mod gone;
mod hf;
mod images;
mod lines;
mod megapairs;
mod mmeb;
mod parquet;
mod progress;
mod shards;
mod webdataset;

use std::{collections::HashSet, path::PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use schemas::{
    config::parse_bytes,
    limits,
    tables::{Table, TripletRow, from_batch},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use self::{
    changes::Changes,
    folder::Folder,
    gone::Gone,
    images::{Example, Pictures},
    lines::Lines,
    progress::Progress,
    shards::Names,
};
pub use self::{
    folder::{CARD, DataFile, MANIFEST, Manifest, Part},
    gone::LeftOut,
    hf::features,
};
use crate::{
    cli::{BadConfig, read_config},
    dataset::{At, Dataset},
    delta::Key,
    errln, outln,
    service::open_tables,
};

/// The form of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Every table as plain Parquet, for pyarrow, pandas and whatever does not read Delta; contents,
    /// embeddings and annotations of what no image has any more are in it until `everpair gc`.
    Parquet,
    /// Parquet for Hugging Face `datasets`: a row has its pictures, and a card tells about all.
    Hf,
    /// Tar files for WebDataset: KEY.query.jpg, KEY.target.jpg, KEY.neg0.jpg, KEY.json.
    #[value(name = "webdataset")]
    WebDataset,
    /// JSON lines as the MegaPairs authors release theirs: q_img, q_text, t_img, hns.
    #[value(name = "megapairs")]
    MegaPairs,
    /// JSON lines as VLM2Vec trains on (MMEB-train): one line for each instruction.
    Mmeb,
}

impl Format {
    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Parquet => "parquet",
            Format::Hf => "hf",
            Format::WebDataset => "webdataset",
            Format::MegaPairs => "megapairs",
            Format::Mmeb => "mmeb",
        }
    }

    /// What is taken where nothing is said, or why the two do not go together.
    fn images(self, asked: Option<Images>) -> Result<Images, BadConfig> {
        match (self, asked) {
            (Format::MegaPairs | Format::Mmeb, Some(Images::Embed)) => {
                let why = "is text and refers to pictures: leave --images embed out";
                Err(BadConfig(format!("--format {} {why}", self.as_str())))
            }
            (Format::WebDataset, Some(Images::Path)) => {
                let why = "holds the pictures in its tar files: leave --images path out";
                Err(BadConfig(format!("--format webdataset {why}")))
            }
            (Format::MegaPairs | Format::Mmeb, _) => Ok(Images::Path),
            (_, asked) => Ok(asked.unwrap_or(Images::Embed)),
        }
    }
}

/// Where the pictures are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Images {
    /// Their bytes are in the rows.
    Embed,
    /// Each is one file under images/, and rows refer to it by its path below the folder.
    Path,
}

/// The arguments of `export`.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// The config file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The form of the files.
    #[arg(long, value_enum)]
    pub format: Format,
    /// A new or empty folder, or one that an export made: that is replaced.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// An epoch that is still kept, or the name of a snapshot; else the newest epoch.
    #[arg(long, value_name = "EPOCH|SNAPSHOT", default_value = "latest")]
    pub as_of: At,
    /// Pictures in the rows, or as files that rows refer to; megapairs and mmeb have paths only.
    #[arg(long, value_enum)]
    pub images: Option<Images>,
    /// Add to the export in DIR, which is of this epoch, what changed since: files of new rows, and
    /// deleted-EPOCH.jsonl, which says what left. A row is gone where a line has its triplet_id and
    /// an epoch above its export_epoch.
    #[arg(long, value_name = "EPOCH")]
    pub since: Option<u64>,
    /// Largest file, as `512 MiB`; one row more than this still goes in.
    #[arg(long, value_name = "SIZE", value_parser = shard_bytes)]
    pub shard: Option<usize>,
    /// A summary as JSON on stdout.
    #[arg(long)]
    pub json: bool,
}

fn shard_bytes(text: &str) -> Result<usize, String> {
    let bytes = parse_bytes(text).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| "write a size as 512 MiB".to_owned())
}

/// Where rows with pictures go.
trait Writer {
    /// Rows, in order.
    fn write(&mut self, rows: Vec<Example>) -> anyhow::Result<()>;
    /// Closes the last file; gives all of them.
    fn finish(self: Box<Self>) -> anyhow::Result<Vec<DataFile>>;
}

/// One run of the command.
struct Export<'a> {
    dataset: &'a Dataset,
    folder: Folder,
    format: Format,
    images: Images,
    shard: usize,
    gone: Gone,
    progress: Progress,
}

/// What a part holds, and what is worth telling of it.
#[derive(Default)]
struct Made {
    files: Vec<DataFile>,
    rows: u64,
    /// Picture files and their bytes.
    pictures: (u64, u64),
    /// Contents whose bytes are not stored.
    not_stored: u64,
    /// Rows of `triplets` that name an image that is gone.
    left_out: u64,
}

/// Exports.
pub fn export(args: &ExportArgs) -> anyhow::Result<()> {
    let images = args.format.images(args.images)?;
    let config = read_config(&args.config)?;
    let dataset = Dataset::open(&open_tables(&config)?, &args.as_of)?;
    let folder = Folder::open(&args.to)?;
    let id = dataset.table(Table::Triplets)?.id().to_owned();
    let progress = Progress::new();
    let shard = args.shard.unwrap_or(limits::EXPORT_FILE_BYTES);
    let format = args.format;
    let gone = Gone::of(&dataset)?;
    let export = Export { dataset: &dataset, folder, format, images, shard, gone, progress };
    match args.since {
        None => export.whole(id, args),
        Some(since) => export.increment(&id, since, args),
    }
}

impl Export<'_> {
    fn whole(mut self, dataset: String, args: &ExportArgs) -> anyhow::Result<()> {
        let made = match self.format {
            Format::Parquet => self.tables()?,
            _ => self.triplets(None)?,
        };
        let (epoch, rows) = (self.dataset.epoch(), made.rows);
        let files = made.files.clone();
        let manifest = Manifest {
            manifest: Manifest::VERSION,
            format: self.format,
            images: self.images,
            dataset,
            epoch,
            live_rows: rows,
            left_out: LeftOut { images: self.gone.count(), rows: made.left_out },
            parts: vec![Part { epoch, since: None, rows, files, deleted: None }],
        };
        self.card(&manifest)?;
        self.folder.replace(&manifest)?;
        summary(&manifest, &made, args)
    }

    fn increment(mut self, dataset: &str, since: u64, args: &ExportArgs) -> anyhow::Result<()> {
        let mut manifest = self.held(dataset, since, args)?;
        let epoch = self.dataset.epoch();
        if epoch < since {
            bail!("the tables are at epoch {epoch} and {} is at {since}", args.to.display());
        }
        if epoch == since {
            self.folder.abandon()?;
            errln!("{} is at epoch {epoch} already: nothing to add", args.to.display());
            return summary(&manifest, &Made::default(), args);
        }
        if self.gone.count() > 0 {
            let why = format!(
                "--since {since}: {} images of epoch {epoch} have been taken down since: leave \
                 --as-of out, and the increment drops the rows that name them",
                self.gone.count()
            );
            return Err(BadConfig(why).into());
        }
        let changes = Changes::between(self.dataset, since)?;
        let mut made = match changes.added() {
            0 => Made::default(),
            _ => self.triplets(Some(&changes))?,
        };
        let rows = made.rows;
        if rows != changes.added() as u64 {
            let (rows, told) = (rows, changes.added());
            bail!(
                "changes tell of {told} new rows and triplets have {rows}: run `everpair verify`"
            );
        }
        let deleted = changes.write_deleted(self.folder.partial(), epoch)?;
        manifest.epoch = epoch;
        manifest.live_rows = self.dataset.table(Table::Triplets)?.rows()?;
        manifest.left_out = LeftOut::default();
        let files = made.files.clone();
        manifest.parts.push(Part { epoch, since: Some(since), rows, files, deleted });
        self.card(&manifest)?;
        made.files.extend(manifest.parts.last().and_then(|part| part.deleted.clone()));
        self.folder.extend(&manifest)?;
        summary(&manifest, &made, args)
    }

    /// The manifest of the export that an increment adds to.
    fn held(&self, dataset: &str, since: u64, args: &ExportArgs) -> anyhow::Result<Manifest> {
        let to = args.to.display();
        let bad = |why: String| Err(BadConfig(format!("--since {since}: {why}")).into());
        if self.format == Format::Parquet {
            let why = "only triplets have a log of changes; export parquet as a whole, or another \
                       form";
            return bad(why.to_owned());
        }
        let Some(held) = self.folder.held() else {
            return bad(format!("{to} holds no export yet; leave --since out"));
        };
        if held.format != self.format || held.images != self.images {
            let (format, images) = (held.format.as_str(), held.images);
            return bad(format!("{to} is an export of --format {format}, pictures: {images:?}"));
        }
        if held.dataset != dataset {
            return bad(format!("{to} was made from other tables"));
        }
        if held.epoch != since {
            return bad(format!("{to} is at epoch {}", held.epoch));
        }
        Ok(held.clone())
    }

    fn names(&self, prefix: String, end: &'static str) -> Names {
        Names { folder: self.folder.partial().to_owned(), prefix, end, bytes_max: self.shard }
    }

    fn tables(&mut self) -> anyhow::Result<Made> {
        let mut made = Made::default();
        for table in Table::ALL {
            let prefix = format!("{0}/{0}-{1}", table.as_str(), self.dataset.epoch());
            let names = self.names(prefix, "parquet");
            parquet::table(self, table, names, &mut made)?;
        }
        made.rows = made.files.iter().map(|file| file.rows).sum();
        Ok(made)
    }

    /// Rows of `triplets` with their pictures; with `changes` only those that it adds.
    fn triplets(&mut self, only: Option<&Changes>) -> anyhow::Result<Made> {
        let table = self.dataset.table(Table::Triplets)?;
        let epoch = i64::try_from(self.dataset.epoch()).context("epochs fit into 63 bits")?;
        let wanted = |id: &str| only.is_none_or(|changes| changes.adds(id));
        let named = named_images(&table, wanted, &self.gone)?;
        let mut pictures = Pictures::new(self.images, named.into_iter(), self.folder.partial())?;
        let folder = &self.folder;
        let held = |path: &str| only.is_some() && folder.has(path);
        pictures.fill(self.dataset, folder.partial(), held, &mut self.progress)?;

        let names = |end| self.names(format!("data/train-{epoch}"), end);
        let mut writer: Box<dyn Writer> = match self.format {
            Format::Parquet => bail!("parquet is made of tables"),
            Format::Hf => Box::new(hf::Writer::new(names("parquet"))),
            Format::WebDataset => Box::new(webdataset::Writer::new(names("tar"))),
            Format::MegaPairs => Box::new(Lines::new(names("jsonl"), megapairs::lines)),
            Format::Mmeb => Box::new(Lines::new(names("jsonl"), mmeb::lines)),
        };
        let total = only.map_or_else(|| table.rows(), |changes| Ok(changes.added() as u64))?;
        self.progress.begin("rows", total);
        let (mut rows, mut bytes, mut count, mut left_out) = (Vec::new(), 0, 0, 0);
        for batch in table.scan(None)? {
            for row in from_batch::<TripletRow>(&batch?).context("read triplets")? {
                if row.epoch > epoch || !wanted(&row.triplet_id) {
                    continue;
                }
                if self.gone.named_by(&row) {
                    left_out += 1;
                    continue;
                }
                let example = pictures.example(row, epoch)?;
                let more = example.bytes();
                if bytes + more > limits::EXPORT_BATCH_BYTES || rows.len() >= limits::READ_ROWS {
                    writer.write(std::mem::take(&mut rows))?;
                    bytes = 0;
                }
                bytes += more;
                rows.push(example);
                count += 1;
                self.progress.add(1);
            }
        }
        writer.write(rows)?;
        self.progress.end();
        let (not_stored, written) = (pictures.not_stored, pictures.written);
        let files = writer.finish()?;
        Ok(Made { files, rows: count, pictures: written, not_stored, left_out })
    }

    fn card(&self, manifest: &Manifest) -> anyhow::Result<()> {
        let card = card::card(self.dataset, manifest)?;
        folder::write(&self.folder.partial().join(CARD), card.as_bytes())
    }
}

/// The images that rows name, by the hash of their ids, but for rows that name one that is gone.
fn named_images(
    triplets: &crate::delta::Table,
    wanted: impl Fn(&str) -> bool,
    gone: &Gone,
) -> anyhow::Result<HashSet<Key>> {
    let mut images = HashSet::new();
    for row in changes::named(triplets) {
        let row = row?;
        if wanted(&row.triplet_id) && !gone.any(row.images()) {
            images.extend(row.images().map(|id| Key::of(&[id])));
        }
    }
    Ok(images)
}

/// The last words: a line for a person, JSON for a script.
fn summary(manifest: &Manifest, made: &Made, args: &ExportArgs) -> anyhow::Result<()> {
    let bytes: u64 = made.files.iter().map(|file| file.bytes).sum();
    let last = manifest.parts.last().filter(|_| !made.files.is_empty());
    let rows = last.map_or(0, |part| part.rows);
    let deleted = last.and_then(|part| part.deleted.as_ref()).map_or(0, |file| file.rows);
    let (files, (pictures, picture_bytes)) = (made.files.len(), made.pictures);
    let (to, format) = (args.to.display(), manifest.format.as_str());
    let mut words = format!(
        "{to}: epoch {} as {format}: {rows} rows in {files} files, {bytes} bytes",
        manifest.epoch
    );
    if pictures > 0 {
        words.push_str(&format!("; {pictures} pictures, {picture_bytes} bytes"));
    }
    if args.since.is_some() {
        words.push_str(&format!("; {deleted} rows to be deleted"));
    }
    errln!("{words}");
    let LeftOut { images: gone, rows: left_out } = manifest.left_out;
    if gone > 0 {
        errln!(
            "warning: {gone} images of epoch {} are no longer live (taken down, blocked, or turned \
             away since): they and the {left_out} triplets that name them are left out. Drop them \
             from earlier copies too: `everpair changes` says which rows, `everpair snapshot list \
             --json` which images of a snapshot",
            manifest.epoch
        );
    }
    if made.not_stored > 0 {
        let count = made.not_stored;
        errln!("note: the bytes of {count} contents are not stored; rows have their uri");
    }
    if deleted > 0 {
        let file = format!("deleted-{}.jsonl", manifest.epoch);
        errln!(
            "note: rows and pictures that left stay in older files, {file} names them; a whole export drops them"
        );
    }
    if args.json {
        let summary = json!({
            "to": args.to,
            "format": manifest.format,
            "images": manifest.images,
            "epoch": manifest.epoch,
            "since": args.since,
            "rows": rows,
            "live_rows": manifest.live_rows,
            "deleted": deleted,
            "files": files,
            "bytes": bytes,
            "pictures": pictures,
            "picture_bytes": picture_bytes,
            "not_stored": made.not_stored,
            "left_out": manifest.left_out,
        });
        outln!("{summary:#}");
    }
    Ok(())
}
