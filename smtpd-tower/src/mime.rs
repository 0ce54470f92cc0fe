//! Messages as MIME (RFC 2045), parsed by [`mail_parser`]. Needs the feature `mime`.

use std::fmt;

use bytes::Bytes;
pub use mail_parser;
use mail_parser::{Message, MessageParser};

use crate::{Body, BodyError};

/// A whole message in memory, which lends itself as a [`mail_parser::Message`].
///
/// ```
/// use smtpd_tower::{BodyError, Data, Pipeline, Reply, Request, handler_fn, mime::Parsed};
///
/// async fn judge(request: Request<Data>) -> Result<Reply, BodyError> {
///     let parsed = Parsed::read(request.into_body(), 10 * 1024 * 1024).await?;
///     let Some(message) = parsed.message() else {
///         return Ok(Reply::rejected("Not a message"));
///     };
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
    octets: Bytes,
}

impl Parsed {
    /// A message that is at hand.
    pub fn new(octets: impl Into<Bytes>) -> Self {
        Self {
            octets: octets.into(),
        }
    }

    /// Reads a body to its end.
    ///
    /// # Errors
    ///
    /// [`BodyError::TooLarge`] when it has more than `limit` octets; else see [`BodyError`].
    pub async fn read(body: Body, limit: usize) -> Result<Self, BodyError> {
        body.collect_to(limit).await.map(Self::new)
    }

    /// The message, parsed anew at every call: keep what it returns. `None` when it has neither a
    /// header field nor the empty line that goes before a text.
    ///
    /// What is malformed is read as well as may be: nothing in it is to be trusted for being there.
    pub fn message(&self) -> Option<Message<'_>> {
        MessageParser::default().parse(&self.octets)
    }

    /// The message as it came.
    pub const fn octets(&self) -> &Bytes {
        &self.octets
    }

    /// The message as it came, as a body again.
    pub fn into_body(self) -> Body {
        self.octets.into()
    }
}

impl fmt::Debug for Parsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parsed")
            .field("len", &self.octets.len())
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
            assert_eq!(parsed.message().is_some(), readable, "{text:?}");
        }
    }
}
