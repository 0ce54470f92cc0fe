use super::{
    Credentials, ExchangeContext, Mechanism, MechanismFactory, MechanismName, SaslError, Step,
    credentials::text, digest::DIGEST_LEN,
};

/// CRAM-MD5 (RFC 2195): the client answers a challenge with a digest that is keyed with the password.
///
/// The password does not cross the network, but the server must store it in plaintext, and an eavesdropper can guess passwords
/// offline. With TLS, [`Plain`](super::Plain) is the better choice.
///
/// The challenge is random, so it is offered only if [`Config::entropy`](crate::Config::entropy) is set.
///
/// ```
/// use smtpd_core::sasl::{Mechanisms, CramMd5};
///
/// let mechanisms = Mechanisms::none().with(CramMd5);
/// assert!(mechanisms.find(b"cram-md5").is_some());
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct CramMd5;

impl MechanismFactory for CramMd5 {
    fn name(&self) -> MechanismName {
        const { MechanismName::from_static("CRAM-MD5") }
    }

    fn is_plaintext(&self) -> bool {
        false
    }

    fn start(&self, context: &ExchangeContext<'_>) -> Box<dyn Mechanism> {
        Box::new(CramMd5Exchange {
            challenge: challenge(context),
            challenged: false,
        })
    }
}

#[derive(Debug)]
struct CramMd5Exchange {
    challenge: Vec<u8>,
    challenged: bool,
}

impl Mechanism for CramMd5Exchange {
    fn step(&mut self, response: Option<&[u8]>) -> Result<Step, SaslError> {
        match response {
            None => {
                self.challenged = true;
                Ok(Step::Challenge(self.challenge.clone()))
            }
            // RFC 4954 section 4: the server speaks first here, so an initial response is rejected.
            Some(_) if !self.challenged => Err(SaslError::UnexpectedInitial),
            Some(response) => Ok(Step::Ask(parse(text(response)?, &self.challenge)?)),
        }
    }
}

/// RFC 2195 section 2: the challenge has the form of a msg-id. It contains the whole nonce, and no time.
fn challenge(context: &ExchangeContext<'_>) -> Vec<u8> {
    let random: String = context
        .nonce()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("<{random}@{}>", context.hostname()).into_bytes()
}

/// RFC 2195 section 2: the user name, a space and the digest in hexadecimal. The user name may contain spaces.
fn parse(response: &str, challenge: &[u8]) -> Result<Credentials, SaslError> {
    let (username, digest) = response.rsplit_once(' ').ok_or(SaslError::Malformed)?;
    let digest = parse_digest(digest.as_bytes()).ok_or(SaslError::Malformed)?;
    Credentials::cram_md5(username, challenge, digest)
}

/// Also accepts upper-case digits, which are unambiguous.
fn parse_digest(hex: &[u8]) -> Option<[u8; DIGEST_LEN]> {
    let (pairs, []) = hex.as_chunks::<2>() else {
        return None;
    };
    let bytes: Option<Vec<u8>> = pairs
        .iter()
        .map(|&[high, low]| Some(hex_digit(high)? << 4 | hex_digit(low)?))
        .collect();
    bytes?.try_into().ok()
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| value.try_into().ok())
}

#[cfg(test)]
mod tests {
    use hmac::{Hmac, KeyInit, Mac};
    use md5::Md5;

    use super::{super::Secret, *};

    /// RFC 2195 section 2, the example.
    const CHALLENGE: &[u8] = b"<1896.697170952@postoffice.reston.mci.net>";

    #[test]
    fn the_example_of_rfc_2195() {
        let mut exchange = CramMd5Exchange {
            challenge: CHALLENGE.to_vec(),
            challenged: false,
        };
        let Ok(Step::Challenge(challenge)) = exchange.step(None) else {
            panic!()
        };
        assert_eq!(challenge, CHALLENGE);
        let Ok(Step::Ask(credentials)) =
            exchange.step(Some(b"tim b913a602c7eda7a495b4e6e7334d3890"))
        else {
            panic!()
        };
        assert_eq!(credentials.username(), "tim");
        assert_eq!(credentials.password(), None);
        let secret = Secret::password("tanstaaftanstaaf");
        assert!(
            matches!(exchange.secret(&credentials, &secret), Ok(Step::Done(name)) if name.as_str() == "tim")
        );
    }

    #[test]
    fn digests() {
        let cases = [
            ("tim b913a602c7eda7a495b4e6e7334d3890", Ok(true)),
            ("tim B913A602C7EDA7A495B4E6E7334D3890", Ok(true)),
            ("tim t. b913a602c7eda7a495b4e6e7334d3890", Ok(true)),
            ("tim b913a602c7eda7a495b4e6e7334d3891", Ok(false)),
            ("tim 0913a602c7eda7a495b4e6e7334d3890", Ok(false)),
            (" b913a602c7eda7a495b4e6e7334d3890", Err(SaslError::Empty)),
            (
                "timb913a602c7eda7a495b4e6e7334d3890",
                Err(SaslError::Malformed),
            ),
            ("", Err(SaslError::Malformed)),
            ("tim", Err(SaslError::Malformed)),
            ("tim ", Err(SaslError::Malformed)),
            (
                "tim b913a602c7eda7a495b4e6e7334d3890 ",
                Err(SaslError::Malformed),
            ),
            (
                "tim b913a602c7eda7a495b4e6e7334d389",
                Err(SaslError::Malformed),
            ),
            (
                "tim b913a602c7eda7a495b4e6e7334d38901",
                Err(SaslError::Malformed),
            ),
            (
                "tim b913a602c7eda7a495b4e6e7334d389000",
                Err(SaslError::Malformed),
            ),
            (
                "tim g913a602c7eda7a495b4e6e7334d3890",
                Err(SaslError::Malformed),
            ),
            (
                "t\nim b913a602c7eda7a495b4e6e7334d3890",
                Err(SaslError::Malformed),
            ),
        ];
        let secret = Secret::password("tanstaaftanstaaf");
        for (response, want) in cases {
            let judged = parse(response, CHALLENGE).map(|credentials| credentials.verify(&secret));
            assert_eq!(judged, want, "{response:?}");
        }
    }

    /// Some clients prepare a password with SASLprep, others hash it as it was typed.
    #[test]
    fn a_password_that_is_stored_in_another_form_is_the_same() {
        for (sent, stored, fits) in [
            ("s\u{e9}cret", "s\u{e9}cret", true),
            ("se\u{301}cret", "se\u{301}cret", true),
            ("s\u{e9}cret", "se\u{301}cret", true),
            ("\u{1f600}", "\u{1f600}", true),
            ("secret", "s\u{e9}cret", false),
            // A digest cannot be prepared.
            ("se\u{301}cret", "s\u{e9}cret", false),
        ] {
            let mut mac = Hmac::<Md5>::new_from_slice(sent.as_bytes()).unwrap();
            mac.update(CHALLENGE);
            let digest = mac.finalize().into_bytes().into();
            let credentials = Credentials::cram_md5("tim", CHALLENGE, digest).unwrap();
            let verified = credentials.verify(&Secret::password(stored));
            assert_eq!(verified, fits, "{sent:?} for {stored:?}");
        }
    }

    #[test]
    fn another_challenge_or_secret_does_not_verify() {
        let response = "tim b913a602c7eda7a495b4e6e7334d3890";
        let replayed = parse(response, b"<1896.697170953@postoffice.reston.mci.net>").unwrap();
        assert!(!replayed.verify(&Secret::password("tanstaaftanstaaf")));
        assert!(
            !parse(response, CHALLENGE)
                .unwrap()
                .verify(&Secret::password("tanstaaftanstaa"))
        );
    }

    #[test]
    fn an_empty_password_never_authenticates() {
        let mut mac = Hmac::<Md5>::new_from_slice(b"").unwrap();
        mac.update(CHALLENGE);
        let digest = mac.finalize().into_bytes().into();
        assert!(
            !Credentials::cram_md5("tim", CHALLENGE, digest)
                .unwrap()
                .verify(&Secret::password(""))
        );
    }
}
