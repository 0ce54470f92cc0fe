//! A submission server for your own users: TLS by STARTTLS or from the first byte, AUTH, and a quota of recipients for each user.
//!
//! A certificate to try it with:
//! `openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout key.pem -out cert.pem`
//!
//! `cargo run --example submission -- 127.0.0.1:2587 127.0.0.1:2465 cert.pem key.pem`, then
//! `curl --crlf --cacert cert.pem --ssl-reqd smtp://localhost:2587 --user alice:wonderland --mail-from alice@example.org
//! --mail-rcpt you@example.com -T README.md`, or the same with `smtps://localhost:2465`. Mail goes into `./outbox`, a Maildir.

use std::{collections::HashMap, sync::Arc};

use smtpd_tower::{
    Auth, Mail, Pipeline, Profile, Rcpt, Reply, Request, Secret, Server,
    deliver::Maildir,
    domains::Domains,
    handler_fn,
    layer::{OwnSenderLayer, RateLimitLayer, ReceivedLayer, SubmissionFieldsLayer},
    limiter::Rate,
    reply::{Code, Status},
    system_hostname,
    tls::TlsConfig,
};
use tokio::net::TcpListener;
use tower::{BoxError, ServiceBuilder};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [starttls, implicit, certificate, key] = &arguments[..] else {
        return Err("usage: submission ADDRESS ADDRESS-TLS CERTIFICATE KEY".into());
    };
    let tls = TlsConfig::from_pem_files(certificate, key)?;
    let server = server(tls, Rate::per_hour(100)?, Maildir::new("outbox"))?;
    let (starttls, implicit) = tokio::try_join!(
        TcpListener::bind(starttls),
        TcpListener::bind(implicit) // RFC 8314 section 3.3
    )?;
    println!("listening on {}", starttls.local_addr()?);
    println!("TLS from the first byte on {}", implicit.local_addr()?);
    tokio::try_join!(
        server.serve(starttls),
        server.serve(implicit).profile(Profile::Submissions)
    )?;
    Ok(())
}

pub fn server(tls: TlsConfig, quota: Rate, outbox: Maildir) -> Result<Server, BoxError> {
    let users = Arc::new(HashMap::from([("alice", "wonderland"), ("bob", "builder")]));
    let auth = ServiceBuilder::new()
        .layer(RateLimitLayer::per_ip(Rate::per_minute(20)?)) // slows down guessing of passwords
        .service(handler_fn(move |request: Request<Auth>| {
            // Return the stored secret; the mechanism verifies what the client has sent.
            let password = users.get(request.credentials().username());
            let secret = password.map(|password| Secret::password(*password));
            async move { secret.ok_or_else(Reply::auth_failed) }
        }));
    let mail = ServiceBuilder::new()
        .layer(OwnSenderLayer::in_domains(Domains::parse(["example.org"])?))
        .service(handler_fn(async |_: Request<Mail>| {}));
    // RFC 5321 section 4.2.3: 450 if policy blocks the mailbox temporarily.
    let exceeded = Reply::new(
        Code::MAILBOX_BUSY,
        Status::DENIED,
        "Quota exceeded, try again later",
    );
    let rcpt = ServiceBuilder::new()
        .layer(RateLimitLayer::per_identity(quota).reply(exceeded))
        .service(handler_fn(async |_: Request<Rcpt>| {}));
    let data = ServiceBuilder::new()
        .layer(SubmissionFieldsLayer::new()) // Date and Message-ID, if missing
        .layer(ReceivedLayer::new())
        .service(outbox);
    let pipeline = Pipeline::new().auth(auth).mail(mail).rcpt(rcpt).data(data);
    // Neither MAIL nor AUTH before TLS, nor MAIL before AUTH (RFC 6409 section 4.3).
    let server = Server::new(system_hostname(), pipeline).tls(tls);
    Ok(server.profile(Profile::Submission))
}
