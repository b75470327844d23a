//! Captions that a model wrote, as the tables have them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use anyhow::Context;
use arrow_array::{Array, cast::AsArray};
use operators::flow::{CAPTION, Captioned, CaptionerId};
use schemas::{
    ContentId, caption_text,
    tables::{ImageRow, Table},
};
use serde_json::Value;

use crate::dataset::Dataset;

const COLUMNS: [&str; 5] = ["request_id", "query_content_id", "task", "outcome", "description"];

/// What is known of the caption of an image that came without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// Its request has no outcome yet.
    Waits,
    /// It has none, and gets none: there is no captioner, or its request has ended without one.
    Without,
    /// This one.
    Is(Arc<str>),
}

/// What came of the requests of one captioner.
#[derive(Debug, Default)]
pub struct Captions {
    captioner: Option<CaptionerId>,
    written: HashMap<ContentId, Option<Arc<str>>>,
}

impl Captions {
    /// Those of an epoch; without a captioner there are none.
    ///
    /// # Errors
    /// The table `annotations` cannot be read.
    pub fn read(dataset: &Dataset, captioner: Option<CaptionerId>) -> anyhow::Result<Captions> {
        let mut written = HashMap::new();
        if let Some(captioner) = &captioner {
            each(dataset, |asked, outcome, text| {
                if let Some(said) = Captioned::read(captioner, asked, outcome, text) {
                    written.insert(said.content_id, said.caption);
                }
                Ok(())
            })?;
        }
        Ok(Captions { captioner, written })
    }

    /// Those by the captioner that an epoch's tables were made with.
    ///
    /// # Errors
    /// The table `annotations` cannot be read.
    pub fn in_force(dataset: &Dataset) -> anyhow::Result<Captions> {
        let rules = dataset.page().info.get("in_force");
        let captioner = rules.map_or(&Value::Null, |rules| &rules["captioner"]);
        let captioner = serde_json::from_value(captioner.clone()).context("who wrote captions")?;
        Captions::read(dataset, captioner)
    }

    /// Whose they are.
    pub fn captioner(&self) -> Option<&CaptionerId> {
        self.captioner.as_ref()
    }

    /// What is known of a content's caption.
    pub fn of(&self, content: &ContentId) -> Written {
        match self.written.get(content) {
            _ if self.captioner.is_none() => Written::Without,
            None => Written::Waits,
            Some(None) => Written::Without,
            Some(Some(text)) => Written::Is(text.clone()),
        }
    }

    /// The caption that counts for an image: its own, or the one that was written for its content.
    pub fn of_image(&self, row: &ImageRow) -> Option<Arc<str>> {
        self.counts(&row.content_id, row.caption.as_deref())
    }

    /// The same by an image's content and the caption that its message had.
    pub fn counts(&self, content_id: &str, own: Option<&str>) -> Option<Arc<str>> {
        if let Some(own) = caption_text(own) {
            return Some(own.into());
        }
        match self.of(&ContentId::parse(content_id)?) {
            Written::Is(text) => Some(text),
            Written::Waits | Written::Without => None,
        }
    }

    /// Whether an image came without a caption and may still get one.
    pub fn waits(&self, row: &ImageRow) -> bool {
        let lacks = caption_text(row.caption.as_deref()).is_none();
        let content = ContentId::parse(&row.content_id).filter(|_| lacks);
        content.is_some_and(|content| self.of(&content) == Written::Waits)
    }

    /// Puts the one that was written where a row has none of its own. True where it did.
    pub fn fill(&self, row: &mut ImageRow) -> bool {
        let lacks = caption_text(row.caption.as_deref()).is_none();
        let written = self.of_image(row).filter(|_| lacks);
        let is = written.is_some();
        if is {
            row.caption = written.as_deref().map(str::to_owned);
        }
        is
    }
}

/// Every caption that a model wrote for a content, whichever model it was.
///
/// # Errors
/// The table `annotations` cannot be read.
pub fn all_written(dataset: &Dataset) -> anyhow::Result<Vec<(ContentId, String)>> {
    let mut all = Vec::new();
    each(dataset, |(_, content), outcome, text| {
        if outcome == "ok"
            && let Some(text) = caption_text(text)
        {
            let content = ContentId::parse(content).context("a content id is no sha256")?;
            all.push((content, text.to_owned()));
        }
        Ok(())
    })?;
    Ok(all)
}

/// Request and content, outcome and text of every row that is about a caption.
fn each(
    dataset: &Dataset,
    mut see: impl FnMut((&str, &str), &str, Option<&str>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for batch in dataset.table(Table::Annotations)?.scan(Some(&COLUMNS))? {
        let batch = batch?;
        let column = |name: &str| {
            let column = batch.column_by_name(name).and_then(|c| c.as_string_opt::<i32>());
            column.with_context(|| format!("annotations: no texts in {name}"))
        };
        let at = COLUMNS.map(|name| (name, column(name)));
        let at: BTreeMap<&str, _> =
            at.into_iter().map(|(name, c)| Ok((name, c?))).collect::<anyhow::Result<_>>()?;
        for row in (0..batch.num_rows()).filter(|row| at["task"].value(*row) == CAPTION) {
            let texts = at["description"];
            let text = texts.is_valid(row).then(|| texts.value(row));
            let asked = (at["request_id"].value(row), at["query_content_id"].value(row));
            see(asked, at["outcome"].value(row), text)?;
        }
    }
    Ok(())
}
