//! SCRAM-SHA-256 for both ends (RFC 5802, RFC 7677), with one iteration.

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use smtpd_tower::{
    Secret,
    sasl::{ScramHash, ScramKeys},
};

const SALT: &[u8] = b"a pinch of it";
const PASSWORD: &[u8] = b"right";

/// What the service stores for every user.
static SECRET: LazyLock<Secret> = LazyLock::new(|| {
    let salted = salted(PASSWORD);
    let stored = Sha256::digest(hmac(&salted, b"Client Key"));
    let server = hmac(&salted, b"Server Key");
    let keys = ScramKeys::from_parts(ScramHash::Sha256, SALT, 1, &stored, &server);
    Secret::scram(keys.unwrap())
});

pub fn secret() -> Secret {
    SECRET.clone()
}

/// The first message of a client.
#[derive(Clone, Debug)]
pub struct Opening {
    /// The header, with the commas at its end.
    pub header: &'static str,
    pub user: String,
    /// What the header binds to.
    pub bound: Vec<u8>,
}

impl Opening {
    /// The first message, in base64.
    pub fn message(&self) -> String {
        STANDARD.encode(format!("{}{}", self.header, self.bare()))
    }

    fn bare(&self) -> String {
        format!("n={},r=fyko+d2lbbFgONRv", self.user)
    }

    /// The response to a challenge, in base64. Its proof is right if the password is.
    pub fn proof(&self, challenge: &str, right: bool) -> String {
        let challenge = STANDARD.decode(challenge).unwrap_or_default();
        let challenge = String::from_utf8(challenge).unwrap_or_default();
        let nonce = challenge.split(',').next().unwrap_or_default();
        let bound = STANDARD.encode([self.header.as_bytes(), &self.bound].concat());
        let last = format!("c={bound},{nonce}");
        let salted = salted(if right { PASSWORD } else { b"wrong" });
        let key = hmac(&salted, b"Client Key");
        let said = format!("{},{challenge},{last}", self.bare());
        let signature = hmac(&Sha256::digest(&key), said.as_bytes());
        let proof: Vec<u8> = key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
        STANDARD.encode(format!("{last},p={}", STANDARD.encode(proof)))
    }
}

fn salted(password: &[u8]) -> Vec<u8> {
    hmac(password, &[SALT, &1_u32.to_be_bytes()].concat())
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}
