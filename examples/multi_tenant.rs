//! A gateway for several tenants: recipients and tenants are in SQLite, each tenant has its limits and its web service, and
//! attachments are stored on disk.
//!
//! `cargo run --example multi_tenant -- 127.0.0.1:2525 tenants.db attachments`, once so that the tables exist, then
//!
//! ```sql
//! INSERT INTO tenants VALUES (1, 'http://127.0.0.1:8080/inbox', 100, 1000000);
//! INSERT INTO recipients VALUES ('you@example.org', 1), ('postmaster', 1);
//! ```
//!
//! by `sqlite3 tenants.db`, and `curl --crlf smtp://127.0.0.1:2525 --mail-rcpt you@example.org -T README.md`. Addresses are in
//! lower case; `postmaster` is the one without a domain. The web service receives the message as it is, with the envelope in the
//! fields `envelope-from` and `envelope-to`, and in `attachments` the directory with its attachments. Whatever goes wrong, the
//! client receives 451 and tries again.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::HeaderValue;
use http_body_util::Full;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rusqlite::{Connection, OptionalExtension};
use smtpd_tower::{
    Data, Envelope, Pipeline, Rcpt, Reply, Request, Server, Session,
    address::AddressRules,
    layer::{ConcurrencyLayer, Counted, RateLimitLayer, ReceivedLayer, SizeLimitLayer, SpoolLayer},
    limiter::Rate,
    mime::{Parsed, mail_parser::MimeHeaders},
    server::system_hostname,
    session::QueueId,
};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::Mutex, task::spawn_blocking, time::timeout};
use tower::{BoxError, ServiceBuilder};

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS tenants (
        id INTEGER PRIMARY KEY,
        webhook TEXT NOT NULL,
        messages_per_hour INTEGER NOT NULL CHECK (messages_per_hour > 0),
        max_bytes INTEGER NOT NULL CHECK (max_bytes > 0)
    );
    CREATE TABLE IF NOT EXISTS recipients (
        address TEXT PRIMARY KEY,
        tenant INTEGER NOT NULL REFERENCES tenants
    );";
const FIND: &str = "
    SELECT id, webhook, messages_per_hour, max_bytes
    FROM recipients JOIN tenants ON id = tenant WHERE address = ?1";

/// How long a web service may take.
const WEBHOOK: Duration = Duration::from_secs(30);

type Database = Arc<Mutex<Connection>>;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let mut arguments = std::env::args().skip(1);
    let mut next = |default: &str| arguments.next().unwrap_or_else(|| default.to_owned());
    let listener = TcpListener::bind(next("127.0.0.1:2525")).await?;
    let database = Connection::open(next("tenants.db"))?;
    let server = server(database, next("attachments").into())?;
    println!("listening on {}", listener.local_addr()?);
    Ok(server.serve(listener).await?)
}

/// A service that fails, because the database is broken for instance, defers with 451, and its error is logged.
pub fn server(database: Connection, attachments: PathBuf) -> Result<Server, BoxError> {
    database.execute_batch(TABLES)?;
    let database = Arc::new(Mutex::new(database));
    let rcpt = ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(64) // recipients that wait for the database
        .service_fn(move |request| rcpt(database.clone(), request));
    // Each tenant has a rate of its own. A message that its web service does not accept costs it nothing.
    let rate = RateLimitLayer::by_session(Rate::per_hour(1)?, |session: &Session| {
        Some(tenant(session)?.id)
    })
    .rate_by(|session| Rate::per_hour(tenant(session)?.messages_per_hour).ok())
    .count(Counted::Accepted)
    .reply(Reply::mailbox_busy("Too many messages"));
    let store = Store {
        web: Client::builder(TokioExecutor::new()).build_http(),
        attachments,
    };
    let data = ServiceBuilder::new()
        .layer(ConcurrencyLayer::per_ip(10)) // files of messages that arrive
        .layer(SizeLimitLayer::by(|request: &Request<Data>| {
            Some(tenant(request.session())?.max_bytes.into())
        }))
        .layer(ReceivedLayer::new())
        .layer(SpoolLayer::new(64 << 10))
        // These count messages that have arrived, so a client that only begins one costs the tenant nothing.
        .layer(ConcurrencyLayer::by(4, |request: &Request<Data>| {
            Some(tenant(request.session())?.id)
        }))
        .layer(rate)
        .concurrency_limit(16) // messages in memory
        .service_fn(move |request| deliver(store.clone(), request));
    let pipeline = Pipeline::new().rcpt(rcpt).data(data);
    let server = Server::new(system_hostname(), pipeline);
    Ok(server.configure(|config| config.max_message_size(50 << 20)))
}

#[derive(Debug)]
struct Tenant {
    id: i64,
    webhook: String,
    messages_per_hour: u32,
    max_bytes: u32,
}

/// Returns the tenant of the message, whom its first recipient has determined.
fn tenant(session: &Session) -> Option<Arc<Tenant>> {
    session.transaction().get()
}

async fn rcpt(database: Database, request: Request<Rcpt>) -> Result<Reply, BoxError> {
    const RULES: AddressRules = AddressRules::new().ignore_case(true);
    let address = RULES.recipient(request.recipient()).into_owned();
    let Some(found) = find(database, address).await? else {
        return Ok(Reply::no_such_user());
    };
    match tenant(request.session()) {
        // There is one reply to a message. The client sends it to the recipients of another tenant separately.
        Some(first) if first.id != found.id => return Ok(Reply::too_many_recipients()),
        Some(_) => {}
        None => request.session().transaction().insert(Arc::new(found)),
    }
    Ok(Reply::OK)
}

/// SQLite blocks its thread, so it gets one of its own. The lock goes along: there is never more than one, even if the client
/// goes away.
async fn find(database: Database, address: String) -> Result<Option<Tenant>, BoxError> {
    let database = database.lock_owned().await;
    spawn_blocking(move || {
        let found = database.query_row(FIND, [address], |row| {
            Ok(Tenant {
                id: row.get(0)?,
                webhook: row.get(1)?,
                messages_per_hour: row.get(2)?,
                max_bytes: row.get(3)?,
            })
        });
        Ok(found.optional()?)
    })
    .await?
}

#[derive(Clone, Debug)]
struct Store {
    web: Client<HttpConnector, Full<Bytes>>,
    attachments: PathBuf,
}

/// The directory with the attachments is removed when it is dropped, so whenever this does not come to its end.
async fn deliver(store: Store, request: Request<Data>) -> Result<Reply, BoxError> {
    let (session, data) = request.into_parts();
    let tenant = tenant(&session).ok_or("a message without a tenant")?;
    let id = session.transaction().get::<QueueId>();
    let (envelope, body) = data.into_parts();
    let message = Parsed::new(body.collect().await?);
    let folder = store.attachments.join(tenant.id.to_string());
    let bytes = message.bytes().clone();
    let directory = spawn_blocking(move || save_attachments(&folder, &message)).await??;
    let attachments = directory.as_ref().map(TempDir::path);
    let post = post(&tenant, id, &envelope, bytes, attachments)?;
    let response = timeout(WEBHOOK, store.web.request(post)).await??;
    if !response.status().is_success() {
        return Ok(Reply::try_again("The service of the recipient is away"));
    }
    directory.map(TempDir::keep);
    Ok(Reply::ok("Delivered"))
}

fn save_attachments(folder: &Path, message: &Parsed) -> Result<Option<TempDir>, BoxError> {
    let message = message.message().map_err(|error| error.reply())?;
    match message.attachment_count() {
        0 => return Ok(None),
        1..=100 => {}
        _ => return Err(Reply::rejected("Too many attachments").into()),
    }
    fs::create_dir_all(folder)?;
    let directory = TempDir::with_prefix_in("message-", folder)?;
    for (number, part) in message.attachments().enumerate() {
        let name = file_name(number, part.attachment_name().unwrap_or("unnamed"));
        let mut file = File::create_new(directory.path().join(name))?;
        file.write_all(part.contents())?;
        file.sync_all()?;
    }
    // A new name is durable once its directory is.
    for directory in directory.path().ancestors().take(3) {
        File::open(directory)?.sync_all()?;
    }
    Ok(Some(directory))
}

/// Makes a file name of what the sender calls an attachment, which may be `../../etc/passwd`.
fn file_name(number: usize, name: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    let name = name.chars().map(|c| if is_safe(c) { c } else { '_' });
    format!("{number:02}-{}", name.take(100).collect::<String>())
}

fn post(
    tenant: &Tenant,
    id: Option<QueueId>,
    envelope: &Envelope,
    message: Bytes,
    attachments: Option<&Path>,
) -> http::Result<http::Request<Full<Bytes>>> {
    let sender = envelope.sender().as_str().as_bytes();
    let mut post = http::Request::post(&tenant.webhook)
        .header("content-type", "message/rfc822")
        .header(
            "idempotency-key",
            id.unwrap_or_else(QueueId::unique).as_str(),
        )
        .header("envelope-from", HeaderValue::from_bytes(sender)?);
    if let Some(directory) = attachments {
        let path = directory.as_os_str().as_encoded_bytes();
        post = post.header("attachments", HeaderValue::from_bytes(path)?);
    }
    for recipient in envelope.recipients() {
        let path = recipient.path().as_str().as_bytes();
        post = post.header("envelope-to", HeaderValue::from_bytes(path)?);
    }
    post.body(Full::new(message))
}
