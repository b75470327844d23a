//! One push, from inputs to the report.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use anyhow::Context;
use schemas::{ContentId, config::Config, limits, message::KeySource};
use url::Url;

use super::{
    By, IdFrom, Oversize, PushArgs, Report, Target,
    compose::{Composer, Payload},
    journal::Journal,
    oversize::{Shelf, fit},
    pace::Pace,
    sink::{Mark, Sink},
    sources::{self, Body, Extent, Found, Input, Item, Wanted},
};
use crate::{cli::BadConfig, source::SourceError};

const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// A push that goes on.
pub struct Sender<'a> {
    args: &'a PushArgs,
    out: &'a mut dyn Write,
    inputs: Vec<Input>,
    wanted: Wanted,
    composer: Composer,
    shelf: Option<Shelf>,
    /// The most bytes of a message, where there is a limit.
    limit: Option<usize>,
    pace: Pace,
    sink: Sink<'a>,
    journal: Option<Journal>,
    report: Report,
    progress: Progress,
}

/// An image that is ready to go.
struct Ready {
    id: String,
    payload: Payload,
}

/// Why an image does not go.
enum Kept {
    Failed(String),
    Skipped(String),
}

impl From<String> for Kept {
    fn from(why: String) -> Kept {
        Kept::Failed(why)
    }
}

impl<'a> Sender<'a> {
    /// Makes sure of everything that can be known before the first image.
    pub fn begin(
        args: &'a PushArgs,
        config: Option<&Config>,
        key: KeySource,
        target: &'a mut Target<'_>,
        out: &'a mut dyn Write,
    ) -> anyhow::Result<Sender<'a>> {
        let inputs = sources::inputs(&args.inputs, args.stdin)?;
        let mut report = Report::default();
        let journal = journal(args, &inputs, &target.name(), &mut report)?;
        let shelf = match &args.oversize {
            Some(Oversize::Store(uri)) => {
                let shelf =
                    Shelf::open(uri, config).with_context(|| format!("--oversize {uri}"))?;
                report.note(format!(
                    "the service must be allowed ([fetch] in its config) to fetch from {uri}"
                ));
                Some(shelf)
            }
            _ => None,
        };
        let mut sink = Sink::open(target, args.patience())?;
        let limit = sink.limit(args.max_message_bytes)?;
        let composer = Composer {
            source: args.source.clone(),
            licence: args.licence.clone(),
            attributes: args.attributes,
            key,
        };
        let by_reference = args.by == By::Reference;
        let columns = args.columns.clone();
        let wanted = Wanted { columns, attributes: args.attributes, by_reference };
        Ok(Sender {
            pace: Pace::new(args.rate, args.bytes_rate),
            progress: Progress::new(inputs.len()),
            args,
            out,
            inputs,
            wanted,
            composer,
            shelf,
            limit,
            sink,
            journal,
            report,
        })
    }

    /// The report is to have the ids of what was sent.
    pub fn keep_ids(&mut self) {
        self.report.ids = Some(Vec::new());
    }

    /// Sends everything.
    pub fn run(mut self) -> anyhow::Result<Report> {
        let ended = self.send_all();
        let finished = self.sink.finish().map_err(anyhow::Error::from);
        let settled = self.settle();
        if let Some(journal) = &mut self.journal {
            journal.save()?;
        }
        self.progress.clear(self.out)?;
        self.report.tell(self.out)?;
        self.report.sum_up(self.out)?;
        match ended.and(finished) {
            // What the log says: the report is as true as without it.
            Err(why) if why.is::<SourceError>() => self.report.cut_off = Some(why.to_string()),
            other => other?,
        }
        settled?;
        Ok(self.report)
    }

    fn send_all(&mut self) -> anyhow::Result<()> {
        for at in 0..self.inputs.len() {
            let skip = self.journal.as_ref().map_or(0, |journal| journal.done(at).prefix());
            self.report.before += self.journal.as_ref().map_or(0, |journal| journal.images(at));
            let name = self.inputs[at].name();
            let opened = match self.inputs[at].open(&self.wanted, skip) {
                Ok(opened) => opened,
                Err(why) => {
                    self.report.fail(name, why);
                    continue;
                }
            };
            opened.notes.into_iter().for_each(|note| self.report.note(note));
            let (mut number, mut images) = (skip, 0);
            for found in opened.found {
                images += u64::from(matches!(found, Found::Image(_) | Found::Broken(..)));
                let done = self.journal.as_ref().is_some_and(|j| j.done(at).has(number));
                if !done {
                    self.take((at, number), found)?;
                }
                number += 1;
                self.settle()?;
                self.report.tell(self.out)?;
                self.progress.show(self.out, at, &opened.extent, number, self.report.sent)?;
            }
            if images == 0 && skip == 0 {
                self.report.note(format!("{name}: there is no image in it"));
            }
        }
        Ok(())
    }

    fn take(&mut self, at: (usize, u64), found: Found) -> anyhow::Result<()> {
        match found {
            Found::Image(item) => return self.image(at, *item),
            Found::Broken(place, why) => {
                self.report.fail(place, why);
                return Ok(());
            }
            Found::Without(place, why) => self.report.skip(place, why),
            Found::Other => self.report.left_alone += 1,
            Found::Part => {}
        }
        self.done(at, false)
    }

    fn done(&mut self, at: (usize, u64), image: bool) -> anyhow::Result<()> {
        self.journal.as_mut().map_or(Ok(()), |journal| journal.add(at, image))
    }

    fn image(&mut self, at: (usize, u64), mut item: Item) -> anyhow::Result<()> {
        let ready = self.prepare(&mut item).and_then(|ready| self.fit_in(&item, ready));
        let Ready { id, payload } = match ready {
            Ok(ready) => ready,
            Err(Kept::Failed(why)) => {
                self.report.fail(item.place, why);
                return Ok(());
            }
            Err(Kept::Skipped(why)) => {
                self.report.skip(item.place, why);
                return self.done(at, false);
            }
        };
        if !self.args.attributes {
            item.attributes.keys().for_each(|name| self.report.leave_field(name));
        }
        self.report.meet(&id);
        let message = self.composer.compose(&id, &item, &payload);
        std::thread::sleep(self.pace.take(Instant::now(), message.value.len()));
        let mark = Mark { at, referenced: matches!(payload, Payload::Uri(_)) };
        Ok(self.sink.send(mark, &id, Some(&message.value), &message.headers)?)
    }

    /// Reads what is still to be read, and makes sure that the service would take it.
    fn prepare(&self, item: &mut Item) -> Result<Ready, Kept> {
        item.read_beside(&self.wanted.columns)?;
        let body = std::mem::take(&mut item.body);
        let payload = match (self.args.by, body) {
            (By::Value, Body::File(path)) => {
                Payload::Bytes(sources::read_at_most(&path, limits::PUSH_BYTES_MAX)?)
            }
            (By::Value, Body::Bytes(bytes)) => Payload::Bytes(bytes),
            (_, body) => match (item.uri.take(), body) {
                (Some(uri), _) => Payload::Uri(uri),
                (None, Body::File(path)) => Payload::Uri(file_uri(&path)?),
                _ => {
                    let why = "it has no address (a column or field url) to send --by reference";
                    return Err(Kept::Failed(why.into()));
                }
            },
        };
        if matches!(&payload, Payload::Bytes(bytes) if bytes.is_empty()) {
            return Err(Kept::Failed("the file is empty".into()));
        }
        let id = match (self.args.id, item.id.take(), &payload) {
            (IdFrom::Auto, Some(id), _) => id,
            (_, _, Payload::Bytes(bytes)) => ContentId::of(bytes).hex(),
            (_, _, Payload::Uri(_)) => {
                return Err(Kept::Failed("it has no id, and no bytes to make one from".into()));
            }
        };
        self.composer.check(&id, item, &payload)?;
        Ok(Ready { id, payload })
    }

    /// Sees to it that the message is not too large.
    fn fit_in(&mut self, item: &Item, ready: Ready) -> Result<Ready, Kept> {
        let Ready { id, payload } = ready;
        let limit = self.limit.unwrap_or(usize::MAX);
        let size = self.composer.compose(&id, item, &payload).size(&id);
        let bytes = match payload {
            Payload::Bytes(bytes) if size > limit || bytes.len() > limits::ENCODED_BYTES_MAX => {
                bytes
            }
            Payload::Uri(_) if size > limit => {
                let why = format!("{size} bytes without the image; a message has at most {limit}");
                return Err(Kept::Failed(why));
            }
            payload => return Ok(Ready { id, payload }),
        };
        let too_large = match bytes.len() > limits::ENCODED_BYTES_MAX {
            true => {
                let max = limits::ENCODED_BYTES_MAX;
                format!("more than {max} bytes, which is the most that the service takes")
            }
            false => format!("a message of {size} bytes; this topic takes at most {limit}"),
        };
        match &self.args.oversize {
            Some(Oversize::Skip) => Err(Kept::Skipped(too_large)),
            Some(Oversize::Fit) => {
                let none = Payload::Bytes(Vec::new());
                let around = self.composer.compose(&id, item, &none).size(&id);
                let mut room = limit.saturating_sub(around);
                if self.composer.is_envelope(item, &none) {
                    room = room / 4 * 3;
                }
                let (small, how) = fit(&bytes, room.min(limits::ENCODED_BYTES_MAX))?;
                self.report.resize(item.place.clone(), how);
                Ok(Ready { id, payload: Payload::Bytes(small) })
            }
            Some(Oversize::Store(_)) if bytes.len() <= limits::ENCODED_BYTES_MAX => {
                let shelf = self.shelf.as_ref().ok_or("nowhere to store it".to_owned())?;
                let uri = shelf.keep(bytes)?;
                self.report.store(item.place.clone(), uri.clone());
                Ok(Ready { id, payload: Payload::Uri(uri) })
            }
            Some(Oversize::Store(_)) => Err(Kept::Failed(too_large)),
            None => Err(Kept::Failed(format!(
                "{too_large}: --oversize fit (send a smaller JPEG), --oversize skip, or --oversize \
                 store:URI (keep it there and send its address); or raise the topic's \
                 max.message.bytes"
            ))),
        }
    }

    /// Counts what became known of messages.
    fn settle(&mut self) -> anyhow::Result<()> {
        for (partition, offsets) in self.sink.landed() {
            self.report.land(partition, &offsets);
        }
        for outcome in self.sink.outcomes() {
            match outcome.sent {
                Ok(()) => {
                    self.report.sent += 1;
                    self.report.bytes += outcome.bytes;
                    self.report.referenced += u64::from(outcome.mark.referenced);
                    self.done(outcome.mark.at, true)?;
                    if let Some(ids) = &mut self.report.ids {
                        ids.push(outcome.id);
                    }
                }
                Err(why) => self.report.fail(outcome.id, why),
            }
        }
        Ok(())
    }
}

fn file_uri(path: &std::path::Path) -> Result<String, String> {
    // What is not there now will not be there later.
    std::fs::metadata(path).map_err(|e| e.to_string())?;
    let path = std::path::absolute(path).map_err(|e| e.to_string())?;
    let url = Url::from_file_path(&path);
    url.map(String::from).map_err(|()| format!("{}: no file:// address", path.display()))
}

fn journal(
    args: &PushArgs,
    inputs: &[Input],
    target: &str,
    report: &mut Report,
) -> anyhow::Result<Option<Journal>> {
    let Some(path) = &args.resume else { return Ok(None) };
    if inputs.iter().any(Input::is_stdin) {
        let why = "--resume: standard input cannot be read again; name files";
        return Err(BadConfig(why.into()).into());
    }
    let own = std::path::absolute(path)?;
    for input in inputs {
        if own.starts_with(std::path::absolute(&input.path)?) {
            let why = format!("--resume {}: must not lie in what is pushed", path.display());
            return Err(BadConfig(why).into());
        }
    }
    // Sent in another way is not sent.
    let how = format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        args.by, args.id, args.columns, args.attributes, args.source, args.licence, args.oversize
    );
    let mut pages = Vec::new();
    for input in inputs {
        pages.push((input.name(), format!("{} {how}", input.fingerprint()?)));
    }
    let (journal, changed) = Journal::open(path, target, pages)?;
    for name in changed {
        report.note(format!(
            "{name}: it, or how it is sent, changed since it was pushed: it is sent from its \
             beginning. An image that was sent before and is the same changes nothing"
        ));
    }
    let before: u64 = (0..inputs.len()).map(|at| journal.images(at)).sum();
    if before > 0 {
        report.note(format!(
            "{before} images were acknowledged before and are not sent again; what was on its way \
             when the push ended is, and a duplicate changes nothing"
        ));
    }
    Ok(Some(journal))
}

/// One line on a terminal.
struct Progress {
    shown: bool,
    inputs: usize,
    begun: Instant,
    said: Instant,
}

impl Progress {
    fn new(inputs: usize) -> Progress {
        let now = Instant::now();
        Progress { shown: std::io::stderr().is_terminal(), inputs, begun: now, said: now }
    }

    fn show(
        &mut self,
        out: &mut dyn Write,
        input: usize,
        extent: &Extent,
        things: u64,
        sent: u64,
    ) -> std::io::Result<()> {
        if !self.shown || self.said.elapsed() < PROGRESS_EVERY {
            return Ok(());
        }
        self.said = Instant::now();
        let part = extent.fraction(things);
        let whole = part.map(|part| (input as f64 + part) / self.inputs as f64);
        write!(out, "\r{}\x1b[K", line(sent, self.begun.elapsed(), whole))?;
        out.flush()
    }

    fn clear(&self, out: &mut dyn Write) -> std::io::Result<()> {
        if self.shown { write!(out, "\r\x1b[K") } else { Ok(()) }
    }
}

fn line(sent: u64, elapsed: Duration, fraction: Option<f64>) -> String {
    let seconds = elapsed.as_secs_f64().max(1e-3);
    let rate = sent as f64 / seconds;
    let rest = match fraction {
        Some(fraction) if fraction > 0.0 => {
            let left = (seconds / fraction - seconds).max(0.0).round() as u64;
            let (hours, minutes, seconds) = (left / 3600, left / 60 % 60, left % 60);
            format!(", {:.0} %, {hours}:{minutes:02}:{seconds:02} left", fraction * 100.0)
        }
        _ => String::new(),
    };
    format!("{sent} images, {rate:.0}/s{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_in_words() {
        let ten = Duration::from_secs(10);
        assert_eq!(line(500, ten, None), "500 images, 50/s");
        assert_eq!(line(500, ten, Some(0.25)), "500 images, 50/s, 25 %, 0:00:30 left");
        assert_eq!(line(0, ten, Some(0.0)), "0 images, 0/s");
        assert_eq!(line(9, ten, Some(0.001)), "9 images, 1/s, 0 %, 2:46:30 left");
    }
}
