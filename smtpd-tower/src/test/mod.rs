//! The test kit: a client, a recording service, transcripts, injected faults, a server on a free port. Feature `test`.
//!
//! Use it to test pipelines, and programs that send mail.
//!
//! | item | purpose |
//! |---|---|
//! | [`Client`] | a client of a [`Server`](crate::server::Server) without a socket, or of any other server, with TLS and AUTH |
//! | [`Recorder`] | a service for every phase that records its requests |
//! | [`transcript`] | whole sessions as `C:` and `S:` lines |
//! | [`ChaosLayer`] | late answers, transient refusals, an early end |
//! | [`ChaosStream`], [`ChaosListener`] | connections that break or are slow |
//! | [`Running`] | a server on a free port, for clients that need a socket |
//! | [`isolated`] | a server that other tests do not keep waiting |
//!
//! [The guide](crate::guide::testing) goes through it, from the smallest test to the largest.
//!
//! # A pipeline
//!
//! ```
//! use smtpd_tower::{
//!     Pipeline, Server,
//!     layer::DomainFilterLayer,
//!     test::{Client, Recorder},
//! };
//! use tower::ServiceBuilder;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let recorder = Recorder::new();
//! let rcpt = ServiceBuilder::new()
//!     .layer(DomainFilterLayer::parse(["example.org"])?)
//!     .service(recorder.clone());
//! let server = Server::new(
//!     "mx.example.org",
//!     Pipeline::new().rcpt(rcpt).data(recorder.clone()),
//! );
//!
//! let mut client = Client::connect(&server);
//! client.greeting().await?.expect_code(220)?;
//! client.ehlo("client.example").await?.expect_code(250)?;
//! client.mail("a@example.com").await?.expect_code(250)?;
//! client.rcpt("b@example.net").await?.expect_code(550)?;
//! client.rcpt("b@example.org").await?.expect_code(250)?;
//! client.data("Subject: hi\r\n\r\nHello\r\n").await?.expect_code(250)?;
//!
//! let asked: Vec<_> =
//!     recorder.requests().iter().map(ToString::to_string).collect();
//! assert_eq!(
//!     asked,
//!     ["rcpt b@example.org", "data a@example.com to b@example.org"]
//! );
//! # Ok(()) }
//! ```
//!
//! # A program that sends
//!
//! For this, use a port, and a server that misbehaves:
//!
//! ```
//! use smtpd_tower::{
//!     Pipeline, Rcpt, Request, Server, handler_fn,
//!     deliver::Inbox,
//!     test::{ChaosListener, ClientError, Running, StreamChaos},
//! };
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let inbox = Inbox::new();
//! let pipeline = Pipeline::new()
//!     .rcpt(handler_fn(async |_: Request<Rcpt>| {}))
//!     .data(inbox.clone());
//! // The first connection is lost in the middle of the message.
//! let running =
//!     Running::start_with(Server::new("mx.example.org", pipeline), |listener| {
//!         ChaosListener::each(listener, |number| match number {
//!             1 => StreamChaos::new().cut_in_data(10),
//!             _ => StreamChaos::new(),
//!         })
//!     })
//!     .await?;
//!
//! // Replace this by the program under test, which gets `running.address()`.
//! let message = "Subject: hi\r\n\r\nHello\r\n";
//! let mut client = running.client().await?;
//! let lost = client.send("a@example.com", ["b@example.org"], message).await;
//! assert!(matches!(lost, Err(ClientError::Closed | ClientError::Reset)));
//! let mut client = running.client().await?;
//! client
//!     .send("a@example.com", ["b@example.org"], message)
//!     .await?
//!     .expect_code(250)?;
//!
//! running.stop().await?;
//! assert_eq!(inbox.len(), 1);
//! # Ok(()) }
//! ```
//!
//! # Time
//!
//! The server does not read the wall clock, and the kit only to notice that a clock is paused: a [`Client`] waits for 30 seconds
//! of real time, and for ten years of a paused clock. With tokio's clock paused (its feature `test-util`), a test of a timeout
//! takes no time: while every task waits, a paused clock advances to the next timer by itself.
//!
//! ```
//! use std::time::Duration;
//!
//! use smtpd_tower::{Pipeline, Server, test::{ChaosLayer, Client, ClientError}};
//! use tokio::time::Instant;
//!
//! // In a test: #[tokio::test(start_paused = true)], or tokio::time::pause().
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), ClientError> {
//! let pipeline = Pipeline::new()
//!     .layer(ChaosLayer::new().slow_banner(Duration::from_secs(200)));
//! let mut client = Client::connect(&Server::new("mx.example.org", pipeline));
//! let start = Instant::now();
//! client.greeting().await?.expect_code(220)?;
//! assert_eq!(start.elapsed().as_secs(), 200);
//!
//! // An idle client times out after five minutes: RFC 5321 section 4.5.3.2.7.
//! let mut client =
//!     Client::connect(&Server::new("mx.example.org", Pipeline::new()));
//! let start = Instant::now();
//! client.greeting().await?.expect_code(220)?;
//! client.reply().await?.expect_code(421)?;
//! assert_eq!(start.elapsed().as_secs(), 300);
//! # Ok(()) }
//! ```
//!
//! Comparing passwords takes a processor, of which all servers of a process share the permits. A paused clock would jump while a
//! session waits for the permit of another test. So [`Client::connect`] and [`Running`] serve with permits of the server's own;
//! for a connection that you make yourself, call [`isolated`].
//!
//! Use a paused clock with pipes, not with sockets: while a byte is on its way through the kernel, every task waits, and the
//! clock jumps. So use [`Client::connect`] with it, and real time with [`Running`].

mod chaos;
mod client;
mod isolated;
mod recorder;
mod running;
mod transcript;

pub use chaos::{Chaos, ChaosFuture, ChaosLayer, ChaosListener, ChaosStream, StreamChaos};
pub use client::{Client, ClientError, ClientOptions, ClientReply, EhloKeywords};
pub use isolated::isolated;
pub use recorder::{Asked, Recorder, RecorderFuture};
pub use running::Running;
pub use transcript::{TranscriptError, transcript};
