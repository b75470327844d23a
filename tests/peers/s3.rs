//! An S3 server in a process of its own: moto, which keeps its promise on conditional puts.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use super::peer;

pub const BUCKET: &str = "everpair";
const STARTED: &str = "Running on http://";
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A server with one empty bucket, all in memory; it ends with this value.
pub struct S3 {
    process: Child,
    address: String,
}

impl S3 {
    pub fn start() -> S3 {
        S3::start_with(&[])
    }

    /// A server that knows no keys: once its bucket is there, whoever asks is refused.
    pub fn start_strict() -> S3 {
        S3::start_with(&[("INITIAL_NO_AUTH_ACTION_COUNT", "1")])
    }

    fn start_with(variables: &[(&str, &str)]) -> S3 {
        let mut command = Command::new(peer("EVERPAIR_PYTHON"));
        command.envs(variables.iter().copied());
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("moto starts");
        let stderr = BufReader::new(process.stderr.take().expect("it is piped"));
        let (said, heard) = mpsc::channel();
        // Read to the end, or the server would block on a full pipe.
        std::thread::spawn(move || {
            let mut log = String::new();
            for line in stderr.lines().map_while(Result::ok) {
                if let Some((_, rest)) = line.split_once(STARTED) {
                    let end = rest.find(|c: char| !c.is_ascii_digit() && !".:".contains(c));
                    let _ = said.send(Ok(rest[..end.unwrap_or(rest.len())].to_owned()));
                }
                log.push_str(&line);
            }
            let _ = said.send(Err(log));
        });
        let server = match heard.recv_timeout(START_TIMEOUT) {
            Ok(Ok(address)) => S3 { process, address },
            other => {
                let _ = process.kill();
                panic!("moto does not start: {other:?}");
            }
        };
        let answer = server.request("PUT", &format!("/{BUCKET}"));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        server
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The root of tables, for a config.
    pub fn root(&self, name: &str) -> String {
        format!("s3://{BUCKET}/{name}")
    }

    /// A request without a body; gives the head and body of the answer. The server wants to see who
    /// asks, and checks no signature.
    pub fn request(&self, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, \
             SignedHeaders=host, Signature=0\r\n\r\n",
            self.address
        );
        stream.write_all(head.as_bytes()).expect("it reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("it answers");
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a config says of a server at `address`.
pub fn settings(address: &str) -> String {
    format!("[tables.settings]\nendpoint = \"http://{address}\"\nregion = \"us-east-1\"\n")
}

/// Gives a program the keys, which any will do for.
pub fn sign(command: &mut Command) -> &mut Command {
    command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test")
}
