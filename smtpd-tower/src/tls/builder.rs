//! All that can be set.

use std::{io, path::Path, sync::Arc};

use tokio_rustls::rustls::{
    Error, ServerConfig,
    version::{TLS12, TLS13},
};

use super::{
    Origin, Snapshot, TlsConfig, TlsError,
    client::ClientVerifier,
    error::Problem,
    provider::Provider,
    sni::Certificates,
    source::{ClientCertificates, ServerCertificate},
    watch::Stamp,
};
use crate::session::TlsVersion;

/// Makes a [`TlsConfig`] of several certificates, with certificates of clients, and with whatever else can be set.
///
/// ```
/// use smtpd_tower::{TlsVersion, tls::{ServerCertificate, TlsBuilder}};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let made = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]);
/// # let pem = |made: rcgen::CertifiedKey<rcgen::KeyPair>| ServerCertificate::from_pem(made.cert.pem(), made.signing_key.serialize_pem());
/// # let (mx, guests) = (pem(made("mx.example.org")?), pem(made("mail.example.net")?));
/// let tls = TlsBuilder::new(mx)
///     .certificate(guests)
///     .min_version(TlsVersion::Tls13)
///     .build()?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct TlsBuilder {
    default: ServerCertificate,
    others: Vec<ServerCertificate>,
    provider: Provider,
    clients: Option<ClientCertificates>,
    min_version: TlsVersion,
    extended_master_secret: bool,
    pub(super) end_point_alone: bool,
    /// `None` if ALPN is ignored.
    alpn: Option<Vec<Vec<u8>>>,
    host: Option<String>,
}

impl TlsBuilder {
    /// With a certificate for clients that ask for its names, for those that ask for none, and for names that are not
    /// known.
    #[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]
    pub fn new(certificate: ServerCertificate) -> Self {
        Self::with_provider(certificate, Provider::default())
    }

    /// The same, with the cryptography of that provider.
    pub fn with_provider(certificate: ServerCertificate, provider: Provider) -> Self {
        Self {
            default: certificate,
            others: Vec::new(),
            provider,
            clients: None,
            min_version: TlsVersion::Tls12,
            extended_master_secret: false,
            end_point_alone: false,
            alpn: Some(vec![b"smtp".to_vec()]),
            host: None,
        }
    }

    /// Adds a certificate for clients that ask for its names (SNI, RFC 6066 section 3).
    ///
    /// A name is compared without regard to the case of letters, and whole; `*.example.org` stands for every name of one
    /// label more. Where several have it: one that was [given](ServerCertificate::names) goes before one in a
    /// certificate, the exact one before that with `*`, and the first before the next.
    #[must_use]
    pub fn certificate(mut self, certificate: ServerCertificate) -> Self {
        self.others.push(certificate);
        self
    }

    /// Asks clients for a certificate. By default they are asked for none.
    #[must_use]
    pub fn client_certificates(mut self, clients: ClientCertificates) -> Self {
        self.clients = Some(clients);
        self
    }

    /// The oldest version to speak: TLS 1.2 by default. Before that come only versions that RFC 8996 forbids.
    #[must_use]
    pub fn min_version(mut self, version: TlsVersion) -> Self {
        self.min_version = version;
        self
    }

    /// Whether TLS 1.2 is spoken only with clients that have the extended master secret (RFC 7627). `false` by default,
    /// for software from before 2016 has not.
    ///
    /// With it SCRAM can bind to `tls-exporter` over TLS 1.2 too (RFC 9266 section 4.2).
    #[must_use]
    pub fn require_extended_master_secret(mut self, required: bool) -> Self {
        self.extended_master_secret = required;
        self
    }

    /// Offers SCRAM's -PLUS forms even where they can bind only to the certificate (`tls-server-end-point`): over TLS 1.2
    /// without [`require_extended_master_secret`](Self::require_extended_master_secret). `false` by default.
    ///
    /// Most clients bind to `tls-unique` over TLS 1.2 (RFC 5802 section 6.1), which rustls does not show. Such a client fails as with
    /// a wrong password, although it could have used the form that does not bind. Turn it on if you know your clients.
    #[must_use]
    pub fn bind_to_certificate_alone(mut self, allowed: bool) -> Self {
        self.end_point_alone = allowed;
        self
    }

    /// Sets which protocols to speak with clients that name some by ALPN (RFC 7301), the preferred ones first. By default
    /// `smtp` alone.
    ///
    /// A client that offers only other protocols is rejected with the alert `no_application_protocol` (section 3.2): it is a
    /// browser, say, whose user is being attacked by way of a server that speaks another protocol than the browser thinks
    /// (<https://alpaca-attack.com>). A client that names none, as nearly all mail software does, is always welcome. No
    /// name is registered for SMTP; `smtp` is the one in use. Where the same configuration serves LMTP, clients may call
    /// that by a name of their own.
    ///
    /// [`build`](Self::build) returns an error where there is no name, or one that is not of 1 to 255 bytes (section 3.1);
    /// [`ignore_alpn`](Self::ignore_alpn) accepts clients whatever they name.
    #[must_use]
    pub fn alpn_protocols<N: Into<Vec<u8>>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.alpn = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Ignores the protocols that clients name by ALPN.
    #[must_use]
    pub fn ignore_alpn(mut self) -> Self {
        self.alpn = None;
        self
    }

    /// Sets the name by which clients know the server, so that there is a [warning](TlsConfig::warnings) where the
    /// certificate is not for it. It has no other effect.
    #[must_use]
    pub fn expect_host(mut self, name: impl Into<String>) -> Self {
        self.host = Some(name.into());
        self
    }

    /// Reads all of it. This blocks on the files: call it before the server starts, or from `spawn_blocking`.
    ///
    /// # Errors
    /// A [`TlsError`] that names the file and what is wrong with it.
    pub fn build(self) -> Result<TlsConfig, TlsError> {
        self.snapshot().map(TlsConfig::new)
    }

    pub(super) fn snapshot(self) -> Result<Snapshot, TlsError> {
        self.check_alpn()?;
        // Taken before the files are read: what changes in between is noticed later.
        let stamps = self.look();
        let (default, host, provider) = (&self.default, self.host.as_ref(), &self.provider);
        let certificates = Certificates::read(default, host, &self.others, provider)?;
        let certificates = Arc::new(certificates);
        let mut warnings = certificates.warnings.clone();
        let clients = match &self.clients {
            Some(clients) => {
                let (verifier, odd) = ClientVerifier::read(clients, provider)?;
                warnings.extend(odd);
                Some(verifier)
            }
            None => None,
        };
        let config = self
            .config(certificates.clone(), clients.as_ref())
            .map_err(|error| TlsError::new(Problem::Setup(error), None))?;
        Ok(Snapshot {
            config: Arc::new(config),
            origin: Some(Origin {
                certificates,
                clients,
                warnings,
                recipe: self,
                stamps,
            }),
        })
    }

    /// Without a name rustls would not look at what clients offer, and a long one it could not send.
    fn check_alpn(&self) -> Result<(), TlsError> {
        let is_good = |name: &Vec<u8>| (1..=255).contains(&name.len());
        match &self.alpn {
            Some(names) if names.is_empty() || !names.iter().all(is_good) => {
                Err(TlsError::new(Problem::Protocols, None))
            }
            _ => Ok(()),
        }
    }

    /// How the files are now.
    pub(super) fn look(&self) -> Vec<Stamp> {
        self.files().map(Stamp::of).collect()
    }

    /// Looks whether all files are regular ones. Whoever reads a pipe may wait for ever.
    pub(super) fn check_files(&self) -> Result<(), TlsError> {
        let is_other = |path: &&Path| path.metadata().is_ok_and(|file| !file.is_file());
        match self.files().find(is_other) {
            Some(path) => {
                let fault = "only a regular file is read again";
                let error = io::Error::new(io::ErrorKind::InvalidInput, fault);
                Err(TlsError::new(Problem::Io(error), Some(path)))
            }
            None => Ok(()),
        }
    }

    fn files(&self) -> impl Iterator<Item = &Path> {
        let certificates = [&self.default].into_iter().chain(&self.others);
        let of_clients = self.clients.iter().flat_map(ClientCertificates::files);
        certificates
            .flat_map(ServerCertificate::files)
            .chain(of_clients)
    }

    fn config(
        &self,
        certificates: Arc<Certificates>,
        clients: Option<&ClientVerifier>,
    ) -> Result<ServerConfig, Error> {
        let versions: &[_] = match self.min_version {
            TlsVersion::Tls12 => &[&TLS13, &TLS12],
            TlsVersion::Tls13 => &[&TLS13],
        };
        let builder = ServerConfig::builder_with_provider(self.provider.crypto().clone())
            .with_protocol_versions(versions)?;
        let builder = match clients {
            Some(clients) => builder.with_client_cert_verifier(clients.for_handshake()),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(certificates);
        config.ignore_client_order = true;
        config.alpn_protocols = self.alpn.clone().unwrap_or_default();
        config.require_ems |= self.extended_master_secret;
        // Made anew each time: a ticket from before a reload is worth nothing after it, and the client shows its
        // certificate again.
        config.ticketer = self.provider.tickets()?;
        Ok(config)
    }
}
