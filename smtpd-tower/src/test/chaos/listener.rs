use std::{fmt, io, sync::Arc};

use super::{ChaosStream, StreamChaos};
use crate::{net::PeerAddr, server::Listener, session::TlsInfo};

/// A listener whose connections are [`ChaosStream`]s.
///
/// ```
/// use smtpd_tower::{
///     Pipeline, Server,
///     test::{ChaosListener, ClientError, Running, StreamChaos},
/// };
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = Server::new("mx.example.org", Pipeline::new());
/// let chaos = StreamChaos::new().cut_after_read(10);
/// let running =
///     Running::start_with(server, |listener| ChaosListener::new(listener, chaos))
///         .await?;
/// let mut client = running.client().await?;
/// client.greeting().await?.expect_code(220)?;
/// assert!(matches!(
///     client.ehlo("client.example").await,
///     Err(ClientError::Closed | ClientError::Reset)
/// ));
/// # Ok(()) }
/// ```
pub struct ChaosListener<L> {
    listener: L,
    chaos: Arc<Choice>,
    accepted: u64,
}

type Choice = dyn Fn(u64) -> StreamChaos + Send + Sync;

impl<L> ChaosListener<L> {
    /// Applies the same faults to every connection.
    pub fn new(listener: L, chaos: StreamChaos) -> Self {
        Self::each(listener, move |_| chaos)
    }

    /// Calls `chaos` for each connection, with its number from 1.
    pub fn each(listener: L, chaos: impl Fn(u64) -> StreamChaos + Send + Sync + 'static) -> Self {
        Self {
            listener,
            chaos: Arc::new(chaos),
            accepted: 0,
        }
    }
}

impl<L: fmt::Debug> fmt::Debug for ChaosListener<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChaosListener")
            .field("listener", &self.listener)
            .field("accepted", &self.accepted)
            .finish_non_exhaustive()
    }
}

impl<L: Listener> Listener for ChaosListener<L> {
    type Io = ChaosStream<L::Io>;

    async fn accept(&mut self) -> io::Result<(Self::Io, PeerAddr)> {
        let (io, peer) = self.listener.accept().await?;
        self.accepted += 1;
        Ok((ChaosStream::new(io, (self.chaos)(self.accepted)), peer))
    }

    fn local_addr(&self) -> PeerAddr {
        self.listener.local_addr()
    }

    fn connection_addr(io: &Self::Io) -> Option<PeerAddr> {
        L::connection_addr(io.inner()?)
    }

    fn is_tls(&self) -> bool {
        self.listener.is_tls()
    }

    fn connection_tls(io: &Self::Io) -> Option<TlsInfo> {
        L::connection_tls(io.inner()?)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn connections_are_numbered_and_keep_their_addresses() -> io::Result<()> {
        let tcp = TcpListener::bind("127.0.0.1:0").await?;
        let address = tcp.local_addr()?;
        let mut listener = ChaosListener::each(tcp, |number| match number {
            2 => StreamChaos::new().cut_after_read(0),
            _ => StreamChaos::new(),
        });
        assert_eq!(listener.local_addr(), address.into());
        for (number, cut) in [(1, false), (2, true), (3, false)] {
            let near = TcpStream::connect(address).await?;
            let (mut far, peer) = listener.accept().await?;
            assert_eq!(peer, near.local_addr()?.into());
            assert_eq!(
                ChaosListener::<TcpListener>::connection_addr(&far),
                Some(address.into())
            );
            drop(near);
            let read = tokio::io::AsyncReadExt::read(&mut far, &mut [0; 1]).await;
            assert_eq!(read.is_err(), cut, "{number}");
        }
        Ok(())
    }
}
