//! What a client is offered, and what it receives, at a listener of each profile: before TLS, within it, and after AUTH.

use std::time::Duration;

use smtpd_tower::{
    Auth, Data, Pipeline, Profile, Rcpt, Reply, Request, Secret, Server,
    deliver::Inbox,
    domains::Domains,
    handler_fn,
    layer::SubmissionFieldsLayer,
    router::Router,
    sasl::{CramMd5, Mechanisms},
};
use support::{pki::Issued, *};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    client::TlsStream,
    rustls::{self, ClientConfig},
};
use tower::ServiceBuilder;

const ALICE: &str = "AUTH PLAIN AGFsaWNlAHNlY3JldA==";

/// A server with users that accepts mail for everyone, and the TLS settings of a client that trusts it.
fn server_and_client() -> (Server, ClientConfig) {
    let issued = Issued::alone("mx.test");
    let server = Server::new("mx.test", with_users())
        .configure(|config| config.mechanisms(Mechanisms::default().with(CramMd5)))
        .tls(issued.tls())
        .domains(Domains::parse(["example.org"]).unwrap());
    (server, issued.client(rustls::DEFAULT_VERSIONS))
}

fn with_users() -> Pipeline {
    let auth = handler_fn(async |_: Request<Auth>| Secret::password("secret"));
    pipeline(async |request: Request<Data>| request.into_body().collect().await.map(|_| Reply::OK))
        .auth(auth)
}

async fn handshake<IO: AsyncRead + AsyncWrite + Unpin>(
    io: IO,
    config: &ClientConfig,
) -> Client<TlsStream<IO>> {
    pki::handshake(io, config, "mx.test").await.unwrap()
}

/// Returns the keywords of TLS and AUTH in the reply to EHLO or LHLO.
async fn offer<IO: AsyncRead + AsyncWrite + Unpin>(
    client: &mut Client<IO>,
    verb: &str,
) -> Vec<String> {
    let answer = client.cmd(&format!("{verb} c.test"), "250").await;
    let keywords = answer.lines().filter_map(|line| line.get(4..));
    keywords
        .filter(|keyword| keyword.starts_with("AUTH") || *keyword == "STARTTLS")
        .map(str::to_owned)
        .collect()
}

/// Sends each line, and expects a reply that begins like this.
async fn talk<IO: AsyncRead + AsyncWrite + Unpin>(client: &mut Client<IO>, lines: &[[&str; 2]]) {
    for [line, reply] in lines {
        client.cmd(line, reply).await;
    }
}

fn listener(server: &Server, profile: Profile) -> Client<DuplexStream> {
    Client::connect(&server.clone().profile(profile))
}

const FROM: &str = "MAIL FROM:<alice@example.org>";

#[tokio::test]
async fn mx_takes_mail_for_its_domains_and_no_passwords() {
    let (server, config) = server_and_client();
    let mut client = listener(&server, Profile::Mx);
    client.expect("220").await;
    let for_its_domains = [
        [ALICE, "50"],
        [FROM, "250"],
        ["RCPT TO:<user@example.com>", "550 5.7.1"],
        ["RCPT TO:<user@Example.Org>", "250"],
        ["RCPT TO:<postmaster>", "250"],
        ["RSET", "250"],
    ];
    assert_eq!(offer(&mut client, "EHLO").await, ["STARTTLS"]);
    talk(&mut client, &for_its_domains).await;
    client.cmd("STARTTLS", "220").await;
    let mut client = handshake(client.into_io(), &config).await;
    assert!(offer(&mut client, "EHLO").await.is_empty());
    talk(&mut client, &for_its_domains).await;
}

#[tokio::test]
async fn submission_takes_nothing_before_tls_and_no_mail_before_auth() {
    let (server, config) = server_and_client();
    let mut client = listener(&server, Profile::Submission);
    client.expect("220").await;
    // Not even the mechanisms that show no password.
    assert_eq!(offer(&mut client, "EHLO").await, ["STARTTLS"]);
    let tls_first = "530 5.7.0 Must issue a STARTTLS command first";
    talk(
        &mut client,
        &[
            [FROM, tls_first],
            [ALICE, tls_first],
            ["AUTH CRAM-MD5", tls_first],
            ["STARTTLS", "220"],
        ],
    )
    .await;
    let mut client = handshake(client.into_io(), &config).await;
    users_only(&mut client).await;
}

#[tokio::test]
async fn submissions_begin_with_tls() {
    let (server, config) = server_and_client();
    let io = listener(&server, Profile::Submissions).into_io();
    let mut client = handshake(io, &config).await;
    client.expect("220").await;
    users_only(&mut client).await;
}

/// Within TLS.
async fn users_only<IO: AsyncRead + AsyncWrite + Unpin>(client: &mut Client<IO>) {
    assert_eq!(offer(client, "EHLO").await, ["AUTH PLAIN LOGIN CRAM-MD5"]);
    talk(
        client,
        &[
            [FROM, "530 5.7.0 Authentication required"],
            ["RCPT TO:<a@b.test>", "530 5.7.0 Authentication required"],
            [ALICE, "235"],
            [FROM, "250"],
            ["RCPT TO:<user@example.com>", "250"],
            ["DATA", "354"],
            ["Hello\r\n.", "250"],
        ],
    )
    .await;
    assert!(offer(client, "EHLO").await.is_empty());
}

#[tokio::test]
async fn lmtp_offers_tls_and_requires_neither_tls_nor_auth() {
    let (server, _) = server_and_client();
    let mut client = listener(&server, Profile::Lmtp);
    client.expect("220 mx.test smtpd LMTP").await;
    client.cmd("EHLO c.test", "500").await;
    let offered = offer(&mut client, "LHLO").await;
    assert_eq!(offered, ["STARTTLS", "AUTH CRAM-MD5"]);
    talk(
        &mut client,
        &[
            [ALICE, "538"],
            [FROM, "250"],
            ["RCPT TO:<user@example.com>", "250"],
            ["DATA", "354"],
            ["Hello\r\n.", "250"],
        ],
    )
    .await;
}

#[tokio::test]
async fn what_is_said_after_the_profile_goes_before_it() {
    let (server, _) = server_and_client();
    let server = server.profile(Profile::Submission);
    let behind_a_proxy = server
        .clone()
        .configure(|config| config.require_tls(false).allow_insecure_auth(true));
    let mut client = Client::greeted(&behind_a_proxy).await;
    assert_eq!(
        offer(&mut client, "EHLO").await,
        ["STARTTLS", "AUTH PLAIN LOGIN CRAM-MD5"]
    );
    talk(&mut client, &[[FROM, "530"], [ALICE, "235"], [FROM, "250"]]).await;

    let open = server.configure(|config| config.require_tls(false).require_auth(false));
    let mut client = Client::greeted(&open).await;
    assert_eq!(
        offer(&mut client, "EHLO").await,
        ["STARTTLS", "AUTH CRAM-MD5"]
    );
    talk(&mut client, &[[FROM, "250"]]).await;
}

#[tokio::test]
async fn a_profile_that_lacks_something_serves_nobody() {
    let users = || server(with_users());
    let nobody = || server(accept_rcpt());
    for (server, profile) in [
        (nobody(), Profile::Mx),
        (nobody(), Profile::Submission),
        (users(), Profile::Submission),
        (users(), Profile::Submissions),
    ] {
        let server = server.profile(profile);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let error = server.serve(listener).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{profile}");
        Client::connect(&server).expect_close().await;
    }
}

#[tokio::test]
async fn listeners_of_one_server_have_their_own_profiles_and_pipelines_and_one_end() {
    let (server, config) = server_and_client();
    let answer = |text| handler_fn(move |_: Request<Rcpt>| async move { Reply::ok(text) });
    let routed = with_users().rcpt(
        Router::new()
            .profile(Profile::Mx, answer("from a server"))
            .profile(Profile::Submissions, answer("from a user"))
            .otherwise(answer("else")),
    );
    let lists = Pipeline::new().rcpt(answer("to a list"));
    let server = server.pipeline(routed);
    let mut tasks = tokio::task::JoinSet::new();
    let mut addresses = Vec::new();
    for (profile, server) in [
        (Profile::Mx, server.clone()),
        (Profile::Submissions, server.clone()),
        (Profile::Lmtp, server.clone().pipeline(lists)),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.push(listener.local_addr().unwrap());
        tasks.spawn(server.profile(profile).serve(listener));
    }
    let connect = async |at: usize| TcpStream::connect(addresses[at]).await.unwrap();
    let to = |reply| [[FROM, "250"], ["RCPT TO:<a@example.org>", reply]];

    let mut mx = Client::over(connect(0).await);
    mx.expect("220").await;
    mx.cmd("EHLO c.test", "250").await;
    talk(&mut mx, &to("250 2.0.0 from a server")).await;

    let mut user = handshake(connect(1).await, &config).await;
    user.expect("220").await;
    talk(&mut user, &[["EHLO c.test", "250"], [ALICE, "235"]]).await;
    talk(&mut user, &to("250 2.0.0 from a user")).await;

    let mut lmtp = Client::over(connect(2).await);
    lmtp.expect("220").await;
    lmtp.cmd("LHLO c.test", "250").await;
    talk(&mut lmtp, &to("250 2.0.0 to a list")).await;

    assert_eq!(server.handle().sessions(), 3);
    server.handle().shutdown(Duration::ZERO).await;
    for rest in [mx.rest().await, user.rest().await, lmtp.rest().await] {
        assert!(rest[0].starts_with("421"), "{rest:?}");
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_submitted_message_gets_the_fields_that_it_lacks() {
    let inbox = Inbox::new();
    let data = ServiceBuilder::new()
        .layer(SubmissionFieldsLayer::new())
        .service(inbox.clone());
    let server = server(accept_rcpt().data(data));
    let mut client = Client::greeted(&server).await;
    client.begin().await;
    client.cmd("Subject: hi\r\n\r\nHello\r\n.", "250").await;
    client.envelope().await;
    let whole = "Message-ID: <1@a.test>\r\nDate: Sun, 22 Nov 2026 20:00:00 +0000\r\n\r\nHello\r\n";
    client.cmd("DATA", "354").await;
    client.cmd(&format!("{whole}."), "250").await;

    let first = inbox.next().await;
    let text = std::str::from_utf8(first.message()).unwrap();
    let lines: Vec<_> = text.split("\r\n").collect();
    assert!(
        lines[0].starts_with("Date: ") && lines[0].ends_with(" +0000"),
        "{text}"
    );
    assert!(
        lines[1].starts_with("Message-ID: <") && lines[1].ends_with("@mx.test>"),
        "{text}"
    );
    assert_eq!(lines[2..], ["Subject: hi", "", "Hello", ""]);
    assert_eq!(inbox.next().await.message(), whole);
}
