//! The private key in a PEM text.

use rustls_pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};

#[cfg(feature = "encrypted-keys")]
use super::encrypted::decrypt;
use super::{
    error::Problem,
    pem::{self, Section},
};

/// Reads the first private key; other sections (certificates, EC parameters) are skipped.
pub(super) fn read(
    pem: &[u8],
    passphrase: Option<&str>,
) -> Result<PrivateKeyDer<'static>, Problem> {
    for section in pem::sections(pem) {
        let section = section?;
        if section.label.ends_with("PRIVATE KEY") {
            return from_section(&section, passphrase);
        }
    }
    Err(Problem::NoKey)
}

fn from_section(
    section: &Section<'_>,
    passphrase: Option<&str>,
) -> Result<PrivateKeyDer<'static>, Problem> {
    let wrap: fn(Vec<u8>) -> PrivateKeyDer<'static> = match section.label {
        // RFC 7468 sections 10 and 11
        "PRIVATE KEY" | "ENCRYPTED PRIVATE KEY" => |der| PrivatePkcs8KeyDer::from(der).into(),
        "RSA PRIVATE KEY" => |der| PrivatePkcs1KeyDer::from(der).into(),
        // RFC 5915 section 4
        "EC PRIVATE KEY" => |der| PrivateSec1KeyDer::from(der).into(),
        other => return Err(Problem::KeyUnsupported(other.to_owned())),
    };
    let der = if is_encrypted(section) {
        decrypt(section, passphrase)?
    } else {
        section.decode()?
    };
    Ok(wrap(der))
}

fn is_encrypted(section: &Section<'_>) -> bool {
    section.label == "ENCRYPTED PRIVATE KEY"
        // RFC 1421 section 4.6.1.1
        || section.header("Proc-Type").is_some_and(|value| value.ends_with("ENCRYPTED"))
}

#[cfg(not(feature = "encrypted-keys"))]
fn decrypt(_: &Section<'_>, _: Option<&str>) -> Result<Vec<u8>, Problem> {
    Err(Problem::EncryptionDisabled)
}
