//! Model servers that are not ours: `tests/run long`, which installs them.

#[allow(dead_code, reason = "the target `main` uses the rest")]
#[path = "service/place.rs"]
mod place;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use everpair::{
    annotator::openai::{
        self, journal,
        money::Spent,
        prompts::{Chat, Prompts, Variation},
    },
    demo, gallery,
};
use operators::flow::Request;
use schemas::{
    ContentId,
    config::Annotator,
    tables::{AnnotationRow, ContentRow, ImageRow, PairRow, RejectRow, TripletRow},
};
use serde_json::{Value, json};

use place::Place;

/// Loading torch takes half a minute on a busy machine.
const START: Duration = Duration::from_secs(300);
/// Dollars for a million tokens, read and written.
const PRICES: (f64, f64) = (1.0, 2.0);

/// What `tests/run` says about a server. A missing one is a failure: these tests never skip.
fn peer(variable: &str) -> String {
    let why = "tells where a server is: start these tests with tests/run long";
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} {why}"))
}

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/models")
}

/// A server in a process of its own; it ends with this value.
struct Server {
    process: Child,
    address: String,
    said: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Waits until it says where it listens.
    fn start(command: &mut Command) -> Server {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("a server starts");
        let stdout: Box<dyn Read + Send> = Box::new(process.stdout.take().expect("it is piped"));
        let stderr: Box<dyn Read + Send> = Box::new(process.stderr.take().expect("it is piped"));
        let said = Arc::new(Mutex::new(Vec::new()));
        let (tell, told) = mpsc::channel();
        for pipe in [stdout, stderr] {
            let (lines, tell) = (said.clone(), tell.clone());
            // Read to the end, or the server would block on a full pipe.
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    if let Some((_, rest)) = line.split_once("http://127.0.0.1:") {
                        let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
                        let _ = tell.send(format!("127.0.0.1:{port}"));
                    }
                    lines.lock().expect("no panic holds it").push(line);
                }
            });
        }
        // A server that ends takes the last one with it.
        drop(tell);
        let address = told.recv_timeout(START);
        let mut server = Server { process, address: String::new(), said };
        server.address = address.unwrap_or_else(|_| panic!("it does not start: {}", server.said()));
        server
    }

    fn said(&self) -> String {
        self.said.lock().expect("no panic holds it").join("\n")
    }

    fn get(&self, path: &str) -> String {
        self.exchange(&format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.address))
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let answer = self.exchange(&format!(
            "POST {path} HTTP/1.0\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        ));
        let (_, reply) = answer.split_once("\r\n\r\n").expect("an answer has a body");
        serde_json::from_str(reply).unwrap_or_else(|_| panic!("no JSON: {answer}"))
    }

    fn exchange(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        stream.write_all(request.as_bytes()).expect("it is sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("text");
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Photographs and drawings of insects with a caption each.
fn insects() -> PathBuf {
    Path::new(&peer("EVERPAIR_IMAGES")).join("animals/insects")
}

/// Images of a folder, and pairs of them.
fn place(server: &Server, model: &str, more: &str, images: &Path) -> Place {
    let place = Place::new();
    configure(&place, "tables", server, model, more);
    let mut push = Command::new(env!("CARGO_BIN_EXE_everpair"));
    push.arg("push").arg(images).arg("--to").arg(place.path("log"));
    assert!(push.status().expect("the program starts").success());
    place
}

fn configure(place: &Place, name: &str, server: &Server, model: &str, more: &str) {
    let (input, output) = PRICES;
    let text = format!(
        "[screen]\nside_min = 16\n[pairs]\ntargets_per_query = 1\n\
         [annotator]\nkind = \"openai\"\nurl = \"http://{}/v1\"\nmodel = {model:?}\nbudget = 10.0\n\
         input_price = {input:?}\noutput_price = {output:?}\nsettle = \"0 s\"\ntimeout = \"10 min\"\n\
         {more}\n",
        server.address
    );
    place.configure(name, &text);
}

/// Query and target of the pairs, as contents.
fn pairs(place: &Place) -> BTreeSet<[String; 2]> {
    let images = place.rows::<ImageRow>("tables");
    let content: BTreeMap<String, String> =
        images.into_iter().map(|row| (row.image_id, row.content_id)).collect();
    let pairs = place.rows::<PairRow>("tables").into_iter();
    pairs.map(|row| [&row.query_id, &row.target_id].map(|id| content[id].clone())).collect()
}

/// Asserts that every request that the images and pairs need has one outcome, and gives those.
fn outcomes(place: &Place) -> Vec<AnnotationRow> {
    let rows = place.rows::<AnnotationRow>("tables");
    let sorted = |[a, b]: [String; 2]| if a < b { [a, b] } else { [b, a] };
    let asked = |task: &str| -> Vec<[String; 2]> {
        let rows = rows.iter().filter(|row| row.task == task);
        rows.map(|row| [row.query_content_id.clone(), row.target_content_id.clone()]).collect()
    };
    let pairs = pairs(place);
    let mut instructed = asked("instruct");
    instructed.sort();
    assert_eq!(instructed, Vec::from_iter(pairs.clone()));
    let unordered: BTreeSet<[String; 2]> = pairs.into_iter().map(sorted).collect();
    let mut described: Vec<[String; 2]> = asked("describe").into_iter().map(sorted).collect();
    described.sort();
    assert_eq!(described, Vec::from_iter(unordered));
    let images = place.rows::<ImageRow>("tables").into_iter();
    let lacking = images.filter(|row| row.caption.is_none());
    let lacking: BTreeSet<[String; 2]> =
        lacking.map(|row| [row.content_id.clone(), row.content_id]).collect();
    let mut captioned = asked("caption");
    captioned.sort();
    assert_eq!(captioned, Vec::from_iter(lacking));
    assert_eq!(rows.len(), instructed.len() + described.len() + captioned.len());
    assert!(journal::read(&place.store("tables")).expect("a list").is_empty());
    rows
}

/// Tokens read and written, by the rows; asserts that the rows and the budget say what they cost.
fn tokens(place: &Place, rows: &[AnnotationRow]) -> [i64; 2] {
    let read = rows.iter().filter_map(|row| row.prompt_tokens).sum::<i64>();
    let written = rows.iter().filter_map(|row| row.completion_tokens).sum::<i64>();
    let cost = (read as f64 * PRICES.0 + written as f64 * PRICES.1) / 1e6;
    let of_rows: f64 = rows.iter().filter_map(|row| row.cost_usd).sum();
    assert!((of_rows - cost).abs() < 1e-9, "{of_rows} USD for {read} and {written} tokens");
    let spent = Spent::read(&place.store("tables"), 0).expect("slices");
    assert_eq!((spent.open, spent.closed), (0, (cost * 1e9).round() as u64));
    [read, written]
}

/// What llama.cpp has read, from its cache too, and written.
fn counted(server: &Server) -> [i64; 2] {
    let page = server.get("/metrics");
    let of = |name: &str| -> i64 {
        let line = page.lines().find_map(|line| line.strip_prefix(&format!("llamacpp:{name} ")));
        let count = line.unwrap_or_else(|| panic!("no {name} in:\n{page}"));
        count.parse().expect("a whole number")
    };
    let read = of("prompt_tokens_total") + of("prompt_tokens_cached_total");
    [read, of("tokens_predicted_total")]
}

/// The model is a small one that was never taught to take orders, so it is shown examples alone; its
/// answers have the form, for the server keeps it to our schema, and are poor.
#[test]
fn llama_cpps_server_writes_instructions_from_captions() {
    let model = "gemma3-270m";
    let mut command = Command::new(peer("EVERPAIR_LLAMA"));
    command.arg(models().join("llama.py")).args([&peer("EVERPAIR_GGUF"), model]);
    let server = Server::start(&mut command);
    let more = "images = 0\ncaptions = true\nmax_tokens = 200\nconcurrency = 2\n\
                [annotator.prompts]\ndescribe = \"describe.toml\"\ninstruct = \"instruct.toml\"";
    let place = place(&server, model, more, &insects());
    let own = include_str!("../src/annotator/openai/prompts/instruct.toml");
    let demonstrations = &own[own.find("[[demonstrations]]").expect("demonstrations")..];
    let instruct = format!(
        "version = 1\nshown = 3\nsystem = \"What people type when they search with a picture.\"\n\
         user = \"{{demonstrations}}\\n{{description}}\\n\"\n{demonstrations}"
    );
    std::fs::write(place.path("instruct.toml"), instruct).expect("written");
    let describe = std::fs::read(models().join("describe.toml")).expect("a prompt");
    std::fs::write(place.path("describe.toml"), describe).expect("written");

    let said = place.everpair("tables", &["validate"]);
    assert!(said.out.contains(&format!("annotator: ok, {model} at")), "{}", said.out);
    // The model cannot see: that is told, and fails no pair.
    configure(&place, "blind", &server, model, "");
    let said = place.everpair("blind", &["run", "--until-caught-up"]).ended(1);
    said.says("image input is not supported").says("images = 0 and captions = true");
    assert!(place.rows::<AnnotationRow>("blind").is_empty());
    assert_eq!(counted(&server), [0, 0]);

    place.catch_up("tables");
    place.verify("tables");
    let rows = outcomes(&place);
    assert_eq!(counted(&server), tokens(&place, &rows), "as the server counts them");
    let good = rows.iter().filter(|row| row.outcome == "ok").count();
    let triplets = place.rows::<TripletRow>("tables");
    let pairs = pairs(&place).len();
    println!(
        "{good} of {} answers are ok; {} triplets of {pairs} pairs",
        rows.len(),
        triplets.len()
    );
    assert!(pairs >= 12, "{pairs} pairs");
    // 10 to 12 of 13 were seen.
    assert!(2 * triplets.len() >= pairs, "{} triplets of {pairs} pairs", triplets.len());

    for row in &triplets {
        assert_eq!(row.model, model);
        assert!(row.instructions.len() >= 3 && row.description.is_some(), "{row:?}");
        println!("{} -> {}: {:?}", row.query_id, row.target_id, row.instructions);
    }
    let (config, folder) = (place.config("tables"), place.path(""));
    let page = demo::page::page(&config, &[], &folder, &BTreeMap::new()).expect("a page");
    let html = gallery::render(&page);
    assert!(!page.triplets.is_empty());
    for shown in &page.triplets {
        let its = |row: &&TripletRow| {
            (&row.query_id, &row.target_id) == (&shown.query.id, &shown.target.id)
        };
        let row = triplets.iter().find(its).expect("what is shown is a triplet");
        let texts: Vec<&String> = shown.instructions.iter().map(|one| &one.text).collect();
        assert_eq!(texts, row.instructions.iter().collect::<Vec<_>>());
        assert!(!shown.query.bytes.is_empty() && shown.query.caption.is_some());
        // The others are written with entities.
        let plain = |c: char| c.is_alphanumeric() || " ,.?".contains(c);
        for text in row.instructions.iter().filter(|text| text.chars().all(plain)) {
            assert!(html.contains(text.as_str()), "{text:?} is not in the gallery");
        }
    }

    place.catch_up("tables");
    assert_eq!(counted(&server), tokens(&place, &rows), "nothing is asked again");
}

/// The pictures of `insects`, drawings without their captions.
fn partly_captioned(to: &Path) {
    for folder in ["", "cartoon"] {
        let (from, to) = (insects().join(folder), to.join(folder));
        std::fs::create_dir_all(&to).expect("a folder");
        for entry in from.read_dir().expect("a list") {
            let path = entry.expect("an entry").path();
            let kept = path.extension().is_some_and(|ext| ext == "png" || folder.is_empty());
            if kept && path.is_file() {
                std::fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("copied");
            }
        }
    }
}

/// What a server makes of a call.
#[derive(Debug, PartialEq)]
struct Reply {
    read: i64,
    written: i64,
    text: String,
    cut: bool,
}

/// Makes a call with a body of the documented form that is put together here.
fn ask(server: &Server, chat: &Chat, images: &[&[u8]]) -> Reply {
    let mut parts = Vec::new();
    assert_eq!(images.len(), chat.images.len());
    for ((named, _), jpeg) in chat.images.iter().zip(images) {
        let url = format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg));
        parts.push(json!({ "type": "text", "text": named }));
        parts.push(json!({ "type": "image_url", "image_url": { "url": url } }));
    }
    parts.push(json!({ "type": "text", "text": chat.user }));
    let mut body = chat.fields.clone();
    let messages = [("system", json!(chat.system)), ("user", json!(parts))];
    let messages = messages.map(|(role, content)| json!({ "role": role, "content": content }));
    body.insert("messages".into(), json!(messages));
    let reply = server.post("/v1/chat/completions", &Value::Object(body));
    let count = |name: &str| reply["usage"][name].as_i64().unwrap_or_else(|| panic!("{reply}"));
    let choice = &reply["choices"][0];
    Reply {
        read: count("prompt_tokens"),
        written: count("completion_tokens"),
        text: choice["message"]["content"].as_str().expect("a text").to_owned(),
        cut: choice["finish_reason"] == "length",
    }
}

/// The call of a row at one of its tries.
fn chat_of(row: &AnnotationRow, config: &Annotator, prompts: &Prompts, how: Variation) -> Chat {
    let name: Arc<str> = "an image".into();
    let [query, target] = [&row.query_content_id, &row.target_content_id]
        .map(|hex| (ContentId::parse(hex).expect("64 digits"), None));
    let asked = openai::model_id(config, prompts);
    let request = operators::annotate::request(&asked, (&name, &query), (&name, &target));
    let request = Request { request_id: row.request_id.clone(), ..request };
    match row.task.as_str() {
        "caption" => prompts.caption(config, &request, how),
        _ => prompts.describe(config, &row.request_id, &request, how),
    }
}

/// Makes the calls of a row again, and says what its outcome has to be; `images` as they are stored.
fn again(
    server: &Server,
    images: &[&[u8]],
    chat: impl Fn(Variation) -> Chat,
) -> (&'static str, Vec<Reply>) {
    let (mut how, mut replies) = (Variation::default(), Vec::new());
    loop {
        let reply = ask(server, &chat(how), images);
        let (done, outcome) = match reply.cut {
            true => (&mut how.longer, "truncated"),
            false => (&mut how.repair, "bad_json"),
        };
        replies.push(reply);
        if std::mem::replace(done, true) {
            return (outcome, replies);
        }
    }
}

/// Its weights are random and so is what it says, which depends on the words, the images, their order
/// and the seed: what it said to the service it says to the same questions of the test.
#[test]
fn a_transformers_server_takes_two_images() {
    let model = "everpair/tiny-vlm";
    let hub = tempfile::tempdir().expect("a folder");
    let python = peer("EVERPAIR_PARITY_PYTHON");
    let mut make = Command::new(&python);
    make.arg("-B").arg(models().join("vlm.py")).arg(hub.path());
    assert!(make.status().expect("Python starts").success());
    let mut command = Command::new(Path::new(&python).with_file_name("transformers"));
    command.args(["serve", "--host", "127.0.0.1", "--port", "0", "--log-level", "info"]);
    command.env("HF_HUB_CACHE", hub.path()).env("HF_HUB_OFFLINE", "1");
    let server = Server::start(&mut command);
    let posts = || {
        let said = server.said();
        let lines = said.lines().filter(|line| line.contains("POST /v1/chat/completions"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };

    // One call at a time: this server's seeds are its process's, and calls beside each other mix them.
    let more = "max_tokens = 150\nconcurrency = 1\n[captioner]\n";
    let images = tempfile::tempdir().expect("a folder");
    partly_captioned(images.path());
    let place = place(&server, model, more, images.path());
    let said = place.everpair("tables", &["validate"]);
    assert!(said.out.contains(&format!("annotator: ok, {model} at")), "{}", said.out);
    configure(&place, "other", &server, "a/nother", "");
    let said = place.everpair("other", &["validate"]);
    assert!(
        said.out.contains("has no model \"a/nother\"; it has everpair/tiny-vlm"),
        "{}",
        said.out
    );

    place.catch_up("tables");
    place.verify("tables");
    let rows = outcomes(&place);
    tokens(&place, &rows);
    let mut seen: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    rows.iter().for_each(|row| *seen.entry((&row.task, &row.outcome)).or_default() += 1);
    println!("{seen:?}");
    let pairs = pairs(&place).len();
    assert!(pairs >= 12, "{pairs} pairs");
    let rejects = place.rows::<RejectRow>("tables");
    assert_eq!(rejects.iter().filter(|row| row.reason == "no_answer").count(), pairs);
    let accepted = posts();
    assert!(accepted.iter().all(|line| line.contains("\" 200 ")), "{accepted:#?}");

    let config = place.config("tables").annotator;
    let prompts = Prompts::of(&config).expect("prompts");
    let stored: BTreeMap<String, Vec<u8>> = place
        .rows::<ContentRow>("tables")
        .into_iter()
        .map(|row| (row.content_id, row.image.bytes.expect("the copy is stored")))
        .collect();
    // A token is a byte, and the form of a conversation takes 29; the rest is images.
    let of_images = |chat: &Chat, reply: &Reply| {
        let named: usize = chat.images.iter().map(|(name, _)| name.len()).sum();
        reply.read - (chat.system.len() + named + chat.user.len() + 29) as i64
    };
    let (mut calls, mut made) = (0, 0);
    let mut sizes: BTreeMap<&str, i64> = BTreeMap::new();
    let asked = |task: &'static str| rows.iter().filter(move |row| row.task == task);
    assert!(asked("caption").count() >= 8 && asked("describe").count() >= 6, "{seen:?}");
    assert!(asked("instruct").all(|row| row.outcome == "no_description"), "{seen:?}");
    for row in asked("caption").chain(asked("describe")) {
        let sides = match row.task.as_str() {
            "caption" => vec![row.query_content_id.as_str()],
            _ => vec![row.query_content_id.as_str(), row.target_content_id.as_str()],
        };
        assert!(sides.is_sorted(), "{row:?}");
        let images: Vec<&[u8]> = sides.iter().map(|content| stored[*content].as_slice()).collect();
        let chat = |how| chat_of(row, &config, &prompts, how);
        let (outcome, replies) = again(&server, &images, chat);
        let total = |count: fn(&Reply) -> i64| replies.iter().map(count).sum::<i64>();
        assert_eq!(
            (row.outcome.as_str(), row.prompt_tokens, row.completion_tokens),
            (outcome, Some(total(|reply| reply.read)), Some(total(|reply| reply.written))),
            "{row:?}"
        );
        (calls, made) = (calls + replies.len(), made + replies.len());

        // Every image counts, and in its place.
        let first = chat(Variation::default());
        let size = of_images(&first, &replies[0]);
        match sides[..] {
            [content] => {
                assert!((3..=18).contains(&size), "{size} tokens of an image");
                sizes.insert(content, size);
            }
            _ => {
                let expected: i64 = sides
                    .iter()
                    .map(|content| {
                        *sizes.entry(content).or_insert_with(|| {
                            let alone = AnnotationRow {
                                task: "caption".into(),
                                query_content_id: (*content).to_owned(),
                                ..row.clone()
                            };
                            let chat = chat_of(&alone, &config, &prompts, Variation::default());
                            made += 1;
                            of_images(&chat, &ask(&server, &chat, &[&stored[*content]]))
                        })
                    })
                    .sum();
                assert_eq!(size, expected, "{row:?}");
                made += 1;
                let turned = ask(&server, &first, &[images[1], images[0]]);
                assert_eq!(turned.read, replies[0].read);
                assert_ne!(turned.text, replies[0].text, "images are not looked at: {row:?}");
            }
        }
    }
    assert_eq!(accepted.len(), calls);
    let different: BTreeSet<i64> = sizes.values().copied().collect();
    assert!(different.len() > 1, "{sizes:?}");

    place.catch_up("tables");
    assert_eq!(posts().len(), accepted.len() + made, "nothing is asked again");
}
