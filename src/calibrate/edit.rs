//! Bands into a config file, by hand's rules: what a person wrote stays as it is, byte for byte.
//!
//! The parser says where a key stands; the text is changed there and nowhere else. Then the new
//! text is read again, and unless it says exactly what the old one said with the new bands, nothing
//! is written.

use std::{fs, io::Write as _, ops::Range, path::Path};

use anyhow::{Context, bail};
use schemas::{Channel, config::Config};
use toml::de::DeTable;

/// What is written for one channel.
#[derive(Clone, Debug, PartialEq)]
pub struct NewBand {
    pub channel: Channel,
    /// Ascending; `[low, high]` where it is one, a list of them else.
    pub bands: Vec<(f64, f64)>,
    /// Lines without a mark of comment: why.
    pub why: Vec<String>,
}

/// Begins each line of a comment that is ours, so that the next calibration can replace it.
const MARK: &str = "# calibrate: ";

impl NewBand {
    /// `band = [...]`.
    fn assignment(&self) -> String {
        format!("band = {}", self.value())
    }

    fn value(&self) -> String {
        let band = |(low, high): &(f64, f64)| format!("[{low:.3}, {high:.3}]");
        match self.bands.as_slice() {
            [one] => band(one),
            many => format!("[{}]", many.iter().map(band).collect::<Vec<_>>().join(", ")),
        }
    }

    fn comment(&self, indent: &str, newline: &str) -> String {
        self.why.iter().map(|line| format!("{indent}{MARK}{line}{newline}")).collect()
    }

    /// The section as it would stand in a file.
    pub fn snippet(&self) -> String {
        let name = self.channel.as_str();
        format!("[channels.{name}]\n{}{}\n", self.comment("", "\n"), self.assignment())
    }
}

/// The text with the bands in it.
///
/// # Errors
/// The text is no TOML, or a band cannot be put there without touching what else it says; the
/// message says what to write instead.
pub fn edit(text: &str, bands: &[NewBand]) -> anyhow::Result<String> {
    let mut edited = text.to_owned();
    for band in bands {
        edited = edit_one(&edited, band).with_context(|| {
            format!(
                "nothing was written: this has to be put there by hand:\n{}",
                band.snippet().trim_end()
            )
        })?;
    }
    let mut wanted: toml::Table = toml::from_str(text).context("read the config")?;
    for band in bands {
        set(&mut wanted, band)?;
    }
    let found: toml::Table = toml::from_str(&edited).context("read the edited config")?;
    if found != wanted {
        bail!("the edited config would not say what it should; nothing was written");
    }
    Config::parse(&edited).context("the edited config")?;
    Ok(edited)
}

/// Changes the file, in place of the old one at once or not at all.
///
/// # Errors
/// As [`edit`], or the file cannot be written; then it is as it was.
pub fn write(path: &Path, bands: &[NewBand]) -> anyhow::Result<()> {
    let place = || path.display().to_string();
    // What a link points to is meant, not the link.
    let path = fs::canonicalize(path).with_context(place)?;
    let text = fs::read_to_string(&path).with_context(place)?;
    let edited = edit(&text, bands).with_context(place)?;
    let folder = path.parent().context("a file is in a folder")?;
    let name = path.file_name().context("a file has a name")?.to_string_lossy();
    let beside = folder.join(format!(".{name}.calibrate-{}", std::process::id()));
    let permissions = fs::metadata(&path).with_context(place)?.permissions();
    let written = fs::File::create_new(&beside).and_then(|mut file| {
        file.write_all(edited.as_bytes())?;
        file.set_permissions(permissions)?;
        file.sync_all()?;
        fs::rename(&beside, &path)
    });
    if let Err(error) = written {
        // It is ours alone; if even this fails the name says whose it is.
        let _ = fs::remove_file(&beside);
        return Err(error).with_context(place);
    }
    Ok(())
}

fn set(table: &mut toml::Table, band: &NewBand) -> anyhow::Result<()> {
    let inner = |table: &mut toml::Table, name: &str| -> anyhow::Result<()> {
        let entry = table.entry(name).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        if entry.is_table() { Ok(()) } else { bail!("{name} is no table") }
    };
    inner(table, "channels")?;
    let channels = table["channels"].as_table_mut().context("channels is a table")?;
    inner(channels, band.channel.as_str())?;
    let channel = channels[band.channel.as_str()].as_table_mut().context("a table")?;
    let value: toml::Table = toml::from_str(&band.assignment())?;
    channel.insert("band".into(), value["band"].clone());
    Ok(())
}

fn edit_one(text: &str, band: &NewBand) -> anyhow::Result<String> {
    let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let parsed = DeTable::parse(text).context("read the config")?;
    let name = band.channel.as_str();
    let channels = parsed.get_ref().get("channels");
    let channel = channels.and_then(|c| c.get_ref().as_table()).and_then(|c| c.get(name));
    let Some(channel) = channel else {
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { newline };
        let section = band.snippet().replace('\n', newline);
        return Ok(format!("{text}{end}{newline}{section}"));
    };
    let Some(table) = channel.get_ref().as_table() else { bail!("[channels.{name}] is no table") };
    if let Some((key, value)) = table.iter().find(|(key, _)| key.get_ref() == "band") {
        return Ok(replace(text, key.span(), value.span(), band, newline));
    }
    let header = channel.span();
    let line_end = text[header.end..].find('\n').map(|at| header.end + at + 1);
    if !text[header.clone()].starts_with('[') {
        bail!("[channels.{name}] is not written as a section of its own");
    }
    let (before, after) = text.split_at(line_end.unwrap_or(text.len()));
    let end = if before.ends_with('\n') { "" } else { newline };
    let comment = band.comment("", newline);
    Ok(format!("{before}{end}{comment}{}{newline}{after}", band.assignment()))
}

/// Puts the value in place, and the comment above its line in place of the one that stood there.
fn replace(
    text: &str,
    key: Range<usize>,
    value: Range<usize>,
    band: &NewBand,
    newline: &str,
) -> String {
    let line = text[..key.start].rfind('\n').map_or(0, |at| at + 1);
    let indent: String = text[line..].chars().take_while(|c| *c == ' ' || *c == '\t').collect();
    let mut from = line;
    while let Some(above) = from.checked_sub(1) {
        let start = text[..above].rfind('\n').map_or(0, |at| at + 1);
        if !text[start..above].trim_start().starts_with(MARK.trim_end()) {
            break;
        }
        from = start;
    }
    let (head, middle, tail) = (&text[..from], &text[line..value.start], &text[value.end..]);
    format!("{head}{}{middle}{}{tail}", band.comment(&indent, newline), band.value())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn band(channel: Channel, bands: &[(f64, f64)]) -> NewBand {
        let why = vec!["because of this".into(), "and of that".into()];
        NewBand { channel, bands: bands.to_vec(), why }
    }

    const ODD: &str = "# mine\n [ source ]   # odd\nfiles=[ 'log/*.jsonl' ,]\n\n[tables]\n\
        root  =  \"tables\"\n\n[ channels . semantic ] # look\n\tencoder = \"builtin:layout\"\n\
        \t# calibrate: old\n\tband   = [ 0.10 ,\n\t 0.2 ] # tail\n\tneighbors=7\n\
        [channels.pattern]\nneighbors = 4  # four\n[epoch]\nlinger = \"50 ms\"";

    #[test]
    fn what_a_person_wrote_stays_byte_for_byte() {
        let bands = [
            band(Channel::Semantic, &[(0.5, 0.9)]),
            band(Channel::Pattern, &[(0.25, 0.5), (0.5, 0.75)]),
            band(Channel::Caption, &[(-0.1, 0.999)]),
        ];
        let edited = edit(ODD, &bands).unwrap();
        let ours = "# calibrate: because of this\n# calibrate: and of that\n";
        let want = ODD
            .replace(
                "\t# calibrate: old\n\tband   = [ 0.10 ,\n\t 0.2 ] # tail",
                "\t# calibrate: because of this\n\t# calibrate: and of that\n\tband   = [0.500, 0.900] # tail",
            )
            .replace(
                "[channels.pattern]\n",
                &format!("[channels.pattern]\n{ours}band = [[0.250, 0.500], [0.500, 0.750]]\n"),
            )
            + &format!("\n\n[channels.caption]\n{ours}band = [-0.100, 0.999]\n");
        assert_eq!(edited, want);
        assert_eq!(edit(&edited, &bands).unwrap(), edited, "a second time changes nothing");
    }

    #[test]
    fn windows_line_ends_stay() {
        let text =
            "[source]\r\nfiles = [\"l\"]\r\n[tables]\r\nroot = \"t\"\r\n[channels.caption]\r\n";
        let edited = edit(text, &[band(Channel::Caption, &[(0.1, 0.2)])]).unwrap();
        assert!(edited.starts_with(text));
        assert_eq!(edited.matches('\n').count(), edited.matches("\r\n").count());
        assert!(edited.ends_with("band = [0.100, 0.200]\r\n"));
    }

    #[test]
    fn what_cannot_be_edited_safely_is_refused_with_the_lines_to_write() {
        let least = "source.files = [\"l\"]\ntables.root = \"t\"\n";
        for odd in [
            "channels = { semantic = { neighbors = 3 } }\n",
            "channels.semantic.neighbors = 3\n",
            "[channels]\nsemantic = { neighbors = 3 }\n",
            "[channels]\nsemantic.neighbors = 3\n",
        ] {
            let text = format!("{least}{odd}");
            Config::parse(&text).unwrap();
            let refused = edit(&text, &[band(Channel::Semantic, &[(0.1, 0.2)])]).unwrap_err();
            let refused = format!("{refused:#}");
            assert!(refused.contains("band = [0.100, 0.200]"), "{odd}: {refused}");
        }
        // Where a band stands already, any way of writing will do.
        let text = format!("{least}channels = {{ semantic = {{ band = [0.3, 0.4] }} }}\n");
        let edited = edit(&text, &[band(Channel::Semantic, &[(0.1, 0.2)])]).unwrap();
        assert!(edited.contains("{ semantic = { band = [0.100, 0.200] } }"), "{edited}");
        assert!(edit("[tables", &[band(Channel::Semantic, &[(0.1, 0.2)])]).is_err());
    }
}
