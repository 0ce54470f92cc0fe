//! Sessions as they go over the wire, one in each file of `transcripts/`.
//!
//! ```text
//! # config: max_size=100, auth=PLAIN LOGIN       how the server is set up (see `apply`)
//! # rcpt bad@x -> 550 5.1.1 No such user         how the caller answers the next such event
//! C: MAIL FROM:<a@b>                             the client sends this and CRLF
//! C| a\x00\*30\n                                 the client sends just this, the last byte before \* 30 times
//! S: 250 2.0.0 OK                                the server sends this and CRLF
//! S| 334 \r\n                                    the server sends just this
//! E: rcpt b@c {}                                 the caller receives this
//! ```
//!
//! **Order.** What the server sends must be the response to the client's lines right before it. The same bytes must be sent if
//! the client sends everything at once, byte by byte, in sevens, or in random pieces.
//!
//! **Events.** A file that names a kind of event (`E: octets`, `E: taken`, ...) names every event of that kind; `E: closed` is
//! never left out; `E: never octets` says that there is none.
//!
//! **The caller** accepts everything, unless a line `# EVENT [KEY] -> ANSWER` says otherwise. Such a line is used up by the first
//! event that the client's bytes after it cause: `connect`, `xclient`, `helo`, `mail`, `rcpt` (their key is the name or the
//! address), `auth`, `data`, `early` (at the first bytes of a message), `chunk` (the end of one), `message`. An answer is a
//! reply, for `message` possibly several, separated by `|`; for `auth` also `accept NAME`.
//!
//! **What the client waits for.** `# tls` stands for a handshake, with 32 bytes of `E` as channel binding with `# config:
//! exporter`, and a client certificate with `# config: certificate`; `# wait` stands for a client that reads all replies before
//! it continues. With `# config: whole` the input is not split in other ways, with `# config: trusted` the peer may use XCLIENT
//! and XFORWARD.
//!
//! **Requirements.** `# requires: scram` skips a file if the crate is built without that feature.

use std::{fs, path::Path, sync::Arc};

use smtpd_core::{
    BareNewline, Config, DataReply, Extensions, Leniency, Limits, NulByte, Protocol, Reply,
    TlsFacts,
    sasl::{
        Anonymous, ChannelBinding, ChannelBindings, CramMd5, External, Identity, Login, Mechanisms,
        OAuthBearer, Plain, XOAuth2,
    },
};

use crate::support::{Caller, Decision, Session, Told, extensions};

/// The number of files. Otherwise, a file that is not found would go unnoticed.
const FILES: usize = 145;

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
    let text = fs::read_to_string(path).unwrap();
    if let Some(feature) = missing_feature(&text) {
        println!("left out without {feature}: {}", path.display());
        return;
    }
    let script = Script::parse(&text, &path.display().to_string());
    script.play_in_step();
    script.play("at once", |left| left);
    if script.whole {
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
fn missing_feature(text: &str) -> Option<&str> {
    let lines = text.lines().filter_map(|l| l.strip_prefix(REQUIRES));
    let mut features = lines.flat_map(|line| line.split(' '));
    features.find(|feature| match *feature {
        "scram" => cfg!(not(feature = "scram")),
        "idna" => cfg!(not(feature = "idna")),
        _ => panic!("no such feature: {feature}"),
    })
}

const REQUIRES: &str = "# requires: ";

/// A parsed file.
struct Script {
    name: String,
    config: Arc<Config>,
    tls: bool,
    exporter: bool,
    trusted: bool,
    certificate: bool,
    whole: bool,
    lines: Vec<Line>,
    answers: Vec<Answer>,
}

enum Line {
    Client(Vec<u8>),
    Server(Vec<u8>),
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
                Line::Server(bytes) => server.extend_from_slice(bytes),
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
        facts.client_certificate = self.certificate;
        if self.exporter {
            facts.bindings = ChannelBindings::none().with(ChannelBinding::TlsExporter, [b'E'; 32]);
        }
        session.handshake(facts);
    }

    fn step(&self, session: &mut Session<Answers>, client: &mut Vec<u8>, server: &mut Vec<u8>) {
        session.feed(client);
        let said = std::mem::take(&mut session.output);
        assert_eq!(
            show(&said),
            show(server),
            "{}: the answer to {}",
            self.name,
            show(client)
        );
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
                Line::Server(bytes) => server.extend_from_slice(bytes),
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
        assert_eq!(show(&session.output), show(&server), "{} {how}", self.name);
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
        let mut session = Session::new(self.config.clone(), self.tls, answers);
        if self.tls {
            self.handshake(&mut session);
        }
        if self.trusted {
            session.connection.allow_xclient();
            session.connection.allow_xforward();
        }
        session
    }

    fn parse(text: &str, name: &str) -> Self {
        let mut script = Self {
            name: name.to_owned(),
            config: Arc::new(Config::new("mx.example.org").log_wire(true)),
            tls: false,
            exporter: false,
            trusted: false,
            certificate: false,
            whole: false,
            lines: Vec::new(),
            answers: Vec::new(),
        };
        let mut sent = 0;
        for line in text.lines().filter(|line| !line.is_empty()) {
            let (mark, rest) = line.split_at(2);
            let rest = rest.strip_prefix(' ').unwrap_or(rest);
            let parsed = match mark {
                "C:" => Line::Client([rest.as_bytes(), b"\r\n"].concat()),
                "C|" => Line::Client(unescape(rest)),
                "S:" => Line::Server([rest.as_bytes(), b"\r\n"].concat()),
                "S|" => Line::Server(unescape(rest)),
                "E:" => event(rest),
                "# " if rest == "tls" => Line::Tls,
                "# " if rest == "wait" => Line::Wait,
                "# " => {
                    script.directive(rest, sent);
                    continue;
                }
                _ => panic!("{name}: {line:?}"),
            };
            if let Line::Client(bytes) = &parsed {
                sent += bytes.len();
            }
            script.lines.push(parsed);
        }
        script
    }

    fn directive(&mut self, line: &str, from: usize) {
        if let Some(settings) = line.strip_prefix("config: ") {
            return self.configure(settings);
        }
        // Anything else without an arrow is a comment.
        let Some((what, text)) = line.split_once(" -> ") else {
            return;
        };
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

    fn configure(&mut self, settings: &str) {
        let (mut config, mut limits) = (Config::new("mx.example.org"), Limits::default());
        let mut extensions = Extensions::default();
        for setting in settings.split(", ") {
            let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
            match key {
                "tls" => self.tls = true,
                "exporter" => self.exporter = true,
                "trusted" => self.trusted = true,
                "certificate" => self.certificate = true,
                "whole" => self.whole = true,
                "with" => extensions = value.split(' ').fold(extensions, extensions::with),
                "without" => extensions = value.split(' ').fold(extensions, Extensions::without),
                _ => config = apply(config, &mut limits, key, value),
            }
        }
        let config = config.extensions(extensions).limits(limits);
        self.config = Arc::new(config.log_wire(true));
    }
}

fn apply(config: Config, limits: &mut Limits, key: &str, value: &str) -> Config {
    let number = || value.parse::<u32>().unwrap();
    match key {
        "max_size" => limits.message_size = (number() > 0).then(|| number().into()),
        "max_rcpt" => limits.recipients = number(),
        "max_domains" => limits.recipient_domains = Some(number()),
        "max_line" => limits.command_line = number() as usize,
        "max_errors" => limits.errors = number(),
        "max_auth_failures" => limits.auth_failures = number(),
        "max_idle" => limits.idle_commands = number(),
        "max_messages" => limits.messages = number(),
        "max_drain" => limits.drain = number().into(),
        "starttls" => return config.starttls(true),
        "require_tls" => return config.starttls(true).require_tls(true),
        "require_auth" => return config.require_auth(true),
        "insecure_auth" => return config.allow_insecure_auth(true),
        "strict_pipelining" => return config.strict_pipelining(true),
        "xclient" => return config.xclient(true),
        "xforward" => return config.xforward(true),
        "lmtp" => return config.protocol(Protocol::Lmtp),
        "auth" => {
            return config.mechanisms(mechanisms(value)).entropy(|nonce| {
                nonce.fill(0);
                true
            });
        }
        "no_entropy" => return config.mechanisms(Mechanisms::none().with(CramMd5)),
        "bare_newline" => return config.bare_newline(policy(value)),
        "lenient" => return config.leniency(Leniency::COMMON),
        "nul" => return config.nul_byte(nul_policy(value)),
        _ => panic!("no such setting: {key}"),
    }
    config
}

fn mechanisms(names: &str) -> Mechanisms {
    names
        .split(' ')
        .fold(Mechanisms::none(), |mechanisms, name| match name {
            "PLAIN" => mechanisms.with(Plain),
            "LOGIN" => mechanisms.with(Login),
            "CRAM-MD5" => mechanisms.with(CramMd5),
            "OAUTHBEARER" => mechanisms.with(OAuthBearer::new()),
            "XOAUTH2" => mechanisms.with(XOAuth2::new()),
            "EXTERNAL" => mechanisms.with(External),
            "ANONYMOUS" => mechanisms.with(Anonymous),
            #[cfg(feature = "scram")]
            "SCRAM-SHA-1" => mechanisms.with(smtpd_core::sasl::Scram::sha1()),
            #[cfg(feature = "scram")]
            "SCRAM-SHA-256" => mechanisms.with(smtpd_core::sasl::Scram::sha256()),
            #[cfg(feature = "scram")]
            "SCRAM-SHA-256-PLUS" => mechanisms.with(smtpd_core::sasl::Scram::sha256().plus()),
            _ => panic!("no such mechanism: {name}"),
        })
}

fn policy(name: &str) -> BareNewline {
    match name {
        "reject" => BareNewline::Reject,
        "normalise" => BareNewline::Normalise,
        "pass" => BareNewline::PassThrough,
        _ => panic!("no such policy: {name}"),
    }
}

fn nul_policy(name: &str) -> NulByte {
    match name {
        "reject" => NulByte::Reject,
        "strip" => NulByte::Strip,
        "pass" => NulByte::PassThrough,
        _ => panic!("no such policy: {name}"),
    }
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

/// Decodes `\r`, `\n`, `\t`, `\\`, `\xHH`, and `\*N`: the byte before it is repeated, N times in total.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        bytes.extend_from_slice(plain.as_bytes());
        let (kind, after) = escape.split_at(1);
        rest = after;
        match kind {
            "r" => bytes.push(b'\r'),
            "n" => bytes.push(b'\n'),
            "t" => bytes.push(b'\t'),
            "\\" => bytes.push(b'\\'),
            "x" => {
                let (digits, after) = rest.split_at(2);
                bytes.push(u8::from_str_radix(digits, 16).unwrap());
                rest = after;
            }
            "*" => {
                let end = rest
                    .find(|c: char| !c.is_ascii_digit())
                    .unwrap_or(rest.len());
                let (digits, after) = rest.split_at(end);
                let (times, last) = (digits.parse::<usize>().unwrap(), *bytes.last().unwrap());
                bytes.resize(bytes.len() + times - 1, last);
                rest = after;
            }
            _ => panic!("no such escape: \\{kind}"),
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
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
