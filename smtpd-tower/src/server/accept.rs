use std::{io, sync::Arc, time::Duration};

use smtpd_core::reply::Reply;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    task::{coop::consume_budget, yield_now},
    time::{sleep, timeout},
};
use tokio_util::either::Either;

use super::{Listener, latest::Latest};
use crate::{
    engine::{Accepted, Engine},
    fault::{caught, quietly},
    lifetime::Registry,
    net::PeerAddr,
};

/// Accepts the connections of one listener.
#[derive(Clone)]
pub(super) struct Acceptor {
    pub(super) engine: Arc<Engine>,
    pub(super) registry: Arc<Registry>,
    pub(super) max_sessions: usize,
    pub(super) implicit_tls: bool,
}

impl Acceptor {
    /// Accepts connections, and serves each as the latest server does, if the server can be replaced.
    pub(super) async fn run<L: Listener>(
        mut self,
        mut listener: L,
        mut latest: Option<Latest>,
    ) -> io::Result<()> {
        let bound = listener.local_addr();
        let registry = self.registry.clone();
        let mut failures = Failures::default();
        loop {
            // A listener that is always ready must not starve the other tasks of its thread.
            consume_budget().await;
            let accepted = tokio::select! {
                biased;
                () = registry.draining() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok(connection) => {
                    failures = Failures::default();
                    if let Some(latest) = &mut latest {
                        latest.update(&mut self);
                    }
                    if let Some(accepted) = describe::<L>(connection, &bound) {
                        tokio::spawn(self.clone().serve(accepted));
                    }
                }
                Err(error) => tokio::select! {
                    biased;
                    () = registry.draining() => break,
                    () = failures.wait_after(&error) => {}
                },
            }
        }
        // Frees the port while the sessions end.
        drop(listener);
        registry.empty().await;
        Ok(())
    }

    /// Serves one connection, or refuses it because there are too many sessions.
    pub(super) fn serve<IO>(
        self,
        accepted: Accepted<IO>,
    ) -> impl Future<Output = ()> + Send + use<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match self.registry.enter(self.max_sessions) {
            Some(permit) => Either::Left(self.engine.serve(accepted, self.implicit_tls, permit)),
            None => Either::Right(Box::pin(self.refuse(accepted))),
        }
    }

    async fn refuse<IO: AsyncWrite + Unpin>(self, accepted: Accepted<IO>) {
        let Accepted { mut io, peer, .. } = accepted;
        // A subscriber that panics must not prevent the reply.
        quietly(|| {
            tracing::warn!(%peer, sessions = self.registry.taken(), "too many sessions, client refused");
        });
        if self.implicit_tls && accepted.tls.is_none() {
            // The client would read a plaintext reply as part of the handshake.
            return;
        }
        // Without a permit, the connection is closed without a reply.
        if let Some(_permit) = self.registry.farewell() {
            let listener = &self.engine.listener;
            let reply = Reply::closing(listener.signed("has too many sessions, try again later"));
            let reply = format!("{reply}\r\n");
            let farewell = async {
                io.write_all(reply.as_bytes()).await?;
                io.shutdown().await
            };
            let _ = timeout(Duration::from_secs(1), farewell).await;
        }
    }
}

/// Adds what the listener says of a connection. If the listener's own code panics, that costs its client the connection, and no
/// other.
fn describe<L: Listener>(
    (io, peer): (L::Io, PeerAddr),
    bound: &PeerAddr,
) -> Option<Accepted<L::Io>> {
    // A listener that is bound to every address knows the one of each connection only.
    let is_open = bound.ip().is_none_or(|ip| ip.is_unspecified());
    let facts = || {
        (
            L::connection_tls(&io),
            is_open.then(|| L::connection_addr(&io)),
        )
    };
    match caught(facts) {
        Ok((tls, local)) => Some(Accepted {
            local: local
                .flatten()
                .map_or_else(|| bound.clone(), PeerAddr::canonical),
            io,
            peer: peer.canonical(),
            tls,
        }),
        Err(panic) => {
            let panic = panic.escape_debug();
            quietly(|| tracing::error!(%peer, %panic, "the listener panicked"));
            None
        }
    }
}

/// Counts the errors of accept in a row, and waits after each.
#[derive(Debug, Default)]
struct Failures(u32);

impl Failures {
    /// The wait after an error that does not concern one connection only, such as EMFILE.
    const PAUSE: Duration = Duration::from_millis(100);

    /// The wait after an error of one connection, once [`MOST_AT_ONCE`](Self::MOST_AT_ONCE) have failed in a row. It is short,
    /// because clients can cause these errors, and others must not wait for them.
    const SHORT_PAUSE: Duration = Duration::from_millis(1);

    const MOST_AT_ONCE: u32 = 100;

    async fn wait_after(&mut self, error: &io::Error) {
        if !is_of_one_connection(error) {
            quietly(|| tracing::error!(%error, "accept failed, waiting for a moment"));
            return sleep(Self::PAUSE).await;
        }
        self.0 = self.0.saturating_add(1);
        if self.0 < Self::MOST_AT_ONCE {
            return yield_now().await;
        }
        if self.0 == Self::MOST_AT_ONCE {
            quietly(
                || tracing::error!(%error, "accept fails repeatedly, waiting for a moment each time"),
            );
        }
        sleep(Self::SHORT_PAUSE).await;
    }
}

/// Returns whether only the connection that would have been accepted has failed, so that the next one may be fine.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}
