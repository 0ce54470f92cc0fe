//! Limits on what each client may do, over all of its sessions, and how sessions follow them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use smtpd_tower::{
    Auth, Data, Pipeline, Rcpt, Reply, Request, Server,
    guard::{Guard, GuardReason, GuardStage},
    handler_fn,
    limiter::ClientKey,
    net::{CidrSet, PeerAddr, TrustedPeers},
    phase::AuthOutcome,
    proxy::ProxyProtocol,
    reply::Origin,
};
use support::{pki::Issued, *};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::mpsc,
    time::{Instant, advance, sleep},
};

const CLIENT: ([u8; 4], u16) = ([192, 0, 2, 1], 4711);
const OTHER: ([u8; 4], u16) = ([192, 0, 2, 2], 4711);
const PROXY: ([u8; 4], u16) = ([10, 0, 0, 1], 4000);

fn key(peer: ([u8; 4], u16)) -> ClientKey {
    ClientKey::new(peer.0.into())
}

/// A server that rejects recipients at `example.com`, and its guard.
fn guarded(guard: Guard) -> (Server, Guard) {
    let rcpt = handler_fn(async |request: Request<Rcpt>| {
        match request.recipient().as_str().ends_with("@example.com") {
            true => Err(Reply::no_such_user()),
            false => Ok(()),
        }
    });
    let server = server(pipeline(async |request| request.into_body().discard().await).rcpt(rcpt));
    (server.guard(guard.clone()), guard)
}

/// Connects, and reads the first reply.
async fn connect(server: &Server, peer: impl Into<PeerAddr>) -> (Client, String) {
    let mut client = Client::from_peer(server, peer);
    let reply = client.reply().await;
    (client, reply)
}

/// The code and the text after the names of the server.
fn refusal(reply: &str) -> &str {
    let text = reply.strip_prefix("421 4.7.0 mx.test smtpd ");
    text.unwrap_or_else(|| panic!("not refused: {reply:?}"))
}

async fn quit(mut client: Client) {
    client.cmd("QUIT", "221").await;
    client.take_session().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_client_has_all_sessions() {
    let (server, guard) = guarded(Guard::new());
    let mut clients = Vec::new();
    for _ in 0..50 {
        let (client, reply) = connect(&server, CLIENT).await;
        assert!(reply.starts_with("220 "));
        clients.push(client);
    }
    let (mut client, reply) = connect(&server, CLIENT).await;
    assert_eq!(refusal(&reply), "too many connections from your address");
    client.expect_close().await;
    let (_other, reply) = connect(&server, OTHER).await;
    assert!(reply.starts_with("220 "));
    quit(clients.pop().unwrap()).await;
    let (_again, reply) = connect(&server, CLIENT).await;
    assert!(reply.starts_with("220 "));
    assert_eq!(guard.usage(key(CLIENT)).sessions(), 50);
    assert_eq!(guard.stats().refused(GuardReason::Sessions), 1);
    assert_eq!(server.handle().sessions(), 51);
}

#[tokio::test(start_paused = true)]
async fn a_session_stays_counted_however_it_ends() {
    let broken = handler_fn(async |_: Request<Rcpt>| -> Reply { panic!("in a service") });
    let server = server(Pipeline::new().rcpt(broken));
    let guard = server.get_guard().clone();

    let (client, _) = connect(&server, CLIENT).await;
    assert_eq!(guard.counted_sessions(), 1);
    quit(client).await;
    assert_eq!(guard.counted_sessions(), 0, "it has said QUIT");

    let (mut client, _) = connect(&server, CLIENT).await;
    let session = client.take_session();
    drop(client);
    session.await.unwrap();
    assert_eq!(guard.counted_sessions(), 0, "its client is lost");

    let (mut client, _) = connect(&server, CLIENT).await;
    let session = client.take_session();
    session.abort();
    assert!(session.await.unwrap_err().is_cancelled());
    assert_eq!(guard.counted_sessions(), 0, "its task is aborted");

    let (mut client, _) = connect(&server, CLIENT).await;
    client.cmd("HELO c", "250").await;
    client.cmd("MAIL FROM:<a@b>", "250").await;
    client.cmd("RCPT TO:<c@d>", "421").await;
    client.take_session().await.unwrap();
    assert_eq!(guard.counted_sessions(), 0, "its service has panicked");

    let (_client, _) = connect(&server, CLIENT).await;
    server.handle().shutdown(Duration::ZERO).await;
    assert_eq!(guard.counted_sessions(), 0, "the server has ended");
}

#[tokio::test(start_paused = true)]
async fn several_servers_that_share_a_guard_count_apart() {
    let (one, guard) = guarded(Guard::new().sessions(2));
    let (two, _) = guarded(guard.clone());
    let _first = connect(&one, CLIENT).await;
    let _second = connect(&two, CLIENT).await;
    for server in [&one, &two, &two.clone()] {
        let (_, reply) = connect(server, CLIENT).await;
        refusal(&reply);
    }
    assert_eq!(guard.stats().total(), 3);
}

#[tokio::test(start_paused = true)]
async fn this_machine_and_unix_sockets_are_refused() {
    let (server, guard) = guarded(Guard::new().sessions(0));
    for peer in [
        ([127, 0, 0, 1], 4711).into(),
        PeerAddr::Unix(None),
        PeerAddr::Unknown,
    ] {
        let (_, reply) = connect(&server, peer).await;
        assert!(reply.starts_with("220 "), "{reply}");
    }
    let (_, reply) = connect(&server, CLIENT).await;
    refusal(&reply);
    guard.reload(
        &Guard::new()
            .sessions(0)
            .exempt(CidrSet::parse(["192.0.2.0/31"]).unwrap()),
    );
    let (_, reply) = connect(&server, CLIENT).await;
    assert!(reply.starts_with("220 "), "{reply}");
    let (_, reply) = connect(&server, ([127, 0, 0, 1], 4711)).await;
    refusal(&reply);
    guard.reload(&Guard::off());
    let (_, reply) = connect(&server, OTHER).await;
    assert!(reply.starts_with("220 "), "{reply}");
}

/// A server with one user, whose service counts its calls.
fn with_auth(guard: Guard) -> (Server, Arc<AtomicUsize>) {
    let calls = Arc::<AtomicUsize>::default();
    let counter = calls.clone();
    let auth = handler_fn(move |_: Request<Auth>| {
        counter.fetch_add(1, Ordering::Relaxed);
        std::future::ready(AuthOutcome::Verify(smtpd_tower::Secret::password("secret")))
    });
    let server = server(accept_rcpt().auth(auth))
        .configure(|config| config.allow_insecure_auth(true))
        .guard(guard);
    (server, calls)
}

/// `alice` with the password `wrong`, and with `secret`.
const WRONG: &str = "AUTH PLAIN AGFsaWNlAHdyb25n";
const RIGHT: &str = "AUTH PLAIN AGFsaWNlAHNlY3JldA==";

#[tokio::test(start_paused = true)]
async fn passwords_are_guessed_in_one_session_after_the_other() {
    let (server, calls) = with_auth(Guard::new());
    let mut guesses = 0;
    for _ in 0..3 {
        let (mut client, _) = connect(&server, CLIENT).await;
        client.cmd("EHLO c", "250").await;
        for _ in 0..4 {
            guesses += 1;
            let begun = Instant::now();
            if guesses <= 10 {
                client.cmd(WRONG, "535").await;
                assert!(begun.elapsed().is_zero());
            } else {
                client.cmd(RIGHT, "454 4.7.0 Too many failed").await;
                assert_eq!(begun.elapsed(), 5 * SECOND);
            }
        }
        quit(client).await;
    }
    assert_eq!(calls.load(Ordering::Relaxed), 10);
    let guard = server.get_guard();
    assert_eq!(guard.stats().refused(GuardReason::FailedLogins), 2);
    assert_eq!(guard.usage(key(CLIENT)).failed_logins(), 10);

    let (mut other, _) = connect(&server, OTHER).await;
    other.cmd("EHLO c", "250").await;
    other.cmd(RIGHT, "235").await;

    // One of ten in ten minutes is regained.
    advance(60 * SECOND).await;
    let (mut client, _) = connect(&server, CLIENT).await;
    client.cmd("EHLO c", "250").await;
    client.cmd(RIGHT, "235").await;
}

#[tokio::test(start_paused = true)]
async fn passwords_are_guessed_in_many_sessions_at_once() {
    let (server, calls) = with_auth(Guard::new());
    let mut clients = Vec::new();
    for _ in 0..20 {
        let (mut client, _) = connect(&server, CLIENT).await;
        client.cmd("EHLO c", "250").await;
        clients.push(client);
    }
    for client in &mut clients {
        client.send(format!("{WRONG}\r\n")).await;
        settle().await;
    }
    assert_eq!(calls.load(Ordering::Relaxed), 10);
    for client in &mut clients[..10] {
        client.expect("535").await;
    }
    for client in &mut clients[10..] {
        client.expect("454 4.7.0").await;
    }
}

/// A session whose login is being refused.
async fn refused_login(server: &Server) -> Client {
    let (mut client, _) = connect(server, CLIENT).await;
    client.cmd("EHLO c", "250").await;
    client.cmd(WRONG, "535").await;
    client.send(format!("{WRONG}\r\n")).await;
    settle().await;
    client
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_is_delayed_keeps_a_session_that_has_to_end() {
    let rate = smtpd_tower::limiter::Rate::per_hour(1).unwrap();
    let (server, _) = with_auth(Guard::new().failed_logins(rate));
    let guard = server.get_guard().clone();

    let mut client = refused_login(&server).await;
    let begun = Instant::now();
    let session = client.take_session();
    drop(client);
    session.await.unwrap();
    assert!(begun.elapsed().is_zero(), "its client is lost");

    guard.reset(key(CLIENT));
    let mut client = refused_login(&server).await;
    let begun = Instant::now();
    let handle = server.handle();
    let shutdown = handle.shutdown(60 * SECOND);
    client.expect("454").await;
    client.expect("421 4.3.2").await;
    drop(client);
    shutdown.await;
    assert!(begun.elapsed() <= SECOND, "{:?}", begun.elapsed());
}

/// Sends commands that are refused, in one session, as many as are answered at once. Returns the 421 that ends it, if any.
async fn misbehave(server: &Server, command: &str) -> String {
    let (mut client, reply) = connect(server, CLIENT).await;
    if !reply.starts_with("220") {
        return reply;
    }
    client.cmd("HELO c", "250").await;
    client.cmd("MAIL FROM:<a@example.net>", "250").await;
    for _ in 0..10 {
        client.send(format!("{command}\r\n")).await;
        assert!(client.reply().await.starts_with('5'));
    }
    client.send("QUIT\r\n").await;
    let reply = client.reply().await;
    match reply.starts_with("221") {
        true => String::new(),
        false => reply,
    }
}

#[tokio::test(start_paused = true)]
async fn addresses_are_guessed_in_one_session_after_the_other() {
    let (server, guard) = guarded(Guard::new());
    for _ in 0..19 {
        let end = misbehave(&server, "RCPT TO:<guess@example.com>").await;
        assert!(end.is_empty(), "{end}");
    }
    let end = misbehave(&server, "RCPT TO:<guess@example.com>").await;
    assert_eq!(
        refusal(&end),
        "too many rejected recipients, try again later"
    );
    assert_eq!(guard.usage(key(CLIENT)).rejected_recipients(), 200);
    let end = misbehave(&server, "RCPT TO:<guess@example.com>").await;
    assert_eq!(
        refusal(&end),
        "too many rejected recipients, try again later"
    );
    assert_eq!(guard.stats().refused(GuardReason::RejectedRecipients), 2);
    let (_, reply) = connect(&server, OTHER).await;
    assert!(reply.starts_with("220 "));
    advance(3 * SECOND).await;
    let (_, reply) = connect(&server, CLIENT).await;
    assert!(reply.starts_with("220 "));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_has_begun_before_goes_on_guessing() {
    let (server, _) = guarded(Guard::new());
    let (mut client, _) = connect(&server, CLIENT).await;
    client.cmd("HELO c", "250").await;
    client.cmd("MAIL FROM:<a@example.net>", "250").await;
    for _ in 0..20 {
        misbehave(&server, "RCPT TO:<guess@example.com>").await;
    }
    // It is ended when it is noticed, which is when there is nothing else to do.
    client.send("RCPT TO:<guess@example.com>\r\n").await;
    client.expect("550").await;
    client.expect("421 4.7.0").await;
    client.expect_close().await;
}

/// A server without limits for one session, whose RCPT service rejects everybody, at once or a moment later.
fn rejecting(guard: Guard, is_slow: bool) -> (Server, Guard) {
    let rcpt = handler_fn(move |_: Request<Rcpt>| async move {
        if is_slow {
            sleep(Duration::from_millis(1)).await;
        }
        Err::<(), _>(Reply::no_such_user())
    });
    let data = async |request: Request<Data>| request.into_body().discard().await;
    let server = server(pipeline(data).rcpt(rcpt)).configure(|config| {
        config.limits(|limits| {
            (limits.prompt_refusals, limits.rejected_recipients) = (u32::MAX, u32::MAX);
            limits.errors = u32::MAX;
        })
    });
    (server.guard(guard.clone()), guard)
}

/// Returns the replies until the connection is closed.
async fn last_replies(mut client: Client) -> Vec<String> {
    let session = client.take_session();
    let mut replies = Vec::new();
    loop {
        replies.push(client.reply().await);
        if replies.last().unwrap().starts_with("421") {
            client.expect_close().await;
            drop(client);
            session.await.unwrap();
            return replies;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_all_its_guesses_at_once_is_answered_to_the_end() {
    for is_slow in [false, true] {
        for (command, code) in [
            ("RCPT TO:<guess@example.com>", "550"),
            ("FROBNICATE", "500"),
        ] {
            let (server, guard) = rejecting(Guard::new(), is_slow);
            // Without a report of each, several errors may be answered before the guard learns of them.
            let server = server.on_reply(|_, _| {});
            let (mut client, _) = connect(&server, CLIENT).await;
            client.cmd("HELO c", "250").await;
            client.cmd("MAIL FROM:<a@example.net>", "250").await;
            client.send(format!("{command}\r\n").repeat(1000)).await;
            let replies = last_replies(client).await;
            let (last, others) = replies.split_last().unwrap();
            assert_eq!(others.len(), 200, "{command}, {last}");
            assert!(others.iter().all(|reply| reply.starts_with(code)));
            refusal(last);
            assert_eq!(guard.stats().total(), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_being_received_is_cut_off_by_the_guard() {
    let one = smtpd_tower::limiter::Rate::per_hour(1).unwrap();
    let (server, guard) = guarded(Guard::new().errors(one));
    let (mut client, _) = connect(&server, CLIENT).await;
    client.cmd("EHLO c", "250").await;
    client.cmd("MAIL FROM:<a@example.net>", "250").await;
    client.cmd("RCPT TO:<b@example.net>", "250").await;
    client.send("BDAT 3\r\nabc").await;
    client.expect("250").await;
    client
        .send("FROBNICATE\r\nFROBNICATE\r\nBDAT 3 LAST\r\ndef")
        .await;
    for code in ["500", "500", "250"] {
        client.expect(code).await;
    }
    refusal(&client.reply().await);
    client.expect_close().await;
    assert_eq!(guard.stats().total(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_after_its_message_because_of_limits_that_do_not_apply_any_more() {
    let one = smtpd_tower::limiter::Rate::per_hour(1).unwrap();
    let (server, guard) = guarded(Guard::new().errors(one));
    let (mut client, _) = connect(&server, CLIENT).await;
    client.cmd("EHLO c", "250").await;
    client.cmd("MAIL FROM:<a@example.net>", "250").await;
    client.cmd("RCPT TO:<b@example.net>", "250").await;
    client
        .send("BDAT 3\r\nabcFROBNICATE\r\nBDAT 6 LAST\r\ndef")
        .await;
    for code in ["250", "500"] {
        client.expect(code).await;
    }
    settle().await;
    guard.reload(&Guard::off());
    client.send("ghi").await;
    client.expect("250").await;
    client.cmd("NOOP", "250").await;
    assert_eq!(guard.stats().total(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_nobody_receives_is_counted() {
    let one = smtpd_tower::limiter::Rate::per_hour(1).unwrap();
    // The session ends by itself, with the reply that exceeds the limit of the guard.
    let (server, guard) = guarded(Guard::new().errors(one));
    let server = server.configure(|config| config.limits(|limits| limits.errors = 1));
    let (mut client, _) = connect(&server, CLIENT).await;
    client
        .cmd(
            "FROBNICATE",
            "421 4.7.0 mx.test smtpd too many errors, closing",
        )
        .await;
    client.expect_close().await;
    assert_eq!(guard.stats().total(), 0);
    let (_, reply) = connect(&server, CLIENT).await;
    assert_eq!(refusal(&reply), "too many errors, try again later");
    assert_eq!(guard.stats().total(), 1);

    // The client is lost before.
    let (server, guard) = rejecting(Guard::new().rejected_recipients(one), true);
    let (mut client, _) = connect(&server, CLIENT).await;
    client.cmd("HELO c", "250").await;
    client.cmd("MAIL FROM:<a@example.net>", "250").await;
    client.send("RCPT TO:<guess@example.com>\r\n").await;
    let session = client.take_session();
    drop(client);
    session.await.unwrap();
    assert_eq!(guard.stats().total(), 0);
}

#[tokio::test(start_paused = true)]
async fn errors_are_made_in_one_session_after_the_other() {
    let (server, guard) = guarded(Guard::new());
    for _ in 0..19 {
        let end = misbehave(&server, "FROBNICATE").await;
        assert!(end.is_empty(), "{end}");
    }
    for _ in 0..2 {
        let end = misbehave(&server, "FROBNICATE").await;
        assert_eq!(refusal(&end), "too many errors, try again later");
    }
    assert_eq!(guard.usage(key(CLIENT)).errors(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_delivers_is_counted_like_one_that_never_does() {
    let (server, guard) = guarded(Guard::new());
    for _ in 0..99 {
        quit(connect(&server, CLIENT).await.0).await;
    }
    assert_eq!(guard.usage(key(CLIENT)).idle_sessions(), 99);
    let (mut client, _) = connect(&server, CLIENT).await;
    client.begin().await;
    client.cmd(".", "250").await;
    quit(client).await;
    assert_eq!(guard.usage(key(CLIENT)).idle_sessions(), 0);
    for _ in 0..100 {
        quit(connect(&server, CLIENT).await.0).await;
    }
    let (_, reply) = connect(&server, CLIENT).await;
    let expected = "too many connections without mail, try again later";
    assert_eq!(refusal(&reply), expected);
    assert_eq!(guard.stats().refused(GuardReason::IdleSessions), 1);
}

#[tokio::test(start_paused = true)]
async fn a_login_is_not_counted_as_use() {
    let (server, _) = with_auth(Guard::new());
    let (mut client, _) = connect(&server, CLIENT).await;
    client.cmd("EHLO c", "250").await;
    client.cmd(RIGHT, "235").await;
    quit(client).await;
    assert_eq!(server.get_guard().usage(key(CLIENT)).idle_sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_proxy_is_counted_instead_of_its_clients() {
    let trusted = TrustedPeers::parse(["10.0.0.0/8"]).unwrap();
    let (server, guard) = guarded(Guard::new().sessions(1));
    let server = server.proxy_protocol(ProxyProtocol::from_trusted(trusted));
    let by_proxy = async |header: &str| {
        let mut client = Client::from_peer(&server, PROXY);
        client.send(header).await;
        let reply = client.reply().await;
        (client, reply)
    };
    let (_one, reply) = by_proxy("PROXY TCP4 192.0.2.1 192.0.2.9 4711 25\r\n").await;
    assert!(reply.starts_with("220 "), "{reply}");
    let (_other, reply) = by_proxy("PROXY TCP4 192.0.2.2 192.0.2.9 4711 25\r\n").await;
    assert!(reply.starts_with("220 "), "{reply}");
    let (mut refused, reply) = by_proxy("PROXY TCP4 192.0.2.1 192.0.2.9 4711 25\r\n").await;
    refusal(&reply);
    refused.expect_close().await;
    // The proxy checks whether the server is up.
    for _ in 0..3 {
        let (_, reply) = by_proxy("PROXY UNKNOWN\r\n").await;
        assert!(reply.starts_with("220 "), "{reply}");
    }
    assert_eq!(guard.usage(key(PROXY)).new_sessions(), 0);
    assert_eq!(guard.usage(key(CLIENT)).sessions(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_filter_in_front_is_counted_instead_of_the_clients_that_it_names() {
    let trusted = TrustedPeers::parse(["10.0.0.0/8"]).unwrap();
    let (server, guard) = guarded(Guard::new().sessions(1));
    let server = server.xclient_from(trusted);
    let by_filter = async |address: &str| {
        let (mut client, reply) = connect(&server, PROXY).await;
        assert!(reply.starts_with("220 "), "{reply}");
        client.cmd("EHLO filter", "250").await;
        client.send(format!("XCLIENT ADDR={address}\r\n")).await;
        let reply = client.reply().await;
        (client, reply)
    };
    let (mut one, reply) = by_filter("192.0.2.1").await;
    assert!(reply.starts_with("220 "), "{reply}");
    let (mut refused, reply) = by_filter("192.0.2.1").await;
    refusal(&reply);
    refused.expect_close().await;
    let (_other, reply) = by_filter("192.0.2.2").await;
    assert!(reply.starts_with("220 "), "{reply}");
    assert_eq!(guard.counted_sessions(), 2);
    one.cmd("FROBNICATE", "500").await;
    quit(one).await;
    assert_eq!(guard.usage(key(CLIENT)).errors(), 1);
    assert_eq!(guard.usage(key(CLIENT)).sessions(), 0);
}

fn with_tls(server: Server) -> Server {
    server.tls(Issued::alone("mx.test").tls())
}

#[tokio::test(start_paused = true)]
async fn handshakes_are_begun_without_end() {
    let (server, guard) = guarded(Guard::new().handshakes(1));
    let server = with_tls(server);
    let start_tls = async |peer, reply: &str| {
        let (mut client, _) = connect(&server, peer).await;
        client.cmd("EHLO c", "250").await;
        client.cmd("STARTTLS", reply).await;
        client
    };
    let mut first = start_tls(CLIENT, "220").await;
    assert_eq!(guard.counted_handshakes(), 1);
    let mut second = start_tls(CLIENT, "454 4.7.0 TLS is not available now").await;
    second.cmd("NOOP", "250").await;
    let _other = start_tls(OTHER, "220").await;
    guard.reload(&Guard::new().all_handshakes(2));
    let _third = start_tls(([192, 0, 2, 3], 1), "454 4.7.0").await;
    assert_eq!(guard.stats().refused(GuardReason::AllHandshakes), 1);
    // It gives the handshake up.
    let session = first.take_session();
    drop(first);
    session.await.unwrap();
    second.cmd("STARTTLS", "220").await;
    assert_eq!(guard.counted_handshakes(), 2);
    // The time for it is over, and the client has done nothing.
    sleep(31 * SECOND).await;
    second.expect_close().await;
    assert_eq!(guard.counted_handshakes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_plaintext_reply_disturbs_a_handshake_that_is_refused() {
    let (server, guard) = guarded(Guard::new().handshakes(0));
    let server = with_tls(server);
    let (near, far) = tokio::io::duplex(1 << 16);
    tokio::spawn(
        server
            .serve_connection(far, PeerAddr::from(CLIENT))
            .tls_first(),
    );
    Client::over(near).expect_close().await;
    guard.reload(&Guard::new().sessions(0));
    let (near, far) = tokio::io::duplex(1 << 16);
    tokio::spawn(
        server
            .serve_connection(far, PeerAddr::from(CLIENT))
            .tls_first(),
    );
    Client::over(near).expect_close().await;
    assert_eq!(guard.stats().refused(GuardReason::Handshakes), 1);
    assert_eq!(guard.stats().refused(GuardReason::Sessions), 1);
}

#[tokio::test]
async fn a_connection_that_is_refused_costs_a_session() {
    let nobody = CidrSet::parse::<&str>([]).unwrap();
    let (server, _) = guarded(Guard::new().sessions(0).exempt(nobody));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(server.serve(listener));
    for _ in 0..10 {
        let mut client = Client::over(TcpStream::connect(address).await.unwrap());
        refusal(&client.reply().await);
        client.expect_close().await;
    }
    assert_eq!(server.handle().sessions(), 0);
}

#[tokio::test]
async fn a_full_server_refuses_no_client_on_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let server = collecting().max_sessions(0);
    tokio::spawn(server.serve(UnixListener::bind(&path).unwrap()));
    let mut client = Client::over(UnixStream::connect(&path).await.unwrap());
    client.expect("421 4.3.2").await;
    client.expect_close().await;
}

#[tokio::test(start_paused = true)]
async fn each_refusal_is_an_event_of_its_own() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let guard = Guard::new().sessions(0).on_event(move |event| {
        let _ = tell.send((event.client(), event.stage(), event.refused()));
    });
    let (server, guard) = guarded(guard);
    for _ in 0..5 {
        refusal(&connect(&server, CLIENT).await.1);
    }
    advance(61 * SECOND).await;
    let _ = connect(&server, OTHER).await;
    advance(61 * SECOND).await;
    guard.reload(&Guard::new());
    let _ = connect(&server, ([192, 0, 2, 3], 1)).await;
    let mut events = Vec::new();
    for _ in 0..5 {
        events.push(told.recv().await.unwrap());
    }
    sleep(SECOND).await;
    assert!(told.try_recv().is_err());
    events.sort_by_key(|(client, ..)| *client);
    assert_eq!(
        events,
        [
            (key(CLIENT), GuardStage::Began, 1),
            (key(CLIENT), GuardStage::Continued, 4),
            (key(CLIENT), GuardStage::Ended, 0),
            (key(OTHER), GuardStage::Began, 1),
            (key(OTHER), GuardStage::Ended, 0),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_is_held_back_keeps_a_session_whose_client_is_gone() {
    let (server, _) = guarded(Guard::off());
    let commands = "FROBNICATE\r\n".repeat(15);
    let (mut client, _) = connect(&server, CLIENT).await;
    client.send(&commands).await;
    settle().await;
    let begun = Instant::now();
    let session = client.take_session();
    drop(client);
    // It notices when it writes the next reply.
    session.await.unwrap();
    assert!(begun.elapsed() <= 2 * SECOND, "{:?}", begun.elapsed());

    let (mut client, _) = connect(&server, CLIENT).await;
    client.send(&commands).await;
    for _ in 0..10 {
        client.expect("500").await;
    }
    let begun = Instant::now();
    server.handle().shutdown(Duration::ZERO).await;
    client.expect("421 4.3.2").await;
    assert!(begun.elapsed() <= SECOND, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_login_that_the_guard_refuses_seems_refused_by_the_protocol() {
    let rate = smtpd_tower::limiter::Rate::per_hour(1).unwrap();
    let (server, _) = with_auth(Guard::new().failed_logins(rate));
    let (told, mut origins) = mpsc::unbounded_channel();
    let server = server.on_reply(move |_, answered| {
        let code = answered.reply().code().as_u16();
        let _ = told.send((code, answered.origin(), answered.is_failed_login()));
    });
    let mut client = refused_login(&server).await;
    client.expect("454 4.7.0").await;
    quit(client).await;
    assert_eq!(origins.recv().await, Some((535, Origin::Protocol, true)));
    assert_eq!(origins.recv().await, Some((454, Origin::Guard, false)));
}

#[tokio::test(start_paused = true)]
async fn a_client_is_refused_because_the_server_was_full() {
    let two = smtpd_tower::limiter::Rate::per_hour(2).unwrap();
    let (server, guard) = guarded(Guard::new().idle_sessions(two).new_sessions(two));
    let server = server.max_sessions(1);
    let (first, _) = connect(&server, OTHER).await;
    for _ in 0..5 {
        let (_, reply) = connect(&server, CLIENT).await;
        assert!(reply.starts_with("421 4.3.2 "), "{reply}");
    }
    quit(first).await;
    let (_, reply) = connect(&server, CLIENT).await;
    assert!(reply.starts_with("220 "), "{reply}");
    assert_eq!(guard.stats().total(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_filter_that_names_its_client_in_two_steps_is_counted_itself() {
    let (server, guard) = guarded(Guard::new());
    let server = server.xclient_from(TrustedPeers::parse(["10.0.0.1"]).unwrap());
    let (mut client, _) = connect(&server, PROXY).await;
    client.cmd("EHLO c", "250").await;
    client.cmd("XCLIENT NAME=mail.test", "220").await;
    assert_eq!(guard.counted_sessions(), 0);
    client.cmd("XCLIENT ADDR=192.0.2.1", "220").await;
    assert_eq!(guard.counted_sessions(), 1);
    quit(client).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_delivers_by_lmtp_is_refused_for_what_its_clients_send() {
    let one = smtpd_tower::limiter::Rate::per_hour(1).unwrap();
    let (server, _) = guarded(Guard::new().new_sessions(one).sessions(1));
    let server = server.profile(smtpd_tower::Profile::Lmtp);
    let mut sessions = Vec::new();
    for _ in 0..3 {
        let (client, reply) = connect(&server, CLIENT).await;
        assert!(reply.starts_with("220 "), "{reply}");
        sessions.push(client);
    }
}
