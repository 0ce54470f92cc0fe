//! The order of the system calls of a delivery, as strace sees them in the reference server: what is acknowledged must be on the
//! disk. The order of the calls within the library is tested beside it (`deliver/maildir/disk.rs`), without strace.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use support::Client;
use tokio::net::TcpStream;

use crate::reference::Reference;

/// A server whose calls go to that file. It is no child of strace's, so that signals reach it.
fn start_traced(calls: &Path) -> (Reference, std::net::SocketAddr) {
    let dir = tempfile::tempdir().unwrap();
    let plain = Reference::command(&dir, &["--listen=127.0.0.1:0", "--log-level=error"]);
    let mut traced = Command::new("strace");
    traced
        .args(["-D", "-f", "-y", "-s", "3", "-e"])
        .arg("trace=fsync,fdatasync,rename,renameat,renameat2,sendto,sendmsg,write,writev")
        .arg("-o")
        .arg(calls)
        .arg(plain.get_program())
        .args(plain.get_args());
    let mut process = traced
        .stdout(Stdio::piped())
        .spawn()
        .expect("strace is installed");
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let address = line.trim().strip_prefix("listening smtp ").expect(&line);
    let address = address.parse().unwrap();
    (Reference::of(process, dir), address)
}

/// The calls in the order in which they ended; one that strace saw in two parts is put together.
fn calls(trace: &str) -> Vec<String> {
    let mut unfinished = HashMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let (thread, call) = line.split_once(' ').expect(line);
        let call = call.trim_start();
        if let Some(begin) = call.strip_suffix(" <unfinished ...>") {
            unfinished.insert(thread, begin);
        } else if let Some((_, end)) = call.split_once(" resumed>") {
            calls.push(format!("{}{end}", unfinished[thread]));
        } else {
            calls.push(call.to_owned());
        }
    }
    calls
}

/// What a call means for a delivery.
fn meaning(call: &str) -> Option<&'static str> {
    let synced = call.starts_with("fsync(") || call.starts_with("fdatasync(");
    let sent = ["sendto(", "sendmsg(", "write(", "writev("];
    if synced && call.contains("/mail/tmp/") {
        Some("file synced")
    } else if call.starts_with("rename") && call.contains("/mail/new/") {
        Some("moved")
    } else if synced && call.contains("/mail/new>") {
        Some("new synced")
    } else if synced && call.contains("/mail>") {
        Some("maildir synced")
    } else if synced {
        Some("directory above synced")
    } else if sent.iter().any(|name| call.starts_with(name)) && call.contains("\"250\"") {
        Some("250")
    } else {
        None
    }
}

#[tokio::test]
#[ignore = "it needs strace; .ci/run runs it"]
async fn what_is_acknowledged_is_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("calls");
    let (mut server, address) = start_traced(&trace);
    let mut client = Client::over(TcpStream::connect(address).await.unwrap());
    client.expect("220").await;
    for _ in 0..2 {
        client.cmd("HELO c", "250").await;
        client.envelope().await;
        client.cmd("DATA", "354").await;
        client.cmd("Hello\r\n.", "250").await;
    }
    client.cmd("QUIT", "221").await;
    server.signal("TERM");
    assert!(server.ended().await.success());
    let trace = std::fs::read_to_string(&trace).unwrap();
    let calls = calls(&trace);
    let seen: Vec<_> = calls.iter().filter_map(|call| meaning(call)).collect();
    let delivery = ["file synced", "moved", "new synced", "250"];
    let message = ["250", "250", "250"].into_iter().chain(delivery);
    let made = ["directory above synced", "maildir synced"].into_iter();
    // The server stores a probe when it starts.
    let probe = ["file synced", "moved", "new synced"].into_iter();
    let made = made.chain(probe);
    let expected: Vec<_> = made.chain(message.clone()).chain(message).collect();
    assert_eq!(seen, expected, "{trace}");
}
