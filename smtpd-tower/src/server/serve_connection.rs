//! The future that serves one connection.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use smtpd_core::config::Protocol;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Server;
use crate::{
    engine::Accepted,
    fault::quietly,
    net::PeerAddr,
    service::Pipeline,
    session::{Profile, TlsInfo},
};

/// A future that serves one connection until it ends. [`Server::serve_connection`] returns it.
///
/// Its settings apply to this connection only. They are read at the first poll, when the session begins; later changes have no
/// effect.
///
/// ```
/// use smtpd_tower::{Pipeline, Profile, Server, net::PeerAddr};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// let server = Server::new("mx.example.org", Pipeline::new());
/// let (mut client, io) = tokio::io::duplex(1024);
/// let session = server
///     .serve_connection(io, PeerAddr::from(([192, 0, 2, 1], 4711)))
///     .local_addr(([192, 0, 2, 25], 24))
///     .profile(Profile::Lmtp);
/// tokio::spawn(session);
///
/// client.write_all(b"QUIT\r\n").await?;
/// let mut replies = String::new();
/// client.read_to_string(&mut replies).await?;
/// assert!(replies.starts_with("220 mx.example.org smtpd LMTP"), "{replies}");
/// # Ok(()) }
/// ```
#[must_use = "a connection is served while this future is polled"]
pub struct ServeConnection<IO> {
    /// `None` from the first poll on.
    start: Option<Box<Start<IO>>>,
    running: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

struct Start<IO> {
    server: Server,
    accepted: Accepted<IO>,
}

impl<IO> ServeConnection<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    pub(super) fn new(server: Server, io: IO, peer: PeerAddr) -> Self {
        let accepted = Accepted {
            io,
            peer: peer.canonical(),
            local: PeerAddr::Unknown,
            tls: None,
            visit: None,
        };
        let start = Start { server, accepted };
        Self {
            start: Some(Box::new(start)),
            running: None,
        }
    }

    /// Sets the address that the client has connected to, for [`Session::local_addr`](crate::session::Session::local_addr).
    /// Default: unknown.
    pub fn local_addr(mut self, address: impl Into<PeerAddr>) -> Self {
        if let Some(start) = &mut self.start {
            start.accepted.local = address.into().canonical();
        }
        self
    }

    /// Sets what TLS has negotiated, for a connection that comes within TLS: from a TLS terminator, or a QUIC stream. The session
    /// is then encrypted from the start, as [`Listener::connection_tls`](super::Listener::connection_tls) describes it, and
    /// [`Session::tls`](crate::session::Session::tls) returns this. Default: plaintext.
    ///
    /// ```
    /// use smtpd_tower::{
    ///     Pipeline, Server,
    ///     net::PeerAddr,
    ///     session::{TlsInfo, TlsVersion},
    /// };
    /// use tokio::io::{AsyncReadExt, AsyncWriteExt};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
    /// let server = Server::new("mx.example.org", Pipeline::new())
    ///     .configure(|config| config.require_tls(true));
    /// let (mut client, io) = tokio::io::duplex(1024);
    /// let tls = TlsInfo::new(TlsVersion::Tls13, "TLS_AES_128_GCM_SHA256");
    /// tokio::spawn(server.serve_connection(io, PeerAddr::Unknown).tls_info(tls));
    ///
    /// client
    ///     .write_all(b"EHLO client.example\r\nMAIL FROM:<a@example.com>\r\nQUIT\r\n")
    ///     .await?;
    /// let mut replies = String::new();
    /// client.read_to_string(&mut replies).await?;
    /// assert!(!replies.contains("STARTTLS") && !replies.contains("530"), "{replies}");
    /// # Ok(()) }
    /// ```
    pub fn tls_info(mut self, tls: TlsInfo) -> Self {
        if let Some(start) = &mut self.start {
            start.accepted.tls = Some(tls);
        }
        self
    }

    /// Sets the profile of this connection, as [`Server::profile`] does.
    pub fn profile(self, profile: Profile) -> Self {
        self.set(|server| server.profile(profile))
    }

    /// Sets the pipeline of this connection, as [`Server::pipeline`] does.
    pub fn pipeline(self, pipeline: Pipeline) -> Self {
        self.set(|server| server.pipeline(pipeline))
    }

    /// Expects TLS from the first byte, as [`Serve::tls_first`](super::Serve::tls_first) does.
    #[cfg(feature = "tls")]
    pub fn tls_first(self) -> Self {
        self.set(|mut server| {
            server.settings.tls_first = true;
            server
        })
    }

    /// Speaks LMTP (RFC 2033), as [`Serve::lmtp`](super::Serve::lmtp) does.
    pub fn lmtp(self) -> Self {
        self.protocol(Protocol::Lmtp)
    }

    pub(crate) fn protocol(self, protocol: Protocol) -> Self {
        self.set(|mut server| {
            server.settings.protocol = Some(protocol);
            server
        })
    }

    fn set(mut self, change: impl FnOnce(Server) -> Server) -> Self {
        self.start = self.start.map(|start| {
            let Start { server, accepted } = *start;
            Box::new(Start {
                server: change(server),
                accepted,
            })
        });
        self
    }
}

impl<IO> Future for ServeConnection<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let serve = self.get_mut();
        if let Some(start) = serve.start.take() {
            let Start {
                mut server,
                accepted,
            } = *start;
            server.settings.within_tls = accepted.tls.is_some();
            match server.into_acceptor() {
                Ok(acceptor) => serve.running = Some(Box::pin(acceptor.serve(accepted))),
                Err(error) => {
                    quietly(|| tracing::error!(%error, "connection not served"));
                    return Poll::Ready(());
                }
            }
        }
        let Some(running) = &mut serve.running else {
            // It was polled again after its end.
            return Poll::Pending;
        };
        ready!(running.as_mut().poll(cx));
        serve.running = None;
        Poll::Ready(())
    }
}

/// No field is pinned structurally.
impl<IO> Unpin for ServeConnection<IO> {}

impl<IO> fmt::Debug for ServeConnection<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = self.start.as_ref().map(|start| &start.server);
        f.debug_struct("ServeConnection")
            .field("server", &server)
            .finish_non_exhaustive()
    }
}
