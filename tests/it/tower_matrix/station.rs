//! The phases as a session reaches them, and the service at each.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use smtpd_tower::{
    Auth, BoxError, Command, Connect, Data, Helo, Identity, Mail, Phase, Pipeline, Rcpt, Reply,
    Request, Server, service::PhaseService,
};
use support::{Client, accept_rcpt, settle};
use tokio::time::Instant;
use tower::Service;

/// A phase, and how a session gets to it.
pub trait Station: Phase {
    /// The commands before it.
    const WAY: &[&str];
    /// Its command; none for the greeting.
    const LINE: Option<&str>;
    /// How the reply begins if the service has accepted.
    const TAKEN: &str;

    /// Puts a service there.
    fn put(pipeline: Pipeline, service: impl PhaseService<Self>) -> Pipeline
    where
        Self: Sized;

    /// What a service returns that accepts.
    fn taken() -> Self::Response {
        Reply::OK.into()
    }

    /// Does what such a service has to do first.
    fn work(request: Request<Self>) -> impl Future<Output = Result<(), BoxError>> + Send
    where
        Self: Sized,
    {
        drop(request);
        async { Ok(()) }
    }
}

macro_rules! stations {
    ($($phase:ident, $put:ident: $way:expr, $line:expr => $taken:literal $({ $($own:item)* })?;)*) => {
        $(
            impl Station for $phase {
                const WAY: &[&str] = $way;
                const LINE: Option<&str> = $line;
                const TAKEN: &str = $taken;

                fn put(pipeline: Pipeline, service: impl PhaseService<Self>) -> Pipeline {
                    pipeline.$put(service)
                }

                $($($own)*)?
            }
        )*
    };
}

const EHLO: &str = "EHLO client.example";
const MAIL: &str = "MAIL FROM:<a@example.net>";
const RCPT: &str = "RCPT TO:<b@example.org>";

stations! {
    Connect, connect: &[], None => "220";
    Helo, helo: &[], Some(EHLO) => "250-mx.test";
    Auth, auth: &[EHLO], Some("AUTH PLAIN AGEAYg==") => "235 2.7.0" {
        fn taken() -> Self::Response {
            Identity::new("a").into()
        }
    };
    Mail, mail: &[EHLO], Some(MAIL) => "250 2.";
    Rcpt, rcpt: &[EHLO, MAIL], Some(RCPT) => "250 2.";
    Command, command: &[EHLO], Some("XPING") => "250 2.";
    Data, data: &[EHLO, MAIL, RCPT], Some("DATA") => "250 2." {
        async fn work(request: Request<Self>) -> Result<(), BoxError> {
            request.into_body().collect().await?;
            Ok(())
        }
    };
}

/// A server with that service at one phase, which accepts everything at the others.
pub fn server<P: Station>(service: impl PhaseService<P>) -> Server {
    Server::new("mx.test", P::put(accept_rcpt(), service))
        .configure(|config| config.allow_insecure_auth(true))
}

/// A client that has asked for the phase, and has not received the reply yet.
pub async fn ask<P: Station>(server: &Server) -> Client {
    let mut client = Client::connect(server);
    let Some(line) = P::LINE else {
        settle().await;
        return client;
    };
    client.expect("220").await;
    for line in P::WAY {
        client.cmd(line, "250").await;
    }
    client.send(format!("{line}\r\n")).await;
    settle().await;
    client
}

/// What a client receives.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    /// `accepted`, or code and enhanced status code.
    pub reply: String,
    /// Seconds from the command to the reply.
    pub after: u64,
}

/// Reads the reply of the phase, and checks that the session then continues or ends as it should.
pub async fn next_outcome<P: Station>(client: &mut Client) -> String {
    let mut reply = client.reply().await;
    if reply.starts_with("354") {
        client.send("message\r\n.\r\n").await;
        reply = client.reply().await;
    }
    if reply.starts_with("421") {
        client.expect_close().await;
    } else {
        // RFC 5321 section 3.1: 503 to everything but QUIT once the greeting was a refusal.
        let refused = P::LINE.is_none() && reply.starts_with('5');
        client
            .cmd("NOOP", if refused { "503" } else { "250" })
            .await;
    }
    if reply.starts_with(P::TAKEN) {
        return "accepted".to_owned();
    }
    reply.chars().take("451 4.3.0".len()).collect()
}

/// What the last of so many clients receives that ask at once.
pub async fn measure<P: Station>(service: impl PhaseService<P>, clients: usize) -> Outcome {
    let server = server(service);
    let begun = Instant::now();
    for _ in 1..clients {
        let mut other = ask::<P>(&server).await;
        tokio::spawn(async move { next_outcome::<P>(&mut other).await });
    }
    let mut client = ask::<P>(&server).await;
    let reply = next_outcome::<P>(&mut client).await;
    Outcome {
        reply,
        after: begun.elapsed().as_secs(),
    }
}

/// The service within the layers.
#[derive(Clone, Copy, Debug)]
pub enum Leaf {
    Takes,
    TakesIn(Duration),
    TakesMarked,
    Refuses,
    Fails,
    NeverReady,
}

/// What `TakesMarked` looks for in the session.
#[derive(Clone, Copy, Debug)]
pub struct Mark;

impl<P: Station> Service<Request<P>> for Leaf {
    type Response = P::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<P::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Self::NeverReady => Poll::Pending,
            _ => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: Request<P>) -> Self::Future {
        let leaf = *self;
        Box::pin(async move {
            match leaf {
                Self::TakesIn(time) => tokio::time::sleep(time).await,
                Self::TakesMarked if request.session().get::<Mark>().is_none() => {
                    return Ok(Reply::rejected("No mark").into());
                }
                Self::Refuses => return Ok(Reply::no_such_user().into()),
                Self::Fails => return Err("database is down".into()),
                _ => {}
            }
            P::work(request).await?;
            Ok(P::taken())
        })
    }
}
