use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::lifetime::{Registry, later};

/// Shuts a [`Server`](crate::server::Server) down, and counts its sessions.
///
/// ```
/// use std::time::Duration;
///
/// use smtpd_tower::{Pipeline, Server};
/// use tokio::net::TcpListener;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = Server::new("mx.example.org", Pipeline::new());
/// let handle = server.handle();
/// let serving =
///     tokio::spawn(server.serve(TcpListener::bind("127.0.0.1:0").await?));
///
/// // For example, when a signal arrives:
/// handle.shutdown(Duration::from_secs(30)).await;
/// assert_eq!(handle.sessions(), 0);
/// serving.await??;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) registry: Arc<Registry>,
}

impl Handle {
    /// Starts to shut the server down. The returned future completes when there is no session left. The shutdown does not depend
    /// on it: it goes on, and `grace` is observed, if the future is dropped or never polled.
    ///
    /// From this call on, no connection is accepted. A session ends with 421 4.3.2 (RFC 5321 section 3.8) as soon as it is
    /// between two messages and its replies are written, whatever its client has sent ahead; an open transaction may continue.
    /// After `grace`, all other sessions are ended with 421, and the calls of services are dropped. Only a message that has
    /// arrived completely by then has half of [`Timeouts::linger`](smtpd_core::Timeouts::linger) more for its reply.
    ///
    /// A connection is closed once the client has closed its side, or after [`Timeouts::linger`](smtpd_core::Timeouts::linger),
    /// so that the last reply is not lost in a reset. With the default of 1 second, there is no session left after `grace` and 1
    /// second. Even a `grace` of zero takes up to 1 second if clients do not close their side.
    ///
    /// A message that a service is still processing after `grace` is not acknowledged. The client sends it again, and what the
    /// service had done may be done twice.
    ///
    /// A second call can only shorten the time: the earlier end applies.
    ///
    /// [The guide](crate::guide::running#signals-and-the-end) says how to combine it with signals, systemd and containers.
    pub fn shutdown(&self, grace: Duration) -> impl Future<Output = ()> + Send + use<> {
        self.registry.drain_until(later(Instant::now(), grace));
        let registry = self.registry.clone();
        async move { registry.empty().await }
    }

    /// Returns the current number of sessions.
    pub fn sessions(&self) -> usize {
        self.registry.taken()
    }
}
