//! Different services for different recipients: a list, and a maildir for each of two domains.
//!
//! `cargo run --example router`: SMTP at 127.0.0.1:2525, LMTP at 127.0.0.1:2424, mail in `./mail/org` and `./mail/net`.
//! Over LMTP, each recipient has its own reply.

use std::path::Path;

use smtpd_tower::{
    AddressError, BodyError, BoxError, Data, Pipeline, Rcpt, Reply, Request, ServePhase, Server,
    deliver::Maildir,
    handler_fn,
    router::{RoutePhase, Router},
    system_hostname,
};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mail = Path::new("mail");
    std::fs::create_dir_all(mail)?;
    let server = server(mail)?;
    let smtp = TcpListener::bind("127.0.0.1:2525").await?;
    let lmtp = TcpListener::bind("127.0.0.1:2424").await?;
    println!("SMTP at {}", smtp.local_addr()?);
    println!("LMTP at {}", lmtp.local_addr()?);
    tokio::try_join!(server.serve(smtp), server.serve_lmtp(lmtp))?;
    Ok(())
}

pub fn server(mail: &Path) -> Result<Server, BoxError> {
    let accept = || handler_fn(async |_: Request<Rcpt>| {});
    let rcpt = routes(handler_fn(may_post), handler_fn(is_user), accept())?;
    let data = routes(
        handler_fn(distribute),
        Maildir::new(mail.join("org")),
        Maildir::new(mail.join("net")),
    )?;
    let pipeline = Pipeline::new().rcpt(rcpt).data(data);
    Ok(Server::new(system_hostname(), pipeline))
}

/// The same routes for both phases, so that everything accepted is also delivered. The most specific route comes first.
fn routes<P: RoutePhase>(
    list: impl ServePhase<P>,
    org: impl ServePhase<P>,
    net: impl ServePhase<P>,
) -> Result<Router<P>, AddressError> {
    let router = Router::new()
        .address("list@example.org".parse()?, list)
        .domain("example.org".parse()?, org.clone())
        .address("postmaster".parse()?, org)
        .domain("example.net".parse()?, net);
    Ok(router)
}

/// Reports of failed deliveries, which have no sender, are not posts.
async fn may_post(request: Request<Rcpt>) -> Result<(), Reply> {
    if request.sender().is_null() {
        return Err(Reply::rejected("Lists take no reports"));
    }
    Ok(())
}

async fn is_user(request: Request<Rcpt>) -> Result<(), Reply> {
    match request.recipient().mailbox() {
        Some(mailbox) => {
            let user = mailbox.local_part_unquoted().to_lowercase();
            match user.as_str() {
                "alice" | "postmaster" => Ok(()),
                _ => Err(Reply::no_such_user()),
            }
        }
        None => Ok(()),
    }
}

async fn distribute(request: Request<Data>) -> Result<Reply, BodyError> {
    let sender = request.envelope().sender().clone();
    let post = request.into_body().collect_to(64 << 10).await?;
    println!("{} octets from <{sender}> for the list", post.len());
    Ok(Reply::ok(format!("Posted {} octets", post.len())))
}
