//! What is known about a client, and which commands keep it.

use std::sync::Arc;

use smtpd_core::{
    Config, Connection,
    config::DriverConfig,
    connection::TlsFacts,
    sasl::{ChannelBinding, ChannelBindings, External, Mechanisms, Plain},
};

use crate::support::{Session, Yes};

/// What must be known after some commands, according to a separate table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    tls: bool,
    /// The client's own channel: its certificate, and its channel bindings.
    channel: bool,
    helo: Option<&'static str>,
    identity: Option<&'static str>,
    transaction: bool,
}

/// A command, the beginning of its reply if it is allowed, when it is allowed, and how it changes what is known.
type Row = (
    &'static str,
    &'static str,
    fn(&Known) -> bool,
    fn(Known) -> Known,
);

const COMMANDS: [Row; 9] = [
    ("NOOP", "250", |_| true, |known| known),
    (
        "RSET",
        "250",
        |_| true,
        |known| Known {
            transaction: false,
            ..known
        },
    ),
    (
        "HELO old",
        "250",
        |_| true,
        |known| Known {
            helo: Some("old"),
            transaction: false,
            ..known
        },
    ),
    (
        "EHLO new",
        "250",
        |_| true,
        |known| Known {
            helo: Some("new"),
            transaction: false,
            ..known
        },
    ),
    (
        "MAIL FROM:<a@b>",
        "250",
        |known| known.helo.is_some() && !known.transaction,
        |known| Known {
            transaction: true,
            ..known
        },
    ),
    (
        // Everybody's password is "secret".
        "AUTH PLAIN AGFsaWNlAHNlY3JldA==",
        "235",
        |known| known.helo.is_some() && known.identity.is_none() && !known.transaction,
        |known| Known {
            identity: Some("alice"),
            ..known
        },
    ),
    (
        "STARTTLS",
        "220",
        |known| !known.tls && !known.transaction,
        |_| Known {
            tls: true,
            channel: true,
            ..Known::default()
        },
    ),
    (
        "XCLIENT NAME=client.example LOGIN=[UNAVAILABLE]",
        "220",
        |known| !known.transaction,
        |known| Known {
            tls: known.tls,
            ..Known::default()
        },
    ),
    (
        "XCLIENT LOGIN=bob",
        "220",
        |known| !known.transaction,
        |known| Known {
            tls: known.tls,
            identity: Some("bob"),
            ..Known::default()
        },
    ),
];

fn config() -> DriverConfig {
    let mechanisms = Mechanisms::none().with(External).with(Plain);
    #[cfg(feature = "scram")]
    let mechanisms = mechanisms.with(smtpd_core::sasl::Scram::sha256().plus());
    let config = Config::new("mx.example.org")
        .allow_insecure_auth(true)
        .mechanisms(mechanisms)
        .entropy(|nonce| {
            nonce.fill(0);
            true
        });
    DriverConfig::new(config).starttls(true).xclient(true)
}

fn channel() -> TlsFacts {
    let mut facts = TlsFacts::default();
    facts.bindings = ChannelBindings::none().with(ChannelBinding::TlsExporter, *b"the channel");
    facts.client_certificate = true;
    facts
}

struct Walk {
    session: Session<Yes>,
    known: Known,
}

impl Walk {
    /// Creates a session with a peer that may send XCLIENT, which begins with TLS or in plaintext.
    fn new(config: &Arc<DriverConfig>, tls: bool) -> Self {
        let mut session = Session::new(config.clone(), tls, Yes);
        session.connection.allow_xclient();
        if tls {
            session.handshake(channel());
        }
        session.feed(b"");
        let known = Known {
            tls,
            channel: tls,
            ..Known::default()
        };
        Self { session, known }
    }

    fn say(&mut self, line: &str) -> String {
        self.session.output.clear();
        self.session.feed(format!("{line}\r\n").as_bytes());
        String::from_utf8(self.session.output.clone()).unwrap()
    }

    fn take(&mut self, (line, reply, in_order, effect): &Row) {
        let in_order = in_order(&self.known);
        let got = self.say(line);
        let expected = if in_order { reply } else { "503" };
        assert!(got.starts_with(expected), "{line}: {got}");
        if in_order && *line == "STARTTLS" {
            self.session.handshake(channel());
            self.session.feed(b"");
        }
        if in_order {
            self.known = effect(self.known.clone());
        }
    }

    fn assert_known(&mut self, path: &[&str]) {
        let connection: &Connection = &self.session.connection;
        let name = connection.helo().map(|helo| helo.name().to_string());
        let identity = connection.identity().map(ToString::to_string);
        assert_eq!(name.as_deref(), self.known.helo, "{path:?}");
        assert_eq!(identity.as_deref(), self.known.identity, "{path:?}");
        assert_eq!(connection.is_tls(), self.known.tls, "{path:?}");
        let open = connection.envelope().is_some();
        assert_eq!(open, self.known.transaction, "{path:?}");
        // The offer follows from it.
        let offer = self.say("EHLO new");
        let is_offered = |word: &str| {
            let mut lines = offer.lines().filter(|line| line.get(4..8) == Some("AUTH"));
            lines.any(|line| line.split(' ').any(|offered| offered == word))
        };
        let known = &self.known;
        for mechanism in ["EXTERNAL", "SCRAM-SHA-256-PLUS"] {
            let can_be_offered = cfg!(feature = "scram") || mechanism == "EXTERNAL";
            let expected = can_be_offered && known.channel && known.identity.is_none();
            assert_eq!(
                is_offered(mechanism),
                expected,
                "{mechanism} after {path:?}"
            );
        }
        assert_eq!(is_offered("PLAIN"), known.identity.is_none(), "{path:?}");
        assert_eq!(offer.contains("STARTTLS"), !known.tls, "{path:?}");
    }
}

#[test]
fn nothing_of_a_client_survives_what_begins_a_session_anew() {
    let config = Arc::new(config());
    for tls in [false, true] {
        for first in &COMMANDS {
            for second in &COMMANDS {
                for third in &COMMANDS {
                    let mut walk = Walk::new(&config, tls);
                    walk.take(&COMMANDS[3]);
                    let path = [first, second, third];
                    path.iter().for_each(|row| walk.take(row));
                    walk.assert_known(&path.map(|row| row.0));
                }
            }
        }
    }
}

/// Returns the words of a row of the guide's table, without the first column.
fn documented(known: &str) -> Vec<&'static str> {
    let page = include_str!("../../docs/driver.md");
    let row = page
        .lines()
        .find_map(|line| line.strip_prefix(&format!("| {known} |")));
    row.unwrap()
        .trim_end_matches('|')
        .split('|')
        .map(str::trim)
        .collect()
}

#[test]
fn the_guide_says_what_a_session_forgets() {
    let before = Known {
        tls: true,
        channel: true,
        helo: Some("before"),
        identity: Some("before"),
        transaction: true,
    };
    let forgotten_or =
        |forgotten: bool, other: &'static str| if forgotten { "forgotten" } else { other };
    let name = |name: Option<&str>| {
        forgotten_or(
            name.is_none(),
            if name == before.helo { "kept" } else { "new" },
        )
    };
    let columns = ["RSET", "EHLO", "AUTH", "STARTTLS", "XCLIENT NAME"];
    for (column, command) in columns.into_iter().enumerate() {
        let row = COMMANDS
            .iter()
            .find(|row| row.0.starts_with(command))
            .unwrap();
        let after = (row.3)(before.clone());
        assert_eq!(
            documented("the HELO name")[column],
            name(after.helo),
            "{command}"
        );
        assert_eq!(
            documented("the identity")[column],
            name(after.identity),
            "{command}"
        );
        let channel = if command == "STARTTLS" { "new" } else { "kept" };
        assert_eq!(
            documented("the channel")[column],
            forgotten_or(!after.channel, channel),
            "{command}"
        );
        assert_eq!(
            documented("the transaction")[column],
            forgotten_or(!after.transaction, "kept"),
            "{command}"
        );
    }
}
