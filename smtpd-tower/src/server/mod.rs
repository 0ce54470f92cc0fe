//! The server: its settings, its listeners and its shutdown.
//!
//! | item | what it is |
//! |---|---|
//! | [`Server`] | serves listeners and single connections with a pipeline |
//! | [`ReloadableServer`] | a server that is replaced while it runs |
//! | [`Serve`], [`ServeConnection`] | the futures that serve them |
//! | [`Handle`] | shuts a server down, and counts its sessions |
//! | [`Listener`] | a source of connections |
//! | [`system_hostname`] | returns the name of this machine |
//! | `bind_reuse_port` (on Unix) | binds one of several listeners of a port |
//! | `UnixSocket` (on Unix) | binds a Unix socket with a mode and a group |

mod accept;
mod farewell;
mod getters;
mod handle;
mod hostname;
mod latest;
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
mod serve;
mod serve_connection;
mod settings;
#[cfg(unix)]
mod unix_socket;

use std::{io, sync::Arc};

#[cfg(feature = "test")]
use smtpd_core::config::Protocol;
use smtpd_core::{config::Config, envelope::Envelope};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, ToSocketAddrs},
};

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
#[cfg(unix)]
pub use self::unix_socket::{UnixSocket, UnixSocketListener};
use self::{
    accept::Acceptor,
    settings::{GuardSetting, Settings},
};
pub use self::{
    handle::Handle, hostname::system_hostname, latest::ReloadableServer, listener::Listener,
    serve::Serve, serve_connection::ServeConnection,
};
#[cfg(feature = "test")]
use crate::permits::Permits;
#[cfg(feature = "proxy")]
use crate::proxy::ProxyProtocol;
use crate::{
    guard::Guard,
    lifetime::Registry,
    memory::MemoryBudget,
    net::{PeerAddr, TrustedPeers},
    service::Pipeline,
    session::{Answered, Session, SessionError, Summary},
};
#[doc(inline)]
pub use smtpd_core::connection::{Direction, WireLine};

/// Serves SMTP, SMTP over TLS and LMTP with the services of a [`Pipeline`].
///
/// [`new`](Self::new) takes what is required. All other settings have defaults; they are used when a listener is served, so the
/// order of the calls does not matter. Cloning is cheap. Clones count their sessions together
/// ([`max_sessions`](Self::max_sessions)) and are shut down together, but each clone has its own settings.
///
/// ```no_run
/// use smtpd_tower::{Data, Pipeline, Rcpt, Reply, Request, Server, handler_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// let pipeline = Pipeline::new()
///     .rcpt(handler_fn(async |_: Request<Rcpt>| {}))
///     .data(handler_fn(async |request: Request<Data>| {
///         request
///             .into_body()
///             .collect()
///             .await
///             .map(|message| Reply::ok(format!("{} bytes", message.len())))
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

impl Server {
    /// The usual address for [`listen_and_serve`](Self::listen_and_serve): port 25 of every interface.
    pub const DEFAULT_ADDRESS: &'static str = "[::]:25";

    /// The default of [`max_sessions`](Self::max_sessions).
    pub const DEFAULT_MAX_SESSIONS: usize = 10_000;

    /// Creates a server with this host name, which must be a domain or an address literal; serving fails otherwise.
    /// [`system_hostname`] returns the name of this machine.
    ///
    /// If the pipeline has an [`auth`](Pipeline::auth) service, AUTH is offered with the mechanisms that [`Config::mechanisms`]
    /// sets, or with the [default ones](smtpd_core::sasl::Mechanisms::default): PLAIN and LOGIN, within TLS only. Without that
    /// service, AUTH is never offered.
    pub fn new(hostname: impl Into<String>, pipeline: Pipeline) -> Self {
        let config = Config::new(hostname).entropy(fill_random);
        Self {
            settings: Settings::new(config, pipeline, Self::DEFAULT_MAX_SESSIONS),
            registry: Registry::new(),
        }
    }

    /// Sets the pipeline, in place of that of [`new`](Self::new). [`Serve::pipeline`] sets the pipeline of one listener.
    #[must_use]
    pub fn pipeline(mut self, pipeline: Pipeline) -> Self {
        self.settings.pipeline = pipeline;
        self
    }

    /// Changes the settings of the protocol: limits, timeouts, extensions, mechanisms, and whether TLS and authentication are
    /// required. Settings that are made here override those of the [profile](Self::profile).
    ///
    /// ```
    /// use smtpd_tower::{Pipeline, Server};
    ///
    /// let server = Server::new("mx.example.org", Pipeline::new()).configure(|config| {
    ///     config.limits(|limits| limits.recipients = 500).max_message_size(25 << 20)
    /// });
    /// assert_eq!(server.get_config().get_limits().recipients, 500);
    /// ```
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(Config) -> Config) -> Self {
        self.settings.config = change(self.settings.config);
        self
    }

    /// Sets the TLS configuration. STARTTLS is offered then, and [`Serve::tls_first`] can be used. Default: no TLS.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, config: crate::tls::TlsConfig) -> Self {
        self.settings.tls = Some(config);
        self
    }

    /// Expects a PROXY header from trusted peers, before anything else. This applies to all listeners: to serve another listener
    /// without it, use a clone of the server from before this call. Default: no header is expected.
    #[cfg(feature = "proxy")]
    #[must_use]
    pub fn proxy_protocol(mut self, protocol: ProxyProtocol) -> Self {
        self.settings.proxy = Some(protocol);
        self
    }

    /// Lets trusted peers name their client by XCLIENT. A peer is trusted by its [`Session::client_addr`]: the other end of the
    /// socket or, after a PROXY header, the client that the header names. Default: nobody is trusted.
    ///
    /// After XCLIENT, the session starts anew: the connect service is called again, for the named client, and everything that was
    /// kept for the peer is dropped. The connect service must therefore accept the peer, too. [`Session::helo`] and
    /// [`Session::identity`] return what XCLIENT said about them, if anything. [`Session::tls`] still describes the connection to
    /// the peer, but without the peer's certificate. EXTERNAL and the -PLUS forms of SCRAM are not offered, because they would
    /// authenticate the peer.
    ///
    /// Once the peer has named an address, neither XCLIENT nor XFORWARD is accepted any more. For other peers, EHLO does not
    /// announce XCLIENT, and they receive 550 5.7.0.
    #[must_use]
    pub fn xclient_from(mut self, peers: TrustedPeers) -> Self {
        self.settings.xclient_from = Some(peers);
        self
    }

    /// Lets trusted peers name the origin of their messages by XFORWARD. [`Session::forwarded`] returns it; the server itself
    /// does not use it. Default: nobody is trusted.
    #[must_use]
    pub fn xforward_from(mut self, peers: TrustedPeers) -> Self {
        self.settings.xforward_from = Some(peers);
        self
    }

    /// Sets the maximum number of concurrent sessions, over all listeners and clones. Default: 10,000.
    ///
    /// A connection beyond it receives 421 4.3.2 instead of the greeting, and is closed. It is closed without a reply if TLS
    /// comes first, or if 1,000 other connections of a [`Listener`] of your own are being refused at the same time.
    ///
    /// Each session needs a file descriptor: raise the limit of the process, or set this below it; see
    /// [the guide](crate::guide::running#descriptors).
    #[must_use]
    pub fn max_sessions(mut self, sessions: usize) -> Self {
        self.settings.max_sessions = sessions;
        self
    }

    /// Sets the guard, which limits what each client may do over all of its sessions. Default: a [`Guard::new`] that all listeners
    /// and clones of the server share, and [the servers that replace it](ReloadableServer::replace). [`Guard::off`] turns it off.
    #[must_use]
    pub fn guard(mut self, guard: Guard) -> Self {
        self.settings.guard = GuardSetting::Set(guard);
        self
    }

    /// Sets the limit on the bytes of messages in memory, over all sessions. Default: [`MemoryBudget::shared`], which is 512 MiB
    /// for the process.
    ///
    /// When little of it is left, messages are deferred with 452 4.3.1, and then clients with 421 4.3.2, before the machine runs
    /// out of memory; [`MemoryBudget`] says when.
    #[must_use]
    pub fn memory_budget(mut self, budget: MemoryBudget) -> Self {
        self.settings.memory = budget;
        self
    }

    /// Adds a function that is called for every line that is read or written. Secrets and messages are left out. Like all hooks,
    /// it can be added several times; the functions are called in that order. If a client fails, compare its session with [what
    /// is known of others](crate::guide::clients).
    ///
    /// ```
    /// use smtpd_tower::{Pipeline, Server};
    ///
    /// let server = Server::new("mx.example.org", Pipeline::new())
    ///     // 7 C: EHLO client.example
    ///     .on_wire(|session, line| println!("{} {line}", session.id()));
    /// ```
    #[must_use]
    pub fn on_wire(mut self, hook: impl Fn(&Session, &WireLine) + Send + Sync + 'static) -> Self {
        self.settings.hooks.wire.add(hook);
        self
    }

    /// Adds a function that is called for every reply that refuses something, by 4yz or 5yz: what the client has asked for, the
    /// reply, and who has produced it. It sees what no layer sees, because the session itself refuses bad syntax, wrong order and
    /// what exceeds its limits, and decides last about a password.
    ///
    /// In LMTP, it is called for each recipient for whom a message is refused. It is called just before the reply is written. It
    /// is not called for 2yz and 3yz, nor for connections that are refused because of [`max_sessions`](Self::max_sessions) or the
    /// [memory](Self::memory_budget), or that the [guard](Self::guard) does not admit; [the
    /// guide](crate::guide::hooks#who-has-refused) says what shows those.
    ///
    /// ```
    /// # #[cfg(feature = "test")]
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use smtpd_tower::{
    ///     Pipeline, Rcpt, Request, Server, handler_fn,
    ///     layer::DomainFilterLayer, reply::Origin, test::Client,
    /// };
    /// use tower::ServiceBuilder;
    ///
    /// let rcpt = ServiceBuilder::new()
    ///     .layer(DomainFilterLayer::parse(["example.org"])?)
    ///     .service(handler_fn(async |_: Request<Rcpt>| {}));
    /// let (refused, mut refusals) = tokio::sync::mpsc::unbounded_channel();
    /// let server = Server::new("mx.example.org", Pipeline::new().rcpt(rcpt))
    ///     .on_reply(move |_, answered| {
    ///         let _ = refused.send(answered.clone());
    ///     });
    /// let mut client = Client::connect(&server);
    /// client.greeting().await?;
    /// client.ehlo("client.example").await?;
    /// client.command("MAIL FROM:<a@example.com>").await?;
    /// client.command("RCPT TO:<b@example.net>").await?.expect_code(550)?;
    ///
    /// let answered = refusals.recv().await.ok_or("no refusal")?;
    /// assert_eq!(answered.address(), Some("b@example.net"));
    /// assert_eq!(answered.origin(), Origin::Layer("DomainFilterLayer"));
    /// # Ok(()) }
    /// # #[cfg(not(feature = "test"))]
    /// # fn main() {}
    /// ```
    #[must_use]
    pub fn on_reply(mut self, hook: impl Fn(&Session, &Answered) + Send + Sync + 'static) -> Self {
        self.settings.hooks.reply.add(hook);
        self
    }

    /// Adds a function that is called for every fault in a session, in addition to the log: faults on this side, and failures of
    /// the connection. Requests that tower's `Timeout` and `LoadShed` reject are not faults;
    /// [`guide::errors`](crate::guide::errors) has the whole table.
    ///
    /// ```
    /// use smtpd_tower::{Pipeline, Server, session::SessionError};
    ///
    /// let server = Server::new("mx.example.org", Pipeline::new()).on_error(
    ///     |session, error| match error {
    ///         SessionError::Service { phase, error } => {
    ///             eprintln!("{}: {phase}: {error}", session.id())
    ///         }
    ///         other => eprintln!("{}: {other}", session.id()),
    ///     },
    /// );
    /// ```
    #[must_use]
    pub fn on_error(
        mut self,
        hook: impl Fn(&Session, &SessionError) + Send + Sync + 'static,
    ) -> Self {
        self.settings.hooks.error.add(hook);
        self
    }

    /// Adds a function that is called with the envelope when a client aborts a transaction: by RSET, also between two BDAT
    /// chunks, or by another EHLO, HELO or LHLO. It is not called if the message was answered already, nor if XCLIENT or the end
    /// of the session ends the transaction. After HELO, EHLO or LHLO, the session already has the new name.
    ///
    /// ```
    /// use smtpd_tower::{Pipeline, Server};
    ///
    /// let server = Server::new("mx.example.org", Pipeline::new()).on_reset(
    ///     |session, envelope| {
    ///         println!(
    ///             "{}: a message to {} recipients was aborted",
    ///             session.id(),
    ///             envelope.recipients().len()
    ///         );
    ///     },
    /// );
    /// ```
    #[must_use]
    pub fn on_reset(mut self, hook: impl Fn(&Session, &Envelope) + Send + Sync + 'static) -> Self {
        self.settings.hooks.reset.add(hook);
        self
    }

    /// Adds a function that is called exactly once for each session, when it has ended for whatever reason. A connection that is
    /// refused because of [`max_sessions`](Self::max_sessions) has no session.
    ///
    /// [The guide](crate::guide::hooks) lists all hooks.
    ///
    /// ```
    /// # #[cfg(feature = "test")]
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use smtpd_tower::{
    ///     Pipeline, Server,
    ///     session::{CloseReason, EndReason},
    ///     test::Client,
    /// };
    ///
    /// let (ended, mut ends) = tokio::sync::mpsc::unbounded_channel();
    /// let server = Server::new("mx.example.org", Pipeline::new()).on_close(
    ///     move |session, end| {
    ///         let _ = ended.send((session.id(), *end));
    ///     },
    /// );
    /// let mut client = Client::connect(&server);
    /// client.greeting().await?;
    /// client.quit().await?.expect_code(221)?;
    ///
    /// let (_, end) = ends.recv().await.ok_or("no end")?;
    /// assert_eq!(
    ///     (end.reason, end.messages),
    ///     (EndReason::Closed(CloseReason::Quit), 0)
    /// );
    /// assert_eq!(end.received, "QUIT\r\n".len() as u64);
    /// # Ok(()) }
    /// # #[cfg(not(feature = "test"))]
    /// # fn main() {}
    /// ```
    #[must_use]
    pub fn on_close(mut self, hook: impl Fn(&Session, &Summary) + Send + Sync + 'static) -> Self {
        self.settings.hooks.close.add(hook);
        self
    }

    /// Measures the sessions of this server by the facade [`metrics`](https://docs.rs/metrics): sessions, messages, recipients,
    /// logins, TLS handshakes, refusals and faults. Requests are measured by [`MetricsLayer`](crate::layer::MetricsLayer).
    ///
    /// Install a recorder before a listener is served, which is when most metrics are registered. Default: nothing is measured.
    /// [The guide](crate::guide::metrics) lists all metrics.
    #[cfg(feature = "metrics")]
    #[must_use]
    pub fn metrics(mut self) -> Self {
        self.settings.metrics = true;
        self
    }

    /// Returns a handle that shuts the server down.
    pub fn handle(&self) -> Handle {
        Handle {
            registry: self.registry.clone(),
        }
    }

    /// Serves a listener until the server is shut down and its sessions have ended. Returns a future whose settings can still be
    /// changed, by [`Serve::profile`], [`Serve::with_graceful_shutdown`] and others.
    ///
    /// To serve several listeners, call this for each of them and await the futures together, or each on its own runtime; see
    /// [`guide::cores`](crate::guide::cores).
    pub fn serve<L: Listener>(&self, listener: L) -> Serve<L> {
        Serve::new(self.clone(), None, listener)
    }

    /// Serves one connection until it ends. Returns a future whose settings can still be changed, such as
    /// [`ServeConnection::tls_info`] for a connection within TLS. If `serve` would return an error, the connection is closed, and
    /// the error is logged.
    pub fn serve_connection<IO>(&self, io: IO, peer: PeerAddr) -> ServeConnection<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        ServeConnection::new(self.clone(), io, peer)
    }

    /// Listens on this address, such as [`DEFAULT_ADDRESS`](Self::DEFAULT_ADDRESS), and serves it.
    ///
    /// If you come [from Go](crate::guide::coming_from_go_smtpd) or [from mailin](crate::guide::coming_from_mailin), the guide
    /// has a table of what corresponds to what.
    ///
    /// # Errors
    ///
    /// Returns an error if the address cannot be bound, and those of [`Serve`].
    pub async fn listen_and_serve(&self, address: impl ToSocketAddrs) -> io::Result<()> {
        self.serve(TcpListener::bind(address).await?).await
    }

    /// Returns the protocol of a connection for which nothing else is set.
    #[cfg(feature = "test")]
    pub(crate) fn protocol(&self) -> Protocol {
        self.settings.protocol()
    }

    /// Returns the permits of this server and its clones alone, for work that keeps a processor busy.
    #[cfg(feature = "test")]
    pub(crate) fn own_permits(&self) -> Permits {
        self.registry.own_permits()
    }

    /// Uses permits of this server and its clones alone, instead of those that all servers of the process share.
    #[cfg(feature = "test")]
    pub(crate) fn with_own_permits(mut self) -> Self {
        self.settings.permits = self.own_permits();
        self
    }

    /// Returns this server as the one that replaces `old`, whose sessions it goes on counting.
    fn in_place_of(mut self, old: &Self) -> Self {
        self.registry = old.registry.clone();
        if let GuardSetting::Own(_) = self.settings.guard {
            self.settings.guard = old.settings.guard.clone();
        }
        self
    }

    fn into_acceptor(self) -> io::Result<Acceptor> {
        Ok(Acceptor {
            max_sessions: self.settings.max_sessions,
            implicit_tls: self.settings.begins_with_tls(),
            engine: Arc::new(self.settings.engine(self.registry.shutting_down())?),
            registry: self.registry,
            farewells: Arc::default(),
        })
    }
}

/// Fills the slice with random bytes from the operating system.
fn fill_random(bytes: &mut [u8]) -> bool {
    getrandom::fill(bytes).is_ok()
}
