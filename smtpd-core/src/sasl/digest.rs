//! The digest of CRAM-MD5, which a client sends and which is compared with a stored password.

use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use subtle::ConstantTimeEq;

/// The length of an MD5 digest in bytes.
pub(super) const DIGEST_LEN: usize = 16;

/// Returns whether the digest is that of the challenge with this password (RFC 2195 section 2).
pub(super) fn verify(password: &str, challenge: &[u8], digest: &[u8; DIGEST_LEN]) -> bool {
    let Some(mac) = keyed(password, challenge) else {
        return false;
    };
    // An empty password never authenticates.
    !password.is_empty() && bool::from(mac.finalize().into_bytes().as_slice().ct_eq(digest))
}

/// Returns the digest of the challenge with this password, in hexadecimal.
#[cfg(feature = "client")]
pub(super) fn hex(password: &str, challenge: &[u8]) -> Option<String> {
    let digest = keyed(password, challenge)?.finalize().into_bytes();
    Some(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn keyed(password: &str, challenge: &[u8]) -> Option<Hmac<Md5>> {
    let mut mac = Hmac::<Md5>::new_from_slice(password.as_bytes()).ok()?;
    mac.update(challenge);
    Some(mac)
}
