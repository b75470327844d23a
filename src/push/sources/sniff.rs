//! What a stream is by its first bytes, so that one who names it wrongly is told once, and not of
//! every line of a tar that is no JSON.

use std::io::{Cursor, Read};

/// Enough to know a tar by.
const HEAD: usize = 512;
const USTAR_AT: usize = 257;

/// What a stream is, if it is not what it is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tar,
    /// gzip, zip, zstd, bzip2 or xz: the name.
    Compressed(&'static str),
    Parquet,
    Image,
    /// Text, as far as these bytes tell.
    Text,
    /// Something else that no text has.
    Binary,
}

/// Reads the beginning, up to the end of its first line: a list that grows while it is read is not
/// waited for. Gives the whole again.
pub fn head<R: Read>(mut reader: R) -> Result<(Kind, impl Read), String> {
    let mut head = Vec::with_capacity(HEAD);
    let mut part = [0; HEAD];
    while head.len() < HEAD && !head.contains(&b'\n') {
        match reader.read(&mut part[..HEAD - head.len()]) {
            Ok(0) => break,
            Ok(count) => head.extend_from_slice(&part[..count]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.to_string()),
        }
    }
    let kind = kind_of(&head);
    Ok((kind, Cursor::new(head).chain(reader)))
}

fn kind_of(head: &[u8]) -> Kind {
    let compressed = [
        (&b"\x1f\x8b"[..], "gzip"),
        (b"PK\x03\x04", "zip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"BZh", "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
    ];
    if head.get(USTAR_AT..).is_some_and(|rest| rest.starts_with(b"ustar")) {
        Kind::Tar
    } else if let Some((_, name)) = compressed.iter().find(|(magic, _)| head.starts_with(magic)) {
        Kind::Compressed(name)
    } else if head.starts_with(b"PAR1") {
        Kind::Parquet
    } else if kernels::decode::Format::of(head).is_some() {
        Kind::Image
    } else if head.contains(&0) {
        Kind::Binary
    } else {
        Kind::Text
    }
}

/// Why a stream cannot be read as lines of JSON; nothing where it can.
pub fn no_list(kind: Kind) -> Option<String> {
    let why = match kind {
        Kind::Text => return None,
        Kind::Tar => "this is a tar: --stdin tar, or name it as NAME.tar".to_owned(),
        Kind::Binary => {
            "this is no text, and a list is lines of JSON; a tar wants --stdin tar".to_owned()
        }
        other => of_no_stream(other)?,
    };
    Some(why)
}

/// Why it cannot be read as a tar; nothing where it can, or where only its end tells.
pub fn no_tar(kind: Kind) -> Option<String> {
    match kind {
        Kind::Tar | Kind::Binary => None,
        Kind::Text => Some("this is text and no tar: a list wants no --stdin tar".to_owned()),
        other => of_no_stream(other),
    }
}

fn of_no_stream(kind: Kind) -> Option<String> {
    match kind {
        Kind::Compressed("zip") => {
            Some("this is a zip file: unpack it and name the folder".to_owned())
        }
        Kind::Compressed(name) => Some(format!(
            "this is compressed with {name}: unpack it on the way, as in zcat FILE.tar.gz | \
             everpair push - --stdin tar"
        )),
        Kind::Parquet => Some(
            "this is a Parquet file, which is read from its end: save it as NAME.parquet and name \
             that"
                .to_owned(),
        ),
        Kind::Image => Some("this is an image itself: name its file".to_owned()),
        Kind::Tar | Kind::Text | Kind::Binary => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a line, and must not be asked for more yet.
    struct Grows(&'static [u8]);

    impl Read for Grows {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            assert!(!self.0.is_empty(), "asked for what is not there yet");
            let count = self.0.len().min(10).min(into.len());
            into[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn a_first_line_is_enough() {
        let line = b"{\"path\": \"a.jpg\"}\n";
        let (kind, mut whole) = head(Grows(line)).unwrap();
        assert_eq!(kind, Kind::Text);
        let mut again = vec![0; line.len()];
        whole.read_exact(&mut again).unwrap();
        assert_eq!(again, line);
    }

    #[test]
    fn streams_are_known_by_their_first_bytes() {
        let mut tar = ::tar::Builder::new(Vec::new());
        let mut header = ::tar::Header::new_ustar();
        header.set_size(1);
        tar.append_data(&mut header, "{", &b"x"[..]).unwrap();
        let tar = tar.into_inner().unwrap();
        let jpeg = crate::scenes::scene(0, 3).jpeg_or_png;
        for (bytes, kind) in [
            (&tar[..], Kind::Tar),
            (b"\x1f\x8b\x08", Kind::Compressed("gzip")),
            (b"PK\x03\x04..", Kind::Compressed("zip")),
            (b"PAR1\x15", Kind::Parquet),
            (&jpeg, Kind::Image),
            (b"a\0b", Kind::Binary),
            (b"{\"path\": \"a.jpg\"}", Kind::Text),
            (b"", Kind::Text),
        ] {
            let (found, mut whole) = head(bytes).unwrap();
            assert_eq!(found, kind);
            assert_eq!(no_list(kind).is_none(), kind == Kind::Text);
            let may_be_tar = [Kind::Tar, Kind::Binary].contains(&kind);
            assert_eq!(no_tar(kind).is_none(), may_be_tar, "{kind:?}");
            let mut again = Vec::new();
            whole.read_to_end(&mut again).unwrap();
            assert_eq!(again, bytes);
        }
    }
}
