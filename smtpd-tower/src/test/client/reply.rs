use std::fmt;

use smtpd_core::reply::{Code, Status};

use super::ClientError;

/// A reply as a client reads it (RFC 5321 section 4.2).
///
/// `Display` shows it as it arrived, with its lines separated by LF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientReply {
    code: Code,
    status: Option<Status>,
    /// As they arrived, without CRLF; all have the same code.
    wire: Vec<String>,
}

impl ClientReply {
    /// Parses a reply from its lines.
    ///
    /// # Errors
    ///
    /// Returns [`ClientError::Malformed`] if they are not a reply.
    pub(super) fn parse(wire: Vec<String>) -> Result<Self, ClientError> {
        let malformed = |line: &str| ClientError::Malformed(line.escape_debug().to_string());
        let first = wire.first().map(String::as_str).unwrap_or_default();
        let code = code(first).ok_or_else(|| malformed(first))?;
        // RFC 5321 section 4.2.1: the code is the same on every line.
        if let Some(line) = wire.iter().find(|line| self::code(line) != Some(code)) {
            return Err(malformed(line));
        }
        let status = status(code, text(first)).map(|(status, _)| status);
        Ok(Self { code, status, wire })
    }

    /// Returns the three digits.
    pub const fn code(&self) -> Code {
        self.code
    }

    /// Returns the enhanced status code of the first line, if there is one whose class is that of the code (RFC 2034 section 4).
    pub const fn status(&self) -> Option<Status> {
        self.status
    }

    /// Returns the text of each line, without code and enhanced status code.
    ///
    /// If the first line has no enhanced status code, no other has one either: what looks like one is text, as in the reply to
    /// EHLO.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.wire.iter().map(|line| {
            let text = text(line);
            let status = self.status.and_then(|_| status(self.code, text));
            status.map_or(text, |(_, rest)| rest)
        })
    }

    /// Returns the text, with its lines separated by LF.
    pub fn text(&self) -> String {
        self.lines().collect::<Vec<_>>().join("\n")
    }

    /// Returns whether the command was accepted: 2yz or 3yz.
    pub const fn is_positive(&self) -> bool {
        self.code.is_positive()
    }

    /// Returns the reply itself, if it has that code.
    ///
    /// ```
    /// # use smtpd_tower::{Pipeline, Server, test::{Client, ClientError}};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), ClientError> {
    /// let mut client =
    ///     Client::connect(&Server::new("mx.example.org", Pipeline::new()));
    /// let reply = client.greeting().await?.expect_code(220)?;
    /// assert_eq!(reply.text(), "mx.example.org smtpd ESMTP");
    /// let error = client.command("VRFY").await?.expect_code(250).unwrap_err();
    /// assert!(error.to_string().starts_with("expected 250, got 5"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`ClientError::Unexpected`] if it has another.
    pub fn expect_code(self, code: u16) -> Result<Self, ClientError> {
        if self.code.as_u16() == code {
            Ok(self)
        } else {
            Err(ClientError::Unexpected {
                expected: code,
                reply: self,
            })
        }
    }
}

impl fmt::Display for ClientReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.wire.join("\n"))
    }
}

/// Parses three digits, then a hyphen, a space, or nothing (RFC 5321 section 4.2).
fn code(line: &str) -> Option<Code> {
    let (digits, rest) = line.split_at_checked(3)?;
    (rest.is_empty() || rest.starts_with([' ', '-'])).then_some(())?;
    Code::new(number(digits)?)
}

fn text(line: &str) -> &str {
    line.get(4..).unwrap_or_default()
}

/// Splits off the enhanced status code before a text (RFC 2034 section 4: only in replies of 2yz, 4yz and 5yz).
fn status(code: Code, text: &str) -> Option<(Status, &str)> {
    if code.is_intermediate() {
        return None;
    }
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let mut numbers = word.split('.').map(number);
    let (class, subject, detail) = (numbers.next()??, numbers.next()??, numbers.next()??);
    (numbers.next().is_none() && class == code.as_u16() / 100).then_some(())?;
    Some((Status::new(subject, detail)?, rest))
}

fn number(digits: &str) -> Option<u16> {
    let fits = matches!(digits.len(), 1..=3) && digits.bytes().all(|byte| byte.is_ascii_digit());
    fits.then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(wire: &str) -> Result<ClientReply, ClientError> {
        ClientReply::parse(wire.split('\n').map(str::to_owned).collect())
    }

    #[test]
    fn replies_come_apart() {
        let cases = [
            ("250 2.0.0 OK", 250, Some((0, 0)), "OK"),
            ("250 OK", 250, None, "OK"),
            ("250", 250, None, ""),
            ("250 ", 250, None, ""),
            ("550 5.7.205", 550, Some((7, 205)), ""),
            ("550 2.1.1 Mixed", 550, None, "2.1.1 Mixed"),
            ("250 2.0.0.1 Four", 250, None, "2.0.0.1 Four"),
            ("250 2.0.1000 Long", 250, None, "2.0.1000 Long"),
            (
                "250-mx.test\n250-8BITMIME\n250 SIZE 10",
                250,
                None,
                "mx.test\n8BITMIME\nSIZE 10",
            ),
            (
                "214-2.0.0 one\n214 2.0.0 two",
                214,
                Some((0, 0)),
                "one\ntwo",
            ),
        ];
        for (wire, code, status, text) in cases {
            let reply = parse(wire).unwrap();
            let found = reply.status().map(|s| (s.subject(), s.detail()));
            assert_eq!((reply.code().as_u16(), found), (code, status), "{wire}");
            assert_eq!(
                (reply.text(), reply.to_string()),
                (text.into(), wire.into())
            );
        }
    }

    #[test]
    fn text_is_not_taken_for_an_enhanced_status_code() {
        for (wire, text) in [
            ("354 3.5.1 Go ahead", "3.5.1 Go ahead"),
            ("250-mx.test\n250 2.0.0 SIZE", "mx.test\n2.0.0 SIZE"),
        ] {
            let reply = parse(wire).unwrap();
            assert_eq!((reply.status(), &*reply.text()), (None, text), "{wire}");
        }
    }

    #[test]
    fn what_is_no_reply_is_malformed() {
        for wire in [
            "",
            "25",
            "2x0 OK",
            "+50 OK",
            "250x",
            "2500 OK",
            "199 no",
            "600 no",
            "hello",
            "été",
            "250-a\n251 b",
        ] {
            let error = parse(wire).unwrap_err();
            assert!(matches!(error, ClientError::Malformed(_)), "{wire}");
        }
    }
}
