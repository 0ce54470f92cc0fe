//! The client against our own server, in memory: whatever both are set up to do, however what they send is cut, and wherever the
//! connection breaks, messages arrive as they were sent, and reports tell the truth.

mod network;
mod server;

use std::sync::Arc;

use proptest::{collection::vec, prelude::*, sample::select};
use smtpd_core::{
    Config, Envelope, Protocol,
    bytes::Bytes,
    client::{Account, ClientConfig, Outcome, StartTls},
    config::{BareNewline, DriverConfig, NulByte},
    extension::{Extensions, Prdr, RequireTls, Standard},
    sasl::{CramMd5, Mechanisms},
};

use self::{
    network::{Network, Sent},
    server::Delivered,
};

/// What happens in a session.
#[derive(Clone, Debug)]
struct Case {
    lmtp: bool,
    /// Which extensions the server offers.
    offers: u16,
    /// Which settings of the client are not the default.
    client: u8,
    tls: bool,
    login: Option<&'static str>,
    messages: Vec<Message>,
    /// How many bytes each side writes or reads at a time.
    cut: usize,
    /// How many bytes fit into the network.
    room: usize,
    /// After how many bytes from the client and from the server the connection breaks.
    breaks: Option<(usize, usize)>,
}

#[derive(Clone, Debug)]
struct Message {
    /// The decision of the server for each recipient: whether RCPT, and the message, is accepted.
    recipients: Vec<(bool, bool)>,
    accepts_mail: bool,
    parameters: &'static str,
    body: Bytes,
    /// Whether the caller stops in the middle.
    aborts: bool,
}

const STANDARD: [Standard; 7] = [
    Standard::Pipelining,
    Standard::EightBitMime,
    Standard::EnhancedStatusCodes,
    Standard::SmtpUtf8,
    Standard::Chunking,
    Standard::BinaryMime,
    Standard::Dsn,
];

fn bodies() -> impl Strategy<Value = Bytes> {
    const PARTS: &[&[u8]] = &[
        b"\r\n.",
        b".",
        b"\r\n",
        b"\r",
        b"\n",
        b"\0",
        b"\r\n.\r\n",
        b"\n.\n",
        b"\xff",
        b"QUIT\r\n",
    ];
    let part = prop_oneof![
        3 => select(PARTS).prop_map(<[u8]>::to_vec),
        3 => "[a-z.]{0,20}(\r\n)?".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..300),
    ];
    let lines = vec("\\PC{0,10}\r\n", 0..5).prop_map(|lines| lines.concat().into_bytes());
    let parts = vec(part, 0..12).prop_map(|parts| parts.concat());
    let large = vec(any::<u8>(), 1000..2000);
    prop_oneof![4 => lines, 4 => parts, 1 => large].prop_map(Bytes::from)
}

fn messages() -> impl Strategy<Value = Message> {
    const PARAMETERS: &[&str] = &[
        "",
        "",
        "BODY=8BITMIME",
        "BODY=BINARYMIME",
        "SMTPUTF8",
        "RET=HDRS",
        "REQUIRETLS",
    ];
    let recipients = vec((prop::bool::weighted(0.8), prop::bool::weighted(0.8)), 0..6);
    let accepts = prop::bool::weighted(0.9);
    let aborts = prop::bool::weighted(0.1);
    (recipients, accepts, select(PARAMETERS), bodies(), aborts).prop_map(
        |(recipients, accepts_mail, parameters, body, aborts)| Message {
            recipients,
            accepts_mail,
            parameters,
            body,
            aborts,
        },
    )
}

fn cases() -> impl Strategy<Value = Case> {
    const MECHANISMS: &[Option<&str>] = &[
        None,
        Some("PLAIN"),
        Some("LOGIN"),
        Some("CRAM-MD5"),
        Some("SCRAM-SHA-256-PLUS"),
    ];
    let login = select(MECHANISMS)
        .prop_map(|name| name.filter(|name| cfg!(feature = "scram") || !name.starts_with("SCRAM")));
    let setup = (
        any::<bool>(),
        any::<u16>(),
        any::<u8>(),
        any::<bool>(),
        login,
    );
    let network = (
        select(&[1, 2, 3, 7, 64, 1 << 16][..]),
        select(&[1, 5, 100, 1 << 16][..]),
    );
    let breaks = prop::option::of((0..1200_usize, 0..900_usize));
    (setup, vec(messages(), 1..4), network, breaks).prop_map(
        |((lmtp, offers, client, tls, login), messages, (cut, room), breaks)| Case {
            lmtp,
            offers,
            client,
            tls,
            login,
            messages,
            cut,
            room,
            breaks,
        },
    )
}

impl Case {
    fn protocol(&self) -> Protocol {
        match self.lmtp {
            true => Protocol::Lmtp,
            false => Protocol::Smtp,
        }
    }

    fn offers(&self, bit: usize) -> bool {
        self.offers >> bit & 1 == 1
    }

    fn differs(&self, bit: usize) -> bool {
        self.client >> bit & 1 == 1
    }

    fn server(&self) -> Arc<DriverConfig> {
        let offered = STANDARD
            .iter()
            .enumerate()
            .filter(|(bit, _)| self.offers(*bit));
        let extensions = offered.fold(Extensions::none(), |all, (_, &one)| all.with(one));
        let extensions = match self.offers(7) {
            true => extensions.with(Prdr).with(RequireTls),
            false => extensions,
        };
        let config = Config::new("mx.example.org")
            .extensions(extensions)
            .bare_newline(BareNewline::PassThrough)
            .nul_byte(NulByte::PassThrough)
            .entropy(|bytes| {
                bytes.fill(7);
                true
            })
            .limits(|limits| {
                limits.prompt_refusals = u32::MAX;
                limits.rejected_recipients = u32::MAX;
            });
        let mechanisms = Mechanisms::default().with(CramMd5);
        #[cfg(feature = "scram")]
        let mechanisms = {
            use smtpd_core::sasl::Scram;
            mechanisms.with(Scram::sha256().plus())
        };
        let config = match self.login {
            Some(_) => config.mechanisms(mechanisms).allow_insecure_auth(true),
            None => config,
        };
        let config = DriverConfig::new(config).protocol(self.protocol());
        Arc::new(config.starttls(self.tls))
    }

    fn client(&self) -> Arc<ClientConfig> {
        let config = ClientConfig::new("client.example".parse().unwrap())
            .protocol(self.protocol())
            .start_tls(match self.tls {
                true => StartTls::Require,
                false => StartTls::IfOffered,
            })
            .chunking(!self.differs(0))
            .pipelining(!self.differs(1))
            .prdr(!self.differs(2))
            .bare_newline(self.bare_newline())
            .entropy(|bytes| {
                bytes.fill(9);
                true
            })
            .limits(|limits| {
                limits.pipelined = [50, 3][usize::from(self.differs(4))];
                limits.chunk = [1 << 16, 100, 1, 1000][usize::from(self.client >> 5 & 3)];
            });
        let config = match self.login {
            // Without TLS, there is no channel to bind to.
            Some(name) if self.tls || !name.starts_with("SCRAM") => config.account(
                Account::password("alice", "secret")
                    .unwrap()
                    .mechanisms([name])
                    .allow_plaintext(true),
            ),
            _ => config,
        };
        Arc::new(config)
    }

    fn bare_newline(&self) -> BareNewline {
        match self.differs(3) {
            true => BareNewline::PassThrough,
            false => BareNewline::Reject,
        }
    }

    fn is_chunked(&self) -> bool {
        !self.differs(0) && self.offers(4)
    }
}

impl Message {
    fn envelope(&self, number: usize) -> Envelope {
        let sender = format!("{number}@sender.example").parse().unwrap();
        let envelope = Envelope::new(sender).with_parameters(self.parameters.parse().unwrap());
        (0..self.recipients.len()).fold(envelope, |envelope, recipient| {
            let path = format!("{number}.{recipient}@example.org");
            envelope.with_recipient(path.parse().unwrap())
        })
    }

    /// Returns the message as it must arrive.
    fn arrived(&self, is_chunked: bool) -> Vec<u8> {
        let mut body = self.body.to_vec();
        if !is_chunked && !body.is_empty() && !body.ends_with(b"\r\n") {
            body.extend_from_slice(b"\r\n");
        }
        body
    }
}

/// What must hold of a message, whatever has happened.
fn check(case: &Case, number: usize, sent: &Sent, delivered: &[Delivered]) {
    let message = &case.messages[number];
    let arrived = delivered.iter().find(|one| one.number == number);
    if let Some(arrived) = arrived {
        let expected = message.arrived(case.is_chunked());
        assert_eq!(
            arrived.body.escape_ascii().to_string(),
            expected.escape_ascii().to_string()
        );
        assert!(!message.aborts, "an aborted message is delivered");
    }
    assert_eq!(sent.outcomes.len(), message.recipients.len());
    for (recipient, outcome) in sent.outcomes.iter().enumerate() {
        let was_accepted = arrived.is_some_and(|one| one.accepted.contains(&recipient));
        let context = format!("recipient {recipient}: {outcome:?}");
        match outcome {
            Outcome::Accepted(_) => assert!(was_accepted, "{context}"),
            Outcome::Unknown(_) => assert!(case.breaks.is_some(), "{context}"),
            // SMTP without PRDR has one reply for all, which is that of the one who is worst off.
            Outcome::Refused { .. } if case.lmtp || message.recipients.len() < 2 => {
                assert!(!was_accepted, "{context}");
            }
            Outcome::Refused { .. } => {}
            _ => assert!(!was_accepted, "{context}"),
        }
    }
}

/// What must hold of a message if the connection does not break.
fn check_decisions(case: &Case, number: usize, sent: &Sent) {
    let message = &case.messages[number];
    let is_sent =
        |outcome: &Outcome| !matches!(outcome, Outcome::Unsupported(_) | Outcome::Failed(_));
    if message.aborts || !sent.outcomes.iter().all(is_sent) {
        return;
    }
    let all_accept = message
        .recipients
        .iter()
        .filter(|(rcpt, _)| *rcpt)
        .all(|(_, message)| *message);
    for ((rcpt, data), outcome) in message.recipients.iter().zip(&sent.outcomes) {
        let expected = match case.lmtp || (case.is_prdr(message) && *rcpt) {
            true => *data,
            false => all_accept,
        };
        let expected = message.accepts_mail && *rcpt && expected;
        assert_eq!(outcome.is_accepted(), expected, "{message:?} {outcome:?}");
    }
}

impl Case {
    fn is_prdr(&self, message: &Message) -> bool {
        // PRDR needs PIPELINING and ENHANCEDSTATUSCODES, without which it is not offered.
        let is_offered = self.offers(7) && self.offers(0) && self.offers(2);
        is_offered && !self.differs(2) && message.recipients.len() > 1
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn messages_arrive_as_they_were_sent(case in cases()) {
        let case = Case { breaks: None, ..case };
        let network = Network::new(&case).run();
        prop_assert_eq!(network.reports.len(), case.messages.len().min(network.begun));
        for (number, sent) in network.reports.iter().enumerate() {
            check(&case, number, sent, network.delivered());
            check_decisions(&case, number, sent);
        }
    }

    #[test]
    fn a_broken_connection_neither_hides_nor_invents_a_delivery(case in cases(), breaks in (0..1500_usize, 0..900_usize)) {
        let case = Case { breaks: Some(breaks), ..case };
        let network = Network::new(&case).run();
        prop_assert_eq!(network.reports.len(), network.begun, "each message has one report");
        for (number, sent) in network.reports.iter().enumerate() {
            check(&case, number, sent, network.delivered());
        }
    }
}
