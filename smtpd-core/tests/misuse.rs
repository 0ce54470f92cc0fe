//! Drivers that are careless, and clients that are hostile: what neither can bring about.
#![allow(clippy::unwrap_used, reason = "all of it is a test")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use smtpd_core::{
    Ask, CloseReason, Code, Config, Connection, DataReply, Deferred, Limits, MessageError, Overdue,
    Protocol, Reply, Status, Step, TlsFacts, ask_kind,
    bytes::BytesMut,
    sasl::{Anonymous, CramMd5, Identity, Mechanisms, Scram, Secret},
};

use self::support::{Session, Yes};

mod support;

const HELLO: &str = "EHLO client.example\r\n";
const TRANSACTION: &str = "EHLO client.example\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";
const AUTH: &str = "AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n";

fn config() -> Config {
    let mut limits = Limits::default();
    limits.message_size = Some(100);
    Config::new("mx.example.org")
        .limits(limits)
        .starttls(true)
        .custom_commands(true)
        .xclient(true)
        .xforward(true)
        .mechanisms(Mechanisms::default())
        .allow_insecure_auth(true)
}

fn with(config: Config, client: &str) -> Session<Yes> {
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

/// A question that is deferred. Called, it answers and returns whether the question was still open.
type Open = Box<dyn FnOnce(&mut Connection, Answer) -> bool>;

enum Answer {
    Accept,
    Refuse(Reply),
    /// The question is resumed and forgotten.
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

    /// The client sends this, which leads to a question that is deferred.
    fn ask(&mut self, client: &str) -> Open {
        self.send(client.as_bytes());
        let now = self.now;
        loop {
            return match self.connection.poll(now, &mut self.input) {
                Step::Connect(ask) | Step::XClient(_, ask) => defer(ask, |ask| ask.accept()),
                Step::Helo(_, ask) => defer(ask, |ask| ask.accept()),
                Step::Auth(_, ask) => defer(ask, |ask| ask.verify(Secret::plain("secret"))),
                Step::Mail(_, ask) => defer(ask, |ask| ask.accept()),
                Step::Rcpt(_, ask) => defer(ask, |ask| ask.accept()),
                Step::Command(_, ask) => defer(ask, |ask| ask.accept()),
                Step::StartTls(ask) => defer(ask, |ask| ask.accept()),
                Step::Data(ask) if !self.input.is_empty() => {
                    ask.receive();
                    continue;
                }
                Step::Data(ask) => defer(ask, |ask| ask.receive()),
                Step::ChunkEnd(ask) => defer(ask, |ask| ask.taken()),
                Step::Message(_, ask) => defer(ask, |ask| ask.reply(Reply::ok("Taken"))),
                Step::Chunk(bytes, receiving) if bytes.starts_with(b"hold") => {
                    resumable(receiving.hold().unwrap(), |ask| ask.taken())
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

    /// Plays until the session is over. Whatever is asked is accepted.
    fn end(&mut self) -> CloseReason {
        self.feed(b"");
        match self.poll() {
            Step::Closed(reason) => reason,
            other => panic!("the session goes on: {other:?}"),
        }
    }

    /// What was sent since this was called last.
    fn sent(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.output)).unwrap()
    }

    fn codes(&mut self) -> Vec<u16> {
        codes(&self.sent())
    }
}

/// The codes of the replies.
fn codes(sent: &str) -> Vec<u16> {
    let last = sent.lines().filter(|line| line.as_bytes()[3] == b' ');
    last.map(|line| line[..3].parse().unwrap()).collect()
}

/// What a client has sent before, and what leads to a question.
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

/// Those of them after which a whole message awaits its answer.
fn is_whole_message(question: &str) -> bool {
    question.ends_with("LAST\r\nab") || question.ends_with(".\r\n")
}

/// What a client has sent where the session waits for more of it.
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

// Waits: each has a deadline (F1), there is one for each state (F2), and it is the client's own time (F3).

#[test]
fn a_client_that_stalls_in_the_handshake_is_waited_for_without_end() {
    for implicit in [false, true] {
        let mut session = Session::new(Arc::new(config()), implicit, Yes);
        session.feed(if implicit { b"" } else { b"STARTTLS\r\n" });
        assert_eq!(session.until, Some(session.now + seconds(30)));
        session.now += seconds(30);
        assert_eq!(session.end(), CloseReason::TlsFailed);
    }
}

#[test]
fn a_handshake_that_begins_late_is_cut_off() {
    let mut session = after("STARTTLS\r\n");
    session.now += seconds(29);
    session.handshake(TlsFacts::default());
    session.sent();
    session.feed(HELLO.as_bytes());
    assert_eq!(session.codes(), [250]);
}

#[test]
fn the_time_to_take_the_220_is_part_of_the_handshake() {
    let mut session = after("");
    session.ask("STARTTLS\r\n")(&mut session.connection, Answer::Accept);
    assert!(matches!(session.poll(), Step::Write(_)));
    session.now += seconds(200);
    session.feed(b"");
    assert_eq!(session.until, Some(session.now + seconds(30)));
}

#[test]
fn a_driver_that_meets_eof_in_the_handshake_spins() {
    for implicit in [false, true] {
        let mut session = Session::new(Arc::new(config()), implicit, Yes);
        session.feed(if implicit { b"" } else { b"STARTTLS\r\n" });
        match session.poll() {
            Step::Handshake(handshake) => handshake.into_connection().handle_eof(),
            other => panic!("{other:?}"),
        }
        assert_eq!(session.end(), CloseReason::Lost);
    }
}

#[test]
fn nine_hundred_commands_in_one_write_get_fewer_replies() {
    let mut session = after("");
    session.sent();
    session.send(HELLO.repeat(900).as_bytes());
    let mut writes = 0;
    loop {
        let now = session.now;
        match session.connection.poll(now, &mut session.input) {
            Step::Helo(_, ask) => ask.accept(),
            Step::Write(mut writing) => {
                assert!(writing.until() > now);
                let sent = writing.bytes().to_vec();
                assert!(sent.len() <= (64 << 10) + 512, "{} bytes wait", sent.len());
                writing.wrote(sent.len(), now);
                session.output.extend(sent);
                writes += 1;
            }
            Step::Read(reading) => {
                assert!(reading.until() > now);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(session.input.is_empty() && writes > 1);
    assert_eq!(session.codes(), [250; 900]);
}

#[test]
fn a_wait_that_is_not_heeded_turns_into_another() {
    let mut session = after("");
    session.send(b"NOOP\r\n");
    for _ in 0..3 {
        assert!(matches!(session.poll(), Step::Write(_)));
    }
    session.feed(b"");
    for _ in 0..3 {
        assert!(matches!(session.poll(), Step::Read(_)));
    }
    let open = session.ask(HELLO);
    for _ in 0..3 {
        assert!(matches!(session.poll(), Step::Answer(_)));
    }
    assert!(open(&mut session.connection, Answer::Accept));
}

#[test]
fn a_slow_answer_is_held_against_the_client() {
    let mut session = after(TRANSACTION);
    let open = session.ask("DATA\r\nab\r\n.\r\n");
    session.feed(b"");
    session.now += seconds(400);
    assert!(open(&mut session.connection, Answer::Accept));
    session.feed(b"");
    assert_eq!(session.until, Some(session.now + seconds(300)));
    // It makes no difference whether the question was deferred.
    session.send(b"MAIL FROM:<a@b>\r\n");
    match session.poll() {
        Step::Mail(_, ask) => ask.accept(),
        other => panic!("{other:?}"),
    }
    session.now += seconds(400);
    session.feed(b"");
    assert_eq!(session.until, Some(session.now + seconds(300)));
}

#[test]
fn a_busy_driver_ends_a_session_whose_command_has_come() {
    let mut session = after(HELLO);
    session.sent();
    session.now += seconds(310);
    session.feed(b"NOOP\r\n");
    assert_eq!(session.codes(), [250]);
}

#[test]
fn a_driver_that_is_late_ends_a_session_before_it_looks_at_its_socket() {
    // The client has been in time, but nobody has looked.
    let mut session = after(HELLO);
    session.sent();
    session.now = session.until.unwrap() + seconds(1);
    session.feed(b"");
    session.feed(b"NOOP\r\n");
    assert_eq!(session.codes(), [250]);
    let mut session = after("STARTTLS\r\n");
    session.now = session.until.unwrap() + seconds(1);
    session.feed(b"");
    session.handshake(TlsFacts::default());
    let mut session = after("");
    session.send(b"NOOP\r\n");
    assert!(matches!(session.poll(), Step::Write(_)));
    session.now += seconds(301);
    session.sent();
    session.feed(b"");
    assert_eq!(session.codes(), [250]);
    let mut session = after(TRANSACTION);
    let open = session.ask("DATA\r\nab\r\n.\r\n");
    session.feed(b"");
    session.now = session.until.unwrap() + seconds(1);
    session.feed(b"");
    assert!(open(&mut session.connection, Answer::Accept));
}

#[test]
fn a_driver_that_is_always_late_ends_no_session() {
    for client in PAUSES {
        let mut session = after(client);
        session.now = session.until.unwrap() + seconds(1);
        session.feed(b"");
        session.now = session.until.unwrap() + seconds(1);
        session.feed(b"");
        assert!(matches!(session.poll(), Step::Closed(_)), "{client:?}");
    }
    // Replies and an answer wait at the same time.
    let mut session = after(TRANSACTION);
    let late = session.ask("DATA\r\nab\r\n.\r\n");
    for _ in 0..2 {
        session.now += seconds(541);
        assert!(matches!(session.poll(), Step::Write(_)));
    }
    session.now += seconds(541);
    assert!(matches!(session.poll(), Step::Overdue(_)));
    assert!(!late(&mut session.connection, Answer::Accept));
}

#[test]
fn a_clock_that_runs_backwards_ends_a_session() {
    let mut session = after(HELLO);
    session.sent();
    session.now -= Duration::from_millis(10);
    session.feed(b"NOOP\r\n");
    assert_eq!(session.codes(), [250]);
    assert!(session.until > Some(session.now + seconds(299)));
}

// Answers that accept what nobody has seen (F4).

/// The steps that a careless driver knows, a bit for each; it drops all others, as a wildcard arm does.
#[derive(Clone, Copy, Debug)]
struct Known(u32);

impl Known {
    const ALL: u32 = 0b111_1111;
    const CHUNK_END: u32 = 5;

    const fn has(self, kind: u32) -> bool {
        self.0 & 1 << kind != 0
    }

    /// Plays a session. Returns the codes that the client got, and the message.
    fn play(self, client: &str) -> (Vec<u16>, Option<Vec<u8>>) {
        let mut connection = Connection::new(Arc::new(config()));
        let (mut now, mut input) = (Instant::now(), BytesMut::from(client.as_bytes()));
        let (mut sent, mut message, mut whole) = (String::new(), Vec::new(), None);
        loop {
            match connection.poll(now, &mut input) {
                Step::Write(mut writing) => {
                    sent.push_str(std::str::from_utf8(writing.bytes()).unwrap());
                    writing.wrote(writing.bytes().len(), now);
                }
                Step::Read(reading) => now = reading.until(),
                Step::Closed(_) => return (codes(&sent), whole),
                Step::Connect(ask) if self.has(0) => ask.accept(),
                Step::Helo(_, ask) if self.has(1) => ask.accept(),
                Step::Mail(_, ask) if self.has(2) => ask.accept(),
                Step::Rcpt(_, ask) if self.has(3) => ask.accept(),
                Step::Data(ask) if self.has(4) => ask.receive(),
                Step::ChunkEnd(ask) if self.has(Self::CHUNK_END) => ask.taken(),
                Step::Message(result, ask) if self.has(6) => {
                    whole = result.ok().map(|()| std::mem::take(&mut message));
                    ask.reply(Reply::ok("Taken"));
                }
                Step::Chunk(bytes, _) => message.extend_from_slice(&bytes),
                other => drop(other),
            }
        }
    }
}

#[test]
fn a_wildcard_arm_loses_a_message_with_250() {
    for text in [
        "DATA\r\nHello\r\n.\r\n",
        "BDAT 3\r\nHelBDAT 4 LAST\r\nlo\r\n",
    ] {
        let client = format!("{TRANSACTION}{text}");
        let is_chunked = text.starts_with("BDAT");
        let needed = Known::ALL & !(u32::from(!is_chunked) << Known::CHUNK_END);
        for known in (0..=Known::ALL).map(Known) {
            let (codes, message) = known.play(&client);
            let accepted = codes.iter().filter(|&&code| code == 250).count();
            if known.0 & needed == needed {
                assert_eq!(message.as_deref(), Some(&b"Hello\r\n"[..]));
            } else {
                assert_eq!(message, None, "{known:?}");
                // EHLO, MAIL, RCPT and the first chunk at most.
                let most = 3 + usize::from(is_chunked);
                assert!(accepted <= most, "{known:?} {codes:?}");
            }
        }
    }
}

#[test]
fn a_forgotten_question_stalls_the_session_or_accepts() {
    for (before, question) in QUESTIONS {
        let mut session = after(before);
        let open = session.ask(question);
        assert!(open(&mut session.connection, Answer::Drop));
        session.feed(if question.ends_with("hold") {
            b"\r\n.\r\n"
        } else {
            b""
        });
        let expected = match question {
            _ if question.ends_with("\n\n") => 550,
            _ if question.starts_with("XCLIENT") => 421,
            _ => 451,
        };
        let sent = session.codes();
        assert_eq!(sent.last(), Some(&expected), "{question:?} {sent:?}");
        assert_eq!(session.connection.messages(), 0);
    }
}

#[test]
fn a_question_that_is_leaked_holds_the_session_without_end() {
    let mut session = after(HELLO);
    session.send(b"MAIL FROM:<a@b>\r\n");
    match session.poll() {
        Step::Mail(_, ask) => std::mem::forget(ask),
        other => panic!("{other:?}"),
    }
    session.feed(b"");
    session.now = session.until.unwrap();
    assert!(matches!(session.poll(), Step::Overdue(Overdue::Unanswered)));
    session.sent();
    session.feed(b"");
    assert_eq!(session.codes(), [451]);
}

#[test]
fn a_message_that_is_refused_for_good_is_sent_again_because_its_question_was_forgotten_or_late() {
    for (text, code) in [
        (format!("DATA\r\n{}\r\n.\r\n", "x".repeat(200)), 552),
        ("BDAT 2 LAST\r\n\n\n".to_owned(), 550),
    ] {
        for late in [false, true] {
            let mut session = after(TRANSACTION);
            session.send(text.as_bytes());
            let deferred = loop {
                match session.poll() {
                    Step::Data(ask) => ask.receive(),
                    Step::Message(Err(_), ask) => break ask.defer(),
                    other => drop(other),
                }
            };
            if late {
                session.feed(b"");
                session.now += seconds(540);
            } else {
                drop(session.connection.resume(deferred));
            }
            session.feed(b"");
            assert_eq!(session.codes().last(), Some(&code), "{late} {text:?}");
        }
    }
}

#[test]
fn a_message_with_a_fault_is_accepted() {
    for early in [false, true] {
        for (text, error, code) in [
            (
                format!("DATA\r\nabc{}\r\n.\r\n", "x".repeat(200)),
                MessageError::TooLarge,
                552,
            ),
            (
                "DATA\r\nabc\n\r\n.\r\n".to_owned(),
                MessageError::BareNewline,
                550,
            ),
        ] {
            let mut session = after(TRANSACTION);
            session.feed(&text.as_bytes()[..8]);
            if early {
                // The whole is judged nevertheless.
                let receiving = session.connection.receiving();
                receiving.unwrap().discard(Reply::ok("Taken"));
            }
            session.feed(&text.as_bytes()[8..]);
            assert_eq!(session.codes().last(), Some(&code), "{early} {error}");
            assert_eq!(session.connection.messages(), 0);
        }
    }
}

#[test]
fn a_chunk_that_is_refused_leaves_its_bytes_to_be_commands() {
    let mut session = after(TRANSACTION);
    let open = session.ask("BDAT 6\r\nNOOP\r\nBDAT 6\r\nNOOP\r\nBDAT 6 LAST\r\nNOOP\r\nNOOP\r\n");
    session.sent();
    open(
        &mut session.connection,
        Answer::Refuse(Reply::rejected("No")),
    );
    session.feed(b"");
    assert_eq!(session.codes(), [554, 503, 503, 250]);
}

#[test]
fn bytes_of_an_earlier_message_are_taken_for_the_next() {
    // The first chunk belongs to a transaction that EHLO ends.
    let client = format!("{TRANSACTION}BDAT 3\r\nold{TRANSACTION}DATA\r\nnew\r\n.\r\n");
    let mut session = after("");
    session.feed(client.as_bytes());
    let told = session.told();
    let begun = told.iter().rposition(|told| told.kind == "data").unwrap();
    let after_data: Vec<_> = told[begun..].iter().map(|told| told.kind).collect();
    // Step::Data begins each message, whatever became of the one before.
    assert_eq!(after_data, ["data", "octets", "taken"]);
    assert_eq!(told[begun + 1].text, b"new\r\n");
}

// Plaintext that becomes commands under TLS (F5).

#[test]
fn plaintext_behind_starttls_becomes_a_command_under_tls() {
    const INJECTED: &[u8] = b"EHLO injected\r\nMAIL FROM:<x@y.z>\r\n";
    for moment in 0..4 {
        let mut session = after(HELLO);
        let inject = |session: &mut Session<Yes>, now: u32| {
            if now == moment {
                session.send(INJECTED);
            }
        };
        let open = session.ask("STARTTLS\r\n");
        inject(&mut session, 0);
        assert!(matches!(session.poll(), Step::Write(_) | Step::Answer(_)));
        open(&mut session.connection, Answer::Accept);
        inject(&mut session, 1);
        assert!(matches!(session.poll(), Step::Write(_)));
        inject(&mut session, 2);
        session.feed(b"");
        inject(&mut session, 3);
        session.handshake(TlsFacts::default());
        assert!(session.input.is_empty());
        session.sent();
        session.feed(b"");
        assert!(session.output.is_empty() && session.connection.is_tls());
        assert!(session.connection.helo().is_none());
        assert!(!session.told().iter().any(|told| told.kind == "mail"));
    }
}

#[test]
fn plaintext_in_the_same_write_as_starttls_becomes_a_command_under_tls() {
    let mut session = after("STARTTLS\r\nEHLO injected\r\n");
    assert_eq!(session.end(), CloseReason::Violation);
}

#[test]
fn the_handshake_begins_before_the_220_is_written() {
    let mut session = after("");
    session.ask("STARTTLS\r\n")(&mut session.connection, Answer::Accept);
    let now = session.now;
    loop {
        match session.poll() {
            Step::Write(mut writing) => writing.wrote(1, now),
            Step::Handshake(handshake) => break handshake.failed(),
            other => panic!("{other:?}"),
        }
    }
    // Nothing is said in plaintext after a handshake that failed.
    session.sent();
    assert_eq!(session.end(), CloseReason::TlsFailed);
    assert!(session.output.is_empty());
}

#[test]
fn starttls_cannot_be_refused() {
    let mut session = after("");
    session.sent();
    let unavailable = Reply::new(Code::TLS_UNAVAILABLE, Status::POLICY, "No TLS now");
    let open = session.ask("STARTTLS\r\n");
    open(&mut session.connection, Answer::Refuse(unavailable));
    session.feed(b"NOOP\r\n");
    assert_eq!(session.codes(), [454, 250]);
    assert!(!session.connection.is_tls());
}

#[test]
fn starttls_that_is_refused_can_be_asked_for_without_end() {
    let mut session = after("");
    let mut asked = 0;
    let reason = loop {
        session.send(b"STARTTLS\r\n");
        let now = session.now;
        match session.poll() {
            Step::StartTls(ask) => {
                asked += 1;
                ask.refuse(Reply::busy());
            }
            Step::Write(mut writing) => writing.wrote(writing.bytes().len(), now),
            Step::Read(_) => {}
            Step::Closed(reason) => break reason,
            other => panic!("{other:?}"),
        }
        session.input.clear();
    };
    assert_eq!((asked, reason), (1000, CloseReason::Limit));
}

// What is known of the session, which a copy of one's own does not follow (F6).

/// Who the client is, how it has introduced itself, its sender, and its recipients.
fn known(session: &Session<Yes>) -> [Option<String>; 4] {
    let connection = &session.connection;
    let envelope = connection.envelope();
    [
        connection.identity().map(ToString::to_string),
        connection.helo().map(|helo| helo.name.to_string()),
        envelope.map(|envelope| envelope.sender().to_string()),
        envelope.map(|envelope| {
            let recipients = envelope.recipients().iter();
            recipients
                .map(|one| one.path().to_string())
                .collect::<Vec<_>>()
                .join(" ")
        }),
    ]
}

#[test]
fn an_identity_or_an_envelope_outlives_what_it_was_given_for() {
    let transaction = TRANSACTION.strip_prefix(HELLO).unwrap();
    let (alice, client) = (Some("alice"), Some("client.example"));
    let open = [alice, client, Some("a@b"), Some("c@d")];
    let message = format!("{transaction}DATA\r\nab\r\n.\r\n");
    for (then, expected) in [
        ("", [alice, client, None, None]),
        (
            "MAIL FROM:<a@b>\r\n",
            [alice, client, Some("a@b"), Some("")],
        ),
        (transaction, open),
        (&format!("{transaction}RCPT TO:<>\r\n"), open),
        (&format!("{transaction}DATA\r\n"), open),
        (&format!("{transaction}BDAT 2\r\nab"), open),
        (
            &format!("{transaction}BDAT x\r\n"),
            [alice, client, None, None],
        ),
        (&message, [alice, client, None, None]),
        (
            &format!("{transaction}RSET\r\n"),
            [alice, client, None, None],
        ),
        (
            &format!("{transaction}EHLO other\r\n"),
            [alice, Some("other"), None, None],
        ),
        (&format!("{transaction}EHLO\r\n"), open),
        ("XCLIENT NAME=a.example\r\n", [None; 4]),
        ("XCLIENT LOGIN=bob\r\n", [Some("bob"), None, None, None]),
    ] {
        let mut session = after(HELLO);
        session.feed(AUTH.as_bytes());
        session.feed(then.as_bytes());
        let expected = expected.map(|one| one.map(ToOwned::to_owned));
        assert_eq!(known(&session), expected, "{then:?}");
    }
    let mut session = after(HELLO);
    session.feed(AUTH.as_bytes());
    session.feed(b"STARTTLS\r\n");
    session.handshake(TlsFacts::default());
    assert_eq!(known(&session), [const { None }; 4]);
}

#[test]
fn a_refused_data_leaves_an_envelope() {
    let mut session = after(TRANSACTION);
    let open = session.ask("DATA\r\n");
    open(&mut session.connection, Answer::Refuse(Reply::busy()));
    assert!(session.connection.envelope().is_none());
    session.sent();
    session.feed(b"RCPT TO:<e@f>\r\nDATA\r\n");
    assert_eq!(session.codes().last(), Some(&503));
}

#[test]
fn what_was_refused_is_in_the_envelope() {
    let mut session = after(HELLO);
    let no = || Answer::Refuse(Reply::no_such_user());
    session.ask("MAIL FROM:<a@b>\r\n")(&mut session.connection, no());
    assert!(session.connection.envelope().is_none());
    session.feed(b"MAIL FROM:<a@b>\r\n");
    session.ask("RCPT TO:<c@d>\r\n")(&mut session.connection, no());
    assert_eq!(known(&session)[3].as_deref(), Some(""));
    let refused = session.ask("EHLO other\r\n");
    refused(&mut session.connection, no());
    assert_eq!(
        known(&session)[1..3],
        [Some("client.example".into()), Some("a@b".into())]
    );
}

#[test]
fn the_word_for_received_is_not_that_of_the_session() {
    for (client, word) in [
        ("HELO a\r\n", "SMTP"),
        (HELLO, "ESMTP"),
        ("EHLO a\r\nMAIL FROM:<a@b> SMTPUTF8\r\n", "UTF8SMTP"),
        ("EHLO a\r\nMAIL FROM:<a@b> SMTPUTF8\r\nRSET\r\n", "ESMTP"),
        ("EHLO a\r\nAUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n", "ESMTPA"),
    ] {
        assert_eq!(after(client).connection.protocol_word(), word, "{client}");
    }
}

// Answers that fit another question (F7).

#[test]
fn a_late_answer_reaches_the_next_question() {
    for (before, question) in QUESTIONS {
        let mut session = after(before);
        let late = session.ask(question);
        session.feed(b"");
        let until = session.until.unwrap();
        session.now = until;
        session.feed(b"");
        let next = session.ask_again();
        assert!(
            !late(&mut session.connection, Answer::Accept),
            "{question:?}"
        );
        if let Some(next) = next {
            assert!(next(&mut session.connection, Answer::Accept));
        }
    }
}

impl Session<Yes> {
    /// Another question, where the session goes on.
    fn ask_again(&mut self) -> Option<Open> {
        if self.input.is_empty() && !self.connection.is_receiving() {
            self.feed(b"RSET\r\n");
        }
        let goes_on = matches!(self.poll(), Step::Read(_)) && !self.connection.is_receiving();
        goes_on.then(|| self.ask("EHLO again\r\n"))
    }
}

#[test]
fn an_answer_reaches_another_session() {
    let (mut one, mut other) = (after(HELLO), after(HELLO));
    let open = one.ask("MAIL FROM:<a@b>\r\n");
    let same = other.ask("MAIL FROM:<a@b>\r\n");
    assert!(!open(&mut other.connection, Answer::Accept));
    assert!(same(&mut other.connection, Answer::Accept));
}

#[test]
fn a_service_that_became_ready_too_late_gives_time_to_the_next_question() {
    let mut session = after(HELLO);
    session.send(b"MAIL FROM:<a@b>\r\n");
    let queued = match session.poll() {
        Step::Mail(_, ask) => ask.queue(),
        other => panic!("{other:?}"),
    };
    session.feed(b"");
    session.now += seconds(30);
    session.feed(b"");
    let _next = session.ask("EHLO again\r\n");
    session.connection.begin(&queued);
    session.feed(b"");
    assert_eq!(session.until, Some(session.now + seconds(240)));
    assert!(session.connection.resume(queued).is_none());
}

#[test]
fn a_peer_is_trusted_after_it_was_greeted() {
    let mut session = Session::new(Arc::new(config()), false, Yes);
    session.feed(b"");
    session.connection.allow_xclient();
    session.connection.allow_xforward();
    session.sent();
    session.feed(b"XCLIENT NAME=a.example\r\nEHLO a\r\nXFORWARD NAME=a.example\r\n");
    assert_eq!(session.codes(), [550, 250, 550]);
}

// Codes that mean something else to the client (F8 a).

#[test]
fn a_reply_has_a_code_that_does_not_answer_the_command() {
    let all = [
        200, 211, 214, 220, 221, 235, 250, 251, 252, 253, 299, 334, 354,
    ];
    for (client, kept) in [
        ("MAIL FROM:<a@b>\r\n", &[][..]),
        ("RCPT TO:<c@d>\r\n", &[251]),
        ("FROBNICATE\r\n", &[200, 211, 214, 251, 252, 253, 299]),
        ("DATA\r\nab\r\n.\r\n", &[]),
    ] {
        for code in all {
            let mut session = after(if client.starts_with('M') {
                HELLO
            } else {
                TRANSACTION
            });
            session.send(client.as_bytes());
            let reply = Reply::new(Code::new(code).unwrap(), Status::UNDEFINED, "Yes");
            loop {
                match session.poll() {
                    Step::Mail(_, ask) => break ask.reply(reply),
                    Step::Rcpt(_, ask) => break ask.reply(reply),
                    Step::Command(_, ask) => break ask.reply(reply),
                    Step::Message(_, ask) => break ask.reply(reply),
                    Step::Data(ask) => ask.receive(),
                    other => drop(other),
                }
            }
            session.feed(b"");
            let expected = match code {
                300.. => 451,
                _ if kept.contains(&code) => code,
                _ => 250,
            };
            assert_eq!(session.codes().last(), Some(&expected), "{code} {client}");
        }
    }
}

#[test]
fn a_greeting_has_a_code_that_is_none() {
    for code in [200, 221, 235, 250, 354, 450, 550, 421] {
        let mut session = Session::new(Arc::new(config()), false, Yes);
        match session.poll() {
            Step::Connect(ask) => ask.reply(Reply::new(
                Code::new(code).unwrap(),
                Status::UNDEFINED,
                "Hello",
            )),
            other => panic!("{other:?}"),
        }
        session.feed(b"");
        let expected = match code {
            ..300 => 220,
            550 => 550,
            _ => 421,
        };
        assert_eq!(session.codes(), [expected], "{code}");
    }
}

#[test]
fn a_refusal_accepts() {
    for (before, question) in QUESTIONS {
        for code in [250, 235, 221, 354] {
            let mut session = after(before);
            let open = session.ask(question);
            let reply = Reply::new(Code::new(code).unwrap(), Status::UNDEFINED, "Yes");
            open(&mut session.connection, Answer::Refuse(reply));
            session.feed(if question.ends_with("hold") {
                b"\r\n.\r\n"
            } else {
                b""
            });
            let sent = session.codes();
            assert!(sent.last() >= Some(&400), "{code} {question:?} {sent:?}");
            assert_eq!(session.connection.messages(), 0);
        }
    }
}

#[test]
#[cfg(feature = "scram")]
fn an_authentication_without_proof_succeeds() {
    let config = |mechanisms| {
        config().mechanisms(mechanisms).entropy(|bytes| {
            bytes.fill(0);
            true
        })
    };
    let plain = || Mechanisms::default();
    let scram = || Mechanisms::none().with(Scram::sha256());
    let cram = || Mechanisms::none().with(CramMd5);
    let scram_login = "AUTH SCRAM-SHA-256 biwsbj1hbGljZSxyPWFiYw==\r\n";
    let cram_login = "AUTH CRAM-MD5\r\nYWxpY2UgMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA=\r\n";
    type Answer = fn(Ask<'_, ask_kind::Auth>);
    let outcomes: [(Mechanisms, &str, Answer); 5] = [
        (plain(), AUTH, |ask| ask.answer(Reply::OK.into())),
        (plain(), AUTH, |ask| {
            let reply = Reply::new(Code::AUTHENTICATED, Status::UNDEFINED, "Yes");
            ask.answer(reply.into());
        }),
        (plain(), AUTH, |ask| ask.accept(Identity::new(""))),
        (scram(), scram_login, |ask| {
            ask.accept(Identity::new("alice"))
        }),
        (cram(), cram_login, |ask| ask.verify(Secret::plain(""))),
    ];
    for (number, (mechanisms, client, answer)) in outcomes.into_iter().enumerate() {
        let mut session = with(config(mechanisms), HELLO);
        session.send(client.as_bytes());
        loop {
            let now = session.now;
            match session.poll() {
                Step::Auth(_, ask) => break answer(ask),
                Step::Write(mut writing) => writing.wrote(writing.bytes().len(), now),
                other => panic!("{other:?}"),
            }
        }
        session.sent();
        session.feed(b"");
        assert_eq!(session.codes().last(), Some(&535), "{number}");
        assert!(session.connection.identity().is_none());
    }
}

#[test]
fn a_mechanism_is_left_out_for_want_of_random_bytes_that_it_does_not_need() {
    let anonymous = Mechanisms::none().with(Anonymous);
    let mut session = with(config().mechanisms(anonymous), HELLO);
    assert!(session.sent().contains("AUTH ANONYMOUS\r\n"));
    session.send(b"AUTH ANONYMOUS dHJhY2U=\r\n");
    assert!(matches!(session.poll(), Step::Auth(..)));
}

#[test]
fn a_recipient_of_lmtp_gets_no_reply_or_a_wrong_one() {
    let of = |code| Reply::new(Code::new(code).unwrap(), Status::UNDEFINED, "So");
    let cases: [(DataReply, &[u16]); 4] = [
        (DataReply::each([of(250), of(550), of(250)]), &[250, 550]),
        (DataReply::each([]), &[451, 451]),
        (DataReply::each([of(354), of(221)]), &[451, 250]),
        (DataReply::each([of(250), of(421)]), &[250, 421]),
    ];
    for (replies, expected) in cases {
        let lmtp = config().protocol(Protocol::Lmtp);
        let client = TRANSACTION.replace("EHLO", "LHLO");
        let mut session = with(lmtp, &format!("{client}RCPT TO:<e@f>\r\nDATA\r\n"));
        session.send(b"ab\r\n.\r\n");
        session.sent();
        loop {
            match session.poll() {
                Step::Message(_, ask) => break ask.reply(replies),
                other => drop(other),
            }
        }
        session.feed(b"");
        assert_eq!(session.codes(), expected);
    }
}

// Bytes that are counted wrongly, and what grows (F8 c, d).

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "more was written than there was")]
fn a_driver_that_counts_wrongly_goes_on_with_garbage() {
    let mut session = after("");
    session.send(b"NOOP\r\n");
    let now = session.now;
    match session.poll() {
        Step::Write(mut writing) => writing.wrote(100_000, now),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_reply_that_is_longer_than_the_output_may_be_is_cut() {
    let mut session = after(HELLO);
    session.sent();
    let long = Reply::new(Code::HELP, Status::UNDEFINED, "x".repeat(100 << 10));
    for _ in 0..2 {
        session.send(b"HELP\r\n");
        match session.poll() {
            Step::Command(_, ask) => ask.reply(long.clone()),
            other => panic!("{other:?}"),
        }
        session.feed(b"");
        assert!(session.output.len() > 100 << 10);
        assert_eq!(session.codes(), [214]);
    }
}

#[test]
fn the_wire_log_grows_while_nobody_takes_its_lines() {
    let mut session = with(config().log_wire(true), "");
    session.send(&b"NOOP\r\n".repeat(900));
    let all = session.input.len();
    let mut lines = 0;
    while !session.input.is_empty() {
        match session.poll() {
            // It makes no difference that it is dropped: nothing happens before all lines are handed out.
            Step::Line(_) => lines += 1,
            other => panic!("{other:?}"),
        }
        let commands = (all - session.input.len()) / b"NOOP\r\n".len();
        assert!(lines > 2 * (commands - 1), "{lines} of {commands} commands");
    }
}

#[test]
fn a_session_costs_much_more_than_it_did() {
    // 312 bytes before it kept the greeting and the envelope, and every limit.
    let size = size_of::<Connection>() + size_of::<smtpd_core::Helo>();
    assert!(size <= 312 + 100, "{size} bytes");
}

// The end of a session, from outside (F8 f, g, h).

#[test]
fn a_client_that_sends_nothing_more_leaves_a_session_or_loses_a_reply() {
    for client in PAUSES {
        let mut session = after(client);
        session.sent();
        match session.poll() {
            Step::Read(reading) => reading.into_connection().handle_eof(),
            Step::Handshake(handshake) => handshake.into_connection().handle_eof(),
            other => panic!("{other:?}"),
        }
        assert_eq!(session.end(), CloseReason::Lost, "{client:?}");
        assert!(session.output.is_empty());
        assert_eq!(
            session.connection.messages(),
            0,
            "a message that is cut is void"
        );
        assert!(session.connection.envelope().is_none());
    }
    for (before, question) in QUESTIONS {
        let mut session = after(before);
        let open = session.ask(question);
        session.sent();
        session.connection.handle_eof();
        assert!(matches!(session.poll(), Step::Answer(_) | Step::Write(_)));
        assert!(open(&mut session.connection, Answer::Accept));
        assert_eq!(session.end(), CloseReason::Lost, "{question:?}");
        assert!(
            !session.output.is_empty() || question.ends_with("hold"),
            "{question:?}"
        );
        let messages = u32::from(is_whole_message(question));
        assert_eq!(session.connection.messages(), messages, "{question:?}");
    }
}

#[test]
fn commands_before_the_end_of_the_input_are_not_answered() {
    let mut session = after("");
    session.sent();
    session.send(format!("{TRANSACTION}DATA\r\nab\r\n.\r\n").as_bytes());
    session.connection.handle_eof();
    assert_eq!(session.end(), CloseReason::Lost);
    assert_eq!(session.codes(), [250, 250, 250, 354, 250]);
    let mut session = after("");
    session.send(b"QUIT\r\n");
    session.connection.handle_eof();
    assert_eq!(session.end(), CloseReason::Quit);
}

#[test]
fn a_lost_client_leaves_a_session_or_loses_a_whole_message() {
    for client in PAUSES {
        let mut session = after(client);
        session.sent();
        session.connection.handle_lost();
        assert_eq!(session.end(), CloseReason::Lost, "{client:?}");
        assert!(session.output.is_empty());
    }
    for (before, question) in QUESTIONS {
        let mut session = after(before);
        let open = session.ask(question);
        session.sent();
        session.connection.handle_lost();
        let whole = is_whole_message(question);
        match session.poll() {
            Step::Answer(answering) => assert!(whole && answering.outlives_client()),
            Step::Closed(CloseReason::Lost) => assert!(!whole, "{question:?}"),
            other => panic!("{question:?} {other:?}"),
        }
        assert_eq!(open(&mut session.connection, Answer::Accept), whole);
        assert_eq!(session.end(), CloseReason::Lost);
        assert!(session.output.is_empty());
        assert_eq!(session.connection.messages(), u32::from(whole));
    }
}

#[test]
fn a_lost_client_is_closed_for_another_reason() {
    let mut session = after(TRANSACTION);
    let open = session.ask("DATA\r\nab\r\n.\r\n");
    session.connection.handle_lost();
    open(
        &mut session.connection,
        Answer::Refuse(Reply::closing("Down")),
    );
    assert_eq!(session.end(), CloseReason::Lost);
    // And one that has said QUIT is not lost.
    let mut session = after("");
    session.send(b"QUIT\r\n");
    assert!(matches!(session.poll(), Step::Write(_)));
    session.connection.handle_lost();
    assert_eq!(session.end(), CloseReason::Quit);
}

#[test]
fn a_message_is_delivered_without_end_for_a_client_that_is_lost() {
    let mut session = after(TRANSACTION);
    let late = session.ask("DATA\r\nab\r\n.\r\n");
    session.connection.handle_lost();
    session.feed(b"");
    session.now += seconds(540);
    assert_eq!(session.end(), CloseReason::Lost);
    assert!(!late(&mut session.connection, Answer::Accept));
    // The whole server has to go.
    let mut session = after(TRANSACTION);
    let late = session.ask("DATA\r\nab\r\n.\r\n");
    session.connection.handle_lost();
    session.connection.shut_down();
    assert_eq!(session.end(), CloseReason::Shutdown);
    assert!(!late(&mut session.connection, Answer::Accept));
}

#[test]
fn a_session_outlives_a_forced_shutdown() {
    for client in PAUSES {
        let mut session = after(client);
        session.sent();
        session.send(b"NOOP\r\n");
        session.connection.shut_down();
        assert_eq!(session.end(), CloseReason::Shutdown, "{client:?}");
        let is_handshake = client.ends_with("STARTTLS\r\n");
        let expected = if is_handshake { &[][..] } else { &[421] };
        assert_eq!(session.codes(), expected, "{client:?}");
    }
    for (before, question) in QUESTIONS {
        let mut session = after(before);
        let late = session.ask(question);
        session.connection.shut_down();
        assert!(!late(&mut session.connection, Answer::Accept));
        assert_eq!(session.end(), CloseReason::Shutdown, "{question:?}");
        assert_eq!(session.codes().last(), Some(&421), "{question:?}");
        assert_eq!(session.connection.messages(), 0);
    }
    for implicit in [false, true] {
        let mut session = Session::new(Arc::new(config()), implicit, Yes);
        session.connection.shut_down();
        assert_eq!(session.end(), CloseReason::Shutdown);
        let expected = if implicit { &[][..] } else { &[421] };
        assert_eq!(
            session.codes(),
            expected,
            "before it is polled for the first time"
        );
    }
}

#[test]
fn an_answer_is_lost_or_a_session_left_when_the_server_drains() {
    for (before, question) in QUESTIONS {
        let mut session = after(before);
        let open = session.ask(question);
        session.sent();
        session.connection.drain();
        assert!(matches!(session.poll(), Step::Answer(_) | Step::Write(_)));
        assert!(
            open(&mut session.connection, Answer::Accept),
            "{question:?}"
        );
        session.feed(b"");
        if session.connection.is_receiving() {
            let rest: &[u8] = match question {
                "BDAT 2\r\nab" => b"BDAT 0 LAST\r\n",
                "BDAT 2 LAST\r\nab" => b"",
                _ => b"\r\n.\r\n",
            };
            session.feed(rest);
        }
        if session.connection.envelope().is_some() {
            session.feed(b"RCPT TO:<c@d>\r\nDATA\r\nab\r\n.\r\n");
        }
        if question == "STARTTLS\r\n" {
            session.handshake(TlsFacts::default());
        }
        assert_eq!(session.end(), CloseReason::Shutdown, "{question:?}");
        let sent = session.codes();
        assert_eq!(sent.last(), Some(&421), "{question:?}");
        assert!(sent.len() > 1, "the answer itself: {question:?} {sent:?}");
    }
}

#[test]
fn a_session_that_is_closed_says_or_asks_something() {
    for client in ["QUIT\r\n", "GET / HTTP/1.1\r\n", "BDAT x\r\n"] {
        let mut session = after(client);
        let reason = session.end();
        session.sent();
        for _ in 0..3 {
            session.send(TRANSACTION.as_bytes());
            session.now += seconds(1000);
            assert!(matches!(session.poll(), Step::Closed(same) if same == reason));
            assert!(
                session.input.is_empty(),
                "what comes after the end is dropped"
            );
        }
        session.connection.drain();
        session.connection.handle_eof();
        session.connection.handle_lost();
        session.connection.shut_down();
        assert_eq!(session.end(), reason);
        assert!(session.output.is_empty());
        assert!(session.connection.receiving().is_none());
    }
}

#[test]
fn a_client_that_takes_no_replies_is_waited_for_without_end() {
    let mut session = after("");
    session.send(b"NOOP\r\n");
    let now = session.now;
    match session.poll() {
        Step::Write(mut writing) => {
            assert_eq!(writing.until(), now + seconds(300));
            writing.wrote(0, now);
        }
        other => panic!("{other:?}"),
    }
    session.sent();
    session.now += seconds(300);
    assert_eq!(session.end(), CloseReason::Timeout);
    assert!(session.output.is_empty());
}

#[test]
fn input_that_the_driver_drops_is_taken_for_something_else() {
    let mut session = with(config().custom_commands(false), HELLO);
    session.sent();
    session.feed(b"MAIL FRO");
    session.input.clear();
    session.feed(b"M:<a@b>\r\nNOOP\r\n");
    assert_eq!(session.codes(), [500, 250]);
}
