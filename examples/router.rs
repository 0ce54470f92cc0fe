//! Different services for different recipients: a list, and a maildir for each of two domains.
//!
//! `cargo run --example router`: SMTP at 127.0.0.1:2525, LMTP at 127.0.0.1:2424, mail in `./mail/org` and `./mail/net`.
//! Over LMTP, each recipient has its own reply.

use std::path::Path;

use smtpd_tower::{
    BodyError, BoxError, Data, Pipeline, Rcpt, Reply, Request, Server,
    deliver::Maildir,
    handler_fn,
    router::{Route, Routes},
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
    tokio::try_join!(server.serve(smtp), server.serve(lmtp).lmtp())?;
    Ok(())
}

pub fn server(mail: &Path) -> Result<Server, BoxError> {
    let org = Route::new(handler_fn(is_user), Maildir::new(mail.join("org")));
    let net = Route::accept(Maildir::new(mail.join("net")));
    let list = Route::new(handler_fn(may_post), handler_fn(distribute));
    // One table for both phases, so that everything accepted is also delivered. The most specific route comes first.
    let routes = Routes::new()
        .address("list@example.org".parse()?, list)
        .domain("example.org".parse()?, org.clone())
        .address("postmaster".parse()?, org)
        .domain("example.net".parse()?, net);
    let pipeline = Pipeline::new().rcpt(routes.rcpt()).data(routes.data());
    Ok(Server::new(system_hostname(), pipeline))
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
            let user = mailbox.local_part_unquoted().to_ascii_lowercase();
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
    println!("{} bytes from <{sender}> for the list", post.len());
    Ok(Reply::ok(format!("Posted {} bytes", post.len())))
}
