//! What became of the images: counted all, named one by one up to a limit, and told as it happens.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{BuildHasher, RandomState},
    io::{self, Write},
    ops::Range,
};

use schemas::limits;
use serde_json::{Value, json};

/// Of duplicate ids so many are named.
const DUPLICATES_NAMED: usize = 10;

/// Names with a remark each, and how many there are in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub list: Vec<(String, String)>,
}

impl Named {
    fn add(&mut self, name: String, remark: String) {
        self.count += 1;
        if self.list.len() < limits::PUSH_NAMED_MAX {
            self.list.push((name, remark));
        }
    }

    fn to_json(&self, name: &str, remark: &str) -> Value {
        let list = self.list.iter().map(|(n, r)| json!({ name: n, remark: r }));
        json!({ "count": self.count, "list": list.collect::<Vec<_>>() })
    }
}

/// Messages of one partition that landed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Landed {
    /// How many.
    pub count: u64,
    /// The lowest of their offsets.
    pub first: i64,
    /// The highest.
    pub last: i64,
}

/// What became of the images.
#[derive(Debug, Default)]
pub struct Report {
    /// Images that the log has for good.
    pub sent: u64,
    /// Their ids, if those are asked for.
    pub ids: Option<Vec<String>>,
    /// Bytes of their messages' values.
    pub bytes: u64,
    /// Of those, sent as an address.
    pub referenced: u64,
    /// Not sent: image and reason.
    pub failed: Named,
    /// Passed over, because an option says so or because there is no image: place and reason.
    pub skipped: Named,
    /// Made smaller: image, and how.
    pub resized: Named,
    /// Stored beside the topic: image, and address.
    pub stored: Named,
    /// Sent before, says the journal.
    pub before: u64,
    /// Images whose id an earlier one of this push has.
    pub duplicates: u64,
    duplicates_named: Vec<String>,
    /// Files and members that are no images, nor part of one.
    pub left_alone: u64,
    /// By partition.
    pub landed: BTreeMap<i32, Landed>,
    /// What ended the push before its time.
    pub cut_off: Option<String>,
    /// Names of fields that were not sent.
    pub fields_left: Vec<String>,
    untold: Vec<String>,
    /// 64 bits of each id: that two ids share them by chance is unlikely up to a billion.
    seen: HashSet<u64>,
    hasher: RandomState,
}

impl Report {
    /// An image was not sent.
    pub fn fail(&mut self, name: String, why: String) {
        self.untold.push(format!("not sent: {name}: {why}"));
        self.failed.add(name, why);
    }

    /// There is no image, or it is left out on request.
    pub fn skip(&mut self, name: String, why: String) {
        self.untold.push(format!("skipped: {name}: {why}"));
        self.skipped.add(name, why);
    }

    /// An image was made smaller.
    pub fn resize(&mut self, name: String, how: String) {
        self.untold.push(format!("resized: {name}: {how}"));
        self.resized.add(name, how);
    }

    /// An image was stored.
    pub fn store(&mut self, name: String, uri: String) {
        self.untold.push(format!("stored: {name}: {uri}"));
        self.stored.add(name, uri);
    }

    /// Something that a person should know.
    pub fn note(&mut self, text: String) {
        self.untold.push(format!("note: {text}"));
    }

    /// An id is about to be sent.
    pub fn meet(&mut self, id: &str) {
        if !self.seen.insert(self.hasher.hash_one(id)) {
            self.duplicates += 1;
            if self.duplicates_named.len() < DUPLICATES_NAMED {
                self.duplicates_named.push(id.to_owned());
            }
        }
    }

    /// A field that no message has.
    pub fn leave_field(&mut self, name: &str) {
        const NAMES_MAX: usize = 30;
        if self.fields_left.len() < NAMES_MAX && !self.fields_left.iter().any(|n| n == name) {
            self.fields_left.push(name.to_owned());
        }
    }

    /// Messages landed.
    pub fn land(&mut self, partition: i32, offsets: &Range<i64>) {
        let new = Landed {
            count: (offsets.end - offsets.start) as u64,
            first: offsets.start,
            last: offsets.end - 1,
        };
        let landed = self.landed.entry(partition).or_insert(Landed { count: 0, ..new });
        landed.count += new.count;
        landed.first = landed.first.min(new.first);
        landed.last = landed.last.max(new.last);
    }

    /// Tells what was not told yet.
    pub fn tell(&mut self, out: &mut dyn Write) -> io::Result<()> {
        for line in self.untold.drain(..) {
            writeln!(out, "{line}")?;
        }
        Ok(())
    }

    /// The last lines.
    pub fn sum_up(&self, out: &mut dyn Write) -> io::Result<()> {
        if !self.fields_left.is_empty() {
            let names = self.fields_left.join(", ");
            writeln!(out, "note: fields not sent: {names}; --attributes sends them")?;
        }
        if self.duplicates > 0 {
            writeln!(
                out,
                "note: {} images have the id of an earlier one of this push, and the later one \
                 replaces it: {}{}. Tar keys that begin anew in every shard want --id content",
                self.duplicates,
                self.duplicates_named.join(", "),
                if self.duplicates as usize > DUPLICATES_NAMED { ", …" } else { "" },
            )?;
        }
        let megabytes = self.bytes as f64 / 1e6;
        write!(out, "{} images sent, {megabytes:.1} MB; {} failed", self.sent, self.failed.count)?;
        let more = [
            (self.before, "sent before and acknowledged"),
            (self.skipped.count, "skipped"),
            (self.resized.count, "resized to fit"),
            (self.stored.count, "stored, their address sent"),
            (self.referenced, "sent as an address"),
            (self.left_alone, "other files left alone"),
        ];
        for (count, what) in more.into_iter().filter(|(count, _)| *count > 0) {
            write!(out, "; {count} {what}")?;
        }
        writeln!(out)?;
        for (partition, landed) in &self.landed {
            let Landed { count, first, last } = landed;
            writeln!(out, "partition {partition}: {count} messages, offsets {first} to {last}")?;
        }
        Ok(())
    }

    /// For scripts.
    pub fn to_json(&self) -> Value {
        let partitions: serde_json::Map<String, Value> = self
            .landed
            .iter()
            .map(|(partition, Landed { count, first, last })| {
                (partition.to_string(), json!({ "count": count, "first": first, "last": last }))
            })
            .collect();
        json!({
            "sent": self.sent,
            "bytes": self.bytes,
            "by_reference": self.referenced,
            "sent_before": self.before,
            "failed": self.failed.to_json("image", "reason"),
            "skipped": self.skipped.to_json("image", "reason"),
            "resized": self.resized.to_json("image", "how"),
            "stored": self.stored.to_json("image", "uri"),
            "duplicates": { "count": self.duplicates, "list": self.duplicates_named },
            "left_alone": self.left_alone,
            "fields_not_sent": self.fields_left,
            "partitions": partitions,
            "cut_off": self.cut_off,
        })
    }
}
