//! Replies: what the server answers (RFC 5321 section 4.2).

use std::{borrow::Cow, error::Error, fmt};

use arrayvec::ArrayVec;

use crate::{Code, Status};

/// One reply: a code, an enhanced status code, and text of one or more lines.
///
/// A reply can hold no CR, LF, NUL or other control character: each becomes a space when the reply is made, so what a
/// handler puts into a text can never become a reply of its own. Lines that would pass the 512 octets of RFC 5321
/// section 4.5.3.1.5 are broken when the reply is written.
///
/// `Reply` is also an [`Error`], so that it can be thrown with `?` and travel through layers that know only errors.
///
/// ```
/// use smtpd_core::{Code, Reply, Status};
///
/// let reply = Reply::ok("Queued as 4F2A");
/// assert_eq!((reply.code(), reply.text()), (Code::OK, "Queued as 4F2A"));
///
/// let hostile = Reply::rejected("bad\r\n250 2.0.0 fine");
/// assert_eq!(hostile.to_string(), "554 5.7.1 bad  250 2.0.0 fine");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reply {
    code: Code,
    status: Status,
    /// Lines are parted by LF, which no line can hold.
    text: Cow<'static, str>,
}

impl Reply {
    /// 250 2.0.0, the plain yes.
    pub const OK: Self = Self::fixed(Code::OK, Status::UNDEFINED, "OK");

    /// A reply of one line. Control characters in `text` become spaces.
    pub fn new(code: Code, status: Status, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            status,
            text: clean(text.into()),
        }
    }

    /// A reply of several lines; a single empty one where `lines` is empty.
    pub fn multiline<T: Into<Cow<'static, str>>>(
        code: Code,
        status: Status,
        lines: impl IntoIterator<Item = T>,
    ) -> Self {
        let lines: Vec<_> = lines.into_iter().map(|line| clean(line.into())).collect();
        Self {
            code,
            status,
            text: lines.join("\n").into(),
        }
    }

    /// 250 2.0.0 with a text of your own.
    pub fn ok(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::OK, Status::UNDEFINED, text)
    }

    /// 250 2.0.0, telling the client the name under which the message was queued.
    pub fn queued(id: impl fmt::Display) -> Self {
        Self::ok(format!("Queued as {id}"))
    }

    /// 451 4.3.0: something on this side failed, the client shall try again.
    pub fn try_again(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::LOCAL_ERROR, Status::MAIL_SYSTEM, text)
    }

    /// 450 4.2.1: this mailbox takes nothing at the moment.
    pub fn mailbox_busy(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::MAILBOX_BUSY, Status::MAILBOX_DISABLED, text)
    }

    /// 554 5.7.1: refused by policy, for good.
    pub fn rejected(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::TRANSACTION_FAILED, Status::DENIED, text)
    }

    /// 421 4.3.2: the server closes the connection after it.
    pub fn closing(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::SERVICE_UNAVAILABLE, Status::SYSTEM_BUSY, text)
    }

    /// 451 4.3.2: too much to do, try again later.
    pub const fn busy() -> Self {
        Self::fixed(
            Code::LOCAL_ERROR,
            Status::SYSTEM_BUSY,
            "System is busy, try again later",
        )
    }

    /// 550 5.1.1.
    pub const fn no_such_user() -> Self {
        Self::fixed(
            Code::MAILBOX_UNAVAILABLE,
            Status::BAD_MAILBOX,
            "No such user",
        )
    }

    /// 550 5.7.1: no mail for that domain here.
    pub const fn relay_denied() -> Self {
        Self::fixed(Code::MAILBOX_UNAVAILABLE, Status::DENIED, "Relaying denied")
    }

    /// 452 4.2.2: over quota.
    pub const fn mailbox_full() -> Self {
        Self::fixed(
            Code::INSUFFICIENT_STORAGE,
            Status::MAILBOX_FULL,
            "Mailbox full",
        )
    }

    /// 452 4.5.3 (RFC 5321 section 4.5.3.1.10).
    pub const fn too_many_recipients() -> Self {
        Self::fixed(
            Code::INSUFFICIENT_STORAGE,
            Status::TOO_MANY_RECIPIENTS,
            "Too many recipients",
        )
    }

    /// 552 5.3.4 (RFC 1870 section 6.1).
    pub const fn too_large() -> Self {
        Self::fixed(
            Code::EXCEEDED_STORAGE,
            Status::MESSAGE_TOO_BIG,
            "Message exceeds the maximum size",
        )
    }

    /// 530 5.7.0 (RFC 4954 section 6).
    pub const fn auth_required() -> Self {
        Self::fixed(
            Code::AUTH_REQUIRED,
            Status::POLICY,
            "Authentication required",
        )
    }

    /// 530 5.7.0 (RFC 3207 section 4).
    pub const fn tls_required() -> Self {
        Self::fixed(
            Code::AUTH_REQUIRED,
            Status::POLICY,
            "Must issue a STARTTLS command first",
        )
    }

    /// 535 5.7.8 (RFC 4954 section 6).
    pub const fn auth_failed() -> Self {
        Self::fixed(
            Code::AUTH_FAILED,
            Status::CREDENTIALS_INVALID,
            "Authentication credentials invalid",
        )
    }

    /// 550 5.7.1: the client may not send as that address (RFC 6409 section 6.1).
    pub const fn sender_refused() -> Self {
        Self::fixed(
            Code::MAILBOX_UNAVAILABLE,
            Status::DENIED,
            "Sender address not allowed",
        )
    }

    pub(crate) const fn fixed(code: Code, status: Status, text: &'static str) -> Self {
        Self {
            code,
            status,
            text: Cow::Borrowed(text),
        }
    }

    /// The three digits.
    pub const fn code(&self) -> Code {
        self.code
    }

    /// The enhanced status code, whose class is that of [`code`](Self::code).
    pub const fn status(&self) -> Status {
        self.status
    }

    /// The text, its lines parted by LF.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The lines of the text; one at least, which may be empty.
    ///
    /// ```
    /// use smtpd_core::{Code, Reply, Status};
    ///
    /// let help = Reply::multiline(Code::HELP, Status::UNDEFINED, ["Commands:", "EHLO MAIL RCPT DATA"]);
    /// assert_eq!(help.lines().collect::<Vec<_>>(), ["Commands:", "EHLO MAIL RCPT DATA"]);
    /// ```
    pub fn lines(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.text.split('\n')
    }

    /// The same reply with another text, of one line: it stands in place of all lines that there were, and a line end in it
    /// becomes a space. [`multiline`](Self::multiline) makes several lines, [`with_line`](Self::with_line) adds one.
    #[must_use]
    pub fn with_text(self, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            text: clean(text.into()),
            ..self
        }
    }

    /// The same reply with one more line, such as whom to ask about a refusal. Control characters in it become spaces.
    ///
    /// ```
    /// use smtpd_core::Reply;
    ///
    /// let reply = Reply::no_such_user().with_line("Questions: postmaster@example.org");
    /// assert_eq!(reply.lines().collect::<Vec<_>>(), ["No such user", "Questions: postmaster@example.org"]);
    /// ```
    #[must_use]
    pub fn with_line(self, line: impl Into<Cow<'static, str>>) -> Self {
        Self {
            text: format!("{}\n{}", self.text, clean(line.into())).into(),
            ..self
        }
    }

    /// Whether the command was taken.
    pub const fn is_positive(&self) -> bool {
        self.code.is_positive()
    }

    /// Whether the server closes the connection after it.
    pub const fn closes(&self) -> bool {
        self.code.closes()
    }

    /// Appends the reply as it goes over the wire.
    pub(crate) fn encode(&self, form: Form, out: &mut Vec<u8>) {
        let mut head = self.head(form);
        if is_one_plain_line(&self.text) {
            return put_line(&mut head, &self.text, true, form, out);
        }
        let mut lines = self.lines().peekable();
        while let Some(line) = lines.next() {
            let mut rest = line;
            loop {
                let (now, later) = split_at_limit(rest);
                let last = later.is_empty() && lines.peek().is_none();
                put_line(&mut head, now, last, form, out);
                if later.is_empty() {
                    break;
                }
                rest = later;
            }
        }
    }

    /// What every line begins with, up to its text.
    fn head(&self, form: Form) -> Head {
        let [hundreds, tens, ones] = self.code.digits();
        let mut head = Head::new();
        // RFC 2034 section 4: on every line of 2yz, 4yz and 5yz replies, but not on the greeting and on EHLO's answer.
        if !form.status || self.code.is_intermediate() {
            head.extend([hundreds, tens, ones, b' ']);
            return head;
        }
        head.extend([hundreds, tens, ones, b' ', hundreds]);
        for number in [self.status.subject(), self.status.detail()] {
            head.push(b'.');
            push_decimal(number, &mut head);
        }
        head.push(b' ');
        head
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if !self.code.is_intermediate() {
            write!(f, " {}.{}", self.code.as_u16() / 100, self.status)?;
        }
        for line in self.lines() {
            write!(f, " {line}")?;
        }
        Ok(())
    }
}

impl Error for Reply {}

/// How replies are written in the present state of the session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    pub(crate) status: bool,
    pub(crate) utf8: bool,
}

/// A line's text may take what the 512 octets leave beside code, separator, status and CRLF (RFC 5321 section 4.5.3.1.5).
const LINE_TEXT: usize = 512 - "550-5.999.999 ".len() - 2;

fn split_at_limit(line: &str) -> (&str, &str) {
    if line.len() <= LINE_TEXT {
        return (line, "");
    }
    let mut end = LINE_TEXT;
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.split_at(end)
}

/// Code, separator and status of a line, and the blank before its text.
type Head = ArrayVec<u8, { "550-5.999.999 ".len() }>;

fn put_line(head: &mut Head, line: &str, last: bool, form: Form, out: &mut Vec<u8>) {
    out.reserve(head.len() + line.len() + "\r\n".len());
    head[3] = if last { b' ' } else { b'-' };
    match head.as_slice() {
        [start @ .., _] if line.is_empty() && start.len() > 3 => out.extend_from_slice(start),
        head => out.extend_from_slice(head),
    }
    if form.utf8 || line.is_ascii() {
        out.extend_from_slice(line.as_bytes());
    } else {
        // RFC 6531 section 3.7.4.2: UTF-8 in replies only to those who asked for it.
        out.extend(
            line.chars()
                .map(|c| if c.is_ascii() { c as u8 } else { b'?' }),
        );
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether the text goes out as it is. Without an early end, so that many octets are looked at at once.
fn is_one_plain_line(text: &str) -> bool {
    let octets = text.as_bytes();
    octets.len() <= LINE_TEXT
        && octets.iter().fold(true, |plain, &octet| {
            plain & (octet != b'\n') & octet.is_ascii()
        })
}

fn push_decimal(number: u16, out: &mut Head) {
    if number >= 100 {
        out.push(b'0' + (number / 100 % 10) as u8);
    }
    if number >= 10 {
        out.push(b'0' + (number / 10 % 10) as u8);
    }
    out.push(b'0' + (number % 10) as u8);
}

fn clean(text: Cow<'static, str>) -> Cow<'static, str> {
    if text.chars().any(char::is_control) {
        text.chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect::<String>()
            .into()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENHANCED: Form = Form {
        status: true,
        utf8: false,
    };
    const PLAIN: Form = Form {
        status: false,
        utf8: false,
    };

    fn wire(reply: &Reply, form: Form) -> String {
        let mut out = Vec::new();
        reply.encode(form, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn replies_on_the_wire() {
        let start = Reply::fixed(Code::START_MAIL, Status::UNDEFINED, "Go ahead");
        let odd = Status::new(10, 205).unwrap();
        let cases = [
            (Reply::OK, ENHANCED, "250 2.0.0 OK\r\n"),
            (Reply::OK, PLAIN, "250 OK\r\n"),
            (
                Reply::no_such_user(),
                ENHANCED,
                "550 5.1.1 No such user\r\n",
            ),
            (
                Reply::busy(),
                ENHANCED,
                "451 4.3.2 System is busy, try again later\r\n",
            ),
            (Reply::new(Code::OK, odd, ""), ENHANCED, "250 2.10.205\r\n"),
            (start, ENHANCED, "354 Go ahead\r\n"),
            (
                Reply::multiline(Code::HELP, Status::UNDEFINED, ["one", "two"]),
                ENHANCED,
                "214-2.0.0 one\r\n214 2.0.0 two\r\n",
            ),
            (
                Reply::sender_refused().with_line("Ask\nus"),
                ENHANCED,
                "550-5.7.1 Sender address not allowed\r\n550 5.7.1 Ask us\r\n",
            ),
            (
                Reply::sender_refused().with_line("Ask").with_text("a\nb"),
                ENHANCED,
                "550 5.7.1 a b\r\n",
            ),
        ];
        for (reply, form, expected) in cases {
            assert_eq!(wire(&reply, form), expected);
        }
    }

    #[test]
    fn text_cannot_inject_a_reply_line() {
        for hostile in [
            "a\r\n250 ok",
            "a\n250 ok",
            "a\r250 ok",
            "a\0b",
            "a\u{85}b",
            "\x1b[2J",
        ] {
            for reply in [
                Reply::ok(hostile),
                Reply::multiline(Code::OK, Status::UNDEFINED, [hostile]),
                Reply::OK.with_text(hostile),
                Reply::OK.with_line(hostile),
            ] {
                let wire = wire(&reply, ENHANCED);
                let lines: Vec<_> = wire.split_terminator("\r\n").collect();
                assert_eq!(lines.len(), reply.lines().count(), "{wire:?}");
                for line in lines {
                    assert!(line.starts_with("250"), "{wire:?}");
                    assert!(!line.contains(char::is_control), "{wire:?}");
                }
            }
        }
    }

    #[test]
    fn long_text_is_broken_into_lines_of_512_octets() {
        let wire = wire(
            &Reply::rejected("é".repeat(700)),
            Form {
                status: true,
                utf8: true,
            },
        );
        let lines: Vec<_> = wire.split_inclusive("\r\n").collect();
        assert!(lines.len() > 1);
        assert!(lines.iter().all(|line| line.len() <= 512));
        let (last, first) = lines.split_last().unwrap();
        assert!(
            first.iter().all(|line| line.starts_with("554-5.7.1 "))
                && last.starts_with("554 5.7.1 ")
        );
    }

    #[test]
    fn non_ascii_text_is_masked_unless_the_client_asked_for_utf8() {
        assert_eq!(wire(&Reply::ok("é"), ENHANCED), "250 2.0.0 ?\r\n");
        assert_eq!(
            wire(
                &Reply::ok("é"),
                Form {
                    status: true,
                    utf8: true
                }
            ),
            "250 2.0.0 é\r\n"
        );
    }
}
