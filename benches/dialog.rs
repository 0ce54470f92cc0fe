//! Fixed dialogs over a stream in memory, without a kernel or a clock between: the same instructions each time.
//!
//! `dialog SCENARIO MESSAGES` runs one; `.ci/instructions` counts what it executes. As a bench target without arguments it
//! runs each once, so that `cargo bench` and `cargo test --benches` show that they work.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use smtpd_tower::{
    Connect, Mail, PeerAddr, Pipeline, Rcpt, Request, Server, deliver::Discard, handler_fn,
    layer::DomainFilterLayer,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower::ServiceBuilder;

const SCENARIOS: [&str; 7] = ["msgk", "pipe", "pipex", "rcpt50", "rcpt50p", "bdatk", "big"];

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|a| !a.starts_with("--"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    match (arguments.next(), arguments.next()) {
        (Some(scenario), Some(messages)) => {
            let messages = messages.parse().expect("MESSAGES is a number");
            runtime.block_on(run(&scenario, messages));
        }
        _ => SCENARIOS
            .iter()
            .for_each(|scenario| runtime.block_on(run(scenario, 2))),
    }
}

/// Runs one session, and checks that every message was taken.
async fn run(scenario: &str, messages: usize) {
    let client = Client::new(scenario, messages);
    let server = Server::new("mx.example.org", pipeline())
        .configure(|config| config.max_message_size(100 << 20));
    let summary = std::sync::Arc::new(std::sync::Mutex::new(0));
    let seen = summary.clone();
    let server = server.on_close(move |_, summary| *seen.lock().unwrap() = summary.messages);
    server
        .serve_connection(client, PeerAddr::from(([192, 0, 2, 1], 4000)))
        .await;
    assert_eq!(*summary.lock().unwrap() as usize, messages, "{scenario}");
}

fn pipeline() -> Pipeline {
    let rcpt = ServiceBuilder::new()
        .layer(DomainFilterLayer::new(["example.org"]))
        .service(handler_fn(async |_: Request<Rcpt>| {}));
    Pipeline::new()
        .connect(handler_fn(async |_: Request<Connect>| {}))
        .mail(handler_fn(async |_: Request<Mail>| {}))
        .rcpt(rcpt)
        .data(Discard)
}

/// The client's side: each read gives the next group of commands, as if it came after the replies to the one before.
struct Client {
    groups: std::vec::IntoIter<Bytes>,
    now: Bytes,
}

impl Client {
    fn new(scenario: &str, messages: usize) -> Self {
        let mut groups = vec![Bytes::from_static(b"EHLO client.example\r\n")];
        let message = message(scenario);
        for _ in 0..messages {
            groups.extend_from_slice(&message);
        }
        groups.push(Bytes::from_static(b"QUIT\r\n"));
        Self {
            groups: groups.into_iter(),
            now: Bytes::new(),
        }
    }
}

/// What is sent for one message, a group for each wait for replies.
fn message(scenario: &str) -> Vec<Bytes> {
    const MAIL: &str = "MAIL FROM:<sender@example.com> SIZE=1024\r\n";
    let rcpt = |n: usize| format!("RCPT TO:<recipient{n}@example.org>\r\n");
    let text = |size: usize| {
        let line =
            "The quick brown fox jumps over the lazy dog, and goes on with it for so long.\r\n";
        line.repeat(size.div_ceil(line.len()))
    };
    let dotted = |size| format!("{}.\r\n", text(size));
    let all: Vec<String> = match scenario {
        "msgk" => vec![MAIL.into(), rcpt(1), "DATA\r\n".into(), dotted(1024)],
        "pipe" => vec![format!("{MAIL}{}DATA\r\n", rcpt(1)), dotted(1024)],
        "pipex" => vec![format!("{MAIL}{}DATA\r\n{}", rcpt(1), dotted(1024))],
        "rcpt50" | "rcpt50p" => {
            let rcpts = (0..50).map(rcpt);
            let mut all = vec![MAIL.to_owned()];
            all.extend(rcpts);
            all.push("DATA\r\n".into());
            if scenario == "rcpt50p" {
                all = vec![all.concat()];
            }
            all.push(dotted(1024));
            all
        }
        "bdatk" => {
            let text = text(1024);
            vec![format!(
                "{MAIL}{}BDAT {} LAST\r\n{text}",
                rcpt(1),
                text.len()
            )]
        }
        "big" => vec![format!("{MAIL}{}DATA\r\n", rcpt(1)), dotted(10 << 20)],
        other => panic!("no scenario {other:?}: one of {SCENARIOS:?}"),
    };
    all.into_iter().map(Bytes::from).collect()
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.now.is_empty() {
            self.now = self.groups.next().unwrap_or_default();
        }
        let octets = self.now.len().min(buf.remaining());
        buf.put_slice(&self.now[..octets]);
        self.now.advance(octets);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(octets.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
