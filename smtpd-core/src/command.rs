//! The command verbs (RFC 5321 section 4.1.1).

/// The commands that a connection recognizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Helo,
    Ehlo,
    Lhlo,
    StartTls,
    Auth,
    Mail,
    Rcpt,
    Data,
    Bdat,
    Rset,
    Noop,
    Vrfy,
    Expn,
    Etrn,
    Help,
    Quit,
    XClient,
    XForward,
}

/// A command line, split at its first space.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Command<'a> {
    /// The first word.
    pub(crate) word: &'a [u8],
    /// The rest of the line, without leading or trailing white space.
    pub(crate) argument: &'a [u8],
}

impl<'a> Command<'a> {
    /// Splits a line. White space before the CRLF is tolerated (RFC 5321 section 4.1.1).
    pub(crate) fn new(line: &'a [u8]) -> Self {
        let line = line.trim_ascii_end();
        // The space comes early, so a search byte by byte is the fastest.
        match line.iter().position(|&byte| byte == b' ') {
            Some(space) => Self {
                word: &line[..space],
                argument: line[space + 1..].trim_ascii_start(),
            },
            None => Self {
                word: line,
                argument: b"",
            },
        }
    }

    /// Returns whether the client does not speak SMTP: the line is the first one of HTTP or the like, the greeting of SSH, or a
    /// header line, as when a browser is tricked into posting to this port, or message text is read as commands.
    pub(crate) fn is_foreign(&self) -> bool {
        // RFC 9110 section 9.3, RFC 5789, and the preface of HTTP/2 (RFC 9113 section 3.4).
        const HTTP: [&[u8]; 10] = [
            b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT", b"DELETE", b"TRACE",
            b"PATCH", b"PRI",
        ];
        HTTP.iter().any(|verb| verb.eq_ignore_ascii_case(self.word))
            || self.word.ends_with(b":")
            || self.word.starts_with(b"SSH-")
            || self.has_foreign_version()
    }

    /// Returns whether the line ends like a request of HTTP, RTSP or SIP, whatever its method.
    fn has_foreign_version(&self) -> bool {
        let last = self.argument.rsplit(|&byte| byte == b' ').next();
        let starts = |protocol: &&[u8]| last.is_some_and(|word| word.starts_with(protocol));
        [&b"HTTP/"[..], b"RTSP/", b"SIP/"].iter().any(starts)
    }
}

/// Returns whether `byte` begins another protocol and no line of text: the record of a TLS handshake (RFC 8446 section 5.1), the
/// hello of SSL 2, SOCKS 4 and 5, RDP, or a message that begins with its length, as in SMB, PostgreSQL and DNS.
pub(crate) const fn is_foreign_start(byte: u8) -> bool {
    matches!(byte, 0x16 | 0x80 | 4 | 5 | 3 | 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_at_their_first_space() {
        let cases: [(&[u8], &[u8], &[u8]); 6] = [
            (b"QUIT", b"QUIT", b""),
            (b"qUiT  ", b"qUiT", b""),
            (b"mail FROM:<a@b> ", b"mail", b"FROM:<a@b>"),
            (b"NOOP  some  words", b"NOOP", b"some  words"),
            (b" NOOP", b"", b"NOOP"),
            (b"", b"", b""),
        ];
        for (line, word, argument) in cases {
            let command = Command::new(line);
            assert_eq!(
                (command.word, command.argument),
                (word, argument),
                "{}",
                line.escape_ascii()
            );
        }
    }

    #[test]
    fn browsers_and_message_text_are_noticed() {
        for line in [
            &b"GET / HTTP/1.1"[..],
            b"post /x HTTP/1.0",
            b"CONNECT a:25 HTTP/1.1",
            b"OPTIONS * HTTP/1.1",
            b"DELETE /x HTTP/1.1",
            b"Patch /x",
            b"TRACE / HTTP/1.1",
            b"PRI * HTTP/2.0",
            b"PROPFIND / HTTP/1.1",
            b"DESCRIBE rtsp://a/ RTSP/1.0",
            b"INVITE sip:a@b SIP/2.0",
            b"SSH-2.0-OpenSSH_9.9",
            b"Host: a.example",
            b"Subject: hi",
        ] {
            assert!(Command::new(line).is_foreign(), "{}", line.escape_ascii());
        }
        for line in [
            &b"FROBNICATE now"[..],
            b"PRINT",
            b"SSH",
            b"XHTTP a HTTP",
            b"",
        ] {
            assert!(!Command::new(line).is_foreign(), "{}", line.escape_ascii());
        }
    }
}
