//! The test inbox: what its pages show, and what it does when it is full.

#[path = "../../../examples/test_inbox.rs"]
#[allow(dead_code, reason = "`main` is not called here")]
mod example;

use std::time::Duration;

use example::Inbox;
use serde_json::{Value, json};
use smtpd_tower::{Server, test::Client};
use tokio::{task::yield_now, time::Instant};

use super::{
    Example, send,
    web::{ask, fetch},
};

const HELLO: &str = "Subject: hi\r\n\r\nHello\r\n";

/// The code of the reply to a message that a new client sends.
async fn deliver(server: &Server, message: &str) -> u16 {
    let mut client = Client::connect(server);
    let sent = client.send("a@example.com", ["b@example.org"], message);
    sent.await.unwrap().code().as_u16()
}

fn json_of((status, body): (u16, String)) -> Value {
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

#[tokio::test]
async fn by_its_command_line() {
    let example = Example::start("test_inbox", &["127.0.0.1:0"]);
    let line = example.line_with("messages at ");
    let url = line.strip_prefix("messages at ").unwrap();
    assert_eq!(json_of(fetch("GET", url).await), json!([]));
    let mut client = example.client().await;
    send(&mut client, HELLO.trim_end(), "250 2.0.0 Queued as 1").await;
    let entry = json!({ "id": 1, "from": "sender@example.net", "to": ["user@example.org"], "size": HELLO.len() });
    assert_eq!(json_of(fetch("GET", url).await), json!([entry]));

    let next = format!("{url}/next?after=1");
    let later = async {
        send(
            &mut client,
            "Subject: more\r\n\r\nWords",
            "250 2.0.0 Queued as 2",
        )
        .await
    };
    let (next, _) = tokio::join!(fetch("GET", &next), later);
    assert_eq!(json_of(next)["subject"], "more");
    assert_eq!(fetch("DELETE", url).await.0, 204);
    assert_eq!(json_of(fetch("GET", url).await), json!([]));
}

#[tokio::test]
async fn a_message_is_shown_as_received_and_as_parsed() {
    let inbox = Inbox::new(10, 10_000);
    let (server, routes) = (example::server(inbox.clone()), example::routes(inbox));
    let message = "Subject: =?utf-8?q?gr=C3=BC=C3=9Fe?=\r\n\
        Content-Type: multipart/mixed; boundary=x\r\n\r\n\
        --x\r\nContent-Type: multipart/alternative; boundary=y\r\n\r\n\
        --y\r\nContent-Type: text/plain\r\n\r\nHello\r\n\
        --y\r\nContent-Type: text/html\r\n\r\n<p>Hello</p>\r\n--y--\r\n\
        --x\r\nContent-Disposition: attachment; filename=a.txt\r\n\r\nfile\r\n--x--\r\n";
    assert_eq!(deliver(&server, message).await, 250);
    let shown = json_of(ask(&routes, "GET", "/messages/1").await);
    assert_eq!(shown["subject"], "grüße");
    assert_eq!(shown["text"], "Hello");
    assert_eq!(shown["html"], "<p>Hello</p>");
    assert_eq!(shown["attachments"], json!(["a.txt"]));
    let raw = ask(&routes, "GET", "/messages/1/raw").await;
    assert_eq!(raw, (200, message.to_owned()));
    for path in ["/messages/2", "/messages/2/raw"] {
        assert_eq!(ask(&routes, "GET", path).await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn a_message_that_no_parser_may_read_is_still_there() {
    let inbox = Inbox::new(10, 1 << 20);
    let (server, routes) = (example::server(inbox.clone()), example::routes(inbox));
    let nested = "Content-Type: message/rfc822\r\n\r\n".repeat(10_000);
    assert_eq!(deliver(&server, &nested).await, 250);
    let shown = json_of(ask(&routes, "GET", "/messages/1").await);
    assert!(
        shown["error"].is_string() && shown["text"].is_null(),
        "{shown}"
    );
    assert_eq!(ask(&routes, "GET", "/messages/1/raw").await.1, nested);
}

#[tokio::test(start_paused = true)]
async fn who_waits_gets_the_next_message_or_nothing_in_time() {
    let inbox = Inbox::new(10, 10_000);
    let (server, routes) = (example::server(inbox.clone()), example::routes(inbox));
    // There is no message, and no request waits longer than a minute.
    for (wait, seconds) in [("", 10), ("?timeout=0", 0), ("?timeout=99999999999", 60)] {
        let start = Instant::now();
        let answer = ask(&routes, "GET", &format!("/messages/next{wait}")).await;
        assert_eq!(answer, (204, String::new()));
        assert_eq!(start.elapsed().as_secs(), seconds, "{wait}");
    }
    let waits = ask(&routes, "GET", "/messages/next");
    let (next, code) = tokio::join!(waits, async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        deliver(&server, HELLO).await
    });
    assert_eq!((json_of(next)["id"].as_u64(), code), (Some(1), 250));
    // Messages that came before the wait are not missed, and come in order.
    deliver(&server, HELLO).await;
    deliver(&server, HELLO).await;
    for (after, id) in [(0, 1), (1, 2), (2, 3)] {
        let next = ask(&routes, "GET", &format!("/messages/next?after={after}")).await;
        assert_eq!(json_of(next)["id"], id);
    }
    let wait = format!("/messages/next?after={}", u64::MAX);
    assert_eq!(ask(&routes, "GET", &wait).await.0, 204);
}

#[tokio::test]
async fn a_full_inbox_defers_until_messages_are_deleted() {
    for (messages, bytes) in [(2, 10_000), (10, 2 * HELLO.len() + 5)] {
        let inbox = Inbox::new(messages, bytes);
        let (server, routes) = (example::server(inbox.clone()), example::routes(inbox));
        for code in [250, 250, 452, 452] {
            assert_eq!(deliver(&server, HELLO).await, code);
        }
        assert_eq!(ask(&routes, "DELETE", "/messages").await.0, 204);
        assert_eq!(deliver(&server, HELLO).await, 250);
        // The ids of deleted messages are not used again.
        let list = json_of(ask(&routes, "GET", "/messages").await);
        assert_eq!((list[0]["id"].as_u64(), &list[1]), (Some(3), &Value::Null));
    }
}

#[tokio::test]
async fn a_message_on_its_way_counts_until_it_breaks_off() {
    let inbox = Inbox::new(1, 10_000);
    let server = example::server(inbox);
    let mut slow = support::Client::greeted(&server).await;
    slow.begin().await;
    slow.send("half a message\r\n").await;
    assert_eq!(deliver(&server, HELLO).await, 452);
    drop(slow);
    while server.handle().sessions() > 0 {
        yield_now().await;
    }
    assert_eq!(deliver(&server, HELLO).await, 250);
}
