//! Arguments in, exit code out: 0 done, 1 the work failed (the message says what to do), 2 bad
//! arguments or config.

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use everpair::{
    changes,
    cli::{self, BadConfig},
    demo::{self, DemoOptions},
    explain,
    export::{self, ExportArgs},
    log::{self, LogArgs},
    outln, print,
    service::{self, RunOptions},
    snapshot, status, verify, views,
};

/// Images in Kafka become an always consistent training set for multimodal retrieval.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The whole pipeline on generated images, or on yours, without Kafka, GPU or model.
    Demo(DemoOptions),
    /// The service: reads the source, keeps the tables.
    Run {
        #[command(flatten)]
        config: ConfigPath,
        /// End when what is there now is committed and no pair waits for an answer.
        #[arg(long)]
        until_caught_up: bool,
        /// Accept a config that differs from what the tables were made with.
        #[arg(long)]
        apply: bool,
        #[command(flatten)]
        log: LogArgs,
    },
    /// Sends images to a topic or a file log: folders, tars, Parquet files, lists, standard input.
    Push(Box<everpair::push::PushArgs>),
    /// Takes images down; with --block they cannot come back.
    Takedown(cli::TakedownArgs),
    /// Removes what was taken down or replaced from every file and older version, and proves it.
    ///
    /// A running service does it between two epochs. What the newest epoch's live images and the
    /// snapshots need stays, except images of a snapshot that were taken down; ids stay in changes,
    /// rejects and blocked. Copies elsewhere are yours to clean: the topic (its retention, or
    /// compaction), exports, backups.
    Gc(everpair::gc::GcArgs),
    /// Keeps an evaluation set's images, and copies of them, out: those to come and those live now.
    Block(everpair::benchmark::BlockArgs),
    /// Has rejected messages read again, after a fix of the config; see the table `rejects`.
    Replay(everpair::replay::ReplayArgs),
    /// What the tables hold, and the counters of the newest run.
    Status {
        #[command(flatten)]
        config: ConfigPath,
        /// JSON on stdout.
        #[arg(long)]
        json: bool,
    },
    /// Checks config, source, tables, encoders and annotator before a run, and explains each.
    Validate(everpair::validate::ValidateArgs),
    /// What a model would be asked, and what that would cost. Asks nothing, changes nothing.
    Plan(everpair::plan::PlanArgs),
    /// Requests to a model in files, for batches: export, import, list, cancel; and once again.
    #[command(subcommand)]
    Requests(everpair::annotator::openai::command::RequestsCommand),
    /// Proposes bands from a sample of the tables, or of a folder of images.
    Calibrate(everpair::calibrate::CalibrateArgs),
    /// Vectors of images and captions as a Parquet file: what an encoder gives, without a service.
    Embed(everpair::embed::EmbedArgs),
    /// Live rows of one epoch as files for training, or for programs that do not read Delta.
    Export(ExportArgs),
    /// Recomputes pairs and triplets by brute force and shows what differs.
    Verify {
        #[command(flatten)]
        config: ConfigPath,
        /// Check so many queries instead of all.
        #[arg(long, value_name = "N", value_parser = at_least_one)]
        sample: Option<usize>,
        /// JSON on stdout.
        #[arg(long)]
        json: bool,
    },
    /// What came into the triplets and what left them between two epochs: for incremental refresh.
    Changes(changes::ChangesArgs),
    /// Pins an epoch by a name, so that a training run can come back to it.
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// SQL that opens all tables at the versions of one epoch.
    Views(views::ViewsArgs),
    /// From a triplet back to its images, messages, scores, encoders, request, cost and instructions;
    /// of a pair or a request that made none, why.
    Explain(explain::ExplainArgs),
    /// Some triplets with their pictures, audits, costs and what was left out, as one HTML page.
    Gallery(everpair::gallery::command::GalleryArgs),
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("0 queries show nothing: 1 or more, or leave it out to check all".to_owned()),
        Ok(count) => Ok(count),
        Err(_) => Err("write a number, 1 or more".to_owned()),
    }
}

#[derive(Args)]
struct ConfigPath {
    /// The config file (TOML).
    #[arg(long = "config", value_name = "FILE")]
    path: PathBuf,
}

/// Set by SIGINT or SIGTERM: no new epochs, commit what is closed, end. A second one ends at once.
static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    // As many threads as there are cores may ask for memory at once.
    kernels::heap::keep_at_most(
        std::thread::available_parallelism().map_or(1, |cores| cores.get()),
    );
    let command = Cli::parse().command;
    let logging = match &command {
        Command::Run { log, .. } => log::start(log),
        _ => {
            log::start_plain();
            Ok(())
        }
    };
    let ended = logging.and_then(|()| work(command));
    // A reader that has enough (`| head -1`) changes no exit code: the code tells of the work, which
    // went on to its end. SIGPIPE stays ignored, for it would kill a service or a push whose broker
    // or store hangs up. What else standard output refused, a full disk, is data that is lost.
    let ended = ended.and(print::finish().context("write to standard output"));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::failed(&error);
            ExitCode::from(if error.is::<BadConfig>() { 2 } else { 1 })
        }
    }
}

fn work(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Demo(options) => demo::demo(&options),
        Command::Run { config, until_caught_up, apply, .. } => {
            run(&config, RunOptions { until_caught_up, apply })
        }
        Command::Push(args) => cli::push(&args),
        Command::Takedown(args) => cli::takedown(&args),
        Command::Gc(args) => everpair::gc::gc(&args),
        Command::Block(args) => everpair::benchmark::block(&args),
        Command::Replay(args) => everpair::replay::replay(&args),
        Command::Status { config, json } => show_status(&config, json),
        Command::Validate(args) => everpair::validate::validate(&args),
        Command::Plan(args) => everpair::plan::run(&args),
        Command::Requests(command) => everpair::annotator::openai::command::run(&command),
        Command::Calibrate(args) => everpair::calibrate::calibrate(&args),
        Command::Embed(args) => everpair::embed::embed(&args),
        Command::Export(args) => export::export(&args),
        Command::Verify { config, sample, json } => run_verify(&config, sample, json),
        Command::Changes(args) => changes::run(&args),
        Command::Snapshot(command) => snapshot::run(&command),
        Command::Views(args) => views::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Gallery(args) => everpair::gallery::command::run(&args),
    }
}

fn run(config: &ConfigPath, options: RunOptions) -> anyhow::Result<()> {
    let config = cli::read_config(&config.path)?;
    // A worker that panics would leave the others waiting for it for ever. A decoder that panics on
    // a stranger's bytes is caught where it is called, and its message becomes a reject.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !kernels::decode::panics_are_contained() {
            report(info);
            std::process::abort();
        }
    }));
    let within = config.service.stop_within;
    cli::on_signal(move || {
        if STOP.swap(true, Ordering::AcqRel) {
            std::process::exit(1);
        }
        tracing::info!("stopping: committing the epochs that are open; once more to stop at once");
        cli::end_within(within);
    })?;
    cli::warn_builtin(&config);
    service::run(&config, options, &STOP)
}

fn show_status(config: &ConfigPath, json: bool) -> anyhow::Result<()> {
    let status = status::status(&cli::read_config(&config.path)?)?;
    if json {
        outln!("{status:#}");
    } else {
        status::print(&status);
    }
    Ok(())
}

fn run_verify(config: &ConfigPath, sample: Option<usize>, json: bool) -> anyhow::Result<()> {
    let report = verify::verify(&cli::read_config(&config.path)?, sample)?;
    if json {
        outln!("{:#}", report.to_json());
    } else {
        report.print();
    }
    if report.differences_count > 0 {
        anyhow::bail!(
            "the tables differ from the rules in {} places; please report this with the lines above",
            report.differences_count
        );
    }
    Ok(())
}
