//! Connections that come within TLS: from a terminator in front of the server, or as the streams of another protocol.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use smtpd_tower::{
    Auth, Identity, Profile, Rcpt, Request, Server, handler_fn,
    net::{PeerAddr, TrustedPeers},
    proxy::ProxyProtocol,
    sasl::{External, Mechanisms},
    server::Listener,
    session::{TlsInfo, TlsVersion},
};
use support::{pki::Issued, *};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    sync::mpsc,
    time::Instant,
};

const PEER: ([u8; 4], u16) = ([192, 0, 2, 1], 4711);
const LOCAL: ([u8; 4], u16) = ([192, 0, 2, 25], 465);

fn tls() -> TlsInfo {
    TlsInfo::new(TlsVersion::Tls13, "TLS_AES_128_GCM_SHA256").with_sni("mx.test")
}

/// A stream, and what its terminator knows of it.
struct Terminated(DuplexStream, Option<TlsInfo>);

/// The cipher suite with which the terminator panics.
const BROKEN: &str = "BROKEN";

impl AsyncRead for Terminated {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Terminated {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

struct Terminator(mpsc::UnboundedReceiver<Terminated>);

impl Listener for Terminator {
    type Io = Terminated;

    async fn accept(&mut self) -> io::Result<(Terminated, PeerAddr)> {
        match self.0.recv().await {
            Some(io) => Ok((io, PEER.into())),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> PeerAddr {
        PeerAddr::Unknown
    }

    fn connection_addr(_: &Terminated) -> Option<PeerAddr> {
        Some(LOCAL.into())
    }

    fn is_tls(&self) -> bool {
        true
    }

    fn connection_tls(io: &Terminated) -> Option<TlsInfo> {
        let tls = io.1.clone();
        let is_broken = tls.as_ref().is_some_and(|tls| tls.cipher() == BROKEN);
        assert!(!is_broken, "on purpose");
        tls
    }
}

/// The peer, the local address and the TLS facts that a service has seen.
type Seen = Arc<Mutex<Vec<(PeerAddr, PeerAddr, Option<TlsInfo>)>>>;

fn users() -> (Server, Seen) {
    let seen = Seen::default();
    let log = seen.clone();
    let pipeline = accept_rcpt()
        .auth(handler_fn(async |_: Request<Auth>| Identity::new("alice")))
        .rcpt(handler_fn(move |request: Request<Rcpt>| {
            let session = request.session();
            log.lock().unwrap().push((
                session.client_addr().clone(),
                session.local_addr().clone(),
                session.tls().cloned(),
            ));
            async {}
        }));
    (server(pipeline), seen)
}

fn serve(server: &Server, profile: Profile) -> mpsc::UnboundedSender<Terminated> {
    let (feed, fed) = mpsc::unbounded_channel();
    let serving = server.serve(Terminator(fed)).profile(profile);
    tokio::spawn(async move { serving.await.unwrap() });
    feed
}

#[tokio::test(start_paused = true)]
async fn a_session_within_the_tls_of_a_terminator_is_taken_for_plaintext() {
    let (server, seen) = users();
    for profile in [Profile::Submission, Profile::Submissions] {
        let feed = serve(&server, profile);
        let (near, far) = tokio::io::duplex(1 << 16);
        feed.send(Terminated(far, Some(tls()))).unwrap();
        let mut client = Client::over(near);
        client.expect("220").await;
        let ehlo = client.cmd("EHLO c", "250").await;
        assert!(ehlo.contains("AUTH PLAIN LOGIN"), "{ehlo}");
        assert!(!ehlo.contains("STARTTLS"), "{ehlo}");
        client.cmd("STARTTLS", "500").await;
        client.cmd("AUTH PLAIN AGEAYg==", "235").await;
        client.envelope().await;
        let facts = seen.lock().unwrap().pop().unwrap();
        assert_eq!(facts, (PEER.into(), LOCAL.into(), Some(tls())));
    }
}

#[tokio::test(start_paused = true)]
async fn a_plaintext_connection_of_a_terminator_is_served() {
    let (server, _) = users();
    let tls = Issued::alone("mx.test").tls();
    // Nor does it wait for a handshake with a certificate that the server has for its other listeners.
    for server in [server.clone(), server.tls(tls)] {
        let feed = serve(&server, Profile::Lmtp);
        let (near, far) = tokio::io::duplex(1 << 16);
        feed.send(Terminated(far, None)).unwrap();
        let begun = Instant::now();
        Client::over(near).expect_close().await;
        assert_eq!(begun.elapsed().as_secs(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_panics_for_one_connection_serves_no_more() {
    let (server, _) = users();
    let feed = serve(&server, Profile::Submissions);
    let (near, far) = tokio::io::duplex(1 << 16);
    let broken = TlsInfo::new(TlsVersion::Tls13, BROKEN);
    feed.send(Terminated(far, Some(broken))).unwrap();
    Client::over(near).expect_close().await;
    let (near, far) = tokio::io::duplex(1 << 16);
    feed.send(Terminated(far, Some(tls()))).unwrap();
    Client::over(near).expect("220").await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_within_tls_is_refused_without_a_word() {
    let (server, _) = users();
    let feed = serve(&server.max_sessions(0), Profile::Submissions);
    let (near, far) = tokio::io::duplex(1 << 16);
    feed.send(Terminated(far, Some(tls()))).unwrap();
    Client::over(near)
        .expect("421 4.3.2 mx.test smtpd has too many sessions")
        .await;
}

/// Serves one connection with these facts. Returns the reply to EHLO.
async fn ehlo(server: &Server, tls: TlsInfo, header: &str) -> String {
    let (near, far) = tokio::io::duplex(1 << 16);
    let session = server
        .serve_connection(far, PEER.into())
        .local_addr(LOCAL)
        .tls_info(tls);
    tokio::spawn(session);
    let mut client = Client::over(near);
    client.send(header).await;
    client.expect("220").await;
    let ehlo = client.cmd("EHLO c", "250").await;
    client.envelope().await;
    ehlo
}

#[tokio::test(start_paused = true)]
async fn the_certificate_of_a_proxy_authenticates_its_clients() {
    let (server, seen) = users();
    let server = server.configure(|config| config.mechanisms(Mechanisms::none().with(External)));
    let proxied = server.clone().proxy_protocol(ProxyProtocol::from_trusted(
        TrustedPeers::parse(["192.0.2.1"]).unwrap(),
    ));
    let certified = || tls().with_peer_certificates([(&b"DER"[..]).into()]);

    assert!(!ehlo(&server, tls(), "").await.contains("AUTH"));
    let offer = ehlo(&server, certified(), "").await;
    assert!(offer.contains("AUTH EXTERNAL"), "{offer}");
    assert_eq!(seen.lock().unwrap().pop().unwrap().2, Some(certified()));

    let header = "PROXY TCP4 198.51.100.7 192.0.2.25 4712 465\r\n";
    let offer = ehlo(&proxied, certified(), header).await;
    assert!(!offer.contains("AUTH"), "{offer}");
    let (client, _, facts) = seen.lock().unwrap().pop().unwrap();
    assert_eq!(client, ([198, 51, 100, 7], 4712).into());
    assert_eq!(facts, Some(tls()));
}
