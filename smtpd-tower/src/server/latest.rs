//! Servers that are replaced while a listener is served.

use std::{ptr, sync::Arc};

use smtpd_core::config::Protocol;

use super::{Handle, Listener, Serve, Server, accept::Acceptor};
use crate::{fault::quietly, reload::Reloadable, service::Pipeline, session::Profile};

/// A server that can be replaced while its listeners are served, for settings that are read again.
///
/// [`replace`](Self::replace) replaces everything that belongs to the server: pipeline, limits, TLS, domains, hooks. Each connection
/// is served by the server that is the latest when it is accepted, to its end: no session sees half of the old settings and half of
/// the new ones. What counts sessions goes on: one [handle](Self::handle) reaches all of them, and
/// [`max_sessions`](Server::max_sessions) and the [guard](Server::guard) count those that began before.
///
/// Clones share the server. To serve listeners with different settings, such as a pipeline for each, create one for each of
/// them from clones of one `Server`: these count their sessions together.
///
/// ```
/// use std::time::Duration;
///
/// use smtpd_tower::{Pipeline, Server, server::ReloadableServer};
/// use tokio::net::TcpListener;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let configured = |size| {
///     Server::new("mx.example.org", Pipeline::new())
///         .configure(|config| config.max_message_size(size))
/// };
/// let server = ReloadableServer::new(configured(10 << 20));
/// let listener = TcpListener::bind("127.0.0.1:0").await?;
/// let serving = tokio::spawn(server.serve(listener));
///
/// // For example, at SIGHUP:
/// let new = configured(25 << 20);
/// match new.check() {
///     Ok(()) => server.replace(new),
///     Err(error) => eprintln!("the old settings stay: {error}"),
/// }
///
/// // For example, at SIGTERM: sessions of both are ended.
/// server.handle().shutdown(Duration::from_secs(30)).await;
/// serving.await??;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ReloadableServer(Reloadable<Server>);

impl ReloadableServer {
    /// Creates one with this server as the first.
    pub fn new(server: Server) -> Self {
        Self(Reloadable::new(server))
    }

    /// Returns the latest server.
    pub fn get(&self) -> Arc<Server> {
        self.0.get()
    }

    /// Replaces the server for all clones, and for the connections that are accepted from now on.
    ///
    /// The new server goes on counting the sessions of the old one. It also keeps the guard of the old one, with its limits and with
    /// what was counted, unless its own was [set](Server::guard). To change the limits and keep the counts, set a changed clone of
    /// the old guard, or [reload](crate::guard::Guard::reload) it. Handles and clones of the new server that were made before this
    /// call do not belong to it.
    ///
    /// Check the new server with [`Server::check`] first. If it cannot be served, an error is logged, and the connections are served
    /// as before.
    ///
    /// ```
    /// use smtpd_tower::{Pipeline, Server, server::ReloadableServer};
    ///
    /// let new = || Server::new("mx.example.org", Pipeline::new());
    /// let server = ReloadableServer::new(new());
    ///
    /// let guard = server.get().get_guard().clone();
    /// server.replace(new().guard(guard.sessions(10)));
    /// ```
    pub fn replace(&self, new: Server) {
        self.0.update(|old| new.in_place_of(old));
    }

    /// Serves a listener like [`Server::serve`]. The settings of the returned future, such as [`Serve::profile`], apply to all
    /// servers. The listener stays as it is.
    pub fn serve<L: Listener>(&self, listener: L) -> Serve<L> {
        let seen = self.get();
        let server = Server::clone(&seen);
        let latest = Latest {
            servers: self.0.clone(),
            seen,
            overrides: Vec::new(),
        };
        Serve::new(server, Some(latest), listener)
    }

    /// Returns a handle that shuts down all servers, those that were replaced and those that are yet to come.
    pub fn handle(&self) -> Handle {
        self.0.with(Server::handle)
    }
}

/// What a [`Serve`] sets, whatever the server is. The last one of a kind counts.
#[derive(Clone)]
pub(super) enum Override {
    Profile(Profile),
    Pipeline(Box<Pipeline>),
    Lmtp,
    #[cfg(feature = "tls")]
    TlsFirst,
    WithinTls(bool),
}

impl Override {
    pub(super) fn apply_to(self, mut server: Server) -> Server {
        match self {
            Self::Profile(profile) => return server.profile(profile),
            Self::Pipeline(pipeline) => return server.pipeline(*pipeline),
            Self::Lmtp => server.settings.protocol = Some(Protocol::Lmtp),
            #[cfg(feature = "tls")]
            Self::TlsFirst => server.settings.tls_first = true,
            Self::WithinTls(is_within) => server.settings.within_tls = is_within,
        }
        server
    }

    pub(super) fn apply_all(all: &[Self], server: &Server) -> Server {
        let all = all.iter().cloned();
        all.fold(server.clone(), |server, one| one.apply_to(server))
    }
}

/// Follows the servers of one listener.
pub(super) struct Latest {
    servers: Reloadable<Server>,
    /// The one that was looked at last.
    seen: Arc<Server>,
    overrides: Vec<Override>,
}

impl Latest {
    pub(super) fn with(self, overrides: Vec<Override>) -> Self {
        Self { overrides, ..self }
    }

    /// Lets the acceptor serve as the latest server does, if that is another one.
    pub(super) fn update(&mut self, acceptor: &mut Acceptor) {
        // The one that was seen is kept, so no other can be at its address.
        if self.servers.with(|server| ptr::eq(server, &*self.seen)) {
            return;
        }
        self.seen = self.servers.get();
        let server = Override::apply_all(&self.overrides, &self.seen);
        match server.into_acceptor() {
            Ok(latest) => *acceptor = latest,
            Err(error) => quietly(|| {
                tracing::error!(%error, "the new settings cannot be served, the old ones stay");
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io, net::SocketAddr, time::Duration};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        task::JoinHandle,
    };

    use super::*;
    use crate::{guard::Guard, net::CidrSet};

    /// Returns a server whose replies show the number twice.
    fn numbered(number: usize) -> Server {
        Server::new(format!("mx{number}.test"), Pipeline::new())
            .configure(|config| config.app_name(format!("app{number}")))
    }

    async fn greeting(stream: &mut TcpStream) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(line).unwrap()
    }

    #[tokio::test]
    async fn a_session_sees_half_of_the_old_settings_and_half_of_the_new() {
        let servers = ReloadableServer::new(numbered(0));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let handle = servers.handle();
        let serving = tokio::spawn(servers.serve(listener).lmtp());
        let mut kept = Vec::new();
        for number in 0..20 {
            servers.replace(numbered(number));
            let mut stream = TcpStream::connect(address).await.unwrap();
            let said = greeting(&mut stream).await;
            assert_eq!(said, format!("220 mx{number}.test app{number} LMTP\r\n"));
            kept.push(stream);
        }
        assert_eq!(handle.sessions(), 20, "all are counted together");
        // What cannot be served does not replace what can.
        servers.replace(Server::new("not a name", Pipeline::new()));
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert!(greeting(&mut stream).await.starts_with("220 mx19.test"));
        for (number, mut stream) in kept.into_iter().enumerate() {
            stream.write_all(b"LHLO c\r\n").await.unwrap();
            let said = greeting(&mut stream).await;
            assert_eq!(said, format!("250-mx{number}.test\r\n"), "it is as it was");
        }
        drop(stream);
        handle.shutdown(Duration::ZERO).await;
        serving.await.unwrap().unwrap();
    }

    /// A server that is replaced, at its listener.
    struct Running {
        server: ReloadableServer,
        address: SocketAddr,
        serving: JoinHandle<io::Result<()>>,
    }

    impl Running {
        async fn start(server: Server) -> Self {
            let server = ReloadableServer::new(server);
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            Self {
                address: listener.local_addr().unwrap(),
                serving: tokio::spawn(server.serve(listener)),
                server,
            }
        }

        /// Connects a client, which has to receive this.
        async fn connect(&self, start: &str) -> TcpStream {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            let said = greeting(&mut stream).await;
            assert!(said.starts_with(start), "{said}");
            stream
        }
    }

    #[tokio::test]
    async fn a_shutdown_misses_the_sessions_of_another_generation() {
        let running = Running::start(numbered(0)).await;
        let handles = [running.server.handle(), running.server.get().handle()];
        let mut clients = Vec::new();
        for number in 0..3 {
            let client = running.connect(&format!("220 mx{number}.test ")).await;
            clients.push(client);
            running.server.replace(numbered(number + 1));
        }
        for latest in [running.server.handle(), running.server.get().handle()] {
            assert_eq!(latest.sessions(), 3);
        }
        assert!(handles.iter().all(|handle| handle.sessions() == 3));
        let ended = handles[0].shutdown(Duration::from_secs(600));
        for client in &mut clients {
            let said = greeting(client).await;
            assert!(said.starts_with("421 4.3.2 "), "{said}");
        }
        drop(clients);
        ended.await;
        running.serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_new_server_has_room_for_as_many_sessions_again() {
        let limited = |number| numbered(number).max_sessions(2);
        let running = Running::start(limited(0)).await;
        let old = running.connect("220 mx0").await;
        running.server.replace(limited(1));
        let _new = running.connect("220 mx1").await;
        running.connect("421 4.3.2 ").await;
        // Another limit applies to all.
        running.server.replace(limited(2).max_sessions(3));
        let _third = running.connect("220 mx2").await;
        running.connect("421 4.3.2 ").await;
        drop(old);
        while running.server.handle().sessions() == 3 {
            tokio::task::yield_now().await;
        }
        let _fourth = running.connect("220 mx2").await;
    }

    #[tokio::test]
    async fn a_client_is_forgotten_when_the_server_is_replaced() {
        let everybody = CidrSet::parse::<&str>([]).unwrap();
        let strict = Guard::new().exempt(everybody).sessions(2);
        let running = Running::start(numbered(0).guard(strict.clone())).await;
        let _old = running.connect("220 mx0").await;
        running.server.replace(numbered(1));
        let _new = running.connect("220 mx1").await;
        running.connect("421 4.7.0 ").await;
        // The same counts with another limit.
        running
            .server
            .replace(numbered(2).guard(strict.sessions(3)));
        let _third = running.connect("220 mx2").await;
        running.connect("421 4.7.0 ").await;
        running.server.replace(numbered(3));
        running.connect("421 4.7.0 ").await;
        running.server.replace(numbered(4).guard(Guard::off()));
        running.connect("220 mx4").await;
        assert!(!running.server.get().get_guard().is_on());
    }
}
