//! Every kind of input, whole and broken.

use std::{fs::File, path::Path, sync::Arc};

use arrow_array::{
    ArrayRef, BinaryArray, Int64Array, LargeBinaryArray, RecordBatch, StringArray, StructArray,
};
use arrow_schema::{DataType, Field};
use base64::Engine as _;
use everpair::scenes;
use parquet::arrow::ArrowWriter;
use schemas::limits;
use serde_json::json;

use super::{args, envelope, folder, headers, names, push, push_to, pushed, text};

/// Writes a tar of members, in this order.
pub fn write_tar(path: &Path, members: &[(&str, &[u8])]) {
    let mut tar = tar::Builder::new(File::create(path).unwrap());
    for (name, bytes) in members {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *bytes).unwrap();
    }
    tar.finish().unwrap();
}

pub fn write_parquet(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, column)| (name, column, true)),
    );
    let batch = batch.unwrap();
    let mut writer =
        ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn strings(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

#[test]
fn lists_say_what_a_folder_cannot() {
    let images = folder();
    let list = images.path().join("list.jsonl");
    let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let jpeg = scenes::scene(0, 3).jpeg_or_png;
    let lines = [
        r#"{"path": "a.jpg", "id": "one", "caption": "said here", "source": "s", "licence": "l"}"#
            .to_owned(),
        String::new(),
        r#"{"file_name": "deep/c.webp", "more": 1}"#.to_owned(),
        r#"{"id": "no path"}"#.to_owned(),
        r#"{"path": "not there.jpg"}"#.to_owned(),
        r#"{"url": "https://example.org/x.jpg", "caption": "elsewhere"}"#.to_owned(),
        json!({ "id": "inside", "image": base64(&jpeg), "text": "t" }).to_string(),
        json!({ "image": base64(&jpeg) }).to_string(),
        r#"{"image": "d.gif", "license": "MIT"}"#.to_owned(),
        r#"{"image": "data:image/jpeg;base64,=="}"#.to_owned(),
        r#"{"path": "a.jpg", "id": "cut"#.to_owned(),
    ];
    std::fs::write(&list, lines.join("\n")).unwrap();
    let (report, said, records) = pushed(&[text(&list)]);
    let content = schemas::ContentId::of(&jpeg).hex();
    let mut ids = ["one", "deep/c.webp", "https://example.org/x.jpg", "inside", &content, "d.gif"];
    ids.sort();
    assert_eq!(records.keys().collect::<Vec<_>>(), ids, "{said}");
    let failed = names(&report.failed);
    let lines = [
        "list.jsonl line 4",
        "list.jsonl line 5 (not there.jpg)",
        "list.jsonl line 10",
        "list.jsonl line 11",
    ];
    assert_eq!(failed, lines, "{said}");
    assert!(said.contains("fields not sent: more; --attributes"), "{said}");
    let of_one = [("caption", "said here"), ("licence", "l"), ("source", "s")];
    assert_eq!(headers(&records["one"]), of_one);
    assert_eq!(records["inside"].value.as_ref(), Some(&jpeg));
    assert_eq!(headers(&records["inside"]), [("caption", "t")]);
    assert_eq!(headers(&records["d.gif"]), [("licence", "MIT")]);
    let elsewhere = json!({ "uri": "https://example.org/x.jpg", "caption": "elsewhere" });
    assert_eq!(envelope(&records["https://example.org/x.jpg"]), elsewhere);
    assert_eq!(report.referenced, 1);

    let csv = images.path().join("list.csv");
    std::fs::write(&csv, "id,path,caption,license\nsecond,d.gif,\"with, comma\",MIT\n,a.jpg,,\n")
        .unwrap();
    let (report, said, records) = pushed(&[text(&csv)]);
    assert_eq!((report.sent, report.failed.count), (2, 0), "{said}");
    assert_eq!(headers(&records["second"]), [("caption", "with, comma"), ("licence", "MIT")]);
    assert!(records.contains_key("a.jpg"));
    std::fs::write(&csv, "id,caption\nx,y\n").unwrap();
    let (report, ..) = pushed(&[text(&csv)]);
    assert!(report.failed.list[0].1.contains("it has id, caption"), "{:?}", report.failed);
    std::fs::write(&csv, "path,caption\na.jpg,y,z\n").unwrap();
    assert_eq!(names(&pushed(&[text(&csv)]).0.failed), ["list.csv row 1"]);
}

#[test]
fn what_an_image_field_holds_and_cannot_be_read_is_named_with_its_line_and_field() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list.jsonl");
    let jpeg = base64::engine::general_purpose::STANDARD.encode(scenes::scene(0, 3).jpeg_or_png);
    let lines = [
        json!({ "image": &jpeg[1..] }),
        json!({ "image": format!("{}!", &jpeg[..200]) }),
        json!({ "image": "aGVsbG8=" }),
        json!({ "jpg": "gone.jpg" }),
        json!({ "image": jpeg }),
    ];
    let lines = lines.map(|line| line.to_string()).join("\n");
    std::fs::write(&list, lines).unwrap();
    let (report, said, _) = pushed(&[text(&list)]);
    assert_eq!(report.sent, 1, "{said}");
    let places = [1, 2, 3, 4].map(|line| format!("list.jsonl line {line}"));
    assert_eq!(names(&report.failed), places);
    for ((_, why), (field, words)) in report.failed.list.iter().zip([
        ("image", "base64"),
        ("image", "as base64: Invalid symbol 33, offset 200"),
        ("image", "\"aGVsbG8=\" is neither an image in base64, nor an address, nor a file"),
        ("jpg", "\"gone.jpg\" is neither"),
    ]) {
        assert!(why.starts_with(&format!("field {field:?}: ")) && why.contains(words), "{why}");
        assert!(!why.contains("No such file") && why.len() < 250, "{why}");
    }
}

#[test]
fn hidden_files_and_folders_are_skipped_unless_they_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, name).unwrap();
    };
    for name in ["a.jpg", "b/c.jpg", "._a.jpg", ".git/d.jpg", "b/.thumbnails/e.jpg", "b/.f.jpg"] {
        write(name);
    }
    let (report, said, records) = pushed(&[text(dir.path())]);
    assert_eq!(records.keys().collect::<Vec<_>>(), ["a.jpg", "b/c.jpg"], "{said}");
    assert_eq!((report.sent, report.failed.count, report.left_alone), (2, 0, 0));
    let words = "4 hidden files and folders in it are skipped (._a.jpg, .git, b/.f.jpg, …)";
    assert!(said.contains(words), "{said}");
    let named = [".git", "._a.jpg", "b/*.jpg", "b/.f*"].map(|name| dir.path().join(name));
    let (_, said, records) = pushed(&named.each_ref().map(|path| text(path)));
    let keys: Vec<&str> = records.keys().map(String::as_str).collect();
    assert_eq!(keys, ["._a.jpg", ".f.jpg", "c.jpg", "d.jpg"], "{said}");
}

#[test]
fn a_name_that_is_there_is_no_pattern() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("a[1]*");
    std::fs::create_dir(&folder).unwrap();
    for name in ["x.jpg", "y?.jpg", "z[2].jpg"] {
        std::fs::write(folder.join(name), name).unwrap();
    }
    let keys = |words: &[&str]| -> Vec<String> { pushed(words).2.into_keys().collect() };
    assert_eq!(keys(&[text(&folder)]), ["x.jpg", "y?.jpg", "z[2].jpg"]);
    assert_eq!(keys(&[text(&folder.join("z[2].jpg"))]), ["z[2].jpg"]);
    assert_eq!(keys(&[text(&folder.join("[xy]*.jpg"))]), ["x.jpg", "y?.jpg"]);
    // As a target, too.
    let log = dir.path().join("log[0]*");
    let (report, said) = push_to(&log, &[text(&folder)]);
    assert_eq!(report.sent, 3, "{said}");
    assert_eq!(std::fs::read_dir(&log).unwrap().count(), push::NEW_LOG_FILES);
    let args = args(&[text(&dir.path().join("b[")), "--to", text(&log)]);
    let why = format!("{:#}", push::push(&args, None, &mut Vec::new()).unwrap_err());
    assert!(why.contains("there is no such file, and it is no pattern either"), "{why}");
}

#[test]
fn json_beside_an_image_in_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.jpg"), "a").unwrap();
    std::fs::write(dir.path().join("a.json"), r#"{"caption": "c", "url": "u:x", "w": 3}"#).unwrap();
    std::fs::write(dir.path().join("b.jpg"), "b").unwrap();
    std::fs::write(dir.path().join("b.json"), "[1]").unwrap();
    let (report, _, records) = pushed(&[text(dir.path())]);
    assert_eq!(headers(&records["a.jpg"]), [("caption", "c"), ("uri", "u:x")]);
    assert_eq!(names(&report.failed), ["b.jpg"]);
    assert_eq!(report.left_alone, 0);
}

#[test]
fn names_that_are_not_utf8_are_said() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(std::ffi::OsStr::from_bytes(b"\xff.jpg")), "a").unwrap();
    std::fs::write(dir.path().join("b.jpg"), "b").unwrap();
    let tar = tempfile::tempdir().unwrap();
    let file = tar.path().join("x.tar");
    write_tar(&file, &[("Xa.jpg", b"a"), ("b.jpg", b"b")]);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[0] = 0xff;
    // A header's checksum is the sum of its bytes.
    let sum: u32 = bytes[..512].iter().map(|byte| u32::from(*byte)).sum::<u32>()
        - bytes[148..156].iter().map(|byte| u32::from(*byte)).sum::<u32>()
        + 8 * 32;
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    std::fs::write(&file, bytes).unwrap();
    for input in [dir.path(), &file] {
        let (report, said, _) = pushed(&[text(input)]);
        assert_eq!((report.sent, report.failed.count), (1, 1), "{said}");
        assert!(said.contains("not UTF-8") && said.contains('\u{fffd}'), "{said}");
    }
}

#[test]
fn patterns_and_several_inputs() {
    let images = folder();
    let root = text(images.path());
    let (report, said, records) =
        pushed(&[&format!("{root}/**/*.[Pw]*"), &format!("{root}/a.jpg")]);
    assert_eq!(records.keys().collect::<Vec<_>>(), ["a.jpg", "deep/c.webp", "deep/er/b.PNG"]);
    assert_eq!(report.duplicates, 0, "{said}");
    let (report, said, _) = pushed(&[&format!("{root}/a.jpg"), &format!("{root}/*.jpg")]);
    assert_eq!((report.sent, report.duplicates), (2, 1));
    assert!(said.contains("id of an earlier one") && said.contains("a.jpg"), "{said}");
    for (input, why) in [
        (format!("{root}/*.webp"), "nothing matches"),
        (format!("{root}/none"), "No such file"),
        (format!("{root}/notes.md"), "neither a folder"),
        (format!("{root}/x.tar.gz"), "No such file"),
    ] {
        let log = tempfile::tempdir().unwrap();
        let args = super::args(&[&input, "--to", text(log.path())]);
        let error = everpair::push::push(&args, None, &mut Vec::new()).unwrap_err();
        assert!(format!("{error:#}").contains(why), "{error:#}");
    }
    let empty = tempfile::tempdir().unwrap();
    let (report, said, _) = pushed(&[text(empty.path())]);
    assert!(said.contains("there is no image in it") && report.failed.count == 0, "{said}");
    std::fs::write(empty.path().join("x.tar"), "").unwrap();
    let (_, said, _) = pushed(&[text(empty.path())]);
    assert!(said.contains("1 .tar and .parquet files in it are left alone"), "{said}");
}

#[test]
fn a_webdataset_tar() {
    let dir = tempfile::tempdir().unwrap();
    let tar = dir.path().join("00000.tar");
    let long = format!("{}/deep.jpg", "d".repeat(150));
    let huge = "x".repeat(limits::TEXT_BYTES_MAX + 1);
    let meta = json!({
        "url": "https://example.org/1.jpg", "caption": "of json", "key": "000000001",
        "status": "success", "width": 3, "license": "CC0",
    });
    write_tar(
        &tar,
        &[
            ("./000000000.jpg", b"zero"),
            ("./000000000.txt", "eine Überschrift\nin zwei Zeilen\n".as_bytes()),
            ("000000001.jpg", b"one"),
            ("000000001.json", meta.to_string().as_bytes()),
            ("000000002.json", br#"{"status": "failed_to_download"}"#),
            ("two.input.png", b"in"),
            ("two.output.png", b"out"),
            ("two.txt", b"both"),
            ("three.json", b"{broken"),
            ("three.webp", b"three"),
            ("four.jpg", b""),
            ("five.jpg", b"five"),
            ("five.txt", huge.as_bytes()),
            ("six.jpg", b"six"),
            ("six.txt", b"\xff\xfe"),
            ("seven.npy", b"left alone"),
            ("eight.txt", b"of an image that stands elsewhere"),
            (&long, b"long"),
        ],
    );
    let (report, said, records) = pushed(&[text(&tar), "--source", "a shard"]);
    let deep = "d".repeat(150) + "/deep";
    let ids = ["000000000", "000000001", &deep, "two.input.png", "two.output.png"];
    assert_eq!(records.keys().collect::<Vec<_>>(), ids, "{said}");
    assert_eq!(
        names(&report.failed),
        [
            "00000.tar: three",
            "00000.tar: four.jpg",
            "00000.tar: five.jpg",
            "00000.tar: six",
            "00000.tar: eight"
        ]
    );
    assert!(said.contains("16385 bytes, at most 16384"), "{said}");
    assert_eq!(names(&report.skipped), ["00000.tar: 000000002"]);
    assert!(report.skipped.list[0].1.contains("failed_to_download"));
    assert_eq!(report.left_alone, 1);
    let zero = [("caption", "eine Überschrift\nin zwei Zeilen"), ("source", "a shard")];
    assert_eq!(headers(&records["000000000"]), zero);
    let one = [
        ("caption", "of json"),
        ("licence", "CC0"),
        ("source", "a shard"),
        ("uri", "https://example.org/1.jpg"),
    ];
    assert_eq!(headers(&records["000000001"]), one);
    assert_eq!(records["000000001"].value.as_deref(), Some(&b"one"[..]));
    assert_eq!(headers(&records["two.output.png"])[0], ("caption", "both"));

    let (report, _, records) = pushed(&[text(&tar), "--by", "reference"]);
    assert_eq!((report.sent, report.referenced), (1, 1));
    let uri = json!({ "caption": "of json", "licence": "CC0", "uri": "https://example.org/1.jpg" });
    assert_eq!(envelope(&records["000000001"]), uri);
    let (_, _, records) = pushed(&[text(&tar), "--attributes"]);
    let sent = envelope(&records["000000001"]);
    assert_eq!(sent["width"], 3);
    assert_eq!(sent["image"], "b25l");
    let (_, _, records) = pushed(&[text(&tar), "--id", "content"]);
    assert!(records.contains_key(&schemas::ContentId::of(b"one").hex()));
}

#[test]
fn what_a_cut_tar_still_has_is_sent_and_the_cut_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let tar = dir.path().join("x.tar");
    write_tar(&tar, &[("a.jpg", &[7; 700]), ("a.txt", b"c"), ("b.jpg", &[8; 20])]);
    let whole = std::fs::read(&tar).unwrap();
    let ends = 4 * 512 + 2 * 512 + 512;
    for length in (1..whole.len()).step_by(97).chain([512, 2048, 3072, 4096, ends]) {
        std::fs::write(&tar, &whole[..length]).unwrap();
        let (report, said, _) = pushed(&[text(&tar)]);
        let complete = length >= 512 * 8;
        assert_eq!(report.failed.count == 0, complete, "{length} of {}: {said}", whole.len());
        assert!(report.sent <= 2);
    }
    let mut broken = whole.clone();
    broken[3 * 512 + 20] ^= 0x55;
    std::fs::write(&tar, broken).unwrap();
    let (report, said, _) = pushed(&[text(&tar)]);
    assert_eq!((report.sent, report.failed.count), (1, 1), "{said}");
    assert!(said.contains("checksum"), "{said}");
    std::fs::write(&tar, "").unwrap();
    assert_eq!(pushed(&[text(&tar)]).0.failed.list[0].1, "the file is empty");
}

/// As `datasets` writes images.
fn hugging_face(images: &[Option<(&[u8], &str)>]) -> ArrayRef {
    let bytes: Vec<Option<&[u8]>> = images.iter().map(|i| i.map(|(bytes, _)| bytes)).collect();
    let paths: Vec<Option<&str>> = images.iter().map(|i| i.map(|(_, path)| path)).collect();
    let fields = [DataType::Binary, DataType::Utf8].into_iter().zip(["bytes", "path"]);
    let fields: Vec<Field> = fields.map(|(kind, name)| Field::new(name, kind, true)).collect();
    let columns: Vec<ArrayRef> =
        vec![Arc::new(BinaryArray::from(bytes)), Arc::new(StringArray::from(paths))];
    let nulls = images.iter().map(Option::is_some).collect::<Vec<bool>>();
    Arc::new(StructArray::new(fields.into(), columns, Some(nulls.into())))
}

#[test]
fn parquet_with_images() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("train.parquet");
    let images = hugging_face(&[Some((b"one", "1.jpg")), None, Some((b"three", "3.jpg"))]);
    let captions = strings(&[Some("first"), Some("second"), None]);
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![11, 12, 13]));
    let url = strings(&[Some("https://e/1"), Some("https://e/2"), None]);
    let columns =
        vec![("Image", images.clone()), ("id", ids), ("TEXT", captions), ("url", url.clone())];
    write_parquet(&file, columns);
    let (report, said, records) = pushed(&[text(&file)]);
    assert!(said.contains("image = Image, id = id, caption = TEXT, uri = url"), "{said}");
    assert_eq!(records.keys().collect::<Vec<_>>(), ["11", "13"]);
    assert_eq!(names(&report.skipped), ["train.parquet row 2"]);
    assert_eq!(headers(&records["11"]), [("caption", "first"), ("uri", "https://e/1")]);
    assert_eq!(records["13"].value.as_deref(), Some(&b"three"[..]));
    let (report, _, records) = pushed(&[text(&file), "--by", "reference"]);
    assert_eq!((report.referenced, report.failed.count), (2, 1));
    let second = json!({ "uri": "https://e/2", "caption": "second" });
    assert_eq!(envelope(&records["12"]), second);
    let words = [text(&file), "--id-column", "url", "--caption-column", "id", "--attributes"];
    let (_, _, records) = pushed(&words);
    let sent = json!({ "image": "b25l", "caption": "11", "TEXT": "first" });
    assert_eq!(envelope(&records["https://e/1"]), sent);

    // img2dataset's own format, and a column of another name.
    let jpg: ArrayRef = Arc::new(LargeBinaryArray::from(vec![Some(&b"j"[..]), None]));
    let status = strings(&[Some("success"), Some("failed_to_download")]);
    let keys = strings(&[Some("000"), Some("001")]);
    write_parquet(&file, vec![("jpg", jpg.clone()), ("key", keys), ("status", status)]);
    let (report, said, records) = pushed(&[text(&file)]);
    assert_eq!(records.keys().collect::<Vec<_>>(), ["000"]);
    assert!(report.skipped.list[0].1.contains("failed"), "{said}");
    let columns = vec![("x", jpg.clone()), ("y", jpg.clone()), ("n", strings(&[None, None]))];
    write_parquet(&file, columns);
    for (words, why) in [
        (vec![], "several columns may hold the images: --image-column, one of x, y"),
        (vec!["--image-column", "n"], "not binary"),
        (vec!["--id-column", "z"], "no column z; it has x (Binary), y"),
        (vec!["--by", "reference"], "no column of addresses"),
    ] {
        let (report, said, _) = pushed(&[vec![text(&file)], words].concat());
        let why = why.replace("x (Binary)", "x (LargeBinary)");
        assert!(report.failed.list[0].1.contains(&why), "{said}");
    }
    let (_, _, records) = pushed(&[text(&file), "--image-column", "y"]);
    assert!(records.contains_key(&schemas::ContentId::of(b"j").hex()));
    write_parquet(&file, vec![("url", url)]);
    let (report, ..) = pushed(&[text(&file)]);
    assert!(report.failed.list[0].1.contains("--by reference to send its url"));
}

#[test]
fn the_parquet_file_beside_a_tar_says_what_its_members_do_not() {
    let dir = tempfile::tempdir().unwrap();
    write_tar(
        &dir.path().join("00000.tar"),
        &[("000.jpg", b"zero"), ("001.jpg", b"one"), ("001.txt", b"in the tar")],
    );
    let columns = vec![
        ("key", strings(&[Some("000"), Some("001")])),
        ("caption", strings(&[Some("beside"), Some("not this")])),
        ("url", strings(&[Some("https://e/0"), Some("https://e/1")])),
    ];
    write_parquet(&dir.path().join("00000.parquet"), columns);
    let (report, said, records) = pushed(&[&format!("{}/0*", text(dir.path()))]);
    assert_eq!(headers(&records["000"]), [("caption", "beside"), ("uri", "https://e/0")]);
    assert_eq!(headers(&records["001"]), [("caption", "in the tar"), ("uri", "https://e/1")]);
    assert_eq!((report.sent, report.failed.count, report.left_alone), (2, 0, 1), "{said}");
}

#[test]
fn a_cut_parquet_file_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.parquet");
    let noise: Vec<Vec<u8>> = (0..40u8).map(|i| vec![i; 500]).collect();
    let bytes: ArrayRef = Arc::new(BinaryArray::from_iter_values(&noise));
    write_parquet(&file, vec![("image", bytes)]);
    let whole = std::fs::read(&file).unwrap();
    for length in (0..whole.len()).step_by(whole.len() / 23) {
        std::fs::write(&file, &whole[..length]).unwrap();
        let (report, said, _) = pushed(&[text(&file)]);
        assert_eq!((report.sent, report.failed.count), (0, 1), "{length}: {said}");
    }
    // Broken within, its footer whole.
    for at in (4..whole.len() / 2).step_by(whole.len() / 29) {
        let mut broken = whole.clone();
        broken[at..at + 8].copy_from_slice(&[0xff; 8]);
        std::fs::write(&file, &broken).unwrap();
        let (report, said, _) = pushed(&[text(&file)]);
        assert!(report.sent == 40 || report.failed.count > 0, "{at}: {said}");
    }
}
