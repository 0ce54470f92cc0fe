//! The digest of CRAM-MD5, which a client sends and a stored password is compared with.

use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use subtle::ConstantTimeEq;

/// Bytes of an MD5 digest.
pub(super) const DIGEST_LEN: usize = 16;

/// Whether the digest is the one that the password makes of the challenge (RFC 2195 section 2).
pub(super) fn verify(password: &str, challenge: &[u8], digest: &[u8; DIGEST_LEN]) -> bool {
    let Ok(mut mac) = Hmac::<Md5>::new_from_slice(password.as_bytes()) else {
        return false;
    };
    mac.update(challenge);
    // An empty password never authenticates.
    !password.is_empty() && bool::from(mac.finalize().into_bytes().as_slice().ct_eq(digest))
}
