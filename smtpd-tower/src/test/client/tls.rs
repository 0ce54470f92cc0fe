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
    /// Sends STARTTLS and runs the handshake (RFC 3207) with a server that presents a certificate for that host. `trusted` is the
    /// certificate of its authority, or its own if it is self-signed, in PEM. Sends EHLO again afterwards.
    ///
    /// ```
    /// # #[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use smtpd_tower::{Pipeline, Server, test::Client, tls::TlsConfig};
    ///
    /// let own = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    /// let (certificate, key) = (own.cert.pem(), own.signing_key.serialize_pem());
    /// let server = Server::new("localhost", Pipeline::new())
    ///     .tls(TlsConfig::from_pem(certificate.as_bytes(), key.as_bytes())?);
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
    /// For other TLS settings, such as a client certificate, use [`into_io`](Self::into_io) and [`over`](Self::over), with a
    /// handshake of your own between them.
    ///
    /// # Errors
    ///
    /// Like [`command`](Self::command); [`ClientError::Unexpected`] if the reply to STARTTLS is not 220; [`ClientError::Io`] if
    /// the handshake fails, or `host` or `trusted` is invalid.
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

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use super::*;
    use crate::{
        deliver::Inbox,
        phase::{Rcpt, Request},
        server::Server,
        service::{Pipeline, handler_fn},
        test::Client,
        tls::TlsConfig,
    };

    /// Returns a server, its certificate, where its messages go, and whether a session has ended.
    fn server() -> (Server, String, Inbox, Arc<AtomicBool>) {
        let own = rcgen::generate_simple_self_signed(["mx.test".to_owned()]).unwrap();
        let (certificate, key) = (own.cert.pem(), own.signing_key.serialize_pem());
        let tls = TlsConfig::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
        let (inbox, ended) = (Inbox::new(), Arc::<AtomicBool>::default());
        let end = ended.clone();
        let pipeline = Pipeline::new()
            .rcpt(handler_fn(async |_: Request<Rcpt>| {}))
            .data(inbox.clone());
        let server = Server::new("mx.test", pipeline)
            .tls(tls)
            .on_close(move |_, _| end.store(true, Ordering::SeqCst));
        (server, certificate, inbox, ended)
    }

    #[tokio::test(start_paused = true)]
    async fn the_session_goes_on_within_tls() -> Result<(), ClientError> {
        let (server, certificate, inbox, ended) = server();
        let mut client = Client::connect(&server);
        client.greeting().await?.expect_code(220)?;
        client.ehlo("c").await?.expect_code(250)?;
        let mut client = client.starttls("mx.test", &certificate).await?;
        // There is no second greeting to wait for.
        let sent = client.send("a@b.c", ["d@e.f"], "hi").await?;
        sent.expect_code(250)?;
        client.ended().await?;
        assert!(ended.load(Ordering::SeqCst));
        assert!(inbox.messages()[0].session().tls().is_some());
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn lmtp_stays_lmtp_within_tls() -> Result<(), ClientError> {
        let (server, certificate, inbox, _) = server();
        let mut client = Client::options().lmtp().connect(&server);
        client.greeting().await?.expect_code(220)?;
        client.lhlo("c").await?.expect_code(250)?;
        let mut client = client.starttls("mx.test", &certificate).await?;
        let sent = client.send("a@b.c", ["d@e.f", "g@h.i"], "hi").await?;
        sent.expect_code(250)?;
        client.quit().await?.expect_code(221)?;
        assert_eq!(inbox.len(), 1);
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_certificate_of_the_host_fails() -> Result<(), ClientError> {
        let (server, certificate, _, _) = server();
        for (host, trusted) in [
            ("other.test", &*certificate),
            ("mx.test", ""),
            ("", &certificate),
        ] {
            let mut client = Client::connect(&server);
            client.greeting().await?.expect_code(220)?;
            client.ehlo("c").await?.expect_code(250)?;
            let failed = client.starttls(host, trusted).await;
            assert!(
                matches!(failed, Err(ClientError::Io(_))),
                "{host} {failed:?}"
            );
        }
        Ok(())
    }
}
