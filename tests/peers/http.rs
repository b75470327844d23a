//! The console of a service, asked over a plain socket.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

/// Where the console listens, by what the service said.
pub fn address(said: &str) -> Option<String> {
    let line = said.lines().find_map(|line| line.split("console: http://").nth(1));
    line.map(|address| address.trim().to_owned())
}

/// Status and body of an answer.
pub fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("the console listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: console\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it answers and closes");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), body.to_owned())
}
