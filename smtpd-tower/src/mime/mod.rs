//! Messages as MIME (RFC 2045), parsed by [`mail_parser`]. Needs the feature `mime`.

mod check;
mod error;
#[cfg(test)]
mod hostile;

use std::fmt;

use bytes::Bytes;
pub use mail_parser;
use mail_parser::{Message, MessageParser};

use self::check::Limits;
pub use self::error::MimeError;
use crate::body::{Body, BodyError};

/// A whole message in memory, which lends itself as a [`mail_parser::Message`].
///
/// A sender decides how a message is built, and mail-parser follows it without a limit: messages that are nested 25,000
/// deep overflow the stack, which ends the process, and some 10,000 parts keep it busy for minutes. So the message is gone
/// through first, in constant stack and memory, and refused where it exceeds a limit:
///
/// | limit | default |
/// |---|---|
/// | [messages and multiparts within each other](Self::with_max_nesting), encoded ones too | 100, as in Postfix and Dovecot |
/// | [parts](Self::with_max_parts) | 10,000, as in Dovecot |
/// | header sections | 1 MiB each, 4 MiB in all |
/// | parameters, boundaries that are missing, messages within encoded ones | fixed, far above what real mail has |
///
/// ```
/// use smtpd_tower::{BodyError, Data, Pipeline, Reply, Request, handler_fn, mime::Parsed};
///
/// async fn judge(request: Request<Data>) -> Result<Reply, BodyError> {
///     let parsed = Parsed::read(request.into_body(), 10 * 1024 * 1024).await?;
///     let message = parsed.message()?; // 554 5.6.0, if it cannot be parsed
///     if message.attachment_count() > 0 {
///         return Ok(Reply::rejected("No attachments, please"));
///     }
///     println!("{:?}: {:?}", message.subject(), message.body_text(0));
///     Ok(Reply::OK)
/// }
/// let pipeline = Pipeline::new().data(handler_fn(judge));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Parsed {
    bytes: Bytes,
    limits: Limits,
}

impl Parsed {
    /// How deep parts may be nested, where nothing else is set.
    pub const DEFAULT_MAX_NESTING: usize = 100;

    /// How many parts a message may have, where nothing else is set.
    pub const DEFAULT_MAX_PARTS: usize = 10_000;

    /// Wraps a message that is at hand.
    pub fn new(message: impl Into<Bytes>) -> Self {
        Self {
            bytes: message.into(),
            limits: Limits {
                nesting: Self::DEFAULT_MAX_NESTING,
                parts: Self::DEFAULT_MAX_PARTS,
            },
        }
    }

    /// Reads a body to its end.
    ///
    /// # Errors
    ///
    /// [`BodyError::TooLarge`] when it has more than `limit` bytes; else see [`BodyError`].
    pub async fn read(body: Body, limit: usize) -> Result<Self, BodyError> {
        body.collect_to(limit).await.map(Self::new)
    }

    /// Refuses messages whose parts are nested deeper. [`DEFAULT_MAX_NESTING`](Self::DEFAULT_MAX_NESTING) by default.
    ///
    /// A nested message is dropped, cloned and shown by a call for each level, so more levels take more stack: up to 4 KiB each
    /// in a debug build.
    #[must_use]
    pub const fn with_max_nesting(mut self, levels: usize) -> Self {
        self.limits.nesting = levels;
        self
    }

    /// Refuses messages of more parts, the message itself and nested ones included.
    /// [`DEFAULT_MAX_PARTS`](Self::DEFAULT_MAX_PARTS) by default.
    #[must_use]
    pub const fn with_max_parts(mut self, parts: usize) -> Self {
        self.limits.parts = parts;
        self
    }

    /// Parses the message, anew at every call: keep what it returns.
    ///
    /// What is malformed is read as well as possible: do not trust anything in it for being there. Nested messages borrow
    /// from this one, but [`Message::into_owned`] copies the whole message for each of them.
    ///
    /// # Errors
    ///
    /// [`MimeError::NotAMessage`] when it has neither a header field nor the empty line that goes before a text; the others
    /// when it exceeds a limit. Its [reply](MimeError::reply) is 554 5.6.0. A service that takes such messages nevertheless
    /// still has them: [`into_body`](Self::into_body).
    ///
    /// ```
    /// use smtpd_tower::mime::{MimeError, Parsed};
    ///
    /// let nested = Parsed::new("Content-Type: message/rfc822\r\n\r\n".repeat(25_000));
    /// assert_eq!(nested.message().err(), Some(MimeError::TooDeep));
    /// ```
    pub fn message(&self) -> Result<Message<'_>, MimeError> {
        check::check(&self.bytes, self.limits)?;
        let message = MessageParser::new().parse(&self.bytes);
        message.ok_or(MimeError::NotAMessage)
    }

    /// The message as it came.
    pub const fn octets(&self) -> &Bytes {
        &self.bytes
    }

    /// The message as it came, as a body again.
    pub fn into_body(self) -> Body {
        self.bytes.into()
    }
}

impl fmt::Debug for Parsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parsed")
            .field("len", &self.bytes.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use mail_parser::MimeHeaders;

    use super::*;

    const MESSAGE: &str = "Subject: =?utf-8?q?gr=C3=A5?=\r\n\
        MIME-Version: 1.0\r\n\
        Content-Type: multipart/mixed; boundary=x\r\n\
        \r\n\
        --x\r\n\
        Content-Type: text/plain; charset=utf-8\r\n\
        Content-Transfer-Encoding: quoted-printable\r\n\
        \r\n\
        bl=C3=A5\r\n\
        --x\r\n\
        Content-Type: application/octet-stream\r\n\
        Content-Disposition: attachment; filename=a.bin\r\n\
        Content-Transfer-Encoding: base64\r\n\
        \r\n\
        AAEC\r\n\
        --x--\r\n";

    #[tokio::test]
    async fn a_message_lends_its_parts_and_stays_as_it_came() {
        let parsed = Parsed::read(Body::from(MESSAGE), MESSAGE.len()).await;
        let parsed = parsed.unwrap();
        let message = parsed.message().unwrap();
        assert_eq!(message.subject(), Some("grå"));
        assert_eq!(message.body_text(0).unwrap().trim_end(), "blå");
        let attachment = message.attachment(0).unwrap();
        assert_eq!(attachment.attachment_name(), Some("a.bin"));
        assert_eq!(attachment.contents(), [0, 1, 2]);
        assert_eq!(parsed.into_body().collect().await.unwrap(), MESSAGE);
    }

    #[tokio::test]
    async fn a_message_over_the_limit_is_not_taken() {
        let error = Parsed::read(Body::from(MESSAGE), MESSAGE.len() - 1).await;
        assert!(matches!(error, Err(BodyError::TooLarge)));
    }

    #[test]
    fn what_is_malformed_is_read_as_well_as_may_be() {
        let table = [
            ("", false),
            ("\r\nbody\r\n", true),
            ("body\r\n", false),
            (
                "Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n",
                true,
            ),
        ];
        for (text, readable) in table {
            let parsed = Parsed::new(text);
            assert_eq!(parsed.message().is_ok(), readable, "{text:?}");
        }
    }
}
