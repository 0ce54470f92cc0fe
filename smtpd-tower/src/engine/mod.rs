//! One session: drives a [`Connection`] over a stream, and asks the services.

mod ask;
mod commands;
mod hooks;
mod proxied;
#[cfg(feature = "tls")]
mod secure;
mod stream;
mod timer;
mod transfer;
mod wire;

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use smtpd_core::{CloseReason, Config, Connection, Event, Protocol};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::Instant,
};

pub use self::hooks::{EndReason, SessionError, Summary};
pub(crate) use self::hooks::{ErrorHook, Hooks};
use self::{
    commands::{Asking, Turn},
    stream::Stream,
    wire::Wire,
};
use crate::{
    Envelope, PeerAddr, Pipeline, Session, TrustedPeers,
    server::{Seat, Stage},
    session::ListenerFacts,
};

/// What the sessions of a listener share.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) pipeline: Pipeline,
    pub(crate) config: Arc<Config>,
    pub(crate) listener: Arc<ListenerFacts>,
    pub(crate) protocol: Protocol,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<crate::tls::TlsConfig>,
    #[cfg(feature = "proxy")]
    pub(crate) proxy: Option<crate::ProxyProtocol>,
    pub(crate) xclient_from: Option<TrustedPeers>,
    pub(crate) xforward_from: Option<TrustedPeers>,
    pub(crate) hooks: Hooks,
}

/// One session.
struct Driver<IO> {
    engine: Arc<Engine>,
    connection: Connection,
    wire: Wire<IO>,
    session: Session,
    envelope: Option<Arc<Envelope>>,
    seat: Seat,
    started: Instant,
    /// What has ended a message before its time, and is to be handled next.
    next: Option<Box<Event>>,
    asking: Option<Asking<IO>>,
}

/// Why a session cannot go on.
enum Stop {
    Closed(CloseReason),
    Lost(Option<io::Error>),
    #[cfg(feature = "proxy")]
    ProxyFailed(io::Error),
    #[cfg(feature = "tls")]
    TlsFailed(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Lost(Some(error))
    }
}

/// What has come of waiting for the client.
enum Arrival {
    Input,
    End,
    Timeout,
    Draining,
}

/// How long a connection that is closed against the client's will is read on, and how much, so that the last reply is not
/// lost in a reset.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_OCTETS: u64 = 1 << 20;

impl Engine {
    /// Serves one connection to its end. `implicit_tls` tells that TLS comes before the greeting.
    // No async function: its future would hold the arguments twice, and every idle session pays for that.
    pub(crate) fn serve<IO>(
        self: Arc<Self>,
        io: IO,
        peer: PeerAddr,
        local: PeerAddr,
        implicit_tls: bool,
        seat: Seat,
    ) -> impl Future<Output = ()> + Send + use<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let now = Instant::now();
        let mut driver = Driver {
            connection: Connection::new(self.config.clone(), now.into_std()),
            wire: Wire::new(Stream::Plain(io)),
            session: Session::new(peer, local, self.listener.clone(), self.protocol),
            engine: self,
            envelope: None,
            seat,
            started: now,
            next: None,
            asking: None,
        };
        async move { driver.run(implicit_tls).await }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static> Driver<IO> {
    async fn run(&mut self, implicit_tls: bool) {
        let stop = match self.converse(implicit_tls).await {
            Ok(reason) => Stop::Closed(reason),
            Err(stop) => stop,
        };
        let reason = self.close(stop).await;
        self.log_wire();
        let summary = Summary {
            reason,
            messages: self.connection.messages(),
            received: self.wire.received,
            sent: self.wire.sent,
            duration: self.started.elapsed(),
        };
        tracing::debug!(session = self.session.id(), peer = %self.session.peer(), %reason, summary.messages, "session closed");
        if let Some(hook) = &self.engine.hooks.close {
            hook(&self.session, &summary);
        }
    }

    async fn converse(&mut self, implicit_tls: bool) -> Result<CloseReason, Stop> {
        #[cfg(feature = "proxy")]
        if self.expects_proxy() {
            Box::pin(self.read_proxy_header()).await?;
        }
        #[cfg(feature = "tls")]
        if implicit_tls {
            let config = self.engine.config.clone();
            let restart = |connection: &mut Connection| {
                *connection = Connection::with_tls(config, Instant::now().into_std());
            };
            Box::pin(self.secure(restart)).await?;
        }
        #[cfg(not(feature = "tls"))]
        let _ = implicit_tls;
        self.allow_claims();
        loop {
            match poll_fn(|cx| self.poll_commands(cx)).await? {
                Turn::Starved => {}
                Turn::Data => {
                    Box::pin(self.transfer()).await?;
                    continue;
                }
                #[cfg(feature = "tls")]
                Turn::StartTls => {
                    Box::pin(self.start_tls()).await?;
                    continue;
                }
                Turn::Closed(reason) => return Ok(reason),
            }
            let congested = self.connection.is_congested();
            self.flush().await?;
            if congested {
                continue;
            }
            match self.arrival().await? {
                Arrival::Input | Arrival::Draining => {}
                Arrival::End => return Err(Stop::Lost(None)),
                Arrival::Timeout => self.connection.handle_timeout(Instant::now().into_std()),
            }
        }
    }

    /// Ends the session between two messages while the server drains, and anywhere once the time for that is over.
    /// Returns whether it has.
    fn heed_stage(&mut self) -> bool {
        match self.seat.stage() {
            Stage::Running => false,
            Stage::Draining => self.connection.handle_shutdown(),
            Stage::Ending => self.connection.shut_down(),
        }
    }

    /// Waits for the client.
    async fn arrival(&mut self) -> Result<Arrival, Stop> {
        let deadline = self.connection.poll_timeout().map(Instant::from_std);
        let (wire, seat) = (&mut self.wire, &self.seat);
        // A transaction that is going on may still end while the server drains.
        let stage = if seat.stage() >= Stage::Draining {
            Stage::Ending
        } else {
            Stage::Draining
        };
        poll_fn(|cx| {
            if let Poll::Ready(read) = wire.poll_read(cx) {
                let arrival = if read? == 0 {
                    Arrival::End
                } else {
                    Arrival::Input
                };
                return Poll::Ready(Ok(arrival));
            }
            if deadline.is_some_and(|deadline| wire.timer.poll_until(cx, deadline).is_ready()) {
                return Poll::Ready(Ok(Arrival::Timeout));
            }
            seat.poll_stage(cx, stage).map(|()| Ok(Arrival::Draining))
        })
        .await
    }

    /// Writes the replies. A client that takes none of them in time is given up.
    async fn flush(&mut self) -> Result<(), Stop> {
        if self.connection.output().is_empty() {
            return Ok(());
        }
        let limit = self.engine.config.timeouts_ref().write;
        let mut progress = (self.wire.sent, Instant::now());
        let (wire, connection, seat) = (&mut self.wire, &mut self.connection, &self.seat);
        poll_fn(|cx| {
            if let Poll::Ready(result) = wire.poll_flush(cx, connection) {
                return Poll::Ready(result.map_err(Stop::from));
            }
            if wire.sent > progress.0 {
                progress = (wire.sent, Instant::now());
            }
            wire.park();
            let stalled = wire.timer.poll_until(cx, progress.1 + limit).is_ready();
            let ending = seat.poll_stage(cx, Stage::Ending).is_ready();
            if stalled || ending {
                Poll::Ready(Err(Stop::Lost(None)))
            } else {
                Poll::Pending
            }
        })
        .await
    }

    /// What goes on while a service works. Ready when it is in vain.
    fn poll_idle(&mut self, cx: &mut Context<'_>, watch: bool) -> Poll<Stop> {
        let lost = match self.wire.poll_flush(cx, &mut self.connection) {
            Poll::Ready(Err(error)) => Poll::Ready(Stop::from(error)),
            _ if watch => self.wire.poll_gone(cx).map(|gone| Stop::Lost(gone.err())),
            _ => Poll::Pending,
        };
        self.wire.park();
        if lost.is_ready() {
            return lost;
        }
        self.seat.poll_stage(cx, Stage::Ending).map(|()| {
            self.connection.shut_down();
            Stop::Closed(CloseReason::Shutdown)
        })
    }

    /// Says the last words and closes.
    async fn close(&mut self, stop: Stop) -> EndReason {
        self.asking = None;
        match stop {
            Stop::Closed(reason) => {
                if self.flush().await.is_ok() && reason != CloseReason::Quit {
                    self.linger().await;
                } else {
                    let _ = tokio::time::timeout(LINGER, self.wire.stream.shutdown()).await;
                }
                EndReason::Closed(reason)
            }
            Stop::Lost(error) => {
                if let Some(error) = error {
                    self.report(SessionError::Io(error));
                }
                EndReason::Lost
            }
            #[cfg(feature = "proxy")]
            Stop::ProxyFailed(error) => {
                self.report(SessionError::Proxy(error));
                EndReason::ProxyFailed
            }
            #[cfg(feature = "tls")]
            Stop::TlsFailed(error) => {
                self.report(SessionError::Tls(error));
                EndReason::TlsFailed
            }
        }
    }

    /// Closes the way out, then reads on for a moment: closing with unread input would reset the connection, and the
    /// client might never see why.
    async fn linger(&mut self) {
        let end = Instant::now() + LINGER;
        let most = self.wire.received + LINGER_OCTETS;
        let mut down = false;
        let wire = &mut self.wire;
        poll_fn(|cx| {
            if !down {
                down = Pin::new(&mut wire.stream).poll_shutdown(cx).is_ready();
            }
            wire.input.clear();
            while let Poll::Ready(read) = wire.poll_read(cx) {
                wire.input.clear();
                if read.is_err() || wire.eof || wire.received > most {
                    return Poll::Ready(());
                }
            }
            wire.timer.poll_until(cx, end)
        })
        .await;
    }

    fn report(&self, error: SessionError) {
        self.session.report(&error);
    }

    #[inline]
    fn log_wire(&mut self) {
        while let Some(line) = self.connection.poll_wire_line() {
            tracing::trace!(session = self.session.id(), "{line}");
            if let Some(hook) = &self.engine.hooks.wire {
                hook(&self.session, &line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of what a function of the engine's form returns.
    fn size_of_result<T, A, B, C, D, E, F>(_: fn(A, B, C, D, E, F) -> T) -> usize {
        size_of::<T>()
    }

    #[test]
    fn an_idle_session_carries_no_room_for_what_is_rare() {
        let session = size_of_result(Engine::serve::<tokio::net::TcpStream>);
        assert!(
            session <= 768,
            "the future of a session has {session} octets"
        );
    }
}
