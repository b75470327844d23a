//! The whole program between a real Kafka and a real reader: a topic of the real images, the real
//! binary, and what must hold between what was sent and the tables as DuckDB sees them.
//!
//! What should stand in `images` is worked out here, from what was sent and from the places that
//! Kafka's own consumer gives.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Seek},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use schemas::tables::Table;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::{
    kafka::Broker,
    peer, readers,
    s3::{self, S3},
};

pub const TOPIC: &str = "images";
pub const PARTITIONS: u32 = 3;
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Of the 796 images: fewer means that something is wrong with the pipeline, not with an image.
const IMAGES_MIN: usize = 700;
/// 2,200 and 2,700 were seen, with the bands that the built-in encoders have by themselves.
const ROWS_MIN: u64 = 1_500;

/// What Kafka's consumer writes of a message: a line with `Partition:0`, `Offset:0` and the key.
const SHOWN: [&str; 4] =
    ["print.partition=true", "print.offset=true", "print.key=true", "print.value=false"];

/// Each must give 0: what holds between the tables at every epoch, in SQL.
pub const CONTRADICTIONS: [(&str, &str); 13] = [
    ("triplet without its query", "triplets ANTI JOIN images ON image_id = query_id"),
    ("triplet without its target", "triplets ANTI JOIN images ON image_id = target_id"),
    (
        "triplet without a negative",
        "(SELECT unnest(hard_negatives) AS id FROM triplets) ANTI JOIN images ON image_id = id",
    ),
    ("pair without its query", "pairs ANTI JOIN images ON image_id = query_id"),
    ("pair without its target", "pairs ANTI JOIN images ON image_id = target_id"),
    (
        "pair without a negative",
        "(SELECT unnest(hard_negatives) AS id FROM pairs) ANTI JOIN images ON image_id = id",
    ),
    (
        "triplet of other contents",
        "triplets JOIN images q ON q.image_id = query_id JOIN images t ON t.image_id = target_id \
         WHERE q.content_id != query_content_id OR t.content_id != target_content_id",
    ),
    (
        "triplet that teaches nothing",
        "triplets WHERE len(instructions) < 3 OR hard_negatives[1] != query_id \
         OR list_contains(hard_negatives, target_id) OR query_id = target_id",
    ),
    (
        "pair or triplet of an image that is not mined",
        "(SELECT query_id AS one FROM pairs UNION SELECT target_id FROM pairs \
         UNION SELECT query_id FROM triplets UNION SELECT target_id FROM triplets) \
         ANTI JOIN (SELECT min(image_id) AS id FROM images GROUP BY content_id) ON id = one",
    ),
    ("image without its content", "images ANTI JOIN contents USING (content_id)"),
    ("image twice", "(SELECT image_id FROM images GROUP BY 1 HAVING count(*) > 1)"),
    (
        "triplet that its changes do not add up to",
        "triplets FULL JOIN (SELECT triplet_id AS id, query_id AS query, target_id AS target, \
         sum(CASE op WHEN 'insert' THEN 1 WHEN 'delete' THEN -1 END) AS times \
         FROM changes GROUP BY ALL HAVING times != 0) \
         ON id = triplet_id AND query = query_id AND target = target_id \
         WHERE id IS NULL OR triplet_id IS NULL OR times != 1",
    ),
    (
        "content embedded twice",
        "(SELECT content_id, channel FROM embeddings GROUP BY ALL HAVING count(*) > 1)",
    ),
];

/// What the newest message of a key was.
#[derive(Debug)]
pub enum Sent {
    Image {
        content_id: String,
        caption: Option<String>,
    },
    Down,
    /// With the reason that it is turned away for.
    Bad(&'static str),
}

/// Partition and offset.
type Place = (i32, i64);

/// A broker with one topic, what was sent to it, and a config of the service.
pub struct Pipeline {
    pub broker: Broker,
    folder: TempDir,
    /// Where the tables are if not in the folder.
    s3: Option<S3>,
    /// By key.
    pub sent: BTreeMap<String, Sent>,
    places: BTreeMap<Place, String>,
}

impl Pipeline {
    /// With all of the real images in the topic, and tables in a folder.
    pub fn begin(config: &str) -> Pipeline {
        Pipeline::with(None, config)
    }

    /// The same with tables in S3.
    pub fn begin_in_s3(config: &str) -> Pipeline {
        Pipeline::with(Some(S3::start()), config)
    }

    fn with(s3: Option<S3>, config: &str) -> Pipeline {
        let (broker, folder) = (Broker::start(), tempfile::tempdir().expect("a folder"));
        broker.create_topic(TOPIC, PARTITIONS);
        let (sent, places) = (BTreeMap::new(), BTreeMap::new());
        let mut new = Pipeline { broker, folder, s3, sent, places };
        new.configure("everpair.toml", "tables", config);
        let brokers = new.broker.address();
        let target = ["--brokers", &brokers, "--topic", TOPIC];
        let count = new.push(Path::new(&peer("EVERPAIR_IMAGES")), &target);
        assert!(count > IMAGES_MIN, "{count} images to send");
        let next = new.broker.next_offsets(TOPIC);
        assert_eq!(next.values().sum::<i64>(), count as i64, "a message each: {next:?}");
        assert!(next.len() == 3 && next.values().all(|next| *next > 0), "{next:?}");
        new
    }

    pub fn configure(&self, name: &str, tables: &str, more: &str) {
        let store = self.s3.as_ref().map(|s3| s3::settings(s3.address())).unwrap_or_default();
        let root = self.s3.as_ref().map_or(tables.to_owned(), |s3| s3.root(tables));
        let text = format!(
            "[source]\nbrokers = \"{}\"\ntopics = [\"{TOPIC}\"]\n[tables]\nroot = \"{root}\"\n\
             {store}[screen]\nside_min = 16\n{more}",
            self.broker.address()
        );
        fs::write(self.folder.path().join(name), text).expect("the folder is writable");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_everpair"));
        command.args(arguments).arg("--config").arg(self.path("everpair.toml"));
        if self.s3.is_some() {
            s3::sign(&mut command);
        }
        command
    }

    /// The root of the tables as readers want it, and the S3 server if that is where they are.
    pub fn tables(&self) -> (String, Option<&str>) {
        match &self.s3 {
            Some(s3) => (s3.root("tables"), Some(s3.address())),
            None => (self.path("tables").display().to_string(), None),
        }
    }

    /// A command on the config, which must succeed; gives its standard output.
    pub fn everpair(&self, arguments: &[&str]) -> String {
        succeed(&mut self.command(arguments)).0
    }

    pub fn run(&self) {
        self.everpair(&["run", "--until-caught-up"]);
    }

    /// Pushes a folder by the command; gives the number of images in it.
    pub fn push(&mut self, images: &Path, target: &[&str]) -> usize {
        let mut command = Command::new(env!("CARGO_BIN_EXE_everpair"));
        let (_, said) = succeed(command.arg("push").arg(images).args(target));
        let mut found = Vec::new();
        find_images(images, &mut found);
        assert!(said.contains(&format!("{} images sent", found.len())), "{said}");
        assert!(said.contains("; 0 failed"), "{said}");
        for path in &found {
            let id = path.strip_prefix(images).expect("it is below").to_str().expect("UTF-8");
            let bytes = fs::read(path).expect("it was found");
            let line = fs::read_to_string(path.with_extension("txt")).unwrap_or_default();
            let caption =
                line.lines().next().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty());
            let content_id = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
            self.sent.insert(id.to_owned(), Sent::Image { content_id, caption });
        }
        found.len()
    }

    /// Looks up where messages stand, with Kafka's own consumer, before they are truncated.
    pub fn find_places(&mut self) {
        let [first, next] = [self.broker.first_offsets(TOPIC), self.broker.next_offsets(TOPIC)]
            .map(|all| all.values().sum::<i64>());
        let count = (next - first).to_string();
        let mut arguments = vec!["--topic", TOPIC, "--from-beginning", "--timeout-ms", "60000"];
        arguments.extend(["--max-messages", &count]);
        for shown in SHOWN {
            arguments.extend(["--property", shown]);
        }
        let class = "org.apache.kafka.tools.consumer.ConsoleConsumer";
        for line in self.broker.admin(class, &arguments, "").lines() {
            let mut cells = line.splitn(3, '\t');
            let mut number = |name| cells.next().and_then(|c| c.strip_prefix(name)?.parse().ok());
            let place = (number("Partition:"), number("Offset:"));
            let (Some(partition), Some(offset)) = place else { panic!("no place in {line:?}") };
            let key = cells.next().expect("a key").to_owned();
            self.places.insert((partition as i32, offset), key);
        }
        assert_eq!(self.places.len() as i64, next, "every message has a place");
    }

    pub fn sql(&self, query: &str) -> Vec<Value> {
        let (root, server) = self.tables();
        readers::sql_at(&root, server, query)
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.everpair(&["status", "--json"])).expect("JSON")
    }

    /// Next offsets that the tables hold.
    pub fn committed(&self) -> BTreeMap<i32, i64> {
        let status = self.status();
        let Some(offsets) = status["offsets"][TOPIC].as_object() else { return BTreeMap::new() };
        let number = |(p, next): (&String, &Value)| Some((p.parse().ok()?, next.as_i64()?));
        offsets.iter().map(|entry| number(entry).expect("numbers")).collect()
    }

    /// Deletes from the topic all that the tables have taken in.
    pub fn truncate_to_committed(&self) {
        let committed = self.committed();
        let to: Vec<_> = committed.iter().map(|(p, next)| (TOPIC, *p, *next)).collect();
        self.broker.truncate(&to);
        assert_eq!(self.broker.first_offsets(TOPIC), committed, "nothing earlier is left");
    }

    /// Everything that must hold once the service has caught up.
    pub fn check(&self) {
        self.everpair(&["verify"]);
        self.check_status();
        self.check_images();
        let queries = CONTRADICTIONS.map(|(_, from)| format!("(SELECT count(*) FROM {from})"));
        let answer = self.sql(&format!("SELECT {}", queries.join(", ")));
        for ((name, _), count) in CONTRADICTIONS.iter().zip(answer[0].as_array().expect("a row")) {
            assert_eq!(count, 0, "{name}");
        }
    }

    /// `status` agrees with DuckDB about the tables and with Kafka about the offsets.
    fn check_status(&self) {
        let status = self.status();
        let counts = Table::ALL.map(|t| format!("(SELECT count(*) FROM {})", t.as_str()));
        let answer = self.sql(&format!("SELECT {}", counts.join(", ")));
        let mut text = String::new();
        for (table, count) in Table::ALL.iter().zip(answer[0].as_array().expect("a row")) {
            let rows = &status["tables"][table.as_str()]["rows"];
            assert_eq!(rows, count, "{}", table.as_str());
            text.push_str(&format!(" {} {count}", table.as_str()));
        }
        println!("epoch {}:{text}; rejects {}", status["epoch"], status["rejects"]);
        for table in ["pairs", "triplets"] {
            assert!(status["tables"][table]["rows"].as_u64() > Some(ROWS_MIN), "{table}:{text}");
        }
        let reasons = self.sql("SELECT reason, count(*) FROM rejects GROUP BY 1");
        let reasons: serde_json::Map<String, Value> = reasons
            .iter()
            .map(|row| (row[0].as_str().expect("a reason").to_owned(), row[1].clone()))
            .collect();
        assert_eq!(status["rejects"], Value::Object(reasons));
        assert_eq!(self.committed(), self.broker.next_offsets(TOPIC));
    }

    /// The newest message of each key is a row of `images` with just what was sent, or it is a row
    /// of `rejects`, or it was a tombstone; and `images` has nothing else.
    fn check_images(&self) {
        let place = |row: &Value| -> Place {
            (row[0].as_i64().expect("a partition") as i32, row[1].as_i64().expect("an offset"))
        };
        let query = "SELECT partition, \"offset\", image_id, content_id, caption FROM images";
        let images: BTreeMap<Place, Value> =
            self.sql(query).into_iter().map(|row| (place(&row), row)).collect();
        let query = "SELECT partition, \"offset\", stage, reason, image_id FROM rejects \
                     WHERE \"offset\" IS NOT NULL";
        let rejects = self.sql(query);
        let count = rejects.len();
        let rejects: BTreeMap<Place, Value> =
            rejects.into_iter().map(|row| (place(&row), row)).collect();
        assert_eq!(rejects.len(), count, "a message is turned away once");

        // The places are sorted, so the newest of a key comes last.
        let newest: BTreeMap<&str, Place> =
            self.places.iter().map(|(place, key)| (key.as_str(), *place)).collect();
        assert_eq!(newest.len(), self.sent.len(), "every key is known");
        let mut live = 0;
        for (id, sent) in &self.sent {
            let at = newest[id.as_str()];
            let (image, reject) = (images.get(&at), rejects.get(&at));
            live += usize::from(image.is_some());
            let told = format!("{id} at {at:?}, {sent:?}: {image:?}, {reject:?}");
            match (sent, image, reject) {
                (Sent::Image { content_id, caption }, Some(row), None) => {
                    let same = row[2] == **id && row[3] == **content_id;
                    assert!(same && row[4].as_str() == caption.as_deref(), "{told}");
                }
                (Sent::Image { .. }, None, Some(row)) => {
                    assert!(row[2] == "screen" && row[4] == **id, "{told}");
                }
                (Sent::Bad(reason), None, Some(row)) => assert_eq!(row[3], **reason, "{told}"),
                (Sent::Down, None, None) => {}
                _ => panic!("{told}"),
            }
        }
        assert_eq!(live, images.len(), "every row of images was sent");
        assert!(live > IMAGES_MIN, "{live} images are live");
    }

    /// Rows of `images`, `pairs` and `triplets` that name one of these images.
    pub fn rows_naming(&self, ids: &[String]) -> u64 {
        let list: Vec<String> =
            ids.iter().map(|id| format!("'{}'", id.replace('\'', "''"))).collect();
        let list = list.join(", ");
        let of = |table: &str| {
            format!(
                "(SELECT count(*) FROM {table} WHERE query_id IN ({list}) OR target_id IN ({list}) \
                 OR list_has_any(hard_negatives, [{list}]))"
            )
        };
        let images = format!("(SELECT count(*) FROM images WHERE image_id IN ({list}))");
        let query = format!("SELECT {images} + {} + {}", of("pairs"), of("triplets"));
        self.sql(&query)[0][0].as_u64().expect("a count")
    }

    pub fn ids(&self, query: &str) -> Vec<String> {
        let rows = self.sql(query);
        rows.iter().map(|row| row[0].as_str().expect("an id").to_owned()).collect()
    }
}

/// The service, killed when a test ends before it does.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a command to its end; gives the exit code, standard output and standard error.
pub fn finish(command: &mut Command) -> (Option<i32>, String, String) {
    finish_within(PATIENCE, command)
}

/// The same for one that may take so long.
pub fn finish_within(patience: Duration, command: &mut Command) -> (Option<i32>, String, String) {
    let mut files = [(); 2].map(|()| tempfile::tempfile().expect("a file"));
    let [out, err] = files.each_ref().map(|file: &File| file.try_clone().expect("a handle"));
    command.stdin(Stdio::null()).stdout(out).stderr(err);
    let mut running = Running(command.spawn().expect("the program starts"));
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = running.0.try_wait().expect("it can be waited for") {
            break Some(status);
        }
        if begun.elapsed() > patience {
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let [out, err] = files.each_mut().map(|file| {
        let mut text = String::new();
        file.rewind().expect("a file");
        file.read_to_string(&mut text).expect("UTF-8");
        text
    });
    let status = status.unwrap_or_else(|| panic!("{command:?} does not end\n{out}{err}"));
    (status.code(), out, err)
}

/// The same, for one that must end well.
fn succeed(command: &mut Command) -> (String, String) {
    let (code, out, err) = finish(command);
    assert_eq!(code, Some(0), "{command:?}\n{out}{err}");
    (out, err)
}

fn find_images(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            find_images(&path, found);
        } else if path.extension().is_some_and(|end| end == "png") {
            found.push(path);
        }
    }
}
