//! A certificate that all cases share, and the client's side of STARTTLS.

use std::{
    io,
    sync::{Arc, LazyLock},
};

use smtpd_tower::tls::TlsConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName},
    },
};

struct Both {
    server: TlsConfig,
    client: TlsConnector,
}

static BOTH: LazyLock<Both> = LazyLock::new(|| {
    let own = rcgen::generate_simple_self_signed(["mx.test".to_owned()]).unwrap();
    let (chain, key) = (own.cert.pem(), own.signing_key.serialize_pem());
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from(own.cert.der().to_vec()))
        .unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Both {
        server: TlsConfig::from_pem(chain.as_bytes(), key.as_bytes()).unwrap(),
        client: TlsConnector::from(Arc::new(config)),
    }
});

pub fn server() -> TlsConfig {
    BOTH.server.clone()
}

pub async fn connect<IO>(io: IO) -> io::Result<TlsStream<IO>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let name = ServerName::try_from("mx.test").unwrap();
    BOTH.client.connect(name, io).await
}
