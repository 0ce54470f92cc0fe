use std::{io, sync::Arc, time::Duration};

use smtpd_core::Reply;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    task::{coop::consume_budget, yield_now},
    time::{sleep, timeout},
};
use tokio_util::either::Either;

use super::Listener;
use crate::{
    engine::Engine,
    fault::quietly,
    lifetime::{Registry, Stage},
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
    pub(super) async fn run<L: Listener>(self, mut listener: L) -> io::Result<()> {
        let bound = listener.local_addr();
        let open = bound.ip().is_some_and(|ip| ip.is_unspecified());
        let registry = self.registry.clone();
        let mut failures = Failures::default();
        loop {
            // A listener that is always ready must not keep the other tasks of its thread from running.
            consume_budget().await;
            let accepted = tokio::select! {
                biased;
                () = registry.draining() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((io, peer)) => {
                    failures = Failures::default();
                    let local = if open { L::connection_addr(&io) } else { None };
                    let local = local.unwrap_or_else(|| bound.clone());
                    tokio::spawn(self.clone().serve(io, peer, local));
                }
                Err(error) => tokio::select! {
                    biased;
                    () = registry.draining() => break,
                    () = failures.wait_after(&error) => {}
                },
            }
        }
        // The port is free from now on, while the sessions end.
        drop(listener);
        registry.empty().await;
        Ok(())
    }

    /// Serves one connection, or turns it away.
    pub(super) fn serve<IO>(
        self,
        io: IO,
        peer: PeerAddr,
        local: PeerAddr,
    ) -> impl Future<Output = ()> + Send + use<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let running = self.registry.stage() == Stage::Running;
        let limit = if running { self.max_sessions } else { 0 };
        match self.registry.enter(limit) {
            Some(permit) => {
                let session = self
                    .engine
                    .serve(io, peer, local, self.implicit_tls, permit);
                Either::Left(session)
            }
            None => Either::Right(Box::pin(self.turn_away(io, peer))),
        }
    }

    async fn turn_away<IO: AsyncWrite + Unpin>(self, mut io: IO, peer: PeerAddr) {
        // A subscriber that panics must not keep the client from its reply.
        quietly(|| {
            tracing::warn!(%peer, sessions = self.registry.taken(), "too many sessions, connection turned away");
        });
        if self.implicit_tls {
            return;
        }
        // One that gets no permit is closed without a reply.
        if let Some(_permit) = self.registry.farewell() {
            let reply = format!(
                "{}\r\n",
                Reply::closing("Too many sessions, try again later")
            );
            let farewell = async {
                io.write_all(reply.as_bytes()).await?;
                io.shutdown().await
            };
            let _ = timeout(Duration::from_secs(1), farewell).await;
        }
    }
}

/// Counts the errors of accept in a row, and waits after each.
#[derive(Debug, Default)]
struct Failures(u32);

impl Failures {
    /// How long to wait after an error that is not the fault of one connection, such as EMFILE.
    const PAUSE: Duration = Duration::from_millis(100);

    /// How long to wait after the fault of one connection, once [`MOST_AT_ONCE`](Self::MOST_AT_ONCE) have failed in a
    /// row. It is short, because clients can cause these errors and must not keep others waiting.
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
                || tracing::error!(%error, "accept fails again and again, waiting for a moment each time"),
            );
        }
        sleep(Self::SHORT_PAUSE).await;
    }
}

/// Whether the client has gone away before its connection was accepted: the next one may be well.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}
