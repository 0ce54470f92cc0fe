use std::{borrow::Cow, fmt, net::IpAddr, time::SystemTime};

use smtpd_core::{
    connection::protocol_word,
    envelope::Envelope,
    parameter::{Priority, SmtpUtf8},
};

use crate::{
    header::{Date, address, clean},
    net::PeerAddr,
    session::{QueueId, ReverseName, Session},
};

/// The trace header of one message, with its CRLF (RFC 5321 section 4.4).
///
/// Each line is shorter than the 998 octets of RFC 5322 section 2.1.1, whatever the client sent: no name in it has more than 255.
pub(super) struct Header<'a> {
    pub(super) session: &'a Session,
    pub(super) envelope: &'a Envelope,
    pub(super) id: &'a QueueId,
    pub(super) time: SystemTime,
}

impl fmt::Display for Header<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_from(f)?;
        self.write_by(f)?;
        // RFC 5321 section 7.6: with several recipients, each would learn of the others.
        if let [recipient] = self.envelope.recipients() {
            let path = address::of_recipient(recipient.path(), self.is_utf8());
            write!(f, "\r\n\tfor <{path}>")?;
        }
        // RFC 5321 section 4.4: registered clauses come last.
        self.write_tls(f)?;
        // RFC 6710 section 4.1 (2).
        if let Some(priority) = self.envelope.parameters().get::<Priority>() {
            write!(f, "\r\n\tPRIORITY {}", priority.value())?;
        }
        write!(f, ";\r\n\t{}\r\n", Date(self.time))
    }
}

impl Header<'_> {
    fn write_from(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.session.helo() {
            Some(name) => Cow::Owned(clean::domain_or_literal(name.as_str())),
            None => Cow::Borrowed("unknown"),
        };
        write!(f, "Received: from {name} (")?;
        // The unspecified address stands for a client that a proxy could not name.
        let ip = self
            .session
            .client_addr()
            .ip()
            .filter(|ip| !ip.is_unspecified());
        match (self.session.client_addr(), ip) {
            (_, Some(ip)) => {
                if let Some(name) = self.session.get::<ReverseName>() {
                    write!(f, "{name} ")?;
                }
                write!(f, "{})", Literal(ip))
            }
            (PeerAddr::Unix(_), None) => f.write_str("local)"),
            (_, None) => f.write_str("unknown)"),
        }
    }

    fn write_by(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hostname = clean::domain_or_literal(self.session.hostname());
        let app = clean::comment(self.session.app_name());
        let word = with_word(self.session, self.is_utf8());
        write!(f, "\r\n\tby {hostname} ({app}) with {word} id {}", self.id)
    }

    /// Writes the cipher suite by its registered name, in a clause of its own (RFC 8314 section 4.3). The name that a proxy gives
    /// may not be registered; it goes into a comment.
    fn write_tls(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(tls) = self.session.tls() else {
            return Ok(());
        };
        let (version, cipher) = (tls.version(), clean::comment(tls.cipher()));
        match is_registered_cipher(&cipher) {
            true => write!(f, "\r\n\ttls {cipher} ({version})"),
            false => write!(f, "\r\n\t({version} {cipher})"),
        }
    }

    /// Returns whether the client has announced that the header may contain UTF-8 (RFC 6531 section 3.4).
    fn is_utf8(&self) -> bool {
        self.envelope.parameters().get::<SmtpUtf8>().is_some()
    }
}

/// An address literal (RFC 5321 section 4.1.3).
struct Literal(IpAddr);

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(ip) => write!(f, "[{ip}]"),
            IpAddr::V6(ip) => write!(f, "[IPv6:{ip}]"),
        }
    }
}

/// Returns whether `name` has the form of the names in IANA's registry of cipher suites.
fn is_registered_cipher(name: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.starts_with("TLS_") && name.chars().all(is_allowed)
}

/// Returns the word after `with`: RFC 3848, and RFC 6531 sections 3.7.3 and 4.3 for those with UTF8.
fn with_word(session: &Session, utf8: bool) -> &'static str {
    let (tls, authenticated) = (session.tls().is_some(), session.identity().is_some());
    protocol_word(
        session.protocol(),
        session.greeting(),
        utf8,
        tls,
        authenticated,
    )
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, UNIX_EPOCH},
    };

    use smtpd_core::{
        address::{ClientName, ReversePath},
        config::Protocol,
        connection::Greeting,
        parameter::Parameters,
    };

    use super::*;
    use crate::session::{ListenerFacts, TlsInfo, TlsVersion};

    fn header(session: &Session, envelope: &Envelope) -> String {
        let header = Header {
            session,
            envelope,
            id: &QueueId::unique(),
            time: UNIX_EPOCH + Duration::from_secs(1_795_377_600),
        };
        header.to_string().replace(header.id.as_str(), "ID")
    }

    fn session(peer: impl Into<PeerAddr>, protocol: Protocol) -> Session {
        let server = ListenerFacts {
            hostname: "mail.example.org".to_owned(),
            app_name: "smtpd (a\\b)\r\n".to_owned(),
            ..Default::default()
        };
        let local = PeerAddr::Unknown;
        Session::new(peer.into(), local, Arc::new(server), protocol)
    }

    fn to(recipients: &[&str]) -> Envelope {
        let envelope = Envelope::new(ReversePath::Null);
        let paths = recipients.iter().map(|path| path.parse().unwrap());
        paths.fold(envelope, Envelope::with_recipient)
    }

    fn tls() -> TlsInfo {
        TlsInfo::new(TlsVersion::Tls13, "TLS_AES_128_GCM_SHA256")
    }

    fn utf8() -> Parameters {
        "SMTPUTF8".parse().unwrap()
    }

    #[test]
    fn a_header_in_full() {
        let session = session(([192, 0, 2, 1], 4711), Protocol::Smtp)
            .with_helo("client.example".parse().unwrap(), Greeting::Ehlo)
            .with_tls(tls())
            .with_identity("alice");
        session.insert(ReverseName::new("mx.example.net").unwrap());
        assert_eq!(
            header(&session, &to(&["user@example.org"])),
            "Received: from client.example (mx.example.net [192.0.2.1])\r\n\
             \tby mail.example.org (smtpd ?a?b???) with ESMTPSA id ID\r\n\
             \tfor <user@example.org>\r\n\
             \ttls TLS_AES_128_GCM_SHA256 (TLSv1.3);\r\n\
             \tSun, 22 Nov 2026 20:00:00 +0000\r\n"
        );
    }

    #[test]
    fn the_priority_that_the_client_has_given() {
        let session = session(PeerAddr::Unknown, Protocol::Smtp);
        let envelope = to(&["user@example.org"]);
        assert!(!header(&session, &envelope).contains("PRIORITY"));
        let parameters = "mt-priority=-3".parse().unwrap();
        let header = header(&session, &envelope.with_parameters(parameters));
        let end =
            "\tfor <user@example.org>\r\n\tPRIORITY -3;\r\n\tSun, 22 Nov 2026 20:00:00 +0000\r\n";
        assert!(header.ends_with(end), "{header}");
    }

    #[test]
    fn the_cipher_suite_is_a_clause_if_its_name_is_registered() {
        for (cipher, clause) in [
            (
                "TLS_AES_128_GCM_SHA256",
                "tls TLS_AES_128_GCM_SHA256 (TLSv1.2)",
            ),
            (
                "ECDHE-RSA-AES128-GCM-SHA256",
                "(TLSv1.2 ECDHE-RSA-AES128-GCM-SHA256)",
            ),
            ("TLS_A for <x@y>", "(TLSv1.2 TLS_A for <x@y>)"),
            ("TLS_A\r\n) (", "(TLSv1.2 TLS_A??? ?)"),
            ("", "(TLSv1.2 )"),
        ] {
            let session = session(PeerAddr::Unknown, Protocol::Smtp)
                .with_tls(TlsInfo::new(TlsVersion::Tls12, cipher));
            let parameters = "mt-priority=3".parse().unwrap();
            let header = header(&session, &to(&["a@b"]).with_parameters(parameters));
            let end = format!(
                "\tfor <a@b>\r\n\t{clause}\r\n\tPRIORITY 3;\r\n\tSun, 22 Nov 2026 20:00:00 +0000\r\n"
            );
            assert!(header.ends_with(&end), "{header}");
        }
    }

    #[test]
    fn the_client_in_the_from_clause() {
        let v6 = ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 4711);
        let mapped = ([0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0201], 4711);
        let table: [(PeerAddr, &str, &str); 11] = [
            (
                v6.into(),
                "[IPv6:2001:db8::1]",
                "[IPv6:2001:db8::1] ([IPv6:2001:db8::1])",
            ),
            (mapped.into(), "a.example", "a.example ([192.0.2.1])"),
            (PeerAddr::Unix(None), "a.example", "a.example (local)"),
            (
                PeerAddr::unix(Some("/run/(x)\r\n")),
                "a.example",
                "a.example (local)",
            ),
            (PeerAddr::Unknown, "a.example", "a.example (unknown)"),
            (([0, 0, 0, 0], 0).into(), "a.example", "a.example (unknown)"),
            (PeerAddr::Unknown, "my_host", "my_host (unknown)"),
            (PeerAddr::Unknown, "a(b)c;d\\e", "a?b?c?d?e (unknown)"),
            (PeerAddr::Unknown, "<a@b>\"", "?a?b?? (unknown)"),
            (PeerAddr::Unknown, "[192.0.2.1", "?192.0.2.1 (unknown)"),
            (
                PeerAddr::Unknown,
                "x=([10.0.0.1])",
                "x???10.0.0.1?? (unknown)",
            ),
        ];
        for (peer, helo, from) in table {
            let helo: ClientName = helo.parse().unwrap();
            let session = session(peer, Protocol::Smtp).with_helo(helo, Greeting::Ehlo);
            let expected = format!("Received: from {from}\r\n\tby ");
            let header = header(&session, &to(&[]));
            assert!(header.starts_with(&expected), "{header}");
        }
    }

    #[test]
    fn the_protocol_in_the_with_clause() {
        use Greeting::{Ehlo, Helo, Lhlo};
        let table = [
            (None, ["SMTP", "SMTP", "SMTP", "SMTP"], "SMTP"),
            (Some(Helo), ["SMTP", "SMTP", "SMTP", "SMTP"], "SMTP"),
            (
                Some(Ehlo),
                ["ESMTP", "ESMTPS", "ESMTPA", "ESMTPSA"],
                "ESMTP",
            ),
            (Some(Lhlo), ["LMTP", "LMTPS", "LMTPA", "LMTPSA"], "LMTP"),
        ];
        for (greeting, words, base) in table {
            for (index, word) in words.into_iter().enumerate() {
                let protocol = match greeting {
                    Some(Lhlo) => Protocol::Lmtp,
                    _ => Protocol::Smtp,
                };
                let mut session = session(PeerAddr::Unknown, protocol);
                if let Some(greeting) = greeting {
                    session = session.with_helo("a.example".parse().unwrap(), greeting);
                }
                if index & 1 != 0 {
                    session = session.with_tls(tls());
                }
                if index & 2 != 0 {
                    session = session.with_identity("alice");
                }
                assert_eq!(with_word(&session, false), word);
                let utf8_base = match base {
                    "ESMTP" => "UTF8SMTP",
                    "LMTP" => "UTF8LMTP",
                    _ => base,
                };
                assert_eq!(with_word(&session, true), word.replacen(base, utf8_base, 1));
            }
        }
    }

    #[test]
    fn a_message_with_smtputf8_says_so() {
        let session = session(PeerAddr::Unknown, Protocol::Smtp)
            .with_helo("a.example".parse().unwrap(), Greeting::Ehlo);
        let envelope = to(&["grå@exämple.org"]).with_parameters(utf8());
        let header = header(&session, &envelope);
        assert!(header.contains(" with UTF8SMTP id "), "{header}");
        assert!(
            header.contains("\r\n\tfor <grå@exämple.org>;\r\n"),
            "{header}"
        );
    }

    #[test]
    fn only_a_single_recipient_is_named() {
        let session = session(PeerAddr::Unknown, Protocol::Smtp);
        for recipients in [&[][..], &["a@example.org", "b@example.org"]] {
            let header = header(&session, &to(recipients));
            assert!(!header.contains("for"), "{header}");
            assert!(header.contains(" id ID;\r\n\tSun, "), "{header}");
        }
        let header = header(&session, &to(&["Postmaster"]));
        assert!(
            header.contains(" id ID\r\n\tfor <Postmaster>;\r\n"),
            "{header}"
        );
    }

    #[test]
    fn no_line_is_longer_than_998_octets_and_none_begins_a_header() {
        let session = session(([192, 0, 2, 1], 4711), Protocol::Smtp)
            .with_helo("(".repeat(255).parse().unwrap(), Greeting::Ehlo)
            .with_tls(TlsInfo::new(TlsVersion::Tls12, "X".repeat(10_000)));
        session.insert(ReverseName::new("\r\nX: y".repeat(10_000)).unwrap());
        let local = format!("\"{}\"", "\\\"".repeat(31));
        let domain = [&*"a".repeat(63); 2].join(".");
        let address = format!("{local}@{domain}");
        let header = header(&session, &to(&[&address]));
        assert!(header.contains(&format!("for <{address}>\r\n")), "{header}");
        for (index, line) in header
            .strip_suffix("\r\n")
            .unwrap()
            .split("\r\n")
            .enumerate()
        {
            assert!(line.len() <= 998 && !line.contains(['\r', '\n']), "{line}");
            assert!(index == 0 || line.starts_with('\t'), "{line}");
        }
    }
}
