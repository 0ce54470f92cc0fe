use std::{io, sync::Arc};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use super::{Client, ClientError};
use crate::tls::Provider;

impl<IO: AsyncRead + AsyncWrite + Unpin> Client<IO> {
    /// STARTTLS and the handshake (RFC 3207), with a server that shows a certificate for that host. `trusted` is that of its
    /// authority, or its own where it is self-signed, in PEM. EHLO comes anew then.
    ///
    /// ```
    /// # #[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use smtpd_tower::{Pipeline, Server, test::Client, tls::TlsConfig};
    ///
    /// let own = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    /// let (certificate, key) = (own.cert.pem(), own.signing_key.serialize_pem());
    /// let server = Server::new("localhost", Pipeline::new()).tls(TlsConfig::from_pem(certificate.as_bytes(), key.as_bytes())?);
    ///
    /// let mut client = Client::connect(&server);
    /// client.greeting().await?.expect_code(220)?;
    /// client.ehlo("client.example").await?.expect_code(250)?;
    /// let mut client = client.starttls("localhost", &certificate).await?;
    /// client.ehlo("client.example").await?.expect_code(250)?;
    /// assert!(!client.extensions().contains("STARTTLS"));
    /// # Ok(()) }
    /// ```
    ///
    /// Other settings of TLS, such as a certificate of the client's, go by [`into_io`](Self::into_io) and
    /// [`over`](Self::over), with a handshake of your own between them.
    ///
    /// # Errors
    ///
    /// As [`command`](Self::command); [`ClientError::Unexpected`] where STARTTLS is not answered with 220;
    /// [`ClientError::Io`] where the handshake fails, or `host` or `trusted` is none.
    pub async fn starttls(
        mut self,
        host: &str,
        trusted: impl AsRef<[u8]>,
    ) -> Result<Client<TlsStream<IO>>, ClientError> {
        let config = config(trusted.as_ref()).map_err(ClientError::Io)?;
        let host = ServerName::try_from(host.to_owned())
            .map_err(invalid)
            .map_err(ClientError::Io)?;
        self.command("STARTTLS").await?.expect_code(220)?;
        let connector = TlsConnector::from(Arc::new(config));
        let io = connector.connect(host, self.wire.io).await?;
        Ok(Client {
            greeted: true,
            protocol: self.protocol,
            session: self.session,
            ..Client::over(io)
        })
    }
}

fn config(trusted: &[u8]) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(trusted) {
        roots.add(certificate.map_err(invalid)?).map_err(invalid)?;
    }
    let config = ClientConfig::builder_with_provider(Provider::default().crypto().clone())
        .with_safe_default_protocol_versions()
        .map_err(invalid)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}
