//! An Apache Kafka broker in a process of its own, and Kafka's own tools.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::peer;

const TEMPLATE: &str = include_str!("kafka/server.properties");
const STARTED: &str = "Kafka Server started";
/// A start takes three seconds on an idle machine.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// Between choosing a free port and the broker's bind another process may take it.
const START_ATTEMPTS: usize = 3;

/// A broker with no topics; it ends with this value.
pub struct Broker {
    process: Child,
    port: u16,
    /// Where more listeners may be.
    #[cfg_attr(not(feature = "kafka-tls"), expect(dead_code, reason = "no test has more"))]
    more_ports: [u16; 2],
    folder: TempDir,
}

impl Broker {
    pub fn start() -> Broker {
        Broker::start_with("", &[])
    }

    /// With more `properties`, which override those of the template, and more arguments when the
    /// log is formatted. `@PORT_1@` and `@PORT_2@` are free ports for more listeners.
    pub fn start_with(properties: &str, format_with: &[&str]) -> Broker {
        for _ in 0..START_ATTEMPTS {
            let folder = tempfile::tempdir().expect("a folder for the broker");
            let [port, controller, one, two] = free_ports();
            let properties = format!("{TEMPLATE}\n{properties}")
                .replace("@PORT@", &port.to_string())
                .replace("@CONTROLLER_PORT@", &controller.to_string())
                .replace("@PORT_1@", &one.to_string())
                .replace("@PORT_2@", &two.to_string())
                .replace("@LOG_DIR@", &folder.path().join("log").display().to_string());
            let file = folder.path().join("server.properties");
            fs::write(&file, properties).expect("the folder is writable");
            let mut format = tool("kafka.tools.StorageTool");
            format.args(["format", "--cluster-id", "MkU3OEVBNTcwNTJENDM2Qg", "--config"]);
            output(format.arg(&file).args(format_with), "");
            match launch(&folder) {
                Ok(process) => return Broker { process, port, more_ports: [one, two], folder },
                Err(log) if log.contains("Address already in use") => {}
                Err(log) => panic!("the broker did not start:\n{log}"),
            }
        }
        panic!("no free port in {START_ATTEMPTS} attempts");
    }

    /// What clients call `bootstrap.servers`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    #[cfg(feature = "kafka-tls")]
    /// The ports that `@PORT_1@` and `@PORT_2@` stand for.
    pub fn more_ports(&self) -> [u16; 2] {
        self.more_ports
    }

    pub fn create_topic(&self, topic: &str, partitions: u32) {
        let partitions = partitions.to_string();
        let arguments = ["--create", "--topic", topic, "--partitions", &partitions];
        self.admin("org.apache.kafka.tools.TopicCommand", &arguments, "");
    }

    /// Sends text records with Kafka's own producer. Neither may have a tab or a line break.
    pub fn produce(&self, topic: &str, records: &[(&str, &str)]) {
        let lines: String =
            records.iter().map(|(key, value)| format!("{key}\t{value}\n")).collect();
        let arguments = ["--topic", topic, "--property", "parse.key=true"];
        self.admin("org.apache.kafka.tools.ConsoleProducer", &arguments, &lines);
    }

    /// Deletes what lies before these offsets, as retention would: topic, partition, first to keep.
    pub fn truncate(&self, to: &[(&str, i32, i64)]) {
        let partitions: Vec<Value> = to
            .iter()
            .map(|(topic, partition, offset)| {
                json!({ "topic": topic, "partition": partition, "offset": offset })
            })
            .collect();
        let file = self.folder.path().join("truncate.json");
        let content = json!({ "version": 1, "partitions": partitions });
        fs::write(&file, content.to_string()).expect("the folder is writable");
        let file = file.display().to_string();
        self.admin(
            "org.apache.kafka.tools.DeleteRecordsCommand",
            &["--offset-json-file", &file],
            "",
        );
    }

    /// First offset of each partition that is still there.
    pub fn first_offsets(&self, topic: &str) -> BTreeMap<i32, i64> {
        self.offsets(topic, "-2")
    }

    /// Offset that the next record of each partition will have.
    pub fn next_offsets(&self, topic: &str) -> BTreeMap<i32, i64> {
        self.offsets(topic, "-1")
    }

    fn offsets(&self, topic: &str, time: &str) -> BTreeMap<i32, i64> {
        let arguments = ["--topic", topic, "--time", time];
        let text = self.admin("org.apache.kafka.tools.GetOffsetShell", &arguments, "");
        let numbers = |line: &str| {
            let mut parts = line.rsplit(':');
            let offset = parts.next()?.parse().ok()?;
            Some((parts.next()?.parse().ok()?, offset))
        };
        text.lines().map(|line| numbers(line).expect("topic:partition:offset")).collect()
    }

    /// The broker goes down at once, as in a crash, and comes up again with what it had stored.
    pub fn crash_and_restart(&mut self) {
        self.crash_for(|| {});
    }

    /// The same, and it stays down while `meanwhile` runs.
    pub fn crash_for(&mut self, meanwhile: impl FnOnce()) {
        self.process.kill().expect("the broker runs");
        self.process.wait().expect("the broker ends");
        meanwhile();
        self.process = launch(&self.folder).unwrap_or_else(|log| panic!("no restart:\n{log}"));
    }

    /// One of Kafka's tools; gives what it writes.
    pub fn admin(&self, class: &str, arguments: &[&str], input: &str) -> String {
        let mut command = tool(class);
        output(command.args(["--bootstrap-server", &self.address()]).args(arguments), input)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn tool(class: &str) -> Command {
    let mut command = Command::new(peer("EVERPAIR_JAVA"));
    command.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512m"]);
    command.arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn");
    command.arg("-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info");
    command.args(["-cp", &format!("{}/*", peer("EVERPAIR_KAFKA_CLASSPATH")), class]);
    command
}

/// Starts the broker that was formatted in `folder`; gives what it logged when it ended instead.
fn launch(folder: &TempDir) -> Result<Child, String> {
    let mut command = tool("kafka.Kafka");
    command.arg(folder.path().join("server.properties"));
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut process = command.spawn().expect("java starts");
    let log = BufReader::new(process.stderr.take().expect("stderr is piped"));
    let (sender, receiver) = mpsc::channel();
    // The thread reads on after the start, or a full pipe would stop the broker.
    thread::spawn(move || {
        let mut text = String::new();
        for line in log.lines().map_while(Result::ok) {
            if line.contains(STARTED) {
                // The receiver may have given up.
                let _ = sender.send(Ok(()));
            }
            text.push_str(&line);
            text.push('\n');
        }
        let _ = sender.send(Err(text));
    });
    match receiver.recv_timeout(START_TIMEOUT) {
        Ok(Ok(())) => Ok(process),
        Ok(Err(text)) => {
            process.wait().expect("the broker ends");
            Err(text)
        }
        Err(_) => {
            process.kill().expect("the broker runs");
            process.wait().expect("the broker ends");
            Err(format!("not up after {START_TIMEOUT:?}"))
        }
    }
}

fn free_ports() -> [u16; 4] {
    // All are held until all are known, so they differ.
    let held = [(); 4].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    held.map(|listener| listener.local_addr().expect("a bound listener").port())
}

fn output(command: &mut Command, input: &str) -> String {
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("java starts");
    let mut stdin = process.stdin.take().expect("stdin is piped");
    let input = input.to_owned();
    // A thread, so that neither side waits for the other with a full pipe.
    let writer = thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = process.wait_with_output().expect("java ends");
    writer.join().expect("the writer ends").expect("the tool reads its input");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{text}{log}");
    text
}

#[test]
fn the_broker_keeps_offsets_over_a_crash_and_a_truncation() {
    let mut broker = Broker::start();
    broker.create_topic("images", 1);
    let records: Vec<String> = (0..100).map(|i| format!("k{i}")).collect();
    let records: Vec<(&str, &str)> = records.iter().map(|key| (key.as_str(), "{}")).collect();
    broker.produce("images", &records);
    broker.crash_and_restart();
    assert_eq!(broker.next_offsets("images"), BTreeMap::from([(0, 100)]));
    broker.truncate(&[("images", 0, 40)]);
    assert_eq!(broker.first_offsets("images"), BTreeMap::from([(0, 40)]));
    assert_eq!(broker.next_offsets("images"), BTreeMap::from([(0, 100)]));
}
