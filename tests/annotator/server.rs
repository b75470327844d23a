//! A model's server that behaves as badly as it is told to, over real connections.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use serde_json::{Value, json};

/// One request.
#[derive(Clone)]
pub struct Asked {
    /// `x-request-id`.
    pub id: String,
    pub key: Option<String>,
    pub body: Value,
    /// How often this one was asked before.
    pub before: usize,
}

impl Asked {
    /// Whether two images are to be described.
    pub fn describes(&self) -> bool {
        self.system().contains("two images")
    }

    /// Whether one is to get a caption.
    pub fn captions(&self) -> bool {
        self.system().contains("alternative text")
    }

    /// Whether an instruction is to be judged.
    pub fn judges(&self) -> bool {
        self.system().contains("You judge search requests")
    }

    pub fn system(&self) -> &str {
        self.body["messages"][0]["content"].as_str().expect("a system prompt")
    }

    /// All text of the user's message.
    pub fn text(&self) -> String {
        let content = &self.body["messages"][1]["content"];
        let parts =
            content.as_array().into_iter().flatten().filter_map(|part| part["text"].as_str());
        content.as_str().map(str::to_owned).unwrap_or_else(|| parts.collect::<Vec<_>>().join("\n"))
    }

    /// The images, as they were sent.
    pub fn images(&self) -> Vec<Vec<u8>> {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let parts = self.body["messages"][1]["content"].as_array().into_iter().flatten();
        let urls = parts.filter_map(|part| part["image_url"]["url"].as_str());
        let data = urls.map(|url| url.strip_prefix("data:image/jpeg;base64,").expect("a data URL"));
        data.map(|data| STANDARD.decode(data).expect("base64")).collect()
    }

    /// What a well-behaved model says.
    pub fn good(&self) -> String {
        if self.describes() {
            let named = &self.id[..6];
            return json!({ "common": format!("shapes {named}"), "a": "has a circle", "b": "has a square" })
                .to_string();
        }
        if self.captions() {
            let named = &self.id[..6];
            return json!({ "caption": format!("Shapes {named} on a plain ground.") }).to_string();
        }
        if self.judges() {
            return json!({ "picture": 1 }).to_string();
        }
        let texts = [
            "Replace the round shape by one with corners",
            "the same arrangement with four equal sides somewhere",
            "What would it look like had somebody drawn a box?",
            "I prefer edges over curves here",
        ];
        json!({ "instructions": texts }).to_string()
    }
}

/// Tokens that every answer is said to take.
pub const TOKENS: (u64, u64) = (100, 10);

/// A whole reply with an answer.
pub fn reply(content: &str, finish: &str) -> Value {
    let message = json!({ "role": "assistant", "content": content });
    let (read, written) = TOKENS;
    json!({
        "choices": [{ "index": 0, "message": message, "finish_reason": finish }],
        "usage": { "prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written },
    })
}

pub fn send(stream: &mut TcpStream, status: &str, headers: &[&str], body: &[u8]) {
    let mut head =
        format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    headers.iter().for_each(|header| head.push_str(&format!("{header}\r\n")));
    head.push_str("\r\n");
    // Who has gone away is not told.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

pub fn send_good(asked: &Asked, stream: &mut TcpStream) {
    send(stream, "200 OK", &[], reply(&asked.good(), "stop").to_string().as_bytes());
}

#[derive(Default)]
struct Seen {
    asked: Mutex<Vec<Asked>>,
    over: AtomicBool,
}

pub struct Server {
    pub address: SocketAddr,
    seen: Arc<Seen>,
}

impl Server {
    /// Answers every request by `answer`, each on a thread of its own.
    pub fn start(answer: impl Fn(&Asked, &mut TcpStream) + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let seen = Arc::new(Seen::default());
        let (shared, answer) = (seen.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.over.load(Ordering::Acquire) {
                    return;
                }
                let (seen, answer) = (shared.clone(), answer.clone());
                thread::spawn(move || seen.serve(stream, &*answer));
            }
        });
        Server { address, seen }
    }

    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Everything that was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.seen.asked.lock().expect("no panic holds it").clone()
    }

    /// Forgets it.
    pub fn forget(&self) {
        self.seen.asked.lock().expect("no panic holds it").clear();
    }

    /// How many descriptions and how many instructions were asked for.
    pub fn counts(&self) -> (usize, usize) {
        let asked = self.asked();
        let described = asked.iter().filter(|asked| asked.describes()).count();
        (described, asked.len() - described - self.captioned() - self.judged())
    }

    /// How many captions were.
    pub fn captioned(&self) -> usize {
        self.asked().iter().filter(|asked| asked.captions()).count()
    }

    /// How often an instruction was judged.
    pub fn judged(&self) -> usize {
        self.asked().iter().filter(|asked| asked.judges()).count()
    }

    /// How often each request was asked.
    pub fn by_id(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for asked in self.asked() {
            *counts.entry(asked.id).or_default() += 1;
        }
        counts
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.seen.over.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address);
    }
}

impl Seen {
    fn serve(&self, mut stream: TcpStream, answer: &dyn Fn(&Asked, &mut TcpStream)) {
        let mut reader = BufReader::new(stream.try_clone().expect("a handle"));
        let mut first = String::new();
        let _ = reader.read_line(&mut first);
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':') {
                headers.insert(name.to_lowercase(), value.trim().to_owned());
            }
        }
        let length = headers.get("content-length").and_then(|length| length.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        if first.starts_with("GET") {
            let models = json!({ "object": "list", "data": [{ "id": "a-model" }] });
            send(&mut stream, "200 OK", &[], models.to_string().as_bytes());
            return;
        }
        if !first.starts_with("POST /v1/chat/completions ") {
            send(&mut stream, "404 Not Found", &[], b"{}");
            return;
        }
        let body: Value = serde_json::from_slice(&body).expect("a request is JSON");
        let id = headers.get("x-request-id").cloned().unwrap_or_default();
        let asked = {
            let mut all = self.asked.lock().expect("no panic holds it");
            let before = all.iter().filter(|asked| asked.id == id).count();
            let asked = Asked { id, key: headers.get("authorization").cloned(), body, before };
            all.push(asked.clone());
            asked
        };
        answer(&asked, &mut stream);
    }
}
