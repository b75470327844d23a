//! A naive search: the bytes of every object, and of every page of those that are Parquet.

use std::{collections::BTreeMap, fs, io::ErrorKind, path::Path};

use parquet::file::{
    reader::{FileReader, SerializedFileReader},
    serialized_reader::ReadOptionsBuilder,
};

use crate::service::place::files;

/// Something that must be nowhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Needle {
    pub kind: &'static str,
    pub bytes: Vec<u8>,
}

/// The bytes of all objects below a folder, by name: as they are, then page by page.
pub fn hay(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for (path, _) in files(root) {
        let name = path.strip_prefix(root).expect("below it").display().to_string();
        let mut bytes = match fs::read(&path) {
            // A service that runs replaces its pages.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            read => read.expect("a file can be read"),
        };
        if name.ends_with(".parquet") {
            bytes.extend(pages(&bytes));
        }
        all.insert(name, bytes);
    }
    all
}

fn pages(file: &[u8]) -> Vec<u8> {
    let file = bytes::Bytes::copy_from_slice(file);
    let options = ReadOptionsBuilder::new().build();
    let reader = SerializedFileReader::new_with_options(file, options).expect("Parquet");
    let mut all = Vec::new();
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group).expect("a row group");
        for column in 0..group.num_columns() {
            let mut pages = group.get_column_page_reader(column).expect("a column");
            while let Some(page) = pages.get_next_page().expect("a page") {
                all.extend_from_slice(page.buffer());
            }
        }
    }
    all
}

/// Whether bytes are somewhere in others.
pub fn holds(hay: &[u8], needle: &[u8]) -> bool {
    let Some((first, rest)) = needle.split_first() else { return false };
    let mut from = 0;
    while let Some(at) = hay[from..].iter().position(|byte| byte == first) {
        from += at + 1;
        if hay[from..].starts_with(rest) {
            return true;
        }
    }
    false
}

#[test]
fn the_search_finds_what_is_there() {
    assert!(holds(b"abcabd", b"abd") && holds(b"abd", b"abd") && holds(b"xxabd", b"abd"));
    assert!(!holds(b"abcab", b"abd") && !holds(b"", b"a"));
}
