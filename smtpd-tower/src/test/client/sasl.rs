//! AUTH from the client's side (RFC 4954).

use md5::{Digest, Md5};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Client, ClientError, ClientReply};

impl<IO: AsyncRead + AsyncWrite + Unpin> Client<IO> {
    /// AUTH PLAIN with an initial response (RFC 4616).
    ///
    /// # Errors
    ///
    /// As [`command`](Self::command).
    pub async fn auth_plain(
        &mut self,
        user: &str,
        password: &str,
    ) -> Result<ClientReply, ClientError> {
        let response = encode(format!("\0{user}\0{password}").as_bytes());
        self.command(&format!("AUTH PLAIN {response}")).await
    }

    /// AUTH LOGIN: name and password, each as a challenge asks for it. Returns the first reply that is not 334.
    ///
    /// # Errors
    ///
    /// As [`command`](Self::command).
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

    /// AUTH CRAM-MD5 (RFC 2195). Returns the first reply that is not 334.
    ///
    /// # Errors
    ///
    /// As [`command`](Self::command); [`ClientError::Malformed`] if the challenge is not base64.
    pub async fn auth_cram_md5(
        &mut self,
        user: &str,
        password: &str,
    ) -> Result<ClientReply, ClientError> {
        let reply = self.command("AUTH CRAM-MD5").await?;
        if reply.code().as_u16() != 334 {
            return Ok(reply);
        }
        let challenge =
            decode(&reply.text()).ok_or_else(|| ClientError::Malformed(reply.to_string()))?;
        let answer = format!("{user} {}", cram_md5(password.as_bytes(), &challenge));
        self.command(&encode(answer.as_bytes())).await
    }
}

/// RFC 2195 section 2: HMAC-MD5 (RFC 2104 section 2) of the challenge in hexadecimal.
fn cram_md5(password: &[u8], challenge: &[u8]) -> String {
    const BLOCK: usize = 64;
    let mut key = if password.len() > BLOCK {
        Md5::digest(password).to_vec()
    } else {
        password.to_vec()
    };
    key.resize(BLOCK, 0);
    let keyed = |pad: u8, octets: &[u8]| {
        let pad: Vec<u8> = key.iter().map(|octet| octet ^ pad).collect();
        Md5::new().chain_update(pad).chain_update(octets).finalize()
    };
    let digest = keyed(0x5c, &keyed(0x36, challenge));
    digest.iter().map(|octet| format!("{octet:02x}")).collect()
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 (RFC 4648 section 4).
fn encode(octets: &[u8]) -> String {
    let mut text = String::new();
    for group in octets.chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, at| {
            bits << 8 | u32::from(group.get(at).copied().unwrap_or(0))
        });
        for at in 0..4 {
            let digit = ALPHABET.get((bits >> (18 - 6 * at) & 63) as usize);
            text.push(
                digit
                    .filter(|_| at <= group.len())
                    .map_or('=', |&digit| char::from(digit)),
            );
        }
    }
    text
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let mut octets = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for digit in digits.bytes() {
        let value = ALPHABET.iter().position(|&known| known == digit)?;
        bits = bits << 6 | u32::try_from(value).ok()?;
        count += 6;
        if count >= 8 {
            count -= 8;
            octets.push((bits >> count & 0xff) as u8);
        }
    }
    Some(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_goes_both_ways() {
        let cases: [(&[u8], &str); 6] = [
            (b"", ""),
            (b"\0", "AA=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"\xfb\xff\xbf", "+/+/"),
            (b"\0alice\0secret", "AGFsaWNlAHNlY3JldA=="),
        ];
        for (octets, text) in cases {
            assert_eq!(encode(octets), text);
            assert_eq!(decode(text).as_deref(), Some(octets), "{text}");
        }
        assert_eq!(decode("a b"), None);
    }

    #[test]
    fn digests_are_those_of_the_rfcs() {
        // RFC 2195 section 2; RFC 2202 section 2, the sixth test, whose key is longer than a block.
        let challenge = b"<1896.697170952@postoffice.reston.mci.net>";
        assert_eq!(
            cram_md5(b"tanstaaftanstaaf", challenge),
            "b913a602c7eda7a495b4e6e7334d3890"
        );
        let long = cram_md5(
            &[0xaa; 80],
            b"Test Using Larger Than Block-Size Key - Hash Key First",
        );
        assert_eq!(long, "6b1ab7fe4bd7bf8f0b62e6ce61b9d0cd");
    }
}
