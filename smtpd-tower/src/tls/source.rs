//! The sources of certificates and keys, so that they can be read again.

use std::{
    fmt, fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::{
    error::{Problem, TlsError},
    warning::{Oddity, TlsWarning},
};

/// A server certificate with its chain and its key, and the names for which it is used.
///
/// The certificate and its chain (the server's own first) and the key are PEM, from files or as text. The key is PKCS#8, PKCS#1
/// or SEC1.
///
/// ```
/// use smtpd_tower::tls::ServerCertificate;
///
/// let mx =
///     ServerCertificate::from_files("/etc/smtpd/mx.pem", "/etc/smtpd/mx-key.pem");
/// let guests = ServerCertificate::from_files(
///     "/etc/smtpd/guests.pem",
///     "/etc/smtpd/guests-key.pem",
/// )
/// .names(["*.example.net", "mail.example.com"]);
/// ```
#[derive(Clone)]
pub struct ServerCertificate {
    pub(super) chain: Pem,
    pub(super) key: Pem,
    pub(super) passphrase: Option<Zeroizing<String>>,
    pub(super) names: Vec<String>,
}

impl ServerCertificate {
    /// Reads from two files, which may be the same.
    pub fn from_files(chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self::new(Pem::File(chain.into()), Pem::File(key.into()))
    }

    /// Uses the text of these files.
    pub fn from_pem(chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        Self::new(Pem::text(chain), Pem::text(key))
    }

    fn new(chain: Pem, key: Pem) -> Self {
        Self {
            chain,
            key,
            passphrase: None,
            names: Vec::new(),
        }
    }

    /// Sets the passphrase of the key, which is kept for reading it again. A key that is not encrypted is accepted too.
    #[must_use]
    pub fn passphrase(mut self, passphrase: impl Into<String>) -> Self {
        self.passphrase = Some(Zeroizing::new(passphrase.into()));
        self
    }

    /// Sets the names for which it is used, regardless of case, possibly with `*` as the first label. Default: the names in the
    /// certificate.
    #[must_use]
    pub fn names<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.names = names.into_iter().map(Into::into).collect();
        self
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        [&self.chain, &self.key].into_iter().filter_map(Pem::path)
    }
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificate")
            .field("chain", &self.chain)
            .field("key", &self.key)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

/// The certificates to request from clients: those that one of these authorities has signed.
///
/// A certificate is optional unless it is [`required`](Self::required). If it is optional, one that does not verify is equivalent
/// to none, and the session continues without: many mail servers present a certificate of an arbitrary authority to anyone who
/// asks. The same holds for one that cannot be read, such as one of X.509 version 1 or with an unknown critical extension, and
/// one with a key whose signatures cannot be verified, such as RSA with 1024 bits. A client that presents a certificate with any
/// other key has to prove that it has the key, or the handshake fails. A certificate that a session
/// [returns](crate::session::TlsInfo::peer_certificates) is a verified one.
///
/// ```
/// use smtpd_tower::tls::ClientCertificates;
///
/// let optional = ClientCertificates::from_file("/etc/smtpd/clients-ca.pem");
/// let required = optional.clone().required();
/// ```
#[derive(Clone, Debug)]
pub struct ClientCertificates {
    pub(super) authorities: Pem,
    pub(super) required: bool,
    pub(super) revoked: Vec<Pem>,
}

impl ClientCertificates {
    /// Accepts the authorities whose certificates are in a PEM file.
    pub fn from_file(authorities: impl Into<PathBuf>) -> Self {
        Self::new(Pem::File(authorities.into()))
    }

    /// Accepts the authorities in a PEM text.
    pub fn from_pem(authorities: impl Into<Vec<u8>>) -> Self {
        Self::new(Pem::text(authorities))
    }

    const fn new(authorities: Pem) -> Self {
        Self {
            authorities,
            required: false,
            revoked: Vec::new(),
        }
    }

    /// Fails the handshake with clients that present no certificate.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// Adds the lists of revoked certificates (CRLs, RFC 5280 section 5) in a PEM file. It is read again with the other files.
    ///
    /// Once there is a list, every certificate of a chain needs one of the authority that signed it: a certificate that its list
    /// names, whose authority has no list, or whose list has expired, does not verify. OpenSSL and the servers that use it do the
    /// same. Otherwise an attacker who withholds a new list could use a revoked certificate.
    /// [`TlsConfig::warnings`](super::TlsConfig::warnings) reports the authorities without a list and the lists that have
    /// expired: install a new list before the old one expires.
    ///
    /// If an authority has several lists for the same certificates, the most recent one counts (section 5.2.3), wherever it is.
    /// Authorities that share a name, as during a change of keys, each need a list that is signed with their own key.
    #[must_use]
    pub fn crl_file(mut self, lists: impl Into<PathBuf>) -> Self {
        self.revoked.push(Pem::File(lists.into()));
        self
    }

    /// Like [`crl_file`](Self::crl_file), with the text of the file.
    #[must_use]
    pub fn crl_pem(mut self, lists: impl Into<Vec<u8>>) -> Self {
        self.revoked.push(Pem::text(lists));
        self
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let all = [&self.authorities].into_iter().chain(&self.revoked);
        all.filter_map(Pem::path)
    }
}

/// PEM text, or the path of its file.
#[derive(Clone)]
pub(super) enum Pem {
    File(PathBuf),
    Text(Zeroizing<Vec<u8>>),
}

impl Pem {
    pub(super) fn text(pem: impl Into<Vec<u8>>) -> Self {
        Self::Text(Zeroizing::new(pem.into()))
    }

    pub(super) fn read(&self) -> Result<Zeroizing<Vec<u8>>, TlsError> {
        match self {
            Self::File(path) => read(path).map_err(|error| self.blame(Problem::Io(error))),
            Self::Text(pem) => Ok(pem.clone()),
        }
    }

    /// Returns the permissions of the file if others than its owner have more than they should.
    #[cfg(unix)]
    pub(super) fn open_mode(&self) -> Option<u32> {
        use std::os::unix::fs::MetadataExt as _;

        let file = self.path()?.metadata().ok()?;
        let mode = file.mode() & 0o7777;
        is_exposed(mode, file.uid()).then_some(mode)
    }

    #[cfg(not(unix))]
    pub(super) fn open_mode(&self) -> Option<u32> {
        None
    }

    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Text(_) => None,
        }
    }

    pub(super) fn blame(&self, problem: Problem) -> TlsError {
        TlsError::new(problem, self.path())
    }

    pub(super) fn warn(&self, oddity: Oddity) -> TlsWarning {
        TlsWarning::new(oddity, self.path())
    }
}

/// The maximum number of bytes to read from a file. The largest ones are revocation lists.
const MAX_LEN: u64 = 64 << 20;

fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = fs::File::open(path)?;
    let len = file.metadata()?.len().min(MAX_LEN);
    // One byte more, so that the text is not moved, which would leave a copy of a key behind.
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(len).unwrap_or(0) + 1));
    file.take(MAX_LEN + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_LEN {
        let fault = format!("it has more than {} MiB", MAX_LEN >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, fault));
    }
    Ok(text)
}

/// Returns whether others than the owner of a private key have more permissions than they should. Its group may read it if root
/// owns it: that is how a system distributes keys, and PostgreSQL accepts it too.
#[cfg(unix)]
const fn is_exposed(mode: u32, owner: u32) -> bool {
    let forbidden = if owner == 0 { 0o037 } else { 0o077 };
    mode & forbidden != 0
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.fmt(f),
            Self::Text(_) => f.write_str("[redacted]"),
        }
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_root_that_a_group_may_read_is_not_exposed() {
        for (mode, owner, exposed) in [
            (0o640, 0, false),
            (0o600, 0, false),
            (0o660, 0, true),
            (0o650, 0, true),
            (0o644, 0, true),
            (0o640, 1000, true),
            (0o600, 1000, false),
            (0o604, 1000, true),
        ] {
            assert_eq!(is_exposed(mode, owner), exposed, "{mode:o} of {owner}");
        }
    }
}
