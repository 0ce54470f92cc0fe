//! Sessions as they go over the wire, one in each file of `transcripts/`. [`smtpd_core::test`] describes the syntax; here is what
//! events and instructions mean.
//!
//! ```text
//! ! config: max_size=100, auth=PLAIN LOGIN       how the server is set up (see `settings`)
//! ! rcpt bad@x -> 550 5.1.1 No such user         how the caller answers the next such event
//! E: rcpt b@c {}                                 the caller receives this
//! ```
//!
//! **Order.** What the server sends must be the response to the client's lines right before it. The same bytes must be sent if
//! the client sends everything at once, byte by byte, in sevens, or in random pieces.
//!
//! **Events.** Their text has escapes, like that of `C|`. A file that names a kind of event (`E: octets`, `E: taken`, ...) names
//! every event of that kind; `E: closed` is never left out; `E: never octets` says that there is none.
//!
//! **The caller** accepts everything, unless an instruction `! EVENT [KEY] -> ANSWER` says otherwise. It is used up by the first
//! event that the client's bytes after it cause: `connect`, `xclient`, `helo`, `mail`, `rcpt` (their key is the name or the
//! address), `auth`, `data`, `early` (at the first bytes of a message), `chunk` (the end of one), `message`. An answer is a
//! reply, for `message` possibly several, separated by `|`; for `auth` also `accept NAME`.
//!
//! **What the client waits for.** `! tls` stands for a handshake, with 32 bytes of `E` as channel binding with `! config:
//! exporter`, and a client certificate with `! config: certificate`; `! wait` stands for a client that reads all replies before
//! it continues. With `! config: whole` the input is not split in other ways, with `! config: trusted` the peer may use XCLIENT
//! and XFORWARD.
//!
//! **Requirements.** `! requires: scram` skips a file if the crate is built without that feature.

mod settings;

use std::{fs, path::Path, sync::Arc};

#[cfg(feature = "scram")]
use smtpd_core::sasl::Scram;
use smtpd_core::{
    DataReply, Reply,
    connection::TlsFacts,
    sasl::{ChannelBinding, ChannelBindings, Identity, Mechanisms},
    test::{Comparison, Expected, Line as Written, Transcript},
};

use self::settings::Settings;
use crate::support::{Caller, Decision, Session, Told, extensions};

/// The number of files. Otherwise, a file that is not found would go unnoticed.
const FILES: usize = 158;

#[test]
fn every_transcript_plays_the_same_in_all_pieces() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert_eq!(paths.len(), FILES, "FILES counts the transcripts");
    paths.retain(|path| std::panic::catch_unwind(|| play_in_all_pieces(path)).is_err());
    assert!(paths.is_empty(), "these have failed: {paths:#?}");
}

fn play_in_all_pieces(path: &Path) {
    let (text, name) = (
        fs::read_to_string(path).unwrap(),
        path.display().to_string(),
    );
    let transcript: Transcript = text
        .parse()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    if let Some(feature) = missing_feature(&transcript) {
        println!("left out without {feature}: {name}");
        return;
    }
    let script = Script::new(&transcript, &name);
    script.play_in_step();
    script.play("at once", |left| left);
    if script.settings.whole {
        return;
    }
    script.play("octet by octet", |_| 1);
    script.play("in sevens", |_| 7);
    for seed in 1..=20 {
        let mut random = Random(seed);
        script.play(&format!("in random pieces, seed {seed}"), |_| {
            random.next() % 40
        });
    }
}

/// Returns a feature that a file requires and that this build does not have.
fn missing_feature(transcript: &Transcript) -> Option<&str> {
    let lines = transcript.lines().filter_map(|(_, line)| match line {
        Written::Instruction(text) => text.strip_prefix(REQUIRES),
        _ => None,
    });
    let mut features = lines.flat_map(|line| line.split(' '));
    features.find(|feature| match *feature {
        "scram" => cfg!(not(feature = "scram")),
        "idna" => cfg!(not(feature = "idna")),
        _ => panic!("no such feature: {feature}"),
    })
}

const REQUIRES: &str = "requires: ";

/// A parsed file.
struct Script {
    name: String,
    settings: Settings,
    lines: Vec<Line>,
    answers: Vec<Answer>,
}

enum Line {
    Client(Vec<u8>),
    Server(Expected),
    Told(Told),
    Never(&'static str),
    Wait,
    Tls,
}

/// The caller's answer to the first event of a kind after some position.
#[derive(Clone)]
struct Answer {
    /// How many bytes the client sends before it.
    from: usize,
    event: String,
    key: Option<String>,
    text: String,
    line: String,
}

impl Script {
    /// The client does not continue before the server has sent what the file shows.
    fn play_in_step(&self) {
        let mut session = self.session();
        let (mut client, mut server) = (Vec::new(), Vec::new());
        for line in &self.lines {
            match line {
                Line::Client(bytes) => {
                    if !server.is_empty() {
                        self.step(&mut session, &mut client, &mut server);
                    }
                    client.extend_from_slice(bytes);
                }
                Line::Server(expected) => server.push(expected),
                Line::Told(_) | Line::Never(_) => {}
                Line::Wait => self.step(&mut session, &mut client, &mut server),
                Line::Tls => {
                    self.step(&mut session, &mut client, &mut server);
                    self.handshake(&mut session);
                }
            }
        }
        self.step(&mut session, &mut client, &mut server);
        self.check_told(&session, "in step");
    }

    fn handshake(&self, session: &mut Session<Answers>) {
        let mut facts = TlsFacts::default();
        facts.client_certificate = self.settings.certificate;
        if self.settings.exporter {
            facts.bindings = ChannelBindings::none().with(ChannelBinding::TlsExporter, [b'E'; 32]);
        }
        session.handshake(facts);
    }

    fn step(
        &self,
        session: &mut Session<Answers>,
        client: &mut Vec<u8>,
        server: &mut Vec<&Expected>,
    ) {
        session.feed(client);
        let said = std::mem::take(&mut session.output);
        let when = format!("{}: the answer to {}", self.name, show(client));
        check_said(&said, server, session.is_closed(), &when);
        client.clear();
        server.clear();
    }

    fn play(&self, how: &str, mut piece: impl FnMut(usize) -> usize) {
        let (mut session, mut server) = (self.session(), Vec::new());
        let mut client = Vec::new();
        let mut flush = |session: &mut Session<Answers>, client: &mut Vec<u8>| {
            session.feed(b"");
            while !client.is_empty() {
                let rest = client.split_off(piece(client.len()).clamp(1, client.len()));
                session.feed(&std::mem::replace(client, rest));
            }
        };
        for line in &self.lines {
            match line {
                Line::Client(bytes) => client.extend_from_slice(bytes),
                Line::Server(expected) => server.push(expected),
                Line::Told(_) | Line::Never(_) => {}
                Line::Wait => flush(&mut session, &mut client),
                Line::Tls => {
                    flush(&mut session, &mut client);
                    self.handshake(&mut session);
                }
            }
        }
        flush(&mut session, &mut client);
        self.check_log(&session);
        let when = format!("{} {how}", self.name);
        check_said(&session.output, &server, session.is_closed(), &when);
        self.check_told(&session, how);
    }

    /// Asserts that the log never contains the base64 of a user name, of a password, or of a challenge.
    fn check_log(&self, session: &Session<Answers>) {
        assert!(!session.log.is_empty(), "{}: nothing is logged", self.name);
        for line in &session.log {
            for secret in ["AGFsaWNl", "YWxpY2U", "c2VjcmV0", "PDAwMD"] {
                assert!(!line.contains(secret), "{}: {line} is logged", self.name);
            }
        }
    }

    fn check_told(&self, session: &Session<Answers>, how: &str) {
        let (mut named, mut expected) = (vec!["closed"], Vec::new());
        for line in &self.lines {
            match line {
                Line::Told(told) => {
                    named.push(told.kind);
                    expected.push(told.clone());
                }
                Line::Never(kind) => named.push(kind),
                _ => {}
            }
        }
        let mut told = session.told();
        told.retain(|this| named.contains(&this.kind));
        assert_eq!(told, expected, "{} {how}", self.name);
        let unused: Vec<_> = session.caller.0.iter().map(|answer| &answer.line).collect();
        assert!(
            unused.is_empty(),
            "{} {how}: nobody asked for {unused:?}",
            self.name
        );
    }

    fn session(&self) -> Session<Answers> {
        let answers = Answers(self.answers.clone());
        let config = self.settings.driver.clone().log_wire(true);
        let mut session = Session::new(Arc::new(config), self.settings.tls, answers);
        if self.settings.tls {
            self.handshake(&mut session);
        }
        if self.settings.trusted {
            session.connection.allow_xclient();
            session.connection.allow_xforward();
        }
        session
    }

    fn new(transcript: &Transcript, name: &str) -> Self {
        let mut script = Self {
            name: name.to_owned(),
            settings: Settings::parse(""),
            lines: Vec::new(),
            answers: Vec::new(),
        };
        let mut sent = 0;
        for (_, line) in transcript.lines() {
            let parsed = match line {
                Written::Client(bytes) => {
                    sent += bytes.len();
                    Line::Client(bytes.clone())
                }
                Written::Server(expected) => Line::Server(expected.clone()),
                Written::Event(text) => event(text),
                Written::Instruction(text) if text == "tls" => Line::Tls,
                Written::Instruction(text) if text == "wait" => Line::Wait,
                Written::Instruction(text) => {
                    script.instruct(text, sent);
                    continue;
                }
            };
            script.lines.push(parsed);
        }
        script
    }

    fn instruct(&mut self, line: &str, from: usize) {
        if let Some(settings) = line.strip_prefix("config: ") {
            self.settings = Settings::parse(settings);
            return;
        }
        if line.starts_with(REQUIRES) {
            return;
        }
        let (what, text) = line
            .split_once(" -> ")
            .unwrap_or_else(|| panic!("{}: no such instruction: {line}", self.name));
        let (event, key) = what
            .split_once(' ')
            .map_or((what, None), |(event, key)| (event, Some(key)));
        self.answers.push(Answer {
            from,
            event: event.to_owned(),
            key: key.map(str::to_owned),
            text: text.to_owned(),
            line: line.to_owned(),
        });
    }
}

/// Adds a mechanism that uses a hash.
#[cfg(feature = "scram")]
fn with_scram(mechanisms: Mechanisms, name: &str) -> Mechanisms {
    match name {
        "SCRAM-SHA-1" => mechanisms.with(Scram::sha1()),
        "SCRAM-SHA-256" => mechanisms.with(Scram::sha256()),
        "SCRAM-SHA-256-PLUS" => mechanisms.with(Scram::sha256().plus()),
        _ => panic!("no such mechanism: {name}"),
    }
}

#[cfg(not(feature = "scram"))]
fn with_scram(_: Mechanisms, name: &str) -> Mechanisms {
    panic!("no such mechanism: {name}")
}

/// The answers of a file that are not used up yet.
struct Answers(Vec<Answer>);

impl Caller for Answers {
    fn decide(&mut self, told: &Told, taken: usize) -> Option<Decision> {
        let text = String::from_utf8_lossy(&told.text);
        let first = text.split(' ').next();
        let (name, key) = match told.kind {
            kind @ ("connect" | "xclient" | "auth" | "data" | "early") => (kind, None),
            kind @ ("helo" | "mail" | "rcpt") => {
                (kind, first.map(|path| path.trim_matches(['<', '>'])))
            }
            "chunk-end" => ("chunk", None),
            "taken" | "refused" => ("message", None),
            _ => return None,
        };
        let due = self.0.iter().position(|answer| {
            answer.event == name
                && (answer.from < taken || name == "connect")
                && answer
                    .key
                    .as_deref()
                    .is_none_or(|wanted| Some(wanted) == key)
        });
        let text = self.0.remove(due?).text;
        if let Some(name) = text.strip_prefix("accept ") {
            return Some(Decision::Auth(Identity::new(name).into()));
        }
        let replies = text.split(" | ").map(|reply| reply.parse().unwrap());
        let replies: Vec<Reply> = replies.collect();
        Some(match <[_; 1]>::try_from(replies) {
            Ok([reply]) => reply.into(),
            Err(replies) => Decision::Replies(DataReply::each(replies)),
        })
    }
}

fn event(text: &str) -> Line {
    const KINDS: [&str; 17] = [
        "connect",
        "xclient",
        "xforward",
        "helo",
        "auth",
        "authenticated",
        "mail",
        "rcpt",
        "data",
        "octets",
        "chunk-end",
        "taken",
        "refused",
        "reset",
        "tls",
        "closed",
        "never",
    ];
    let known = |word| {
        *KINDS
            .iter()
            .find(|&&kind| kind == word)
            .unwrap_or_else(|| panic!("no such event: {word}"))
    };
    let (kind, text) = text.split_once(' ').unwrap_or((text, ""));
    match known(kind) {
        "never" => Line::Never(known(text)),
        kind => Line::Told(Told {
            kind,
            text: unescape(text),
        }),
    }
}

/// Decodes the escapes of an event: they are those of the client's bytes.
fn unescape(text: &str) -> Vec<u8> {
    let line = format!("C| {text}");
    let transcript: Transcript = line.parse().unwrap_or_else(|error| panic!("{error}"));
    let bytes = transcript.lines().find_map(|(_, line)| match line {
        Written::Client(bytes) => Some(bytes.clone()),
        _ => None,
    });
    bytes.unwrap_or_default()
}

/// Asserts that the server has sent what is expected, and nothing else.
fn check_said(said: &[u8], expected: &[&Expected], is_closed: bool, when: &str) {
    let mut rest = said;
    let as_expected = expected
        .iter()
        .all(|expected| take_expected(&mut rest, expected, is_closed));
    let shown: Vec<_> = expected.iter().map(ToString::to_string).collect();
    assert!(
        as_expected && rest.is_empty(),
        "{when}\nexpected:\n{}\nactual:\n{}",
        shown.join("\n"),
        show(said)
    );
}

/// Takes what is expected from the beginning of what was sent. Returns whether it is there.
fn take_expected(said: &mut &[u8], expected: &Expected, is_closed: bool) -> bool {
    let pattern = match expected {
        Expected::Line(pattern) => pattern,
        Expected::Bytes(bytes) => {
            let rest = said.strip_prefix(bytes.as_slice());
            *said = rest.unwrap_or(said);
            return rest.is_some();
        }
        Expected::Closed => return said.is_empty() && is_closed,
        Expected::Reset => panic!("without a socket there is no reset"),
    };
    loop {
        let Some(end) = said.windows(2).position(|pair| pair == b"\r\n") else {
            return false;
        };
        let (line, rest) = said.split_at(end);
        let compared = std::str::from_utf8(line).map(|line| pattern.compare(line));
        *said = &rest[2..];
        match compared {
            Ok(Comparison::Matches) => return true,
            Ok(Comparison::Continues) => {}
            Ok(Comparison::Differs) | Err(_) => return false,
        }
    }
}

fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().replace("\\r\\n", "\n")
}

/// Xorshift: the same numbers in every run.
struct Random(u32);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 as usize
    }
}
