use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Client, ClientError, ClientReply};

/// The client's half of the nonce. No test needs it to be random.
const NONCE: &str = "fyko+d2lbbFgONRv9qkxdawL";

/// The client's channel binding header: none, in base64.
const NO_BINDING: &str = "biws";

impl<IO: AsyncRead + AsyncWrite + Unpin> Client<IO> {
    /// Sends AUTH SCRAM-SHA-256 (RFC 7677), without channel binding. Returns the last reply: 235, or a refusal. The user name and
    /// the password are used as they are, without SASLprep.
    ///
    /// # Errors
    ///
    /// Like [`command`](Self::command); [`ClientError::Malformed`] if a challenge is not one of SCRAM, or the server does not
    /// prove that it knows the password.
    pub async fn auth_scram_sha256(
        &mut self,
        user: &str,
        password: &str,
    ) -> Result<ClientReply, ClientError> {
        // RFC 5802 section 5.1: "=" and "," in a name are escaped.
        let user = user.replace('=', "=3D").replace(',', "=2C");
        let bare = format!("n={user},r={NONCE}");
        let first = BASE64_STANDARD.encode(format!("n,,{bare}"));
        let reply = self.command(&format!("AUTH SCRAM-SHA-256 {first}")).await?;
        if reply.code().as_u16() != 334 {
            return Ok(reply);
        }
        let malformed = |reply: &ClientReply| ClientError::Malformed(reply.to_string());
        let proof = challenge(&reply)
            .and_then(|challenge| Proof::new(&bare, &challenge, password.as_bytes()))
            .ok_or_else(|| malformed(&reply))?;
        let reply = self.command(&BASE64_STANDARD.encode(proof.last)).await?;
        if reply.code().as_u16() != 334 {
            return Ok(reply);
        }
        if challenge(&reply).as_ref() != Some(&proof.expected) {
            return Err(malformed(&reply));
        }
        self.command("").await
    }
}

fn challenge(reply: &ClientReply) -> Option<String> {
    String::from_utf8(BASE64_STANDARD.decode(reply.text()).ok()?).ok()
}

/// What client and server prove to each other (RFC 5802 section 3).
struct Proof {
    /// The client's last message.
    last: String,
    /// The server's expected answer to it.
    expected: String,
}

impl Proof {
    fn new(bare: &str, challenge: &str, password: &[u8]) -> Option<Self> {
        let field = |name: &str| challenge.split(',').find_map(|f| f.strip_prefix(name));
        let (nonce, salt) = (field("r=")?, BASE64_STANDARD.decode(field("s=")?).ok()?);
        nonce.starts_with(NONCE).then_some(())?;
        let salted = salted(password, &salt, field("i=")?.parse().ok()?)?;
        let unproved = format!("c={NO_BINDING},r={nonce}");
        let signed = format!("{bare},{challenge},{unproved}");
        let key = hmac(&salted, b"Client Key")?;
        let mut proof = hmac(&Sha256::digest(key), signed.as_bytes())?;
        proof
            .iter_mut()
            .zip(key)
            .for_each(|(byte, key)| *byte ^= key);
        let signature = hmac(&hmac(&salted, b"Server Key")?, signed.as_bytes())?;
        Some(Self {
            last: format!("{unproved},p={}", BASE64_STANDARD.encode(proof)),
            expected: format!("v={}", BASE64_STANDARD.encode(signature)),
        })
    }
}

/// PBKDF2 of one block (RFC 8018 section 5.2), unless the server asks for more rounds than a test may take.
fn salted(password: &[u8], salt: &[u8], rounds: u32) -> Option<[u8; 32]> {
    const MAX_ROUNDS: u32 = 1_000_000;
    (1..=MAX_ROUNDS).contains(&rounds).then_some(())?;
    let mut last = hmac(password, &[salt, &1_u32.to_be_bytes()].concat())?;
    let mut sum = last;
    for _ in 1..rounds {
        last = hmac(password, &last)?;
        sum.iter_mut()
            .zip(last)
            .for_each(|(sum, byte)| *sum ^= byte);
    }
    Some(sum)
}

fn hmac(key: &[u8], text: &[u8]) -> Option<[u8; 32]> {
    let mut hmac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    hmac.update(text);
    Some(hmac.finalize().into_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proof_is_that_of_the_rfc() {
        // RFC 7677 section 3, except the nonce.
        let salt = BASE64_STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let salted = salted(b"pencil", &salt, 4096).unwrap();
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let signed = format!(
            "n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={nonce}"
        );
        let signature = hmac(&hmac(&salted, b"Server Key").unwrap(), signed.as_bytes()).unwrap();
        assert_eq!(
            BASE64_STANDARD.encode(signature),
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
    }

    #[test]
    fn a_server_cannot_make_the_client_derive_for_hours() {
        for rounds in [0, 1_000_001, u32::MAX] {
            let challenge = format!("r={NONCE}x,s=AAAA,i={rounds}");
            assert!(
                Proof::new("n=a,r=x", &challenge, b"pencil").is_none(),
                "{rounds}"
            );
        }
    }

    #[test]
    fn a_challenge_of_another_exchange_is_none() {
        for challenge in [
            "",
            "r=other,s=AAAA,i=1",
            "r=fyko,s=AAAA,i=1",
            "r=fyko+d2lbbFgONRv9qkxdawL,i=1",
        ] {
            assert!(
                Proof::new("n=a,r=x", challenge, b"pencil").is_none(),
                "{challenge}"
            );
        }
    }
}
