//! The training example learns from a real export: `tests/run long`, which installs PyTorch.

use std::{path::Path, process::Command};

use serde_json::Value;

/// Runs a command to its end, which must be a good one; gives its standard output.
fn run(command: &mut Command) -> String {
    let output = command.output().expect("the program starts");
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{err}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn the_example_learns_from_an_export() {
    let why = "tells where a Python with PyTorch is: start this test with tests/run long";
    let python = std::env::var("EVERPAIR_TORCH").unwrap_or_else(|_| panic!("EVERPAIR_TORCH {why}"));
    let folder = tempfile::tempdir().expect("a folder");
    let everpair = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_everpair"));
        command.current_dir(folder.path());
        command
    };
    run(everpair().args(["demo", "--count", "300", "--out", "data"]));
    let form = ["export", "--config", "data/everpair.toml", "--format", "webdataset"];
    run(everpair().args(form).args(["--to", "rows"]));

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/train/train.py");
    let mut train = Command::new(python);
    train.arg("-B").arg(script).current_dir(folder.path());
    let said = run(train.args(["rows", "--steps", "60", "--batch", "32", "--out", "model.pt"]));
    let lines: Vec<Value> =
        said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let loss = |line: &Value| line["loss"].as_f64().expect("a number");
    let (first, last) = (loss(&lines[0]), loss(lines.last().expect("lines")));
    println!("loss {first} to {last}");
    assert!(last < 0.9 * first, "it does not learn:\n{said}");
    assert!(folder.path().join("model.pt").is_file());
}
