//! TLS: the handshake, in the session's own task and with its own limit.

use std::io;

use smtpd_core::{Connection, sasl::ChannelBindings};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout},
};

use super::{Driver, Stop, stream::Stream};
use crate::{TlsInfo, server::Stage};

impl<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static> Driver<IO> {
    /// STARTTLS: the 220 leaves alone, then everything starts anew (RFC 3207 section 4).
    pub(super) async fn start_tls(&mut self) -> Result<(), Stop> {
        self.flush().await?;
        self.wire.input.clear();
        let bindings = self.secure().await?;
        self.connection.handle_tls();
        self.connection.set_channel_bindings(bindings);
        Ok(())
    }

    /// TLS from the first octet on (RFC 8314 section 3.3).
    pub(super) async fn begin_tls(&mut self) -> Result<(), Stop> {
        let bindings = self.secure().await?;
        let now = Instant::now().into_std();
        self.connection = Connection::with_tls(self.engine.config.clone(), now);
        self.connection.set_channel_bindings(bindings);
        Ok(())
    }

    /// Puts TLS around the stream. A handshake that fails ends the session: it never goes on in plaintext.
    async fn secure(&mut self) -> Result<ChannelBindings, Stop> {
        let Some(acceptor) = self
            .engine
            .tls
            .as_ref()
            .map(crate::tls::TlsConfig::acceptor)
        else {
            return Err(Stop::TlsFailed(io::Error::other("no TLS configuration")));
        };
        let Stream::Plain(io) = std::mem::replace(&mut self.wire.stream, Stream::Gone) else {
            return Err(Stop::TlsFailed(io::ErrorKind::AlreadyExists.into()));
        };
        self.wire.park();
        let limit = self.engine.config.timeouts_ref().handshake;
        let seat = &self.seat;
        let handshake = timeout(limit, acceptor.accept(io));
        let ending = std::future::poll_fn(|cx| seat.poll_stage(cx, Stage::Ending));
        let result = tokio::select! {
            result = handshake => result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
            () = ending => Err(io::Error::other("the server shuts down")),
        };
        let stream = Box::new(result.map_err(Stop::TlsFailed)?);
        let tls = stream.get_ref().1;
        let bindings = crate::tls::channel_bindings(tls);
        self.session.secured(TlsInfo::of(tls));
        self.end_transaction();
        self.wire.stream = Stream::Tls(stream);
        Ok(bindings)
    }
}
