//! Private keys under a passphrase.

use pkcs8::{
    EncryptedPrivateKeyInfoRef,
    der::{Decode, ErrorKind, Tag, Tagged, asn1::AnyRef},
    pkcs5,
};
use zeroize::Zeroizing;

use super::{error::Problem, legacy, pem::Section};

/// The DER of the key in an encrypted section. The caller owns it, and has it zeroized.
pub(super) fn decrypt(section: &Section<'_>, passphrase: Option<&str>) -> Result<Vec<u8>, Problem> {
    let passphrase = passphrase.ok_or(Problem::PassphraseMissing)?;
    let encrypted = section.decode()?;
    let mut key = if section.label == "ENCRYPTED PRIVATE KEY" {
        decrypt_pkcs8(&encrypted, passphrase)?
    } else {
        legacy::decrypt(section.header("DEK-Info"), encrypted, passphrase)?
    };
    // One wrong passphrase in 256 leaves a padding that looks right.
    if !is_private_key(&key) {
        return Err(Problem::PassphraseWrong);
    }
    Ok(std::mem::take(&mut *key))
}

/// `EncryptedPrivateKeyInfo` (RFC 5958 section 3).
fn decrypt_pkcs8(der: &[u8], passphrase: &str) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let info = EncryptedPrivateKeyInfoRef::try_from(der).map_err(not_parsed)?;
    let mut key = Zeroizing::new(info.encrypted_data.as_bytes().to_vec());
    let len = match info
        .encryption_algorithm
        .decrypt_in_place(passphrase, &mut key)
    {
        Ok(plain) => plain.len(),
        Err(pkcs5::Error::DecryptFailed) => return Err(Problem::PassphraseWrong),
        Err(error) => return Err(Problem::EncryptionUnsupported(error.into())),
    };
    key.truncate(len);
    Ok(key)
}

fn not_parsed(error: pkcs8::Error) -> Problem {
    let unknown_algorithm = match &error {
        pkcs8::Error::Asn1(asn1) => matches!(
            asn1.kind(),
            ErrorKind::OidUnknown { .. }
                | ErrorKind::Value {
                    tag: Tag::ObjectIdentifier
                }
        ),
        _ => false,
    };
    if unknown_algorithm {
        Problem::EncryptionUnsupported(error.into())
    } else {
        Problem::KeyUnusable(error.into())
    }
}

/// Whether this is a key at all: PKCS#1 (RFC 8017 appendix A.1.2), SEC1 (RFC 5915 section 3) and
/// PKCS#8 (RFC 5958 section 2) are one SEQUENCE each, and begin with a version of 0 or 1.
fn is_private_key(der: &[u8]) -> bool {
    AnyRef::from_der(der).is_ok_and(|any| {
        any.tag() == Tag::Sequence && matches!(any.value(), [0x02, 0x01, 0x00 | 0x01, ..])
    })
}
