//! What a gallery shows, read from the tables of one epoch.

use std::collections::{BTreeMap, BTreeSet};

use schemas::{
    config::{Config, Filter},
    reject::Reason,
    tables::{self, AnnotationRow, ContentRow, ImageRow, RejectRow, Table, TripletRow},
};

use super::{GalleryRow, Instruction, LeftOut, Picture};
use crate::{
    captions::Captions,
    dataset::Dataset,
    delta,
    explain::{
        self,
        answers::{self, Answers},
    },
};

/// How much of each is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    /// Triplets.
    pub triplets: usize,
    /// Answers that made none.
    pub turned_away: usize,
}

/// What an epoch has to show.
#[derive(Debug, Default)]
pub struct Shown {
    /// Some triplets.
    pub triplets: Vec<GalleryRow>,
    /// Answers too few of whose instructions were fit.
    pub turned_away: Vec<GalleryRow>,
    /// All triplets there are.
    pub triplets_count: usize,
    /// All rejects there are.
    pub rejects: Vec<RejectRow>,
}

/// Reads it; `images` are the live ones.
///
/// # Errors
/// A table cannot be read.
pub fn read(
    dataset: &Dataset,
    config: &Config,
    images: &[ImageRow],
    most: Most,
) -> anyhow::Result<Shown> {
    let captions = Captions::in_force(dataset)?;
    let mut images = images.to_vec();
    let written =
        images.iter_mut().filter_map(|row| captions.fill(row).then(|| row.image_id.clone()));
    let written: BTreeSet<String> = written.collect();
    let images = &images;
    let triplets: Vec<TripletRow> = dataset.rows()?;
    let rejects: Vec<RejectRow> = dataset.rows()?;
    let chosen = choose(&triplets, most.triplets);
    let by_id: BTreeMap<&str, &ImageRow> =
        images.iter().map(|row| (row.image_id.as_str(), row)).collect();
    let mut mined: BTreeMap<&str, &ImageRow> = BTreeMap::new();
    for row in by_id.values().rev() {
        // The bytewise smallest id comes last, and stays.
        mined.insert(&row.content_id, row);
    }
    let unfit = turned_away(dataset, &rejects, &mined, most.turned_away)?;
    let mut wanted: BTreeSet<&str> = BTreeSet::new();
    let mut about: BTreeSet<&str> = BTreeSet::new();
    for row in &chosen {
        about.extend([row.query_content_id.as_str(), &row.target_content_id]);
        let negatives = row.hard_negatives.iter().filter_map(|id| by_id.get(id.as_str()));
        wanted.extend(negatives.map(|row| row.content_id.as_str()));
    }
    for row in &unfit {
        about.extend([row.query_content_id.as_str(), &row.target_content_id]);
    }
    wanted.extend(&about);
    let album = Album {
        bytes: stored(&dataset.table(Table::Contents)?, &wanted)?,
        answers: Answers::about(dataset, &about)?,
        rules: explain::rules(
            dataset.page().info.get("in_force").unwrap_or(&serde_json::Value::Null),
            config,
        ),
        by_id,
        written,
    };
    Ok(Shown {
        triplets: chosen.into_iter().map(|row| album.triplet(row)).collect(),
        turned_away: unfit.iter().map(|row| album.turned_away(row, &mined)).collect(),
        triplets_count: triplets.len(),
        rejects,
    })
}

/// Answers with too few fit instructions whose images are live, in order of their ids.
fn turned_away(
    dataset: &Dataset,
    rejects: &[RejectRow],
    mined: &BTreeMap<&str, &ImageRow>,
    most: usize,
) -> anyhow::Result<Vec<AnnotationRow>> {
    let too_few = Reason::TooFewInstructions.as_str();
    let ids: BTreeSet<&str> = rejects
        .iter()
        .filter(|row| row.reason == too_few)
        .filter_map(|row| row.request_id.as_deref())
        .collect();
    if most == 0 || ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut rows: Vec<AnnotationRow> =
        explain::rows(dataset, "request_id", &|id| ids.contains(id))?;
    rows.retain(|row| {
        let live = |content: &String| mined.contains_key(content.as_str());
        row.outcome == "ok" && live(&row.query_content_id) && live(&row.target_content_id)
    });
    rows.sort_by(|a, b| a.request_id.cmp(&b.request_id));
    rows.truncate(most);
    Ok(rows)
}

/// Triplets that several channels propose come first, and no query or target twice.
fn choose(triplets: &[TripletRow], most: usize) -> Vec<&TripletRow> {
    let mut sorted: Vec<&TripletRow> = triplets.iter().collect();
    sorted.sort_by_key(|row| (std::cmp::Reverse(row.channels.len()), &row.triplet_id));
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut chosen = Vec::new();
    for row in sorted {
        if chosen.len() == most {
            break;
        }
        if !seen.contains(row.query_id.as_str()) && !seen.contains(row.target_id.as_str()) {
            seen.extend([row.query_id.as_str(), row.target_id.as_str()]);
            chosen.push(row);
        }
    }
    chosen
}

fn stored(
    contents: &delta::Table,
    wanted: &BTreeSet<&str>,
) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut bytes = BTreeMap::new();
    for batch in contents.scan(None)? {
        for row in tables::from_batch::<ContentRow>(&batch?)? {
            if let (true, Some(image)) = (wanted.contains(row.content_id.as_str()), row.image.bytes)
            {
                bytes.insert(row.content_id, image);
            }
        }
    }
    Ok(bytes)
}

/// What the rows of a page are put together from.
struct Album<'a> {
    by_id: BTreeMap<&'a str, &'a ImageRow>,
    /// Images whose caption a model wrote.
    written: BTreeSet<String>,
    bytes: BTreeMap<String, Vec<u8>>,
    answers: Answers,
    rules: Filter,
}

impl Album<'_> {
    fn picture(&self, id: &str) -> Picture {
        let row = self.by_id.get(id);
        let bytes = row.and_then(|row| self.bytes.get(row.content_id.as_str()));
        Picture {
            id: id.to_owned(),
            caption: row.and_then(|row| row.caption.clone()),
            written: self.written.contains(id),
            bytes: bytes.cloned().unwrap_or_default(),
        }
    }

    fn triplet(&self, row: &TripletRow) -> GalleryRow {
        let target = self.picture(&row.target_id);
        let audits = row.instructions.iter().zip(&row.audits);
        let instructions = audits.map(|(text, audit)| Instruction {
            text: text.clone(),
            label: audit.label.clone(),
            ranks: [audit.rank_text, audit.rank_image, audit.rank_both],
            verdict: audit.verdict.clone(),
        });
        let answer = self.answers.of_request(&row.request_id);
        let left_out = answer.map(|answer| {
            let caption = target.caption.as_deref();
            left_out(answers::left_out(answer, caption, &row.instructions, &self.rules))
        });
        GalleryRow {
            query: self.picture(&row.query_id),
            instructions: instructions.collect(),
            left_out: left_out.unwrap_or_default(),
            why_none: None,
            negatives: row.hard_negatives.iter().skip(1).map(|id| self.picture(id)).collect(),
            scores: vec![
                ("semantic".into(), row.scores.semantic),
                ("pattern".into(), row.scores.pattern),
                ("caption".into(), row.scores.caption),
            ],
            proposed_by: row.channels.clone(),
            description: row.description.clone(),
            model: row.model.clone(),
            prompt_version: row.prompt_version,
            cost_usd: answer.and_then(|answer| self.answers.cost(answer)),
            target,
        }
    }

    fn turned_away(&self, row: &AnnotationRow, mined: &BTreeMap<&str, &ImageRow>) -> GalleryRow {
        let picture = |content: &String| {
            let id = mined.get(content.as_str()).map(|row| row.image_id.as_str());
            self.picture(id.unwrap_or_default())
        };
        let target = picture(&row.target_content_id);
        let caption = target.caption.as_deref();
        let hidden = answers::left_out(row, caption, &row.instructions, &self.rules);
        let fit = |text: &&String| hidden.iter().all(|one| one.text != **text);
        let instructions = row
            .instructions
            .iter()
            .filter(fit)
            .map(|text| Instruction { text: text.clone(), ..Instruction::default() });
        GalleryRow {
            query: picture(&row.query_content_id),
            instructions: instructions.collect(),
            why_none: Some(answers::why_none(Some(row), caption, &self.rules)),
            negatives: Vec::new(),
            scores: Vec::new(),
            proposed_by: Vec::new(),
            description: row.description.clone(),
            model: row.model.clone(),
            prompt_version: row.prompt_version,
            cost_usd: self.answers.cost(row),
            left_out: left_out(hidden),
            target,
        }
    }
}

fn left_out(hidden: Vec<answers::LeftOut>) -> Vec<LeftOut> {
    let each = hidden.into_iter().map(|one| match one.why {
        Some((reason, detail)) => {
            LeftOut { text: one.text, reason: reason.as_str().into(), detail }
        }
        None => LeftOut { text: one.text, reason: String::new(), detail: String::new() },
    });
    each.collect()
}
