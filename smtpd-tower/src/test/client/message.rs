//! Messages, and the commands before them.

use smtpd_core::config::Protocol;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Client, ClientError, ClientReply, patience};

impl<IO: AsyncRead + AsyncWrite + Unpin> Client<IO> {
    /// Sends a whole message: reads the greeting and sends EHLO (or HELO, if the server does not know EHLO) unless that was done,
    /// then MAIL, RCPT, DATA. Returns the reply to the message, or the first refusal: it stops there, and resets the transaction.
    ///
    /// # Errors
    ///
    /// Like [`command`](Self::command).
    pub async fn send<T: AsRef<str>>(
        &mut self,
        from: &str,
        to: impl IntoIterator<Item = T>,
        message: impl AsRef<[u8]>,
    ) -> Result<ClientReply, ClientError> {
        if let Some(refusal) = self.introduce().await? {
            return Ok(refusal);
        }
        let reply = self.mail(from).await?;
        if !reply.is_positive() {
            return Ok(reply);
        }
        for to in to {
            let reply = self.rcpt(to.as_ref()).await?;
            if !reply.is_positive() {
                if !reply.code().closes() {
                    self.rset().await?;
                }
                return Ok(reply);
            }
        }
        self.data(message).await
    }

    /// Sends DATA, and after 354 the message: dots are stuffed, and a CRLF is added if it does not end with one. Returns the
    /// reply to the message; if there are several, as in LMTP, the first refusal, or else the last.
    ///
    /// # Errors
    ///
    /// Like [`command`](Self::command).
    pub async fn data(&mut self, message: impl AsRef<[u8]>) -> Result<ClientReply, ClientError> {
        let replies = self.data_each(message).await?;
        let refusal = replies.iter().find(|reply| !reply.is_positive());
        // There is always a reply: without any there was an error.
        let reply = refusal.or_else(|| replies.last()).cloned();
        reply.ok_or(ClientError::Closed)
    }

    /// Like [`data`](Self::data), but returns every reply: in LMTP one for each accepted recipient (RFC 2033 section 4.2).
    ///
    /// # Errors
    ///
    /// Like [`command`](Self::command).
    pub async fn data_each(
        &mut self,
        message: impl AsRef<[u8]>,
    ) -> Result<Vec<ClientReply>, ClientError> {
        let reply = self.command("DATA").await?;
        if reply.code().as_u16() != 354 {
            return Ok(vec![reply]);
        }
        let expected = match self.protocol {
            Protocol::Lmtp => self.recipients.max(1),
            _ => 1,
        };
        self.recipients = 0;
        let message = stuff(message.as_ref());
        let awaited = "the reply to the message".to_owned();
        let mut replies = vec![self.exchange(&message, awaited).await?];
        while replies.len() < expected && replies.iter().all(|reply| !reply.code().closes()) {
            replies.push(self.reply().await?);
        }
        Ok(replies)
    }

    /// Sends BDAT with these bytes (RFC 3030 section 2). In LMTP the last chunk has a reply for each recipient: the first is
    /// returned, and [`reply`](Self::reply) reads the others.
    ///
    /// # Errors
    ///
    /// Like [`command`](Self::command).
    pub async fn bdat(
        &mut self,
        bytes: impl AsRef<[u8]>,
        last: bool,
    ) -> Result<ClientReply, ClientError> {
        let bytes = bytes.as_ref();
        let last = if last { " LAST" } else { "" };
        let mut chunk = format!("BDAT {}{last}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        self.exchange(&chunk, patience::reply_to("BDAT")).await
    }

    /// Sends what comes before the first message. Returns the refusal, if there is one.
    async fn introduce(&mut self) -> Result<Option<ClientReply>, ClientError> {
        let refusal = |reply: ClientReply| Some(reply).filter(|reply| !reply.is_positive());
        if !self.greeted
            && let Some(refusal) = refusal(self.greeting().await?)
        {
            return Ok(Some(refusal));
        }
        if self.introduced {
            return Ok(None);
        }
        if self.protocol == Protocol::Lmtp {
            return Ok(refusal(self.lhlo(Client::NAME).await?));
        }
        let reply = self.ehlo(Client::NAME).await?;
        // RFC 5321 section 3.2: a server that does not know EHLO says 500 or 502.
        if matches!(reply.code().as_u16(), 500 | 502) {
            return Ok(refusal(self.helo(Client::NAME).await?));
        }
        Ok(refusal(reply))
    }
}

/// RFC 5321 section 4.5.2: a line that begins with a dot gets another one; a line with only a dot ends the message.
fn stuff(message: &[u8]) -> Vec<u8> {
    let mut stuffed = Vec::with_capacity(message.len() + 64);
    for &byte in message {
        if byte == b'.' && (stuffed.is_empty() || stuffed.ends_with(b"\r\n")) {
            stuffed.push(b'.');
        }
        stuffed.push(byte);
    }
    if !message.is_empty() && !message.ends_with(b"\r\n") {
        stuffed.extend_from_slice(b"\r\n");
    }
    stuffed.extend_from_slice(b".\r\n");
    stuffed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_stuffed_and_ended() {
        let cases = [
            ("", ".\r\n"),
            (".", "..\r\n.\r\n"),
            ("a", "a\r\n.\r\n"),
            ("a\r\n", "a\r\n.\r\n"),
            (".a\r\n.\r\n..b", "..a\r\n..\r\n...b\r\n.\r\n"),
            ("a.b\r\n\r\n.\r", "a.b\r\n\r\n..\r\r\n.\r\n"),
            ("a\n.b", "a\n.b\r\n.\r\n"),
        ];
        for (message, expected) in cases {
            assert_eq!(
                stuff(message.as_bytes()).escape_ascii().to_string(),
                expected.as_bytes().escape_ascii().to_string()
            );
        }
    }
}
