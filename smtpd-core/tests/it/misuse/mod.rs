//! Careless drivers and hostile clients: what neither of them can cause.

use std::{sync::Arc, time::Duration};

use smtpd_core::{
    Ask, Config, Connection, Reply, Step,
    config::DriverConfig,
    connection::{CloseReason, Deferred},
    sasl::{Mechanisms, Secret},
};

use crate::support::{Session, Yes};

mod acceptance;
mod codes;
mod end;
mod growth;
mod questions;
mod state;
mod tls;
mod waits;

const HELLO: &str = "EHLO client.example\r\n";
const TRANSACTION: &str = "EHLO client.example\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";
const AUTH: &str = "AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n";

fn settings() -> Config {
    Config::new("mx.example.org")
        .limits(|limits| limits.message_size = Some(100))
        .mechanisms(Mechanisms::default())
        .allow_insecure_auth(true)
}

fn driver(settings: Config) -> DriverConfig {
    DriverConfig::new(settings)
        .starttls(true)
        .custom_commands(true)
        .xclient(true)
        .xforward(true)
}

fn config() -> DriverConfig {
    driver(settings())
}

fn with(config: DriverConfig, client: &str) -> Session<Yes> {
    let mut session = Session::new(Arc::new(config), false, Yes);
    session.connection.allow_xclient();
    session.connection.allow_xforward();
    session.feed(b"");
    session.feed(client.as_bytes());
    session
}

fn after(client: &str) -> Session<Yes> {
    with(config(), client)
}

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A deferred question. Calling it answers the question and returns whether it was still open.
type Open = Box<dyn FnOnce(&mut Connection, Answer) -> bool>;

enum Answer {
    Accept,
    Refuse(Reply),
    /// The question is resumed and dropped.
    Drop,
}

fn defer<K: 'static>(ask: Ask<'_, K>, accept: impl FnOnce(Ask<'_, K>) + 'static) -> Open {
    resumable(ask.defer(), accept)
}

fn resumable<K: 'static>(deferred: Deferred<K>, accept: impl FnOnce(Ask<'_, K>) + 'static) -> Open {
    Box::new(move |connection, answer| {
        let Some(ask) = connection.resume(deferred) else {
            return false;
        };
        match answer {
            Answer::Accept => accept(ask),
            Answer::Refuse(reply) => ask.refuse(reply),
            Answer::Drop => drop(ask),
        }
        true
    })
}

impl Session<Yes> {
    fn poll(&mut self) -> Step<'_> {
        self.connection.poll(self.now, &mut self.input)
    }

    /// Sends this to the session, which leads to a question, and defers it.
    fn ask(&mut self, client: &str) -> Open {
        self.send(client.as_bytes());
        let now = self.now;
        loop {
            return match self.connection.poll(now, &mut self.input) {
                Step::Connect(ask) | Step::XClient(_, ask) => defer(ask, |ask| ask.accept()),
                Step::Helo(_, ask) => defer(ask, |ask| ask.accept()),
                Step::Auth(_, ask) => defer(ask, |ask| ask.verify(Secret::password("secret"))),
                Step::Mail(_, ask) => defer(ask, |ask| ask.accept()),
                Step::Rcpt(_, ask) => defer(ask, |ask| ask.accept()),
                Step::Command(_, ask) => defer(ask, |ask| ask.accept()),
                Step::StartTls(ask) => defer(ask, |ask| ask.accept()),
                Step::Data(ask) if !self.input.is_empty() => {
                    ask.receive();
                    continue;
                }
                Step::Data(ask) => defer(ask, |ask| ask.receive()),
                Step::ChunkEnd(ask) => defer(ask, |ask| ask.accept()),
                Step::Message(_, ask) => defer(ask, |ask| ask.reply(Reply::ok("Taken"))),
                Step::Chunk(bytes, receiving) if bytes.starts_with(b"hold") => {
                    resumable(receiving.hold().unwrap(), |ask| ask.accept())
                }
                Step::Chunk(..) | Step::Authenticated(_) | Step::Reset(_) => continue,
                Step::Write(mut writing) => {
                    self.output.extend_from_slice(writing.bytes());
                    writing.wrote(writing.bytes().len(), now);
                    continue;
                }
                other => panic!("no question is asked: {other:?}"),
            };
        }
    }

    /// Plays until the session is over. Every question is accepted.
    fn end(&mut self) -> CloseReason {
        self.feed(b"");
        match self.poll() {
            Step::Closed(reason) => reason,
            other => panic!("the session goes on: {other:?}"),
        }
    }

    /// Returns what was sent since the last call.
    fn sent(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.output)).unwrap()
    }

    fn codes(&mut self) -> Vec<u16> {
        codes(&self.sent())
    }
}

/// Returns the codes of the replies.
fn codes(sent: &str) -> Vec<u16> {
    let last = sent.lines().filter(|line| line.as_bytes()[3] == b' ');
    last.map(|line| line[..3].parse().unwrap()).collect()
}

/// What a client sent before, and what leads to a question.
const QUESTIONS: [(&str, &str); 13] = [
    ("", HELLO),
    (HELLO, AUTH),
    (HELLO, "MAIL FROM:<a@b>\r\n"),
    (TRANSACTION, "RCPT TO:<e@f>\r\n"),
    (TRANSACTION, "FROBNICATE\r\n"),
    (HELLO, "STARTTLS\r\n"),
    (HELLO, "XCLIENT NAME=a.example\r\n"),
    (TRANSACTION, "DATA\r\n"),
    (TRANSACTION, "DATA\r\nhold"),
    (TRANSACTION, "BDAT 2\r\nab"),
    (TRANSACTION, "BDAT 2 LAST\r\nab"),
    (TRANSACTION, "DATA\r\nab\r\n.\r\n"),
    (TRANSACTION, "BDAT 2 LAST\r\n\n\n"),
];

/// Returns whether a complete message awaits its answer after this question.
fn is_whole_message(question: &str) -> bool {
    question.ends_with("LAST\r\nab") || question.ends_with(".\r\n")
}

/// What a client sent before the session waits for more of it.
const PAUSES: [&str; 12] = [
    "",
    "NO",
    HELLO,
    "EHLO client.example\r\nAUTH LOGIN\r\n",
    "EHLO client.example\r\nMAIL FROM:<a@b>\r\n",
    TRANSACTION,
    "EHLO client.example\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n",
    "EHLO client.example\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\ntext",
    "EHLO client.example\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 10\r\nte",
    "EHLO client.example\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 2\r\nte",
    "EHLO client.example\r\nBDAT 10\r\nte",
    "EHLO client.example\r\nSTARTTLS\r\n",
];
