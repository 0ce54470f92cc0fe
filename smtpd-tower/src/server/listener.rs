use std::{
    future::Future,
    io::{self, Write},
    net::Shutdown,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};

use crate::{net::PeerAddr, session::TlsInfo};

/// A source of connections: TCP, a Unix socket, or a type of your own.
///
/// For a listener that performs TLS handshakes itself, such as one of QUIC or one behind a TLS terminator, implement
/// [`is_tls`](Self::is_tls) and [`connection_tls`](Self::connection_tls).
///
/// [The guide](crate::guide::listeners) shows servers with several listeners.
///
/// ```
/// use std::io;
///
/// use smtpd_tower::{net::PeerAddr, server::Listener};
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
///             // There will be no more connections.
///             None => std::future::pending().await,
///         }
///     }
///
///     fn local_addr(&self) -> PeerAddr {
///         PeerAddr::Unknown
///     }
/// }
/// ```
pub trait Listener: Send + 'static {
    /// The type of a connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Accepts the next connection. Returns it with the address of its other end. It must not wait for anything that a client
    /// sends, such as a TLS handshake: one client could keep all others waiting. If there will be no more connections, return a
    /// future that stays pending.
    ///
    /// The server may drop the returned future before it is ready, so no connection may be lost with it.
    ///
    /// # Errors
    ///
    /// The server calls this again after every error. `ConnectionAborted`, `ConnectionRefused`, `ConnectionReset` and
    /// `Interrupted` concern one connection: the server lets other tasks run and continues, and from the hundredth such error in
    /// a row it waits for 1 ms after each. After any other error, such as too many open files, it waits for 100 ms.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Io, PeerAddr)>> + Send;

    /// Returns the address that is listened on.
    fn local_addr(&self) -> PeerAddr;

    /// Returns the address that the client of this connection has connected to. It is called if [`local_addr`](Self::local_addr)
    /// is not an IP address, or is the unspecified one. Default: `None`, and then `local_addr` is used.
    fn connection_addr(_io: &Self::Io) -> Option<PeerAddr> {
        None
    }

    /// Returns whether all connections come within TLS. The server then needs no TLS configuration, also for profiles that
    /// require one, and closes a connection whose [`connection_tls`](Self::connection_tls) is `None`. Default: `false`.
    fn is_tls(&self) -> bool {
        false
    }

    /// Returns what TLS has negotiated on this connection, for [`Session::tls`](crate::session::Session::tls). Default: `None`,
    /// which means plaintext.
    ///
    /// A session within TLS does not offer STARTTLS, and accepts mechanisms such as PLAIN. EXTERNAL is offered if there are
    /// client certificates, which the listener must have verified.
    fn connection_tls(_io: &Self::Io) -> Option<TlsInfo> {
        None
    }

    /// Refuses a connection: sends `reply` without waiting, and closes it. The server calls this if there are too many sessions
    /// or if the [guard](crate::guard) refuses the client, which should cost as little as possible. What cannot be sent at once
    /// may be lost. Default: returns the connection, and then the server sends the reply in a task.
    ///
    /// # Errors
    ///
    /// Returns the connection if nothing was sent.
    fn refuse(io: Self::Io, _reply: &[u8]) -> Result<(), Self::Io> {
        Err(io)
    }
}

impl Listener for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, PeerAddr)> {
        let (stream, peer) = Self::accept(self).await?;
        // Each reply is one write. Nagle's algorithm would delay it until the client's delayed acknowledgement.
        // macOS rejects this for a connection that is reset already, which the session notices itself.
        let _ = stream.set_nodelay(true);
        Ok((stream, peer.into()))
    }

    fn local_addr(&self) -> PeerAddr {
        Self::local_addr(self).map_or(PeerAddr::Unknown, PeerAddr::from)
    }

    fn connection_addr(io: &TcpStream) -> Option<PeerAddr> {
        io.local_addr().ok().map(PeerAddr::from)
    }

    fn refuse(io: TcpStream, reply: &[u8]) -> Result<(), TcpStream> {
        // tokio does not know yet whether it is writable, and the system does. If it is broken, nobody waits for the reply.
        let _ = io.into_std().and_then(|mut io| {
            // The reply leaves together with the end of the connection, in one packet.
            #[cfg(target_os = "linux")]
            socket2::SockRef::from(&io).set_tcp_cork(true)?;
            io.write_all(reply)?;
            // Closing would throw away what is held back if the client has sent something, which nobody reads.
            io.shutdown(Shutdown::Write)
        });
        Ok(())
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

    fn refuse(io: Self::Io, reply: &[u8]) -> Result<(), Self::Io> {
        let _ = io.into_std().and_then(|mut io| io.write(reply));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_client_that_has_talked_already_loses_the_reply_of_a_refusal() {
        let mut listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(addr).await.unwrap();
        let (server, _) = Listener::accept(&mut listener).await.unwrap();
        client.write_all(b"QUIT\r\n").await.unwrap();
        server.readable().await.unwrap();
        assert!(<TcpListener as Listener>::refuse(server, b"421 Go\r\n").is_ok());
        let mut client = client.into_std().unwrap();
        client.set_nonblocking(false).unwrap();
        let mut reply = [0; 8];
        client.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"421 Go\r\n");
    }
}
