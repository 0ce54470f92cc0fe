use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::error::{Problem, WebhookError};

/// How old or how far in the future a request may be, as the libraries of Standard Webhooks have it.
const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// A key that a [`Webhook`](super::Webhook) signs its requests with, as [Standard
/// Webhooks](https://www.standardwebhooks.com) specifies: HMAC-SHA256 of `id.timestamp.body`.
///
/// Its text form is `whsec_` and the base64 of 24 to 64 random bytes. The service verifies the signature with one of the
/// libraries for Standard Webhooks, or with [`verify`](Self::verify):
///
/// ```
/// use std::time::{Duration, UNIX_EPOCH};
/// use smtpd_tower::deliver::WebhookSecret;
///
/// let secret: WebhookSecret =
///     "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse()?;
/// let (id, timestamp, body) =
///     ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", r#"{"test": 2432232314}"#);
/// let signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
///
/// let now = UNIX_EPOCH + Duration::from_secs(1614265340);
/// assert!(secret.verify(id, timestamp, body.as_bytes(), signature, now));
/// assert!(!secret.verify(id, timestamp, b"{}", signature, now));
/// # Ok::<(), smtpd_tower::deliver::WebhookError>(())
/// ```
#[derive(Clone)]
pub struct WebhookSecret(Zeroizing<Vec<u8>>);

impl WebhookSecret {
    /// Returns whether a request was signed with this key, and not more than five minutes before or after `now`.
    ///
    /// The arguments are the fields `webhook-id` and `webhook-timestamp`, the body as it was received, and the field
    /// `webhook-signature`, which may have several signatures. They are compared in constant time.
    pub fn verify(
        &self,
        id: &str,
        timestamp: &str,
        body: &[u8],
        signatures: &str,
        now: SystemTime,
    ) -> bool {
        let Ok(seconds) = timestamp.parse::<u64>() else {
            return false;
        };
        let Some(sent) = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)) else {
            return false;
        };
        let apart = now
            .duration_since(sent)
            .unwrap_or_else(|error| error.duration());
        let mut ours = signatures
            .split(' ')
            .filter_map(|text| text.strip_prefix("v1,"));
        apart <= TOLERANCE
            && ours.any(|text| {
                let signature = STANDARD.decode(text).unwrap_or_default();
                let mac = self.mac(id, timestamp, body);
                mac.is_some_and(|mac| mac.verify_slice(&signature).is_ok())
            })
    }

    /// Returns the signature as the field has it.
    pub(super) fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> Option<String> {
        let mac = self.mac(id, timestamp, body)?.finalize().into_bytes();
        Some(format!("v1,{}", STANDARD.encode(mac)))
    }

    fn mac(&self, id: &str, timestamp: &str, body: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::new_from_slice(&self.0).ok()?;
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        Some(mac)
    }
}

impl FromStr for WebhookSecret {
    type Err = WebhookError;

    fn from_str(text: &str) -> Result<Self, WebhookError> {
        let text = text.strip_prefix("whsec_").unwrap_or(text);
        let key = STANDARD.decode(text).ok().map(Zeroizing::new);
        let key = key.filter(|key| (24..=64).contains(&key.len()));
        key.map(Self).ok_or(WebhookError::new(Problem::Secret))
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn a_signature_fits_one_request_for_ten_minutes() {
        let secret: WebhookSecret = TEXT.parse().unwrap();
        let other: WebhookSecret = format!("whsec_{}", STANDARD.encode([7; 32]))
            .parse()
            .unwrap();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let signature = secret.sign("id", "1000", b"body").unwrap();
        let both = format!(
            "v1a,x {} {signature}",
            other.sign("id", "1000", b"body").unwrap()
        );
        for signatures in [&signature, &both] {
            for now in [700, 1000, 1300] {
                assert!(secret.verify("id", "1000", b"body", signatures, at(now)));
            }
            for (id, timestamp, body, now) in [
                ("id", "1000", &b"body"[..], 1301),
                ("id", "1000", b"body", 699),
                ("i", "1000", b"body", 1000),
                ("id", "1001", b"body", 1000),
                ("id", "1000", b"bod", 1000),
                ("id", "x", b"body", 1000),
                ("id", "18446744073709551615", b"body", 1000),
            ] {
                assert!(!secret.verify(id, timestamp, body, signatures, at(now)));
            }
        }
        assert!(!other.verify("id", "1000", b"body", &signature, at(1000)));
        for signatures in ["", "v1,", "v1", "v1,AAAA", "v2,g0hM", " "] {
            assert!(!secret.verify("id", "1000", b"body", signatures, at(1000)));
        }
    }

    #[test]
    fn a_secret_is_long_enough_and_never_shown() {
        for text in [
            "",
            "whsec_",
            "whsec_AAAA",
            "whsec_?",
            &STANDARD.encode([1; 23]),
            &STANDARD.encode([1; 65]),
        ] {
            assert!(text.parse::<WebhookSecret>().is_err(), "{text}");
        }
        let secret: WebhookSecret = TEXT.parse().unwrap();
        assert_eq!(format!("{secret:?}"), "WebhookSecret(..)");
    }
}
