//! Whether a log is still the one that the tables were made from.
//!
//! Offsets alone do not tell: a topic that was deleted and made anew has offsets 0, 1, 2, … too, and
//! a reader that goes on at its next offset leaves out what stands before it. So a few records that
//! the tables know by partition and offset (the newest live images, and the newest messages that
//! were turned away) are read again before anything else. Only a record that is there and is another
//! one counts: what compaction or retention took says nothing.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use schemas::{
    ContentId,
    message::{self, KeySource, Record},
};

use super::SourceError;

/// Records that are kept of a partition. More than one, because compaction may take some.
const KEPT: usize = 4;
/// Partitions of one topic that are compared. A topic is deleted as a whole.
pub const COMPARED: usize = 64;

/// What the tables know of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// The image whose message it was.
    Image(String),
    /// It was turned away, and no id could be read.
    NoId,
}

/// A topic's partition.
type Place = (Arc<str>, i32);

/// What the tables know of the newest records of each partition.
#[derive(Clone, Debug, Default)]
pub struct Witnesses {
    known: BTreeMap<Place, BTreeMap<i64, Known>>,
    again: BTreeMap<Place, i64>,
    key: KeySource,
    until_us: Option<i64>,
}

impl Witnesses {
    /// None yet. `key` is the config's `[source] key`; `until_us` is when the newest epoch was
    /// committed, in microseconds since 1970: what is younger had not been read by then.
    pub fn new(key: &KeySource, until_us: Option<i64>) -> Witnesses {
        Witnesses { key: key.clone(), until_us, ..Witnesses::default() }
    }

    /// Leaves out what rows of `images` before these epochs say: `<topic>/<partition>`, whose log had
    /// lost its end and was read again from then on ([`crate::delta::AGAIN`]).
    pub fn read_again(&mut self, since: BTreeMap<String, i64>) {
        for (name, epoch) in since {
            let Some((topic, partition)) = name.rsplit_once('/') else { continue };
            if let Ok(partition) = partition.parse() {
                self.again.insert((topic.into(), partition), epoch);
            }
        }
    }

    /// Takes in what a row of `epoch` knows of one record.
    pub fn note(&mut self, (topic, partition, offset): (&str, i32, i64), epoch: i64, known: Known) {
        let place = (Arc::from(topic), partition);
        if self.again.get(&place).is_some_and(|since| epoch < *since) {
            return;
        }
        let of_place = self.known.entry(place).or_default();
        of_place.insert(offset, known);
        if of_place.len() > KEPT {
            of_place.pop_first();
        }
    }

    /// Takes in what others know; where both know of one record, theirs counts.
    pub fn absorb(&mut self, others: Witnesses) {
        for (place, known) in others.known {
            let of_place = self.known.entry(place).or_default();
            of_place.extend(known);
            while of_place.len() > KEPT {
                of_place.pop_first();
            }
        }
    }

    /// The newest offset within `range` of which something is known.
    pub fn newest(&self, place: &Place, range: Range<i64>) -> Option<i64> {
        let known = self.known.get(place)?;
        // A log that was made anew may have a beginning past its next offset.
        let range = range.start..range.end.max(range.start);
        known.range(range).next_back().map(|(offset, _)| *offset)
    }

    /// Compares a record with what the tables know of it, if they know anything.
    ///
    /// # Errors
    /// `OtherLog`: it is another one.
    pub fn compare(&self, record: &Record) -> Result<(), SourceError> {
        let at = &record.position;
        let known = self.known.get(&(at.topic.clone(), at.partition));
        let Some(known) = known.and_then(|known| known.get(&at.offset)) else { return Ok(()) };
        let same = match known {
            Known::Image(id) => may_be(record, id, &self.key),
            // Another `[source] key` may have had no id for it where this one has. But not of a
            // record that was written after the tables.
            Known::NoId => {
                message::image_id_of(record, &self.key).is_none()
                    || self.until_us.is_none_or(|until| at.timestamp_us <= until)
            }
        };
        if same {
            return Ok(());
        }
        let found = match message::image_id_of(record, &self.key) {
            Some(id) => format!("image {id:?}"),
            None => "a message without an image id".to_owned(),
        };
        let expected = match known {
            Known::Image(id) => format!("image {id:?}"),
            Known::NoId => "a message without an image id".to_owned(),
        };
        let place = format!("{} partition {} offset {}", at.topic, at.partition, at.offset);
        Err(SourceError::OtherLog { place, expected, found })
    }
}

/// Whether a record can have been the message of this image, under any `[source] key`: that may have
/// been changed since.
fn may_be(record: &Record, id: &str, key: &KeySource) -> bool {
    if record.key.as_deref() == Some(id.as_bytes())
        || record.headers.iter().any(|(_, value)| value == id.as_bytes())
        || message::image_id_of(record, key).as_deref() == Some(id)
    {
        return true;
    }
    // The id of a content; of one that is yet to be fetched nobody can tell.
    ContentId::parse(id).is_some()
        && (message::reference(record, &KeySource::Content).is_some()
            || message::image_id_of(record, &KeySource::Content).as_deref() == Some(id))
}

#[cfg(test)]
mod tests {
    use schemas::message::Position;

    use super::*;

    fn record(offset: i64, key: Option<&str>, value: &[u8]) -> Record {
        let position = Position { topic: "t".into(), partition: 0, offset, timestamp_us: 1_000 };
        let key = key.map(|key| key.as_bytes().to_vec());
        Record::new(position, key, Some(value.to_vec()), Vec::new())
    }

    fn same(known: &Known, record: Record, key: &KeySource, until_us: Option<i64>) -> bool {
        let mut witnesses = Witnesses::new(key, until_us);
        witnesses.note(("t", 0, record.position.offset), 1, known.clone());
        witnesses.compare(&record).is_ok()
    }

    #[test]
    fn the_newest_few_are_kept_and_found_within_what_is_there() {
        let mut witnesses = Witnesses::new(&KeySource::Message, None);
        let place: Place = ("t".into(), 3);
        for offset in [7, 100, 5, 9, 40, 6] {
            witnesses.note(("t", 3, offset), 1, Known::NoId);
        }
        assert_eq!(witnesses.newest(&place, 0..1_000), Some(100));
        assert_eq!(witnesses.newest(&place, 0..100), Some(40));
        assert_eq!(witnesses.newest(&place, 0..9), Some(7));
        assert_eq!(witnesses.newest(&place, 0..7), None, "older ones are dropped");
        assert_eq!(witnesses.newest(&place, 41..100), None);
        let made_anew = Range { start: 200, end: 100 };
        assert_eq!(witnesses.newest(&place, made_anew), None);
        assert_eq!(witnesses.newest(&("t".into(), 2), 0..1_000), None);
        let mut witnesses = Witnesses::new(&KeySource::Message, None);
        witnesses.read_again(BTreeMap::from([("t/3".to_owned(), 5)]));
        for (offset, epoch) in [(9, 4), (2, 5), (3, 6)] {
            witnesses.note(("t", 3, offset), epoch, Known::NoId);
            witnesses.note(("t", 1, offset), epoch, Known::NoId);
        }
        assert_eq!(witnesses.newest(&place, 0..100), Some(3), "9 is of a log that is no more");
        assert_eq!(witnesses.newest(&("t".into(), 1), 0..100), Some(9));
    }

    /// Parts of the tables may be read by several and put together: it is as if one had read all.
    #[test]
    fn what_several_know_is_what_one_would_know_that_reads_it_in_their_order() {
        let known = [7, 100, 5, 9, 40, 6, 9, 41].into_iter().enumerate();
        let known: Vec<_> = known.map(|(i, at)| (at, Known::Image(i.to_string()))).collect();
        let (mut one, none) = (Witnesses::default(), Witnesses::default());
        known.iter().for_each(|(at, known)| one.note(("t", 3, *at), 1, known.clone()));
        for cut in 0..known.len() {
            let mut all = none.clone();
            for part in [&known[..cut], &known[cut..]] {
                let mut of_part = none.clone();
                part.iter().for_each(|(at, known)| of_part.note(("t", 3, *at), 1, known.clone()));
                all.absorb(of_part);
            }
            assert_eq!(all.known, one.known, "{cut}");
        }
    }

    #[test]
    fn another_image_is_another_log_whatever_the_key_is_taken_from() {
        let header = KeySource::Header("id".into());
        for key in [KeySource::Message, KeySource::Content, header] {
            let a = Known::Image("a".into());
            assert!(same(&a, record(4, Some("a"), b"x"), &key, None), "{key:?}");
            assert!(!same(&a, record(4, Some("b"), b"x"), &key, None), "{key:?}");
            assert!(!same(&a, record(4, None, b"x"), &key, None), "{key:?}");
            // The config took it from the bytes before.
            let content = Known::Image(ContentId::of(b"x").hex());
            assert!(same(&content, record(4, Some("b"), b"x"), &key, None), "{key:?}");
            assert!(!same(&content, record(4, Some("b"), b"y"), &key, None), "{key:?}");
            // Nobody knows yet what is behind it.
            let unknown = record(4, Some("b"), b"{\"uri\": \"https://example.org/x\"}");
            assert!(same(&content, unknown, &key, None), "{key:?}");
        }
    }

    #[test]
    fn a_message_without_an_id_is_another_one_only_where_it_is_younger_than_the_tables() {
        let (key, known) = (KeySource::Message, Known::NoId);
        assert!(same(&known, record(4, None, b"x"), &key, Some(0)));
        assert!(same(&known, record(4, Some("a"), b"x"), &key, Some(1_000)), "another key rule");
        assert!(same(&known, record(4, Some("a"), b"x"), &key, None), "nobody knows when");
        assert!(!same(&known, record(4, Some("a"), b"x"), &key, Some(999)));
    }
}
