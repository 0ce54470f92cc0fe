//! An inbox for tests of programs in any language: accepts every message, keeps it in memory, and shows it over HTTP.
//!
//! `cargo run --example test_inbox -- 127.0.0.1:2525 127.0.0.1:8025`, then
//! `curl --crlf smtp://127.0.0.1:2525 --mail-rcpt you@example.org -T README.md` and `curl http://127.0.0.1:8025/messages`
//!
//! | request | response |
//! |---|---|
//! | `GET /messages` | a list of all messages: `id`, `from`, `to`, `size` |
//! | `GET /messages/next?after=ID&timeout=SECONDS` | the first message after that one; waits for it, and is 204 if none comes |
//! | `GET /messages/ID` | also its `subject`, `text`, `html` (made of the text if there is none), and names of `attachments` |
//! | `GET /messages/ID/raw` | the message as it was received |
//! | `DELETE /messages` | deletes all messages |
//!
//! Ids only grow, so `after` is the last one that a test has seen. The inbox holds at most 1000 messages with 64 MiB of text
//! beside their envelopes, with those that are still arriving, and defers more with 452 until some are deleted. Neither address is meant for the public.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use smtpd_tower::{
    BodyError, Data, Envelope, Pipeline, Rcpt, Reply, Request, Server, handler_fn,
    mime::{Parsed, mail_parser::MimeHeaders},
    server::system_hostname,
    service::handler_fn_with,
};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |default: &str| arguments.next().unwrap_or_else(|| default.to_owned());
    let smtp = TcpListener::bind(next("127.0.0.1:2525")).await?;
    let http = TcpListener::bind(next("127.0.0.1:8025")).await?;
    println!("listening on {}", smtp.local_addr()?);
    println!("messages at http://{}/messages", http.local_addr()?);
    let inbox = Inbox::new(1000, 64 << 20);
    let web = axum::serve(http, routes(inbox.clone()));
    tokio::try_join!(server(inbox).serve(smtp), web)?;
    Ok(())
}

pub fn server(inbox: Inbox) -> Server {
    let rcpt = handler_fn(async |_: Request<Rcpt>| {});
    let data = handler_fn_with(inbox, keep);
    Server::new(system_hostname(), Pipeline::new().rcpt(rcpt).data(data))
        .configure(|config| config.max_message_size(10 << 20))
}

/// Messages in memory. Clones share them.
#[derive(Clone)]
pub struct Inbox {
    stored: watch::Sender<Stored>,
    /// A permit for each message, and one for each byte, that there is room for.
    messages: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

#[derive(Default)]
struct Stored {
    last_id: u64,
    messages: Vec<Arc<Message>>,
}

struct Message {
    id: u64,
    envelope: Arc<Envelope>,
    raw: Bytes,
    _permits: [OwnedSemaphorePermit; 2],
}

impl Inbox {
    pub fn new(messages: usize, bytes: usize) -> Self {
        Self {
            stored: watch::Sender::default(),
            messages: Arc::new(Semaphore::new(messages)),
            bytes: Arc::new(Semaphore::new(bytes)),
        }
    }
}

fn find(stored: &Stored, is_it: impl Fn(u64) -> bool) -> Option<Arc<Message>> {
    let mut messages = stored.messages.iter();
    messages.find(|message| is_it(message.id)).cloned()
}

/// Takes permits, which the message then owns: dropping it makes room again, also if it never arrives whole.
fn reserve(semaphore: &Arc<Semaphore>, permits: usize) -> Result<OwnedSemaphorePermit, Reply> {
    let permits = permits.try_into().unwrap_or(u32::MAX);
    let reserved = semaphore.clone().try_acquire_many_owned(permits);
    reserved.map_err(|_| Reply::mailbox_full())
}

async fn keep(inbox: Inbox, request: Request<Data>) -> Result<Reply, BodyError> {
    let (_, data) = request.into_parts();
    let (envelope, mut body) = data.into_parts();
    let (message, mut bytes) = (reserve(&inbox.messages, 1)?, reserve(&inbox.bytes, 0)?);
    let mut raw = Vec::new();
    while let Some(chunk) = body.chunk().await {
        let chunk = chunk?;
        bytes.merge(reserve(&inbox.bytes, chunk.len())?);
        raw.extend_from_slice(&chunk);
    }
    let raw = raw.into_boxed_slice().into(); // without spare capacity
    let _permits = [message, bytes];
    let mut id = 0;
    inbox.stored.send_modify(|stored| {
        stored.last_id += 1;
        id = stored.last_id;
        stored.messages.push(Arc::new(Message {
            id,
            envelope,
            raw,
            _permits,
        }));
    });
    Ok(Reply::queued(id))
}

pub fn routes(inbox: Inbox) -> Router {
    Router::new()
        .route("/messages", get(list).delete(clear))
        .route("/messages/next", get(next))
        .route("/messages/{id}", get(show))
        .route("/messages/{id}/raw", get(raw))
        .with_state(inbox)
}

async fn list(State(inbox): State<Inbox>) -> Json<Value> {
    let stored = inbox.stored.borrow();
    let entries = stored.messages.iter().map(|message| message.entry());
    Json(entries.collect())
}

async fn clear(State(inbox): State<Inbox>) -> StatusCode {
    inbox.stored.send_modify(|stored| stored.messages.clear());
    StatusCode::NO_CONTENT
}

async fn show(inbox: State<Inbox>, Path(id): Path<u64>) -> Result<Json<Value>, StatusCode> {
    let message = find(&inbox.stored.borrow(), |of| of == id);
    Ok(message.ok_or(StatusCode::NOT_FOUND)?.parse())
}

async fn raw(inbox: State<Inbox>, Path(id): Path<u64>) -> Result<impl IntoResponse, StatusCode> {
    let message = find(&inbox.stored.borrow(), |of| of == id);
    let raw = message.ok_or(StatusCode::NOT_FOUND)?.raw.clone();
    Ok(([(CONTENT_TYPE, "message/rfc822")], raw))
}

#[derive(Deserialize)]
struct Wait {
    after: Option<u64>,
    timeout: Option<u64>,
}

async fn next(inbox: State<Inbox>, Query(wait): Query<Wait>) -> Result<Json<Value>, StatusCode> {
    let limit = Duration::from_secs(wait.timeout.unwrap_or(10).min(60));
    let is_next = |id| id > wait.after.unwrap_or(0);
    let mut stored = inbox.stored.subscribe();
    let arrived = stored.wait_for(|stored| find(stored, is_next).is_some());
    let stored = timeout(limit, arrived).await.ok().and_then(Result::ok);
    let message = stored.and_then(|stored| find(&stored, is_next));
    Ok(message.ok_or(StatusCode::NO_CONTENT)?.parse())
}

impl Message {
    fn entry(&self) -> Value {
        let recipients = self.envelope.recipients().iter();
        let to: Vec<_> = recipients.map(|to| to.path().as_str()).collect();
        let from = self.envelope.sender().as_str();
        json!({ "id": self.id, "from": from, "to": to, "size": self.raw.len() })
    }

    fn parse(&self) -> Json<Value> {
        let mut shown = self.entry();
        match Parsed::new(self.raw.clone()).message() {
            Err(error) => shown["error"] = error.to_string().into(),
            Ok(message) => {
                let parts = message.attachments();
                shown["subject"] = message.subject().into();
                shown["text"] = message.body_text(0).into();
                shown["html"] = message.body_html(0).into();
                shown["attachments"] = parts.map(|part| part.attachment_name()).collect();
            }
        }
        Json(shown)
    }
}
