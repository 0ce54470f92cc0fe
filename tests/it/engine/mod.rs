//! What the engine keeps to whatever its clients and services do: nothing hangs, nothing grows, no reply is lost, and every
//! session ends once.

mod computing;
mod early;
mod ends;
mod hangs;
mod limits;
mod memory;

use std::sync::{Arc, Mutex};

use smtpd_tower::{
    Data, Pipeline, Reply, Request, Server, Session, handler_fn, session::EndReason,
};
use support::{accept_rcpt, server};
use tokio::io::DuplexStream;

const ENVELOPE: &str = "EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";

type Ends = Arc<Mutex<Vec<EndReason>>>;

/// A server that notes how its sessions end.
fn noting(pipeline: Pipeline) -> (Server, Ends) {
    let ends = Ends::default();
    let also = ends.clone();
    let server = server(pipeline).on_close(move |_, end| also.lock().unwrap().push(end.reason));
    (server, ends)
}

fn collecting() -> Pipeline {
    accept_rcpt().data(handler_fn(async |request: Request<Data>| {
        request.into_body().collect().await.map(|_| Reply::OK)
    }))
}

/// A session over a pipe that holds so much in either direction. Tests write to it and read from it by themselves, since the
/// client of the test kit reads while it cannot write.
fn session(server: &Server, pipe: usize) -> (DuplexStream, tokio::task::JoinHandle<()>) {
    let (client, far) = tokio::io::duplex(pipe);
    let session =
        tokio::spawn(server.serve_connection(far, Session::local().client_addr().clone()));
    (client, session)
}
