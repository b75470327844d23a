//! A web server that behaves as badly as it is told to, on a port of its own.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// One request, and how often its path was asked for before.
pub struct Request {
    pub path: String,
    pub host: String,
    pub before: usize,
}

/// What the server saw.
#[derive(Default)]
struct Seen {
    asked: Mutex<BTreeMap<String, usize>>,
    over: AtomicBool,
}

pub struct Server {
    pub address: SocketAddr,
    seen: Arc<Seen>,
}

impl Server {
    /// Answers every request by `answer`, each on a thread of its own; the connection is closed
    /// after it.
    pub fn start(answer: impl Fn(&Request, &mut TcpStream) + Send + Sync + 'static) -> Server {
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

    /// `http://HOST:PORT/PATH`, the host being 127.0.0.1.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// How often a path was asked for.
    pub fn asked(&self, path: &str) -> usize {
        let asked = self.seen.asked.lock().expect("no panic holds it");
        asked.get(&format!("/{path}")).copied().unwrap_or(0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.seen.over.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address);
    }
}

impl Seen {
    fn serve(&self, mut stream: TcpStream, answer: &dyn Fn(&Request, &mut TcpStream)) {
        let mut lines = BufReader::new(stream.try_clone().expect("a handle")).lines();
        let first = lines.next().and_then(Result::ok).unwrap_or_default();
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut host = String::new();
        for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
            if let Some(name) = line.to_lowercase().strip_prefix("host: ") {
                host = name.to_owned();
            }
        }
        let before = {
            let mut asked = self.asked.lock().expect("no panic holds it");
            let count = asked.entry(path.clone()).or_default();
            *count += 1;
            *count - 1
        };
        answer(&Request { path, host, before }, &mut stream);
    }
}

/// A whole answer. Who has gone away is not told.
pub fn reply(stream: &mut TcpStream, status: &str, headers: &[&str], body: &[u8]) {
    let mut head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    if !headers.iter().any(|header| header.starts_with("Content-Length")) {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    for header in headers {
        head.push_str(&format!("{header}\r\n"));
    }
    head.push_str("\r\n");
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}
