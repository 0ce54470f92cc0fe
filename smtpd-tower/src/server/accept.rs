use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    task::{coop::consume_budget, yield_now},
    time::{sleep, timeout},
};
use tokio_util::either::Either;

use super::{
    Listener,
    farewell::{Farewells, Refused},
    latest::Latest,
};
use crate::{
    engine::{Accepted, Engine},
    fault::{caught, quietly},
    lifetime::{Registry, SessionPermit},
    net::PeerAddr,
};

/// Accepts the connections of one listener.
#[derive(Clone)]
pub(super) struct Acceptor {
    pub(super) engine: Arc<Engine>,
    pub(super) registry: Arc<Registry>,
    pub(super) max_sessions: usize,
    pub(super) implicit_tls: bool,
    pub(super) farewells: Arc<Farewells>,
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
                        self.begin::<L>(accepted);
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

    /// Starts a task for a session, or refuses the connection. A refusal costs no task, unless the listener needs one for it.
    fn begin<L: Listener>(&self, mut accepted: Accepted<L::Io>) {
        match self.admit(&mut accepted) {
            Ok(permit) => {
                let engine = self.engine.clone();
                tokio::spawn(engine.serve(accepted, self.implicit_tls, permit));
            }
            Err(refused) => {
                let Some(reply) = self.reply(&accepted, refused) else {
                    return;
                };
                // The listener's own code may panic.
                if let Ok(Err(io)) = caught(|| L::refuse(accepted.io, reply.as_bytes())) {
                    tokio::spawn(self.clone().say(io, reply.to_owned()));
                }
            }
        }
    }

    /// Serves one connection, or refuses it.
    pub(super) fn serve<IO>(
        self,
        mut accepted: Accepted<IO>,
    ) -> impl Future<Output = ()> + Send + use<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match self.admit(&mut accepted) {
            Ok(permit) => Either::Left(self.engine.serve(accepted, self.implicit_tls, permit)),
            Err(refused) => Either::Right(Box::pin(async move {
                if let Some(reply) = self.reply(&accepted, refused).map(str::to_owned) {
                    self.say(accepted.io, reply).await;
                }
            })),
        }
    }

    /// Returns the permit for a session, or why there is none.
    fn admit<IO>(&self, accepted: &mut Accepted<IO>) -> Result<SessionPermit, Refused> {
        let admitted = self.permit(accepted);
        if let Some(limit) = admitted.as_ref().err().and_then(|refused| refused.limit()) {
            let meters = &self.engine.listener.meters;
            meters.connection_refused(limit);
        }
        admitted
    }

    fn permit<IO>(&self, accepted: &mut Accepted<IO>) -> Result<SessionPermit, Refused> {
        if !self.engine.listener.memory.admits_session() {
            return Err(Refused::NoMemory);
        }
        let Some(permit) = self.registry.enter(self.max_sessions) else {
            return Err(self.full(&accepted.peer));
        };
        // The guard comes last: that the server is full is not to be counted against the client.
        let begins_tls = self.begins_tls(accepted);
        let visit = self.engine.admit(&accepted.peer, begins_tls);
        accepted.visit = visit.map_err(Refused::ByGuard)?;
        Ok(permit)
    }

    /// Returns whether the client has to begin with a TLS handshake.
    const fn begins_tls<IO>(&self, accepted: &Accepted<IO>) -> bool {
        self.implicit_tls && accepted.tls.is_none()
    }

    /// Notes that there are too many sessions. A line of the log for each client would be too many as well.
    fn full(&self, peer: &PeerAddr) -> Refused {
        if let Some(refused) = self.registry.refused() {
            let sessions = self.registry.taken();
            // A subscriber that panics must not prevent the reply.
            quietly(|| {
                tracing::warn!(%peer, sessions, refused, "too many sessions, client refused");
            });
        }
        Refused::Full
    }

    /// Returns the reply to a connection that is refused. Where TLS comes first, there is none: the client would read it as part
    /// of the handshake.
    fn reply<IO>(&self, accepted: &Accepted<IO>, refused: Refused) -> Option<&str> {
        if self.begins_tls(accepted) {
            return None;
        }
        Some(self.farewells.reply(refused, &self.engine.listener))
    }

    /// Sends a last reply. Without a permit for it, the connection is closed without a reply.
    async fn say<IO: AsyncWrite + Unpin>(self, mut io: IO, reply: String) {
        if let Some(_permit) = self.registry.farewell() {
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
            visit: None,
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
