//! Where certificates and keys come from, so that they can be read again.

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

/// A certificate of the server with its chain and its key, and the names that it is shown for.
///
/// The certificate and its chain (the server's own first) and the key are PEM, from files or as text. The key is
/// PKCS#8, PKCS#1 or SEC1.
///
/// ```
/// use smtpd_tower::tls::ServerCertificate;
///
/// let mx = ServerCertificate::from_files("/etc/smtpd/mx.pem", "/etc/smtpd/mx-key.pem");
/// let guests = ServerCertificate::from_files("/etc/smtpd/guests.pem", "/etc/smtpd/guests-key.pem")
///     .names(["*.example.net", "mail.example.com"]);
/// ```
#[derive(Clone)]
pub struct ServerCertificate {
    pub(super) chain: Pem,
    pub(super) key: Pem,
    pub(super) passphrase: Option<Zeroizing<String>>,
    pub(super) names: Vec<String>,
}

impl ServerCertificate {
    /// From two files, which may be the same.
    pub fn from_files(chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self::new(Pem::File(chain.into()), Pem::File(key.into()))
    }

    /// From the text of them.
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

    /// The passphrase of the key, which is kept for reading it again. A key that is not encrypted is taken as it is.
    #[must_use]
    pub fn passphrase(mut self, passphrase: impl Into<String>) -> Self {
        self.passphrase = Some(Zeroizing::new(passphrase.into()));
        self
    }

    /// The names that it is shown for, in any case of letters, perhaps with `*` as the first label. By default those in
    /// the certificate.
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

/// What is asked of clients: a certificate that one of these authorities has signed.
///
/// It is optional unless it is [`required`](Self::required). Where it is optional, one that does not verify is as good
/// as none, and the session goes on without: many mail servers show a certificate to whoever asks, by an authority of
/// their own choice. So is one that cannot be read, such as one of X.509 version 1 or with an unknown critical extension,
/// and one with a key whose signatures cannot be verified, such as RSA with 1024 bits. A client that shows a certificate
/// with any other key has to prove that it has the key, or the handshake fails. A certificate that a session
/// [shows](crate::session::TlsInfo::peer_certificates) is a verified one.
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
    /// By the authorities whose certificates are in that file of PEM.
    pub fn from_file(authorities: impl Into<PathBuf>) -> Self {
        Self::new(Pem::File(authorities.into()))
    }

    /// By those in that text.
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

    /// Ends the handshake with a client that has none.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// Adds the lists of revoked certificates (CRLs, RFC 5280 section 5) that are in that file of PEM. It is read again
    /// with the others.
    ///
    /// Once there is a list, every certificate of a chain needs one, of the authority that signed it: a certificate that
    /// its list names, whose authority has no list, or whose list has expired, does not verify. This is how OpenSSL, and
    /// the servers that use it, do it. Otherwise an attacker who withholds a new list could use a revoked certificate.
    /// [`TlsConfig::warnings`](super::TlsConfig::warnings) has the authorities without a list and the lists that have
    /// expired: put a new list there before the old one expires.
    ///
    /// Of several lists by the same authority for the same certificates, the most recent one counts (section 5.2.3), wherever it
    /// stands. Authorities that share a name, as the old one and the new one do while an authority changes its key, each need a list
    /// that is signed with their own key.
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

/// PEM text, or the file it is in.
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

    /// The permissions of the file, where others than its owner have more than they should.
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

/// The most bytes that are read of a file. The largest ones are revocation lists.
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

/// Whether others than the owner of a private key have more permissions than they should. Its group may read it where root
/// owns it: that is how a system hands out keys, and PostgreSQL accepts it too.
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
    fn a_key_that_root_has_given_to_a_group_is_not_exposed() {
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
