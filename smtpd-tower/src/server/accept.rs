use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use smtpd_core::Reply;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::{sleep, timeout},
};
use tokio_util::either::Either;

use super::{
    Listener,
    registry::{Registry, Stage},
};
use crate::{PeerAddr, engine::Engine};

/// Accepts the connections of one listener.
#[derive(Clone)]
pub(super) struct Acceptor {
    pub(super) engine: Arc<Engine>,
    pub(super) registry: Arc<Registry>,
    pub(super) max_sessions: usize,
    pub(super) implicit_tls: bool,
}

/// How long to wait after an error of accept that is not the fault of one connection, such as EMFILE.
const PAUSE: Duration = Duration::from_millis(100);

impl Acceptor {
    pub(super) async fn run<L: Listener>(self, mut listener: L) -> io::Result<()> {
        let bound = listener.local_addr();
        let open = bound.ip().is_some_and(|ip| ip.is_unspecified());
        let registry = self.registry.clone();
        loop {
            let accepted = tokio::select! {
                biased;
                () = registry.draining() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((io, peer)) => {
                    let local = if open { L::connection_addr(&io) } else { None };
                    let local = local.unwrap_or_else(|| bound.clone());
                    tokio::spawn(self.clone().serve(io, peer, local));
                }
                Err(error) => self.pause(&error).await,
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
            Some(seat) => {
                let session = self.engine.serve(io, peer, local, self.implicit_tls, seat);
                Either::Left(session)
            }
            None => Either::Right(Box::pin(self.turn_away(io, peer))),
        }
    }

    async fn turn_away<IO: AsyncWrite + Unpin>(self, mut io: IO, peer: PeerAddr) {
        // A subscriber that panics must not keep the client from its reply.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            tracing::warn!(%peer, sessions = self.registry.taken(), "too many sessions, connection turned away");
        }));
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

    async fn pause(&self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
        if !matches!(
            error.kind(),
            ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
        ) {
            tracing::error!(%error, "accept failed, waiting for a moment");
            sleep(PAUSE).await;
        }
    }
}
