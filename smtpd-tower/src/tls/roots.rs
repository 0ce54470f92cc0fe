use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::{
    error::{Problem, TlsError},
    pem,
    provider::Provider,
    source::Pem,
};

/// Where systems keep the certificates of the authorities that they trust.
const OF_SYSTEMS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/share/certs/ca-root-nss.crt",
];

/// The authorities that sign the certificates of servers to which this one connects.
///
/// ```no_run
/// use smtpd_tower::tls::Roots;
///
/// let everybody = Roots::system()?;
/// let only_ours = Roots::from_file("/etc/smtpd/ca.pem")?;
/// # Ok::<(), smtpd_tower::tls::TlsError>(())
/// ```
#[derive(Clone)]
pub struct Roots {
    store: Arc<RootCertStore>,
    provider: Option<Provider>,
}

impl Roots {
    /// Reads the authorities that the system trusts, from the file that the variable `SSL_CERT_FILE` names, or else from the
    /// first that exists of those where systems on Unix keep them, such as `/etc/ssl/certs/ca-certificates.crt`. Certificates
    /// that cannot be used are ignored.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such file, or no certificate in it.
    pub fn system() -> Result<Self, TlsError> {
        let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
        Self::of_system(named, &OF_SYSTEMS)
    }

    fn of_system(named: Option<PathBuf>, known: &[&str]) -> Result<Self, TlsError> {
        let mut paths = known.iter().map(PathBuf::from);
        let first = paths.clone().next().unwrap_or_default();
        let path = named.or_else(|| paths.find(|path| path.exists()));
        let source = Pem::File(path.unwrap_or(first));
        let certificates = pem::certificates(&source.read()?);
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(certificates.map_err(|problem| source.blame(problem))?);
        Ok(Self::of(store))
    }

    /// Reads authorities from a PEM file.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read, has no certificate, or one that cannot be used.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, TlsError> {
        Self::read(&Pem::File(path.as_ref().to_owned()))
    }

    /// Reads authorities from PEM text.
    ///
    /// # Errors
    ///
    /// Returns an error if it has no certificate, or one that cannot be used.
    pub fn from_pem(pem: impl Into<Vec<u8>>) -> Result<Self, TlsError> {
        Self::read(&Pem::text(pem))
    }

    /// Sets the cryptography. Default: that of [`Provider::default`]; with the feature `tls` alone, there is none.
    #[must_use]
    pub fn with_provider(mut self, provider: Provider) -> Self {
        self.provider = Some(provider);
        self
    }

    fn of(store: RootCertStore) -> Self {
        Self {
            store: Arc::new(store),
            provider: None,
        }
    }

    fn read(source: &Pem) -> Result<Self, TlsError> {
        let blame = |problem| source.blame(problem);
        let certificates = pem::certificates(&source.read()?).map_err(blame)?;
        let mut store = RootCertStore::empty();
        for (n, certificate) in (1..).zip(certificates) {
            let added = store.add(certificate);
            added.map_err(|error| blame(Problem::CertificateUnusable(n, error)))?;
        }
        Ok(Self::of(store))
    }

    /// Returns the settings of a client that verifies servers with these.
    pub(crate) fn client_config(&self) -> Result<ClientConfig, TlsError> {
        use tokio_rustls::rustls::Error;

        let setup = |error| TlsError::new(Problem::Setup(error), None);
        #[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]
        let provider = Some(self.provider.clone().unwrap_or_default());
        #[cfg(not(any(feature = "tls-ring", feature = "tls-aws-lc")))]
        let provider = self.provider.clone();
        let provider = provider.ok_or_else(|| setup(Error::General("no provider".to_owned())))?;
        Ok(
            ClientConfig::builder_with_provider(provider.crypto().clone())
                .with_safe_default_protocol_versions()
                .map_err(setup)?
                .with_root_certificates(self.store.clone())
                .with_no_client_auth(),
        )
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roots")
            .field("certificates", &self.store.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn certificate() -> String {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
        made.unwrap().cert.pem()
    }

    #[test]
    fn the_first_file_that_exists_is_that_of_the_system_unless_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (none, two, one) = (path("none"), path("two"), path("one"));
        let unusable = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        fs::write(&two, certificate() + unusable + &certificate()).unwrap();
        fs::write(&one, certificate()).unwrap();
        let found = |named: Option<&String>, known: &[&str]| {
            Roots::of_system(named.map(PathBuf::from), known).map(|roots| roots.store.len())
        };
        assert_eq!(found(None, &[&none, &two, &one]).unwrap(), 2);
        assert_eq!(found(Some(&one), &[&two]).unwrap(), 1);
        for named in [None, Some(&none)] {
            let error = found(named, &[&none]).unwrap_err();
            assert_eq!(error.path().unwrap(), Path::new(&none));
        }
    }

    #[test]
    fn one_of_your_own_that_cannot_be_used_is_an_error() {
        let unusable = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(Roots::from_pem(certificate() + unusable).is_err());
        assert!(Roots::from_pem("no certificate").is_err());
        assert!(Roots::from_file("/no/such/file").is_err());
        assert_eq!(Roots::from_pem(certificate()).unwrap().store.len(), 1);
    }
}
