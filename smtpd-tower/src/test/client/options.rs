use std::{net::Ipv4Addr, time::Duration};

use smtpd_core::config::Protocol;

use super::{Client, patience::Patience};
use crate::{
    net::PeerAddr,
    server::Server,
    test::{
        ChaosStream, StreamChaos, isolated,
        transcript::{self, TranscriptError},
    },
};

/// The options for connecting a [`Client`] to a [`Server`] in memory.
///
/// ```
/// use smtpd_tower::{Pipeline, Server, test::{ClientError, ClientOptions}};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), ClientError> {
/// let server = Server::new("mx.example.org", Pipeline::new());
/// let mut client =
///     ClientOptions::new().peer(([192, 0, 2, 1], 4711)).pipe(16).connect(&server);
/// client.greeting().await?.expect_code(220)?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ClientOptions {
    peer: PeerAddr,
    pipe: usize,
    /// That of the server, unless it is set.
    protocol: Option<Protocol>,
    chaos: StreamChaos,
    patience: Patience,
}

impl Default for ClientOptions {
    /// Calls [`new`](Self::new).
    fn default() -> Self {
        Self::new()
    }
}

impl ClientOptions {
    /// Creates the default options: from 127.0.0.1, over a pipe of 64 KiB, without any fault.
    pub fn new() -> Self {
        Self {
            peer: (Ipv4Addr::LOCALHOST, 0).into(),
            pipe: 64 << 10,
            protocol: None,
            chaos: StreamChaos::new(),
            patience: Patience::default(),
        }
    }

    /// Sets how long each step waits, and each line of a transcript; see [`Client::timeout`].
    #[must_use]
    pub fn timeout(self, limit: Duration) -> Self {
        Self {
            patience: Patience::Exactly(limit),
            ..self
        }
    }

    /// Sets the address that the server sees. Default: 127.0.0.1.
    #[must_use]
    pub fn peer(self, peer: impl Into<PeerAddr>) -> Self {
        Self {
            peer: peer.into(),
            ..self
        }
    }

    /// Sets how many bytes the pipe holds in each direction before the writer has to wait. Default: 64 KiB; 0 means 1.
    #[must_use]
    pub fn pipe(self, bytes: usize) -> Self {
        Self {
            pipe: bytes.max(1),
            ..self
        }
    }

    /// Uses LMTP (RFC 2033), whatever the profile of the server. Default: LMTP with
    /// [`Profile::Lmtp`](crate::session::Profile::Lmtp), otherwise SMTP.
    #[must_use]
    pub fn lmtp(self) -> Self {
        Self {
            protocol: Some(Protocol::Lmtp),
            ..self
        }
    }

    /// Adds these faults at the server's end.
    #[must_use]
    pub fn chaos(self, chaos: StreamChaos) -> Self {
        Self { chaos, ..self }
    }

    /// Runs a whole session, see [`transcript`](super::super::transcript()).
    ///
    /// ```
    /// use smtpd_tower::{
    ///     Server,
    ///     layer::DenyClientsLayer,
    ///     test::{ClientOptions, Recorder, TranscriptError},
    /// };
    /// use tower::Layer;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let recorder = Recorder::new();
    /// let denied =
    ///     DenyClientsLayer::parse(["192.0.2.0/24"])?.layer(recorder.clone());
    /// let server = Server::new("mx.example.org", recorder.pipeline().connect(denied));
    /// ClientOptions::new().peer(([192, 0, 2, 1], 4711)).transcript(&server, "
    ///     S: 554 *
    ///     C: QUIT
    ///     S: 221 *
    /// ").await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error at the first line that differs.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub async fn transcript(self, server: &Server, script: &str) -> Result<(), TranscriptError> {
        transcript::play_whole(self.connect(server), script).await
    }

    /// Connects. The session runs in a task of its own.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub fn connect(self, server: &Server) -> Client {
        let (io, far) = tokio::io::duplex(self.pipe);
        let far = ChaosStream::new(far, self.chaos);
        let protocol = self.protocol.unwrap_or_else(|| server.protocol());
        let session = tokio::spawn(
            isolated(server.clone())
                .serve_connection(far, self.peer)
                .protocol(protocol),
        );
        Client::connected(io, protocol, session, self.patience)
    }
}
