//! What is odd about certificates and keys that work.

use std::{fmt, path::Path};

use super::parts::Time;

/// Something in the files of a [`TlsConfig`](super::TlsConfig) that is likely a mistake, though TLS works with it.
///
/// Its text says which file and what is odd, as in `cert.pem: certificate 1 has expired on 2026-01-31`. See
/// [`TlsConfig::warnings`](super::TlsConfig::warnings).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsWarning {
    oddity: Oddity,
    path: Option<Box<Path>>,
}

impl TlsWarning {
    pub(super) fn new(oddity: Oddity, path: Option<&Path>) -> Self {
        Self {
            oddity,
            path: path.map(Box::from),
        }
    }

    /// The file that it is about; `None` if the PEM did not come from a file.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Returns whether a certificate or a revocation list has expired, or is not valid yet.
    pub fn is_out_of_date(&self) -> bool {
        matches!(
            self.oddity,
            Oddity::Expired(..) | Oddity::NotYetValid(..) | Oddity::ListExpired(..)
        )
    }

    /// Returns whether others than its owner may read or write the file of a private key.
    pub fn is_key_exposed(&self) -> bool {
        matches!(self.oddity, Oddity::KeyExposed(_))
    }
}

impl fmt::Display for TlsWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}: ", path.display())?;
        }
        self.oddity.fmt(f)
    }
}

/// Certificates and lists are counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Oddity {
    Expired(usize, Time),
    NotYetValid(usize, Time),
    Twice(usize),
    Unrelated(usize),
    NoAlternativeName,
    NotFor(String),
    KeyExposed(u32),
    ListExpired(usize, Time),
    NoList(String),
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired(n, day) => write!(f, "certificate {n} has expired on {day}"),
            Self::NotYetValid(n, day) => write!(f, "certificate {n} is not valid before {day}"),
            Self::Twice(n) => write!(f, "certificate {n} is there twice"),
            Self::Unrelated(n) => write!(f, "certificate {n} is not part of the chain"),
            Self::NoAlternativeName => f.write_str(
                "the certificate has no subject alternative name, and no client that verifies it accepts that",
            ),
            Self::NotFor(host) => write!(f, "the certificate is not for {host}"),
            Self::KeyExposed(mode) => write!(
                f,
                "the private key is open to others than its owner (mode {mode:04o})"
            ),
            Self::ListExpired(n, day) => write!(
                f,
                "revocation list {n} has expired on {day}: no certificate of its authority is accepted until there is a new one"
            ),
            Self::NoList(authority) => write!(
                f,
                "no revocation list of the authority {authority}: none of its certificates is accepted"
            ),
        }
    }
}
