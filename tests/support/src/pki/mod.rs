//! Certificates, and clients that trust some, have some, or trust anybody.

mod anybody;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams,
    CertifiedIssuer, DnType, IsCa, KeyIdMethod, KeyPair, RevokedCertParams, SanType, SerialNumber,
    SigningKey, date_time_ymd,
};
use smtpd_tower::{
    Server,
    tls::{ServerCertificate, TlsConfig},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, ClientConfig, ConfigBuilder, RootCertStore, ServerConfig, SignatureScheme,
        SupportedProtocolVersion,
        client::{ResolvesClientCert, WantsClientCert},
        pki_types::{CertificateDer, PrivateKeyDer, ServerName},
        sign::CertifiedKey,
    },
};

pub use self::anybody::Anybody;
use crate::Client;

pub type Versions<'a> = &'a [&'static SupportedProtocolVersion];

pub const TLS12: Versions<'_> = &[&rustls::version::TLS12];
pub const TLS13: Versions<'_> = &[&rustls::version::TLS13];

/// Who signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key.
pub struct Issued {
    pub der: CertificateDer<'static>,
    pub pem: String,
    pub key_pem: String,
    key: PrivateKeyDer<'static>,
}

impl Authority {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// One whose own certificate is changed so.
    pub fn with(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let params = Self::params(change);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// An authority that this one vouches for.
    pub fn subordinate(&self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = Self::params(|params| {
            params
                .distinguished_name
                .push(DnType::CommonName, "subordinate");
        });
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::signed_by(params, key, &self.0).unwrap())
    }

    fn params(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        params
    }

    pub fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    /// The signature of these bytes, by ECDSA with SHA-256.
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.0.key().sign(bytes).unwrap()
    }

    /// A list of the certificates that are revoked, by their serial numbers, in PEM. There is to be a new one in that year.
    pub fn revoke(&self, serials: &[u64], next: i32) -> String {
        self.revoke_with(serials, |list| list.next_update = date_time_ymd(next, 1, 1))
    }

    /// The same, changed so.
    pub fn revoke_with(
        &self,
        serials: &[u64],
        change: impl FnOnce(&mut CertificateRevocationListParams),
    ) -> String {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2001, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let mut params = CertificateRevocationListParams {
            this_update: date_time_ymd(2000, 1, 1),
            next_update: date_time_ymd(4000, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        change(&mut params);
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// For hosts or addresses of hosts; with a mail address for each name that has an `@`.
    pub fn issue(&self, names: &[&str]) -> Issued {
        self.issue_until(names, 4000)
    }

    pub fn issue_until(&self, names: &[&str], year: i32) -> Issued {
        self.issue_with(names, |params| params.not_after = date_time_ymd(year, 1, 1))
    }

    /// One that is changed so.
    pub fn issue_with(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Issued {
        let is_mail = |name: &&str| name.contains('@');
        let (mails, hosts): (Vec<&str>, Vec<&str>) = names.iter().copied().partition(is_mail);
        let hosts: Vec<_> = hosts.into_iter().map(str::to_owned).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        let mails = mails.into_iter().map(|mail| mail.try_into().unwrap());
        params
            .subject_alt_names
            .extend(mails.map(SanType::Rfc822Name));
        params.distinguished_name.push(DnType::CommonName, "tested");
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Issued::new(&params.signed_by(&key, &self.0).unwrap(), &key)
    }

    /// A client that trusts this authority, and shows that certificate if there is one.
    pub fn client(&self, versions: Versions<'_>, own: Option<&Issued>) -> ClientConfig {
        let resolver = own.map(|own| Shown::new(vec![own.der.clone()], own.signing_key()));
        self.client_showing(versions, resolver)
    }

    /// The same, with whatever is to be shown.
    pub fn client_showing(&self, versions: Versions<'_>, shown: Option<Shown>) -> ClientConfig {
        let builder = trusting(self.der(), versions);
        match shown {
            Some(shown) => builder.with_client_cert_resolver(Arc::new(shown)),
            None => builder.with_no_client_auth(),
        }
    }
}

/// The settings of a client that trusts whatever that certificate vouches for.
fn trusting(
    root: CertificateDer<'static>,
    versions: Versions<'_>,
) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let mut roots = RootCertStore::empty();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
}

/// What a client shows, whether its parts fit each other or not.
#[derive(Debug)]
pub struct Shown(Arc<CertifiedKey>);

impl Shown {
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: Arc<dyn rustls::sign::SigningKey>,
    ) -> Self {
        Self(Arc::new(CertifiedKey::new(chain, key)))
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl Issued {
    fn new(certificate: &Certificate, key: &KeyPair) -> Self {
        Self {
            der: certificate.der().clone(),
            pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        }
    }

    /// One for that host that no authority has signed.
    pub fn alone(host: &str) -> Self {
        Self::alone_with(host, &KeyPair::generate().unwrap(), |_| {})
    }

    /// The same, with that key and changed so.
    pub fn alone_with(
        host: &str,
        key: &KeyPair,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        change(&mut params);
        Self::new(&params.self_signed(key).unwrap(), key)
    }

    /// The settings of a server that has it, and else the defaults.
    pub fn tls(&self) -> TlsConfig {
        TlsConfig::from_pem(self.pem.as_bytes(), self.key_pem.as_bytes()).unwrap()
    }

    /// A client that trusts this certificate by itself.
    pub fn client(&self, versions: Versions<'_>) -> ClientConfig {
        trusting(self.der.clone(), versions).with_no_client_auth()
    }

    pub fn source(&self) -> ServerCertificate {
        ServerCertificate::from_pem(&*self.pem, &*self.key_pem)
    }

    pub fn signing_key(&self) -> Arc<dyn rustls::sign::SigningKey> {
        rustls::crypto::ring::sign::any_supported_type(&self.key).unwrap()
    }

    /// A configuration that is not of our making.
    pub fn server_config(&self) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.der.clone()], self.key.clone_key())
            .unwrap()
    }

    /// Writes it into a directory, and gives the files of certificate and key.
    pub fn write(&self, directory: &std::path::Path) -> (PathBuf, PathBuf) {
        let (cert, key) = (directory.join("cert.pem"), directory.join("key.pem"));
        std::fs::write(&cert, &self.pem).unwrap();
        std::fs::write(&key, &self.key_pem).unwrap();
        (cert, key)
    }
}

/// Through STARTTLS; an address for a name is one that is not asked for.
pub async fn secured(
    server: &Server,
    client: &ClientConfig,
    name: &str,
) -> io::Result<Client<TlsStream<DuplexStream>>> {
    let mut plain = Client::greeted(server).await;
    plain.cmd("EHLO c", "250").await;
    plain.cmd("STARTTLS", "220").await;
    handshake(plain.into_io(), client, name).await
}

/// Over TCP with TLS from the first byte on, up to the greeting.
pub async fn connect_tls(
    address: SocketAddr,
    client: &ClientConfig,
    name: &str,
) -> Client<TlsStream<TcpStream>> {
    let io = TcpStream::connect(address).await.unwrap();
    let mut client = handshake(io, client, name).await.unwrap();
    client.expect("220").await;
    client
}

/// The handshake alone.
pub async fn handshake<IO: AsyncRead + AsyncWrite + Unpin>(
    io: IO,
    client: &ClientConfig,
    name: &str,
) -> io::Result<Client<TlsStream<IO>>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::new(client.clone()));
    connector.connect(name, io).await.map(Client::over)
}

/// The certificate that the server has shown.
pub fn shown<IO: AsyncRead + AsyncWrite + Unpin>(
    client: &Client<TlsStream<IO>>,
) -> CertificateDer<'static> {
    client.io().get_ref().1.peer_certificates().unwrap()[0].clone()
}
