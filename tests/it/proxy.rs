//! Servers behind proxies: the PROXY protocol, XCLIENT and XFORWARD.

use std::{net::SocketAddr, time::Duration};

use smtpd_tower::{
    BodyError, Connect, Data, Mail, Pipeline, Rcpt, Reply, Request, Server, Session, handler_fn,
    layer::{RateLimitLayer, ReceivedLayer, SessionsPerIpLayer},
    limiter::Rate,
    net::{PeerAddr, TrustedPeers},
    proxy::ProxyProtocol,
    session::{CloseReason, EndReason, SessionError},
};
use support::{pki::Issued, *};
use tokio::{
    io::{DuplexStream, duplex},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::mpsc,
    task::JoinHandle,
    time::Instant,
};
use tokio_rustls::rustls;
use tower::ServiceBuilder;

const PROXY: ([u8; 4], u16) = ([10, 0, 0, 1], 4000);
const STRANGER: ([u8; 4], u16) = ([198, 51, 100, 1], 4000);
const V1: &str = "PROXY TCP4 192.0.2.1 192.0.2.9 4711 25\r\n";

fn proxies() -> TrustedPeers {
    TrustedPeers::parse(["10.0.0.0/8"]).unwrap()
}

/// Reports the client in the reply to RCPT.
fn telling() -> Pipeline {
    Pipeline::new().rcpt(handler_fn(async |req: Request<Rcpt>| {
        let session = req.session();
        Reply::ok(format!(
            "{} to {} via {}",
            session.client_addr(),
            session.local_addr(),
            session.peer_addr()
        ))
    }))
}

fn behind_proxies(pipeline: Pipeline) -> Server {
    server(pipeline).proxy_protocol(ProxyProtocol::from_trusted(proxies()))
}

/// Connects as that peer.
fn connect(server: &Server, peer: ([u8; 4], u16)) -> (Client<DuplexStream>, JoinHandle<()>) {
    let (near, far) = duplex(64 << 10);
    let session = tokio::spawn(server.serve_connection(far, PeerAddr::from(peer)));
    (Client::over(near), session)
}

async fn who<IO>(client: &mut Client<IO>) -> String
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    client.cmd("EHLO client.example", "250").await;
    client.cmd("MAIL FROM:<a@b.c>", "250").await;
    let reply = client.cmd("RCPT TO:<c@d.e>", "250 2.0.0 ").await;
    reply["250 2.0.0 ".len()..].to_owned()
}

/// A header of version 2.
fn v2(command: u8, source: [u8; 4], fields: &[u8]) -> Vec<u8> {
    let len = u16::try_from(12 + fields.len()).unwrap().to_be_bytes();
    let start = [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, 0x11], &len].concat();
    [
        &start[..],
        &source,
        &[192, 0, 2, 9],
        &[0x12, 0x67, 0, 25],
        fields,
    ]
    .concat()
}

#[tokio::test]
async fn the_client_of_a_header_counts() {
    let server = behind_proxies(telling());
    let through = "192.0.2.1:4711 to 192.0.2.9:25 via 10.0.0.1:4000";
    let itself = "10.0.0.1:4000 to unknown via 10.0.0.1:4000";
    let nobody = "0.0.0.0:0 to unknown via 10.0.0.1:4000";
    for (header, expected) in [
        (V1.as_bytes().to_vec(), through),
        (
            b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n".to_vec(),
            "[2001:db8::1]:1 to [2001:db8::2]:2 via 10.0.0.1:4000",
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), nobody),
        (v2(0x21, [192, 0, 2, 1], b""), through),
        (v2(0x20, [192, 0, 2, 1], b""), itself),
    ] {
        let (mut client, _) = connect(&server, PROXY);
        client.send(&header).await;
        client.expect("220").await;
        assert_eq!(who(&mut client).await, expected);
        // Byte by byte, with the first commands right behind.
        let (mut client, _) = connect(&server, PROXY);
        for byte in header.iter().chain(b"NOOP\r\n") {
            client.send([*byte]).await;
            tokio::task::yield_now().await;
        }
        client.expect("220").await;
        client.expect("250").await;
        assert_eq!(who(&mut client).await, expected);
    }
}

#[tokio::test]
async fn the_fields_of_version_2_reach_the_services() {
    let pipeline = Pipeline::new().connect(handler_fn(async |req: Request<Connect>| {
        let proxy = req.session().proxy().expect("a header came");
        let tls = proxy.tls().expect("TLS ended at the proxy");
        assert_eq!(proxy.authority(), Some("mx.example.org"));
        assert_eq!(proxy.unique_id(), Some(&b"4F2A"[..]));
        assert_eq!((tls.is_on(), tls.version()), (true, Some("TLSv1.3")));
        assert!(req.session().tls().is_none());
    }));
    let fields =
        b"\x02\x00\x0emx.example.org\x05\x00\x044F2A\x20\x00\x0f\x01\0\0\0\0\x21\x00\x07TLSv1.3";
    let (mut client, _) = connect(&behind_proxies(pipeline), PROXY);
    client.send(v2(0x21, [192, 0, 2, 1], fields)).await;
    client.expect("220").await;
}

/// A server, and what its hooks receive at the end of each session.
fn observed() -> (Server, mpsc::UnboundedReceiver<(EndReason, String)>) {
    let (tell, told) = mpsc::unbounded_channel();
    let also = tell.clone();
    let server = behind_proxies(telling())
        .on_error(move |_, error| {
            let SessionError::Proxy(cause) = error else {
                panic!("{error}");
            };
            let _ = also.send((EndReason::ProxyFailed, cause.to_string()));
        })
        .on_close(move |_, summary| {
            let _ = tell.send((summary.reason, String::new()));
        });
    (server, told)
}

#[tokio::test]
async fn a_trusted_peer_without_a_good_header_is_dropped_without_a_word() {
    for (bytes, cause) in [
        (
            &b"EHLO client.example\r\n"[..],
            "no PROXY header: EHLO client.exa",
        ),
        (
            b"\x16\x03\x01\x02\x00",
            "no PROXY header: \\x16\\x03\\x01\\x02\\x00",
        ),
        (
            b"PROXY TCP4 x y 1 2\r\n",
            "malformed PROXY header: PROXY TCP4 x y 1 2\\r\\n",
        ),
        (
            &[b"PROXY UNKNOWN ", &[b'x'; 5000][..]].concat(),
            "PROXY header too long: PROXY UNKNOWN xxx",
        ),
        (
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
            "PROXY header too long: \\r\\n\\r\\n\\x00",
        ),
    ] {
        let (server, mut told) = observed();
        let (mut client, session) = connect(&server, PROXY);
        client.send(bytes).await;
        client.expect_close().await;
        session.await.unwrap();
        let (reason, said) = told.recv().await.unwrap();
        assert!(said.starts_with(cause), "{said}");
        assert_eq!(reason, EndReason::ProxyFailed);
        assert_eq!(told.recv().await.unwrap().0, EndReason::ProxyFailed);
        assert_eq!(server.handle().sessions(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_header_that_drips_is_given_up_after_its_time() {
    for (bytes, limit) in [("", 5), ("PROXY TCP4 192.0", 5), ("PROXY ", 2)] {
        let limit = Duration::from_secs(limit);
        let protocol = ProxyProtocol::from_trusted(proxies()).timeout(limit);
        let server = server(telling()).proxy_protocol(protocol);
        let began = Instant::now();
        let (mut client, _) = connect(&server, PROXY);
        for byte in bytes.bytes() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            client.send([byte]).await;
        }
        // Neither accept nor any other session waits for it.
        let (mut other, _) = connect(&server, STRANGER);
        other.expect("220").await;
        client.expect_close().await;
        assert_eq!(began.elapsed().as_secs(), limit.as_secs());
    }
}

#[tokio::test]
async fn a_header_that_is_awaited_takes_a_place_and_gives_it_back() {
    let server = behind_proxies(telling()).max_sessions(1);
    let (mut waiting, session) = connect(&server, PROXY);
    settle().await;
    let (mut second, _) = connect(&server, STRANGER);
    second.expect("421").await;
    waiting.send("X").await;
    waiting.expect_close().await;
    session.await.unwrap();
    connect(&server, STRANGER).0.expect("220").await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_does_not_wait_for_a_header() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let server = behind_proxies(telling()).on_close(move |_, summary| {
        let _ = tell.send(summary.reason);
    });
    let (mut client, _) = connect(&server, PROXY);
    settle().await;
    let began = Instant::now();
    let handle = server.handle();
    tokio::join!(handle.shutdown(SECOND * 60), client.expect_close());
    assert!(began.elapsed() <= SECOND, "{:?}", began.elapsed());
    let shut_down = EndReason::Closed(CloseReason::Shutdown);
    assert_eq!(told.recv().await, Some(shut_down));
}

/// A header from anybody would let everybody choose an address.
#[tokio::test]
async fn a_header_of_a_stranger_is_a_wrong_command() {
    let server = behind_proxies(telling());
    let (mut client, _) = connect(&server, STRANGER);
    client.send(V1).await;
    client.expect("220").await;
    client.expect("500").await;
    let itself = "198.51.100.1:4000 to unknown via 198.51.100.1:4000";
    assert_eq!(who(&mut client).await, itself);
    let (mut client, _) = connect(&server, STRANGER);
    client.send(v2(0x21, [192, 0, 2, 1], b"")).await;
    client.send("\r\n").await;
    client.expect("220").await;
    for _ in 0..4 {
        client.expect("500").await;
    }
    assert_eq!(who(&mut client).await, itself);
}

#[tokio::test]
async fn a_second_header_is_a_wrong_command() {
    let (mut client, _) = connect(&behind_proxies(telling()), PROXY);
    client
        .send(format!("{V1}PROXY TCP4 127.0.0.1 127.0.0.1 1 25\r\n"))
        .await;
    client.expect("220").await;
    client.expect("500").await;
    assert!(who(&mut client).await.starts_with("192.0.2.1:4711 "));
}

#[tokio::test]
async fn peers_on_unix_sockets_are_trusted_where_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    for trusted in [false, true] {
        let path = dir.path().join(trusted.to_string());
        let peers = match trusted {
            true => proxies().with_unix_sockets(),
            false => TrustedPeers::parse(["0.0.0.0/0", "::/0"]).unwrap(),
        };
        let server = server(telling()).proxy_protocol(ProxyProtocol::from_trusted(peers));
        tokio::spawn(server.serve(UnixListener::bind(&path).unwrap()));
        let mut client = Client::over(UnixStream::connect(&path).await.unwrap());
        client.send(V1).await;
        client.expect("220").await;
        if !trusted {
            client.expect("500").await;
        }
        let who = who(&mut client).await;
        assert_eq!(who.starts_with("192.0.2.1:4711 "), trusted, "{who}");
        assert!(who.ends_with("via unix"), "{who}");
    }
}

#[tokio::test]
async fn the_header_comes_before_tls() {
    let issued = Issued::alone("mx.test");
    let config = issued.client(rustls::DEFAULT_VERSIONS);
    let local = TrustedPeers::parse(["127.0.0.1"]).unwrap();
    let server = server(telling())
        .tls(issued.tls())
        .proxy_protocol(ProxyProtocol::from_trusted(local));
    for implicit in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        match implicit {
            true => drop(tokio::spawn(server.serve(listener).tls_first())),
            false => drop(tokio::spawn(server.serve(listener))),
        }
        let mut plain = Client::over(TcpStream::connect(address).await.unwrap());
        plain.send(V1).await;
        if !implicit {
            plain.expect("220").await;
            plain.cmd("EHLO client.example", "250").await;
            plain.cmd("STARTTLS", "220").await;
        }
        let secured = pki::handshake(plain.into_io(), &config, "mx.test").await;
        let mut client = secured.unwrap();
        if implicit {
            client.expect("220").await;
        }
        let who = who(&mut client).await;
        assert!(
            who.starts_with("192.0.2.1:4711 to 192.0.2.9:25 via 127.0.0.1:"),
            "{who}"
        );
    }
}

#[tokio::test]
async fn a_listener_stays_itself_whatever_proxies_say_of_the_destination() {
    let at =
        handler_fn(async |req: Request<Rcpt>| Reply::ok(req.session().listener_addr().to_string()));
    let local = TrustedPeers::parse(["127.0.0.0/8", "192.0.2.1"]).unwrap();
    let server = server(Pipeline::new().rcpt(at))
        .proxy_protocol(ProxyProtocol::from_trusted(local.clone()))
        .xclient_from(local);
    for bound in ["127.0.0.1:0", "0.0.0.0:0"] {
        let listener = TcpListener::bind(bound).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        tokio::spawn(server.serve(listener));
        for xclient in [false, true] {
            let mut client = Client::over(TcpStream::connect(address).await.unwrap());
            client.send(V1).await;
            client.expect("220").await;
            if xclient {
                client.cmd("EHLO proxy.example", "250").await;
                let destination = "XCLIENT ADDR=198.51.100.1 DESTADDR=192.0.2.8 DESTPORT=587";
                client.cmd(destination, "220").await;
            }
            assert_eq!(who(&mut client).await, address.to_string());
        }
    }
}

#[tokio::test]
async fn limits_count_the_client_and_not_the_proxy() {
    let connect_service = ServiceBuilder::new()
        .layer(SessionsPerIpLayer::new(1))
        .service(handler_fn(async |_: Request<Connect>| {}));
    let mail = ServiceBuilder::new()
        .layer(RateLimitLayer::per_ip(Rate::per_minute(1).unwrap()))
        .service(handler_fn(async |_: Request<Mail>| {}));
    let server = behind_proxies(Pipeline::new().connect(connect_service).mail(mail));
    let open = async |source: u8| {
        let (mut client, _) = connect(&server, PROXY);
        client.send(v2(0x21, [192, 0, 2, source], b"")).await;
        client
    };
    let mut first = open(1).await;
    first.expect("220").await;
    open(1).await.expect("421").await;
    let mut second = open(2).await;
    second.expect("220").await;
    for client in [&mut first, &mut second] {
        client.cmd("EHLO client.example", "250").await;
        client.cmd("MAIL FROM:<a@b.c>", "250").await;
        client.cmd("RSET", "250").await;
        client.cmd("MAIL FROM:<a@b.c>", "451").await;
    }
}

/// What the data service was given.
type Inbox = mpsc::UnboundedReceiver<(Session, String)>;

/// A server that accepts XCLIENT and XFORWARD from the proxies, and adds the trace header to messages.
fn storing() -> (Server, Inbox) {
    let (tell, inbox) = mpsc::unbounded_channel();
    let store = move |req: Request<Data>| {
        let (session, tell) = (req.session().clone(), tell.clone());
        async move {
            let message = req.into_body().collect().await?;
            let _ = tell.send((session, String::from_utf8_lossy(&message).into_owned()));
            Ok::<_, BodyError>(Reply::OK)
        }
    };
    let data = ServiceBuilder::new()
        .layer(ReceivedLayer::new())
        .service(handler_fn(store));
    let server = server(accept_rcpt().data(data))
        .xclient_from(proxies())
        .xforward_from(proxies());
    (server, inbox)
}

async fn deliver(client: &mut Client, inbox: &mut Inbox) -> (Session, String) {
    client.cmd("MAIL FROM:<a@b.c>", "250").await;
    client.cmd("RCPT TO:<c@d.e>", "250").await;
    client.cmd("DATA", "354").await;
    client.send("Subject: hi\r\n\r\n.\r\n").await;
    client.expect("250").await;
    inbox.try_recv().expect("it was delivered")
}

#[tokio::test]
async fn xclient_names_the_client_of_the_trace_header() {
    let (server, mut inbox) = storing();
    let (mut client, _) = connect(&server, PROXY);
    client.expect("220").await;
    let announced = client.cmd("EHLO proxy.example", "250").await;
    assert!(announced.contains("XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT"));
    client
        .cmd(
            "XCLIENT NAME=mx.example.net ADDR=192.0.2.1 PORT=4711 DESTADDR=192.0.2.9 LOGIN=alice",
            "220 mx.test",
        )
        .await;
    client.cmd("MAIL FROM:<a@b.c>", "503").await;
    let announced = client.cmd("EHLO client.example", "250").await;
    assert!(
        !announced.contains("XCLIENT") && !announced.contains("XFORWARD"),
        "{announced}"
    );
    let (session, text) = deliver(&mut client, &mut inbox).await;
    let expected = "Received: from client.example (mx.example.net [192.0.2.1])\r\n\tby mx.test (smtpd) with ESMTPA id ";
    assert!(text.starts_with(expected), "{text}");
    assert_eq!(session.peer_addr(), &PeerAddr::from(PROXY));
    assert_eq!(session.local_addr().ip(), Some([192, 0, 2, 9].into()));
    client.cmd("XCLIENT ADDR=127.0.0.1", "550 5.7.0").await;
}

#[tokio::test]
async fn xclient_asks_the_connect_service_about_the_new_client() {
    let connect_service = ServiceBuilder::new()
        .layer(SessionsPerIpLayer::new(1))
        .service(handler_fn(async |req: Request<Connect>| {
            match req.session().client_addr().ip() {
                Some(ip) if ip.to_string() == "192.0.2.66" => Err(Reply::rejected("Not you")),
                _ => Ok(()),
            }
        }));
    let server = server(Pipeline::new().connect(connect_service)).xclient_from(proxies());
    let through = async |line: &str, start: &str| {
        let (mut client, session) = connect(&server, PROXY);
        client.expect("220").await;
        client.cmd(line, start).await;
        (client, session)
    };
    let (mut refused, _) = through("XCLIENT ADDR=192.0.2.66", "554 5.7.1 Not you").await;
    refused.cmd("EHLO client.example", "503").await;
    refused.cmd("QUIT", "221").await;
    // The proxy's own place is free again at once, its clients count each for itself.
    let _one = through("XCLIENT ADDR=192.0.2.1", "220").await;
    let _two = through("XCLIENT ADDR=192.0.2.2", "220").await;
    let (mut third, _) = through("XCLIENT ADDR=192.0.2.1", "421").await;
    third.expect_close().await;
}

#[tokio::test]
async fn strangers_hear_nothing_of_xclient_and_may_not_use_it() {
    let (mut client, _) = connect(&storing().0, STRANGER);
    client.expect("220").await;
    let announced = client.cmd("EHLO client.example", "250").await;
    assert!(
        !announced.contains("XCLIENT") && !announced.contains("XFORWARD"),
        "{announced}"
    );
    client.cmd("XCLIENT ADDR=127.0.0.1", "550 5.7.0").await;
    client.cmd("XFORWARD ADDR=127.0.0.1", "550 5.7.0").await;
}

/// A client in a trusted network behind a balancer is trusted, the balancer's other clients are not.
#[tokio::test]
async fn whom_xclient_is_taken_from_is_decided_by_the_client_of_the_proxy_header() {
    let server =
        behind_proxies(telling()).xclient_from(TrustedPeers::parse(["192.0.2.1"]).unwrap());
    for (source, start) in [(1, "220"), (2, "550")] {
        let (mut client, _) = connect(&server, PROXY);
        client.send(v2(0x21, [192, 0, 2, source], b"")).await;
        client.expect("220").await;
        client.cmd("XCLIENT ADDR=203.0.113.7", start).await;
        if source == 1 {
            assert!(who(&mut client).await.ends_with("via 10.0.0.1:4000"));
        }
    }
}

/// HAProxy sends this for clients on its Unix sockets.
#[tokio::test]
async fn a_client_that_its_proxy_does_not_name_has_not_the_rights_of_the_proxy() {
    let everybody = || TrustedPeers::parse(["0.0.0.0/0"]).unwrap();
    let server = behind_proxies(telling())
        .xclient_from(everybody())
        .xforward_from(everybody());
    let unix = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x31\x00\xd8"[..], &[0; 216]].concat();
    for (header, is_proxy) in [
        (&b"PROXY UNKNOWN\r\n"[..], false),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x00\x00\x00", false),
        (&unix, false),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00", true),
    ] {
        let (mut client, _) = connect(&server, PROXY);
        client.send(header).await;
        client.expect("220").await;
        let announced = client.cmd("EHLO client.example", "250").await;
        let shown = header.escape_ascii();
        for command in ["XCLIENT", "XFORWARD"] {
            assert_eq!(announced.contains(command), is_proxy, "{shown}");
        }
        let reply = if is_proxy { "220" } else { "550 5.7.0" };
        client.cmd("XCLIENT ADDR=192.0.2.1", reply).await;
    }
}

#[tokio::test]
async fn xforward_is_seen_with_its_own_message_and_no_other() {
    let (server, mut inbox) = storing();
    let (mut client, _) = connect(&server, PROXY);
    client.expect("220").await;
    client.cmd("EHLO filter.example", "250").await;
    client
        .cmd("XFORWARD NAME=mx.example.net ADDR=192.0.2.1", "250")
        .await;
    client.cmd("XFORWARD IDENT=4F2A", "250").await;
    let (first, text) = deliver(&mut client, &mut inbox).await;
    let (second, _) = deliver(&mut client, &mut inbox).await;
    let forwarded = |session: &Session| {
        let forwarded = session.forwarded()?;
        Some((forwarded.addr()?.to_string(), forwarded.ident()?.to_owned()))
    };
    let expected = ("192.0.2.1".to_owned(), "4F2A".to_owned());
    assert_eq!(forwarded(&first), Some(expected));
    assert_eq!(second.forwarded(), None);
    let peer: SocketAddr = PROXY.into();
    assert_eq!(first.client_addr(), &peer.into());
    assert!(text.starts_with("Received: from filter.example ([10.0.0.1])"));
    client
        .cmd("XFORWARD ADDR=192.0.2.1 IDENT=4F2A", "250")
        .await;
    client.cmd("RSET", "250").await;
    assert_eq!(deliver(&mut client, &mut inbox).await.0.forwarded(), None);
}
