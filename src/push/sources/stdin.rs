//! Standard input: a list in JSON, or a tar.

use std::{io::BufReader, path::PathBuf};

use clap::ValueEnum;

use super::{Extent, Opened, Wanted, list::List, sniff, tar};

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
    let (is, reader) = sniff::head(std::io::stdin())?;
    let cannot = match kind {
        StdinKind::List => sniff::no_list(is),
        StdinKind::Tar => sniff::no_tar(is),
    };
    if let Some(why) = cannot {
        return Err(why);
    }
    let reader = BufReader::new(reader);
    Ok(match kind {
        StdinKind::List => {
            let list = List { name, folder: PathBuf::new(), columns: wanted.columns.clone() };
            Opened::new(list.lines(reader), Extent::Unknown)
        }
        StdinKind::Tar => Opened::new(tar::samples(name, reader, None, wanted)?, Extent::Unknown),
    })
}
