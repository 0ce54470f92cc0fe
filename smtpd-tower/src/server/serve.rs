//! The future that serves a listener. Its settings can be changed until it is first polled.

use std::{
    fmt, io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use super::{
    Handle, Listener, Server,
    accept::Acceptor,
    latest::{Latest, Override},
};
use crate::{
    service::Pipeline,
    session::{Profile, ShuttingDown},
};

type Running<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A future that serves a listener until the server is shut down and its sessions have ended. [`Server::serve`] returns it.
///
/// Its settings apply to this listener only. They are read at the first poll; later changes have no effect.
///
/// ```no_run
/// use smtpd_tower::{BoxError, Pipeline, Profile, Server, domains::Domains};
/// use tokio::net::{TcpListener, UnixListener};
///
/// # async fn run(pipeline: Pipeline) -> Result<(), BoxError> {
/// let domains = Domains::parse(["example.org"])?;
/// let server = Server::new("mail.example.org", pipeline).domains(domains);
/// tokio::try_join!(
///     server.serve(TcpListener::bind("[::]:25").await?).profile(Profile::Mx),
///     server.serve(UnixListener::bind("/run/lmtp")?).profile(Profile::Lmtp),
/// )?;
/// # Ok(()) }
/// # fn main() {}
/// ```
///
/// # Errors
///
/// The output is an error if something is missing that the [profile](Self::profile) or [`tls_first`](Self::tls_first) need, or
/// if no session could work with the configuration, as [`Config::check`](smtpd_core::Config::check) finds. Errors of accept are
/// logged, and the server goes on accepting.
#[must_use = "a listener is served while this future is polled"]
pub struct Serve<L> {
    server: Server,
    /// Where later servers come from.
    latest: Option<Latest>,
    overrides: Vec<Override>,
    /// `None` from the first poll on.
    listener: Option<L>,
    shutdown: Option<GracefulShutdown>,
    running: Option<Running<io::Result<()>>>,
}

struct GracefulShutdown {
    signal: Running<()>,
    grace: Duration,
}

impl<L: Listener> Serve<L> {
    pub(super) const fn new(server: Server, latest: Option<Latest>, listener: L) -> Self {
        Self {
            server,
            latest,
            overrides: Vec::new(),
            listener: Some(listener),
            shutdown: None,
            running: None,
        }
    }

    /// Sets the profile of this listener, as [`Server::profile`] does.
    pub fn profile(mut self, profile: Profile) -> Self {
        self.overrides.push(Override::Profile(profile));
        self
    }

    /// Sets the pipeline of this listener, as [`Server::pipeline`] does.
    pub fn pipeline(mut self, pipeline: Pipeline) -> Self {
        self.overrides.push(Override::Pipeline(Box::new(pipeline)));
        self
    }

    /// Expects TLS from the first byte (RFC 8314 section 3.3), as on port 465. [`Profile::Submissions`] implies it. Needs a
    /// [TLS configuration](Server::tls).
    #[cfg(feature = "tls")]
    pub fn tls_first(mut self) -> Self {
        self.overrides.push(Override::TlsFirst);
        self
    }

    /// Speaks LMTP (RFC 2033) on this listener. [`Profile::Lmtp`] implies it.
    pub fn lmtp(mut self) -> Self {
        self.overrides.push(Override::Lmtp);
        self
    }

    /// Checks the settings as the first poll of this future does: a program can tell its supervisor that it is ready before it
    /// serves.
    ///
    /// ```
    /// use smtpd_tower::{Pipeline, Profile, Server};
    /// use tokio::net::TcpListener;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
    /// let server = Server::new("mx.example.org", Pipeline::new());
    /// let serve = server.serve(TcpListener::bind("127.0.0.1:0").await?);
    /// assert!(serve.check().is_ok());
    /// let error = serve.profile(Profile::Mx).check().unwrap_err();
    /// assert_eq!(error.to_string(), "Profile::Mx needs Server::domains");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the error that this future would return at once.
    pub fn check(&self) -> io::Result<()> {
        let mut server = Override::apply_all(&self.overrides, &self.server);
        if let Some(listener) = &self.listener {
            server = Override::WithinTls(listener.is_tls()).apply_to(server);
        }
        server.settings.engine(ShuttingDown::default()).map(drop)
    }

    /// Shuts the server down once `signal` completes, like [`Handle::shutdown`] with this `grace`. The output of `signal` is
    /// ignored. A second call replaces the signal of the first.
    ///
    /// This shuts the whole server down: all its listeners, and those of its clones.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use smtpd_tower::{Pipeline, Server};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:2525").await?;
    /// Server::new("mx.example.org", Pipeline::new())
    ///     .serve(listener)
    ///     .with_graceful_shutdown(tokio::signal::ctrl_c(), Duration::from_secs(30))
    ///     .await
    /// # }
    /// ```
    pub fn with_graceful_shutdown<F>(mut self, signal: F, grace: Duration) -> Self
    where
        F: Future + Send + 'static,
    {
        let signal = Box::pin(async move { drop(signal.await) });
        self.shutdown = Some(GracefulShutdown { signal, grace });
        self
    }
}

impl<L: Listener> Future for Serve<L> {
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let serve = self.get_mut();
        if let Some(listener) = serve.listener.take() {
            let within_tls = Override::WithinTls(listener.is_tls());
            serve.overrides.push(within_tls);
            let server = Override::apply_all(&serve.overrides, &serve.server);
            let acceptor = match server.into_acceptor() {
                Ok(acceptor) => acceptor,
                Err(error) => return Poll::Ready(Err(error)),
            };
            let latest = serve.latest.take();
            let latest = latest.map(|latest| latest.with(serve.overrides.clone()));
            serve.running = Some(match serve.shutdown.take() {
                Some(shutdown) => {
                    let handle = serve.server.handle();
                    Box::pin(run_until(acceptor, latest, listener, shutdown, handle))
                }
                None => Box::pin(acceptor.run(listener, latest)),
            });
        }
        let Some(running) = &mut serve.running else {
            // It was polled again after its end.
            return Poll::Pending;
        };
        let served = ready!(running.as_mut().poll(cx));
        serve.running = None;
        Poll::Ready(served)
    }
}

async fn run_until<L: Listener>(
    acceptor: Acceptor,
    latest: Option<Latest>,
    listener: L,
    GracefulShutdown { signal, grace }: GracefulShutdown,
    handle: Handle,
) -> io::Result<()> {
    let mut serving = pin!(acceptor.run(listener, latest));
    tokio::select! {
        served = &mut serving => return served,
        () = signal => {}
    }
    tokio::join!(serving, handle.shutdown(grace)).0
}

/// No field is pinned structurally.
impl<L> Unpin for Serve<L> {}

impl<L> fmt::Debug for Serve<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}
