//! curl, against servers with habits of their own.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;

use crate::fixture::{World, full, payload, program, succeed, tcp_server};

/// Reads the head of one request; `None` at the end.
fn request(reader: &mut impl BufRead) -> Option<String> {
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            return Some(head);
        }
        head.push_str(&line);
    }
}

fn curl(args: &[&str]) -> Command {
    let mut command = Command::new("curl");
    // No proxy or configuration of the machine's.
    command.args(["-q", "--noproxy", "*", "-sS", "--fail", "--max-time", "300"]).args(args);
    command
}

#[test]
fn a_large_file_from_a_server_that_half_closes() {
    if program("curl").is_none() {
        return;
    }
    let bytes = payload(if full() { 256 << 20 } else { 16 << 20 });
    let served = bytes.clone();
    let target = tcp_server(move |mut stream: TcpStream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        if request(&mut reader).is_none() {
            return;
        }
        // Without a length: the end is the end of the stream, and what ends it is
        // a FIN of this side only.
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
        for chunk in served.chunks(1 << 20) {
            stream.write_all(chunk).unwrap();
            std::thread::park_timeout(std::time::Duration::from_millis(100));
        }
        stream.shutdown(Shutdown::Write).unwrap();
        // Stays until the client has ended too.
        let _ = std::io::copy(&mut reader, &mut std::io::sink());
    });
    let world = World::new(&[]);
    let (_forward, addr) = world.forward(target);
    let _storm = world.storm();
    let got = succeed(&mut curl(&[&format!("http://{addr}/large")]), b"");
    assert!(got == bytes, "{} bytes of {}", got.len(), bytes.len());
}

#[test]
fn a_client_that_keeps_its_connection_gets_every_answer() {
    if program("curl").is_none() {
        return;
    }
    let (counted, counts) = std::sync::mpsc::channel();
    let target = tcp_server(move |mut stream: TcpStream| {
        counted.send(()).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some(head) = request(&mut reader) {
            let path = head.split_whitespace().nth(1).unwrap_or_default();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len());
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let world = World::new(&[]);
    let (_forward, addr) = world.forward(target);
    let _storm = world.storm();
    // 40 requests, one after the other, on one connection, over some seconds.
    let url = format!("http://{addr}/item-[1-40]\n");
    let got = succeed(&mut curl(&["--rate", "10/s", url.trim()]), b"");
    let expected: String = (1..=40).map(|number| format!("/item-{number}")).collect();
    assert_eq!(String::from_utf8(got).unwrap(), expected);
    assert_eq!(counts.try_iter().count(), 1, "one connection for all");
}
