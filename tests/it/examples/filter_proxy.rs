//! The filter proxy: what the upstream server replies, and an upstream server that fails.

#[path = "../../../examples/filter_proxy.rs"]
#[allow(dead_code, reason = "`main` is not called here")]
mod example;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use smtpd_tower::{
    Mail, Pipeline, Rcpt, Reply, Request, Server,
    deliver::Inbox,
    handler_fn,
    net::TrustedPeers,
    test::{Client, Running},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, oneshot},
    time::timeout,
};

use super::{Example, send};

fn proxy(upstream: SocketAddr) -> Server {
    let rules = vec!["X-Spam-Flag: yes".to_owned(), "X-Casino".to_owned()];
    example::server(&upstream.to_string(), rules)
}

/// Accepts mail for everyone but `nobody`.
async fn upstream(inbox: &Inbox) -> Running {
    let rcpt = handler_fn(async |request: Request<Rcpt>| {
        let is_nobody = request.recipient().as_str().starts_with("nobody@");
        (!is_nobody).then_some(()).ok_or_else(Reply::no_such_user)
    });
    let pipeline = Pipeline::new().rcpt(rcpt).data(inbox.clone());
    let server = Server::new("up.example", pipeline);
    Running::start(server).await.unwrap()
}

/// A server for one connection: after the greeting, it waits for each of these texts and replies. Then it closes the connection.
async fn script(exchanges: &'static [(&str, &str)]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        stream.write_all(b"220 up.example\r\n").await.unwrap();
        for (text, reply) in exchanges {
            while !seen.ends_with(text.as_bytes()) {
                if stream.read_buf(&mut seen).await.unwrap() == 0 {
                    return;
                }
            }
            stream.write_all(reply.as_bytes()).await.unwrap();
        }
    });
    address
}

async fn greeted(server: &Server) -> Client {
    let mut client = Client::connect(server);
    client.greeting().await.unwrap().expect_code(220).unwrap();
    let reply = client.ehlo("client.example").await.unwrap();
    reply.expect_code(250).unwrap();
    client
}

/// Returns the reply to a command.
async fn said<IO>(client: &mut Client<IO>, command: &str) -> String
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    client.command(command).await.unwrap().to_string()
}

#[tokio::test]
async fn each_reply_is_that_of_the_upstream_server() {
    let inbox = Inbox::new();
    let upstream = upstream(&inbox).await;
    let mut client = greeted(&proxy(upstream.address())).await;
    let message = "Subject: hi\r\n\r\n.\r\n..two\r\nf\u{fc}nf\r\n.";
    for _ in 0..2 {
        let mail = "MAIL FROM:<a@example.com> BODY=8BITMIME SIZE=100";
        assert_eq!(said(&mut client, mail).await, "250 2.0.0 OK");
        for (recipient, reply) in [
            ("nobody@example.org", "550 5.1.1 No such user"),
            ("b@example.org", "250 2.0.0 OK"),
            ("Postmaster", "250 2.0.0 OK"),
        ] {
            let rcpt = format!("RCPT TO:<{recipient}>");
            assert_eq!(said(&mut client, &rcpt).await, reply);
        }
        let reply = client.data(message).await.unwrap();
        assert_eq!(reply.to_string(), "250 2.0.0 OK");
        let delivered = inbox.next().await;
        let recipients = delivered.envelope().recipients().iter();
        let recipients: Vec<_> = recipients.map(|to| to.path().as_str()).collect();
        assert_eq!(recipients, ["b@example.org", "Postmaster"]);
        assert!(delivered.envelope().parameters().contains("BODY"));
        let text = delivered.message();
        assert!(text.starts_with(b"Received: from client.example"));
        assert!(text.ends_with(format!("{message}\r\n").as_bytes()));
    }
}

#[tokio::test]
async fn a_message_that_a_rule_rejects_never_arrives() {
    let inbox = Inbox::new();
    let upstream = upstream(&inbox).await;
    let mut client = greeted(&proxy(upstream.address())).await;
    for (field, code) in [
        ("x-spam-flag: YES", 554),
        ("X-Spam-Flag: no", 250),
        ("X-CASINO:", 554),
        ("Subject: X-Casino", 250),
    ] {
        let message = format!("{field}\r\n\r\nX-Spam-Flag: yes\r\n");
        let to = ["b@example.org"];
        let reply = client.send("a@example.com", to, message).await.unwrap();
        assert_eq!(reply.code().as_u16(), code, "{field}");
    }
    assert_eq!(inbox.len(), 2);
}

/// All up to the reply to the message, or to DATA if that is negative.
async fn one_message(upstream: &'static [(&str, &str)]) -> (Client, String) {
    let server = proxy(script(upstream).await);
    let mut client = greeted(&server).await;
    said(&mut client, "MAIL FROM:<a@example.com>").await;
    said(&mut client, "RCPT TO:<b@example.org>").await;
    let reply = client.data("Subject: hi\r\n\r\nHello\r\n").await.unwrap();
    (client, reply.to_string())
}

#[tokio::test]
async fn nothing_is_accepted_that_the_upstream_server_has_not_accepted() {
    macro_rules! after_rcpt {
        ($($exchange:expr),*) => {
            &[
                ("\r\n", "250-up.example\r\n250 SIZE\r\n"),
                ("<a@example.com>\r\n", "250 2.0.0 OK\r\n"),
                ("<b@example.org>\r\n", "250 2.0.0 OK\r\n"),
                $($exchange),*
            ]
        };
    }
    const GO: (&str, &str) = ("DATA\r\n", "354 Go on\r\n");
    const END: &str = "Hello\r\n.\r\n";
    const LATER: &str = "451 4.3.0 Local error in processing";
    let table: [(&[(&str, &str)], &str); 12] = [
        (
            after_rcpt![GO, (END, "250 2.0.0 Taken\r\n")],
            "250 2.0.0 Taken",
        ),
        (
            after_rcpt![GO, (END, "250-Taken\r\n250 as 7\r\n")],
            "250-2.0.0 Taken\n250 2.0.0 as 7",
        ),
        (
            after_rcpt![GO, (END, "552 5.3.4 Too large\r\n")],
            "552 5.3.4 Too large",
        ),
        (
            after_rcpt![("DATA\r\n", "450 4.2.0 Later\r\n")],
            "450 4.2.0 Later",
        ),
        (after_rcpt![GO, (END, "421 4.3.2 Bye\r\n")], "451 4.3.2 Bye"),
        (after_rcpt![], LATER),
        (after_rcpt![GO], LATER),
        (after_rcpt![GO, (END, "")], LATER),
        (after_rcpt![GO, (END, "250-2.0.0 Taken\r\n")], LATER),
        (after_rcpt![GO, (END, "354 Go on\r\n")], LATER),
        // Nothing was sent that could be taken.
        (after_rcpt![("DATA\r\n", "250 2.0.0 Taken\r\n")], LATER),
        // A reply too many is not the reply to the message.
        (
            after_rcpt![
                ("DATA\r\n", "354 Go on\r\n250 2.0.0 Taken\r\n"),
                (END, "554 No\r\n")
            ],
            LATER,
        ),
    ];
    for (exchanges, expected) in table {
        let (mut client, reply) = one_message(exchanges).await;
        assert_eq!(reply, expected, "{exchanges:?}");
        assert!(said(&mut client, "NOOP").await.starts_with("250"));
    }
}

#[tokio::test]
async fn a_late_second_reply_is_not_the_reply_to_the_next_command() {
    const RCPT: &str = "RCPT TO:<b@example.org>\r\n";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (replied, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (told, waits) = (replied.clone(), go_on.clone());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // Otherwise, Nagle's algorithm holds the second reply back until the next command acknowledges the first.
        stream.set_nodelay(true).unwrap();
        let mut seen = Vec::new();
        stream.write_all(b"220 up.example\r\n").await.unwrap();
        for text in ["EHLO", "MAIL", RCPT] {
            while !String::from_utf8_lossy(&seen).contains(text) || !seen.ends_with(b"\r\n") {
                assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0);
            }
            stream.write_all(b"250 OK\r\n").await.unwrap();
        }
        waits.notified().await;
        stream.write_all(b"354 Go on\r\n").await.unwrap();
        told.notify_one();
        // The connection stays open until the proxy closes it.
        while stream.read_buf(&mut seen).await.unwrap_or(0) > 0 {}
    });
    let mut client = greeted(&proxy(address)).await;
    for command in ["MAIL FROM:<a@example.com>", RCPT.trim_end()] {
        let reply = said(&mut client, command).await;
        assert!(reply.starts_with("250"), "{reply}");
    }
    go_on.notify_one();
    replied.notified().await;
    let reply = said(&mut client, "DATA").await;
    assert!(reply.starts_with("451 4.3.0"), "{reply}");
}

#[tokio::test]
async fn without_an_upstream_server_mail_is_deferred() {
    let inbox = Inbox::new();
    let upstream = upstream(&inbox).await;
    let server = proxy(upstream.address());
    upstream.stop().await.unwrap();
    let mut client = greeted(&server).await;
    let reply = said(&mut client, "MAIL FROM:<a@example.com>").await;
    assert!(reply.starts_with("451 4.3.0"), "{reply}");

    // It refuses the proxy, not the client.
    let server = proxy(script(&[("\r\n", "554 5.7.1 Not you\r\n")]).await);
    let mut client = greeted(&server).await;
    let reply = said(&mut client, "MAIL FROM:<a@example.com>").await;
    assert!(reply.starts_with("451 4.3.0"), "{reply}");
}

#[tokio::test]
async fn an_upstream_server_that_goes_away_costs_the_transaction() {
    let server = proxy(
        script(&[
            ("\r\n", "250 up.example\r\n"),
            ("<a@example.com>\r\n", "250 OK\r\n"),
            ("<b@example.org>\r\n", "250 OK\r\n"),
            ("<c@example.org>\r\n", ""),
        ])
        .await,
    );
    let mut client = greeted(&server).await;
    for (command, start) in [
        ("MAIL FROM:<a@example.com>", "250"),
        ("RCPT TO:<b@example.org>", "250"),
        ("RCPT TO:<c@example.org>", "451 4.3.0"),
        ("RCPT TO:<d@example.org>", "451 4.3.0"),
        ("DATA", "451 4.3.0"),
    ] {
        let reply = said(&mut client, command).await;
        assert!(reply.starts_with(start), "{command}: {reply}");
    }
}

#[tokio::test]
async fn a_parameter_that_the_upstream_server_does_not_know_is_not_sent() {
    let upstream = script(&[
        ("\r\n", "250 up.example\r\n"),
        ("MAIL FROM:<a@example.com>\r\n", "250 OK\r\n"),
    ]);
    let mut client = greeted(&proxy(upstream.await)).await;
    let reply = said(&mut client, "MAIL FROM:<a@example.com> SIZE=100").await;
    assert!(reply.starts_with("250"), "{reply}");

    let upstream = script(&[("\r\n", "250 up.example\r\n")]);
    let mut client = greeted(&proxy(upstream.await)).await;
    let reply = said(&mut client, "MAIL FROM:<a@example.com> BODY=8BITMIME").await;
    assert_eq!(reply, "554 5.6.3 No 8BITMIME upstream");
}

#[tokio::test]
async fn the_upstream_server_is_told_who_the_client_is() {
    let mail = handler_fn(async |request: Request<Mail>| {
        let forwarded = request.session().forwarded();
        forwarded.map_or(Reply::OK, |client| {
            let (name, helo) = (client.name().is_some(), client.helo());
            Reply::ok(format!(
                "{:?} {:?} {name} {:?}",
                client.addr(),
                client.protocol(),
                helo.map(|helo| helo.as_str()),
            ))
        })
    });
    let server = Server::new("up.example", Pipeline::new().mail(mail));
    let trusted = TrustedPeers::parse(["127.0.0.1"]).unwrap();
    for (server, told) in [
        (server.clone().xforward_from(trusted), true),
        (server, false),
    ] {
        let upstream = Running::start(server).await.unwrap();
        let proxy = proxy(upstream.address());
        for (client, hello, received) in [
            (
                [192, 0, 2, 1].into(),
                "EHLO",
                r#"Some(192.0.2.1) Some("ESMTP") false Some("a+b=c")"#,
            ),
            (
                SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 25)).ip(),
                "HELO",
                r#"Some(2001:db8::1) Some("SMTP") false Some("a+b=c")"#,
            ),
        ] {
            let mut client = Client::from_peer(&proxy, SocketAddr::new(client, 4711));
            client.greeting().await.unwrap();
            said(&mut client, &format!("{hello} a+b=c")).await;
            let reply = said(&mut client, "MAIL FROM:<a@example.com>").await;
            let received = if told { received } else { "OK" };
            assert_eq!(reply, format!("250 2.0.0 {received}"));
        }
    }
}

/// Reads until it has seen as many bytes.
async fn read(stream: &mut TcpStream, bytes: usize) {
    let mut seen = Vec::new();
    while seen.len() < bytes {
        assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_message_reaches_the_upstream_server_before_its_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = proxy(listener.local_addr().unwrap());
    let (half, has_half) = oneshot::channel();
    let upstream = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        for reply in [
            "220 up\r\n",
            "250 up\r\n",
            "250 OK\r\n",
            "250 OK\r\n",
            "354 Go on\r\n",
        ] {
            stream.write_all(reply.as_bytes()).await.unwrap();
            read(&mut stream, 1).await;
        }
        read(&mut stream, 100_000).await;
        half.send(()).unwrap();
        stream
    });
    let mut client = greeted(&server).await;
    for command in [
        "MAIL FROM:<a@example.com>",
        "RCPT TO:<b@example.org>",
        "DATA",
    ] {
        said(&mut client, command).await;
    }
    let line = "x".repeat(70) + "\r\n";
    let message = format!("Subject: hi\r\n\r\n{}", line.repeat(3000));
    client.raw(message).await.unwrap();
    let has_half = timeout(Duration::from_secs(60), has_half).await;
    has_half.expect("the message is passed on").unwrap();
    drop(upstream.await.unwrap());
    client
        .raw(format!("{}.\r\n", line.repeat(3000)))
        .await
        .unwrap();
    let reply = client.reply().await.unwrap().to_string();
    assert!(reply.starts_with("451 4.3.0"), "{reply}");
}

#[tokio::test]
async fn by_its_command_line() {
    let inbox = Inbox::new();
    let upstream = upstream(&inbox).await;
    let address = upstream.address().to_string();
    let example = Example::start("filter_proxy", &[&address, "Subject: casino"]);
    let mut client = example.client().await;
    send(&mut client, "Subject: The Casino\r\n\r\nHello", "554 5.7.1").await;
    send(&mut client, "Subject: hi\r\n\r\nHello", "250 2.0.0 OK").await;
    assert!(inbox.next().await.message().ends_with(b"\r\nHello\r\n"));
}
