//! A certificate that all cases share, and the client's side of STARTTLS.

use std::{
    io,
    sync::{Arc, LazyLock},
};

use smtpd_tower::tls::TlsConfig;
use support::pki::Issued;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{self, pki_types::ServerName},
};

struct Both {
    server: TlsConfig,
    client: TlsConnector,
}

static BOTH: LazyLock<Both> = LazyLock::new(|| {
    let issued = Issued::alone("mx.test");
    let config = issued.client(rustls::DEFAULT_VERSIONS);
    Both {
        server: issued.tls(),
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
