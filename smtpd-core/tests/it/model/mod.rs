//! A model of the session rules, compared with `Connection` over random commands.

mod rules;

use std::{sync::Arc, time::Instant};

use bytes::BytesMut;
use proptest::{collection::vec, prelude::*, sample::select, test_runner::RngSeed};
use smtpd_core::{
    Config, Connection, Protocol, Reply, Step,
    config::DriverConfig,
    connection::TlsFacts,
    sasl::{Identity, Mechanisms, Plain},
};

use self::rules::{Answer, Argument, Command, Facts, Model, Rules, Text};

fn commands() -> impl Strategy<Value = Command> {
    let argument = || prop_oneof![9 => Just(Argument::WellFormed), 1 => Just(Argument::Malformed)];
    let text = || prop_oneof![5 => Just(Text::Clean), 1 => Just(Text::BareNewline)];
    let others = vec![
        Command::Noop,
        Command::Rset,
        Command::Vrfy,
        Command::Expn,
        Command::Help,
        Command::StartTls,
        Command::Auth,
        Command::Unknown,
        Command::Quit,
    ];
    prop_oneof![
        4 => select(others),
        3 => select(vec!["EHLO", "HELO", "LHLO"]).prop_map(Command::Hello),
        6 => argument().prop_map(Command::Mail),
        6 => argument().prop_map(Command::Rcpt),
        3 => (argument(), text()).prop_map(|(argument, text)| Command::Data(argument, text)),
        2 => text().prop_map(Command::Bdat),
        2 => text().prop_map(Command::BdatLast),
    ]
}

fn answers() -> impl Strategy<Value = [Answer; 2]> {
    let answer = || {
        prop_oneof![
            24 => Just(Answer::Yes),
            2 => Just(Answer::Defer),
            2 => Just(Answer::Reject),
            1 => Just(Answer::Close),
        ]
    };
    [answer(), answer()]
}

fn rules() -> impl Strategy<Value = Rules> {
    let rare = || prop::bool::weighted(0.2);
    let few = || prop_oneof![1 => 1..6_u32, 2 => Just(50)];
    (
        [rare(), prop::bool::weighted(0.5), rare(), rare()],
        [few(), few(), few(), few()],
        1..4_usize,
        0..3_u32,
    )
        .prop_map(
            |([lmtp, starttls, tls, auth], counts, recipients, after_refusal)| {
                let [errors, auth_failures, idle_commands, messages] = counts;
                Rules {
                    lmtp,
                    starttls,
                    require_tls: tls,
                    require_auth: auth,
                    errors,
                    auth_failures,
                    idle_commands,
                    messages,
                    recipients,
                    after_refusal: 1 + after_refusal,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, rng_seed: RngSeed::Fixed(5321), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_connection_obeys_the_rules(
        rules in rules(),
        greeting in answers(),
        script in vec((commands(), answers()), 0..40),
    ) {
        let (mut model, mut client) = (Model::new(rules), Client::new(rules));
        prop_assert_eq!(client.play(b"", &greeting), model.connect(&greeting));
        // Most sessions begin with a greeting, so that they get somewhere.
        let hello = Command::Hello(if rules.lmtp { "LHLO" } else { "EHLO" });
        for (command, answers) in [(hello, [Answer::Yes; 2])].into_iter().chain(script) {
            prop_assert_eq!(client.send(command, &answers), model.receive(command, &answers), "{:?}", command);
            prop_assert_eq!(&client.facts(), model.facts(), "after {:?}", command);
        }
    }
}

/// A client that waits for each reply, and the services that answer for it.
struct Client {
    connection: Connection,
    input: BytesMut,
    now: Instant,
    closed: bool,
}

impl Client {
    fn new(rules: Rules) -> Self {
        let config = Config::new("mx.example.org")
            .limits(|limits| {
                (limits.errors, limits.auth_failures) = (rules.errors, rules.auth_failures);
                (limits.idle_commands, limits.messages) = (rules.idle_commands, rules.messages);
                (limits.recipients, limits.after_refusal) =
                    (rules.recipients as u32, rules.after_refusal);
            })
            .mechanisms(Mechanisms::none().with(Plain))
            .allow_insecure_auth(true)
            .require_tls(rules.require_tls)
            .require_auth(rules.require_auth);
        let protocol = match rules.lmtp {
            true => Protocol::Lmtp,
            false => Protocol::Smtp,
        };
        let config = DriverConfig::new(config)
            .protocol(protocol)
            .starttls(rules.starttls);
        Self {
            connection: Connection::new(Arc::new(config)),
            input: BytesMut::new(),
            now: Instant::now(),
            closed: false,
        }
    }

    /// Sends a command, and its message if there is one. Returns the replies, and how many of the answers were not needed.
    fn send(&mut self, command: Command, answers: &[Answer]) -> (Vec<u16>, usize) {
        let line = match command {
            Command::Hello(verb) => format!("{verb} client.example\r\n"),
            Command::StartTls => "STARTTLS\r\n".into(),
            Command::Auth => "AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n".into(),
            Command::Mail(Argument::WellFormed) => "MAIL FROM:<a@example.com>\r\n".into(),
            Command::Mail(Argument::Malformed) => "MAIL <a@example.com>\r\n".into(),
            Command::Rcpt(Argument::WellFormed) => "RCPT TO:<b@example.org>\r\n".into(),
            Command::Rcpt(Argument::Malformed) => "RCPT <b@example.org>\r\n".into(),
            Command::Data(Argument::WellFormed, _) => "DATA\r\n".into(),
            Command::Data(Argument::Malformed, _) => "DATA now\r\n".into(),
            Command::Bdat(text) => format!("BDAT 7\r\n{}", seven(text)),
            Command::BdatLast(text) => format!("BDAT 7 LAST\r\n{}", seven(text)),
            Command::Unknown => "FROBNICATE\r\n".into(),
            Command::Vrfy => "VRFY alice\r\n".into(),
            other => format!("{other:?}\r\n").to_uppercase(),
        };
        let (mut replies, mut left) = self.play(line.as_bytes(), answers);
        if let Command::Data(_, text) = command
            && replies == [354]
        {
            let message = [seven(text), ".\r\n"].concat();
            let rest = self.play(message.as_bytes(), &answers[answers.len() - left..]);
            replies.extend(rest.0);
            left = rest.1;
        }
        (replies, left)
    }

    /// Passes input to the connection until it waits for more. A handshake succeeds at once, and a reply that is held back comes
    /// at once, too.
    fn play(&mut self, bytes: &[u8], answers: &[Answer]) -> (Vec<u16>, usize) {
        let (mut output, mut answers) = (Vec::new(), answers.iter());
        self.input.extend_from_slice(bytes);
        let mut answer = || answers.next().copied().unwrap_or(Answer::Yes);
        loop {
            match self.connection.poll(self.now, &mut self.input) {
                Step::Write(mut writing) => {
                    output.extend_from_slice(writing.bytes());
                    writing.wrote(writing.bytes().len(), self.now);
                }
                Step::Read(_) => break,
                Step::Answer(wait) if wait.holds_reply() => self.now = wait.until(),
                Step::Handshake(wait) => wait.done(&mut self.input, TlsFacts::default()),
                Step::Closed(_) => {
                    self.closed = true;
                    break;
                }
                Step::Connect(ask) => ask.reply(reply(answer())),
                Step::Helo(_, ask) => ask.reply(reply(answer())),
                Step::Mail(_, ask) => ask.reply(reply(answer())),
                Step::Rcpt(_, ask) => ask.reply(reply(answer())),
                Step::ChunkEnd(ask) => match answer() {
                    Answer::Yes => ask.accept(),
                    other => ask.refuse(reply(other)),
                },
                Step::Message(_, ask) => ask.reply(reply(answer())),
                Step::StartTls(ask) => match answer() {
                    Answer::Yes => ask.accept(),
                    other => ask.refuse(reply(other)),
                },
                Step::Data(ask) => match answer() {
                    Answer::Yes => ask.receive(),
                    other => ask.refuse(reply(other)),
                },
                Step::Auth(_, ask) => match answer() {
                    Answer::Yes => ask.accept(Identity::new("alice")),
                    Answer::Reject => ask.refuse(Reply::auth_failed()),
                    other => ask.refuse(reply(other)),
                },
                Step::Chunk(..) | Step::Authenticated(_) | Step::Reset(_) => {}
                other => panic!("{other:?}"),
            }
        }
        let lines = output.split_inclusive(|&byte| byte == b'\n');
        let last = lines.filter(|line| line[3] == b' ');
        let code = |line: &[u8]| std::str::from_utf8(&line[..3]).unwrap().parse().unwrap();
        (last.map(code).collect(), answers.len())
    }

    fn facts(&self) -> Facts {
        let connection = &self.connection;
        let envelope = connection.envelope();
        Facts {
            closed: self.closed,
            tls: connection.is_tls(),
            helo: connection.helo().is_some(),
            authenticated: connection.identity().is_some(),
            messages: connection.messages(),
            failures: connection.auth_failures(),
            errors: connection.errors(),
            transaction: envelope.map(|envelope| envelope.recipients().len()),
        }
    }
}

fn seven(text: Text) -> &'static str {
    match text {
        Text::Clean => "texts\r\n",
        Text::BareNewline => "te\nxt\r\n",
    }
}

fn reply(answer: Answer) -> Reply {
    match answer {
        Answer::Yes => Reply::OK,
        Answer::Defer => Reply::try_again("later"),
        Answer::Reject => Reply::rejected("no"),
        Answer::Close => Reply::closing("gone"),
    }
}
