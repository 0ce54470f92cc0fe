//! A server: listeners, limits and its end.
//!
//! | item | what it is |
//! |---|---|
//! | [`Server`] | serves listeners and single connections by a pipeline |
//! | [`Handle`] | shuts a server down, and counts its sessions |
//! | [`Listener`] | what a server accepts connections from |
//! | [`system_hostname`] | the name of this machine |
//! | `bind_reuse_port` (on Unix) | binds one of several listeners of a port |

mod accept;
mod handle;
mod hostname;
mod listener;
mod profile;
// Where tokio has `TcpSocket::set_reuseport`.
#[cfg(all(
    unix,
    not(any(
        target_os = "solaris",
        target_os = "illumos",
        target_os = "cygwin",
        target_os = "nuttx"
    ))
))]
mod reuse_port;

use std::{fmt, future::ready, io, pin::pin, sync::Arc, time::Duration};

use smtpd_core::{Config, Envelope, Protocol, WireLine};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, ToSocketAddrs},
};
use tokio_util::either::Either;

#[cfg(all(
    unix,
    not(any(
        target_os = "solaris",
        target_os = "illumos",
        target_os = "cygwin",
        target_os = "nuttx"
    ))
))]
pub use self::reuse_port::bind_reuse_port;
use self::{accept::Acceptor, profile::MaxHops};
pub use self::{handle::Handle, hostname::system_hostname, listener::Listener};
#[cfg(feature = "proxy")]
use crate::proxy::ProxyProtocol;
use crate::{
    engine::{Engine, Hooks},
    fault::quietly,
    layer::DomainFilterLayer,
    lifetime::Registry,
    net::{PeerAddr, TrustedPeers},
    service::Pipeline,
    session::{ListenerFacts, Profile, Session, SessionError, Summary},
};

/// Serves SMTP, SMTP over TLS and LMTP by a [`Pipeline`].
///
/// What must be given is an argument of [`new`](Self::new); the rest is set before the first listener is served. A server
/// is cheap to clone. Clones count their sessions together ([`max_sessions`](Self::max_sessions)) and are shut down together;
/// profile, pipeline and configuration are each clone's own.
///
/// ```no_run
/// use smtpd_tower::{Data, Pipeline, Rcpt, Reply, Request, Server, handler_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// let pipeline = Pipeline::new()
///     .rcpt(handler_fn(async |_: Request<Rcpt>| {}))
///     .data(handler_fn(async |request: Request<Data>| {
///         request.into_body().collect().await.map(|message| Reply::ok(format!("{} octets", message.len())))
///     }));
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:2525").await?;
/// Server::new("mx.example.org", pipeline)
///     .configure(|config| config.max_message_size(10 << 20))
///     .serve(listener)
///     .await
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Server {
    settings: Settings,
    registry: Arc<Registry>,
}

#[derive(Clone)]
struct Settings {
    config: Config,
    profile: Option<Profile>,
    domains: Option<DomainFilterLayer>,
    max_hops: MaxHops,
    pipeline: Pipeline,
    hooks: Hooks,
    max_sessions: usize,
    #[cfg(feature = "proxy")]
    proxy: Option<ProxyProtocol>,
    xclient_from: Option<TrustedPeers>,
    xforward_from: Option<TrustedPeers>,
    #[cfg(feature = "tls")]
    tls: Option<crate::tls::TlsConfig>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("config", &self.config)
            .field("profile", &self.profile)
            .field("pipeline", &self.pipeline)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Where [`listen_and_serve`](Self::listen_and_serve) listens by custom: port 25 of every address.
    pub const DEFAULT_ADDRESS: &'static str = "[::]:25";

    /// How many sessions there may be at once, where nothing else is set.
    pub const DEFAULT_MAX_SESSIONS: usize = 10_000;

    /// A server for the host of that name; [`system_hostname`] tells this machine's.
    ///
    /// With an [`auth`](Pipeline::auth) service in the pipeline, the [default mechanisms](smtpd_core::sasl::Mechanisms::default) are on, PLAIN
    /// and LOGIN, which are offered over TLS only; [`Config::mechanisms`] puts others in their place. Without that service
    /// none is.
    pub fn new(hostname: impl Into<String>, pipeline: Pipeline) -> Self {
        let settings = Settings {
            config: Config::new(hostname).entropy(fill_random),
            profile: None,
            domains: None,
            max_hops: MaxHops::default(),
            pipeline: Pipeline::new(),
            hooks: Hooks::default(),
            max_sessions: Self::DEFAULT_MAX_SESSIONS,
            #[cfg(feature = "proxy")]
            proxy: None,
            xclient_from: None,
            xforward_from: None,
            #[cfg(feature = "tls")]
            tls: None,
        };
        let server = Self {
            settings,
            registry: Registry::new(),
        };
        server.pipeline(pipeline)
    }

    /// Serves by another pipeline. A listener has one of its own by a clone of the server:
    /// `server.clone().pipeline(users).serve(listener)`.
    ///
    /// AUTH is offered as [`new`](Self::new) tells, or by the mechanisms that were set before.
    #[must_use]
    pub fn pipeline(mut self, pipeline: Pipeline) -> Self {
        self.settings.pipeline = pipeline;
        self.offer_auth()
    }

    /// Changes the protocol's settings: limits, timeouts, extensions, mechanisms, what is required.
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(Config) -> Config) -> Self {
        self.settings.config = change(self.settings.config);
        self
    }

    /// The certificate and all else that TLS needs. STARTTLS is offered with it, and [`serve_tls`](Self::serve_tls) works.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, config: crate::tls::TlsConfig) -> Self {
        self.settings.tls = Some(config);
        self
    }

    /// Expects a PROXY header from trusted peers, before anything else. A clone of the server without it can serve other
    /// listeners.
    #[cfg(feature = "proxy")]
    #[must_use]
    pub fn proxy_protocol(mut self, protocol: ProxyProtocol) -> Self {
        self.settings.proxy = Some(protocol);
        self
    }

    /// Lets trusted peers say by XCLIENT for which client they speak. A peer is trusted by [`Session::client_addr`]: the other end of
    /// the socket or, behind a PROXY header, the client that the header names.
    ///
    /// The session then starts anew: the connect service is asked again, now about that client, and nothing of what was kept
    /// for the peer is left. So the peer itself has to get past that service first, and its limits. Of the session,
    /// [`Session::helo`] and [`Session::identity`] are what XCLIENT says of them, if anything. [`Session::tls`] still tells of
    /// the peer's connection, but without its certificate, and neither EXTERNAL nor the -PLUS forms of SCRAM are offered: they
    /// would vouch for the peer.
    ///
    /// Once the peer has named an address, neither XCLIENT nor XFORWARD is accepted any more. Others receive 550 5.7.0, and
    /// EHLO does not announce it to them.
    #[must_use]
    pub fn xclient_from(mut self, peers: TrustedPeers) -> Self {
        self.settings.xclient_from = Some(peers);
        self
    }

    /// Lets trusted peers say by XFORWARD where their messages came from, for [`Session::forwarded`]. It decides nothing.
    #[must_use]
    pub fn xforward_from(mut self, peers: TrustedPeers) -> Self {
        self.settings.xforward_from = Some(peers);
        self
    }

    /// What [`tls`](Self::tls) was given: to [reload](crate::tls::TlsConfig::reload) it, for one.
    #[cfg(feature = "tls")]
    pub fn tls_ref(&self) -> Option<&crate::tls::TlsConfig> {
        self.settings.tls.as_ref()
    }

    /// Sessions at once, over all listeners; one more is turned away with 421 4.3.2. 10,000 by default.
    ///
    /// Each session takes a file descriptor: raise the limit of the process, or set this below it.
    #[must_use]
    pub fn max_sessions(mut self, sessions: usize) -> Self {
        self.settings.max_sessions = sessions;
        self
    }

    /// Calls a function for every line that is read or written. Secrets and messages are left out. Replaces a hook that was set
    /// before.
    ///
    /// ```
    /// use smtpd_tower::{Pipeline, Server};
    ///
    /// let server = Server::new("mx.example.org", Pipeline::new())
    ///     .on_wire(|session, line| println!("{} {line}", session.id())); // 7 C: EHLO client.example
    /// ```
    #[must_use]
    pub fn on_wire(mut self, hook: impl Fn(&Session, &WireLine) + Send + Sync + 'static) -> Self {
        self.settings.hooks.wire = Some(Arc::new(hook));
        self.settings.config = self.settings.config.log_wire(true);
        self
    }

    /// Calls a function for everything that goes wrong in a session, beside the log: faults on this side, and failures of the
    /// connection. What tower's `Timeout` and `LoadShed` turn away is not among it; [`guide::errors`](crate::guide::errors) has
    /// the whole table. Replaces a hook that was set before.
    ///
    /// ```
    /// use smtpd_tower::{Pipeline, Server, SessionError};
    ///
    /// let server = Server::new("mx.example.org", Pipeline::new()).on_error(|session, error| match error {
    ///     SessionError::Service { phase, error } => eprintln!("{}: {phase}: {error}", session.id()),
    ///     other => eprintln!("{}: {other}", session.id()),
    /// });
    /// ```
    #[must_use]
    pub fn on_error(
        mut self,
        hook: impl Fn(&Session, &SessionError) + Send + Sync + 'static,
    ) -> Self {
        self.settings.hooks.error = Some(Arc::new(hook));
        self
    }

    /// Calls a function when a client gives a transaction up by RSET, with what the envelope had come to. Replaces a hook that
    /// was set before.
    ///
    /// ```
    /// use smtpd_tower::{Pipeline, Server};
    ///
    /// let server = Server::new("mx.example.org", Pipeline::new()).on_reset(|session, envelope| {
    ///     println!("{}: a message for {} was given up", session.id(), envelope.recipients().len());
    /// });
    /// ```
    #[must_use]
    pub fn on_reset(mut self, hook: impl Fn(&Session, &Envelope) + Send + Sync + 'static) -> Self {
        self.settings.hooks.reset = Some(Arc::new(hook));
        self
    }

    /// Calls a function when a session has ended, however it did: exactly once for each. A client that is turned away because
    /// of [`max_sessions`](Self::max_sessions) has no session. Replaces a hook that was set before.
    ///
    /// ```
    /// # #[cfg(feature = "test")]
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use smtpd_tower::{CloseReason, EndReason, Pipeline, Server, test::Client};
    ///
    /// let (ended, mut ends) = tokio::sync::mpsc::unbounded_channel();
    /// let server = Server::new("mx.example.org", Pipeline::new()).on_close(move |session, end| {
    ///     let _ = ended.send((session.id(), *end));
    /// });
    /// let mut client = Client::connect(&server);
    /// client.greeting().await?;
    /// client.quit().await?.expect_code(221)?;
    ///
    /// let (_, end) = ends.recv().await.ok_or("no end")?;
    /// assert_eq!((end.reason, end.messages), (EndReason::Closed(CloseReason::Quit), 0));
    /// assert_eq!(end.received, "QUIT\r\n".len() as u64);
    /// # Ok(()) }
    /// # #[cfg(not(feature = "test"))]
    /// # fn main() {}
    /// ```
    #[must_use]
    pub fn on_close(mut self, hook: impl Fn(&Session, &Summary) + Send + Sync + 'static) -> Self {
        self.settings.hooks.close = Some(Arc::new(hook));
        self
    }

    /// A handle that ends the server.
    pub fn handle(&self) -> Handle {
        Handle {
            registry: self.registry.clone(),
        }
    }

    /// Serves a listener until the server is shut down and its sessions have ended.
    ///
    /// Several listeners are served by as many calls, awaited together, or each on a runtime of its own; see
    /// [`guide::cores`](crate::guide::cores).
    ///
    /// # Errors
    ///
    /// Where something is missing that the [`profile`](Self::profile) cannot do without, or where no session could work with the
    /// configuration, as [`Config::check`] says. Errors of accept are logged and survived.
    pub fn serve<L: Listener>(
        &self,
        listener: L,
    ) -> impl Future<Output = io::Result<()>> + Send + use<L> {
        let tls_first = self.settings.profile == Some(Profile::Submissions);
        self.run(self.protocol(), tls_first, listener)
    }

    /// The same, until `signal` is ready; what it gives is of no matter. Then the server is shut down as
    /// [`Handle::shutdown`] does it, with `grace` for what is going on.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use smtpd_tower::{Pipeline, Server};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:2525").await?;
    /// Server::new("mx.example.org", Pipeline::new())
    ///     .serve_with_graceful_shutdown(listener, tokio::signal::ctrl_c(), Duration::from_secs(30))
    ///     .await
    /// # }
    /// ```
    ///
    /// All listeners of the server end so, and those of its clones; with [`Handle::shutdown`] they can be awaited together.
    ///
    /// # Errors
    ///
    /// As [`serve`](Self::serve).
    pub fn serve_with_graceful_shutdown<L, F>(
        &self,
        listener: L,
        signal: F,
        grace: Duration,
    ) -> impl Future<Output = io::Result<()>> + Send + use<L, F>
    where
        L: Listener,
        F: Future + Send,
    {
        let (serving, handle) = (self.serve(listener), self.handle());
        async move {
            let mut serving = pin!(serving);
            tokio::select! {
                served = &mut serving => return served,
                _ = signal => {}
            }
            tokio::join!(serving, handle.shutdown(grace)).0
        }
    }

    /// Serves a listener whose clients begin with TLS (RFC 8314 section 3.3), as on port 465.
    ///
    /// # Errors
    ///
    /// Without a [`tls`](Self::tls) configuration.
    #[cfg(feature = "tls")]
    pub fn serve_tls<L: Listener>(
        &self,
        listener: L,
    ) -> impl Future<Output = io::Result<()>> + Send + use<L> {
        self.run(self.protocol(), true, listener)
    }

    /// Serves a listener whose clients speak LMTP (RFC 2033).
    ///
    /// # Errors
    ///
    /// As [`serve`](Self::serve).
    pub fn serve_lmtp<L: Listener>(
        &self,
        listener: L,
    ) -> impl Future<Output = io::Result<()>> + Send + use<L> {
        self.run(Protocol::Lmtp, false, listener)
    }

    /// Serves one connection, over whatever it runs, until it ends. One that [`serve`](Self::serve) could not serve is closed
    /// at once.
    pub fn serve_connection<IO>(
        &self,
        io: IO,
        peer: PeerAddr,
    ) -> impl Future<Output = ()> + Send + use<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.serve_one(self.protocol(), io, peer)
    }

    /// Serves one connection by that protocol.
    pub(crate) fn serve_one<IO>(
        &self,
        protocol: Protocol,
        io: IO,
        peer: PeerAddr,
    ) -> impl Future<Output = ()> + Send + use<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let tls_first = self.settings.profile == Some(Profile::Submissions);
        match self.acceptor(protocol, tls_first) {
            Ok(acceptor) => Either::Left(acceptor.serve(io, peer, PeerAddr::Unknown)),
            Err(error) => {
                quietly(|| tracing::error!(%error, "connection not served"));
                Either::Right(ready(()))
            }
        }
    }

    /// Listens on that address, mostly [`DEFAULT_ADDRESS`](Self::DEFAULT_ADDRESS), and serves it.
    ///
    /// # Errors
    ///
    /// Where the address cannot be listened on.
    pub async fn listen_and_serve(&self, address: impl ToSocketAddrs) -> io::Result<()> {
        self.serve(TcpListener::bind(address).await?).await
    }

    fn run<L: Listener>(
        &self,
        protocol: Protocol,
        implicit_tls: bool,
        listener: L,
    ) -> impl Future<Output = io::Result<()>> + Send + use<L> {
        let acceptor = self.acceptor(protocol, implicit_tls);
        async move { acceptor?.run(listener).await }
    }

    fn acceptor(&self, protocol: Protocol, implicit_tls: bool) -> io::Result<Acceptor> {
        let settings = self.settings.clone();
        if let Some(fault) = settings.fault(implicit_tls) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, fault));
        }
        let pipeline = settings.guarded_pipeline();
        let config = settings.config_for(protocol, implicit_tls)?;
        let listener = ListenerFacts {
            hostname: config.hostname().to_owned(),
            app_name: config.program().to_owned(),
            profile: settings.profile,
            on_error: settings.hooks.error.clone(),
        };
        let log_wire = tracing::enabled!(tracing::Level::TRACE) || settings.hooks.wire.is_some();
        let engine = Engine {
            pipeline,
            config: Arc::new(config.log_wire(log_wire)),
            listener: Arc::new(listener),
            protocol,
            #[cfg(feature = "tls")]
            tls: settings.tls,
            #[cfg(feature = "proxy")]
            proxy: settings.proxy,
            xclient_from: settings.xclient_from,
            xforward_from: settings.xforward_from,
            hooks: settings.hooks,
        };
        Ok(Acceptor {
            engine: Arc::new(engine),
            registry: self.registry.clone(),
            max_sessions: settings.max_sessions,
            implicit_tls,
        })
    }
}

/// Fills the bytes of a challenge with random ones from the operating system.
fn fill_random(bytes: &mut [u8]) -> bool {
    getrandom::fill(bytes).is_ok()
}
