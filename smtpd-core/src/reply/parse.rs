//! Parses replies from their text (RFC 5321 section 4.2.1).

use std::{error::Error, fmt, str::FromStr};

use super::{Code, Reply, Status};

/// Why a text is not a [`Reply`].
///
/// ```
/// use smtpd_core::{Reply, reply::ReplyError};
///
/// let error = "550 4.7.1 No".parse::<Reply>().unwrap_err();
/// assert_eq!(error, ReplyError::Class);
/// assert_eq!(
///     error.to_string(),
///     "class of the enhanced status code differs from that of the reply code"
/// );
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReplyError {
    /// A line does not begin with three digits from 200 to 599 that are followed by a space, a hyphen or the end of the line.
    Code,
    /// The code of a line is not that of the first line (RFC 5321 section 4.2.1).
    OtherCode,
    /// The word in the position of the enhanced status code is three numbers, but not a status (RFC 3463 section 2).
    Status,
    /// The class of the enhanced status code is not the first digit of the code (RFC 2034 section 4).
    Class,
    /// The first line has an enhanced status code, and another line does not have the same (RFC 2034 section 4).
    OtherStatus,
    /// A line contains a control character, such as an LF without a CR. Only the horizontal tab is allowed; it becomes a space.
    Control,
    /// The last line has a hyphen after its code, so another line should follow.
    Incomplete,
    /// Text follows the line that ends the reply.
    Trailing,
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Code => "line without a reply code from 200 to 599",
            Self::OtherCode => "lines with different reply codes",
            Self::Status => "malformed enhanced status code",
            Self::Class => "class of the enhanced status code differs from that of the reply code",
            Self::OtherStatus => "lines with different enhanced status codes",
            Self::Control => "control character in the reply",
            Self::Incomplete => "last line of the reply is missing",
            Self::Trailing => "unexpected text after the reply",
        })
    }
}

impl Error for ReplyError {}

/// Parses a reply of one or more lines, which are separated by CRLF. A final CRLF is optional.
///
/// The enhanced status code is optional. Without it, [`status`](Reply::status) is [`Status::UNDEFINED`]. If the first line has
/// one, each line must have it. A 3yz reply has none, so all of its text is text (RFC 2034 section 4). A line may have any
/// length; one that is too long is broken when the reply is sent.
///
/// ```
/// use smtpd_core::{Reply, reply::ReplyError};
///
/// let refusal: Reply = "550 5.7.1 Relaying denied".parse()?;
/// assert_eq!(refusal, Reply::relay_denied());
///
/// let help: Reply =
///     "214-2.0.0 Commands:\r\n214 2.0.0 EHLO MAIL RCPT DATA\r\n".parse()?;
/// assert!(help.lines().eq(["Commands:", "EHLO MAIL RCPT DATA"]));
///
/// assert_eq!(
///     "250-2.0.0 One".parse::<Reply>(),
///     Err(ReplyError::Incomplete)
/// );
/// # Ok::<(), ReplyError>(())
/// ```
impl FromStr for Reply {
    type Err = ReplyError;

    fn from_str(text: &str) -> Result<Self, ReplyError> {
        let text = text.strip_suffix("\r\n").unwrap_or(text);
        let mut lines = text.split("\r\n").map(Line::parse);
        let mut line = lines.next().ok_or(ReplyError::Code)??;
        let (code, status) = (line.code, line.status()?);
        let mut texts = vec![line.text_after(status)?];
        while !line.is_last {
            line = lines.next().ok_or(ReplyError::Incomplete)??;
            if line.code != code {
                return Err(ReplyError::OtherCode);
            }
            texts.push(line.text_after(status)?);
        }
        if lines.next().is_some() {
            return Err(ReplyError::Trailing);
        }
        let texts = texts.into_iter().map(str::to_owned);
        Ok(Self::multiline(code, status.unwrap_or_default(), texts))
    }
}

/// One line, without its CRLF.
struct Line<'a> {
    code: Code,
    is_last: bool,
    /// What follows the code and the separator.
    text: &'a str,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Result<Self, ReplyError> {
        let (digits, rest) = line.split_at_checked(3).ok_or(ReplyError::Code)?;
        let code = digits.parse().map_err(|_| ReplyError::Code)?;
        let (is_last, text) = match (rest.strip_prefix(' '), rest.strip_prefix('-')) {
            (Some(text), _) => (true, text),
            (_, Some(text)) => (false, text),
            _ if rest.is_empty() => (true, rest),
            _ => return Err(ReplyError::Code),
        };
        // RFC 5321 section 4.2: textstring = 1*(%d09 / %d32-126); UTF-8 by RFC 6531 section 3.7.4.2.
        if text.contains(|c: char| c.is_control() && c != '\t') {
            return Err(ReplyError::Control);
        }
        Ok(Self {
            code,
            is_last,
            text,
        })
    }

    /// Returns the enhanced status code at the start of the text. Three numbers are treated as one.
    fn status(&self) -> Result<Option<Status>, ReplyError> {
        let (word, _) = self.first_word();
        let (class, status) = word.split_once('.').unwrap_or_default();
        if self.code.is_intermediate() || !is_three_numbers(word) {
            return Ok(None);
        }
        if class.as_bytes() != [self.code.digits()[0]] {
            return Err(ReplyError::Class);
        }
        status.parse().map(Some).map_err(|_| ReplyError::Status)
    }

    /// Returns the text after the enhanced status code, which must be this one.
    fn text_after(&self, status: Option<Status>) -> Result<&'a str, ReplyError> {
        match status {
            None => Ok(self.text),
            _ if self.status()? == status => Ok(self.first_word().1),
            _ => Err(ReplyError::OtherStatus),
        }
    }

    fn first_word(&self) -> (&'a str, &'a str) {
        self.text.split_once(' ').unwrap_or((self.text, ""))
    }
}

/// Returns whether a word is three numbers separated by dots.
fn is_three_numbers(word: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    word.split('.').count() == 3 && word.split('.').all(is_number)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::{super::Form, *};

    #[test]
    fn replies_are_read_with_and_without_status() {
        let bad_mailbox = Some(Status::BAD_MAILBOX);
        for (text, code, status, lines) in [
            ("550 5.1.1 No", 550, bad_mailbox, &["No"][..]),
            ("550 5.1.1 No\r\n", 550, bad_mailbox, &["No"]),
            ("550 5.1.1", 550, bad_mailbox, &[""]),
            ("550 5.1.1  No ", 550, bad_mailbox, &[" No "]),
            ("550 No", 550, None, &["No"]),
            ("550 ", 550, None, &[""]),
            ("550", 550, None, &[""]),
            (
                "550 192.0.2.1 is blocked",
                550,
                None,
                &["192.0.2.1 is blocked"],
            ),
            ("550 5.1. No", 550, None, &["5.1. No"]),
            ("250 a\tb \u{e9}", 250, None, &["a b \u{e9}"]),
            ("250-a\r\n250 b", 250, None, &["a", "b"]),
            ("250-a\r\n250 2.1.1 b", 250, None, &["a", "2.1.1 b"]),
            (
                "250-2.1.1\r\n250-2.1.1 b\r\n250 2.1.1",
                250,
                bad_mailbox,
                &["", "b", ""],
            ),
            ("354 2.1.1 Go", 354, None, &["2.1.1 Go"]),
            ("354-\r\n354\r\n", 354, None, &["", ""]),
        ] {
            let reply: Reply = text.parse().expect(text);
            assert_eq!(reply.code().as_u16(), code, "{text}");
            assert_eq!(reply.status(), status.unwrap_or_default(), "{text}");
            assert!(reply.lines().eq(lines.iter().copied()), "{text}");
        }
    }

    #[test]
    fn text_that_is_not_exactly_one_reply_is_rejected() {
        use ReplyError::*;
        for (text, error) in [
            ("", Code),
            ("25", Code),
            ("2x0 a", Code),
            ("+25 a", Code),
            ("199 a", Code),
            ("600 a", Code),
            ("2500 a", Code),
            ("250a", Code),
            ("\u{e9}50 a", Code),
            ("25\u{e9} a", Code),
            (" 250 a", Code),
            ("250-a\r\nb", Code),
            ("250-a\r\n251 b", OtherCode),
            ("550 5.01.1 a", Status),
            ("550 5.1.1000 a", Status),
            ("550 5.1.99999999999", Status),
            ("550 4.1.1 a", Class),
            ("550 05.1.1 a", Class),
            ("550 3.1.1", Class),
            ("250-2.1.1 a\r\n250 5.1.1 a", Class),
            ("250-2.1.1 a\r\n250 2.1.5 b", OtherStatus),
            ("250-2.1.1 a\r\n250 b", OtherStatus),
            ("250 a\n", Control),
            ("250 a\0", Control),
            ("250 a\r", Control),
            ("250 a\u{85}", Control),
            ("250-a\n250 b", Control),
            ("250-", Incomplete),
            ("250-a\r\n250-b\r\n", Incomplete),
            ("250 a\r\n250 b", Trailing),
            ("250 a\r\n\r\n", Trailing),
        ] {
            assert_eq!(text.parse::<Reply>(), Err(error), "{text:?}");
        }
    }

    fn texts() -> impl Strategy<Value = String> {
        const TRICKY: &[&str] = &[
            "",
            " ",
            "-",
            "2.0.0",
            "5.1.1 a",
            " 4.0.0",
            "250 2.0.0 a",
            "1.2.3.4",
        ];
        prop_oneof![
            proptest::sample::select(TRICKY).prop_map(str::to_owned),
            "\\PC{0,20}",
        ]
    }

    fn replies() -> impl Strategy<Value = Reply> {
        let numbers = (200..600_u16, 0..1000_u16, 0..1000_u16);
        (numbers, vec(texts(), 1..5)).prop_map(|((code, subject, detail), lines)| {
            let code = Code::new(code).unwrap();
            // A written reply has no status if its code is 3yz.
            let status = match code.is_intermediate() {
                true => Status::UNDEFINED,
                false => Status::new(subject, detail).unwrap(),
            };
            Reply::multiline(code, status, lines)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn what_is_written_is_read_as_it_was(reply in replies()) {
            let text = format!("{reply:#}");
            prop_assert_eq!(text.parse(), Ok(reply.clone()), "{}", text);
            prop_assert_eq!((text + "\r\n").parse(), Ok(reply.clone()));
            if reply.lines().count() == 1 {
                prop_assert_eq!(reply.to_string().parse(), Ok(reply));
            }
        }

        #[test]
        fn what_is_sent_is_read_as_it_was(reply in replies()) {
            let mut sent = Vec::new();
            reply.encode(Form { status: true, utf8: true }, &mut sent);
            prop_assert_eq!(std::str::from_utf8(&sent).unwrap().parse(), Ok(reply));
        }

        #[test]
        fn what_is_read_is_written_in_a_form_that_reads_the_same(
            text in "[245]50[- ](5\\.[01]\\.1|\\PC{0,5})[- a]{0,5}(\r\n[25]50[- ]\\PC{0,5})?(\r\n)?",
        ) {
            if let Ok(reply) = text.parse::<Reply>() {
                prop_assert_eq!(format!("{reply:#}").parse(), Ok(reply));
            }
        }
    }
}
