//! Commands and web services behind whole sessions.

use std::time::Duration;

use smtpd_tower::{Server, deliver::Webhook};
use support::*;
use tokio::{
    io::AsyncReadExt,
    net::TcpListener,
    time::{sleep, timeout},
};

/// Sends a message up to its middle, and disconnects.
async fn break_off(server: &Server) {
    let mut client = Client::greeted(server).await;
    client.begin().await;
    client.send("Subject: hi\r\n\r\nHello\r\n").await;
    sleep(Duration::from_millis(50)).await;
}

#[cfg(unix)]
mod pipe {
    use std::path::Path;

    use smtpd_tower::deliver::Pipe;

    use super::*;

    fn script(directory: &Path, script: &str) -> Pipe {
        Pipe::new("sh").arg("-c").arg(script).directory(directory)
    }

    #[tokio::test]
    async fn the_exit_status_of_a_command_is_the_reply() {
        let dir = tempfile::tempdir().unwrap();
        for (text, reply) in [
            ("cat > out", "250 2.0.0 Queued as "),
            ("cat > out; exit 67", "550 5.1.1"),
        ] {
            let server = server(accept_rcpt().data(script(dir.path(), text)));
            let mut client = Client::greeted(&server).await;
            client.begin().await;
            client.send("Subject: hi\r\n\r\n..Hello\r\n.\r\n").await;
            client.expect(reply).await;
            let out = std::fs::read(dir.path().join("out")).unwrap();
            assert_eq!(out, b"Subject: hi\r\n\r\n.Hello\r\n");
        }
    }

    #[tokio::test]
    async fn a_command_that_is_missing_is_known_before_the_message_is_sent() {
        let server = server(accept_rcpt().data(Pipe::new("/no/such/program")));
        let mut client = Client::greeted(&server).await;
        client.cmd("EHLO client.example", "250").await;
        client.envelope().await;
        client.cmd("DATA", "451 4.3.5").await;
    }

    #[tokio::test]
    async fn lmtp_has_the_exit_status_for_each_recipient() {
        let dir = tempfile::tempdir().unwrap();
        let refuse = "cat > out; case $RECIPIENT in b@*) exit 67;; esac";
        let pipe = script(dir.path(), refuse).each_recipient(true);
        let mut client = lmtp(&server(accept_rcpt().data(pipe))).await;
        client.cmd("MAIL FROM:<>", "250").await;
        for recipient in ["a", "b", "c"] {
            let rcpt = format!("RCPT TO:<{recipient}@example.org>");
            client.cmd(&rcpt, "250").await;
        }
        client.cmd("DATA", "354").await;
        client.send("Subject: hi\r\n\r\n.\r\n").await;
        for reply in ["250 2.0.0", "550 5.1.1", "250 2.0.0"] {
            client.expect(reply).await;
        }
    }

    #[tokio::test]
    async fn a_client_that_disconnects_does_not_end_the_input_of_the_command() {
        let dir = tempfile::tempdir().unwrap();
        let text = "echo $$ > pid; cat > out; touch whole";
        let server = server(accept_rcpt().data(script(dir.path(), text)));
        break_off(&server).await;
        let pid = loop {
            match std::fs::read_to_string(dir.path().join("pid")) {
                Ok(pid) if pid.ends_with('\n') => break pid,
                _ => sleep(Duration::from_millis(5)).await,
            }
        };
        let process = Path::new("/proc").join(pid.trim());
        while process.exists() {
            sleep(Duration::from_millis(5)).await;
        }
        assert!(!dir.path().join("whole").exists());
    }
}

#[tokio::test]
async fn a_client_that_disconnects_does_not_end_the_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let read = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes).await;
        bytes
    });
    let server = server(accept_rcpt().data(Webhook::new(&url).unwrap()));
    break_off(&server).await;
    let bytes = timeout(Duration::from_secs(20), read).await;
    let text = String::from_utf8(bytes.unwrap().unwrap()).unwrap();
    assert!(text.contains("transfer-encoding: chunked"), "{text}");
    assert!(!text.contains("\r\n0\r\n"), "{text}");
}
