//! `everpair embed`: images in, a Parquet file of vectors out. What the service's encoders give, for
//! whoever wants only that, and for timing them.
//!
//! ```text
//!  inputs ─► read, decode, encode, a part per thread ─► rows in the inputs' order ─► FILE.parquet
//! ```

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, bail};
use arrow_array::{
    ArrayRef, FixedSizeListArray, Float32Array, Int32Array, RecordBatch, StringArray,
};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use clap::Args;
use kernels::{
    decode,
    encoders::{ImageEncoder, TextEncoder},
};
use operators::{decode::picture, flow::Picture};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};
use schemas::{caption_text, config::StoreKind, limits};
use serde_json::json;

use crate::{
    encoders, outln,
    push::images::{self, Found, Image},
};

/// A component 1.0 as the service stores it.
const COMPONENT: f32 = 32_768.0;

/// Embeds images.
#[derive(Args, Debug)]
pub struct EmbedArgs {
    /// Folders, images, patterns in quotes, .tar, .parquet, .jsonl and .csv files, as `push` takes
    /// them.
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// Of pictures: builtin:layout, builtin:edges, or a checkpoint's folder.
    #[arg(long, value_name = "ENCODER")]
    pub images: Option<String>,
    /// Of captions: builtin:words, or a checkpoint's folder.
    #[arg(long, value_name = "ENCODER", required_unless_present = "images")]
    pub captions: Option<String>,
    /// The Parquet file, which must not be there.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Threads [default: one per core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Images that are encoded together.
    #[arg(long, value_name = "N", default_value_t = limits::ENCODE_BATCH as u16,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub batch: u16,
    /// Counts and times as JSON on stdout.
    #[arg(long)]
    pub json: bool,
}

/// Encoders that were asked for.
struct Encoders {
    image: Option<Arc<dyn ImageEncoder>>,
    text: Option<Arc<dyn TextEncoder>>,
}

/// One image that could be read.
struct One {
    image_id: String,
    content_id: String,
    width: i32,
    height: i32,
    caption: Option<String>,
    vectors: [Option<Box<[i16]>>; 2],
}

/// Runs the command.
pub fn embed(args: &EmbedArgs) -> anyhow::Result<()> {
    if args.out.exists() {
        bail!("{} is there already: name another file, or remove it", args.out.display());
    }
    let encoders = Encoders {
        image: args.images.as_deref().map(encoders::image_named).transpose()?,
        text: args.captions.as_deref().map(encoders::text_named).transpose()?,
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.map_or(cores, usize::from);
    let partial = Partial::of(&args.out);
    let mut out = Out::create(&partial.0, &encoders)?;
    let began = Instant::now();
    let mut unreadable = Vec::new();
    let mut waiting: Vec<Image> = Vec::new();
    let mut found = images::find_all(&args.inputs)?;
    loop {
        let next = found.next();
        let ended = next.is_none();
        match next {
            Some(Found::Image(image)) => waiting.push(*image),
            Some(Found::Broken(place, why) | Found::Without(place, why)) => {
                unreadable.push((place, why));
            }
            Some(Found::Part | Found::Other) | None => {}
        }
        if !waiting.is_empty() && (ended || waiting.len() >= threads * usize::from(args.batch)) {
            let mut rows = Vec::with_capacity(waiting.len());
            for one in side_by_side(std::mem::take(&mut waiting), &encoders, threads) {
                match one {
                    Ok(one) => rows.push(one),
                    Err(why) => unreadable.push(why),
                }
            }
            out.write(&rows)?;
        }
        if ended {
            break;
        }
    }
    let rows = out.finish()?;
    let seconds = began.elapsed().as_secs_f64();
    for (place, why) in &unreadable {
        tracing::warn!("{place}: {why}");
    }
    if rows == 0 {
        bail!("no image could be embedded: nothing is written");
    }
    partial.becomes(&args.out)?;
    let rate = rows as f64 / seconds.max(1e-9);
    if args.json {
        let about = json!({
            "images": rows,
            "unreadable": unreadable.len(),
            "seconds": seconds,
            "images_per_second": rate,
            "threads": threads,
            "image_encoder": encoders.image_id(),
            "caption_encoder": encoders.text_id(),
        });
        outln!("{about:#}");
    } else {
        outln!("{rows} images in {seconds:.1} s, {rate:.1} a second: {}", args.out.display());
    }
    if !unreadable.is_empty() {
        bail!("{} images could not be read: they are named above", unreadable.len());
    }
    Ok(())
}

impl Encoders {
    fn image_id(&self) -> Option<String> {
        self.image.as_ref().map(|encoder| format!("{}@{}", encoder.name(), encoder.digest()))
    }

    fn text_id(&self) -> Option<String> {
        self.text.as_ref().map(|encoder| format!("{}@{}", encoder.name(), encoder.digest()))
    }
}

type Read = Result<One, (String, String)>;

/// Each thread reads and encodes its part; their order stays.
fn side_by_side(images: Vec<Image>, encoders: &Encoders, threads: usize) -> Vec<Read> {
    let size = images.len().div_ceil(threads);
    let mut images = images.into_iter();
    let mut parts = Vec::new();
    loop {
        let part: Vec<Image> = images.by_ref().take(size).collect();
        if part.is_empty() {
            break;
        }
        parts.push(part);
    }
    std::thread::scope(|scope| {
        let running: Vec<_> =
            parts.into_iter().map(|part| scope.spawn(|| together(part, encoders))).collect();
        let joined = running.into_iter().map(|part| part.join().expect("reading cannot fail"));
        joined.flatten().collect()
    })
}

/// One thread's images, encoded together.
fn together(images: Vec<Image>, encoders: &Encoders) -> Vec<Read> {
    let mut pictures = Vec::new();
    let mut read: Vec<Read> = Vec::new();
    for image in images {
        let place = image.place.clone();
        read.push(match one(image, encoders) {
            Ok((one, picture)) => {
                pictures.push(Arc::new(picture));
                Ok(one)
            }
            Err(why) => Err((place, why)),
        });
    }
    if let Some(encoder) = &encoders.image {
        let vectors = Picture::encode(&pictures, &**encoder, 0);
        for (one, vector) in read.iter_mut().flatten().zip(vectors) {
            one.vectors[0] = vector;
        }
    }
    if let Some(encoder) = &encoders.text {
        let with: Vec<&mut One> =
            read.iter_mut().flatten().filter(|one| one.caption.is_some()).collect();
        let texts: Vec<&str> = with.iter().filter_map(|one| one.caption.as_deref()).collect();
        let vectors = encoder.encode(&texts);
        for (one, vector) in with.into_iter().zip(vectors) {
            one.vectors[1] = vector;
        }
    }
    read
}

/// As decode reads a message, so that equal bytes give equal vectors.
fn one(mut image: Image, encoders: &Encoders) -> Result<(One, Picture), String> {
    let bytes = image.read()?;
    let decoded = decode::decode(&bytes, &Default::default()).map_err(|e| e.to_string())?;
    let none = Default::default();
    let views = [encoders.image.clone(), None];
    let seen = picture(bytes, decoded, StoreKind::Reference, none, None, &views);
    let one = One {
        image_id: image.name(),
        content_id: seen.content.content_id.clone(),
        width: seen.content.width,
        height: seen.content.height,
        caption: caption_text(image.caption.as_deref()).map(str::to_owned),
        vectors: [None, None],
    };
    Ok((one, seen))
}

/// A file that is whole, or not there.
struct Partial(PathBuf);

impl Partial {
    fn of(out: &Path) -> Partial {
        let mut name = out.as_os_str().to_owned();
        name.push(".partial");
        Partial(name.into())
    }

    fn becomes(&self, out: &Path) -> anyhow::Result<()> {
        fs::rename(&self.0, out).with_context(|| format!("write {}", out.display()))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Renamed, or of no use.
        let _ = fs::remove_file(&self.0);
    }
}

/// The Parquet file that is being written.
struct Out {
    writer: ArrowWriter<File>,
    schema: SchemaRef,
    dims: [Option<usize>; 2],
    rows: usize,
}

fn list_of(dim: usize) -> anyhow::Result<DataType> {
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    Ok(DataType::FixedSizeList(item, i32::try_from(dim).context("a dimension")?))
}

impl Out {
    fn create(path: &Path, encoders: &Encoders) -> anyhow::Result<Out> {
        let dims = [
            encoders.image.as_ref().map(|encoder| encoder.dim()),
            encoders.text.as_ref().map(|encoder| encoder.dim()),
        ];
        let mut fields = vec![
            Field::new("image_id", DataType::Utf8, false),
            Field::new("content_id", DataType::Utf8, false),
            Field::new("width", DataType::Int32, false),
            Field::new("height", DataType::Int32, false),
            Field::new("caption", DataType::Utf8, true),
        ];
        let ids = [encoders.image_id(), encoders.text_id()];
        for ((name, dim), id) in ["image_vector", "caption_vector"].into_iter().zip(dims).zip(ids) {
            let (Some(dim), Some(id)) = (dim, id) else { continue };
            let about = [("encoder".to_owned(), id)].into();
            fields.push(Field::new(name, list_of(dim)?, true).with_metadata(about));
        }
        let schema = Arc::new(Schema::new(fields));
        let level = ZstdLevel::try_new(1).context("a level of compression")?;
        let properties =
            WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties))?;
        Ok(Out { writer, schema, dims, rows: 0 })
    }

    fn write(&mut self, rows: &[One]) -> anyhow::Result<()> {
        let text =
            |of: fn(&One) -> &str| Arc::new(StringArray::from_iter_values(rows.iter().map(of)));
        let number =
            |of: fn(&One) -> i32| Arc::new(Int32Array::from_iter_values(rows.iter().map(of)));
        let captions: StringArray = rows.iter().map(|one| one.caption.as_deref()).collect();
        let mut columns: Vec<ArrayRef> = vec![
            text(|one| &one.image_id),
            text(|one| &one.content_id),
            number(|one| one.width),
            number(|one| one.height),
            Arc::new(captions),
        ];
        for (at, dim) in self.dims.into_iter().enumerate() {
            let Some(dim) = dim else { continue };
            columns.push(Arc::new(vectors(rows.iter().map(|one| &one.vectors[at]), dim)?));
        }
        self.writer.write(&RecordBatch::try_new(self.schema.clone(), columns)?)?;
        self.rows += rows.len();
        Ok(())
    }

    fn finish(self) -> anyhow::Result<usize> {
        self.writer.close().context("end the Parquet file")?;
        Ok(self.rows)
    }
}

/// A column of vectors of length one, null where there is none.
fn vectors<'a>(
    of: impl Iterator<Item = &'a Option<Box<[i16]>>>,
    dim: usize,
) -> anyhow::Result<FixedSizeListArray> {
    let (mut numbers, mut there) = (Vec::new(), Vec::new());
    for vector in of {
        there.push(vector.is_some());
        match vector {
            Some(vector) => numbers.extend(vector.iter().map(|x| f32::from(*x) / COMPONENT)),
            None => numbers.resize(numbers.len() + dim, 0.0),
        }
    }
    let DataType::FixedSizeList(item, size) = list_of(dim)? else { bail!("a list of numbers") };
    let (numbers, there) = (Arc::new(Float32Array::from(numbers)), NullBuffer::from(there));
    Ok(FixedSizeListArray::try_new(item, size, numbers, Some(there))?)
}
