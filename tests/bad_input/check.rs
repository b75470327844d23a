//! What the tables say of each message.

use std::{collections::HashMap, path::Path};

use everpair::{
    cli::read_config,
    dataset::{At, Dataset},
    service::open_store,
};
use kernels::decode::{Limits, decode};
use schemas::tables::{ContentRow, ImageRow, RejectRow};

use super::{
    cases::{CONFIG, Case, Want, cases},
    files::{file, picture},
};

/// The config, with this `[source]`.
pub fn config(source: &str) -> String {
    format!("{source}[tables]\nroot = \"tables\"\n{CONFIG}[epoch]\nrows = 40\nlinger = \"50 ms\"\n")
}

/// All cases, and a good image after every fifth.
pub fn stream(folder: &Path) -> Vec<Case> {
    let mut stream = Vec::new();
    for (index, case) in cases(folder).into_iter().enumerate() {
        stream.push(case);
        if index % 5 == 4 {
            let name = format!("good {index}");
            let side = 20 + index as u32;
            let image = picture(side, side);
            stream.push(Case {
                key: Some(name.clone().into_bytes()),
                value: Some(file(image.clone(), image::ImageFormat::Png)),
                headers: Vec::new(),
                want: Want::Live(image),
                name,
            });
        }
    }
    stream
}

/// `images` and `rejects` by offset.
pub fn tables(config: &Path) -> (Vec<ImageRow>, Vec<RejectRow>) {
    let dataset = dataset(config);
    let mut images = dataset.rows::<ImageRow>().expect("rows");
    let mut rejects = dataset.rows::<RejectRow>().expect("rows");
    rejects.retain(|row| row.offset.is_some());
    images.sort_by_key(|row| row.offset);
    rejects.sort_by_key(|row| row.offset);
    (images, rejects)
}

fn dataset(config: &Path) -> Dataset {
    let config = read_config(config).expect("a config");
    let store = open_store(&config).expect("tables");
    Dataset::open(&store, &At::Latest).expect("a committed epoch")
}

/// Every message is where it must be; `cases` are in the order of their offsets.
pub fn check(config: &Path, cases: &[&Case]) {
    let (images, rejects) = tables(config);
    let contents = dataset(config).rows::<ContentRow>().expect("rows");
    let contents: HashMap<String, ContentRow> =
        contents.into_iter().map(|row| (row.content_id.clone(), row)).collect();
    let images: HashMap<i64, ImageRow> = images.into_iter().map(|row| (row.offset, row)).collect();
    let mut turned_away: HashMap<i64, RejectRow> = HashMap::new();
    for row in rejects {
        let offset = row.offset.expect("kept for it");
        assert_eq!(turned_away.insert(offset, row), None, "{offset} is turned away once");
    }
    let mut wrong = Vec::new();
    for (offset, case) in (0_i64..).zip(cases) {
        let (image, reject) = (images.get(&offset), turned_away.get(&offset));
        if let Err(why) = judge(case, image, reject, &contents) {
            wrong.push(format!("{}: {why}\n   {image:?}\n   {reject:?}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert_eq!(images.len() + turned_away.len(), cases.len());
}

fn judge(
    case: &Case,
    image: Option<&ImageRow>,
    reject: Option<&RejectRow>,
    contents: &HashMap<String, ContentRow>,
) -> Result<(), String> {
    let key = case.key.as_ref().and_then(|key| std::str::from_utf8(key).ok());
    match (&case.want, image, reject) {
        (Want::Rejected(reason, words), None, Some(row)) => {
            if (row.reason.as_str(), row.stage.as_str())
                != (reason.as_str(), reason.stage().as_str())
            {
                return Err(format!("wanted {}", reason.as_str()));
            }
            if row.image_id.as_deref().is_some_and(|id| Some(id) != key) {
                return Err("another id".into());
            }
            match words.iter().find(|word| !row.detail.contains(*word)) {
                Some(word) => Err(format!("the detail does not say {word:?}")),
                None => Ok(()),
            }
        }
        (Want::Size(width, height), Some(row), None) => {
            let content = &contents[&row.content_id];
            match (content.width as u32, content.height as u32) == (*width, *height) {
                true if Some(row.image_id.as_str()) == key => Ok(()),
                true => Err("another id".into()),
                false => Err(format!("is {} x {}", content.width, content.height)),
            }
        }
        (Want::Live(wanted), Some(row), None) => near(&contents[&row.content_id], wanted),
        _ => Err("is not where it must be".into()),
    }
}

/// The stored copy is a JPEG: near is what it can be.
fn near(content: &ContentRow, wanted: &image::RgbImage) -> Result<(), String> {
    let size = (content.width as u32, content.height as u32);
    if size != wanted.dimensions() {
        return Err(format!("is {size:?}, wanted {:?}", wanted.dimensions()));
    }
    let stored = content.image.bytes.as_deref().ok_or("has no stored copy")?;
    let stored = decode(stored, &Limits::default()).map_err(|e| e.to_string())?.pixels;
    let differences = stored.rgb.iter().zip(wanted.as_raw()).map(|(a, b)| a.abs_diff(*b));
    let sum: u64 = differences.map(u64::from).sum();
    let mean = sum as f64 / stored.rgb.len() as f64;
    if mean > 8.0 { Err(format!("differs by {mean:.1} on average")) } else { Ok(()) }
}
