//! From the greeting to an open session.

use super::*;
use crate::protocol::Protocol;

#[track_caller]
fn opens(config: ClientConfig, dialog: &str, reason: &str) {
    expect(config, &[], dialog, &[], reason);
}

fn with_password() -> ClientConfig {
    config().account(Account::password("alice", "secret").unwrap())
}

const HELLO: &str = "
    S: 220 mx.example ESMTP
    C: EHLO me.example
";

#[test]
fn a_session_opens_and_ends() {
    opens(
        config(),
        &format!(
            "{HELLO}
        S: 250-mx.example
        S: 250 PIPELINING
        C: QUIT
        S: 221 Bye"
        ),
        "quit",
    );
    opens(
        config().protocol(Protocol::Lmtp),
        "
        S: 220-mx.example
        S: 220 LMTP
        C: LHLO me.example
        S: 250 mx.example
        C: QUIT
        S: 221 Bye",
        "quit",
    );
}

#[test]
fn a_server_that_does_not_know_ehlo_is_greeted_with_helo() {
    opens(
        config(),
        &format!(
            "{HELLO}
        S: 502 What?
        C: HELO me.example
        S: 250 mx.example
        C: QUIT
        S: 221 Bye"
        ),
        "quit",
    );
    opens(
        config(),
        &format!(
            "{HELLO}
        S: 502 What?
        C: HELO me.example
        S: 504 No
        C: QUIT
        S: 221 Bye"
        ),
        "EHLO refused: 504 5.0.0 No",
    );
    opens(
        config().protocol(Protocol::Lmtp),
        "
        S: 220 mx.example SMTP
        C: LHLO me.example
        S: 502 What?
        C: QUIT
        S: 221 Bye",
        "EHLO refused: 502 5.0.0 What?",
    );
}

#[test]
fn a_greeting_that_refuses_is_answered_with_quit() {
    opens(
        config(),
        "
        S: 554 5.3.2 No mail here
        C: QUIT
        S: 221 Bye",
        "greeting refused: 554 5.3.2 No mail here",
    );
    opens(
        config(),
        "
        S: 450 Later
        C: QUIT
        ! lost",
        "greeting refused: 450 4.0.0 Later",
    );
    opens(
        config(),
        "
        S: 450 Later
        C: QUIT
        ! timeout",
        "greeting refused: 450 4.0.0 Later",
    );
    opens(config(), "S: 421 Busy", "greeting refused: 421 4.0.0 Busy");
    opens(
        config(),
        "S: 521 5.3.2 No",
        "greeting refused: 521 5.3.2 No",
    );
    opens(
        config(),
        "S: 354 Go",
        "impossible reply to greeting: 354 Go",
    );
}

#[test]
fn what_was_offered_in_plaintext_is_forgotten_within_tls() {
    opens(
        config(),
        &format!(
            "{HELLO}
        S: 250-mx.example
        S: 250-STARTTLS
        S: 250 CHUNKING
        C: STARTTLS
        S: 220 Go
        ! tls
        C: EHLO me.example
        S: 250 mx.example
        C: QUIT
        S: 221 Bye"
        ),
        "quit",
    );
    let mut client = Client::new(Arc::new(config()));
    let mut input = BytesMut::from("220 a\r\n250-a\r\n250-CHUNKING\r\n250 STARTTLS\r\n220 b\r\n");
    for _ in 0..10 {
        let now = Instant::now();
        let mut none = BytesMut::new();
        let used = match input.iter().position(|&byte| byte == b'\n') {
            _ if client.capabilities().has("CHUNKING") => &mut input,
            Some(lf) => &mut { input.split_to(lf + 1) },
            None => &mut none,
        };
        match client.poll(now, used) {
            Step::Write(mut writing) => writing.wrote(writing.bytes().len(), now),
            Step::Handshake(wait) => {
                wait.done(&mut BytesMut::new(), TlsFacts::default());
                assert_eq!(client.capabilities(), &Capabilities::default());
                return assert!(client.is_tls());
            }
            _ => {}
        }
    }
    panic!("no handshake");
}

#[test]
fn plaintext_after_starttls_never_counts_as_sent_within_tls() {
    let start = format!(
        "{HELLO}
        S: 250-mx.example
        S: 250 STARTTLS
        C: STARTTLS
    "
    );
    let injected = "plaintext after the reply to STARTTLS";
    opens(
        config(),
        &format!("{start}S| 220 Go\\r\\n250 injected\\r\\n"),
        injected,
    );
    opens(config(), &format!("{start}S| 220 Go\\r\\n2"), injected);
    opens(
        config(),
        &format!("{start}S: 220 Go\nS: 250 injected"),
        injected,
    );
    opens(
        config(),
        &format!("{start}S: 220 Go\n! tls failed"),
        "TLS handshake failed",
    );
    opens(
        config(),
        &format!("{start}S: 220 Go\n! lost"),
        "connection lost at TLS handshake",
    );
    opens(
        config(),
        &format!("{start}S: 220 Go\n! timeout"),
        "no progress in time at TLS handshake",
    );
}

#[test]
fn a_driver_that_reads_plaintext_before_the_handshake_is_no_way_in() {
    let mut client = Client::with_tls(Arc::new(config()));
    let mut input = BytesMut::new();
    let Step::Handshake(wait) = client.poll(Instant::now(), &mut input) else {
        panic!("no handshake");
    };
    input.extend_from_slice(b"220 mx.example\r\n");
    wait.done(&mut input, TlsFacts::default());
    let Step::Closed(reason) = client.poll(Instant::now(), &mut input) else {
        panic!("it goes on");
    };
    assert_eq!(
        reason.fault(),
        Some(&Fault::Protocol(ProtocolFault::Injected))
    );
}

#[test]
fn tls_is_never_done_without_when_it_is_required() {
    let required = || config().start_tls(StartTls::Require);
    opens(
        required(),
        &format!(
            "{HELLO}
        S: 250 mx.example
        C: QUIT
        S: 221 Bye"
        ),
        "TLS is required but not offered",
    );
    opens(
        required(),
        &format!(
            "{HELLO}
        S: 502 What?
        C: HELO me.example
        S: 250 STARTTLS
        C: QUIT
        S: 221 Bye"
        ),
        "TLS is required but not offered",
    );
    let refused = "
        S: 250-mx.example
        S: 250 STARTTLS
        C: STARTTLS
        S: 454 4.7.0 Not now";
    opens(
        required(),
        &format!(
            "{HELLO}{refused}
        C: QUIT
        S: 221 Bye"
        ),
        "STARTTLS refused: 454 4.7.0 Not now",
    );
    opens(
        config(),
        &format!(
            "{HELLO}{refused}
        C: QUIT
        S: 221 Bye"
        ),
        "quit",
    );
    opens(
        config().start_tls(StartTls::Never),
        &format!(
            "{HELLO}
        S: 250-mx.example
        S: 250 STARTTLS
        C: QUIT
        S: 221 Bye"
        ),
        "quit",
    );
}

const TLS: &str = "
    S: 220 mx.example ESMTP
    C: EHLO me.example
    S: 250-mx.example
    S: 250-AUTH PLAIN
    S: 250 STARTTLS
    C: STARTTLS
    S: 220 Go
    ! tls
    C: EHLO me.example
";

#[test]
fn a_password_is_sent_within_tls_alone() {
    opens(
        with_password(),
        &format!(
            "{TLS}
        S: 250-mx.example
        S: 250 AUTH PLAIN
        C: AUTH PLAIN AGFsaWNlAHNlY3JldA==
        S: 235 2.7.0 Ok
        C: QUIT
        S: 221 Bye"
        ),
        "quit",
    );
    opens(
        with_password(),
        &format!(
            "{HELLO}
        S: 250-mx.example
        S: 250 AUTH PLAIN LOGIN
        C: QUIT
        S: 221 Bye"
        ),
        "no usable mechanism of authentication",
    );
    opens(
        with_password(),
        &format!(
            "{HELLO}
        S: 250 mx.example
        C: QUIT
        S: 221 Bye"
        ),
        "no usable mechanism of authentication",
    );
}

#[test]
fn login_in_two_steps() {
    opens(
        with_password(),
        &format!(
            "{TLS}
        S: 250-mx.example
        S: 250 AUTH LOGIN
        C: AUTH LOGIN
        S: 334 VXNlcm5hbWU6
        C: YWxpY2U=
        S: 334 UGFzc3dvcmQ6
        C: c2VjcmV0
        S: 235 2.7.0 Ok
        C: QUIT
        S: 221 Bye"
        ),
        "quit",
    );
}

#[test]
fn refused_credentials_end_the_session() {
    opens(
        with_password(),
        &format!(
            "{TLS}
        S: 250-mx.example
        S: 250 AUTH PLAIN
        C: AUTH PLAIN AGFsaWNlAHNlY3JldA==
        S: 535 5.7.8 No
        C: QUIT
        S: 221 Bye"
        ),
        "AUTH refused: 535 5.7.8 No",
    );
}

#[test]
fn a_server_that_skips_the_exchange_is_not_believed() {
    let start = format!(
        "{TLS}
        S: 250-mx.example
        S: 250 AUTH LOGIN
        C: AUTH LOGIN
    "
    );
    let bad = "the server did not prove who it is";
    opens(
        with_password(),
        &format!(
            "{start}
        S: 235 2.7.0 Come in
        C: QUIT
        S: 221 Bye"
        ),
        bad,
    );
    opens(
        with_password(),
        &format!(
            "{start}
        S: 334 not base64
        C: *
        S: 501 Cancelled
        C: QUIT
        S: 221 Bye"
        ),
        bad,
    );
    opens(
        with_password(),
        &format!(
            "{start}
        S: 334 not base64
        C: *
        S: 334 again"
        ),
        "impossible reply to AUTH: 334 again",
    );
}

#[test]
fn an_initial_response_that_is_too_long_waits_for_a_challenge() {
    let token = "t".repeat(500);
    let account = || config().account(Account::token("alice", token.clone()).unwrap());
    let response = base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD,
        format!("user=alice\x01auth=Bearer {token}\x01\x01"),
    );
    let start = format!(
        "{TLS}
        S: 250-mx.example
        S: 250 AUTH XOAUTH2
        C: AUTH XOAUTH2
    "
    );
    opens(
        account(),
        &format!(
            "{start}
        S| 334 \\r\\n
        C: {response}
        S: 235 2.7.0 Ok
        C: QUIT
        S: 221 Bye"
        ),
        "quit",
    );
    // The error in JSON has to be acknowledged.
    opens(
        account(),
        &format!(
            "{start}
        S: 334
        C: {response}
        S: 334 eyJzdGF0dXMiOiI0MDEifQ==
        C:\u{20}
        S: 535 5.7.8 No
        C: QUIT
        S: 221 Bye"
        ),
        "AUTH refused: 535 5.7.8 No",
    );
    opens(
        account(),
        &format!(
            "{start}
        S: 334 AAAA
        C: *
        S: 501 Cancelled
        C: QUIT
        S: 221 Bye"
        ),
        "the server did not prove who it is",
    );
}

#[test]
fn an_idle_session_quits_and_notices_that_the_server_leaves() {
    let open = format!("{HELLO}\nS: 250 mx.example\n");
    opens(config(), &format!("{open}! early"), "waits");
    opens(
        config(),
        &format!(
            "{open}! timeout
        C: QUIT
        S: 221 Bye"
        ),
        "quit",
    );
    opens(
        config(),
        &format!("{open}S: 421 4.4.2 Idle for too long"),
        "session closed by the server: 421 4.4.2 Idle for too long",
    );
    opens(
        config(),
        &format!("{open}! lost"),
        "connection lost at idle",
    );
    opens(
        config(),
        &format!("{open}S: 250 What?"),
        "unexpected reply: 250 2.0.0 What?",
    );
    opens(
        config(),
        &format!(
            "{open}! quit
        C: QUIT
        ! lost"
        ),
        "quit",
    );
    opens(config(), &format!("{open}! abort"), "aborted");
}

#[test]
fn debug_shows_neither_secrets_nor_messages() {
    let mut client = Client::with_tls(Arc::new(with_password()));
    let (mut input, now) = (BytesMut::new(), Instant::now());
    let Step::Handshake(wait) = client.poll(now, &mut input) else {
        panic!("no handshake");
    };
    wait.done(&mut input, TlsFacts::default());
    input.extend_from_slice(b"220 a\r\n");
    if let Step::Write(mut writing) = client.poll(now, &mut input) {
        writing.wrote(writing.bytes().len(), now);
    }
    input.extend_from_slice(b"250-a\r\n250 AUTH PLAIN\r\n");
    let Step::Write(writing) = client.poll(now, &mut input) else {
        panic!("no AUTH");
    };
    assert!(writing.bytes().starts_with(b"AUTH PLAIN AGFsaWNl"));
    let shown = format!("{client:?}");
    for secret in ["secret", "AGFsaWNl", "c2VjcmV0"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn commands_of_the_caller_are_sent_and_their_replies_are_returned() {
    let open = format!("{HELLO}\nS: 250 CHUNKING\n");
    let replied = |dialog: &str, replies: &[&str], reason: &str| {
        expect(config(), &[], &format!("{open}{dialog}"), replies, reason);
    };
    replied(
        "! vrfy
        C: VRFY postmaster
        S: 252 2.1.5 Maybe
        ! noop
        C: NOOP
        S: 500 What?
        ! quit
        C: QUIT
        S: 221 Bye",
        &["replied: 252 2.1.5 Maybe"],
        "quit",
    );
    // The session starts anew.
    replied(
        "! xclient
        C: XCLIENT ADDR=192.0.2.1
        S: 220 Hello again
        C: EHLO me.example
        S: 250 mx.example
        ! quit
        C: QUIT
        S: 221 Bye",
        &["replied: 220 2.0.0 Hello again"],
        "quit",
    );
    replied(
        "! xclient
        C: XCLIENT ADDR=192.0.2.1
        S: 550 5.7.0 No
        ! quit
        C: QUIT
        S: 221 Bye",
        &["replied: 550 5.7.0 No"],
        "quit",
    );
    let lost = "connection lost at command";
    replied("! vrfy\nC: VRFY postmaster\n! lost", &[], lost);
}
