//! A client that speaks SMTP step by step.

mod error;
mod keywords;
mod message;
mod options;
mod patience;
mod reply;
mod sasl;
mod scram;
mod steps;
#[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]
mod tls;
mod wire;

use std::time::Duration;

use smtpd_core::config::Protocol;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream},
    net::{TcpStream, ToSocketAddrs},
    task::JoinHandle,
};

pub use self::{
    error::ClientError, keywords::EhloKeywords, options::ClientOptions, reply::ClientReply,
};
use self::{patience::Patience, wire::Wire};
use super::transcript::{self, TranscriptError};
use crate::{net::PeerAddr, server::Server};

/// A client for tests. It speaks SMTP or LMTP step by step, or sends whole messages, and never panics by itself.
///
/// Each step sends one command and returns its reply, whatever the code; [`expect_code`](ClientReply::expect_code) makes another
/// code an error. [`greeting`](Self::greeting) and [`reply`](Self::reply) read what the server sends unprompted. For anything
/// without a step use [`command`](Self::command) and [`raw`](Self::raw).
///
/// A step times out after 30 seconds with [`ClientError::TimedOut`]; [`timeout`](Self::timeout) sets another
/// limit. If tokio's clock is paused, it times out after ten years of that clock, so that a test can wait for any timeout of the
/// server.
///
/// ```
/// use smtpd_tower::{
///     Pipeline, Rcpt, Request, Server,
///     deliver::Inbox,
///     handler_fn,
///     test::{Client, ClientError},
/// };
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), ClientError> {
/// let inbox = Inbox::new();
/// let pipeline = Pipeline::new()
///     .rcpt(handler_fn(async |_: Request<Rcpt>| {}))
///     .data(inbox.clone());
/// let mut client = Client::connect(&Server::new("mx.example.org", pipeline));
///
/// let reply = client
///     .send("a@example.com", ["b@example.org"], "Subject: hi\r\n\r\n.dot\r\n")
///     .await?;
/// assert_eq!(reply.expect_code(250)?.text(), "OK");
/// client.quit().await?.expect_code(221)?;
/// client.ended().await?;
/// assert_eq!(inbox.messages()[0].message(), "Subject: hi\r\n\r\n.dot\r\n");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Client<IO = DuplexStream> {
    wire: Wire<IO>,
    protocol: Protocol,
    /// Whether the server has sent anything.
    greeted: bool,
    /// Whether HELO, EHLO or LHLO was accepted.
    introduced: bool,
    keywords: EhloKeywords,
    /// The accepted recipients of this transaction.
    recipients: usize,
    session: Option<JoinHandle<()>>,
    patience: Patience,
    /// What the client waits for.
    awaited: String,
}

impl Client {
    /// The name with which [`send`](Self::send) introduces the client.
    pub const NAME: &'static str = "client.test";

    /// Connects to a server in memory, as a client from 127.0.0.1. The session runs in a task of its own.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub fn connect(server: &Server) -> Self {
        Self::options().connect(server)
    }

    /// Like [`connect`](Self::connect), as a client from that address.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub fn from_peer(server: &Server, peer: impl Into<PeerAddr>) -> Self {
        Self::options().peer(peer).connect(server)
    }

    /// Returns the options of a client: the size of the pipe, LMTP, faults.
    pub fn options() -> ClientOptions {
        ClientOptions::new()
    }

    fn connected(
        io: DuplexStream,
        protocol: Protocol,
        session: JoinHandle<()>,
        patience: Patience,
    ) -> Self {
        Self {
            protocol,
            session: Some(session),
            patience,
            ..Self::over(io)
        }
    }
}

impl Client<TcpStream> {
    /// Connects by TCP.
    ///
    /// # Errors
    ///
    /// Returns [`ClientError::Reset`] if the listener is closed while the connection waits for it, [`ClientError::TimedOut`] if
    /// there is no connection after 30 seconds, otherwise [`ClientError::Io`].
    pub async fn tcp(address: impl ToSocketAddrs) -> Result<Self, ClientError> {
        let connect = async { Ok::<_, ClientError>(TcpStream::connect(address).await?) };
        let io = Patience::default().wait("a connection", connect).await?;
        // A small command that waits for the acknowledgement of the previous one makes a test slow.
        io.set_nodelay(true)?;
        Ok(Self::over(io))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Client<IO> {
    /// Creates a client over an existing connection, such as TLS over the one that [`into_io`](Self::into_io) returned.
    pub fn over(io: IO) -> Self {
        Self {
            wire: Wire::new(io),
            protocol: Protocol::Smtp,
            greeted: false,
            introduced: false,
            keywords: EhloKeywords::default(),
            recipients: 0,
            session: None,
            patience: Patience::default(),
            awaited: "the greeting".to_owned(),
        }
    }

    /// Sets how long each step waits, by tokio's clock. Default: 30 seconds, or ten years if that clock is paused.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use smtpd_tower::test::{Client, ClientError};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// // A server that says nothing.
    /// let (near, _far) = tokio::io::duplex(1024);
    /// let mut client = Client::over(near).timeout(Duration::from_millis(50));
    /// let error = client.greeting().await.unwrap_err();
    /// assert_eq!(error.to_string(), "timed out after 50ms, waiting for the greeting");
    /// # }
    /// ```
    #[must_use]
    pub fn timeout(self, limit: Duration) -> Self {
        Self {
            patience: Patience::Exactly(limit),
            ..self
        }
    }

    /// Closes the connection, and waits until a server in memory has ended the session: until it has dropped its services and
    /// called its hooks.
    ///
    /// # Errors
    ///
    /// Returns [`ClientError::Io`] if the session has panicked, or [`ClientError::TimedOut`] if it does not end.
    pub async fn ended(self) -> Result<(), ClientError> {
        drop(self.wire);
        let Some(session) = self.session else {
            return Ok(());
        };
        let ended = async { session.await.map_err(|error| ClientError::Io(error.into())) };
        self.patience.wait("the end of the session", ended).await
    }

    /// Takes out the task of the session with a server in memory. Use it to see a session end while the connection is still open;
    /// [`ended`](Self::ended) does not wait for it any more.
    pub const fn take_session(&mut self) -> Option<JoinHandle<()>> {
        self.session.take()
    }

    /// Returns the connection.
    pub const fn io(&self) -> &IO {
        &self.wire.io
    }

    /// Returns the connection, for example for a TLS handshake after `command("STARTTLS")`. Input that has been [read
    /// ahead](Self::unread) is dropped.
    pub fn into_io(self) -> IO {
        self.wire.io
    }

    /// Returns the input that has been read from the connection, but was not returned yet.
    pub fn unread(&self) -> &[u8] {
        &self.wire.seen
    }

    /// Returns what the last EHLO or LHLO has announced; nothing after HELO.
    pub const fn extensions(&self) -> &EhloKeywords {
        &self.keywords
    }

    /// Reads the greeting.
    ///
    /// # Errors
    ///
    /// Like [`reply`](Self::reply).
    pub async fn greeting(&mut self) -> Result<ClientReply, ClientError> {
        self.reply().await
    }

    /// Sends a line and reads its reply.
    ///
    /// # Errors
    ///
    /// Returns [`ClientError::LineBreak`] if the line contains CR or LF; otherwise like [`reply`](Self::reply).
    pub async fn command(&mut self, line: &str) -> Result<ClientReply, ClientError> {
        if line.contains(['\r', '\n']) {
            return Err(ClientError::LineBreak);
        }
        let awaited = patience::reply_to(line);
        let reply = self
            .exchange(format!("{line}\r\n").as_bytes(), awaited)
            .await?;
        if reply.is_positive() {
            self.record(line, &reply);
        }
        Ok(reply)
    }

    /// Sends these bytes as they are, and reads nothing.
    ///
    /// # Errors
    ///
    /// Returns [`ClientError::Closed`], [`ClientError::Reset`], [`ClientError::Io`], or [`ClientError::TimedOut`] if the server
    /// does not read.
    pub async fn raw(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), ClientError> {
        if self.greeted {
            "a reply".clone_into(&mut self.awaited);
        }
        let write = self.wire.write(bytes.as_ref());
        self.patience.wait("the server to read", write).await
    }

    /// Closes the write side, and leaves the read side open.
    ///
    /// # Errors
    ///
    /// Like [`raw`](Self::raw).
    pub async fn finish(&mut self) -> Result<(), ClientError> {
        let shutdown = async { Ok(self.wire.io.shutdown().await?) };
        self.patience.wait("the server to read", shutdown).await
    }

    /// Reads one reply.
    ///
    /// # Errors
    ///
    /// Returns [`ClientError::Closed`] if the connection ends instead, [`ClientError::Reset`] if it is reset,
    /// [`ClientError::Malformed`] if the input is not a reply, [`ClientError::TimedOut`] if none arrives in time, or
    /// [`ClientError::Io`].
    pub async fn reply(&mut self) -> Result<ClientReply, ClientError> {
        self.greeted = true;
        let reply = self.patience.wait(&self.awaited, self.wire.reply()).await;
        "another reply".clone_into(&mut self.awaited);
        reply
    }

    /// Reads one line without its CRLF, for example the first of a reply that is cut off. Returns `None` if the connection is
    /// closed instead.
    ///
    /// # Errors
    ///
    /// Returns [`ClientError::Reset`] if the connection is reset, [`ClientError::Malformed`] if the line is not UTF-8, contains a
    /// bare CR or LF or does not end, [`ClientError::TimedOut`] if none arrives in time, or [`ClientError::Io`].
    pub async fn line(&mut self) -> Result<Option<String>, ClientError> {
        self.greeted = true;
        self.patience.wait("a line", self.wire.line()).await
    }

    /// Runs a part of a session, see [`transcript`](super::transcript()). What the server sends after the last line remains to be
    /// read.
    ///
    /// # Errors
    ///
    /// Returns an error at the first line that differs.
    pub async fn play(&mut self, script: &str) -> Result<(), TranscriptError> {
        transcript::play(self, script).await
    }

    /// Reads these bytes. If others arrive, returns no error, and they remain to be read.
    pub(super) async fn expect_bytes(&mut self, bytes: &[u8]) -> Result<(), Option<ClientError>> {
        self.greeted = true;
        self.patience.wait("a line", self.wire.expect(bytes)).await
    }

    /// A server may explain why it closes while the client still sends. That explanation counts, and not the failed write.
    async fn exchange(
        &mut self,
        bytes: &[u8],
        awaited: String,
    ) -> Result<ClientReply, ClientError> {
        let written = self.raw(bytes).await;
        self.awaited = awaited;
        match written {
            Ok(()) => self.reply().await,
            Err(error @ ClientError::TimedOut { .. }) => Err(error),
            Err(error) => self.reply().await.map_err(|read| match read {
                // A write fails in the same way after a reset and after an orderly close.
                ClientError::Reset => read,
                _ => error,
            }),
        }
    }

    /// Records what an accepted command has changed.
    fn record(&mut self, line: &str, reply: &ClientReply) {
        let verb = line.split(' ').next().unwrap_or_default();
        let is = |other: &str| verb.eq_ignore_ascii_case(other);
        if is("RCPT") {
            self.recipients += 1;
        } else if is("MAIL") || is("RSET") {
            self.recipients = 0;
        } else if is("HELO") || is("EHLO") || is("LHLO") {
            self.recipients = 0;
            self.introduced = true;
            self.keywords = if is("HELO") {
                EhloKeywords::default()
            } else {
                EhloKeywords::of(reply)
            };
            if is("LHLO") {
                self.protocol = Protocol::Lmtp;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use smtpd_core::{
        connection::AuthOutcome,
        reply::Reply,
        sasl::{CramMd5, Mechanisms, Scram, Secret},
    };
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::{
        deliver::Inbox,
        phase::{Auth, Data, Rcpt, Request},
        service::{Pipeline, handler_fn},
        session::Profile,
        test::Recorder,
    };

    fn server(inbox: &Inbox) -> Server {
        let rcpt = handler_fn(async |request: Request<Rcpt>| {
            if request.recipient().as_str().starts_with("no") {
                return Err(Reply::no_such_user());
            }
            Ok(())
        });
        Server::new("mx.test", Pipeline::new().rcpt(rcpt).data(inbox.clone()))
    }

    #[tokio::test]
    async fn a_session_step_by_step() -> Result<(), ClientError> {
        let inbox = Inbox::new();
        let mut client = Client::from_peer(&server(&inbox), ([192, 0, 2, 1], 9));
        client.greeting().await?.expect_code(220)?;
        client.helo("c").await?.expect_code(250)?;
        assert_eq!(client.extensions(), &EhloKeywords::default());
        client.ehlo("c").await?.expect_code(250)?;
        assert!(client.extensions().contains("chunking"));
        client.noop().await?.expect_code(250)?;
        client.mail("<a@b.c> SIZE=10").await?.expect_code(250)?;
        client.rset().await?.expect_code(250)?;
        client.mail("").await?.expect_code(250)?;
        client.rcpt("nobody@d.e").await?.expect_code(550)?;
        client.data("early").await?.expect_code(503)?;
        client.rcpt("user@d.e").await?.expect_code(250)?;
        client.bdat("one\r\n", false).await?.expect_code(250)?;
        client.bdat(".two\r\n", true).await?.expect_code(250)?;
        client.mail("a@b.c").await?.expect_code(250)?;
        client.rcpt("user@d.e").await?.expect_code(250)?;
        client.data(".\r\n..x").await?.expect_code(250)?;
        client.lhlo("c").await?.expect_code(500)?;
        client.quit().await?.expect_code(221)?;
        assert!(matches!(client.reply().await, Err(ClientError::Closed)));
        client.ended().await?;
        let messages: Vec<_> = inbox
            .take()
            .iter()
            .map(|m| (m.session().client_addr().to_string(), m.message().clone()))
            .collect();
        let peer = || "192.0.2.1:9".to_owned();
        assert_eq!(
            messages,
            [
                (peer(), "one\r\n.two\r\n".into()),
                (peer(), ".\r\n..x\r\n".into())
            ]
        );
        Ok(())
    }

    #[tokio::test]
    async fn whole_messages_and_the_first_refusal() -> Result<(), ClientError> {
        let inbox = Inbox::new();
        let mut client = Client::connect(&server(&inbox));
        client
            .send("a@b.c", ["d@e.f"], "one")
            .await?
            .expect_code(250)?;
        let refused = client
            .send("a@b.c", ["d@e.f", "no@e.f", "x@e.f"], "two")
            .await?;
        assert_eq!(refused.to_string(), "550 5.1.1 No such user");
        client
            .send("not an address", ["d@e.f"], "three")
            .await?
            .expect_code(501)?;
        client
            .send("a@b.c", ["d@e.f"], "four")
            .await?
            .expect_code(250)?;
        assert_eq!(inbox.len(), 2);
        let closed = Pipeline::new().connect(handler_fn(async |_| Reply::rejected("No")));
        let mut client = Client::connect(&Server::new("mx.test", closed));
        client
            .send("a@b.c", ["d@e.f"], "one")
            .await?
            .expect_code(554)?;
        Ok(())
    }

    #[tokio::test]
    async fn lmtp_has_a_reply_for_each_recipient() -> Result<(), ClientError> {
        let inbox = Inbox::new();
        let mut client = Client::options().lmtp().connect(&server(&inbox));
        client.greeting().await?.expect_code(220)?;
        client.lhlo("c").await?.expect_code(250)?;
        client.mail("a@b.c").await?.expect_code(250)?;
        for (to, code) in [("one@d.e", 250), ("no@d.e", 550), ("two@d.e", 250)] {
            client.rcpt(to).await?.expect_code(code)?;
        }
        assert_eq!(client.data_each("hi").await?.len(), 2);
        client
            .send("a@b.c", ["one@d.e", "two@d.e"], "hi")
            .await?
            .expect_code(250)?;
        client.quit().await?.expect_code(221)?;
        client.ended().await
    }

    /// It made an SMTP server of every profile.
    #[tokio::test]
    async fn a_client_speaks_the_protocol_of_the_servers_profile() -> Result<(), ClientError> {
        let inbox = Inbox::new();
        let server = server(&inbox).profile(Profile::Lmtp);
        let mut client = Client::connect(&server);
        let greeting = client.greeting().await?.expect_code(220)?;
        assert_eq!(greeting.text(), "mx.test smtpd LMTP");
        let sent = client.send("a@b.c", ["one@d.e", "two@d.e"], "hi").await?;
        sent.expect_code(250)?;
        client.quit().await?.expect_code(221)?;
        client.ended().await
    }

    #[tokio::test]
    async fn every_mechanism_authenticates() -> Result<(), ClientError> {
        let auth =
            handler_fn(
                async |request: Request<Auth>| match request.credentials().username() {
                    "alice" => AuthOutcome::Verify(Secret::password("secret")),
                    _ => AuthOutcome::Refuse(Reply::auth_failed()),
                },
            );
        let server = Server::new("mx.test", Pipeline::new().auth(auth)).configure(|config| {
            config
                .mechanisms(Mechanisms::default().with(CramMd5).with(Scram::sha256()))
                .allow_insecure_auth(true)
        });
        for (user, password, code) in [
            ("alice", "secret", 235),
            ("alice", "wrong", 535),
            ("bob", "secret", 535),
        ] {
            for mechanism in ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256"] {
                let mut client = Client::connect(&server);
                client.greeting().await?;
                client.ehlo("c").await?;
                assert_eq!(
                    client.extensions().parameters("AUTH"),
                    Some("PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256")
                );
                let reply = match mechanism {
                    "PLAIN" => client.auth_plain(user, password).await?,
                    "LOGIN" => client.auth_login(user, password).await?,
                    "CRAM-MD5" => client.auth_cram_md5(user, password).await?,
                    _ => client.auth_scram_sha256(user, password).await?,
                };
                assert_eq!(reply.code().as_u16(), code, "{mechanism} {user} {password}");
            }
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_command_cannot_smuggle_another() {
        let recorder = Recorder::new();
        let mut client = Client::connect(&Server::new("mx.test", recorder.pipeline()));
        for line in ["NOOP\r\nQUIT", "NOOP\nQUIT", "NOOP\r"] {
            assert!(matches!(
                client.command(line).await,
                Err(ClientError::LineBreak)
            ));
        }
        assert_eq!(client.greeting().await.unwrap().code().as_u16(), 220);
        assert_eq!(client.noop().await.unwrap().code().as_u16(), 250);
    }

    /// Replies that fill the pipe keep the server from reading: a client that only writes waits forever.
    #[tokio::test]
    async fn a_long_group_over_a_small_pipe_does_not_deadlock() -> Result<(), ClientError> {
        let server = Server::new("mx.test", Pipeline::new());
        let mut client = Client::options().pipe(8).connect(&server);
        client.greeting().await?.expect_code(220)?;
        client.raw("NOOP\r\n".repeat(900)).await?;
        for _ in 0..900 {
            client.reply().await?.expect_code(250)?;
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_reply_that_came_before_the_end_is_not_lost() -> Result<(), ClientError> {
        let data = handler_fn(async |_: Request<Data>| Reply::closing("Full"));
        let pipeline = Pipeline::new()
            .rcpt(handler_fn(async |_: Request<Rcpt>| {}))
            .data(data);
        let mut client = Client::connect(&Server::new("mx.test", pipeline));
        client
            .send("a@b.c", ["d@e.f"], "hi")
            .await?
            .expect_code(421)?;
        assert!(matches!(client.noop().await, Err(ClientError::Closed)));
        Ok(())
    }

    #[tokio::test]
    async fn what_is_not_a_server_is_an_error() {
        for (wire, expected) in [
            ("", "the server has closed the connection"),
            ("220-hi\r\n", "not an SMTP reply: 220-hi and no more"),
            ("220 hi", "not an SMTP reply: 220 hi"),
            ("220 h\ni\r\n", "not an SMTP reply: 220 h\\ni\\r\\n"),
            (
                "HTTP/1.1 400 Bad Request\r\n",
                "not an SMTP reply: HTTP/1.1 400 Bad Request",
            ),
        ] {
            let (near, mut far) = tokio::io::duplex(1 << 10);
            far.write_all(wire.as_bytes()).await.unwrap();
            drop(far);
            let error = Client::over(near).greeting().await.unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    /// Starts a server that accepts, and then closes with or without unread input.
    async fn after_a_close(reads: bool) -> Client<TcpStream> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = Client::tcp(address).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        client.raw("NOOP\r\n").await.unwrap();
        far.readable().await.unwrap();
        if reads {
            far.read_exact(&mut [0; 6]).await.unwrap();
        }
        client
    }

    #[tokio::test]
    async fn a_reset_is_distinguished_from_a_close() {
        let mut client = after_a_close(true).await;
        assert!(matches!(client.reply().await, Err(ClientError::Closed)));
        client.play("S: [closed]").await.unwrap();

        let mut client = after_a_close(false).await;
        let reset = client.reply().await.unwrap_err();
        assert!(matches!(reset, ClientError::Reset), "{reset:?}");
        assert_eq!(reset.to_string(), "the server has reset the connection");
        after_a_close(false).await.play("S: [reset]").await.unwrap();
        let differs = after_a_close(false).await.play("S: [closed]").await;
        assert_eq!(differs.unwrap_err().actual(), "[reset]");
        assert!(after_a_close(false).await.command("NOOP").await.is_err());
    }

    #[tokio::test]
    async fn a_client_that_ended_has_waited_for_the_end_of_the_session() -> Result<(), ClientError>
    {
        let ended = Arc::<AtomicBool>::default();
        let end = ended.clone();
        let server = server(&Inbox::new()).on_close(move |_, _| end.store(true, Ordering::SeqCst));
        let mut client = Client::connect(&server);
        client.greeting().await?.expect_code(220)?;
        client.ended().await?;
        assert!(ended.load(Ordering::SeqCst));
        Ok(())
    }
}
