//! A blind judge: whether an instruction leads to its target.
//!
//! Another model than that which wrote sees the query, and the target among the pair's hard negatives:
//! images that were retrieved for the query and are not too like the target. Which of them it is nobody
//! says, nor what was written of them. It chooses one, or none, and once more with the images in another
//! order: models of vision and language prefer places (Large Language Models are not Fair Evaluators,
//! arXiv 2305.17926). Each instruction is shown alone: beside a good one, a vague one would be taken for
//! as good.
//!
//! Which images these are, and their orders, the request draws. An answer is judged before it enters and
//! stays so, as with the audit by ranks; what that costs is in its row. Each look is written down with
//! the answer that waits, so that a kill loses only those in flight.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use operators::flow::Request;
use schemas::{ContentId, config::Verdict, tables::AnnotationRow};
use serde::{Deserialize, Serialize};

use super::{
    money::{Nanos, usd},
    prompts::Dice,
};

/// What tries of a request have cost, and the tokens that they have read and written.
pub(super) type Took = (Nanos, Option<u64>, Option<u64>);

/// Looks that an answer takes about: four instructions, each twice.
pub const LOOKS: u64 = 8;

/// An answer that is to be judged.
#[derive(Clone, Debug)]
pub struct Unjudged {
    /// What was asked.
    pub request: Request,
    /// The answer, which is written down.
    pub row: AnnotationRow,
    /// The pair's hard negatives, by their ids.
    pub negatives: Vec<Arc<str>>,
}

/// What is written down of an answer that is being judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    orders: [Vec<String>; 2],
    looks: Vec<Option<bool>>,
    /// What the looks have cost, USD.
    pub cost_usd: f64,
    /// Tokens that they have read.
    pub read: Option<u64>,
    /// Tokens that they have written.
    pub written: Option<u64>,
}

/// An answer that is being judged: what is shown, and what was said so far.
#[derive(Debug)]
pub(super) struct Sitting {
    row: AnnotationRow,
    query: ContentId,
    target: ContentId,
    /// The target and the others, in the order of each look.
    orders: [Vec<ContentId>; 2],
    /// Whether it chose the target, of all instructions in the first order, then in the second; none
    /// where it gave no answer.
    looks: Vec<Option<bool>>,
}

/// One look: an instruction, and what is shown in which order.
pub(super) struct Look<'a> {
    /// Tells it from the others of the answer.
    pub id: String,
    /// The query's content.
    pub query: ContentId,
    /// Candidates.
    pub shown: &'a [ContentId],
    /// What is asked.
    pub instruction: &'a str,
}

impl Sitting {
    /// With so many images beside the target at most; the row as it came where there is none.
    pub fn new(
        unjudged: Unjudged,
        contents: &HashMap<Arc<str>, ContentId>,
        negatives: usize,
    ) -> Result<Sitting, Box<AnnotationRow>> {
        let Unjudged { request, row, negatives: ids } = unjudged;
        let (query, target) = (request.query.0, request.target.0);
        let drawn = |purpose: &str, content: &ContentId| {
            Dice::of(&row.request_id, &format!("{purpose} {}", content.hex())).number(0)
        };
        let mut seen = HashSet::from([query, target]);
        let others = ids.iter().filter_map(|id| contents.get(id).copied());
        let mut shown: Vec<ContentId> = others.filter(|content| seen.insert(*content)).collect();
        shown.sort_by_key(|content| drawn("negative", content));
        shown.truncate(negatives);
        if shown.is_empty() || row.instructions.is_empty() {
            return Err(Box::new(row));
        }
        shown.push(target);
        let mut orders = ["first look", "second look"].map(|look| {
            let mut order = shown.clone();
            order.sort_by_key(|content| drawn(look, content));
            order
        });
        // Twice in one place it would be found twice by who always names that.
        let [first, second] =
            orders.each_ref().map(|order| order.iter().position(|c| *c == target));
        if first == second {
            orders[1].rotate_left(1);
        }
        Ok(Sitting { row, query, target, orders, looks: Vec::new() })
    }

    /// Goes on from what was written down, if all that was shown then is still `there`.
    pub fn resume(&mut self, progress: &Progress, there: &HashSet<ContentId>) -> bool {
        let parse = |order: &Vec<String>| -> Option<Vec<ContentId>> {
            let order: Option<Vec<_>> = order.iter().map(|hex| ContentId::parse(hex)).collect();
            let shown = |content: &ContentId| *content == self.target || there.contains(content);
            order.filter(|order| order.contains(&self.target) && order.iter().all(shown))
        };
        let [Some(first), Some(second)] = progress.orders.each_ref().map(parse) else {
            return false;
        };
        if progress.looks.len() > 2 * self.row.instructions.len() {
            return false;
        }
        (self.orders, self.looks) = ([first, second], progress.looks.clone());
        true
    }

    /// What is to be written down, and the row with it.
    pub fn progress(&self, (cost, read, written): Took) -> (AnnotationRow, Progress) {
        let orders = self.orders.each_ref().map(|order| order.iter().map(ContentId::hex).collect());
        let (looks, cost_usd) = (self.looks.clone(), usd(cost));
        (self.row.clone(), Progress { orders, looks, cost_usd, read, written })
    }

    /// Whether it is shown one of these.
    pub fn shows(&self, contents: &HashSet<ContentId>) -> bool {
        self.orders[0].iter().any(|content| contents.contains(content))
    }

    /// The answer's request.
    pub fn id(&self) -> &str {
        &self.row.request_id
    }

    /// What is asked next; none if all was.
    pub fn next(&self) -> Option<Look<'_>> {
        let (at, instructions) = (self.looks.len(), &self.row.instructions);
        let shown = self.orders.get(at / instructions.len())?;
        let id = format!("{} look {at}", self.row.request_id);
        let instruction = &instructions[at % instructions.len()];
        Some(Look { id, query: self.query, shown, instruction })
    }

    /// What it has chosen: a number from 1, 0 for none of them; no number where it gave no answer.
    pub fn looked(&mut self, picture: Option<u64>) {
        let found = self.next().and_then(|look| match usize::try_from(picture?).ok()? {
            0 => Some(false),
            n => look.shown.get(n - 1).map(|content| *content == self.target),
        });
        self.looks.push(found);
        // Beside a look without an answer the other one says nothing.
        let count = self.row.instructions.len();
        while self.looks.len() >= count
            && self.looks.get(self.looks.len() - count) == Some(&None)
            && self.looks.len() < 2 * count
        {
            self.looks.push(None);
        }
    }

    /// The row with a verdict for each instruction that was looked at twice.
    pub fn end(self) -> AnnotationRow {
        let Sitting { mut row, looks, .. } = self;
        let count = row.instructions.len();
        let look = |at: usize| looks.get(at).copied().flatten();
        for (at, audit) in row.audits.iter_mut().enumerate() {
            let both = look(at).zip(look(count + at));
            let verdict = both.map(|found| match found {
                (true, true) => Verdict::Target,
                (false, false) => Verdict::Other,
                _ => Verdict::Split,
            });
            audit.verdict = verdict.map(|verdict| verdict.as_str().to_owned());
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use operators::flow::{TASK, Task};

    use super::*;
    use crate::annotator::audit::unaudited;

    fn content(n: u8) -> ContentId {
        ContentId([n; 32])
    }

    /// An answer with three instructions; the query is content 0, the target 1.
    fn unjudged(id: &str, negatives: &[u8]) -> (Unjudged, HashMap<Arc<str>, ContentId>) {
        let name = |n: &u8| -> Arc<str> { n.to_string().into() };
        let request = Request {
            request_id: id.into(),
            task: Task::Instruct,
            query: (content(0), None),
            target: (content(1), None),
            images: [name(&0), name(&1)],
        };
        let row = AnnotationRow {
            request_id: id.into(),
            query_content_id: content(0).hex(),
            target_content_id: content(1).hex(),
            task: TASK.into(),
            model: "m".into(),
            prompt_version: 1,
            outcome: "ok".into(),
            description: None,
            instructions: ["a", "b", "c"].map(String::from).to_vec(),
            audits: vec![unaudited(); 3],
            prompt_tokens: None,
            completion_tokens: None,
            cost_usd: None,
            created_at: 0,
            epoch: 0,
        };
        let contents = negatives.iter().map(|n| (name(n), content(*n))).collect();
        let negatives = negatives.iter().map(name).collect();
        (Unjudged { request, row, negatives }, contents)
    }

    fn sitting(id: &str, retrieved: &[u8], negatives: usize) -> Option<Sitting> {
        let (unjudged, contents) = unjudged(id, retrieved);
        Sitting::new(unjudged, &contents, negatives).ok()
    }

    #[test]
    fn the_target_is_shown_once_among_others_and_never_twice_in_one_place() {
        let mut places = [0; 4];
        for n in 0..400 {
            let sitting = sitting(&n.to_string(), &[0, 1, 2, 3, 4, 5, 5, 6], 3).expect("others");
            let [first, second] = &sitting.orders;
            let of = |order: &Vec<ContentId>| {
                let set: HashSet<ContentId> = order.iter().copied().collect();
                assert!(set.len() == 4 && order.len() == 4 && !set.contains(&content(0)));
                (order.iter().position(|one| *one == content(1)).expect("the target"), set)
            };
            let ((first, set), (second, same)) = (of(first), of(second));
            assert!(first != second && set == same);
            places[first] += 1;
        }
        assert!(places.iter().all(|count| (60..140).contains(count)), "{places:?}");
        // Drawn by the request: the same for the same, whatever order things are found in.
        let orders = |retrieved| sitting("r", retrieved, 3).expect("others").orders;
        assert_eq!(orders(&[2, 3, 4, 5, 6]), orders(&[6, 4, 2, 3, 5]));
        assert!(sitting("r", &[0, 1], 3).is_none(), "nothing to tell it from");
        assert_eq!(sitting("r", &[1, 2], 3).expect("one").orders[0].len(), 2);
        let (unjudged, _) = unjudged("r", &[2, 3]);
        assert!(Sitting::new(unjudged, &HashMap::new(), 3).is_err(), "they have gone");
    }

    #[test]
    fn what_was_chosen_twice_is_the_verdict() {
        let target = |look: &Look<'_>| {
            look.shown.iter().position(|one| *one == content(1)).expect("it is shown") as u64 + 1
        };
        // What is chosen of each instruction in the first look, and in the second.
        let cases: [[Option<bool>; 2]; 9] = [
            [Some(true), Some(true)],
            [Some(false), Some(false)],
            [Some(true), Some(false)],
            [Some(false), Some(true)],
            [None, Some(true)],
            [Some(true), None],
            [Some(false), None],
            [None, Some(false)],
            [None, None],
        ];
        let expected = [Some("target"), Some("other"), Some("split"), Some("split")];
        for (at, cases) in cases.chunks(3).enumerate() {
            let mut sitting = sitting("r", &[2, 3, 4], 3).expect("others");
            for look in 0..2 {
                for (instruction, case) in ["a", "b", "c"].into_iter().zip(cases) {
                    if look == 1 && case[0].is_none() {
                        continue;
                    }
                    let next = sitting.next().expect("a look");
                    assert_eq!(next.instruction, instruction);
                    let right = target(&next);
                    let wrong = [0, right % 4 + 1][look];
                    sitting.looked(case[look].map(|found| if found { right } else { wrong }));
                }
            }
            assert!(sitting.next().is_none());
            let verdicts: Vec<Option<String>> =
                sitting.end().audits.into_iter().map(|audit| audit.verdict).collect();
            let said = (0..3).map(|n| expected.get(3 * at + n).copied().flatten());
            assert_eq!(verdicts, said.map(|said| said.map(String::from)).collect::<Vec<_>>());
        }
        // A number of nothing that was shown is no answer; what was not asked has no verdict.
        let mut sitting = sitting("r", &[2, 3], 2).expect("others");
        sitting.looked(Some(4));
        assert_eq!(sitting.looks, [None]);
        assert!(sitting.end().audits.iter().all(|audit| audit.verdict.is_none()));
    }

    #[test]
    fn a_look_that_was_written_down_is_not_taken_again() {
        let there: HashSet<ContentId> = (2..7).map(content).collect();
        let mut first = sitting("r", &[2, 3, 4], 3).expect("others");
        (0..4).for_each(|n| first.looked(Some(n % 3)));
        let (row, progress) = first.progress((7_000_000, Some(9), None));
        let text = serde_json::to_string(&progress).expect("JSON");
        let progress: Progress = serde_json::from_str(&text).expect("and back");
        assert_eq!((progress.cost_usd, progress.read, progress.written), (0.007, Some(9), None));
        // Other negatives meanwhile: what was begun goes on with what was shown.
        let mut second = sitting("r", &[4, 5, 6], 3).expect("others");
        assert!(second.orders != first.orders && second.resume(&progress, &there));
        assert_eq!(
            (&second.orders, &second.looks, second.row.clone()),
            (&first.orders, &first.looks, row)
        );
        (4..6).for_each(|n| {
            [&mut first, &mut second].into_iter().for_each(|one| one.looked(Some(n % 3)))
        });
        assert!(first.next().is_none() && second.next().is_none());
        assert_eq!(first.end().audits, second.end().audits);
        // Of what has gone nothing is shown.
        let without = there.into_iter().filter(|one| *one != content(3)).collect();
        let mut third = sitting("r", &[4, 5, 6], 3).expect("others");
        assert!(!third.resume(&progress, &without) && third.looks.is_empty());
        assert!(
            third.shows(&HashSet::from([content(5)])) && !third.shows(&HashSet::from([content(3)]))
        );
    }
}
