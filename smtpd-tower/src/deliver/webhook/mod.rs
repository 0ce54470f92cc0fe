mod connect;
mod error;
mod exchange;
mod outcome;
mod outgoing;
#[cfg(feature = "mime")]
mod parsed;
mod payload;
mod request;
mod secret;
#[cfg(test)]
mod tests;
mod url;

use std::{
    convert::Infallible,
    fmt,
    num::NonZeroUsize,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::header::{HeaderMap, HeaderValue};
use hyper_util::client::legacy::Client;
use smtpd_core::reply::Reply;
use tower_service::Service;

use self::{
    connect::Connector,
    error::Problem,
    exchange::{Answer, Failure},
    outcome::Outcome,
    outgoing::Outgoing,
    request::Subject,
    url::Url,
};
pub use self::{error::WebhookError, payload::WebhookFormat, secret::WebhookSecret};
use super::{gate::Gate, patience::Patience, shown};
#[cfg(feature = "tls")]
use crate::tls::Roots;
use crate::{
    body::Body,
    fault::local_error,
    phase::{Data, Request},
    phase_kind::PhaseKind,
    session::{QueueId, Session},
};

/// POSTs each message to a web service, and replies as its response says.
///
/// The service must have stored the message when it responds with 2xx. There is one attempt: with 451, the client tries again, or
/// the queue does.
///
/// ```
/// use smtpd_tower::{
///     Body, Data, Envelope, Request, Session, deliver::Webhook,
/// };
/// use tower::ServiceExt;
///
/// # use tokio::io::{AsyncReadExt, AsyncWriteExt};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// # let url = format!("http://{}/inbox", listener.local_addr()?);
/// # tokio::spawn(async move {
/// #     let (mut stream, _) = listener.accept().await.unwrap();
/// #     let mut post = Vec::new();
/// #     while !post.ends_with(b"\r\n0\r\n\r\n") {
/// #         stream.read_buf(&mut post).await.unwrap();
/// #     }
/// #     stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
/// # });
/// let webhook = Webhook::new(&url)?; // such as https://example.org/inbox
///
/// let envelope = Envelope::new("a@example.com".parse()?)
///     .with_recipient("b@example.org".parse()?);
/// let data = Data::new(envelope, Body::from("Subject: hi\r\n\r\nHello\r\n"));
/// let reply = webhook.oneshot(Request::new(Session::local(), data)).await?;
/// assert!(reply.is_positive());
/// # Ok(()) }
/// ```
///
/// # Requests
///
/// [`format`](Self::format) chooses what they hold:
///
/// | format | body | memory |
/// |---|---|---|
/// | [`Raw`](WebhookFormat::Raw) | the message, as it arrives | constant |
/// | `Raw` with a [secret](Self::secret) | the message | the message |
/// | [`Json`](WebhookFormat::Json) | JSON with the message in base64 | about four times the message |
/// | `ParsedJson` (feature `mime`) | JSON with the parsed message | about four times the message |
///
/// `Raw` has the envelope in the fields `smtp-sender`, `smtp-recipient` (one for each), `smtp-session`, `smtp-client-address`,
/// `smtp-helo` and `smtp-user`. Their values are percent-encoded where they are not printable ASCII (RFC 3986 section 2.1). Many
/// servers refuse a header of more than 8 KiB, so use JSON if messages have many recipients.
///
/// JSON is an object with these members; what is unknown is `null`:
///
/// | member | holds |
/// |---|---|
/// | `id` | the [`QueueId`] |
/// | `envelope` | `sender`, which is empty if it is null, and `recipients`, each with `address` and `original`, the ORCPT (RFC 3461) |
/// | `session` | `id`, `client_address`, `client_name`, `helo`, `user`, `tls` (`version`, `cipher`) and `hostname` |
/// | `message` | in `Json` only: the message in base64 |
/// | `headers` | in `ParsedJson` only, as all that follow: each field of the header, with `name` and `value` |
/// | `from`, `to`, `cc`, `reply_to` | the addresses, each with `name` and `address` |
/// | `subject`, `date`, `message_id` | decoded; the date as in RFC 3339 |
/// | `text`, `html` | the first part of each kind that is not an attachment |
/// | `attachments` | each with `filename`, `content_type`, `content_id`, `size`, and `content` in base64 |
///
/// In memory, messages count against the [`MemoryBudget`](crate::memory::MemoryBudget), and may have at most
/// [`max_size`](Self::max_size) bytes.
///
/// A message that breaks off while it is streamed does not look whole: the connection ends without the last chunk of the body,
/// and HTTP servers report an error (RFC 9112 section 8).
///
/// # Signatures and duplicates
///
/// Each request has the [`QueueId`] of the message in `webhook-id` and in `idempotency-key`. It stays the same if a queue tries
/// again; a client that sends its message again gets a new one.
///
/// With a [secret](Self::secret), requests are signed as [Standard Webhooks](https://www.standardwebhooks.com) specifies:
/// `webhook-timestamp`, and `webhook-signature` with HMAC-SHA256 of the id, the time and the body. The signature stands before
/// the body, so the message is collected first. It does not cover the fields of the header: sign JSON if the envelope matters.
///
/// # Responses
///
/// | response | reply |
/// |---|---|
/// | 2xx | 250 2.0.0 |
/// | 400, 422 | 554 5.6.0 |
/// | 413 | 552 5.3.4 |
/// | 408, 425, 429, 503 | 451 4.3.2 |
/// | any other 4xx, and 3xx: redirects are not followed | 451 4.3.5, a fault |
/// | any other status | 451 4.3.0, a fault |
/// | none, because the connection fails or takes too long | 451 4.3.0, a fault |
/// | 2xx before the message has ended | 451 4.3.0, a fault |
/// | no [place](Self::concurrency) for a request in time | 451 4.3.2 |
///
/// A fault is reported as a [`WebhookError`] to the log and to [`Server::on_error`](crate::server::Server::on_error). 401, 403,
/// 404 and 410 say that the URL or the authorization is wrong, not the message, so they lose no mail. `Retry-After` is ignored,
/// because SMTP has no way to pass it on.
///
/// A refusal before the end of a streamed message is sent to the client at once.
///
/// # Limits
///
/// | what | default |
/// |---|---|
/// | requests [at a time](Self::concurrency) | 32 |
/// | [wait](Self::max_wait) for a place | 30 seconds |
/// | [connection](Self::connect_timeout), with its TLS handshake | 10 seconds |
/// | [time](Self::time_limit) for the service | 1 minute |
/// | [size](Self::max_size) of a message in memory | 25 MiB |
/// | header of a response | 64 KiB |
/// | body of a response that is read | 16 KiB |
/// | idle connections | 16, for 15 seconds |
///
/// Clones share the places and the connections. A streamed request takes as long as the client sends: put a `SpoolLayer` (feature
/// `spool`) in front if clients are slow or not trusted. Requests are HTTP/1.1, and no proxy is asked.
#[derive(Clone)]
pub struct Webhook {
    settings: Arc<Settings>,
    connector: Connector,
    client: Client<Connector, Outgoing>,
    gate: Gate,
}

#[derive(Clone)]
struct Settings {
    url: Arc<Url>,
    format: WebhookFormat,
    fields: HeaderMap,
    secrets: Vec<WebhookSecret>,
    shows_response: bool,
    time_limit: Duration,
    max_size: usize,
}

impl Webhook {
    /// Creates a service that sends messages to a URL. With `https`, which needs the feature `tls`, it verifies the server with
    /// the authorities that [the system](crate::tls::Roots::system) trusts.
    ///
    /// # Errors
    ///
    /// Returns an error if the URL is not one of `http` or `https`, or names a user, or if the authorities cannot be read.
    pub fn new(url: &str) -> Result<Self, WebhookError> {
        let url = Url::parse(url)?;
        if !url.is_tls {
            let url = Arc::new(url);
            return Ok(Self::with_connector(url.clone(), Connector::new(url)));
        }
        #[cfg(feature = "tls")]
        {
            let roots = Roots::system();
            Self::secured(
                url,
                &roots.map_err(|error| WebhookError::new(Problem::Tls(error.into())))?,
            )
        }
        #[cfg(not(feature = "tls"))]
        Err(WebhookError::new(Problem::NoTls))
    }

    /// Like [`new`](Self::new), but verifies the server with these authorities. The URL must be one of `https`.
    ///
    /// # Errors
    ///
    /// Returns an error if the URL is not one of `https`, or names a user, or if there is no cryptography for TLS.
    #[cfg(feature = "tls")]
    pub fn with_roots(url: &str, roots: &Roots) -> Result<Self, WebhookError> {
        let parsed = Url::parse(url)?;
        if !parsed.is_tls {
            return Err(WebhookError::new(Problem::Url("no https".to_owned())));
        }
        Self::secured(parsed, roots)
    }

    #[cfg(feature = "tls")]
    fn secured(url: Url, roots: &Roots) -> Result<Self, WebhookError> {
        let config = roots.client_config();
        let config = config.map_err(|error| WebhookError::new(Problem::Tls(error.into())))?;
        let url = Arc::new(url);
        let connector = Connector::new(url.clone()).with_tls(config);
        Ok(Self::with_connector(url, connector))
    }

    fn with_connector(url: Arc<Url>, connector: Connector) -> Self {
        let settings = Settings {
            url,
            format: WebhookFormat::default(),
            fields: HeaderMap::new(),
            secrets: Vec::new(),
            shows_response: false,
            time_limit: Duration::from_secs(60),
            max_size: 25 << 20,
        };
        Self {
            settings: Arc::new(settings),
            client: connect::client(&connector),
            connector,
            gate: Gate::new(32),
        }
    }

    /// Sets what the requests hold. Default: [`WebhookFormat::Raw`].
    #[must_use]
    pub fn format(self, format: WebhookFormat) -> Self {
        self.with(|settings| settings.format = format)
    }

    /// Adds a field to the header of each request, such as `authorization`. The value is shown nowhere.
    ///
    /// # Errors
    ///
    /// Returns an error if this is not a field, or one that the requests have already: those of HTTP's framing, `content-type`,
    /// `idempotency-key`, and all that begin with `smtp-` or `webhook-`.
    ///
    /// ```
    /// use smtpd_tower::deliver::Webhook;
    ///
    /// let webhook = Webhook::new("http://127.0.0.1:8080/inbox")?
    ///     .header("authorization", "Bearer mF_9.B5f-4.1JqM")?;
    /// # Ok::<(), smtpd_tower::deliver::WebhookError>(())
    /// ```
    pub fn header(self, name: &str, value: &str) -> Result<Self, WebhookError> {
        let known = request::field_name(name);
        let (Some(known), Ok(mut value)) = (known, HeaderValue::from_str(value)) else {
            return Err(WebhookError::new(Problem::Header(name.to_owned())));
        };
        value.set_sensitive(true);
        Ok(self.with(|settings| {
            settings.fields.append(known, value);
        }))
    }

    /// Adds a key with which requests are signed. With several, requests have a signature of each, so that keys can be changed
    /// while the service accepts both. Default: none.
    #[must_use]
    pub fn secret(self, secret: WebhookSecret) -> Self {
        self.with(|settings| settings.secrets.push(secret))
    }

    /// Sets whether a text in the response becomes the text of the reply, unless that is a fault: the member `message` of an
    /// object in JSON. Default: false.
    ///
    /// The text has at most 200 characters, and what is not printable ASCII becomes `?`.
    #[must_use]
    pub fn response_as_reply(self, on: bool) -> Self {
        self.with(|settings| settings.shows_response = on)
    }

    /// Sets how long it may take to connect, including the TLS handshake. Default: 10 seconds.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connector.timeout = timeout;
        self.client = connect::client(&self.connector);
        self
    }

    /// Sets how long the service may keep the server waiting: until it is connected, while it does not read, and until it has
    /// responded. The time in which the client sends nothing does not count. Default: 1 minute.
    #[must_use]
    pub fn time_limit(self, limit: Duration) -> Self {
        self.with(|settings| settings.time_limit = limit)
    }

    /// Sets how many bytes a message may have that is not streamed; a larger one is rejected with 552 5.3.4. Default: 25 MiB.
    #[must_use]
    pub fn max_size(self, bytes: usize) -> Self {
        self.with(|settings| settings.max_size = bytes)
    }

    /// Sets how many requests are under way at a time. Default: 32.
    #[must_use]
    pub fn concurrency(mut self, requests: NonZeroUsize) -> Self {
        self.gate.set_places(requests);
        self
    }

    /// Sets how long a message waits until its request may begin. Default: 30 seconds.
    #[must_use]
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.gate.set_wait(wait);
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(Arc::make_mut(&mut self.settings));
        self
    }

    async fn deliver(self, request: Request<Data>) -> Reply {
        let _place = match self.gate.enter().await {
            Ok(place) => place,
            Err(reply) => return reply,
        };
        let id = request.session().transaction().get::<QueueId>();
        let (session, data) = request.into_parts();
        let (envelope, body) = data.into_parts();
        let subject = Subject {
            session,
            envelope,
            id: id.unwrap_or_else(QueueId::unique),
        };
        match self.send(&subject, body).await {
            Ok(Ok(answer)) => self.settings.reply(&subject, &answer),
            Ok(Err(refusal)) => refusal,
            Err(Failure::Body(error)) => subject.session.reply_to(error),
            Err(Failure::Service(error)) => fault(&subject.session, local_error(), error),
        }
    }

    /// Sends a message. Returns a reply if the message cannot be sent.
    async fn send(&self, subject: &Subject, body: Body) -> Result<Result<Answer, Reply>, Failure> {
        let settings = &*self.settings;
        let (format, uri) = (settings.format, settings.url.uri());
        let mut patience = Patience::new(settings.time_limit);
        let mut fields = subject.fields(format, &settings.fields);
        if format == WebhookFormat::Raw && settings.secrets.is_empty() {
            let (feed, outgoing) = Outgoing::streamed();
            let post = request::post(uri, fields, outgoing);
            let answer = exchange::stream(&self.client, post, feed, body, &mut patience);
            return answer.await.map(Ok);
        }
        let budget = body.budget().clone();
        let message = body
            .collect_to(settings.max_size)
            .await
            .map_err(Failure::Body)?;
        let bytes = match subject.body(format, message, &budget) {
            Ok(bytes) => bytes,
            Err(reply) => return Ok(Err(reply)),
        };
        if !settings.secrets.is_empty() {
            request::sign(&mut fields, &subject.id, &bytes, &settings.secrets);
        }
        let post = request::post(uri, fields, Outgoing::Whole(Some(bytes)));
        exchange::send(&self.client, post, &mut patience)
            .await
            .map(Ok)
    }
}

impl Settings {
    /// Returns the reply to a message, and reports what is a fault.
    fn reply(&self, subject: &Subject, answer: &Answer) -> Reply {
        let reply = match Outcome::of(answer.status) {
            Outcome::Accepted => Reply::queued(&subject.id),
            Outcome::Refused(reply) => reply,
            Outcome::Fault(reply) => {
                let problem = Problem::Status(answer.status, shown::in_log(&answer.body));
                return fault(&subject.session, reply, WebhookError::new(problem));
            }
        };
        match outcome::text(&answer.body).filter(|_| self.shows_response) {
            Some(text) => reply.with_text(text),
            None => reply,
        }
    }
}

fn fault(session: &Session, reply: Reply, error: WebhookError) -> Reply {
    session.report_fault(PhaseKind::Data, error);
    reply
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("host", &self.settings.url.host())
            .field("format", &self.settings.format)
            .finish_non_exhaustive()
    }
}

impl Service<Request<Data>> for Webhook {
    type Response = Reply;
    type Error = Infallible;
    type Future = WebhookFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Data>) -> WebhookFuture {
        WebhookFuture(Some(Box::pin(self.clone().deliver(request))))
    }
}

/// The future of [`Webhook`].
pub struct WebhookFuture(Option<Pin<Box<dyn Future<Output = Reply> + Send>>>);

impl Future for WebhookFuture {
    type Output = Result<Reply, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Polled after completion, it stays pending like a fused future.
        let Some(delivering) = &mut self.0 else {
            return Poll::Pending;
        };
        let reply = ready!(delivering.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(Ok(reply))
    }
}

impl fmt::Debug for WebhookFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookFuture").finish_non_exhaustive()
    }
}
