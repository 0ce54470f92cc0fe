use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::{ClientError, ClientReply};

/// The client's half of the nonce. No test needs it to be random.
const NONCE: &str = "fyko+d2lbbFgONRv9qkxdawL";

/// The client's channel binding header: none, in base64.
const NO_BINDING: &str = "biws";

/// SCRAM-SHA-256 (RFC 7677) without channel binding, from the client's side.
pub(super) struct Scram {
    /// The first message without its header.
    bare: String,
}

impl Scram {
    pub(super) fn new(user: &str) -> Self {
        // RFC 5802 section 5.1: "=" and "," in a name are escaped.
        let user = user.replace('=', "=3D").replace(',', "=2C");
        Self {
            bare: format!("n={user},r={NONCE}"),
        }
    }

    /// Returns the initial response, in base64.
    pub(super) fn first(&self) -> String {
        BASE64_STANDARD.encode(format!("n,,{}", self.bare))
    }

    /// Proves that the client knows the password.
    ///
    /// # Errors
    ///
    /// Returns [`ClientError::Malformed`] if the challenge is not one of SCRAM.
    pub(super) fn prove(
        &self,
        challenge: &ClientReply,
        password: &str,
    ) -> Result<Proof, ClientError> {
        text(challenge)
            .and_then(|challenge| Proof::new(&self.bare, &challenge, password.as_bytes()))
            .ok_or_else(|| ClientError::Malformed(challenge.to_string()))
    }
}

/// The text of a challenge.
fn text(reply: &ClientReply) -> Option<String> {
    String::from_utf8(BASE64_STANDARD.decode(reply.text()).ok()?).ok()
}

/// What client and server prove to each other (RFC 5802 section 3).
pub(super) struct Proof {
    /// The client's last message.
    last: String,
    /// The server's expected answer to it.
    expected: String,
}

impl Proof {
    /// Returns the client's last message, in base64.
    pub(super) fn response(&self) -> String {
        BASE64_STANDARD.encode(&self.last)
    }

    /// Checks that the server has proved that it knows the password.
    ///
    /// # Errors
    ///
    /// Returns [`ClientError::Malformed`] if it has not.
    pub(super) fn check(&self, challenge: &ClientReply) -> Result<(), ClientError> {
        if text(challenge).as_ref() == Some(&self.expected) {
            Ok(())
        } else {
            Err(ClientError::Malformed(challenge.to_string()))
        }
    }

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
