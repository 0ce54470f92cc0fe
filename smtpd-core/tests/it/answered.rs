//! The reports of replies that refuse.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use smtpd_core::{
    Config, Connection, DataReply, Protocol, Reply, Step,
    config::DriverConfig,
    connection::{Answered, Deferred, MessageError, ask_kind},
    extension::{Extensions, Prdr},
    reply::Origin,
    sasl::{Mechanisms, Secret},
};

/// A driver that refuses what has `bad` in it, with the reports that it has received.
struct Driver {
    connection: Connection,
    input: BytesMut,
    now: Instant,
    answered: Vec<Answered>,
    replies: String,
    /// How long the answer to RCPT takes.
    slow: Duration,
    deferred: Option<(Deferred<ask_kind::Rcpt>, Reply)>,
    /// The reply to what is bad.
    refusal: Reply,
}

/// A report in one line: what was answered, the code, and who refused.
struct Shown<'a>(&'a Answered);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(answered) = self;
        match answered.command() {
            None if answered.is_greeting() => write!(f, "greeting")?,
            command => write!(f, "{}", command.unwrap_or("nothing"))?,
        }
        match answered.address() {
            Some(address) => write!(f, " <{address}>")?,
            None if answered.argument().is_empty() => {}
            None => write!(f, " {}", answered.argument())?,
        }
        if let Some(user) = answered.user() {
            write!(f, " user={user}")?;
        }
        let code = answered.reply().code().as_u16();
        write!(f, ": {code} by {}", answered.origin())
    }
}

fn config() -> Config {
    Config::new("mx.example.org")
        .limits(|limits| {
            limits.message_size = Some(100);
            limits.recipients = 3;
            limits.auth_failures = 2;
        })
        .mechanisms(Mechanisms::default())
        .allow_insecure_auth(true)
        .extensions(Extensions::default().with(Prdr))
}

fn driver_of(config: Config) -> DriverConfig {
    DriverConfig::new(config)
        .custom_commands(true)
        .starttls(true)
        .xclient(true)
        .report_replies(true)
}

impl Driver {
    fn new(config: DriverConfig) -> Self {
        let mut connection = Connection::new(Arc::new(config));
        connection.allow_xclient();
        Self {
            connection,
            input: BytesMut::new(),
            now: Instant::now(),
            answered: Vec::new(),
            replies: String::new(),
            slow: Duration::ZERO,
            deferred: None,
            refusal: Reply::rejected("No"),
        }
    }

    /// Plays what the client sends, until the session waits for more or is over.
    fn play(&mut self, said: &str) -> &mut Self {
        self.input.extend_from_slice(said.as_bytes());
        while self.step() {}
        self
    }

    fn step(&mut self) -> bool {
        let now = self.now;
        let refusal = self.refusal.clone();
        let answer = |is_bad| match is_bad {
            true => refusal.clone(),
            false => Reply::OK,
        };
        match self.connection.poll(now, &mut self.input) {
            Step::Write(mut writing) => {
                let text = std::str::from_utf8(writing.bytes()).unwrap();
                self.replies.push_str(text);
                writing.wrote(writing.bytes().len(), now);
            }
            Step::Read(_) | Step::Closed(_) => return false,
            Step::Answer(wait) => {
                let Some((question, reply)) = self.deferred.take() else {
                    return false;
                };
                self.now += self.slow;
                if let Some(ask) = wait.into_connection().resume(question) {
                    ask.reply(reply.or_origin("my-filter"));
                }
            }
            Step::Handshake(tls) => tls.failed(),
            Step::Answered(answered) => self.answered.push(*answered),
            Step::Connect(ask) | Step::XClient(_, ask) => ask.accept(),
            Step::Helo(helo, ask) => ask.reply(answer(helo.name().as_str().contains("bad"))),
            Step::Auth(request, ask) => match request.credentials().username() {
                "forgotten" => drop(ask),
                "closed" => ask.refuse(refusal),
                _ => ask.verify(Secret::password("secret")),
            },
            Step::Mail(mail, ask) => ask.reply(answer(mail.sender().as_str().contains("bad"))),
            Step::Rcpt(rcpt, ask) => {
                let is_bad = rcpt.recipient().as_str().contains("bad");
                self.deferred = Some((ask.defer(), answer(is_bad)));
            }
            Step::Command(line, ask) => ask.reply(match refusal.origin() {
                Some(_) => refusal,
                None => line.default_reply().clone(),
            }),
            Step::StartTls(ask) => ask.refuse(Reply::auth_unavailable()),
            Step::Data(ask) => ask.receive(),
            Step::ChunkEnd(ask) => ask.accept(),
            Step::Message(Err(error), ask) => ask.refuse(error),
            Step::Message(Ok(()), ask) => {
                let envelope = ask.connection().envelope().cloned().unwrap();
                let others = 1..envelope.recipients().len();
                let full = others.map(|_| Reply::mailbox_full().with_origin("quota"));
                ask.reply(DataReply::each([Reply::OK].into_iter().chain(full)));
            }
            Step::Chunk(..) | Step::Authenticated(_) | Step::Reset(_) | Step::XForward(_) => {}
            Step::Overdue(_) | Step::Line(_) => {}
        }
        true
    }

    #[track_caller]
    fn expect(&mut self, expected: &[&str]) -> &mut Self {
        let shown: Vec<_> = self
            .answered
            .drain(..)
            .map(|a| Shown(&a).to_string())
            .collect();
        assert_eq!(shown, expected, "{}", self.replies);
        self
    }
}

fn smtp() -> Driver {
    Driver::new(driver_of(config()))
}

#[test]
fn every_refusal_is_reported_with_what_it_answers_and_who_refuses() {
    let mut driver = smtp();
    driver
        .play("EHLO bad.example\r\nMAIL FROM:<a@b>\r\nHELO\r\nEHLO client.example\r\n")
        .expect(&[
            "EHLO bad.example: 554 by service",
            "MAIL FROM:<a@b>: 503 by protocol",
            "HELO: 501 by protocol",
        ]);
    driver
        .play("MAIL FROM:<bad@b>\r\nMAIL FROM:<a@b\r\nRCPT TO:<c@d>\r\n")
        .expect(&[
            "MAIL <bad@b>: 554 by service",
            "MAIL FROM:<a@b: 501 by protocol",
            "RCPT TO:<c@d>: 503 by protocol",
        ]);
    driver
        .play("MAIL FROM:<a@b>\r\nRCPT TO:<bad@d>\r\nDATA x\r\nSTARTTLS\r\n")
        .expect(&[
            "RCPT <bad@d>: 554 by my-filter",
            "DATA x: 503 by protocol",
            "STARTTLS: 503 by protocol",
        ]);
    driver
        .play("RSET\r\nEXPN list\r\nNOOP\r\nSTARTTLS\r\n")
        .expect(&["EXPN list: 502 by service", "STARTTLS: 454 by service"]);
    assert_eq!(driver.connection.refusals(), 11);
}

#[test]
fn plain_success_is_not_reported() {
    let said = "EHLO a.example\r\nAUTH PLAIN AGFsaWNlAHNlY3JldA==\r\nNOOP\r\nVRFY a\r\nHELP\r\n\
                MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n.\r\nQUIT\r\n";
    smtp().play(said).expect(&[]);
}

#[test]
fn a_failed_login_is_reported_with_the_claimed_name_and_without_secrets() {
    let mut driver = smtp();
    driver
        .play("EHLO a.example\r\nAUTH NTLM\r\nAUTH c2VjcmV0\r\nAUTH\r\n")
        .expect(&[
            "AUTH NTLM: 504 by protocol",
            "AUTH: 504 by protocol",
            "AUTH: 501 by protocol",
        ]);
    driver
        .play("AUTH LOGIN\r\nYWxpY2U=\r\nd3Jvbmc=\r\n")
        .expect(&["AUTH LOGIN user=alice: 535 by protocol"]);
    driver
        .play("AUTH LOGIN\r\n*\r\nAUTH PLAIN AGZvcmdvdHRlbgB4\r\n")
        .expect(&[
            "AUTH LOGIN: 501 by protocol",
            "AUTH PLAIN user=forgotten: 454 by fault",
        ]);
    driver
        .play("AUTH PLAIN AGFsaWNlAHdyb25n\r\n")
        .expect(&["AUTH PLAIN user=alice: 421 by protocol"]);
}

#[test]
fn a_reply_that_is_held_back_loses_what_it_answers() {
    let config = config().limits(|limits| limits.prompt_refusals = 1);
    let mut driver = Driver::new(driver_of(config));
    driver.play("EHLO a.example\r\nRSET x\r\nRSET y\r\nNOOP\r\n");
    driver.expect(&["RSET x: 501 by protocol"]).now += Duration::from_secs(1);
    driver.play("").expect(&["RSET y: 501 by protocol"]);
    driver.play("MAIL FROM:<a@b>\r\nRCPT TO:<bad1@d>\r\nRCPT TO:<bad2@d>\r\nNOOP\r\n");
    driver.play("").expect(&["RCPT <bad1@d>: 554 by my-filter"]);
    driver.now += Duration::from_secs(1);
    driver.play("").expect(&["RCPT <bad2@d>: 554 by my-filter"]);
    let latency = |driver: &Driver| driver.answered[0].latency().as_secs();
    driver.play("RSET z\r\n").now += Duration::from_secs(2);
    assert_eq!(latency(driver.play("")), 2);
    driver.expect(&["RSET z: 501 by protocol"]);

    // What ends the session instead is the reply to the same command.
    driver.play("RSET z\r\n").connection.end(Reply::busy());
    driver.play("").expect(&["RSET z: 451 by service"]);
}

#[test]
fn a_fault_of_the_server_is_an_error_of_the_client() {
    let mut driver = smtp();
    driver.play("EHLO a.example\r\n");
    // Both limits are 2, but the client has made no mistake.
    for _ in 0..3 {
        let said = "AUTH PLAIN AGZvcmdvdHRlbgB4\r\n";
        driver
            .play(said)
            .expect(&["AUTH PLAIN user=forgotten: 454 by fault"]);
    }
    for origin in [Origin::Fault, Origin::Guard, Origin::Timeout] {
        driver.refusal = Reply::rejected("No").with_origin(origin);
        driver.play("MAIL FROM:<a@b>\r\nRCPT TO:<bad@d>\r\nRSET\r\nEXPN list\r\n");
        driver.play("AUTH PLAIN AGNsb3NlZAB4\r\n");
        let by = |what: &str| format!("{what}: 554 by {origin}");
        let all = ["RCPT <bad@d>", "EXPN list", "AUTH PLAIN user=closed"].map(by);
        driver.expect(&all.each_ref().map(String::as_str));
    }
    let connection = &driver.connection;
    let counted = [
        connection.errors(),
        connection.rejected_recipients(),
        connection.auth_failures(),
    ];
    assert_eq!(counted, [0; 3]);
    for _ in 0..100 {
        driver.play("AUTH PLAIN AGZvcmdvdHRlbgB4\r\n").now += Duration::from_secs(3);
    }
    assert!(
        driver.connection.is_closed(),
        "a session tries for ever, because nothing is counted"
    );
    let last = driver.answered.last().map(|last| Shown(last).to_string());
    let expected = "AUTH PLAIN user=forgotten: 421 by fault";
    assert_eq!(last.as_deref(), Some(expected));
}

#[test]
fn an_unknown_command_is_reported_without_its_text() {
    let said = "EHLO a.example\r\nc2VjcmV0 x\r\nPASS secret\r\nNOOP a\rb\r\n";
    smtp().play(said).expect(&[
        "[unknown command]: 500 by service",
        "[unknown command]: 500 by service",
        "NOOP a: 500 by protocol",
    ]);
}

#[test]
fn text_of_a_client_cannot_make_a_log_show_what_it_does_not_say() {
    smtp()
        .play("EHLO a.example\r\nMAIL FROM:<\u{202e}x\u{e5}@b>\r\n")
        .expect(&["MAIL FROM:<\\u{202e}x\u{e5}@b>: 553 by protocol"]);
}

#[test]
fn each_recipient_for_whom_a_message_is_refused_is_reported() {
    const MESSAGE: &str = "MAIL FROM:<a@b>\r\nRCPT TO:<one@d>\r\nRCPT TO:<two@d>\r\n\
                           RCPT TO:<three@d>\r\nRCPT TO:<four@d>\r\nDATA\r\n.\r\n";
    let mut lmtp = Driver::new(driver_of(config()).protocol(Protocol::Lmtp));
    lmtp.play(&format!("LHLO a.example\r\n{MESSAGE}")).expect(&[
        "RCPT TO:<four@d>: 452 by protocol",
        "DATA <two@d>: 452 by quota",
        "DATA <three@d>: 452 by quota",
    ]);
    let mut smtp = smtp();
    smtp.play(&format!("EHLO a.example\r\n{MESSAGE}"))
        .expect(&["RCPT TO:<four@d>: 452 by protocol", "DATA: 452 by quota"]);
    // Some recipients have it, so the message as a whole is accepted (draft-hall-prdr-00).
    smtp.play(&MESSAGE.replace("<a@b>", "<a@b> PRDR")).expect(&[
        "RCPT TO:<four@d>: 452 by protocol",
        "DATA <two@d>: 452 by quota",
        "DATA <three@d>: 452 by quota",
    ]);
}

#[test]
fn a_message_that_breaks_a_rule_is_refused_by_the_protocol() {
    let mut driver = smtp();
    let begin = "EHLO a.example\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";
    let long = "x".repeat(101);
    driver
        .play(&format!("{begin}DATA\r\n{long}\r\n.\r\n"))
        .expect(&["DATA: 552 by protocol"]);
    driver
        .play(&format!("{begin}BDAT 3 LAST\r\na\nb"))
        .expect(&["BDAT: 550 by protocol"]);
    assert_eq!(MessageError::NulByte.reply().origin(), None);
}

#[test]
fn the_end_of_an_idle_session_answers_no_command() {
    let mut driver = smtp();
    driver.play("EHLO a.example\r\nNOOP\r\n").expect(&[]);
    driver.now += Duration::from_secs(24 * 3600);
    // It is late, so it looks once more for input.
    driver.play("").now += Duration::from_secs(1);
    driver.play("").expect(&["nothing: 421 by timeout"]);

    let mut driver = smtp();
    driver.play("EHLO a.example\r\nNOOP\r\n").connection.drain();
    driver.play("").expect(&["nothing: 421 by shutdown"]);

    let mut driver = smtp();
    driver
        .play("EHLO a.example\r\n")
        .connection
        .end(Reply::busy());
    driver.play("").expect(&["nothing: 451 by service"]);

    let mut driver = smtp();
    driver
        .play("EHLO a.example\r\nAUTH LOGIN\r\n")
        .connection
        .shut_down();
    driver.play("").expect(&["AUTH LOGIN: 421 by shutdown"]);
}

#[test]
fn a_client_that_is_refused_at_the_greeting_has_sent_no_command() {
    for (reply, code) in [(Reply::rejected("No"), 554), (Reply::busy(), 421)] {
        let mut connection = Connection::new(Arc::new(driver_of(config())));
        let (now, mut input) = (Instant::now(), BytesMut::new());
        match connection.poll(now, &mut input) {
            Step::Connect(ask) => ask.refuse(reply.with_origin(Origin::Guard)),
            step => panic!("{step:?}"),
        }
        let Step::Answered(answered) = connection.poll(now, &mut input) else {
            panic!("not reported")
        };
        assert_eq!(
            Shown(&answered).to_string(),
            format!("greeting: {code} by guard")
        );
    }
    let mut driver = smtp();
    driver
        .play("XCLIENT PASS=secret x\r\n")
        .expect(&["XCLIENT PASS=[redacted] [redacted]: 501 by protocol"]);
}

#[test]
fn the_latency_is_the_time_that_the_answer_took() {
    let mut driver = smtp();
    driver.slow = Duration::from_secs(2);
    driver.play("EHLO a.example\r\nMAIL FROM:<a@b>\r\n").now += Duration::from_secs(9);
    driver.play("RCPT TO:<bad@d>\r\nRCPT TO:<bad@d>\r\nRCPT\r\n");
    let latencies = driver
        .answered
        .iter()
        .map(|answered| answered.latency().as_secs());
    assert_eq!(latencies.collect::<Vec<_>>(), [2, 2, 0]);
}

#[test]
fn nothing_is_reported_unless_it_is_wanted() {
    let mut driver = Driver::new(driver_of(config()).report_replies(false));
    driver.play("RCPT\r\nFOO\r\n").expect(&[]);
    assert_eq!(driver.connection.refusals(), 2);
}
