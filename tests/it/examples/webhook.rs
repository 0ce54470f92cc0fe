//! The webhook: a backend that responds, fails, or is unreachable.

#[path = "../../../examples/webhook.rs"]
#[allow(dead_code, reason = "`main` is not called here")]
mod example;

use std::net::SocketAddr;

use smtpd_tower::{Server, deliver::Webhook};
use support::Client;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

use super::{Example, send};

/// A web service that sends these responses in turn, 0 being none, and returns the requests.
pub async fn web(answers: &'static [u16]) -> (SocketAddr, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(async move {
        let mut posts = Vec::new();
        for &answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut post = Vec::new();
            while !is_whole(&post) {
                assert_ne!(stream.read_buf(&mut post).await.unwrap(), 0);
            }
            posts.push(String::from_utf8(post).unwrap());
            if answer != 0 {
                let head = format!(
                    "HTTP/1.1 {answer} .\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                );
                stream.write_all(head.as_bytes()).await.unwrap();
            }
        }
        posts
    });
    (address, served)
}

/// Returns whether a request has its whole body, of a known length or in chunks.
fn is_whole(post: &[u8]) -> bool {
    let is_chunked = memchr::memmem::find(post, b"transfer-encoding: chunked").is_some();
    post.ends_with(if is_chunked {
        b"\r\n0\r\n\r\n"
    } else {
        b"Hello\r\n"
    })
}

async fn through(server: &Server, reply: &str) {
    let mut client = Client::greeted(server).await;
    client.begin().await;
    client.send("Subject: hi\r\n\r\nHello\r\n.\r\n").await;
    client.expect(reply).await;
}

#[tokio::test]
async fn what_the_backend_says_is_what_the_client_hears() {
    let table: [(&[u16], &str); 6] = [
        (&[200], "250 2.0.0 Queued as "),
        (&[503], "451 4.3.2"),
        (&[500], "451 4.3.0"),
        (&[0], "451 4.3.0"),
        (&[404], "451 4.3.5"),
        (&[422], "554 5.6.0"),
    ];
    for (answers, reply) in table {
        let (address, served) = web(answers).await;
        let webhook = Webhook::new(&format!("http://{address}/inbox")).unwrap();
        let server = example::server(webhook);
        through(&server, reply).await;
        let posts = served.await.unwrap();
        for part in [
            "POST /inbox HTTP/1.1\r\n",
            "\r\nsmtp-sender: sender@example.net\r\n",
            "\r\nsmtp-recipient: user@example.org\r\n",
            "\r\nidempotency-key: ",
            "Subject: hi\r\n\r\nHello\r\n",
        ] {
            assert!(posts[0].contains(part), "{part}: {}", posts[0]);
        }
        // Nobody listens there any more, which is known before the message is sent.
        let mut client = Client::greeted(&server).await;
        client.cmd("EHLO client.example", "250").await;
        client.envelope().await;
        client.cmd("DATA", "451 4.3.0").await;
    }
}

#[tokio::test]
async fn by_its_command_line() {
    let (address, served) = web(&[200]).await;
    let example = Example::start("webhook", &[&format!("http://{address}/")]);
    let mut client = example.client().await;
    send(
        &mut client,
        "Subject: hi\r\n\r\nHello",
        "250 2.0.0 Queued as ",
    )
    .await;
    assert_eq!(served.await.unwrap().len(), 1);
}
