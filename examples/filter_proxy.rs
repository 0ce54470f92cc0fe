//! A filter in front of another mail server: MAIL and each RCPT are asked of that server as they arrive, a message streams to it
//! while the client sends it, and its replies are what the client receives. Messages are rejected by their header.
//!
//! `cargo run --example filter_proxy -- 127.0.0.1:2525 127.0.0.1:25 'X-Spam-Flag: yes' 'Subject: casino'`, then
//! `curl --crlf smtp://127.0.0.1:2525 --mail-rcpt you@example.org -T README.md`
//!
//! If the upstream server offers XFORWARD, as Postfix does to `smtpd_authorized_xforward_hosts`, its log names the client.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use smtpd_core::{
    connection::Greeting,
    extension::{Extensions, Standard},
    parameter::Parameters,
    reply::{Code, Status},
};
use smtpd_tower::{
    Data, Mail, Pipeline, Rcpt, Reply, Request, Server, Session, body::Head, layer::ReceivedLayer,
    server::system_hostname, session::ReverseName,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, BufWriter},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tower::{BoxError, ServiceBuilder, service_fn};

/// How long the upstream server may take for a command, or to read a chunk.
const STEP: Duration = Duration::from_secs(60);
/// How long it may take for the reply to a message: less than `Timeouts::delivery`.
const DELIVERY: Duration = Duration::from_secs(8 * 60);
/// How long the proxy looks for a reply that no command asked for: so that the runtime has looked at its sockets.
const EARLY: Duration = Duration::from_millis(1);
/// How long it may take to read QUIT.
const QUIT: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    let mut next = |default: &str| arguments.next().unwrap_or_else(|| default.to_owned());
    let listener = TcpListener::bind(next("127.0.0.1:2525")).await?;
    let upstream = next("127.0.0.1:25");
    println!("listening on {}", listener.local_addr()?);
    let server = server(&upstream, arguments.collect());
    Ok(server.serve(listener).await?)
}

/// A service that fails, because the upstream server is away for instance, defers with 451, and its error is logged.
pub fn server(upstream: &str, rules: Vec<String>) -> Server {
    let (upstream, rules): (Arc<str>, Arc<[String]>) = (upstream.into(), rules.into());
    let data = ServiceBuilder::new()
        .layer(ReceivedLayer::new())
        .service_fn(move |request| data(rules.clone(), request));
    let pipeline = Pipeline::new()
        .mail(service_fn(move |request| mail(upstream.clone(), request)))
        .rcpt(service_fn(rcpt))
        .data(data);
    Server::new(system_hostname(), pipeline).configure(|config| {
        // Without these, RCPT has no parameters, and a message ends with CRLF.
        let extensions = Extensions::default()
            .without(Standard::Dsn)
            .without(Standard::Chunking);
        config.extensions(extensions).max_message_size(100 << 20)
    })
}

async fn mail(address: Arc<str>, request: Request<Mail>) -> Result<Reply, BoxError> {
    let session = request.session();
    let mut upstream = timeout(STEP, Upstream::connect(&address, session)).await??;
    upstream.forward(session).await?;
    let parameters = upstream.parameters(request.parameters())?;
    let command = format!("MAIL FROM:<{}>{parameters}", request.sender());
    let reply = upstream.command(&command, STEP).await?;
    session.transaction().insert(upstream);
    passed_on(reply)
}

async fn rcpt(request: Request<Rcpt>) -> Result<Reply, BoxError> {
    // After an error it is not put back: the rest of the transaction is deferred.
    let transaction = request.session().transaction();
    let mut upstream: Upstream = transaction.remove().ok_or("the upstream server is away")?;
    let command = format!("RCPT TO:<{}>", request.recipient());
    let reply = upstream.command(&command, STEP).await?;
    transaction.insert(upstream);
    passed_on(reply)
}

async fn data(rules: Arc<[String]>, request: Request<Data>) -> Result<Reply, BoxError> {
    let transaction = request.session().transaction();
    let mut upstream: Upstream = transaction.remove().ok_or("the upstream server is away")?;
    let reply = upstream.command("DATA", STEP).await?;
    match reply.code() {
        Code::START_MAIL => {}
        // The upstream server has no message yet, so this accepts nothing.
        _ if reply.is_positive() => return Err(format!("unexpected reply: {reply}").into()),
        _ => return passed_on(reply),
    }
    // Now the client receives 354. A return before the final dot closes the connection, and the message is dropped upstream.
    let (head, rest) = request.into_body().head(256 << 10).await?;
    if rules.iter().any(|rule| matches(rule, &head)) {
        return Ok(Reply::rejected("Rejected by a filter"));
    }
    let mut body = head.into_body(rest);
    while let Some(chunk) = body.chunk().await {
        timeout(STEP, upstream.write(&chunk?)).await??;
    }
    let reply = upstream.command(".", DELIVERY).await?;
    // The client does not wait for the reply, and neither does a task that would keep the connection. After a refusal, the upstream
    // server may still be reading the message.
    if reply.is_positive() {
        let _ = timeout(QUIT, upstream.send("QUIT")).await;
    }
    passed_on(reply)
}

/// What the client receives. It does not lose its connection because the upstream server closes its own.
fn passed_on(reply: Reply) -> Result<Reply, BoxError> {
    match reply.code() {
        code if code.is_intermediate() => Err(format!("unexpected reply: {reply}").into()),
        code if code.closes() => Ok(reply.with_code(Code::LOCAL_ERROR)),
        _ => Ok(reply),
    }
}

/// An error holds the reply as a text: if it were among its sources, the client would receive it.
fn positive(reply: Reply) -> io::Result<Reply> {
    match reply.is_positive() {
        true => Ok(reply),
        false => Err(io::Error::other(format!("no service: {reply}"))),
    }
}

/// Returns what XFORWARD says of the client, or `None` for what is not known here.
fn attribute(name: &str, session: &Session) -> Option<String> {
    let value = match name {
        // Who reads it believes that the name leads back to the address.
        "NAME" => session
            .get::<ReverseName>()
            .filter(ReverseName::is_confirmed)
            .map(|name| name.to_string()),
        "ADDR" => session.client_addr().ip().map(|ip| match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("IPV6:{ip}"),
        }),
        "PROTO" if session.greeting() == Some(Greeting::Helo) => Some("SMTP".to_owned()),
        "PROTO" => Some("ESMTP".to_owned()),
        // In xtext (RFC 3461 section 4); a client name is printable ASCII.
        "HELO" => session
            .helo()
            .map(|name| name.as_str().replace('+', "+2B").replace('=', "+3D")),
        _ => return None,
    };
    Some(value.unwrap_or_else(|| "[UNAVAILABLE]".to_owned()))
}

/// A transaction with the upstream server. Dropping it closes the connection.
struct Upstream {
    stream: BufReader<BufWriter<TcpStream>>,
    extensions: Vec<String>,
    at_line_start: bool,
}

impl Upstream {
    async fn connect(address: &str, session: &Session) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        let mut upstream = Self {
            stream: BufReader::new(BufWriter::new(stream)),
            extensions: Vec::new(),
            at_line_start: true,
        };
        positive(upstream.reply().await?)?;
        let hello = format!("EHLO {}", session.hostname());
        let offer = positive(upstream.command(&hello, STEP).await?)?;
        upstream.extensions = offer.lines().skip(1).map(str::to_owned).collect();
        Ok(upstream)
    }

    /// Returns what follows the keyword of an extension, if the upstream server offers it.
    fn extension(&self, keyword: &str) -> Option<&str> {
        self.extensions.iter().find_map(|line| {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            word.eq_ignore_ascii_case(keyword).then_some(rest)
        })
    }

    /// Names the client, for the log of the upstream server. If that refuses, the mail is passed on all the same.
    async fn forward(&mut self, session: &Session) -> io::Result<()> {
        let asked = self.extension("XFORWARD").unwrap_or_default();
        let attributes: String = asked
            .split(' ')
            .filter_map(|name| Some(format!(" {name}={}", attribute(name, session)?)))
            .collect();
        if !attributes.is_empty() {
            self.command(&format!("XFORWARD{attributes}"), STEP).await?;
        }
        Ok(())
    }

    /// Returns the parameters of MAIL for the upstream server. If that does not know one, the error is the reply to the client.
    fn parameters(&self, sent: &Parameters) -> Result<String, Reply> {
        let mut parameters = String::new();
        for (keyword, value) in sent.iter() {
            let is_body = keyword.eq_ignore_ascii_case("BODY");
            let extension = if is_body { "8BITMIME" } else { keyword };
            if self.extension(extension).is_some() {
                parameters.extend([" ", keyword]);
                parameters.extend(value.map(|value| format!("={value}")));
            } else if !keyword.eq_ignore_ascii_case("SIZE") {
                let refusal = Reply::rejected(format!("No {extension} upstream"));
                return Err(refusal.with_status(Status::CONVERSION_NEEDED));
            }
        }
        Ok(parameters)
    }

    async fn command(&mut self, line: &str, limit: Duration) -> io::Result<Reply> {
        // A late second reply to an earlier command would be taken for the reply to this one. One that comes even later cannot be
        // told apart.
        if let Ok(early) = timeout(EARLY, self.stream.fill_buf()).await {
            if early?.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let early = timeout(limit, self.reply()).await??;
            return match early.is_positive() {
                true => Err(io::Error::other("a reply that no command asked for")),
                // Such as 552 while a message arrives: it accepts nothing.
                false => Ok(early),
            };
        }
        let exchange = async {
            self.send(line).await?;
            self.reply().await
        };
        timeout(limit, exchange).await?
    }

    async fn send(&mut self, line: &str) -> io::Result<()> {
        let line = format!("{line}\r\n");
        self.stream.write_all(line.as_bytes()).await?;
        self.stream.flush().await
    }

    async fn reply(&mut self) -> io::Result<Reply> {
        let mut stream = (&mut self.stream).take(64 << 10);
        let (mut text, mut start) = (Vec::new(), 0);
        loop {
            stream.read_until(b'\n', &mut text).await?;
            if !text.ends_with(b"\n") {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if text.get(start + 3) != Some(&b'-') {
                let text = String::from_utf8_lossy(&text);
                return text.parse().map_err(io::Error::other);
            }
            start = text.len();
        }
    }

    /// Writes a part of the message, with dots stuffed (RFC 5321 section 4.5.2), and waits while the upstream server does not
    /// read.
    async fn write(&mut self, part: &[u8]) -> io::Result<()> {
        for line in part.split_inclusive(|byte| *byte == b'\n') {
            if self.at_line_start && line.starts_with(b".") {
                self.stream.write_all(b".").await?;
            }
            self.stream.write_all(line).await?;
            self.at_line_start = line.ends_with(b"\n");
        }
        Ok(())
    }
}

/// Returns whether the message has a field that the rule names, with the text of the rule in it, in any letter case.
fn matches(rule: &str, head: &Head) -> bool {
    let (name, text) = rule.split_once(':').unwrap_or((rule, ""));
    head.fields().any(|field| {
        let value = String::from_utf8_lossy(&field.unfolded()).to_lowercase();
        field.is(name.trim()) && value.contains(&text.trim().to_lowercase())
    })
}
