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

use crate::tls::Provider;

/// The handshake of a client, before it begins.
pub(super) struct Handshake {
    connector: TlsConnector,
    host: ServerName<'static>,
}

impl Handshake {
    /// Prepares the handshake with that host, whose certificate `trusted` has issued.
    ///
    /// # Errors
    ///
    /// Returns an error if `host` or `trusted` is invalid.
    pub(super) fn new(host: &str, trusted: &[u8]) -> io::Result<Self> {
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config(trusted)?)),
            host: ServerName::try_from(host.to_owned()).map_err(invalid)?,
        })
    }

    pub(super) async fn run<IO>(self, io: IO) -> io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        self.connector.connect(self.host, io).await
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

    use crate::{
        deliver::Inbox,
        phase::{Rcpt, Request},
        server::Server,
        service::{Pipeline, handler_fn},
        test::{Client, ClientError},
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
    async fn a_stream_that_is_cut_off_is_not_taken_for_an_orderly_close() -> Result<(), ClientError>
    {
        let (server, certificate, _, _) = server();
        let mut client = Client::connect(&server);
        client.greeting().await?.expect_code(220)?;
        client.ehlo("c").await?.expect_code(250)?;
        let mut client = client.starttls("mx.test", &certificate).await?;
        client.ehlo("c").await?.expect_code(250)?;
        client.take_session().unwrap().abort();
        let cut_off = client.reply().await;
        assert!(matches!(cut_off, Err(ClientError::Io(_))), "{cut_off:?}");
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
