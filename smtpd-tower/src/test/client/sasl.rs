//! AUTH from the client's side (RFC 4954).

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Client, ClientError, ClientReply};

impl<IO: AsyncRead + AsyncWrite + Unpin> Client<IO> {
    /// Sends AUTH PLAIN with an initial response (RFC 4616).
    ///
    /// # Errors
    ///
    /// Like [`command`](Self::command).
    pub async fn auth_plain(
        &mut self,
        user: &str,
        password: &str,
    ) -> Result<ClientReply, ClientError> {
        let response = encode(format!("\0{user}\0{password}").as_bytes());
        self.command(&format!("AUTH PLAIN {response}")).await
    }

    /// Sends AUTH LOGIN: user name and password, each when a challenge asks for it. Returns the first reply that is not 334.
    ///
    /// # Errors
    ///
    /// Like [`command`](Self::command).
    pub async fn auth_login(
        &mut self,
        user: &str,
        password: &str,
    ) -> Result<ClientReply, ClientError> {
        let mut reply = self.command("AUTH LOGIN").await?;
        for answer in [user, password] {
            if reply.code().as_u16() != 334 {
                break;
            }
            reply = self.command(&encode(answer.as_bytes())).await?;
        }
        Ok(reply)
    }

    /// Sends AUTH CRAM-MD5 (RFC 2195). Returns the first reply that is not 334.
    ///
    /// # Errors
    ///
    /// Like [`command`](Self::command); [`ClientError::Malformed`] if the challenge is not base64.
    pub async fn auth_cram_md5(
        &mut self,
        user: &str,
        password: &str,
    ) -> Result<ClientReply, ClientError> {
        let reply = self.command("AUTH CRAM-MD5").await?;
        if reply.code().as_u16() != 334 {
            return Ok(reply);
        }
        let digest = decode(&reply.text())
            .and_then(|challenge| cram_md5(password.as_bytes(), &challenge))
            .ok_or_else(|| ClientError::Malformed(reply.to_string()))?;
        self.command(&encode(format!("{user} {digest}").as_bytes()))
            .await
    }
}

/// RFC 2195 section 2: HMAC-MD5 of the challenge in hexadecimal.
fn cram_md5(password: &[u8], challenge: &[u8]) -> Option<String> {
    let mut hmac = Hmac::<Md5>::new_from_slice(password).ok()?;
    hmac.update(challenge);
    let digest = hmac.finalize().into_bytes();
    Some(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_the_rfc() {
        // RFC 2195 section 2.
        let challenge = b"<1896.697170952@postoffice.reston.mci.net>";
        let digest = cram_md5(b"tanstaaftanstaaf", challenge);
        assert_eq!(digest.as_deref(), Some("b913a602c7eda7a495b4e6e7334d3890"));
    }
}
