//! Builds a [`TlsConfig`] from several certificates and settings.

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

/// Builds a [`TlsConfig`] with several certificates, client certificates and all other settings.
///
/// ```
/// use smtpd_tower::{
///     session::TlsVersion,
///     tls::{ServerCertificate, TlsBuilder},
/// };
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
    /// Creates a builder with a default certificate: for clients that request its names, for those that request none, and for
    /// unknown names.
    #[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]
    pub fn new(certificate: ServerCertificate) -> Self {
        Self::with_provider(certificate, Provider::default())
    }

    /// Like [`new`](Self::new), with the cryptography of a provider.
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

    /// Adds a certificate for clients that request its names (SNI, RFC 6066 section 3).
    ///
    /// Names are compared as a whole and without case; `*.example.org` matches any name with exactly one more label. If several
    /// certificates match, one that was [given](ServerCertificate::names) the name takes precedence over one that contains it, an
    /// exact name over one with `*`, and the first certificate over the next.
    ///
    /// Several certificates can have the same name, such as one with an ECDSA key and one with an RSA key: a client receives the
    /// first one whose signatures it can verify (RFC 8446 section 4.2.3). Put ECDSA first, because it costs the server less. For
    /// clients that request no name, certificates with a name of the default one take part too.
    #[must_use]
    pub fn certificate(mut self, certificate: ServerCertificate) -> Self {
        self.others.push(certificate);
        self
    }

    /// Requests a certificate from clients. By default, none is requested.
    #[must_use]
    pub fn client_certificates(mut self, clients: ClientCertificates) -> Self {
        self.clients = Some(clients);
        self
    }

    /// Sets the oldest version to speak. Default: TLS 1.2. RFC 8996 forbids all older versions.
    #[must_use]
    pub fn min_version(mut self, version: TlsVersion) -> Self {
        self.min_version = version;
        self
    }

    /// Sets whether TLS 1.2 requires the extended master secret (RFC 7627) from clients. Default: `false`, because software from
    /// before 2016 does not support it.
    ///
    /// If required, SCRAM can bind to `tls-exporter` over TLS 1.2 too (RFC 9266 section 4.2).
    #[must_use]
    pub fn require_extended_master_secret(mut self, required: bool) -> Self {
        self.extended_master_secret = required;
        self
    }

    /// Sets whether to offer SCRAM's -PLUS forms even if they can bind only to the certificate (`tls-server-end-point`): over TLS
    /// 1.2 without [`require_extended_master_secret`](Self::require_extended_master_secret). Default: `false`.
    ///
    /// Most clients bind to `tls-unique` over TLS 1.2 (RFC 5802 section 6.1), which rustls does not expose. Such a client fails
    /// as with a wrong password, although the form without binding would have worked. Turn it on if you know your clients.
    #[must_use]
    pub fn bind_to_certificate_alone(mut self, allowed: bool) -> Self {
        self.end_point_alone = allowed;
        self
    }

    /// Sets which protocols to accept from clients that name some by ALPN (RFC 7301), the preferred ones first. Default: only
    /// `smtp`.
    ///
    /// A client that offers only other protocols is rejected with the alert `no_application_protocol` (section 3.2): it may be a
    /// browser whose user is attacked through a server that speaks another protocol than the browser assumes
    /// (<https://alpaca-attack.com>). A client that names none, like nearly all mail software, is always accepted. No name is
    /// registered for SMTP; `smtp` is the one in use. If the same configuration serves LMTP, clients may have another name for
    /// that.
    ///
    /// [`build`](Self::build) returns an error if there is no name, or one that is not 1 to 255 bytes long (section 3.1);
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

    /// Sets the name by which clients know the server. If the certificate is not for this name, there is a
    /// [warning](TlsConfig::warnings); it has no other effect.
    #[must_use]
    pub fn expect_host(mut self, name: impl Into<String>) -> Self {
        self.host = Some(name.into());
        self
    }

    /// Reads all files and builds the configuration. This blocks on the files: call it before the server starts, or from
    /// `spawn_blocking`.
    ///
    /// # Errors
    /// Returns a [`TlsError`] that names the file and what is wrong with it.
    pub fn build(self) -> Result<TlsConfig, TlsError> {
        self.snapshot().map(TlsConfig::new)
    }

    pub(super) fn snapshot(self) -> Result<Snapshot, TlsError> {
        self.check_alpn()?;
        // Taken before the files are read, so that changes in between are noticed later.
        let stamps = self.look();
        let (default, host, provider) = (&self.default, self.host.as_ref(), &self.provider);
        let certificates = Certificates::read(default, host, &self.others, provider)?;
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
            .config(Arc::new(certificates), clients.as_ref())
            .map_err(|error| TlsError::new(Problem::Setup(error), None))?;
        Ok(Snapshot {
            config: Arc::new(config),
            origin: Some(Origin {
                clients,
                warnings,
                recipe: self,
                stamps,
            }),
        })
    }

    /// Without a name, rustls would ignore what clients offer, and it could not send a long one.
    fn check_alpn(&self) -> Result<(), TlsError> {
        let is_good = |name: &Vec<u8>| (1..=255).contains(&name.len());
        match &self.alpn {
            Some(names) if names.is_empty() || !names.iter().all(is_good) => {
                Err(TlsError::new(Problem::Protocols, None))
            }
            _ => Ok(()),
        }
    }

    /// Returns the current state of the files.
    pub(super) fn look(&self) -> Vec<Stamp> {
        self.files().map(Stamp::of).collect()
    }

    /// Checks that all files are regular ones: reading a pipe may wait forever.
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
        // Created anew each time: a ticket from before a reload becomes worthless, so the client presents its certificate again.
        config.ticketer = self.provider.tickets()?;
        Ok(config)
    }
}
