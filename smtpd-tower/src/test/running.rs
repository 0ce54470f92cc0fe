use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::{Client, ClientError, isolated};
use crate::server::{Handle, Listener, Server};

/// A server that runs on a free port of 127.0.0.1, for clients that need a socket.
///
/// If it is dropped instead of stopped, it accepts no more connections; existing ones continue.
///
/// ```
/// use smtpd_tower::{Server, test::{Recorder, Running}};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let running =
///     Running::start(Server::new("mx.example.org", Recorder::new().pipeline()))
///         .await?;
/// let mut client = running.client().await?;
/// client.greeting().await?.expect_code(220)?;
/// let address = running.address();
/// running.stop().await?;
/// assert!(tokio::net::TcpStream::connect(address).await.is_err());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    handle: Handle,
    serving: JoinHandle<io::Result<()>>,
}

impl Running {
    /// Starts the server. It accepts connections when this returns.
    ///
    /// # Errors
    ///
    /// Returns an error if the server [cannot be served](crate::server::Serve::check), or no port is available.
    pub async fn start(server: Server) -> io::Result<Self> {
        Self::start_with(server, |listener| listener).await
    }

    /// Starts the server with a listener that the function wraps, for example with a [`ChaosListener`](super::ChaosListener).
    ///
    /// # Errors
    ///
    /// Returns an error if the server [cannot be served](crate::server::Serve::check), or no port is available.
    pub async fn start_with<L: Listener>(
        server: Server,
        wrap: impl FnOnce(TcpListener) -> L,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (address, handle) = (listener.local_addr()?, server.handle());
        let serve = isolated(server).serve(wrap(listener));
        // Otherwise, a client would find a connection that is closed, and the cause would be seen at the end only.
        serve.check()?;
        Ok(Self {
            address,
            handle,
            serving: tokio::spawn(serve),
        })
    }

    /// Returns the address that it listens on.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the handle that ends the server and counts its sessions.
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Connects a new client to it.
    ///
    /// # Errors
    ///
    /// Like [`Client::tcp`].
    pub async fn client(&self) -> Result<Client<TcpStream>, ClientError> {
        Client::tcp(self.address).await
    }

    /// Stops the server, and returns when no session is left; existing sessions end at once, with 421. The [`Server`] and its
    /// clones serve nothing more.
    ///
    /// # Errors
    ///
    /// Returns the error of [`Server::serve`], or an error if it panicked.
    pub async fn stop(mut self) -> io::Result<()> {
        self.handle.shutdown(Duration::ZERO).await;
        (&mut self.serving).await?
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{session::Profile, test::Recorder};

    fn server() -> Server {
        Server::new("mx.test", Recorder::new().pipeline())
    }

    #[tokio::test]
    async fn sessions_end_when_it_stops() -> Result<(), ClientError> {
        let running = Running::start(server()).await?;
        let mut client = running.client().await?;
        client
            .send("a@b.c", ["d@e.f"], "hi")
            .await?
            .expect_code(250)?;
        client.mail("a@b.c").await?.expect_code(250)?;
        assert_eq!(running.handle().sessions(), 1);
        // The server waits for a client that stays.
        let last = async move { client.reply().await };
        let (stopped, last) = tokio::join!(running.stop(), last);
        stopped?;
        last?.expect_code(421)?;
        Ok(())
    }

    #[tokio::test]
    async fn a_server_that_cannot_be_served_is_reported_at_the_start() {
        for (server, cause) in [
            (server().profile(Profile::Mx), "Server::domains"),
            (
                Server::new("no host", Recorder::new().pipeline()),
                "no host",
            ),
        ] {
            let error = Running::start(server).await.unwrap_err().to_string();
            assert!(error.contains(cause), "{error}");
        }
    }

    #[tokio::test]
    async fn the_port_is_free_when_it_is_dropped() -> io::Result<()> {
        let running = Running::start(server()).await?;
        let address = running.address();
        drop(running);
        // The task ends when it is polled next.
        tokio::task::yield_now().await;
        assert!(TcpStream::connect(address).await.is_err());
        Ok(())
    }
}
