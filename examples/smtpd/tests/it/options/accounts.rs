//! Who may send mail, and how users authenticate.

use super::{Reference, announced, codes_of, greeted, said, start};

/// alice with `secret`, and with `wrong`.
const RIGHT: &str = "AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n";
const WRONG: &str = "AUTH PLAIN AGFsaWNlAHdyb25n\r\n";

async fn auth(server: &Reference, commands: &str) -> Vec<String> {
    let replies = codes_of(server, &format!("EHLO c\r\n{commands}QUIT\r\n")).await;
    assert_eq!(replies[..2], ["220", "250"]);
    replies[2..].to_vec()
}

pub(super) async fn user() {
    let server = start(&[
        "--user=alice:secret",
        "--user=bob:other",
        "--allow-plaintext-auth",
    ]);
    assert_eq!(auth(&server, RIGHT).await, ["235", "221"]);
    assert_eq!(auth(&server, WRONG).await, ["535", "221"]);
    // bob with `other`
    let bob = "AUTH PLAIN AGJvYgBvdGhlcg==\r\n";
    assert_eq!(auth(&server, bob).await, ["235", "221"]);
}

pub(super) async fn users() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users");
    // Of the password `secret`, with parameters that cost next to nothing.
    let hash = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$L1qnTgpsWMa/dMHjDHhQFw";
    std::fs::write(&file, format!("alice:{hash}\n")).unwrap();
    let file = format!("--users={}", file.display());
    let server = start(&[&file, "--allow-plaintext-auth"]);
    assert_eq!(auth(&server, RIGHT).await, ["235", "221"]);
    assert_eq!(auth(&server, WRONG).await, ["535", "221"]);
}

pub(super) async fn oauth_token() {
    let server = start(&["--oauth-token=alice:token-a", "--allow-plaintext-auth"]);
    // user=alice^Aauth=Bearer token-a^A^A, and the same with token-b
    let right = "AUTH XOAUTH2 dXNlcj1hbGljZQFhdXRoPUJlYXJlciB0b2tlbi1hAQE=\r\n";
    let wrong = "AUTH XOAUTH2 dXNlcj1hbGljZQFhdXRoPUJlYXJlciB0b2tlbi1iAQE=\r\n\r\n";
    assert_eq!(auth(&server, right).await, ["235", "221"]);
    assert_eq!(auth(&server, wrong).await, ["334", "535", "221"]);
}

pub(super) async fn auth_mechanisms() {
    let server = start(&[
        "--user=alice:secret",
        "--auth-mechanisms=LOGIN,CRAM-MD5",
        "--allow-plaintext-auth",
    ]);
    let announced = announced(&server, "smtp").await;
    assert!(
        announced.contains("250 AUTH LOGIN CRAM-MD5\r\n"),
        "{announced}"
    );
    assert_eq!(auth(&server, RIGHT).await, ["504", "221"]);
    let login = "AUTH LOGIN\r\nYWxpY2U=\r\nc2VjcmV0\r\n";
    assert_eq!(auth(&server, login).await, ["334", "334", "235", "221"]);
}

pub(super) async fn require_auth() {
    let users = ["--user=alice:secret", "--allow-plaintext-auth"];
    let mail = "MAIL FROM:<a@example.com>\r\n";
    for (options, reply) in [
        (&[][..], "250"),
        (&["--require-auth=false"], "250"),
        (&["--require-auth"], "530"),
    ] {
        let server = start(&[&users[..], options].concat());
        assert_eq!(auth(&server, mail).await, [reply, "221"], "{options:?}");
        let authenticated = auth(&server, &format!("{RIGHT}{mail}")).await;
        assert_eq!(authenticated, ["235", "250", "221"], "{options:?}");
    }
}

/// At every listener, that for LMTP too.
pub(super) async fn allow_plaintext_auth() {
    let listeners = ["--listen=127.0.0.1:0", "--listen-lmtp=127.0.0.1:0"];
    for (options, offer) in [
        (&[][..], "250 AUTH CRAM-MD5 SCRAM-SHA-256 SCRAM-SHA-1\r\n"),
        (
            &["--allow-plaintext-auth"],
            "250 AUTH PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256 SCRAM-SHA-1\r\n",
        ),
    ] {
        let options = [&listeners[..], &["--user=alice:secret"], options].concat();
        let server = Reference::start(2, &options);
        for (listener, hello) in [("smtp", "EHLO"), ("lmtp", "LHLO")] {
            let said = said(&server, listener, &format!("{hello} c\r\n{RIGHT}QUIT\r\n")).await;
            assert!(said.contains(offer), "{options:?} {listener}: {said}");
            let is_accepted = said.contains("\r\n235 ");
            assert_eq!(is_accepted, offer.contains("PLAIN"), "{listener}: {said}");
        }
    }
}

pub(super) async fn max_auth_failures() {
    let server = start(&[
        "--user=alice:secret",
        "--allow-plaintext-auth",
        "--max-auth-failures=2",
    ]);
    let mut client = greeted(&server, "smtp").await;
    client.cmd("EHLO c", "250").await;
    client.cmd(WRONG.trim_end(), "535").await;
    client.cmd(WRONG.trim_end(), "421").await;
    client.expect_close().await;
}
