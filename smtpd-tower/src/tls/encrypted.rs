//! Private keys that are encrypted with a passphrase.

use pkcs8::{
    EncryptedPrivateKeyInfoRef,
    der::{Decode, ErrorKind, Tag, Tagged, asn1::AnyRef},
    pkcs5::{self, EncryptionScheme, pbes2::Kdf},
};
use zeroize::Zeroizing;

use super::{error::Problem, legacy, pem::Section};

/// Returns the DER of the key in an encrypted section. The caller must zeroize it.
pub(super) fn decrypt(section: &Section<'_>, passphrase: Option<&str>) -> Result<Vec<u8>, Problem> {
    let passphrase = passphrase.ok_or(Problem::PassphraseMissing)?;
    let encrypted = section.decode()?;
    let mut key = if section.label == "ENCRYPTED PRIVATE KEY" {
        decrypt_pkcs8(&encrypted, passphrase)?
    } else {
        legacy::decrypt(section.header("DEK-Info"), encrypted, passphrase)?
    };
    // One wrong passphrase in 256 results in valid padding.
    if !is_private_key(&key) {
        return Err(Problem::PassphraseWrong);
    }
    Ok(std::mem::take(&mut *key))
}

/// `EncryptedPrivateKeyInfo` (RFC 5958 section 3).
fn decrypt_pkcs8(der: &[u8], passphrase: &str) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let info = EncryptedPrivateKeyInfoRef::try_from(der).map_err(not_parsed)?;
    check_cost(&info.encryption_algorithm)?;
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

/// RFC 8018 section 4.2 calls this count appropriate for especially critical keys: some seconds of CPU.
const MAX_ITERATIONS: u32 = if cfg!(fuzzing) { 1_000 } else { 10_000_000 };
/// The memory that scrypt may use, in bytes, and that memory times its parallelism.
const MAX_MEMORY: u64 = if cfg!(fuzzing) { 1 << 20 } else { 1 << 30 };
const MAX_WORK: u64 = 16 * MAX_MEMORY;

/// Refuses a key whose file requires hours of work, enough memory to abort the process, or parameters that make the decoder
/// panic.
fn check_cost(scheme: &EncryptionScheme) -> Result<(), Problem> {
    let is_bearable = match scheme.pbes2().map(|scheme| &scheme.kdf) {
        // RFC 8018 appendix A.2.
        Some(Kdf::Pbkdf2(kdf)) => (1..=MAX_ITERATIONS).contains(&kdf.iteration_count),
        // RFC 7914 section 2.
        Some(Kdf::Scrypt(kdf)) if kdf.cost_parameter < 2 => false,
        Some(Kdf::Scrypt(kdf)) => {
            let block = 128 * u64::from(kdf.block_size);
            let memory = block.saturating_mul(kdf.cost_parameter);
            memory <= MAX_MEMORY && memory.saturating_mul(kdf.parallelization.into()) <= MAX_WORK
        }
        _ => true,
    };
    if is_bearable {
        Ok(())
    } else {
        Err(Problem::EncryptionUnsupported(
            "the key derivation asks for nothing, or for too much work or memory".into(),
        ))
    }
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

/// Returns whether this is a key at all: PKCS#1 (RFC 8017 appendix A.1.2), SEC1 (RFC 5915 section 3) and PKCS#8 (RFC 5958 section
/// 2) are one SEQUENCE each, and begin with a version of 0 or 1.
fn is_private_key(der: &[u8]) -> bool {
    AnyRef::from_der(der).is_ok_and(|any| {
        any.tag() == Tag::Sequence && matches!(any.value(), [0x02, 0x01, 0x00 | 0x01, ..])
    })
}

#[cfg(test)]
mod tests {
    use pkcs8::{
        der::{Encode, asn1::OctetStringRef},
        pkcs5::pbes2::{self, Pbkdf2Params, Pbkdf2Prf, Salt, ScryptParams},
    };

    use super::*;

    fn encrypted(kdf: Kdf) -> Vec<u8> {
        let encryption = pbes2::EncryptionScheme::Aes128Cbc { iv: [0; 16] };
        let info = EncryptedPrivateKeyInfoRef {
            encryption_algorithm: EncryptionScheme::Pbes2(pbes2::Parameters { kdf, encryption }),
            encrypted_data: OctetStringRef::new(&[0; 16]).unwrap(),
        };
        info.to_der().unwrap()
    }

    #[test]
    fn a_key_cannot_ask_for_hours_for_all_memory_or_for_nothing() {
        let salt = || Salt::new([0; 8]).unwrap();
        let pbkdf2 = |iteration_count| {
            Kdf::Pbkdf2(Pbkdf2Params {
                salt: salt(),
                iteration_count,
                key_length: None,
                prf: Pbkdf2Prf::HmacWithSha256,
            })
        };
        let scrypt = |cost_parameter, block_size, parallelization| {
            Kdf::Scrypt(ScryptParams {
                salt: salt(),
                cost_parameter,
                block_size,
                parallelization,
                key_length: None,
            })
        };
        for (kdf, is_refused) in [
            (pbkdf2(0), true),
            (pbkdf2(1), false),
            (pbkdf2(MAX_ITERATIONS + 1), true),
            (pbkdf2(u32::MAX), true),
            (scrypt(0, 8, 1), true),
            (scrypt(1, 8, 1), true),
            (scrypt(3, 8, 1), true),
            (scrypt(16, 0, 1), true),
            (scrypt(16, 8, 1), false),
            (scrypt(1 << 20, 16, 1), true),
            (scrypt(1 << 40, 8, 1), true),
            (scrypt(1 << 63, u16::MAX, u16::MAX), true),
            (scrypt(1 << 10, 8, u16::MAX), true),
        ] {
            let shown = format!("{kdf:?}");
            let problem = decrypt_pkcs8(&encrypted(kdf), "secret").unwrap_err();
            let found = matches!(problem, Problem::EncryptionUnsupported(_));
            assert_eq!(found, is_refused, "{shown}: {problem:?}");
        }
    }
}
