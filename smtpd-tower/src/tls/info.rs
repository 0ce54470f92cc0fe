//! Creates a [`TlsInfo`] from a finished handshake.

use std::borrow::Cow;

use bytes::Bytes;
use rustls_pki_types::CertificateDer;
use tokio_rustls::rustls::{CipherSuite, HandshakeKind, ProtocolVersion, ServerConnection};

use super::{CertificateNames, parts::Parts};
use crate::session::{TlsInfo, TlsVersion};

impl TlsInfo {
    /// Returns the names in the client's own certificate, if it has presented one: the client's identity, as the authority that
    /// signed it states it.
    ///
    /// There is no [common name](CertificateNames::common_name) if an authority in the chain has name constraints (RFC 5280
    /// section 4.2.1.10): the constraints are about alternative names, so such an authority could choose any common name. Nor is
    /// there one in a session of a [`rustls::ServerConfig`](super::rustls::ServerConfig) of your own, whose authorities are not
    /// known here: there, parse the certificate with [`CertificateNames::parse`] if you know that none of them is constrained.
    pub fn client_names(&self) -> Option<CertificateNames> {
        let (own, authorities) = self.peer_certificates().split_first()?;
        let names = CertificateNames::parse(own)?;
        let mut authorities = authorities.iter().map(|der| Parts::read(der));
        let is_free = |parts: Option<Parts<'_>>| parts.is_some_and(|parts| !parts.constrains_names);
        if authorities.all(is_free) && !self.has_constrained_names() {
            Some(names)
        } else {
            Some(names.without_common_name())
        }
    }

    /// Returns the facts of `connection`, whose handshake is done, with the verified client certificates.
    pub(super) fn of(connection: &ServerConnection, verified: &[CertificateDer<'_>]) -> Self {
        debug_assert!(!connection.is_handshaking());
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => TlsVersion::Tls13,
            // Before the handshake is done nothing is known, so the lowest version is assumed.
            _ => TlsVersion::Tls12,
        };
        let suite = connection
            .negotiated_cipher_suite()
            .map(|suite| suite.suite());
        let info = Self::new(version, suite.map_or(Cow::Borrowed("unknown"), iana_name))
            .with_peer_certificates(verified.iter().map(|der| Bytes::copy_from_slice(der)))
            .with_resumed(connection.handshake_kind() == Some(HandshakeKind::Resumed));
        match connection.server_name() {
            Some(name) => info.with_sni(name),
            None => info,
        }
    }
}

/// Returns the name in IANA's registry, in which the suites of TLS 1.3 (RFC 8446 appendix B.4) have no "13".
fn iana_name(suite: CipherSuite) -> Cow<'static, str> {
    let Some(name) = suite.as_str() else {
        return Cow::Owned(format!("0x{:04X}", u16::from(suite)));
    };
    match name.strip_prefix("TLS13_") {
        Some(rest) => Cow::Owned(format!("TLS_{rest}")),
        None => Cow::Borrowed(name),
    }
}

#[cfg(test)]
#[cfg(feature = "tls-ring")]
mod tests {
    use std::sync::Arc;

    use rustls_pki_types::{PrivateKeyDer, ServerName};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::{
        TlsConnector,
        rustls::{
            ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
            crypto::ring,
            server::WebPkiClientVerifier,
            version::{TLS12, TLS13},
        },
    };

    use super::*;
    use crate::tls::TlsConfig;

    struct Identity {
        pem: (String, String),
        cert: CertificateDer<'static>,
        key: PrivateKeyDer<'static>,
    }

    fn identity() -> Identity {
        let names = ["mail.example.org", "127.0.0.1"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        Identity {
            pem: (made.cert.pem(), made.signing_key.serialize_pem()),
            cert: made.cert.der().clone(),
            key: PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap(),
        }
    }

    impl Identity {
        fn server(&self) -> TlsConfig {
            TlsConfig::from_pem(self.pem.0.as_bytes(), self.pem.1.as_bytes()).unwrap()
        }

        fn roots(&self) -> RootCertStore {
            let mut roots = RootCertStore::empty();
            roots.add(self.cert.clone()).unwrap();
            roots
        }

        fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
            ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_protocol_versions(versions)
                .unwrap()
                .with_root_certificates(self.roots())
                .with_no_client_auth()
        }
    }

    #[cfg(feature = "tls-aws-lc")]
    #[tokio::test]
    async fn aws_lc_is_there_beside_ring() {
        use crate::tls::{Provider, ServerCertificate, TlsBuilder};

        let identity = identity();
        let pem = || ServerCertificate::from_pem(&*identity.pem.0, &*identity.pem.1);
        let server = TlsBuilder::with_provider(pem(), Provider::aws_lc()).build();
        let server = server.unwrap();
        for (version, cipher) in [
            (&TLS13, "TLS_AES_128_GCM_SHA256"),
            (&TLS12, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
        ] {
            let client = Arc::new(identity.client(&[version]));
            for resumed in [false, true] {
                let info = session(&server, &client, "mail.example.org").await;
                assert_eq!((info.cipher(), info.is_resumed()), (cipher, resumed));
            }
        }
        let aws = |provider: &Provider| {
            let groups = &provider.crypto().kx_groups;
            groups
                .iter()
                .any(|group| format!("{:?}", group.name()).contains("MLKEM"))
        };
        assert!(aws(&Provider::aws_lc()) && !aws(&Provider::default()));
    }

    /// Runs a whole session: the handshake, and one byte from the server, after its tickets.
    async fn session(server: &TlsConfig, client: &Arc<ClientConfig>, name: &str) -> TlsInfo {
        let (near, far) = tokio::io::duplex(4096);
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let client = async {
            let connector = TlsConnector::from(Arc::clone(client));
            let mut stream = connector.connect(name, near).await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), b'2');
        };
        let server = async {
            let mut secured = server.accept(far).await.unwrap();
            secured.stream.write_u8(b'2').await.unwrap();
            secured.stream.flush().await.unwrap();
            secured.info
        };
        tokio::join!(server, client).0
    }

    #[tokio::test]
    async fn facts_of_a_handshake() {
        const TLS13_CIPHER: &str = "TLS_AES_128_GCM_SHA256";
        const TLS12_CIPHER: &str = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256";
        let identity = identity();
        let name = "mail.example.org";
        let expected = |version, cipher| TlsInfo::new(version, cipher);
        // The client prefers AES-256; an address is never sent as a server name.
        let table = [
            (
                vec![&TLS13, &TLS12],
                name,
                expected(TlsVersion::Tls13, TLS13_CIPHER).with_sni(name),
            ),
            (
                vec![&TLS12],
                name,
                expected(TlsVersion::Tls12, TLS12_CIPHER).with_sni(name),
            ),
            (
                vec![&TLS13],
                "127.0.0.1",
                expected(TlsVersion::Tls13, TLS13_CIPHER),
            ),
        ];
        for (versions, name, expected) in table {
            let client = Arc::new(identity.client(&versions));
            assert_eq!(session(&identity.server(), &client, name).await, expected);
        }
    }

    #[tokio::test]
    async fn second_session_is_resumed() {
        let identity = identity();
        for version in [&TLS13, &TLS12] {
            let (server, client) = (identity.server(), Arc::new(identity.client(&[version])));
            let first = session(&server, &client, "mail.example.org").await;
            let second = session(&server.clone(), &client, "mail.example.org").await;
            assert_eq!(
                (first.is_resumed(), second.is_resumed()),
                (false, true),
                "{version:?}"
            );
        }
    }

    #[tokio::test]
    async fn no_common_name_is_trusted_if_the_authorities_are_unknown() {
        let identity = identity();
        let provider = Arc::new(ring::default_provider());
        let roots = Arc::new(identity.roots());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.unwrap())
            .with_single_cert(vec![identity.cert.clone()], identity.key.clone_key())
            .unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(identity.roots())
            .with_client_auth_cert(vec![identity.cert.clone()], identity.key.clone_key())
            .unwrap();
        let info = session(&server.into(), &Arc::new(client), "mail.example.org").await;
        assert_eq!(
            info.peer_certificates(),
            [Bytes::copy_from_slice(&identity.cert)]
        );
        let names = info.client_names().unwrap();
        assert_eq!(names.dns_names(), ["mail.example.org"]);
        let whole = CertificateNames::parse(&identity.cert).unwrap();
        assert!(whole.common_name().is_some());
        assert_eq!(
            names.common_name(),
            None,
            "the authority may be constrained"
        );
    }

    #[test]
    fn suites_have_their_iana_names() {
        let table = [
            (
                CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
                "TLS_CHACHA20_POLY1305_SHA256",
            ),
            (
                CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
                "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            ),
            (CipherSuite::Unknown(0xFEED), "0xFEED"),
        ];
        for (suite, name) in table {
            assert_eq!(iana_name(suite), name);
        }
    }
}
