//! The verbs of commands (RFC 5321 section 4.1.1).

/// The commands that a connection knows.
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

/// A command line, cut at its first space.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Command<'a> {
    /// The first word.
    pub(crate) word: &'a [u8],
    /// What follows it, without white space at either end.
    pub(crate) argument: &'a [u8],
}

impl<'a> Command<'a> {
    /// Cuts a line. White space before the CRLF is tolerated (RFC 5321 section 4.1.1).
    pub(crate) fn new(line: &'a [u8]) -> Self {
        let line = line.trim_ascii_end();
        // The space comes early, so looking for it octet by octet is the quickest.
        match line.iter().position(|&octet| octet == b' ') {
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

    /// Whether this is no mail client: the first line of HTTP, or a header line, as when a browser is led to post to this
    /// port, or the text of a message is taken for commands.
    pub(crate) fn is_foreign(&self) -> bool {
        const HTTP: [&[u8]; 6] = [b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT"];
        HTTP.iter().any(|verb| verb.eq_ignore_ascii_case(self.word)) || self.word.ends_with(b":")
    }
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
            b"Host: a.example",
            b"Subject: hi",
        ] {
            assert!(Command::new(line).is_foreign(), "{}", line.escape_ascii());
        }
        assert!(!Command::new(b"FROBNICATE now").is_foreign());
    }
}
