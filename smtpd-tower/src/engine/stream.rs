//! What a session runs over.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a session runs over.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for T {}

/// A connection, in plaintext or over TLS. The TLS state is boxed, so that plain sessions do not carry it.
pub(super) enum Stream<IO> {
    Plain(IO),
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::server::TlsStream<IO>>),
    /// Nothing is left, because a handshake or a PROXY header is being read from it.
    #[cfg(any(feature = "tls", feature = "proxy"))]
    Gone,
}

impl<IO> Stream<IO> {
    /// Takes the connection out until it is put back.
    #[cfg(any(feature = "tls", feature = "proxy"))]
    pub(super) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Gone)
    }
}

macro_rules! each {
    ($self:expr, $io:ident => $then:expr) => {
        match $self.get_mut() {
            Self::Plain($io) => $then,
            #[cfg(feature = "tls")]
            Self::Tls($io) => $then,
            #[cfg(any(feature = "tls", feature = "proxy"))]
            Self::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    };
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}
