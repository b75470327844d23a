//! What the program says on standard error while it works: lines for people, or JSON for machines.
//!
//! ERROR is lost data, or something that a person must act on; WARN is trouble without loss; INFO is
//! what a person who watches wants to know, an epoch, a start, an end.

use std::{fmt, io::Write as _};

use clap::{Args, ValueEnum};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    Layer,
    filter::Targets,
    fmt::{
        FmtContext, FormatEvent, FormatFields, MakeWriter,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::{cli::BadConfig, secrets};

/// The variable that says what `--log-level` says.
pub const VARIABLE: &str = "EVERPAIR_LOG";
/// Target of Kafka's client library.
pub const KAFKA: &str = "librdkafka";

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A line for people.
    #[default]
    Text,
    /// An object: timestamp, level, target, message, and what the message tells as fields.
    Json,
}

/// How the service logs.
#[derive(Args, Clone, Debug, Default)]
pub struct LogArgs {
    /// Lines for people, or one JSON object each.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: Format,
    /// off, error, warn, info (the default), debug or trace; or by target, as in
    /// "info,librdkafka=debug", where what is not named has info. EVERPAIR_LOG says the same.
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// Begins to log as a service does.
///
/// # Errors
/// A level that there is not.
pub fn start(args: &LogArgs) -> anyhow::Result<()> {
    let variable = std::env::var(VARIABLE).ok().filter(|level| !level.is_empty());
    let level = args.log_level.as_deref().or(variable.as_deref()).unwrap_or("info");
    let targets = targets(level)?;
    secrets::learn_environment();
    let layer = tracing_subscriber::fmt::layer().with_writer(Clean);
    let set = match args.log_format {
        Format::Text => {
            let layer = layer.event_format(Lines { times: true }).with_filter(targets);
            tracing_subscriber::registry().with(layer).try_init()
        }
        Format::Json => {
            let layer = layer.json().flatten_event(true).with_current_span(false);
            let layer = layer.with_span_list(false).with_filter(targets);
            tracing_subscriber::registry().with(layer).try_init()
        }
    };
    // Someone has set one already: a test that runs the service in its own process.
    set.or(Ok(()))
}

/// Begins to log as a command does that a person waits for.
pub fn start_plain() {
    secrets::learn_environment();
    let layer = tracing_subscriber::fmt::layer().with_writer(Clean);
    let layer = layer.event_format(Lines { times: false });
    let layer = layer.with_filter(by_level(LevelFilter::INFO));
    // As above.
    let _ = tracing_subscriber::registry().with(layer).try_init();
}

/// What made the program fail: the last line.
pub fn failed(error: &anyhow::Error) {
    if tracing::enabled!(Level::ERROR) {
        tracing::error!("{error:#}");
    } else {
        // A log that is off is no reason to end without a word.
        let text = format!("error: {error:#}\n");
        let _ = std::io::stderr().write_all(secrets::hide(&text).as_bytes());
    }
}

/// What a level, or a list of targets with levels, lets through. Where only targets are named the
/// rest stays as it is: a target that nobody logs under must not silence the others.
fn targets(text: &str) -> Result<Targets, BadConfig> {
    let level = |word: &str| match word.trim().parse::<LevelFilter>() {
        Ok(level) if !word.trim().is_empty() => Ok(level),
        _ => Err(BadConfig(format!(
            "log level {text:?}: {word:?} is none; write off, error, warn, info, debug or trace, \
             or by target: \"info,{KAFKA}=debug\""
        ))),
    };
    let (mut whole, mut by_target) = (LevelFilter::INFO, Vec::new());
    for part in text.split(',') {
        match part.split_once('=') {
            None => whole = level(part)?,
            Some((target, word)) => by_target.push((target.trim().to_owned(), level(word)?)),
        }
    }
    Ok(by_level(whole).with_targets(by_target))
}

/// Others' libraries are heard from a warning on, but for the two that speak of our peers.
fn by_level(level: LevelFilter) -> Targets {
    Targets::new().with_default(level.min(LevelFilter::WARN)).with_targets([
        ("everpair", level),
        (KAFKA, level),
        ("object_store", level),
    ])
}

/// A line: the time where it is wanted, `warning:` or `error:` where it is one, and the message.
struct Lines {
    times: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.times {
            SystemTime.format_time(&mut writer)?;
            writer.write_char(' ')?;
        }
        writer.write_str(match *event.metadata().level() {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            Level::INFO => "",
            Level::DEBUG => "debug: ",
            Level::TRACE => "trace: ",
        })?;
        let mut message = Message::default();
        event.record(&mut message);
        // A number that stands for "as long as the time lasts".
        let tries = format!(" of {}", schemas::limits::STORE_RETRIES);
        writeln!(writer, "{}", message.0.replace(&tries, ""))
    }
}

#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

/// Standard error, without secrets.
struct Clean;

impl<'a> MakeWriter<'a> for Clean {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(Vec::new())
    }
}

/// One event; written when it is whole.
struct Line(Vec<u8>);

impl std::io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.0);
        // A log that nobody reads any more is no reason to stop.
        let _ = std::io::stderr().write_all(secrets::hide(&text).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_ours_and_targets_are_as_they_are_written() {
        let quiet = targets("info").expect("a level");
        assert!(quiet.would_enable("everpair::service", &Level::INFO));
        assert!(!quiet.would_enable("everpair", &Level::DEBUG));
        assert!(!quiet.would_enable("hyper::proto", &Level::INFO));
        assert!(quiet.would_enable("hyper::proto", &Level::WARN));
        let kafka = targets("warn,librdkafka=debug").expect("targets");
        assert!(kafka.would_enable(KAFKA, &Level::DEBUG));
        assert!(!kafka.would_enable("everpair", &Level::INFO));
        assert!(!targets("off").expect("a level").would_enable("hyper", &Level::ERROR));
        let named = targets("librdkafka=debug").expect("a target");
        assert!(named.would_enable(KAFKA, &Level::DEBUG));
        assert!(named.would_enable("everpair", &Level::INFO));
        for bad in ["banana", "info,banana", "", "everpair=", "info,,warn"] {
            let why = targets(bad).expect_err("no level").0;
            assert!(why.contains("off, error, warn, info, debug or trace"), "{bad:?}: {why}");
        }
        assert!(targets("everpair=loud").expect_err("no level").0.contains("librdkafka=debug"));
    }
}
