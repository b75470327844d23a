//! `everpair gallery`: the dataset of one epoch as a page to look at.

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::Context;
use clap::Args;
use schemas::tables::ImageRow;

use super::{
    GalleryPage,
    read::{Most, read},
    render,
};
use crate::{
    cli::read_config,
    dataset::{At, Dataset},
    metrics::turned,
    outln,
    service::open_tables,
};

/// Arguments of the command.
#[derive(Args, Debug)]
pub struct GalleryArgs {
    /// The config file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Where the page goes: one HTML file with everything in it.
    #[arg(long, value_name = "FILE", default_value = "gallery.html")]
    pub out: PathBuf,
    /// Triplets on the page, at most.
    #[arg(long, value_name = "N", default_value_t = 48)]
    pub count: usize,
    /// The epoch or the snapshot that is shown.
    #[arg(long, value_name = "EPOCH|SNAPSHOT|latest", default_value = "latest")]
    pub at: At,
}

/// Runs the command.
///
/// # Errors
/// The tables cannot be read, or the file cannot be written.
pub fn run(args: &GalleryArgs) -> anyhow::Result<()> {
    let config = read_config(&args.config)?;
    let dataset = Dataset::open(&open_tables(&config)?, &args.at)?;
    let images: Vec<ImageRow> = dataset.rows()?;
    let most = Most { triplets: args.count, turned_away: args.count / 4 };
    let shown = read(&dataset, &config, &images, most)?;
    let contents: BTreeSet<&str> = images.iter().map(|row| row.content_id.as_str()).collect();
    let of_answers = shown.rejects.iter().filter(|row| row.request_id.is_some());
    let (left_out, reasons) = turned::top_reasons(of_answers.map(|row| (row.reason.as_str(), 1)));
    let subtitle = match left_out {
        0 => "No instruction was left out.".to_owned(),
        _ => format!("Answers and instructions left out: {reasons}."),
    };
    let page = GalleryPage {
        title: format!("{} triplets from {} images", shown.triplets_count, contents.len()),
        subtitle: format!("As of epoch {}. {subtitle}", dataset.epoch()),
        summary: vec![
            ("live images".into(), images.len().to_string()),
            ("triplets".into(), shown.triplets_count.to_string()),
            ("shown here".into(), shown.triplets.len().to_string()),
            ("left out of answers".into(), left_out.to_string()),
        ],
        triplets: shown.triplets,
        turned_away: shown.turned_away,
        footnote: format!(
            "Everything on this page is in the tables. Where it comes from: everpair explain --config \
             {} --query ID --target ID",
            args.config.display()
        ),
        ..GalleryPage::default()
    };
    std::fs::write(&args.out, render(&page))
        .with_context(|| format!("write {}", args.out.display()))?;
    outln!("{}", args.out.display());
    Ok(())
}
