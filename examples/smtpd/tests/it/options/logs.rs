//! What is logged, and how.

use std::fs;

use super::{message, said, start_with_log, terminate};

/// The log of a server that has stored one message and ended in order.
async fn log_of(options: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let server = start_with_log(&log, options);
    let said = said(&server, "smtp", &message("x\r\n")).await;
    assert!(said.contains("\r\n354 "), "{said}");
    terminate(server).await;
    fs::read_to_string(log).unwrap()
}

/// What the lines of a log are about. A session may end after the server has begun to shut down.
fn assert_lines(log: &str, expected: &[&str]) {
    for words in expected {
        let is_it = |line: &str| words.split(' ').all(|word| line.contains(word));
        assert!(log.lines().any(is_it), "{words} in {log}");
    }
    assert_eq!(log.lines().count(), expected.len(), "{log}");
}

pub(super) async fn log_format() {
    let text = log_of(&["--log-format=text"]).await;
    let message = "msg=message from=a@example.com to=b@example.org size=";
    assert_lines(
        &text,
        &[
            message,
            "msg=session listener=127.0.0.1: peer=127.0.0.1: messages=1 refused=0 end=quit",
            "msg=\"shutting down",
        ],
    );
    let json = log_of(&["--log-format=json"]).await;
    let message = "\"message\":\"message\" \"from\":\"a@example.com\" \"to\":\"b@example.org\"";
    let session = "\"message\":\"session\" \"peer\":\"127.0.0.1: \"messages\":1 \"end\":\"quit\"";
    assert_lines(&json, &[message, session, "\"message\":\"shutting"]);
    assert!(
        json.lines()
            .all(|line| line.starts_with('{') && line.ends_with('}'))
    );
}

pub(super) async fn log_level() {
    let default = log_of(&[]).await;
    assert_lines(&default, &["msg=message", "msg=session", "msg=\"shutting"]);
    for (level, command) in [("trace", true), ("info", false)] {
        let log = log_of(&[&format!("--log-level={level}")]).await;
        assert!(log.contains(" level=info "), "{log}");
        assert_eq!(log.contains("MAIL FROM:<a@example.com>"), command, "{log}");
    }
    for level in ["off", "error", "warn"] {
        let log = log_of(&[&format!("--log-level={level}")]).await;
        assert_eq!(log, "", "{level}");
    }
}

pub(super) async fn quiet() {
    assert_eq!(log_of(&["--quiet"]).await, "");
    assert_ne!(log_of(&["--quiet=false"]).await, "");
}
