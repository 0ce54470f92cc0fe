//! TLS: STARTTLS and implicit, over a pipe and over TCP.

use smtpd_tower::{
    Data, Identity, Mail, Reply, Request, Server, Session, handler_fn,
    session::{EndReason, TlsVersion},
};
use support::{pki::Issued, *};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_rustls::{
    client::TlsStream,
    rustls::{self, ClientConfig},
};

/// A certificate, and a client that trusts it.
struct Pki {
    issued: Issued,
    client: ClientConfig,
}

fn pki() -> Pki {
    let issued = Issued::alone("mx.test");
    let client = issued.client(rustls::DEFAULT_VERSIONS);
    Pki { issued, client }
}

async fn handshake<IO: AsyncRead + AsyncWrite + Unpin>(
    io: IO,
    config: &ClientConfig,
) -> Client<TlsStream<IO>> {
    pki::handshake(io, config, "mx.test").await.unwrap()
}

fn tls_server(pki: &Pki) -> Server {
    let facts = pipeline(async |req: Request<Data>| {
        let (session, data) = req.into_parts();
        let tls = session
            .tls()
            .map(|tls| format!("{} {} {:?}", tls.version(), tls.cipher(), tls.sni()));
        data.into_body()
            .collect()
            .await
            .map(|m| Reply::ok(format!("{} {}", m.len(), tls.unwrap_or_default())))
    });
    server(facts).tls(pki.issued.tls())
}

#[tokio::test]
async fn a_message_over_starttls() {
    let pki = pki();
    let mut client = Client::greeted(&tls_server(&pki)).await;
    assert!(client.cmd("EHLO c", "250").await.contains("STARTTLS"));
    client.cmd("STARTTLS", "220 2.0.0").await;
    let mut client = handshake(client.into_io(), &pki.client).await;
    assert!(!client.cmd("EHLO c", "250").await.contains("STARTTLS"));
    client.envelope().await;
    client.cmd("DATA", "354").await;
    client.send("over TLS\r\n.\r\n").await;
    assert_eq!(
        client.reply().await,
        "250 2.0.0 10 TLSv1.3 TLS_AES_128_GCM_SHA256 Some(\"mx.test\")"
    );
    client.cmd("STARTTLS", "503").await;
    client.cmd("QUIT", "221").await;
    client.expect_close().await;
}

#[tokio::test]
async fn after_the_handshake_all_is_forgotten() {
    let pki = pki();
    let server = server(
        accept_rcpt()
            .auth(handler_fn(async |_: Request<smtpd_tower::Auth>| {
                Identity::new("alice")
            }))
            .mail(handler_fn(async |req: Request<Mail>| {
                Reply::ok(format!("{:?}", req.session().identity().is_some()))
            })),
    )
    .tls(pki.issued.tls())
    .configure(|config| config.allow_insecure_auth(true));
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO before", "250").await;
    client.cmd("AUTH PLAIN AGEAYg==", "235").await;
    client.cmd("STARTTLS", "220").await;
    let mut client = handshake(client.into_io(), &pki.client).await;
    client.cmd("MAIL FROM:<a@b.c>", "503").await;
    client.cmd("RCPT TO:<a@b.c>", "503").await;
    client.cmd("EHLO after", "250").await;
    client.cmd("MAIL FROM:<a@b.c>", "250 2.0.0 false").await;
}

/// CVE-2011-0411: commands smuggled in behind STARTTLS were run inside TLS.
#[tokio::test]
async fn what_comes_behind_starttls_in_plaintext_is_never_run() {
    let pki = pki();
    for injected in [
        "NOOP\r\n",
        "\r\n",
        "MAIL FROM:<a@b.c>\r\nRCPT TO:<c@d.e>\r\nDATA\r\n",
        "EHLO evil\r\n",
        "N",
        "\n",
        "\0",
    ] {
        let mut client = Client::greeted(&tls_server(&pki)).await;
        client.cmd("EHLO c", "250").await;
        client.send(format!("STARTTLS\r\n{injected}")).await;
        client.expect("554").await;
        client.expect_close().await;
    }
}

#[tokio::test]
async fn a_failed_handshake_ends_the_connection() {
    let pki = pki();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let server =
        tls_server(&pki).on_close(move |_: &Session, summary| tell.send(summary.reason).unwrap());
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO c", "250").await;
    client.cmd("STARTTLS", "220").await;
    client.send("EHLO plain\r\nMAIL FROM:<a@b.c>\r\n").await;
    let mut rest = Vec::new();
    client.into_io().read_to_end(&mut rest).await.unwrap();
    assert!(!rest.starts_with(b"250"), "{}", rest.escape_ascii());
    assert_eq!(told.recv().await, Some(EndReason::TlsFailed));
}

#[tokio::test]
async fn a_client_that_ends_tls_without_quit_is_answered_with_close_notify() {
    let pki = pki();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let server =
        tls_server(&pki).on_close(move |_: &Session, summary| tell.send(summary.reason).unwrap());
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO c", "250").await;
    client.cmd("STARTTLS", "220").await;
    let mut client = handshake(client.into_io(), &pki.client).await;
    client.cmd("EHLO c", "250").await;
    let mut stream = client.into_io();
    stream.shutdown().await.unwrap();
    // Without it, this would be an unexpected end.
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(told.recv().await, Some(EndReason::Lost));
}

#[tokio::test(start_paused = true)]
async fn a_stalled_handshake_does_not_keep_a_shutdown_waiting() {
    let pki = pki();
    let server = tls_server(&pki);
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO c", "250").await;
    client.cmd("STARTTLS", "220").await;
    let begun = Instant::now();
    let handle = server.handle();
    tokio::join!(handle.shutdown(SECOND * 60), client.expect_close());
    assert!(begun.elapsed() <= SECOND, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stalled_handshake_is_given_up() {
    let pki = pki();
    let mut client = Client::greeted(&tls_server(&pki)).await;
    client.cmd("EHLO c", "250").await;
    client.cmd("STARTTLS", "220").await;
    let begun = Instant::now();
    client.expect_close().await;
    assert_eq!(begun.elapsed().as_secs(), 30);
}

#[tokio::test]
async fn tls_is_required_before_authentication_is() {
    let pki = pki();
    let server = server(
        accept_rcpt().auth(handler_fn(async |_: Request<smtpd_tower::Auth>| {
            Identity::new("alice")
        })),
    )
    .tls(pki.issued.tls())
    .configure(|config| config.require_tls(true).require_auth(true));
    let mut client = Client::greeted(&server).await;
    let ehlo = client.cmd("EHLO c", "250").await;
    assert!(!ehlo.contains("AUTH"), "{ehlo}");
    for refused in [
        "MAIL FROM:<a@b.c>",
        "RSET",
        "VRFY x",
        "HELP",
        "AUTH PLAIN AGEAYg==",
    ] {
        client.cmd(refused, "530 5.7.0 Must issue a STARTTLS").await;
    }
    client.cmd("NOOP", "250").await;
    client.cmd("STARTTLS", "220").await;
    let mut client = handshake(client.into_io(), &pki.client).await;
    let ehlo = client.cmd("EHLO c", "250").await;
    assert!(ehlo.contains("AUTH PLAIN LOGIN"), "{ehlo}");
    client
        .cmd("MAIL FROM:<a@b.c>", "530 5.7.0 Authentication")
        .await;
    client.cmd("RSET", "250").await;
    client.cmd("AUTH PLAIN AGEAYg==", "235").await;
    client.envelope().await;
}

#[tokio::test]
async fn implicit_tls_over_tcp_with_tls_1_2_and_1_3() {
    let pki = pki();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = tls_server(&pki);
    tokio::spawn(server.serve(listener).tls_first());
    for (version, name) in [
        (&rustls::version::TLS12, TlsVersion::Tls12),
        (&rustls::version::TLS13, TlsVersion::Tls13),
    ] {
        let config = pki.issued.client(&[version]);
        let mut client = handshake(TcpStream::connect(addr).await.unwrap(), &config).await;
        client.expect("220 mx.test").await;
        assert!(!client.cmd("EHLO c", "250").await.contains("STARTTLS"));
        client.envelope().await;
        client.cmd("DATA", "354").await;
        client
            .send([b"x".repeat(100_000), b"\r\n.\r\n".to_vec()].concat())
            .await;
        client.expect(&format!("250 2.0.0 100002 {name} ")).await;
        client.cmd("QUIT", "221").await;
        client.expect_close().await;
    }
}

/// A ClientHello of TLS 1.2 or older, without the extension that offers newer versions. It lacks nothing else.
fn old_client_hello(version: u16) -> Vec<u8> {
    let [major, minor] = version.to_be_bytes();
    let extensions = [
        &[0, 10, 0, 4, 0, 2, 0, 23][..],  // supported_groups: secp256r1
        &[0, 13, 0, 6, 0, 4, 4, 3, 8, 4], // signature_algorithms: ECDSA and RSA-PSS
    ]
    .concat();
    let hello = [
        &[major, minor][..],
        &[7; 32],                        // random
        &[0],                            // no session
        &[0, 4, 0xc0, 0x2b, 0xc0, 0x2f], // ECDHE with AES_128_GCM
        &[1, 0],                         // no compression
        &[0, u8::try_from(extensions.len()).unwrap()],
        &extensions,
    ]
    .concat();
    let length = u8::try_from(hello.len()).unwrap();
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &hello].concat()
}

/// RFC 8996 section 4 and 5.
#[tokio::test]
async fn versions_before_tls_1_2_are_refused_by_an_alert() {
    let pki = pki();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(tls_server(&pki).serve(listener).tls_first());
    let answer_to = async |version| {
        let mut io = TcpStream::connect(addr).await.unwrap();
        io.write_all(&old_client_hello(version)).await.unwrap();
        let mut answer = [0; 7];
        io.read_exact(&mut answer).await.unwrap();
        answer
    };
    for version in [0x0300, 0x0301, 0x0302] {
        // A fatal alert, protocol_version (RFC 5246 section 7.2.2).
        let [kind, _, _, _, length, level, alert] = answer_to(version).await;
        assert_eq!([kind, length, level, alert], [21, 2, 2, 70], "{version:#x}");
    }
    let [kind, .., message, _] = answer_to(0x0303).await;
    assert_eq!([kind, message], [22, 2], "ServerHello");
}

#[tokio::test]
async fn plaintext_on_a_tls_listener_gets_no_smtp_reply() {
    let pki = pki();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(tls_server(&pki).serve(listener).tls_first());
    let mut io = TcpStream::connect(addr).await.unwrap();
    io.write_all(b"EHLO plain\r\nQUIT\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = io.read_to_end(&mut rest).await;
    // Nothing, or an alert of TLS (RFC 8446 section 5.1).
    let is_alert = rest.first().is_none_or(|kind| *kind == 21);
    assert!(is_alert, "{}", rest.escape_ascii());
}

/// A TLS handshake in the accept loop lets one silent client stop all others.
#[tokio::test]
async fn a_silent_client_does_not_keep_others_from_their_handshake() {
    let pki = pki();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(tls_server(&pki).serve(listener).tls_first());
    let _silent = TcpStream::connect(addr).await.unwrap();
    let mut client = handshake(TcpStream::connect(addr).await.unwrap(), &pki.client).await;
    client.expect("220").await;
}

#[tokio::test]
async fn tls_first_without_a_certificate_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = server(accept_rcpt())
        .serve(listener)
        .tls_first()
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "TLS from the first byte needs a TLS configuration"
    );
    let mut client = Client::connect(&server(accept_rcpt()));
    client.expect("220").await;
    client.cmd("STARTTLS", "500").await;
}
