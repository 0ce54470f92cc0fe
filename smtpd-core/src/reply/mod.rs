//! Replies: what the server sends to the client (RFC 5321 section 4.2).
//!
//! - [`Reply`] is a [`Code`], an enhanced [`Status`] code and a text, in a form that cannot carry a CR or LF.
//! - [`DataReply`] is the reply to a message: one for all its recipients, or one for each.
//! - [`Origin`] says who has produced a reply. It is not sent.
//! - [`ReplyError`], [`CodeError`] and [`StatusError`] say why a text is not one of them.

mod code;
mod data_reply;
mod encode;
mod origin;
mod parse;
mod status;

use std::{
    borrow::Cow,
    error::Error,
    fmt,
    hash::{Hash, Hasher},
};

pub(crate) use self::encode::Form;
pub use self::{
    code::{Code, CodeError},
    data_reply::DataReply,
    origin::Origin,
    parse::ReplyError,
    status::{Status, StatusError},
};

/// One reply: a code, an enhanced status code, and text of one or more lines.
///
/// A reply cannot contain CR, LF, NUL or another control character: each becomes a space when the reply is created, so the text
/// that a service uses can never become a second reply. Lines that exceed the 512 octets of RFC 5321 section 4.5.3.1.5 are broken
/// when the reply is sent. At most 100 lines are sent: if there are more, the last one is `...` instead of the rest.
///
/// `Reply` is also an [`Error`], so that services and layers can return it with `?`.
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
#[derive(Clone, Debug)]
pub struct Reply {
    code: Code,
    status: Status,
    /// Neither sent nor compared.
    origin: Option<Origin>,
    /// The lines are separated by LF, which no line can contain.
    text: Cow<'static, str>,
}

impl Reply {
    /// 250 2.0.0 OK.
    pub const OK: Self = Self::fixed(Code::OK, Status::UNDEFINED, "OK");

    /// Creates a reply of one line. Control characters in `text` become spaces.
    pub fn new(code: Code, status: Status, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            status,
            origin: None,
            text: clean(text.into()),
        }
    }

    /// Creates a reply of several lines, or of an empty line if `lines` is empty. Control characters in a line become spaces.
    pub fn multiline<T: Into<Cow<'static, str>>>(
        code: Code,
        status: Status,
        lines: impl IntoIterator<Item = T>,
    ) -> Self {
        let lines: Vec<_> = lines.into_iter().map(|line| clean(line.into())).collect();
        Self {
            code,
            status,
            origin: None,
            text: lines.join("\n").into(),
        }
    }

    /// Creates 250 2.0.0 with your own text.
    pub fn ok(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::OK, Status::UNDEFINED, text)
    }

    /// Creates 250 2.0.0 with the name under which the message was queued.
    pub fn queued(id: impl fmt::Display) -> Self {
        Self::ok(format!("Queued as {id}"))
    }

    /// Creates 451 4.3.0: something on this side failed, so the client should try again.
    pub fn try_again(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::LOCAL_ERROR, Status::MAIL_SYSTEM, text)
    }

    /// Creates 450 4.2.1: this mailbox accepts nothing at the moment.
    pub fn mailbox_busy(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::MAILBOX_BUSY, Status::MAILBOX_DISABLED, text)
    }

    /// Creates 554 5.7.1: rejected by policy.
    pub fn rejected(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::TRANSACTION_FAILED, Status::DENIED, text)
    }

    /// Creates 421 4.3.2: the server closes the connection after it.
    pub fn closing(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::SERVICE_UNAVAILABLE, Status::SYSTEM_BUSY, text)
    }

    /// Creates 451 4.3.2: the server is busy, so the client should try again later.
    pub const fn busy() -> Self {
        Self::fixed(
            Code::LOCAL_ERROR,
            Status::SYSTEM_BUSY,
            "System is busy, try again later",
        )
    }

    /// Creates 550 5.1.1: the mailbox does not exist.
    pub const fn no_such_user() -> Self {
        Self::fixed(
            Code::MAILBOX_UNAVAILABLE,
            Status::BAD_MAILBOX,
            "No such user",
        )
    }

    /// Creates 550 5.7.1: no mail for that domain here.
    pub const fn relay_denied() -> Self {
        Self::fixed(Code::MAILBOX_UNAVAILABLE, Status::DENIED, "Relaying denied")
    }

    /// Creates 452 4.2.2: over quota.
    pub const fn mailbox_full() -> Self {
        Self::fixed(
            Code::INSUFFICIENT_STORAGE,
            Status::MAILBOX_FULL,
            "Mailbox full",
        )
    }

    /// Creates 452 4.3.1: the disk of the server is full.
    pub const fn storage_full() -> Self {
        Self::fixed(
            Code::INSUFFICIENT_STORAGE,
            Status::SYSTEM_FULL,
            "Insufficient system storage",
        )
    }

    /// Creates 452 4.5.3 (RFC 5321 section 4.5.3.1.10).
    pub const fn too_many_recipients() -> Self {
        Self::fixed(
            Code::INSUFFICIENT_STORAGE,
            Status::TOO_MANY_RECIPIENTS,
            "Too many recipients",
        )
    }

    /// Creates 552 5.3.4 (RFC 1870 section 6.1).
    pub const fn too_large() -> Self {
        Self::fixed(
            Code::EXCEEDED_STORAGE,
            Status::MESSAGE_TOO_BIG,
            "Message exceeds the maximum size",
        )
    }

    /// Creates 530 5.7.0 (RFC 4954 section 6).
    pub const fn auth_required() -> Self {
        Self::fixed(
            Code::AUTH_REQUIRED,
            Status::POLICY,
            "Authentication required",
        )
    }

    /// Creates 530 5.7.0 (RFC 3207 section 4).
    pub const fn tls_required() -> Self {
        Self::fixed(
            Code::AUTH_REQUIRED,
            Status::POLICY,
            "Must issue a STARTTLS command first",
        )
    }

    /// Creates 535 5.7.8 (RFC 4954 section 6).
    pub const fn auth_failed() -> Self {
        Self::fixed(
            Code::AUTH_FAILED,
            Status::CREDENTIALS_INVALID,
            "Authentication credentials invalid",
        )
    }

    /// Creates 454 4.7.0: credentials cannot be checked now, so a client should not ask its user for others (RFC 4954 section 6).
    /// It counts as an error of the session, not as a failed authentication.
    pub const fn auth_unavailable() -> Self {
        Self::fixed(
            Code::TLS_UNAVAILABLE,
            Status::POLICY,
            "Temporary authentication failure",
        )
    }

    /// Creates 550 5.7.1: the client may not send as that address (RFC 6409 section 6.1).
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
            origin: None,
            text: Cow::Borrowed(text),
        }
    }

    /// Returns the reply code.
    pub const fn code(&self) -> Code {
        self.code
    }

    /// Returns the enhanced status code. Its class is the first digit of [`code`](Self::code). A 3yz reply is sent without it.
    pub const fn status(&self) -> Status {
        self.status
    }

    /// Returns the text, with LF between its lines.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the lines of the text. There is at least one, which may be empty.
    ///
    /// ```
    /// use smtpd_core::{Code, Reply, Status};
    ///
    /// let help = Reply::multiline(
    ///     Code::HELP,
    ///     Status::UNDEFINED,
    ///     ["Commands:", "EHLO MAIL RCPT DATA"],
    /// );
    /// assert_eq!(
    ///     help.lines().collect::<Vec<_>>(),
    ///     ["Commands:", "EHLO MAIL RCPT DATA"]
    /// );
    /// ```
    pub fn lines(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.text.split('\n')
    }

    /// Returns the reply with `text` instead of all its lines. Control characters in it become spaces, so the reply has one line.
    /// [`with_line`](Self::with_line) adds a line.
    ///
    /// ```
    /// use smtpd_core::Reply;
    ///
    /// let reply = Reply::no_such_user().with_text("Nobody here has that name");
    /// assert_eq!(reply.to_string(), "550 5.1.1 Nobody here has that name");
    /// ```
    #[must_use]
    pub fn with_text(self, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            text: clean(text.into()),
            ..self
        }
    }

    /// Returns the reply with one more line, such as a contact for questions. Control characters in it become spaces.
    ///
    /// ```
    /// use smtpd_core::Reply;
    ///
    /// let reply =
    ///     Reply::no_such_user().with_line("Questions: postmaster@example.org");
    /// assert_eq!(
    ///     reply.lines().collect::<Vec<_>>(),
    ///     ["No such user", "Questions: postmaster@example.org"]
    /// );
    /// ```
    #[must_use]
    pub fn with_line(self, line: impl Into<Cow<'static, str>>) -> Self {
        Self {
            text: format!("{}\n{}", self.text, clean(line.into())).into(),
            ..self
        }
    }

    /// Returns the reply with another code. The class of its enhanced status code becomes the first digit of `code`.
    ///
    /// ```
    /// use smtpd_core::{Code, Reply};
    ///
    /// // A rejection becomes a deferral.
    /// let reply = Reply::no_such_user().with_code(Code::MAILBOX_BUSY);
    /// assert_eq!(reply.to_string(), "450 4.1.1 No such user");
    /// ```
    #[must_use]
    pub fn with_code(self, code: Code) -> Self {
        Self { code, ..self }
    }

    /// Returns the reply with another enhanced status code. Its class is the first digit of [`code`](Self::code).
    ///
    /// ```
    /// use smtpd_core::{Reply, Status};
    ///
    /// let reply = Reply::rejected("Too big for this list")
    ///     .with_status(Status::MESSAGE_TOO_BIG);
    /// assert_eq!(reply.to_string(), "554 5.3.4 Too big for this list");
    /// ```
    #[must_use]
    pub fn with_status(self, status: Status) -> Self {
        Self { status, ..self }
    }

    /// Creates 451 4.3.0: something on this side took too long.
    pub(crate) const fn timed_out() -> Self {
        Self::fixed(
            Code::LOCAL_ERROR,
            Status::MAIL_SYSTEM,
            "Timed out, try again later",
        )
    }

    /// Returns whether the command is accepted: the code is 2yz or 3yz.
    pub const fn is_positive(&self) -> bool {
        self.code.is_positive()
    }

    /// Returns whether the server closes the connection after this reply.
    pub const fn closes(&self) -> bool {
        self.code.closes()
    }
}

/// Writes the reply in one line for logs, with spaces between its lines. The alternate form, `{:#}`, writes the lines as they are
/// sent, with CRLF between them. [`FromStr`](std::str::FromStr) parses both forms.
///
/// ```
/// use smtpd_core::Reply;
///
/// let reply = Reply::no_such_user().with_line("Ask us");
/// assert_eq!(format!("{reply}"), "550 5.1.1 No such user Ask us");
/// assert_eq!(format!("{reply:#}"), "550-5.1.1 No such user\r\n550 5.1.1 Ask us");
/// ```
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return self.fmt_line(' ', &self.text.replace('\n', " "), f);
        }
        let mut lines = self.lines().peekable();
        while let Some(line) = lines.next() {
            if lines.peek().is_none() {
                return self.fmt_line(' ', line, f);
            }
            self.fmt_line('-', line, f)?;
            f.write_str("\r\n")?;
        }
        Ok(())
    }
}

impl Reply {
    fn fmt_line(&self, separator: char, text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        let mut separator = separator;
        // RFC 2034 section 4: not in 3yz replies.
        if !self.code.is_intermediate() {
            write!(f, "{separator}{}.{}", self.code.class(), self.status)?;
            separator = ' ';
        }
        if separator == '-' || !text.is_empty() {
            write!(f, "{separator}{text}")?;
        }
        Ok(())
    }
}

impl PartialEq for Reply {
    fn eq(&self, other: &Self) -> bool {
        (self.code, self.status) == (other.code, other.status) && self.text == other.text
    }
}

impl Eq for Reply {}

impl Hash for Reply {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.code, self.status, &self.text).hash(state);
    }
}

impl Error for Reply {}

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
