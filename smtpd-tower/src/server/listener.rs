use std::{future::Future, io};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};

use crate::net::PeerAddr;

/// Where connections come from: TCP, a Unix socket, or anything of your own.
///
/// ```
/// use std::io;
///
/// use smtpd_tower::{Listener, PeerAddr};
/// use tokio::{io::DuplexStream, sync::mpsc};
///
/// /// Connections that come from within the process.
/// struct Pipes(mpsc::Receiver<DuplexStream>);
///
/// impl Listener for Pipes {
///     type Io = DuplexStream;
///
///     async fn accept(&mut self) -> io::Result<(DuplexStream, PeerAddr)> {
///         match self.0.recv().await {
///             Some(pipe) => Ok((pipe, PeerAddr::Unknown)),
///             None => std::future::pending().await, // none will come any more
///         }
///     }
///
///     fn local_addr(&self) -> PeerAddr {
///         PeerAddr::Unknown
///     }
/// }
/// ```
pub trait Listener: Send + 'static {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection, and who is at its other end. It must not wait for anything that the client sends.
    ///
    /// # Errors
    ///
    /// The server survives every error and calls this again. `ConnectionAborted`, `ConnectionRefused`, `ConnectionReset`
    /// and `Interrupted` concern one connection: it goes on after the other tasks of its thread had their turn, and from
    /// the hundredth in a row waits for a millisecond after each. After any other error, such as too many open files, it
    /// waits for 100 ms. Where no connection will come any more, return a future that stays pending.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Io, PeerAddr)>> + Send;

    /// The address that is listened on.
    fn local_addr(&self) -> PeerAddr;

    /// The address that a client has connected to, where [`local_addr`](Self::local_addr) leaves it open.
    fn connection_addr(_io: &Self::Io) -> Option<PeerAddr> {
        None
    }
}

impl Listener for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, PeerAddr)> {
        let (stream, peer) = Self::accept(self).await?;
        // Replies leave in one write each: held back, they would wait for the client's delayed acknowledgement.
        // macOS refuses this for a connection that was reset already; the session finds that out by itself.
        let _ = stream.set_nodelay(true);
        Ok((stream, peer.into()))
    }

    fn local_addr(&self) -> PeerAddr {
        Self::local_addr(self).map_or(PeerAddr::Unknown, PeerAddr::from)
    }

    fn connection_addr(io: &TcpStream) -> Option<PeerAddr> {
        io.local_addr().ok().map(PeerAddr::from)
    }
}

#[cfg(unix)]
impl Listener for tokio::net::UnixListener {
    type Io = tokio::net::UnixStream;

    async fn accept(&mut self) -> io::Result<(Self::Io, PeerAddr)> {
        let (stream, peer) = Self::accept(self).await?;
        Ok((stream, PeerAddr::unix(peer.as_pathname())))
    }

    fn local_addr(&self) -> PeerAddr {
        let addr = Self::local_addr(self).ok();
        PeerAddr::unix(addr.as_ref().and_then(|addr| addr.as_pathname()))
    }
}
