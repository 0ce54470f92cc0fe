//! What a client answers in AUTH (RFC 4954).

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;

use super::{ClientError, ClientReply};

/// The initial response of PLAIN (RFC 4616 section 2), in base64.
pub(super) fn plain(user: &str, password: &str) -> String {
    encode(&format!("\0{user}\0{password}"))
}

/// The response of CRAM-MD5 to that challenge (RFC 2195 section 2), in base64.
///
/// # Errors
///
/// Returns [`ClientError::Malformed`] if the challenge is not base64.
pub(super) fn cram_md5(
    user: &str,
    password: &str,
    challenge: &ClientReply,
) -> Result<String, ClientError> {
    let digest = STANDARD
        .decode(challenge.text())
        .ok()
        .and_then(|challenge| digest(password.as_bytes(), &challenge))
        .ok_or_else(|| ClientError::Malformed(challenge.to_string()))?;
    Ok(encode(&format!("{user} {digest}")))
}

/// A response in base64.
pub(super) fn encode(response: &str) -> String {
    STANDARD.encode(response)
}

/// RFC 2195 section 2: HMAC-MD5 of the challenge in hexadecimal.
fn digest(password: &[u8], challenge: &[u8]) -> Option<String> {
    let mut hmac = Hmac::<Md5>::new_from_slice(password).ok()?;
    hmac.update(challenge);
    let digest = hmac.finalize().into_bytes();
    Some(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_the_rfc() {
        // RFC 2195 section 2.
        let challenge = b"<1896.697170952@postoffice.reston.mci.net>";
        let digest = digest(b"tanstaaftanstaaf", challenge);
        assert_eq!(digest.as_deref(), Some("b913a602c7eda7a495b4e6e7334d3890"));
    }
}
