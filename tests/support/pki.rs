//! Certificates, and clients that have some.
#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::{path::PathBuf, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType,
    date_time_ymd,
};
use smtpd_tower::{Server, tls::ServerCertificate};
use tokio::io::DuplexStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    },
};

use super::support::Client;

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
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// For hosts or addresses of hosts; with a mail address for each name that has an `@`.
    pub fn issue(&self, names: &[&str]) -> Issued {
        self.issue_until(names, 4000)
    }

    pub fn issue_until(&self, names: &[&str], year: i32) -> Issued {
        let is_mail = |name: &&str| name.contains('@');
        let (mails, hosts): (Vec<&str>, Vec<&str>) = names.iter().copied().partition(is_mail);
        let hosts: Vec<_> = hosts.into_iter().map(str::to_owned).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        let mails = mails.into_iter().map(|mail| mail.try_into().unwrap());
        params
            .subject_alt_names
            .extend(mails.map(SanType::Rfc822Name));
        params.distinguished_name.push(DnType::CommonName, "tested");
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Issued {
            der: certificate.der().clone(),
            pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        }
    }

    /// A client that trusts this authority, and shows that certificate if there is one.
    pub fn client(&self, versions: Versions<'_>, own: Option<&Issued>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        match own {
            Some(own) => builder
                .with_client_auth_cert(vec![own.der.clone()], own.key.clone_key())
                .unwrap(),
            None => builder.with_no_client_auth(),
        }
    }
}

impl Issued {
    pub fn source(&self) -> ServerCertificate {
        ServerCertificate::from_pem(&*self.pem, &*self.key_pem)
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
) -> std::io::Result<Client<TlsStream<DuplexStream>>> {
    let mut plain = Client::greeted(server).await;
    plain.cmd("EHLO c", "250").await;
    plain.cmd("STARTTLS", "220").await;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::new(client.clone()));
    connector
        .connect(name, plain.into_io())
        .await
        .map(Client::over)
}

/// The certificate that the server has shown.
pub fn shown(client: &Client<TlsStream<DuplexStream>>) -> CertificateDer<'static> {
    client.io().get_ref().1.peer_certificates().unwrap()[0].clone()
}
