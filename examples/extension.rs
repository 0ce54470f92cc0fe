//! Your own extension: a keyword in the reply to EHLO, a parameter of MAIL and one of RCPT, both parsed into types.
//!
//! `cargo run --example extension -- 127.0.0.1:2525`, then by hand, as with `nc -C 127.0.0.1 2525`:
//! `EHLO me`, `MAIL FROM:<a@example.com> XTENANT=acme`, `RCPT TO:<b@example.org> XFOLDER=archive`, and DATA.

use std::borrow::Cow;

use smtpd_tower::{
    Data, Mail, Pipeline, Rcpt, Reply, Request, Server,
    extension::{Extension, Extensions, SessionFacts},
    handler_fn,
    parameter::{Parameter, ParameterError, ParameterRule},
    system_hostname,
};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:2525".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    let pipeline = Pipeline::new()
        .mail(handler_fn(has_tenant))
        .rcpt(handler_fn(async |_: Request<Rcpt>| {}))
        .data(handler_fn(sort));
    Server::new(system_hostname(), pipeline)
        .configure(|config| config.extensions(Extensions::default().with(Filing)))
        .serve(listener)
        .await
}

/// The owner of the mail, and the folder to store it in.
#[derive(Debug)]
struct Filing;

impl Extension for Filing {
    fn keyword(&self) -> &str {
        "XFILING"
    }

    fn announcement(&self, _: SessionFacts<'_>) -> Cow<'_, str> {
        "INBOX ARCHIVE".into()
    }

    fn mail_parameters(&self) -> &[ParameterRule] {
        &[const { ParameterRule::of::<Tenant>() }]
    }

    fn rcpt_parameters(&self) -> &[ParameterRule] {
        &[const { ParameterRule::of::<Folder>() }]
    }
}

#[derive(Debug)]
struct Tenant(String);

impl Parameter for Tenant {
    const KEYWORD: &'static str = "XTENANT";

    /// If this fails, the client receives 501 5.5.4, before any service is called.
    fn parse(value: Option<&str>) -> Result<Self, ParameterError> {
        value
            .filter(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric()))
            .map(|name| Self(name.to_owned()))
            .ok_or(ParameterError::Malformed)
    }
}

#[derive(Debug)]
enum Folder {
    Inbox,
    Archive,
}

impl Parameter for Folder {
    const KEYWORD: &'static str = "XFOLDER";

    fn parse(value: Option<&str>) -> Result<Self, ParameterError> {
        match value.map(str::to_ascii_uppercase).as_deref() {
            Some("INBOX") => Ok(Self::Inbox),
            Some("ARCHIVE") => Ok(Self::Archive),
            _ => Err(ParameterError::Malformed),
        }
    }
}

async fn has_tenant(request: Request<Mail>) -> Result<Reply, Reply> {
    match request.parameters().get::<Tenant>() {
        Some(Tenant(name)) => Ok(Reply::ok(format!("For {name}"))),
        None => Err(Reply::rejected("Whose mail is it? Say XTENANT=")),
    }
}

/// The parameters of MAIL and RCPT are in the envelope, too.
async fn sort(request: Request<Data>) -> Reply {
    let recipients = request.envelope().recipients().iter();
    let folders = recipients.map(|recipient| match recipient.parameters().get() {
        Some(Folder::Archive) => "the archive",
        Some(Folder::Inbox) | None => "the inbox",
    });
    Reply::ok(format!("Into {}", folders.collect::<Vec<_>>().join(", ")))
}
