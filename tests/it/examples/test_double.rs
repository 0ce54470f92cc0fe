//! The server that misbehaves, with lettre in a program under test.

#[path = "../../../examples/test_double.rs"]
#[allow(dead_code, reason = "`main` is not called here")]
mod example;

use lettre::{SmtpTransport, Transport, address::Envelope};
use smtpd_tower::{deliver::Inbox, test::Running};
use tokio::task::spawn_blocking;

use super::Example;

/// A program under test: it retries deferred messages, and counts the retries.
fn send_until_taken(port: u16, message: &str) -> usize {
    let transport = SmtpTransport::builder_dangerous("127.0.0.1")
        .port(port)
        .build();
    let envelope = Envelope::new(
        Some("a@example.com".parse().unwrap()),
        vec!["b@example.org".parse().unwrap()],
    );
    let envelope = envelope.unwrap();
    for refused in 0.. {
        match transport.send_raw(&envelope, message.as_bytes()) {
            Ok(_) => return refused,
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    }
    unreachable!("it tries without end")
}

#[tokio::test]
async fn a_program_that_tries_again_loses_nothing_and_sends_nothing_twice() {
    let inbox = Inbox::new();
    let running = Running::start(example::server(inbox.clone()))
        .await
        .unwrap();
    let port = running.address().port();
    let messages: Vec<_> = (0..20).map(|number| format!("message {number}")).collect();
    let sent = messages.clone();
    let send = move || {
        sent.iter()
            .map(|message| send_until_taken(port, message))
            .sum::<usize>()
    };
    let refused = spawn_blocking(send).await.unwrap();
    assert!(refused > 5, "{refused}: nothing was tested");
    // Each of them, and none twice. lettre ends every message with CRLF.
    let taken = inbox.messages();
    let taken: Vec<_> = taken
        .iter()
        .map(|delivered| delivered.message().trim_ascii_end().to_vec())
        .collect();
    let sent: Vec<_> = messages.into_iter().map(String::into_bytes).collect();
    assert_eq!(taken, sent);
}

#[tokio::test]
async fn by_its_command_line() {
    let example = Example::start("test_double", &[]);
    let port = example.address.port();
    spawn_blocking(move || send_until_taken(port, "Hello"))
        .await
        .unwrap();
    example.line_with("accepted: 7 bytes");
}
