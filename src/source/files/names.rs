//! From patterns to files, and from a file's name to its partition.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use schemas::limits;

use crate::source::SourceError;

/// Every file that a pattern matches, by partition. A folder that does not exist has no files.
pub fn list(patterns: &[String]) -> Result<BTreeMap<i32, PathBuf>, SourceError> {
    let mut found: BTreeMap<i32, PathBuf> = BTreeMap::new();
    for path in patterns.iter().map(|p| expand(p)).collect::<Result<Vec<_>, _>>()?.concat() {
        let partition = partition_of(&path)?;
        match found.insert(partition, path.clone()) {
            Some(other) if other != path => {
                return Err(SourceError::Unusable(format!(
                    "{} and {} are both partition {partition}: a file's partition is the number \
                     that its name ends in (0 without one); rename one of them",
                    other.display(),
                    path.display()
                )));
            }
            _ => {}
        }
    }
    if found.len() > limits::LOG_FILES_MAX {
        let (n, max) = (found.len(), limits::LOG_FILES_MAX);
        return Err(SourceError::Unusable(format!("{n} files in the log, at most {max}")));
    }
    Ok(found)
}

/// Splits a pattern into its folder and the pattern of the file's name.
pub fn split(pattern: &str) -> (&Path, &str) {
    let (folder, name) = pattern.rsplit_once('/').unwrap_or((".", pattern));
    (Path::new(if folder.is_empty() { "/" } else { folder }), name)
}

fn expand(pattern: &str) -> Result<Vec<PathBuf>, SourceError> {
    // A folder is what its name says, `*` and all: the config has no pattern there.
    let (folder, name) = split(pattern);
    if !name.contains('*') {
        let path = folder.join(name);
        return Ok(if path.is_file() { vec![path] } else { vec![] });
    }
    let cannot = |e| SourceError::Unusable(format!("{}: {e}", folder.display()));
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        entries => entries.map_err(cannot)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(cannot)?;
        if entry.file_name().to_str().is_some_and(|n| matches(name, n)) && entry.path().is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}

/// Whether a file's name fits a pattern in which `*` stands for any characters, or none.
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

fn partition_of(path: &Path) -> Result<i32, SourceError> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = stem.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = &stem[name.len()..];
    if digits.is_empty() {
        return Ok(0);
    }
    digits.parse().map_err(|_| {
        let why = "the number that a log file's name ends in is its partition; at most";
        SourceError::Unusable(format!("{}: {why} {}", path.display(), i32::MAX))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, fits) in [
            ("*.jsonl", "part-00000.jsonl", true),
            ("*.jsonl", ".jsonl", true),
            ("*.jsonl", "a.jsonl.tmp", false),
            ("a*b*c", "abc", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("plain", "plain", true),
            ("plain", "plain2", false),
            ("*", "anything", true),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
        assert_eq!(split("/*.jsonl"), (Path::new("/"), "*.jsonl"));
        assert_eq!(split("*.jsonl"), (Path::new("."), "*.jsonl"));
    }

    #[test]
    fn partitions_depend_on_the_name_alone() {
        let of = |name: &str| partition_of(Path::new(name));
        assert_eq!(of("log/part-00003.jsonl"), Ok(3));
        assert_eq!(of("elsewhere/x12.jsonl"), Ok(12));
        assert_eq!(of("images.jsonl"), Ok(0));
        assert!(of("x99999999999.jsonl").is_err());
    }
}
