//! Audit: whether an instruction needs its image, and the image its instruction.
//!
//! A target is ranked among images of the corpus, by the text alone, by the query image alone, and by
//! both. A text that finds the target by itself describes it whole; an image that does leaves the text
//! nothing to add. Up to 84 % of the queries of public benchmarks are of these kinds (CIRCUS,
//! arXiv 2605.14787), and a retriever that is trained on them learns to look at one half.
//!
//! Ranked are all images of a *gallery*: those that were retrieved for the query, which are the hardest
//! to tell from the target, and a sample of the corpus, the same for all. Scores are those of a joint
//! encoder, whose image half is a channel's; by both is by the sum of both unit vectors, the plain
//! "image + text" that composed retrieval is measured against (Pic2Word, arXiv 2302.03084).
//!
//! It runs on a thread of its own, before an answer enters the dataflow: what it says is part of the
//! row that is stored (I8), so it stays what it was when the corpus has grown.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    thread::JoinHandle,
};

use anyhow::{Context, bail};
use kernels::{encoders::TextEncoder, vector};
use operators::{
    embed::Encoders,
    flow::{TASK, Version},
    neighbors::VectorBook,
};
use schemas::{
    Channel, Epoch,
    config::{self, Config, Label},
    limits,
    tables::{self, AnnotationRow},
};

use crate::encoders;

/// A row, and what it is about.
pub struct Question {
    /// The outcome of a request.
    pub row: AnnotationRow,
    /// Query and target, as long as both are mined.
    pub images: Option<[Arc<str>; 2]>,
    /// What was retrieved for the query: targets and hard negatives.
    pub retrieved: Vec<Arc<str>>,
    /// An epoch that is committed.
    pub epoch: Epoch,
}

/// What ranks need.
pub struct Auditor {
    texts: Arc<dyn TextEncoder>,
    channel: Channel,
    gallery: usize,
    found_within: u32,
    book: Arc<VectorBook>,
}

impl Auditor {
    /// By the config; none where nothing is audited.
    ///
    /// # Errors
    /// There is no such encoder of texts, or its vectors cannot be those of the channel.
    pub fn of(
        config: &Config,
        images: &Encoders,
        book: &Arc<VectorBook>,
    ) -> anyhow::Result<Option<Auditor>> {
        let config::Audit { text_encoder, channel, gallery, found_within } = &config.audit;
        let Some(name) = text_encoder else { return Ok(None) };
        let texts = encoders::text_named(name).context("[audit] text_encoder")?;
        let at = channel.index();
        let dim = images.given[at].or(images.image[at].as_ref().map(|encoder| encoder.dim()));
        if dim != Some(texts.dim()) {
            bail!(
                "[audit] text_encoder = {name:?} gives {} components, the encoder of \
                 [channels.{}] {}: they are no two halves of one encoder",
                texts.dim(),
                channel.as_str(),
                dim.unwrap_or(0)
            );
        }
        let (channel, gallery, found_within) = (*channel, *gallery, *found_within);
        Ok(Some(Auditor { texts, channel, gallery, found_within, book: book.clone() }))
    }

    /// What the tables say of it.
    pub fn in_force(&self) -> serde_json::Value {
        serde_json::json!({
            "text_encoder": format!("{}@{}", self.texts.name(), self.texts.digest()),
            "channel": self.channel.as_str(),
            "gallery": self.gallery,
            "found_within": self.found_within,
        })
    }

    /// One audit for each instruction of the row.
    fn audit(&self, question: &Question, sample: &[Arc<Version>]) -> Vec<tables::Audit> {
        let row = &question.row;
        let unresolved = || vec![unaudited(); row.instructions.len()];
        let Some([query_id, target_id]) = &question.images else { return unresolved() };
        let at = self.channel.index();
        let live = |id: &Arc<str>| self.book.live_at(id, question.epoch);
        let vector = |id| live(id).and_then(|version| version.vectors[at].clone());
        let (Some(query), Some(target)) = (vector(query_id), vector(target_id)) else {
            return unresolved();
        };
        let mut seen = HashSet::from([query_id.clone(), target_id.clone()]);
        let retrieved = question.retrieved.iter().filter_map(live);
        let gallery: Vec<(Arc<str>, Arc<[i16]>)> = retrieved
            .chain(sample.iter().cloned())
            .filter(|version| seen.insert(version.image_id.clone()))
            .filter_map(|version| Some((version.image_id.clone(), version.vectors[at].clone()?)))
            .collect();
        let texts: Vec<&str> = row.instructions.iter().map(String::as_str).collect();
        let texts = self.texts.encode(&texts).into_iter();
        let ranked = texts.map(|text| {
            let text = text?;
            Some(ranks(&text, &query, (target_id, &target), &gallery))
        });
        let images = gallery.len() + 1;
        ranked.map(|ranks| ranks.map_or_else(unaudited, |it| self.label(it, images))).collect()
    }

    /// Of ranks by text, by image and by both, among so many images.
    fn label(&self, [text, image, both]: [u32; 3], images: usize) -> tables::Audit {
        let found = |rank| rank <= self.found_within;
        let label = match (found(text), found(image), found(both)) {
            _ if images < self.found_within as usize * limits::AUDIT_CHANCE => Label::Unresolved,
            (true, _, _) => Label::ShortcutText,
            (false, true, _) => Label::ShortcutImage,
            (false, false, true) => Label::CompositionRequired,
            (false, false, false) => Label::Unresolved,
        };
        let rank = |rank: u32| i32::try_from(rank).ok();
        tables::Audit {
            label: label.as_str().to_owned(),
            rank_text: rank(text),
            rank_image: rank(image),
            rank_both: rank(both),
            verdict: None,
        }
    }
}

/// The audit of an instruction of which nothing is known.
pub fn unaudited() -> tables::Audit {
    let label = Label::Unresolved.as_str().to_owned();
    tables::Audit { label, rank_text: None, rank_image: None, rank_both: None, verdict: None }
}

/// Ranks of the target from 1, by text, by the query image and by the sum of both: one more than there
/// are images with a higher score, or with the same one and a smaller id.
fn ranks(
    text: &[i16],
    query: &[i16],
    (target_id, target): (&Arc<str>, &[i16]),
    gallery: &[(Arc<str>, Arc<[i16]>)],
) -> [u32; 3] {
    let scores = |image: &[i16]| {
        let [text, image] = [text, query].map(|by| i64::from(vector::dot(by, image)));
        [text, image, text + image]
    };
    let of_target = scores(target);
    let mut ranks = [1; 3];
    for (image_id, image) in gallery {
        let of_image = scores(image);
        for (rank, (image, target)) in ranks.iter_mut().zip(of_image.into_iter().zip(of_target)) {
            *rank += u32::from((image, target_id) > (target, image_id));
        }
    }
    ranks
}

/// An auditor at work, on a thread of its own.
pub struct Auditing {
    questions: Option<Sender<Question>>,
    answers: Receiver<AnnotationRow>,
    thread: Option<JoinHandle<()>>,
}

impl Auditing {
    /// Starts the thread.
    ///
    /// # Errors
    /// There is no room for one more.
    pub fn start(auditor: Auditor) -> anyhow::Result<Auditing> {
        let (questions, asked) = mpsc::channel::<Question>();
        let (told, answers) = mpsc::channel();
        let work = move || {
            let mut sample: (Epoch, Vec<Arc<Version>>) = (0, Vec::new());
            for mut question in asked {
                if question.row.task == TASK && !question.row.instructions.is_empty() {
                    if sample.0 != question.epoch {
                        let epoch = question.epoch;
                        sample = (epoch, auditor.book.sample(epoch, auditor.gallery));
                    }
                    let audits = auditor.audit(&question, &sample.1);
                    for (held, audit) in question.row.audits.iter_mut().zip(audits) {
                        *held = tables::Audit { verdict: held.verdict.take(), ..audit };
                    }
                }
                if told.send(question.row).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("audit".into());
        let thread = thread.spawn(work).context("start the thread that audits")?;
        Ok(Auditing { questions: Some(questions), answers, thread: Some(thread) })
    }

    /// Hands over an outcome.
    pub fn give(&self, question: Question) {
        if let Some(questions) = &self.questions {
            // It ends only with this.
            let _ = questions.send(question);
        }
    }

    /// What is audited since the last call.
    pub fn take(&self) -> Vec<AnnotationRow> {
        self.answers.try_iter().collect()
    }
}

impl Drop for Auditing {
    fn drop(&mut self) {
        // What is left was written down, and is audited by the next run.
        let (_, nobody) = mpsc::channel();
        (self.questions, self.answers) = (None, nobody);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
