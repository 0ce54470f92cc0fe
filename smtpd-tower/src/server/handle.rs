use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use crate::lifetime::{Registry, Stage};

/// Ends a [`Server`](crate::server::Server), and tells how many sessions it has.
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
/// let serving = tokio::spawn(server.serve(TcpListener::bind("127.0.0.1:0").await?));
///
/// // Where a signal comes, for instance:
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
    /// Shuts the server down, and returns when it has no session left.
    ///
    /// From now on no connection is accepted. A session ends with 421 4.3.2 (RFC 5321 section 3.8) as soon as it is between two
    /// messages and its replies are written, whatever its client has sent ahead; a transaction that is open may still end. What is
    /// left after `grace` is ended with 421 wherever it is, and the calls of services are dropped. Only a message that has come whole
    /// by then has half of [`Timeouts::linger`](smtpd_core::Timeouts::linger) more for its reply.
    ///
    /// A connection is closed once the client has closed its side, or after
    /// [`Timeouts::linger`](smtpd_core::Timeouts::linger), 1 second, so that the last reply is not lost in a reset. So this returns
    /// within `grace` and 1 second, and `grace` of zero takes up to 1 second where clients do not close.
    ///
    /// A message whose service was still at work after `grace` is not acknowledged, so the client sends it again; what the
    /// service had done may be done twice.
    ///
    /// Await it to the end: the grace is kept by this future. If it is dropped, nothing more is accepted, but sessions that are
    /// still open go on until they end by themselves. Calling it again is allowed; the shorter grace holds.
    pub async fn shutdown(&self, grace: Duration) {
        self.registry.advance(Stage::Draining);
        if timeout(grace, self.registry.empty()).await.is_err() {
            self.registry.advance(Stage::Ending);
            self.registry.empty().await;
        }
    }

    /// Sessions at present.
    pub fn sessions(&self) -> usize {
        self.registry.taken()
    }
}
