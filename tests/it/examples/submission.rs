//! Submission, with lettre as the client.

#[path = "../../../examples/submission.rs"]
#[allow(dead_code, reason = "`main` is not called here")]
mod example;

use lettre::{
    SmtpTransport, Transport,
    address::Envelope,
    transport::smtp::{
        authentication::Credentials,
        client::{Tls, TlsParameters},
    },
};
use smtpd_tower::{deliver::Maildir, limiter::Rate, test::Running};
use support::pki::Issued;
use tokio::task::spawn_blocking;

use super::Example;

/// Sends a message by lettre; the error is the code of the reply that refused it.
fn submit(port: u16, tls: Tls, [user, password, sender]: [&str; 3]) -> Result<(), u16> {
    let transport = SmtpTransport::builder_dangerous("localhost")
        .port(port)
        .tls(tls)
        .credentials(Credentials::new(user.to_owned(), password.to_owned()))
        .build();
    let recipient = "you@example.com".parse().unwrap();
    let envelope = Envelope::new(Some(sender.parse().unwrap()), vec![recipient]).unwrap();
    let sent = transport.send_raw(&envelope, b"Subject: hi\r\n\r\nHello");
    sent.map(drop)
        .map_err(|error| error.status().expect("a reply").into())
}

fn trusting() -> TlsParameters {
    TlsParameters::builder("localhost".to_owned())
        .dangerous_accept_invalid_certs(true)
        .build_rustls()
        .unwrap()
}

const ALICE: [&str; 3] = ["alice", "wonderland", "alice@example.org"];
const BOB: [&str; 3] = ["bob", "builder", "bob@example.org"];

#[tokio::test]
async fn by_its_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = Issued::alone("localhost").write(dir.path());
    let arguments = [&certificate, &key].map(|path| path.to_str().unwrap());
    let example = Example::start("submission", &[&["127.0.0.1:0"], &arguments[..]].concat());
    let starttls = example.address.port();
    let line = example.line_with("TLS from the first byte on ");
    let implicit = line.rsplit_once(':').unwrap().1.parse().unwrap();

    let outbox = example.dir.path().join("outbox/new");
    let table = [
        (starttls, Tls::Required(trusting()), ALICE, Ok(())),
        (implicit, Tls::Wrapper(trusting()), BOB, Ok(())),
        (
            starttls,
            Tls::Required(trusting()),
            ["alice", "builder", "alice@example.org"],
            Err(535),
        ),
        (
            starttls,
            Tls::Required(trusting()),
            ["eve", "", "eve@example.org"],
            Err(535),
        ),
        (
            implicit,
            Tls::Wrapper(trusting()),
            ["alice", "wonderland", "bob@example.org"],
            Err(550),
        ),
        (
            implicit,
            Tls::Wrapper(trusting()),
            ["alice", "wonderland", "alice@example.net"],
            Err(550),
        ),
    ];
    for (port, tls, who, expected) in table {
        let sent = spawn_blocking(move || submit(port, tls, who))
            .await
            .unwrap();
        assert_eq!(sent, expected, "{who:?}");
    }
    assert_eq!(std::fs::read_dir(outbox).unwrap().count(), 2);

    let mut client = example.client().await;
    client
        .cmd("MAIL FROM:<alice@example.org>", "530 5.7.0")
        .await;
}

#[tokio::test]
async fn each_user_has_a_quota() {
    let dir = tempfile::tempdir().unwrap();
    let tls = Issued::alone("localhost").tls();
    let outbox = Maildir::new(dir.path().join("outbox"));
    let server = example::server(tls, Rate::per_hour(2).unwrap(), outbox).unwrap();
    let running = Running::start(server).await.unwrap();
    let port = running.address().port();
    for (who, expected) in [
        (ALICE, Ok(())),
        (ALICE, Ok(())),
        (ALICE, Err(450)),
        (BOB, Ok(())),
    ] {
        let send = move || submit(port, Tls::Required(trusting()), who);
        assert_eq!(spawn_blocking(send).await.unwrap(), expected);
    }
}
