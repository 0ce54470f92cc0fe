//! Every example runs, and does what it says.

mod support;

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, ChildStdout, Command, Stdio},
};

use support::Client;
use tokio::net::TcpStream;

/// An example as a process of its own, ended with the test.
struct Example {
    process: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    address: SocketAddr,
}

impl Example {
    /// Starts an example that prints where it listens.
    fn start(name: &str, arguments: &[&str]) -> Self {
        let mut process = spawn(name, &[&["127.0.0.1:0"], arguments].concat());
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = lines
            .next()
            .expect("the example says where it listens")
            .unwrap();
        let address = line
            .strip_prefix("listening on ")
            .expect(&line)
            .parse()
            .unwrap();
        Self {
            process,
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

    fn line_with(&mut self, part: &str) -> String {
        let found = self
            .lines
            .by_ref()
            .map(Result::unwrap)
            .find(|line| line.contains(part));
        found.unwrap_or_else(|| panic!("no line with {part:?}"))
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(name: &str, arguments: &[&str]) -> Child {
    // Examples lie beside the directory of the tests.
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    Command::new(path.join("examples").join(name))
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .expect("examples are built with the tests")
}

async fn send(client: &mut Client<TcpStream>, message: &str, start: &str) -> String {
    client.envelope().await;
    client.cmd("DATA", "354").await;
    client.send(format!("{message}\r\n.\r\n")).await;
    client.expect(start).await
}

#[tokio::test]
async fn hello() {
    let mut process = spawn("hello", &[]);
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let stream = loop {
        match TcpStream::connect("127.0.0.1:2525").await {
            Ok(stream) => break stream,
            Err(_) => assert!(process.try_wait().unwrap().is_none(), "is port 2525 taken?"),
        }
    };
    let mut client = Client::over(stream);
    client.expect("220").await;
    client.cmd("EHLO c", "250").await;
    send(&mut client, "Hello, world", "250 2.0.0 Printed").await;
    assert_eq!(lines.next().unwrap().unwrap(), "Hello, world\\r\\n");
    process.kill().unwrap();
    process.wait().unwrap();
}

#[tokio::test]
async fn dump() {
    let mut example = Example::start("dump", &[]);
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
    send(&mut client, "nothing bad", "250 2.0.0 13 octets").await;
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
    let mut example = Example::start("custom_layer", &[]);
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
