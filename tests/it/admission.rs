//! How the guard refuses connections: wherever it does so, at the same cost, and without anything that others wait for.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc as blocking,
    },
    time::Duration,
};

use smtpd_tower::{
    Server,
    guard::{Guard, GuardReason, GuardStage},
    limiter::{ClientKey, Rate},
    net::{CidrSet, PeerAddr, TrustedPeers},
    proxy::ProxyProtocol,
    tls::TlsConfig,
};
use support::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{self, ClientConfig, ClientConnection, RootCertStore, pki_types::ServerName},
};
use tracing_subscriber::fmt::MakeWriter;

use crate::metrics::Recorded;

const CLIENT: ([u8; 4], u16) = ([192, 0, 2, 1], 4711);
const PROXY: ([u8; 4], u16) = ([10, 0, 0, 1], 4000);

/// A server with TLS, and the settings of its clients.
fn with_tls(guard: Guard) -> (Server, Arc<ClientConfig>) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["mx.test".to_owned()]).unwrap();
    let key = signing_key.serialize_pem();
    let tls = TlsConfig::from_pem(cert.pem().as_bytes(), key.as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (server(accept_rcpt()).tls(tls).guard(guard), client.into())
}

fn name() -> ServerName<'static> {
    ServerName::try_from("mx.test").unwrap()
}

/// Connects where TLS comes first.
fn tls_first(server: &Server, peer: impl Into<PeerAddr>) -> DuplexStream {
    let (near, far) = duplex(1 << 16);
    tokio::spawn(server.serve_connection(far, peer.into()).tls_first());
    near
}

/// Connects where TLS comes after STARTTLS.
async fn start_tls(server: &Server, peer: impl Into<PeerAddr>) -> DuplexStream {
    let mut client = Client::from_peer(server, peer);
    client.expect("220").await;
    client.cmd("EHLO c", "250").await;
    client.cmd("STARTTLS", "220").await;
    client.into_io()
}

/// What clients send that begin a handshake and do not end it: nothing, a byte, and a whole ClientHello.
fn beginnings(config: &Arc<ClientConfig>) -> [Vec<u8>; 3] {
    let mut hello = Vec::new();
    let mut client = ClientConnection::new(config.clone(), name()).unwrap();
    client.write_tls(&mut hello).unwrap();
    [Vec::new(), vec![22], hello]
}

#[tokio::test(start_paused = true)]
async fn thirteen_silent_clients_keep_all_others_from_tls() {
    for case in 0..6 {
        let guard = Guard::new();
        let (server, config) = with_tls(guard.clone());
        let (starts, beginning) = (case >= 3, &beginnings(&config)[case % 3]);
        let connect = async |peer: ([u8; 4], u16)| match starts {
            true => start_tls(&server, peer).await,
            false => tls_first(&server, peer),
        };
        let mut silent = Vec::new();
        for client in 0..13 {
            for _ in 0..20 {
                // The last ones may be refused, or take the permits of those before.
                if starts && guard.counted_handshakes() == 256 {
                    break;
                }
                let mut io = connect(([192, 0, 2, client], 4711)).await;
                io.write_all(beginning).await.unwrap();
                silent.push(io);
            }
        }
        settle().await;
        assert_eq!(guard.counted_handshakes(), 256, "{case}");
        for honest in 0..5 {
            let io = connect(([198, 51, 100, honest], 4711)).await;
            let secured = TlsConnector::from(config.clone()).connect(name(), io).await;
            let mut client = Client::over(secured.unwrap());
            if !starts {
                client.expect("220").await;
            }
            client.cmd("EHLO c", "250").await;
            assert!(guard.counted_handshakes() <= 256);
        }
        // The connections whose handshakes were given up are closed.
        let mut closed = 0_u64;
        for io in &mut silent {
            let mut sent = Vec::new();
            let read = tokio::time::timeout(Duration::from_millis(1), io.read_to_end(&mut sent));
            closed += u64::from(read.await.is_ok());
        }
        let refused = guard.stats().refused(GuardReason::AllHandshakes);
        assert!(closed > 0 && closed == refused, "{case}: {closed}");
        drop(silent);
        settle().await;
        assert_eq!(guard.counted_handshakes(), 0, "{case}");
    }
}

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Where a connection may be refused.
#[derive(Clone, Copy, Debug)]
enum Entrance {
    Direct,
    Proxy,
    XClient,
    TlsFirst,
    ProxyTlsFirst,
}

impl fmt::Display for Entrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Entrance {
    const ALL: [Self; 5] = [
        Self::Direct,
        Self::Proxy,
        Self::XClient,
        Self::TlsFirst,
        Self::ProxyTlsFirst,
    ];

    const fn begins_tls(self) -> bool {
        matches!(self, Self::TlsFirst | Self::ProxyTlsFirst)
    }

    /// Connects, and returns what the server sends until it closes the connection.
    async fn refused(self, server: &Server) -> String {
        const HEADER: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.9 4711 25\r\n";
        let peer = match self {
            Self::Direct | Self::TlsFirst => CLIENT,
            _ => PROXY,
        };
        let (mut near, far) = duplex(1 << 16);
        let trusted = || TrustedPeers::parse(["10.0.0.0/8"]).unwrap();
        let server = server.clone();
        let server = match self {
            Self::Proxy | Self::ProxyTlsFirst => {
                server.proxy_protocol(ProxyProtocol::from_trusted(trusted()))
            }
            Self::XClient => server.xclient_from(trusted()),
            _ => server,
        };
        let connection = server.serve_connection(far, PeerAddr::from(peer));
        tokio::spawn(match self.begins_tls() {
            true => connection.tls_first(),
            false => connection,
        });
        match self {
            Self::Proxy | Self::ProxyTlsFirst => near.write_all(HEADER).await.unwrap(),
            Self::XClient => {
                let mut client = Client::over(near);
                client.expect("220").await;
                client.cmd("EHLO filter", "250").await;
                client.send("XCLIENT ADDR=192.0.2.1\r\n").await;
                near = client.into_io();
            }
            _ => {}
        }
        let mut sent = String::new();
        near.read_to_string(&mut sent).await.unwrap();
        sent
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_measured_logged_and_reported_in_another_way_at_each_entrance() {
    for (entrance, reason) in Entrance::ALL.into_iter().flat_map(|entrance| {
        let handshakes = entrance.begins_tls().then_some(GuardReason::Handshakes);
        [Some(GuardReason::Sessions), handshakes]
            .into_iter()
            .flatten()
            .map(move |reason| (entrance, reason))
    }) {
        let (recorded, _recorder) = Recorded::listen();
        let log = Log::default();
        let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).finish();
        let _log = log_by(subscriber);
        let (tell, mut told) = mpsc::unbounded_channel();
        let guard = match reason {
            GuardReason::Sessions => Guard::new().sessions(0),
            _ => Guard::new().handshakes(0),
        };
        let guard = guard.on_event(move |event| tell.send(*event).unwrap());
        let answered = Arc::new(AtomicBool::new(false));
        let has_answered = answered.clone();
        let (server, _) = with_tls(guard.clone());
        let server = server
            .metrics()
            .on_reply(move |_, _| has_answered.store(true, Ordering::Relaxed))
            .on_error(|_, error| panic!("{error}"));
        for _ in 0..3 {
            let sent = entrance.refused(&server).await;
            let reply = "421 4.7.0 mx.test smtpd too many connections from your address\r\n";
            let expected = if entrance.begins_tls() { "" } else { reply };
            assert_eq!(sent, expected, "{entrance}");
        }
        let event = told.recv().await.unwrap();
        assert_eq!(event.client(), ClientKey::new(CLIENT.0.into()));
        assert_eq!(event.reason(), reason);
        assert_eq!(event.stage(), GuardStage::Began);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(told.try_recv().is_err(), "{entrance}");
        assert_eq!(guard.stats().refused(reason), 3, "{entrance}");
        let limit = format!("smtp.server.connections.refused limit={reason}");
        assert_eq!(recorded.value(&limit), 3, "{entrance}");
        assert_eq!(recorded.with_values("smtp.server.refusals"), [""; 0]);
        assert_eq!(recorded.with_values("smtp.server.faults"), [""; 0]);
        assert!(!answered.load(Ordering::Relaxed), "{entrance}");
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<_> = log.lines().collect();
        assert_eq!(lines.len(), 1, "{entrance}: {log}");
        assert!(lines[0].contains("client refused by the guard"), "{log}");
    }
}

#[tokio::test]
async fn a_function_that_blocks_stops_the_server_from_accepting() {
    let (release, blocked) = blocking::channel::<()>();
    let blocked = Mutex::new(blocked);
    let (is_called, has_returned) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let (called, returned) = (is_called.clone(), has_returned.clone());
    let nobody = CidrSet::parse::<&str>([]).unwrap();
    let guard = Guard::new().exempt(nobody).sessions(0).on_event(move |_| {
        called.store(true, Ordering::SeqCst);
        // Until the end of the test, but not for ever: the runtime waits for it.
        let _ = blocked
            .lock()
            .unwrap()
            .recv_timeout(Duration::from_secs(30));
        returned.store(true, Ordering::SeqCst);
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(server(accept_rcpt()).guard(guard.clone()).serve(listener));
    for _ in 0..10 {
        let mut client = Client::over(TcpStream::connect(address).await.unwrap());
        client.expect("421 4.7.0").await;
        client.expect_close().await;
    }
    while !is_called.load(Ordering::SeqCst) {
        tokio::task::yield_now().await;
    }
    // Sessions do not wait either.
    guard.reload(&Guard::new());
    let mut client = Client::over(TcpStream::connect(address).await.unwrap());
    client.expect("220").await;
    client.cmd("QUIT", "221").await;
    assert!(!has_returned.load(Ordering::SeqCst), "it was waited for");
    drop(release);
}

/// Makes errors, and returns whether the session goes on.
async fn goes_on(client: &mut Client, errors: usize) -> bool {
    for _ in 0..errors {
        client.cmd("FROBNICATE", "500").await;
    }
    settle().await;
    client.send("NOOP\r\n").await;
    match client.reply().await {
        reply if reply.starts_with("250") => true,
        reply => {
            assert!(reply.starts_with("421 4.7.0"), "{reply}");
            false
        }
    }
}

#[tokio::test(start_paused = true)]
async fn sessions_that_are_open_keep_the_old_limits() {
    let strict = || Guard::new().errors(Rate::per_hour(3).unwrap());
    let networks = || CidrSet::parse(["192.0.2.0/24"]).unwrap();
    for lenient in [
        strict().exempt(networks()),
        Guard::off(),
        Guard::new().errors(None),
    ] {
        let guard = strict();
        let server = server(accept_rcpt()).guard(guard.clone());
        let mut client = Client::from_peer(&server, CLIENT);
        client.expect("220").await;
        assert!(goes_on(&mut client, 1).await);
        guard.reload(&lenient);
        assert!(goes_on(&mut client, 5).await);
        let usage = guard.usage(ClientKey::new(CLIENT.0.into()));
        assert_eq!(usage.errors(), 1);
        // Another one begins while nothing is counted.
        let mut other = Client::from_peer(&server, CLIENT);
        other.expect("220").await;
        guard.reload(&strict());
        assert!(goes_on(&mut client, 1).await);
        assert!(!goes_on(&mut other, 1).await);
    }
}

#[tokio::test(start_paused = true)]
async fn permits_are_lost_when_the_guard_is_off_for_a_while() {
    let guard = Guard::new();
    let server = server(accept_rcpt()).guard(guard.clone());
    let connect = async |count: usize| {
        let mut clients = Vec::new();
        for _ in 0..count {
            let mut client = Client::from_peer(&server, CLIENT);
            client.expect("220").await;
            clients.push(client);
        }
        clients
    };
    let old = connect(30).await;
    guard.reload(&Guard::off());
    let uncounted = connect(30).await;
    drop(old);
    settle().await;
    guard.reload(&Guard::new());
    drop(uncounted);
    settle().await;
    let new = connect(50).await;
    assert_eq!(guard.counted_sessions(), 50);
    Client::from_peer(&server, CLIENT).expect("421 4.7.0").await;
    drop(new);
    settle().await;
    assert_eq!(guard.counted_sessions(), 0);
}
