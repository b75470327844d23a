//! Standard input: a list in JSON, or a tar.

use std::{io::BufReader, path::PathBuf};

use clap::ValueEnum;

use super::{Extent, Opened, Wanted, list::List, tar};

/// What stands in standard input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum StdinKind {
    /// Lines of JSON, paths from the current folder on.
    #[default]
    List,
    /// A WebDataset tar.
    Tar,
}

pub fn open(kind: StdinKind, wanted: &Wanted) -> Result<Opened, String> {
    let name = "standard input".to_owned();
    let reader = BufReader::new(std::io::stdin());
    Ok(match kind {
        StdinKind::List => {
            let list = List { name, folder: PathBuf::new(), columns: wanted.columns.clone() };
            Opened::new(list.lines(reader), Extent::Unknown)
        }
        StdinKind::Tar => Opened::new(tar::samples(name, reader, None, wanted)?, Extent::Unknown),
    })
}
