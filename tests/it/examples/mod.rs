//! Every example runs, and does what it says.

mod filter_proxy;
mod gateway;
mod metrics_layer;
mod multi_tenant;
mod program;
mod submission;
mod systemd_socket;
mod test_double;
mod test_inbox;
mod web;
mod webhook;

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use program::example;
use support::Client;
use tokio::net::TcpStream;

/// An example as a separate process, ended with the test.
struct Example {
    process: Child,
    /// Where it runs.
    dir: tempfile::TempDir,
    lines: Receiver<String>,
    address: SocketAddr,
}

impl Example {
    /// Starts an example that prints where it listens.
    fn start(name: &str, arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut process = spawn(name, &[&["127.0.0.1:0"], arguments].concat(), dir.path());
        let lines = lines_of(&mut process);
        let line = lines.recv().expect("the example says where it listens");
        let address = line
            .strip_prefix("listening on ")
            .expect(&line)
            .parse()
            .unwrap();
        Self {
            process,
            dir,
            lines,
            address,
        }
    }

    async fn client(&self) -> Client<TcpStream> {
        let mut client = Client::over(TcpStream::connect(self.address).await.unwrap());
        client.expect("220").await;
        client.cmd("EHLO client.example", "250").await;
        client
    }

    /// The next line with this in it. One that never comes fails the test instead of holding it up.
    fn line_with(&self, part: &str) -> String {
        loop {
            match self.lines.recv_timeout(Duration::from_secs(30)) {
                Ok(line) if line.contains(part) => return line,
                Ok(_) => {}
                Err(error) => panic!("no line with {part:?}: {error}"),
            }
        }
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(name: &str, arguments: &[&str], directory: &Path) -> Child {
    Command::new(example(name))
        .args(arguments)
        .current_dir(directory)
        .stdout(Stdio::piped())
        .spawn()
        .expect("examples are built with the tests")
}

/// What a process prints, line by line.
fn lines_of(process: &mut Child) -> Receiver<String> {
    let (sender, receiver) = channel();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    thread::spawn(move || {
        lines
            .map_while(Result::ok)
            .try_for_each(|line| sender.send(line))
    });
    receiver
}

async fn send(client: &mut Client<TcpStream>, message: &str, start: &str) -> String {
    client.envelope().await;
    client.cmd("DATA", "354").await;
    client.send(format!("{message}\r\n.\r\n")).await;
    client.expect(start).await
}

#[tokio::test]
async fn hello() {
    let example = Example::start("hello", &[]);
    let mut client = example.client().await;
    send(&mut client, "Hello, world", "250 2.0.0 Printed").await;
    assert_eq!(example.line_with("Hello"), "Hello, world\\r\\n");
}

#[tokio::test]
async fn dump() {
    let example = Example::start("dump", &[]);
    let mut client = example.client().await;
    send(&mut client, "Subject: a\x1b[2Jb\r\n\r\nwords", "250 2.0.0").await;
    example.line_with("C: EHLO client.example");
    example.line_with("S: 250");
    example.line_with("From <sender@example.net>");
    assert!(!example.line_with("Subject").contains('\x1b'));
    example.line_with("words");
}

#[tokio::test]
async fn streaming() {
    let example = Example::start("streaming", &[]);
    let mut client = example.client().await;
    send(&mut client, "nothing bad", "250 2.0.0 13 bytes").await;
    let eicar = concat!("$EICAR-STANDARD-", "ANTIVIRUS-TEST-FILE!");
    send(
        &mut client,
        &format!("{}\r\n{eicar}\r\nQUIT", "x".repeat(70_000)),
        "554 5.7.1 Virus found",
    )
    .await;
    client.cmd("NOOP", "250").await;
}

#[tokio::test]
async fn custom_layer() {
    let example = Example::start("custom_layer", &[]);
    let mut client = example.client().await;
    send(&mut client, "x", "250").await;
    for phase in ["connect of 127", "helo of", "mail of", "rcpt of", "data of"] {
        assert!(example.line_with(phase).contains("250 2.0.0"));
    }
}

#[tokio::test]
async fn custom_service() {
    let example = Example::start("custom_service", &["spam.example"]);
    let mut client = example.client().await;
    client.cmd("MAIL FROM:<a@Spam.Example>", "554 5.7.1").await;
    client.cmd("MAIL FROM:<>", "250").await;
    client.cmd("RCPT TO:<b@spam.example>", "554 5.7.1").await;
    client.cmd("RCPT TO:<b@example.org>", "250").await;
}

#[tokio::test]
async fn hooks() {
    let example = Example::start("hooks", &[]);
    let mut client = example.client().await;
    client.cmd("XUPTIME", "250 2.0.0 0 seconds").await;
    client
        .cmd("VRFY alice", "250 2.0.0 <alice@example.org>")
        .await;
    client.cmd("VRFY bob", "252").await;
    client.cmd("XOTHER", "500").await;
    client.envelope().await;
    client.cmd("RSET", "250").await;
    example.line_with("given up: from <sender@example.net> to 1");
    send(&mut client, "whole", "250 2.0.0 7 bytes").await;
    client.cmd("QUIT", "221").await;
    example.line_with("ended: quit, 1 messages");

    let mut client = example.client().await;
    client.envelope().await;
    client.cmd("DATA", "354").await;
    client.send("half a message\r\n").await;
    drop(client);
    example.line_with("broke off after 16");
    example.line_with("ended: lost, 0 messages");
}

#[tokio::test]
async fn extension() {
    let example = Example::start("extension", &[]);
    let mut client = Client::over(TcpStream::connect(example.address).await.unwrap());
    client.expect("220").await;
    let announced = client.cmd("EHLO client.example", "250").await;
    assert!(announced.contains("XFILING INBOX ARCHIVE"), "{announced}");
    client.cmd("MAIL FROM:<a@example.com>", "554 5.7.1").await;
    client
        .cmd("MAIL FROM:<a@example.com> XTENANT=a/b", "501 5.5.4")
        .await;
    client
        .cmd("MAIL FROM:<a@example.com> XFOLDER=inbox", "555 5.5.4")
        .await;
    client
        .cmd(
            "MAIL FROM:<a@example.com> XTENANT=acme",
            "250 2.0.0 For acme",
        )
        .await;
    client
        .cmd("RCPT TO:<b@example.org> XFOLDER=nowhere", "501 5.5.4")
        .await;
    client
        .cmd("RCPT TO:<b@example.org> XFOLDER=archive", "250")
        .await;
    client.cmd("RCPT TO:<c@example.org>", "250").await;
    client.cmd("DATA", "354").await;
    client.send("x\r\n.\r\n").await;
    client.expect("250 2.0.0 Into the archive, the inbox").await;
}
