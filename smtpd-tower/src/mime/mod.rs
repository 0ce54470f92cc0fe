//! MIME messages (RFC 2045), parsed by [`mail_parser`]. Needs the feature `mime`.

mod check;
mod error;

use std::fmt;

use bytes::Bytes;
pub use mail_parser;
use mail_parser::{Message, MessageParser};

use self::check::Limits;
pub use self::error::MimeError;
use crate::body::{Body, BodyError};

/// A whole message in memory, from which a [`mail_parser::Message`] borrows.
///
/// The sender determines the structure of a message, and mail-parser follows it without a limit: messages nested 25,000 levels
/// deep overflow the stack, which ends the process, and some 10,000 parts keep it busy for minutes. So the message is checked
/// first, in constant stack and memory, and rejected if it exceeds a limit:
///
/// | limit | default |
/// |---|---|
/// | [nested messages and multiparts](Self::with_max_nesting), including encoded ones | 100, as in Postfix and Dovecot |
/// | [parts](Self::with_max_parts) | 10,000, as in Dovecot |
/// | header sections | 1 MiB each, 4 MiB in all |
/// | parameters, missing boundaries, messages within encoded ones | fixed, far above what real mail has |
///
/// ```
/// use smtpd_tower::{
///     BodyError, Data, Pipeline, Reply, Request, handler_fn, mime::Parsed,
/// };
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
    /// The default limit on nesting.
    pub const DEFAULT_MAX_NESTING: usize = 100;

    /// The default limit on the number of parts.
    pub const DEFAULT_MAX_PARTS: usize = 10_000;

    /// Wraps a message in memory.
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
    /// Returns [`BodyError::TooLarge`] if it has more than `limit` bytes; otherwise see [`BodyError`].
    pub async fn read(body: Body, limit: usize) -> Result<Self, BodyError> {
        body.collect_to(limit).await.map(Self::new)
    }

    /// Sets how deep parts may be nested. Default: [`DEFAULT_MAX_NESTING`](Self::DEFAULT_MAX_NESTING).
    ///
    /// A nested message is dropped, cloned and shown by one call per level, so more levels need more stack: up to 4 KiB each in a
    /// debug build.
    #[must_use]
    pub const fn with_max_nesting(mut self, levels: usize) -> Self {
        self.limits.nesting = levels;
        self
    }

    /// Sets how many parts a message may have, including the message itself and nested ones. Default:
    /// [`DEFAULT_MAX_PARTS`](Self::DEFAULT_MAX_PARTS).
    #[must_use]
    pub const fn with_max_parts(mut self, parts: usize) -> Self {
        self.limits.parts = parts;
        self
    }

    /// Parses the message. Each call parses it again, so keep the result.
    ///
    /// Malformed parts are read as well as possible, so do not rely on anything in it being there. Nested messages borrow from
    /// this one, but [`Message::into_owned`] copies the whole message for each of them.
    ///
    /// # Errors
    ///
    /// Returns [`MimeError::NotAMessage`] if it has neither a header field nor the empty line before a text, and the other errors
    /// if it exceeds a limit. The [reply](MimeError::reply) is 554 5.6.0. A service that accepts such messages nevertheless still
    /// has them: [`into_body`](Self::into_body).
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

    /// Returns the message as it arrived.
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Converts the message back to a body.
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
    mod hostile;

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
    async fn a_message_over_the_limit_is_not_read() {
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
