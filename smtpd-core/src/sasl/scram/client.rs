//! The client's side of SCRAM (RFC 5802 section 3).

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{
    super::{base64, prepare},
    ScramHash, ScramKeys,
};

/// The maximum number of iterations that a server may require, which take about a tenth of a second.
pub(in super::super) const MAX_ITERATIONS: u32 = 1_000_000;

/// One exchange. Each message is taken as the server sends it; `None` means that it must be cancelled.
pub(in super::super) struct ScramClient {
    hash: ScramHash,
    password: Zeroizing<String>,
    /// `gs2-header`, with its comma.
    header: String,
    /// The base64 of the header and the data of the channel.
    binding: String,
    nonce: String,
    bare: String,
    /// The signature that only a server that knows the password can make.
    signature: Option<Zeroizing<Vec<u8>>>,
}

impl ScramClient {
    /// Begins an exchange. `header` is the `gs2-header`, and `channel` the data of its binding. Returns `None` if the name or the
    /// password cannot be prepared.
    pub(in super::super) fn new(
        hash: ScramHash,
        (user, password): (&str, &str),
        (header, channel): (String, &[u8]),
        nonce: &[u8],
    ) -> Option<Self> {
        let user = prepare::prepare_name(user)?;
        let nonce = base64::encode(nonce);
        let name = user.replace('=', "=3D").replace(',', "=2C");
        Some(Self {
            hash,
            password: prepare::password(password)?,
            binding: base64::encode(&[header.as_bytes(), channel].concat()),
            bare: format!("n={name},r={nonce}"),
            header,
            nonce,
            signature: None,
        })
    }

    /// Returns the client-first-message.
    pub(in super::super) fn first(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(format!("{}{}", self.header, self.bare).into_bytes())
    }

    /// Returns the client-final-message, which answers the server-first-message.
    pub(in super::super) fn prove(&mut self, challenge: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let challenge = std::str::from_utf8(challenge).ok()?;
        let mut attributes = challenge.split(',');
        // RFC 5802 section 5.1: `m=` would come first, and an unknown extension of this kind ends the exchange.
        let nonce = attributes.next()?.strip_prefix("r=")?;
        let salt = attributes.next()?.strip_prefix("s=")?;
        let salt = base64::decode(salt.as_bytes()).ok()?;
        let iterations: u32 = attributes.next()?.strip_prefix("i=")?.parse().ok()?;
        let is_fresh = nonce.len() > self.nonce.len() && nonce.starts_with(&self.nonce);
        // RFC 7677 section 4: with fewer, whoever pretends to be the server could guess the password from the answer.
        let allowed = ScramKeys::MIN_ITERATIONS..=MAX_ITERATIONS;
        if !is_fresh || salt.is_empty() || !allowed.contains(&iterations) {
            return None;
        }
        let without_proof = format!("c={},r={nonce}", self.binding);
        let signed = format!("{},{challenge},{without_proof}", self.bare);
        let hash = self.hash;
        let salted = hash.salted(self.password.as_bytes(), &salt, iterations);
        let mut proof = hash.hmac(&salted, b"Client Key");
        let signature = hash.hmac(&hash.digest(&proof), signed.as_bytes());
        for (byte, mask) in proof.iter_mut().zip(signature.iter()) {
            *byte ^= mask;
        }
        let server_key = hash.hmac(&salted, b"Server Key");
        self.signature = Some(hash.hmac(&server_key, signed.as_bytes()));
        let message = format!("{without_proof},p={}", base64::encode(&proof));
        Some(Zeroizing::new(message.into_bytes()))
    }

    /// Returns whether the server-final-message proves that the server knows the password.
    pub(in super::super) fn verify(&mut self, message: &[u8]) -> bool {
        let sent = std::str::from_utf8(message).ok();
        let sent = sent.and_then(|message| message.split(',').next()?.strip_prefix("v="));
        let sent = sent.and_then(|signature| base64::decode(signature.as_bytes()).ok());
        match (self.signature.take(), sent) {
            (Some(signature), Some(sent)) => signature.ct_eq(&sent).into(),
            _ => false,
        }
    }
}

impl std::fmt::Debug for ScramClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScramClient")
            .field("hash", &self.hash)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677 section 3, whose nonces are not base64 of anything, so they are put in by hand.
    fn example() -> ScramClient {
        let credentials = ("user", "pencil");
        let mut client =
            ScramClient::new(ScramHash::Sha256, credentials, ("n,,".into(), b""), b"").unwrap();
        client.nonce = "rOprNGfwEbeRWgbNEkqO".into();
        client.bare = format!("n=user,r={}", client.nonce);
        client
    }

    const FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    #[test]
    fn the_exchange_of_rfc_7677() {
        let mut client = example();
        assert_eq!(&**client.first(), b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let proof = client.prove(FIRST.as_bytes()).unwrap();
        let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(std::str::from_utf8(&proof), Ok(expected));
        assert!(client.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        assert!(
            !client.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="),
            "only once"
        );
    }

    #[test]
    fn a_server_that_does_not_know_the_password_is_noticed() {
        for message in [
            "",
            "v=",
            "e=invalid-proof",
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=",
        ] {
            let mut client = example();
            assert!(client.prove(FIRST.as_bytes()).is_some());
            assert!(!client.verify(message.as_bytes()), "{message}");
        }
        assert!(!example().verify(b"v="), "nothing is proved");
    }

    #[test]
    fn challenges_that_would_betray_the_password_are_not_answered() {
        for challenge in [
            "",
            "m=x,r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=4096",
            "r=rOprNGfwEbeRWgbNEkqO,s=AAAA,i=4096",
            "r=other,s=AAAA,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=A,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=4095",
            "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=1000001",
            "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=99999999999",
            "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA",
        ] {
            assert_eq!(example().prove(challenge.as_bytes()), None, "{challenge}");
        }
        assert_eq!(example().prove(b"\xff"), None);
    }

    #[test]
    fn a_name_cannot_add_an_attribute() {
        let credentials = ("a,r=x=", "p");
        let client = ScramClient::new(ScramHash::Sha1, credentials, ("n,,".into(), b""), b"abc");
        assert_eq!(client.unwrap().bare, "n=a=2Cr=3Dx=3D,r=YWJj");
        let empty = ScramClient::new(ScramHash::Sha1, ("", "p"), ("n,,".into(), b""), b"abc");
        assert!(empty.is_none());
    }
}
