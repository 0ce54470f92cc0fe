use std::{net::SocketAddr, time::SystemTime};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use smtpd_core::{
    envelope::{Envelope, Recipient},
    parameter::Parameters,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use tower::ServiceExt;

use super::*;
use crate::body::{BodyError, incoming};

const MESSAGE: &str = "Subject: hi\r\n\r\nHello\r\n";
const LIMIT: Duration = Duration::from_secs(1);

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/in?x=y", listener.local_addr().unwrap());
    (listener, url)
}

/// A request as a service read it.
#[derive(Debug)]
struct Post {
    head: String,
    body: Vec<u8>,
}

impl Post {
    /// Reads until the request is whole, or returns what came before the connection ended.
    async fn read(stream: &mut TcpStream) -> Result<Self, Vec<u8>> {
        let mut bytes = Vec::new();
        loop {
            if let Some(post) = Self::parse(&bytes) {
                return Ok(post);
            }
            match stream.read_buf(&mut bytes).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Err(bytes),
            }
        }
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let end = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
        let (head, mut rest) = bytes.split_at(end);
        let head = String::from_utf8(head.to_vec())
            .unwrap()
            .to_ascii_lowercase();
        if let Some((_, length)) = head.split_once("content-length: ") {
            let length: usize = length.split('\r').next()?.parse().unwrap();
            let body = rest.get(..length)?.to_vec();
            return Some(Self { head, body });
        }
        let mut body = Vec::new();
        loop {
            let line = memchr::memmem::find(rest, b"\r\n")?;
            let size =
                usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
            body.extend_from_slice(rest.get(line + 2..line + 2 + size)?);
            rest = rest.get(line + 2 + size + 2..)?;
            if size == 0 {
                return Some(Self { head, body });
            }
        }
    }

    fn field(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields
            .into_iter()
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value)
    }
}

/// A service that responds in this way to each request, on one connection after the other, and returns one request.
async fn service(response: String) -> (String, JoinHandle<Post>) {
    let (listener, url) = listen().await;
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let post = Post::read(&mut stream).await.unwrap();
        stream.write_all(response.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        post
    });
    (url, served)
}

fn response(status: u16, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} .\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn envelope() -> Envelope {
    let mut envelope = Envelope::new("a@example.com".parse().unwrap())
        .with_recipient("b@example.org".parse().unwrap());
    let parameters: Parameters = "ORCPT=rfc822;list@example.org".parse().unwrap();
    envelope.push(Recipient::new(
        "\"c%\"@example.org".parse().unwrap(),
        parameters,
    ));
    envelope
}

fn session() -> Session {
    let peer: SocketAddr = "192.0.2.7:99".parse().unwrap();
    Session::from_peer(peer).with_identity("grå")
}

async fn reply(webhook: &Webhook, body: impl Into<Body>) -> String {
    let request = Request::new(session(), Data::new(envelope(), body.into()));
    let delivered = timeout(Duration::from_secs(60), webhook.clone().oneshot(request));
    delivered.await.unwrap().unwrap().to_string()
}

#[tokio::test]
async fn a_raw_request_has_the_message_and_the_envelope_in_its_fields() {
    for message in [String::new(), MESSAGE.to_owned(), "x".repeat(1_000_000)] {
        let (url, served) = service(response(204, "")).await;
        let webhook = Webhook::new(&url)
            .unwrap()
            .header("Authorization", "Bearer x")
            .unwrap();
        let said = reply(&webhook, message.clone().into_bytes()).await;
        let post = served.await.unwrap();
        assert!(
            post.head.starts_with("post /in?x=y http/1.1\r\n"),
            "{}",
            post.head
        );
        assert!(post.body == message.as_bytes());
        let id = post.field("webhook-id").unwrap();
        assert_eq!(
            said.to_ascii_lowercase(),
            format!("250 2.0.0 queued as {id}")
        );
        for (name, value) in [
            ("content-type", "message/rfc822"),
            ("idempotency-key", id),
            ("authorization", "bearer x"),
            ("smtp-sender", "a@example.com"),
            ("smtp-recipient", "b@example.org"),
            ("smtp-client-address", "192.0.2.7"),
            ("smtp-user", "gr%c3%a5"),
        ] {
            assert_eq!(post.field(name), Some(value));
        }
        assert!(
            post.head
                .contains("\r\nsmtp-recipient: \"c%25\"@example.org\r\n")
        );
        assert_eq!(post.field("webhook-signature"), None);
    }
}

#[tokio::test]
async fn what_the_service_responds_is_what_the_client_hears() {
    for (status, expected) in [
        (200, "250 2.0.0"),
        (299, "250 2.0.0"),
        (302, "451 4.3.5"),
        (400, "554 5.6.0"),
        (401, "451 4.3.5"),
        (404, "451 4.3.5"),
        (413, "552 5.3.4"),
        (422, "554 5.6.0"),
        (429, "451 4.3.2"),
        (500, "451 4.3.0"),
        (503, "451 4.3.2"),
    ] {
        let (url, served) = service(response(status, "{}")).await;
        let said = reply(&Webhook::new(&url).unwrap(), MESSAGE).await;
        assert!(said.starts_with(expected), "{status}: {said}");
        served.await.unwrap();
    }
}

#[tokio::test]
async fn the_text_of_a_response_cannot_break_out_of_the_reply() {
    let hostile = json!({ "message": "\n  No\u{1b}[2J é\r\n250 ok" }).to_string();
    let long = json!({ "message": "x".repeat(5000) }).to_string();
    for (status, body, expected) in [
        (422, &*hostile, "554 5.6.0 No?[2J ?".to_owned()),
        (200, &*long, format!("250 2.0.0 {}", "x".repeat(200))),
        (422, "not JSON", "554 5.6.0 Message refused".to_owned()),
        (
            422,
            "{\"message\":{}}",
            "554 5.6.0 Message refused".to_owned(),
        ),
        (
            422,
            &*"[".repeat(10_000),
            "554 5.6.0 Message refused".to_owned(),
        ),
        (
            404,
            &*hostile,
            "451 4.3.5 Local configuration error".to_owned(),
        ),
    ] {
        let (url, _served) = service(response(status, body)).await;
        let webhook = Webhook::new(&url).unwrap().response_as_reply(true);
        assert_eq!(reply(&webhook, MESSAGE).await, expected);
    }
}

#[tokio::test]
async fn a_signed_request_is_verified_by_its_secret() {
    let secret = |byte| {
        STANDARD
            .encode([byte; 32])
            .parse::<WebhookSecret>()
            .unwrap()
    };
    for format in [WebhookFormat::Raw, WebhookFormat::Json] {
        // With what is in lower case, signatures cannot be read.
        let (listener, url) = listen().await;
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = Vec::new();
            while Post::parse(&bytes).is_none() {
                stream.read_buf(&mut bytes).await.unwrap();
            }
            stream
                .write_all(response(200, "").as_bytes())
                .await
                .unwrap();
            bytes
        });
        let webhook = Webhook::new(&url)
            .unwrap()
            .secret(secret(1))
            .secret(secret(2))
            .format(format);
        assert!(reply(&webhook, MESSAGE).await.starts_with("250"));
        let bytes = served.await.unwrap();
        let body = Post::parse(&bytes).unwrap().body;
        let head = String::from_utf8_lossy(&bytes);
        let field = |name: &str| {
            head.split_once(name)
                .unwrap()
                .1
                .split("\r\n")
                .next()
                .unwrap()
        };
        let (id, time) = (field("webhook-id: "), field("webhook-timestamp: "));
        let signatures = field("webhook-signature: ");
        for (byte, is_valid) in [(1, true), (2, true), (3, false)] {
            let verified = secret(byte).verify(id, time, &body, signatures, SystemTime::now());
            assert_eq!(verified, is_valid);
        }
    }
}

#[tokio::test]
async fn json_has_the_envelope_the_session_and_the_message() {
    let (url, served) = service(response(200, "")).await;
    let webhook = Webhook::new(&url).unwrap().format(WebhookFormat::Json);
    assert!(reply(&webhook, MESSAGE).await.starts_with("250"));
    let post = served.await.unwrap();
    assert_eq!(post.field("content-type"), Some("application/json"));
    assert_eq!(post.field("smtp-sender"), None);
    let object: Value = serde_json::from_slice(&post.body).unwrap();
    assert_eq!(
        object["envelope"],
        json!({
            "sender": "a@example.com",
            "recipients": [
                { "address": "b@example.org", "original": null },
                { "address": "\"c%\"@example.org", "original": "list@example.org" },
            ],
        })
    );
    assert_eq!(object["session"]["client_address"], json!("192.0.2.7"));
    assert_eq!(object["session"]["user"], json!("grå"));
    assert_eq!(object["session"]["tls"], Value::Null);
    assert_eq!(object["message"], json!(STANDARD.encode(MESSAGE)));
    assert_eq!(
        object["id"].as_str().unwrap().to_ascii_lowercase(),
        post.field("webhook-id").unwrap()
    );
}

#[cfg(feature = "mime")]
#[tokio::test]
async fn json_has_the_parts_of_a_parsed_message() {
    let message = "From: =?utf-8?q?Gr=C3=A5?= <a@example.com>\r\nTo: b@example.org,\r\n c@example.org\r\n\
        Subject: hi\r\n there\r\nDate: Tue, 1 Dec 2026 10:00:00 +0000\r\nMessage-ID: <1@x>\r\nMIME-Version: 1.0\r\n\
        Content-Type: multipart/mixed; boundary=b\r\n\r\n\
        --b\r\nContent-Type: text/plain\r\n\r\nHello\r\n\
        --b\r\nContent-Type: application/pdf; name=a.pdf\r\nContent-Disposition: attachment; filename=a.pdf\r\n\
        Content-Transfer-Encoding: base64\r\n\r\nAAEC\r\n--b--\r\n";
    let (url, served) = service(response(200, "")).await;
    let webhook = Webhook::new(&url)
        .unwrap()
        .format(WebhookFormat::ParsedJson);
    assert!(reply(&webhook, message).await.starts_with("250"));
    let object: Value = serde_json::from_slice(&served.await.unwrap().body).unwrap();
    assert_eq!(
        object["from"],
        json!([{ "name": "Grå", "address": "a@example.com" }])
    );
    assert_eq!(object["to"].as_array().unwrap().len(), 2);
    assert_eq!(object["subject"], json!("hi there"));
    assert_eq!(object["date"], json!("2026-12-01T10:00:00Z"));
    assert_eq!(object["message_id"], json!("1@x"));
    assert_eq!(object["text"].as_str().unwrap().trim(), "Hello");
    assert_eq!(object["html"], Value::Null);
    assert_eq!(
        object["headers"][1],
        json!({ "name": "To", "value": "b@example.org, c@example.org" })
    );
    assert_eq!(
        object["attachments"],
        json!([{
            "filename": "a.pdf", "content_type": "application/pdf", "content_id": null, "size": 3, "content": "AAEC",
        }])
    );
    assert_eq!(object.get("message"), None);
    // What cannot be parsed is rejected before a connection is opened.
    let nested = "Content-Type: message/rfc822\r\n\r\n".repeat(1000);
    assert!(
        reply(&webhook, nested.into_bytes())
            .await
            .starts_with("554 5.6.0")
    );
}

#[tokio::test]
async fn a_message_in_memory_has_a_limit_and_counts_against_the_budget() {
    let budget = crate::memory::MemoryBudget::new(1000);
    let (listener, url) = listen().await;
    let webhook = Webhook::new(&url)
        .unwrap()
        .format(WebhookFormat::Json)
        .max_size(2000);
    let body = |bytes: usize| Body::from(vec![b'x'; bytes]).with_budget(budget.clone());
    assert!(reply(&webhook, body(2001)).await.starts_with("552 5.3.4"));
    // Itself, then as an object, then as text.
    for bytes in [1001, 400, 200] {
        assert!(
            reply(&webhook, body(bytes)).await.starts_with("452 4.3.1"),
            "{bytes}"
        );
        assert_eq!(budget.used(), 0);
    }
    drop(listener);
    let webhook = webhook
        .format(WebhookFormat::Raw)
        .secret(STANDARD.encode([1; 24]).parse().unwrap());
    assert!(reply(&webhook, body(900)).await.starts_with("451 4.3.0"));
    assert_eq!(budget.used(), 0);
}

/// Responses that never end, never begin, or are none.
#[tokio::test]
async fn a_service_that_misbehaves_costs_a_451_and_bounded_time_and_memory() {
    let endless_field = |stream: TcpStream| flood(stream, b"HTTP/1.1 200 OK\r\na: ", b"x");
    let endless_fields = |stream: TcpStream| flood(stream, b"HTTP/1.1 200 OK\r\n", b"a: x\r\n");
    let endless_informational =
        |stream: TcpStream| flood(stream, b"", b"HTTP/1.1 100 Continue\r\n\r\n");
    let silent = |stream: TcpStream| flood(stream, b"", b"");
    let half = |stream: TcpStream| flood(stream, b"HTTP/1.1 200 OK\r\ncontent-le", b"");
    let body_missing = |stream: TcpStream| {
        flood(
            stream,
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc",
            b"",
        )
    };
    let garbage = |stream: TcpStream| flood(stream, b"220 mail.example.org ESMTP\r\n", b"");
    let switching = |stream: TcpStream| {
        flood(
            stream,
            b"HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
            b"",
        )
    };
    let services: [fn(TcpStream) -> JoinHandle<()>; 8] = [
        endless_field,
        endless_fields,
        endless_informational,
        silent,
        half,
        body_missing,
        garbage,
        switching,
    ];
    let mut all = JoinSet::new();
    for (n, service) in services.into_iter().enumerate() {
        for format in [WebhookFormat::Raw, WebhookFormat::Json] {
            all.spawn(async move {
                let (listener, url) = listen().await;
                let webhook = Webhook::new(&url).unwrap().time_limit(LIMIT).format(format);
                let served = tokio::spawn(async move {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    Post::read(&mut stream).await.unwrap();
                    service(stream).await.unwrap();
                });
                let said = reply(&webhook, MESSAGE).await;
                assert!(said.starts_with("451 4.3."), "{n}: {said}");
                // The connection is closed.
                timeout(Duration::from_secs(20), served)
                    .await
                    .unwrap()
                    .unwrap();
                assert_eq!(webhook.gate.free(), 32);
            });
        }
    }
    while let Some(one) = all.join_next().await {
        one.unwrap();
    }
}

/// Sends this again and again until the connection ends.
fn flood(mut stream: TcpStream, first: &'static [u8], again: &'static [u8]) -> JoinHandle<()> {
    tokio::spawn(async move {
        stream.write_all(first).await.unwrap();
        if again.is_empty() {
            while matches!(stream.read(&mut [0; 100]).await, Ok(1..)) {}
            return;
        }
        let many = again.repeat(1000);
        while stream.write_all(&many).await.is_ok() {}
    })
}

#[tokio::test]
async fn an_endless_body_of_a_response_is_read_to_a_limit() {
    let (listener, url) = listen().await;
    let webhook = Webhook::new(&url).unwrap();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        Post::read(&mut stream).await.unwrap();
        let endless = flood(stream, b"HTTP/1.1 200 OK\r\n\r\n", b"x");
        endless.await.unwrap();
    });
    let said = reply(&webhook, MESSAGE).await;
    assert!(said.starts_with("250"), "{said}");
    timeout(Duration::from_secs(20), served)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_service_that_is_away_or_does_not_read_costs_a_451() {
    let (listener, url) = listen().await;
    let (_stream, webhook) = (
        listener.accept(),
        Webhook::new(&url).unwrap().time_limit(LIMIT),
    );
    // It is connected by the kernel, and nobody reads.
    let said = reply(&webhook, vec![b'x'; 20_000_000]).await;
    assert!(said.starts_with("451 4.3.0"), "{said}");
    let (listener, url) = listen().await;
    drop(listener);
    // Before the message is asked for.
    let (_feed, body) = incoming();
    let said = reply(&Webhook::new(&url).unwrap(), body).await;
    assert!(said.starts_with("451 4.3.0"), "{said}");
}

#[tokio::test]
async fn a_message_that_breaks_off_does_not_look_whole_to_the_service() {
    for is_dropped in [false, true] {
        let (listener, url) = listen().await;
        let webhook = Webhook::new(&url).unwrap();
        let (feed, body) = incoming();
        let mut delivery = Box::pin(reply(&webhook, body));
        let read = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            Post::read(&mut stream).await
        });
        let part = async {
            feed.push("some\r\n".into()).await;
            sleep(Duration::from_millis(50)).await;
        };
        tokio::select! {
            said = &mut delivery => panic!("{said}"),
            () = part => {}
        }
        if is_dropped {
            drop(delivery);
        } else {
            feed.finish(Err(BodyError::Incomplete));
            assert!(delivery.await.starts_with("451"));
        }
        let partial = timeout(Duration::from_secs(20), read)
            .await
            .unwrap()
            .unwrap()
            .unwrap_err();
        assert!(
            partial.ends_with(b"\r\n6\r\nsome\r\n\r\n"),
            "{}",
            partial.escape_ascii()
        );
        assert_eq!(webhook.gate.free(), 32);
    }
}

#[tokio::test]
async fn a_delivery_may_be_dropped_at_every_await() {
    for polls in 0.. {
        let (listener, url) = listen().await;
        let webhook = Webhook::new(&url).unwrap();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let post = Post::read(&mut stream).await;
            let _ = stream.write_all(response(200, "").as_bytes()).await;
            post.is_ok()
        });
        let (feed, body) = incoming();
        let request = Request::new(session(), Data::new(envelope(), body));
        let mut delivery = tokio_test::task::spawn(webhook.clone().oneshot(request));
        let mut is_done = false;
        for poll in 0..polls {
            is_done = delivery.poll().is_ready();
            if is_done {
                break;
            }
            if poll < 3 {
                let _ = timeout(Duration::from_millis(5), feed.push("line\r\n".into())).await;
            } else if poll == 3 {
                feed.finish(Ok(()));
            }
            sleep(Duration::from_millis(3)).await;
        }
        drop(delivery);
        assert_eq!(webhook.gate.free(), 32);
        if is_done {
            assert!(served.await.unwrap());
            return;
        }
        served.abort();
        assert!(polls > 3 || !served.await.unwrap_or_default(), "{polls}");
    }
}

#[tokio::test]
async fn a_response_before_the_end_of_the_message_can_refuse_but_not_accept() {
    for (status, expected) in [(422, "554 5.6.0"), (503, "451 4.3.2"), (200, "451 4.3.0")] {
        let (listener, url) = listen().await;
        let webhook = Webhook::new(&url).unwrap();
        let (feed, body) = incoming();
        feed.push("some\r\n".into()).await;
        let early = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = Vec::new();
            while !bytes.ends_with(b"some\r\n\r\n") {
                stream.read_buf(&mut bytes).await.unwrap();
            }
            stream
                .write_all(response(status, "").as_bytes())
                .await
                .unwrap();
            stream
        };
        let (said, _stream) = tokio::join!(reply(&webhook, body), early);
        assert!(said.starts_with(expected), "{status}: {said}");
    }
}

#[tokio::test]
async fn a_connection_that_is_reset_costs_a_451() {
    for is_read in [false, true] {
        let (listener, url) = listen().await;
        let webhook = Webhook::new(&url).unwrap();
        let reset = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            if is_read {
                Post::read(&mut stream).await.unwrap();
            }
        };
        let (said, ()) = tokio::join!(reply(&webhook, vec![b'x'; 100_000]), reset);
        assert!(said.starts_with("451 4.3.0"), "{said}");
    }
}

#[tokio::test]
async fn connections_are_used_again() {
    let (listener, url) = listen().await;
    let webhook = Webhook::new(&url).unwrap();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        for _ in 0..3 {
            Post::read(&mut stream).await.unwrap();
            stream
                .write_all(response(200, "ok").as_bytes())
                .await
                .unwrap();
        }
    });
    for _ in 0..3 {
        assert!(reply(&webhook, MESSAGE).await.starts_with("250"));
    }
    served.await.unwrap();
}

#[tokio::test]
async fn no_more_requests_than_places_are_under_way() {
    let (listener, url) = listen().await;
    let places = NonZeroUsize::new(3).unwrap();
    let webhook = Webhook::new(&url).unwrap().concurrency(places);
    let served = tokio::spawn(async move {
        let mut streams = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            streams.spawn(async move {
                while Post::read(&mut stream).await.is_ok() {
                    sleep(Duration::from_millis(2)).await;
                    let _ = stream.write_all(response(200, "").as_bytes()).await;
                }
            });
            assert!(streams.len() <= 3);
        }
    });
    let mut deliveries = JoinSet::new();
    for _ in 0..60 {
        let webhook = webhook.clone();
        deliveries.spawn(async move { reply(&webhook, MESSAGE).await });
    }
    while let Some(said) = deliveries.join_next().await {
        assert!(said.unwrap().starts_with("250"));
    }
    assert!(!served.is_finished());
    assert_eq!(webhook.gate.free(), 3);
    let busy = webhook.max_wait(Duration::ZERO);
    let _all = (
        busy.gate.enter().await,
        busy.gate.enter().await,
        busy.gate.enter().await,
    );
    assert!(reply(&busy, MESSAGE).await.starts_with("451 4.3.2"));
}

#[test]
fn fields_that_frame_or_describe_the_request_cannot_be_set() {
    let webhook = || Webhook::new("http://127.0.0.1/").unwrap();
    for (name, value) in [
        ("Content-Length", "1"),
        ("transfer-encoding", "x"),
        ("Host", "x"),
        ("SMTP-Sender", "x"),
        ("webhook-id", "x"),
        ("a b", "x"),
        ("", "x"),
        ("a", "x\r\nb: c"),
    ] {
        assert!(webhook().header(name, value).is_err(), "{name}");
    }
    let webhook = webhook().header("authorization", "secret").unwrap();
    assert!(!format!("{webhook:?}").contains("secret"));
}

#[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]
mod over_tls {
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use tokio_rustls::{
        TlsAcceptor,
        rustls::{ServerConfig, pki_types::PrivateKeyDer},
    };

    use super::*;

    #[tokio::test]
    async fn the_service_is_verified() {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let provider = crate::tls::Provider::default().crypto().clone();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let mut bytes = Vec::new();
                while Post::parse(&bytes).is_none() {
                    stream.read_buf(&mut bytes).await.unwrap();
                }
                stream
                    .write_all(response(200, "").as_bytes())
                    .await
                    .unwrap();
            }
        });
        let other = generate_simple_self_signed(["localhost".to_owned()])
            .unwrap()
            .cert
            .pem();
        for (host, pem, expected) in [
            ("localhost", &cert.pem(), "250"),
            ("127.0.0.1", &cert.pem(), "451 4.3.0"),
            ("localhost", &other, "451 4.3.0"),
        ] {
            let roots = Roots::from_pem(pem.as_bytes()).unwrap();
            let webhook = Webhook::with_roots(&format!("https://{host}:{port}/"), &roots).unwrap();
            let said = reply(&webhook, MESSAGE).await;
            assert!(said.starts_with(expected), "{host}: {said}");
        }
        let roots = Roots::from_pem(cert.pem()).unwrap();
        assert!(Webhook::with_roots("http://localhost/", &roots).is_err());
        assert!(Roots::from_pem("").is_err());
    }

    #[tokio::test]
    async fn a_service_that_does_not_answer_the_handshake_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cert = generate_simple_self_signed(["localhost".to_owned()])
            .unwrap()
            .cert;
        let roots = Roots::from_pem(cert.pem())
            .unwrap()
            .with_provider(crate::tls::Provider::default());
        let webhook = Webhook::with_roots(&format!("https://127.0.0.1:{port}/"), &roots).unwrap();
        let said = reply(&webhook.connect_timeout(LIMIT), MESSAGE).await;
        assert!(said.starts_with("451 4.3.0"), "{said}");
    }
}
