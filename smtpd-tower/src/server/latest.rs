//! Servers that are replaced while a listener is served.

use std::{ptr, sync::Arc};

use smtpd_core::config::Protocol;

use super::{Listener, Serve, Server, accept::Acceptor};
use crate::{fault::quietly, reload::Reloadable, service::Pipeline, session::Profile};

/// A server that can be replaced while its listeners are served, for settings that are read again.
impl Reloadable<Server> {
    /// Serves a listener like [`Server::serve`]. Each connection is served by the server that is the latest when it is accepted,
    /// to its end: no session sees half of the old settings and half of the new ones.
    ///
    /// [`set`](Self::set) replaces the server with everything that belongs to it: pipeline, limits, TLS, domains, hooks. The
    /// settings of the returned future, such as [`Serve::profile`], apply to all of them. Listeners stay as they are, and so does
    /// what counts sessions: the server that is the latest now is the one to [shut down](Server::handle), and its clones and all
    /// later servers count their sessions together.
    ///
    /// Check a new server with [`Serve::check`] or [`Server::check`] first. If it cannot be served, an error is logged, and the
    /// connections are served as before.
    ///
    /// ```
    /// use smtpd_tower::{Pipeline, Server, reload::Reloadable};
    /// use tokio::net::TcpListener;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
    /// let server = |size| {
    ///     Server::new("mx.example.org", Pipeline::new())
    ///         .configure(|config| config.max_message_size(size))
    /// };
    /// let servers = Reloadable::new(server(10 << 20));
    /// let listener = TcpListener::bind("127.0.0.1:0").await?;
    /// let serving = tokio::spawn(servers.serve(listener));
    ///
    /// // For example, at SIGHUP:
    /// let new = server(25 << 20);
    /// match new.check() {
    ///     Ok(()) => servers.set(new),
    ///     Err(error) => eprintln!("the old settings stay: {error}"),
    /// }
    /// # serving.abort();
    /// # Ok(()) }
    /// ```
    pub fn serve<L: Listener>(&self, listener: L) -> Serve<L> {
        let seen = self.get();
        let server = Server::clone(&seen);
        let latest = Latest {
            servers: self.clone(),
            seen,
            overrides: Vec::new(),
        };
        Serve::new(server, Some(latest), listener)
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
        let mut server = Override::apply_all(&self.overrides, &self.seen);
        server.registry = acceptor.registry.clone();
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
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

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
        let servers = Reloadable::new(numbered(0));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let handle = servers.get().handle();
        let serving = tokio::spawn(servers.serve(listener).lmtp());
        let mut kept = Vec::new();
        for number in 0..20 {
            servers.set(numbered(number));
            let mut stream = TcpStream::connect(address).await.unwrap();
            let said = greeting(&mut stream).await;
            assert_eq!(said, format!("220 mx{number}.test app{number} LMTP\r\n"));
            kept.push(stream);
        }
        assert_eq!(handle.sessions(), 20, "all are counted by the first one");
        // What cannot be served does not replace what can.
        servers.set(Server::new("not a name", Pipeline::new()));
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert!(greeting(&mut stream).await.starts_with("220 mx19.test"));
        for (number, mut stream) in kept.into_iter().enumerate() {
            stream.write_all(b"LHLO c\r\n").await.unwrap();
            let said = greeting(&mut stream).await;
            assert_eq!(said, format!("250-mx{number}.test\r\n"), "it is as it was");
        }
        drop(stream);
        handle.shutdown(std::time::Duration::ZERO).await;
        serving.await.unwrap().unwrap();
    }
}
