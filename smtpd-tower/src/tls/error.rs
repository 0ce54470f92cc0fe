//! Errors of certificates and keys.

use std::{error::Error, fmt, io, path::Path};

use rustls_pki_types::pem;
use tokio_rustls::rustls;

pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// An error of building a [`TlsConfig`](super::TlsConfig).
///
/// Its text names the file and what is wrong with it, as in `key.pem: the private key is encrypted and no passphrase was given`;
/// `source` has the rest. Neither contains the passphrase or a part of the key.
///
/// ```
/// use smtpd_tower::tls::TlsConfig;
///
/// let error = TlsConfig::from_pem_files("no/such/cert.pem", "no/such/key.pem")
///     .unwrap_err();
/// assert!(error.is_io());
/// assert_eq!(error.to_string(), "no/such/cert.pem: the file cannot be read");
/// ```
#[derive(Debug)]
pub struct TlsError {
    problem: Problem,
    path: Option<Box<Path>>,
}

impl TlsError {
    pub(super) fn new(problem: Problem, path: Option<&Path>) -> Self {
        Self {
            problem,
            path: path.map(Box::from),
        }
    }

    /// Returns the file at fault. `None` if the PEM did not come from a file.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Returns whether the file could not be read; `source` is the [`io::Error`].
    pub fn is_io(&self) -> bool {
        matches!(self.problem, Problem::Io(_))
    }

    /// Returns whether there is no certificate.
    pub fn is_certificate_missing(&self) -> bool {
        matches!(self.problem, Problem::NoCertificate)
    }

    /// Returns whether there is no private key.
    pub fn is_key_missing(&self) -> bool {
        matches!(self.problem, Problem::NoKey)
    }

    /// Returns whether the private key is encrypted and no passphrase was given.
    pub fn is_passphrase_missing(&self) -> bool {
        matches!(self.problem, Problem::PassphraseMissing)
    }

    /// Returns whether the passphrase does not decrypt the private key. A damaged key looks the same.
    pub fn is_passphrase_wrong(&self) -> bool {
        matches!(self.problem, Problem::PassphraseWrong)
    }

    /// Returns whether the private key does not belong to the certificate.
    pub fn is_key_mismatch(&self) -> bool {
        matches!(
            self.problem,
            Problem::KeyMismatch | Problem::KeyFitsAnother(_)
        )
    }

    /// Returns whether the kind, the size or the encryption of the private key is not supported.
    pub fn is_unsupported(&self) -> bool {
        matches!(
            self.problem,
            Problem::KeyUnsupported(_)
                | Problem::KeyKindUnsupported(_)
                | Problem::EncryptionUnsupported(_)
                | Problem::EncryptionDisabled
        )
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}: ", path.display())?;
        }
        self.problem.fmt(f)
    }
}

impl Error for TlsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.problem.source()
    }
}

#[derive(Debug)]
#[allow(
    dead_code,
    reason = "the feature `encrypted-keys` decides which of them can happen"
)]
pub(super) enum Problem {
    Io(io::Error),
    Unterminated,
    Base64(pem::Error),
    NoCertificate,
    /// Certificates and lists are counted from 1.
    CertificateDamaged(usize),
    CertificateUnusable(usize, rustls::Error),
    NoList,
    ListUnusable(usize, BoxError),
    ListsOfTooManyKeys,
    NoKey,
    KeyUnsupported(String),
    KeyKindUnsupported(String),
    KeyUnusable(BoxError),
    KeyMismatch,
    KeyFitsAnother(usize),
    NoName,
    NameInvalid(String),
    AuthoritiesUnusable(BoxError),
    PassphraseMissing,
    PassphraseWrong,
    EncryptionUnsupported(BoxError),
    EncryptionDisabled,
    Protocols,
    Setup(rustls::Error),
}

impl Problem {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Base64(error) => Some(error),
            Self::CertificateUnusable(_, error) | Self::Setup(error) => Some(error),
            Self::KeyUnusable(error)
            | Self::ListUnusable(_, error)
            | Self::AuthoritiesUnusable(error)
            | Self::EncryptionUnsupported(error) => Some(error.as_ref()),
            Self::Unterminated
            | Self::NoCertificate
            | Self::CertificateDamaged(_)
            | Self::NoList
            | Self::ListsOfTooManyKeys
            | Self::NoKey
            | Self::KeyUnsupported(_)
            | Self::KeyKindUnsupported(_)
            | Self::KeyMismatch
            | Self::KeyFitsAnother(_)
            | Self::NoName
            | Self::NameInvalid(_)
            | Self::PassphraseMissing
            | Self::PassphraseWrong
            | Self::EncryptionDisabled
            | Self::Protocols => None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Io(_) => "the file cannot be read",
            Self::Unterminated => "damaged PEM: a section does not end",
            Self::Base64(_) => "damaged PEM: a section is not base64",
            Self::NoCertificate => "no certificate found",
            Self::CertificateDamaged(n) => return write!(f, "certificate {n} is damaged"),
            Self::CertificateUnusable(n, _) => return write!(f, "certificate {n} cannot be used"),
            Self::NoList => "no revocation list found (in PEM, as a section `X509 CRL`)",
            Self::ListUnusable(n, _) => return write!(f, "revocation list {n} cannot be used"),
            Self::ListsOfTooManyKeys => {
                "too many revocation lists of authorities that share a name but not a key"
            }
            Self::NoKey => "no private key found",
            Self::KeyUnsupported(label) => {
                let label = label.escape_debug();
                return write!(f, "a key of the kind \"{label}\" is not supported");
            }
            Self::KeyKindUnsupported(kind) => return write!(f, "{kind} are not supported"),
            Self::KeyUnusable(_) => "the private key cannot be used",
            Self::KeyMismatch => "the key does not fit the certificate",
            Self::KeyFitsAnother(n) => {
                write!(f, "the key fits certificate {n}, ")?;
                "but the server's certificate must come first"
            }
            Self::NoName => "the certificate has no DNS name, and none was given",
            Self::NameInvalid(name) => {
                return write!(f, "\"{}\" is no name of a host", name.escape_debug());
            }
            Self::AuthoritiesUnusable(_) => "these authorities cannot be used",
            Self::PassphraseMissing => "the private key is encrypted and no passphrase was given",
            Self::PassphraseWrong => "wrong passphrase or damaged key",
            Self::EncryptionUnsupported(_) => UNSUPPORTED,
            Self::EncryptionDisabled => DISABLED,
            Self::Protocols => NO_PROTOCOLS,
            Self::Setup(_) => "TLS cannot be set up",
        };
        f.write_str(text)
    }
}

const UNSUPPORTED: &str = "the private key is encrypted in a way that is not supported \
    (`openssl pkcs8 -topk8 -v2 aes256` converts it)";
const DISABLED: &str = "the private key is encrypted, and smtpd-tower was built without its feature \
    `encrypted-keys`";
const NO_PROTOCOLS: &str = "ALPN needs at least one protocol, and names of 1 to 255 bytes";
