//! Captions that a model wrote, as the tables have them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use anyhow::Context;
use arrow_array::{Array, cast::AsArray, types::Int64Type};
use operators::flow::{CAPTION, Captioned, CaptionerId};
use schemas::{
    ContentId, Epoch, caption_text,
    tables::{ImageRow, Table},
};
use serde_json::{Map, Value};

use crate::{dataset::Dataset, delta};

const TEXTS: [&str; 5] = ["request_id", "query_content_id", "task", "outcome", "description"];
const COLUMNS: [&str; 6] = [TEXTS[0], TEXTS[1], TEXTS[2], TEXTS[3], TEXTS[4], "epoch"];

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
            let table = dataset.table(Table::Annotations)?;
            each(&table, None, |asked, outcome, text| {
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
        Captions::read(dataset, captioner_in(&dataset.page().info)?)
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

/// Who writes captions under the rules that a page names; none if nobody does.
///
/// # Errors
/// They name somebody in another form.
pub fn captioner_in(info: &Map<String, Value>) -> anyhow::Result<Option<CaptionerId>> {
    let rules = info.get("in_force");
    let captioner = rules.map_or(&Value::Null, |rules| &rules["captioner"]);
    serde_json::from_value(captioner.clone()).context("who wrote captions")
}

/// Contents for which a captioner wrote a caption in the epochs after one.
///
/// # Errors
/// The table cannot be read.
pub fn written_after(
    annotations: &delta::Table,
    epoch: Epoch,
    captioner: &CaptionerId,
) -> anyhow::Result<BTreeSet<ContentId>> {
    let mut found = BTreeSet::new();
    each(annotations, Some(epoch), |asked, outcome, text| {
        let said = Captioned::read(captioner, asked, outcome, text);
        found.extend(said.filter(|said| said.caption.is_some()).map(|said| said.content_id));
        Ok(())
    })?;
    Ok(found)
}

/// Every caption that a model wrote for a content, whichever model it was.
///
/// # Errors
/// The table `annotations` cannot be read.
pub fn all_written(dataset: &Dataset) -> anyhow::Result<Vec<(ContentId, String)>> {
    let mut all = Vec::new();
    each(&dataset.table(Table::Annotations)?, None, |(_, content), outcome, text| {
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

/// Request and content, outcome and text of every row that is about a caption, of all epochs or of
/// those after one.
fn each(
    annotations: &delta::Table,
    after: Option<Epoch>,
    mut see: impl FnMut((&str, &str), &str, Option<&str>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for batch in annotations.scan_after(after, Some(&COLUMNS))? {
        let batch = batch?;
        let column = |name: &str| {
            let column = batch.column_by_name(name).and_then(|c| c.as_string_opt::<i32>());
            column.with_context(|| format!("annotations: no texts in {name}"))
        };
        let at = TEXTS.map(|name| (name, column(name)));
        let at: BTreeMap<&str, _> =
            at.into_iter().map(|(name, c)| Ok((name, c?))).collect::<anyhow::Result<_>>()?;
        let epochs = batch.column_by_name("epoch").and_then(|c| c.as_primitive_opt::<Int64Type>());
        let epochs = epochs.context("annotations: no numbers in epoch")?;
        let newer = |row: &usize| {
            after.is_none_or(|after| u64::try_from(epochs.value(*row)).is_ok_and(|at| at > after))
        };
        let captions = (0..batch.num_rows()).filter(|row| at["task"].value(*row) == CAPTION);
        for row in captions.filter(newer) {
            let texts = at["description"];
            let text = texts.is_valid(row).then(|| texts.value(row));
            let asked = (at["request_id"].value(row), at["query_content_id"].value(row));
            see(asked, at["outcome"].value(row), text)?;
        }
    }
    Ok(())
}
