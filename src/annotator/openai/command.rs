//! `everpair requests`.

use std::path::PathBuf;

use anyhow::{Context, bail};
use chrono::{DateTime, SecondsFormat};
use clap::Subcommand;
use schemas::{
    config::{AnnotatorKind, Config, Transport},
    limits,
};
use serde_json::json;

use super::{
    batch::{Exported, Imported, cancel, export, import, read},
    money::usd,
    reask::{Again, Of, Selection, reask},
};
use crate::{
    cli::{BadConfig, read_config},
    errln, outln,
    service::open_tables,
};

/// What the command can do.
#[derive(Subcommand, Debug)]
pub enum RequestsCommand {
    /// Writes what pairs of the newest epoch ask for, in the form of OpenAI's batches and `vllm
    /// run-batch`. A pair takes two rounds: its description, then instructions. Where there is a
    /// [captioner], images without a caption take one before.
    Export {
        /// The config file (TOML), with [annotator] transport = "batch".
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The file: JSON lines, a request each.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// At most so many requests, captions and then the best pairs first.
        #[arg(long, value_name = "N", default_value_t = limits::ANNOTATOR_BATCH.0 as u64,
              value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
        most: u64,
        /// JSON on stdout.
        #[arg(long)]
        json: bool,
    },
    /// Reads what came of batches: files of answers and of errors, these with the answers or behind
    /// them, more than once.
    Import {
        /// The config file (TOML).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// JSON on stdout.
        #[arg(long)]
        json: bool,
        /// The files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Has answers asked for again: says which, and what they have cost; with --apply the memo forgets
    /// them, and the next run asks. Stop the service first: one that runs ends.
    Again {
        /// The config file (TOML).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Which answers.
        #[command(flatten)]
        selection: Selection,
        /// Their descriptions too.
        #[arg(long)]
        describe: bool,
        /// Captions that fit, and no answers about pairs.
        #[arg(long, conflicts_with = "describe")]
        caption: bool,
        /// Do it.
        #[arg(long)]
        apply: bool,
        /// JSON on stdout.
        #[arg(long)]
        json: bool,
    },
    /// Batches that are out.
    List {
        /// The config file (TOML).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// JSON on stdout.
        #[arg(long)]
        json: bool,
    },
    /// Gives a batch up: what it has no answer for may be asked again.
    Cancel {
        /// Its name.
        batch: String,
        /// The config file (TOML).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// It was sent, and its answers are lost: the most that they can cost counts as spent.
        #[arg(long)]
        sent: bool,
    },
}

/// Runs the command.
///
/// # Errors
/// The tables or a file cannot be read or written; of an import also where not every line was one.
pub fn run(command: &RequestsCommand) -> anyhow::Result<()> {
    match command {
        RequestsCommand::Export { config, out, most, json } => {
            let config = by_batches(&read_config(config)?)?;
            let said = export(&config, out, usize::try_from(*most).unwrap_or(usize::MAX))?;
            if *json {
                outln!("{:#}", serde_json::to_value(&said)?);
            } else {
                tell_export(&said, out);
            }
            Ok(())
        }
        RequestsCommand::Import { config, json, files } => {
            let said = import(&by_batches(&read_config(config)?)?, files)?;
            if *json {
                outln!("{:#}", serde_json::to_value(&said)?);
            } else {
                tell_import(&said);
            }
            refuse(&said)
        }
        RequestsCommand::Again { config, selection, describe, caption, apply, json } => {
            let of = match (caption, describe) {
                (true, _) => Of::Images,
                (false, true) => Of::PairsAnew,
                (false, false) => Of::Pairs,
            };
            let again = reask(&read_config(config)?, selection, (of, *apply))?;
            match json {
                true => outln!("{:#}", serde_json::to_value(&again)?),
                false => tell_again(&again, of),
            }
            Ok(())
        }
        RequestsCommand::List { config, json } => list(&read_config(config)?, *json),
        RequestsCommand::Cancel { batch, config, sent } => {
            let store = open_tables(&read_config(config)?)?;
            let gone = cancel(&store, batch, *sent)?;
            let (requests, most) = (gone.out.len(), usd(gone.most()));
            match sent {
                true => {
                    errln!("{requests} requests may be asked again; {most:.4} USD count as spent")
                }
                false => errln!(
                    "{requests} requests may be asked again; nothing counts as spent for them"
                ),
            }
            Ok(())
        }
    }
}

fn by_batches(config: &Config) -> anyhow::Result<Config> {
    let why = match (config.annotator.kind, config.annotator.transport) {
        (AnnotatorKind::OpenAi, Transport::Batch) => return Ok(config.clone()),
        (AnnotatorKind::OpenAi, Transport::Online) => {
            "[annotator] transport = \"online\": the service asks, and would ask the same; batches \
             need transport = \"batch\""
        }
        (AnnotatorKind::Template, _) => {
            "[annotator] kind = \"template\" asks no model; batches need kind = \"openai\" and \
             transport = \"batch\""
        }
    };
    Err(BadConfig(why.into()).into())
}

fn tell_export(said: &Exported, file: &std::path::Path) {
    let Exported { describe, instruct, bytes, most_usd, later, unpaid, waiting, .. } = said;
    let Exported { out, left_out, ended, uncaptioned, .. } = said;
    let captions = match said.caption {
        0 => String::new(),
        captions => format!("{captions} captions, "),
    };
    match &said.batch {
        Some(batch) => outln!(
            "{batch}: {captions}{describe} descriptions and {instruct} requests for instructions, \
             {bytes} bytes, at most {most_usd:.4} USD, in {}",
            file.display()
        ),
        None => outln!("nothing to ask now"),
    }
    for (count, what) in [
        (later, "more may be asked, in another batch: this one is full, or for another model"),
        (unpaid, "more are not covered by what is left of [annotator] budget and daily_budget"),
        (uncaptioned, "pairs wait for captions: export again when these are committed"),
        (waiting, "pairs wait for their descriptions: export again when these are committed"),
        (
            out,
            "are out already (`everpair requests list`; `cancel` gives up one whose file there is not)",
        ),
        (left_out, "left out: an image or a description of theirs cannot be read"),
        (ended, "have nothing to ask about: no caption, no picture, or a description that failed"),
    ] {
        if *count > 0 {
            outln!("{count} {what}");
        }
    }
}

fn tell_import(said: &Imported) {
    for (outcome, count) in &said.outcomes {
        outln!("{count} {outcome}");
    }
    for (why, count) in &said.again {
        outln!("{count} to be exported again: {why}");
    }
    if said.before > 0 {
        outln!("{} imported before", said.before);
    }
    outln!("{:.4} USD; {} requests are still out", said.cost_usd, said.out);
    for batch in &said.closed {
        outln!("{batch} is over");
    }
}

fn tell_again(again: &Again, of: Of) {
    let mut none = true;
    for (what, counts) in [
        ("requests for instructions", &again.instruct),
        ("descriptions", &again.describe),
        ("captions", &again.caption),
    ] {
        none &= counts.is_empty();
        for (outcome, count) in counts {
            outln!("{count} {what} that ended with {outcome}");
        }
    }
    let (one, what) = match of {
        Of::Images => ("caption of an image", "images"),
        Of::Pairs | Of::PairsAnew => ("answer of a pair", "pairs"),
    };
    if none {
        outln!("no {one} that is mined now fits: nothing is to be done");
        if of != Of::Images {
            outln!("(captions that a model wrote are selected with --caption)");
        }
        return;
    }
    outln!("they have cost {:.4} USD, and will cost about that again", again.cost_usd);
    if of == Of::Images {
        outln!(
            "with [annotator] captions = true, so will pairs of images that get another caption"
        );
    }
    if again.stay > 0 {
        outln!("{} more answers fit, of {what} that are not mined now: they stay", again.stay);
    }
    match again.applied {
        true if of == Of::Images => {
            outln!(
                "the next run asks: until it has answers, these images have no caption. Until it has \
                 begun, `gc` refuses triplets by the old ones, and `verify` finds them"
            )
        }
        true => outln!("the next run asks: until it has answers, their triplets are gone"),
        false => outln!("nothing is changed; --apply does it"),
    }
}

/// What is imported stays so; whoever scripts this must see that not all was.
fn refuse(said: &Imported) -> anyhow::Result<()> {
    for line in &said.unreadable {
        errln!("{line}");
    }
    if let Some(why) = &said.refused {
        bail!("the endpoint has refused requests: {why}; they may be exported again");
    }
    if said.undecided > 0 {
        bail!(
            "{} requests were not taken, and no answer of their batch is known yet: import them again \
             with its answers, or behind them",
            said.undecided
        );
    }
    if said.unreadable_count > 0 {
        bail!("{} lines are no answers of a batch, see above", said.unreadable_count);
    }
    if said.unknown > 0 {
        bail!(
            "{} answers are to requests in no batch of these tables, or of a \
             batch that was cancelled",
            said.unknown
        );
    }
    Ok(())
}

fn list(config: &Config, json: bool) -> anyhow::Result<()> {
    let all = read(&open_tables(config)?)?;
    if json {
        let rows = all.iter().map(|batch| {
            json!({
                "batch": batch.name,
                "exported_at": batch.exported_at,
                "requests": batch.requests,
                "out": batch.out.len(),
                "most_usd": usd(batch.most()),
                "spent_usd": usd(batch.spent),
            })
        });
        outln!("{:#}", serde_json::Value::from_iter(rows));
        return Ok(());
    }
    for batch in &all {
        let at = DateTime::from_timestamp_micros(batch.exported_at).context("a time")?;
        let at = at.to_rfc3339_opts(SecondsFormat::Secs, true);
        let (name, out, requests) = (&batch.name, batch.out.len(), batch.requests);
        let (most, spent) = (usd(batch.most()), usd(batch.spent));
        outln!(
            "{name}: {out} of {requests} requests out since {at}, at most {most:.4} USD; {spent:.4} spent"
        );
    }
    if all.is_empty() {
        outln!("no batch is out");
    }
    Ok(())
}
