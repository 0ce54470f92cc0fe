//! The gateway for several tenants: whose message it is, their limits, and attachments with hostile names.

#[path = "../../../examples/multi_tenant.rs"]
#[allow(dead_code, reason = "`main` is not called here")]
mod example;

use std::{fs, net::SocketAddr, path::Path};

use rusqlite::Connection;
use smtpd_tower::{Server, test::Client};
use tempfile::TempDir;

use super::{Example, send, webhook::web};

/// Nobody listens there.
const NOWHERE: &str = "http://127.0.0.1:1/";
const HELLO: &str = "Subject: hi\r\n\r\nHello\r\n";

struct Gateway {
    server: Server,
    dir: TempDir,
    database: Connection,
}

impl Gateway {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tenants.db");
        let [served, database] = [(); 2].map(|()| Connection::open(&path).unwrap());
        let server = example::server(served, dir.path().join("attachments")).unwrap();
        Self {
            server,
            dir,
            database,
        }
    }

    /// Adds a tenant with a recipient.
    fn with(self, id: i64, webhook: &str, per_hour: u32, bytes: u32, recipient: &str) -> Self {
        insert(&self.database, id, webhook, per_hour, bytes, recipient);
        self
    }

    async fn client(&self) -> Client {
        let mut client = Client::connect(&self.server);
        client.greeting().await.unwrap().expect_code(220).unwrap();
        let reply = client.ehlo("client.example").await.unwrap();
        reply.expect_code(250).unwrap();
        client
    }

    /// Returns the reply to a message, or to its recipient or DATA if that is negative.
    async fn send(&self, recipient: &str, message: &str) -> String {
        let mut client = self.client().await;
        let reply = client.send("a@example.com", [recipient], message).await;
        reply.unwrap().to_string()
    }

    /// Returns the files with attachments, as paths within their directory.
    fn attachments(&self) -> Vec<String> {
        let mut files = Vec::new();
        let directory = self.dir.path().join("attachments");
        collect(&directory, &directory, &mut files);
        files.sort();
        files
    }
}

fn insert(database: &Connection, id: i64, web: &str, per_hour: u32, bytes: u32, recipient: &str) {
    let tenant = "INSERT INTO tenants VALUES (?1, ?2, ?3, ?4)";
    database
        .execute(tenant, (id, web, per_hour, bytes))
        .unwrap();
    let row = "INSERT INTO recipients VALUES (?1, ?2)";
    database.execute(row, (recipient, id)).unwrap();
}

fn collect(root: &Path, directory: &Path, files: &mut Vec<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => collect(root, &path, files),
            false => files.push(path.strip_prefix(root).unwrap().display().to_string()),
        }
    }
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}/inbox")
}

#[tokio::test]
async fn a_message_goes_to_the_service_of_its_tenant() {
    let ((a, first), (b, second)) = (web(&[200]).await, web(&[204]).await);
    let gateway = Gateway::new()
        .with(1, &url(a), 10, 1000, "a@example.org")
        .with(2, &url(b), 10, 1000, "b@example.org");
    assert_eq!(
        gateway.send("A@Example.ORG", HELLO).await,
        "250 2.0.0 Delivered"
    );
    assert_eq!(
        gateway.send("\"b\"@example.org", HELLO).await,
        "250 2.0.0 Delivered"
    );
    for (posts, to) in [(first, "A@Example.ORG"), (second, "\"b\"@example.org")] {
        let post = posts.await.unwrap().remove(0);
        for part in [
            "POST /inbox HTTP/1.1\r\n",
            "\r\nenvelope-from: a@example.com\r\n",
            &format!("\r\nenvelope-to: {to}\r\n"),
            "\r\n\r\nReceived: from client.",
        ] {
            assert!(post.contains(part), "{part}: {post}");
        }
        assert!(!post.contains("attachments"), "{post}");
    }
    assert_eq!(gateway.attachments(), [""; 0]);
}

#[tokio::test]
async fn recipients_of_another_tenant_need_a_message_of_their_own() {
    let (address, posts) = web(&[200]).await;
    let gateway = Gateway::new()
        .with(1, &url(address), 10, 1000, "a@example.org")
        .with(2, NOWHERE, 10, 1000, "b@example.org");
    let mut client = gateway.client().await;
    let mut replies = vec![client.mail("a@example.com").await.unwrap().to_string()];
    for recipient in [
        "a@example.org",
        "b@example.org",
        "A@example.org",
        "c@example.org",
    ] {
        replies.push(client.rcpt(recipient).await.unwrap().to_string());
    }
    replies.push(client.data(HELLO).await.unwrap().to_string());
    // The next message may be of the other.
    replies.push(client.mail("a@example.com").await.unwrap().to_string());
    replies.push(client.rcpt("b@example.org").await.unwrap().to_string());
    let codes: Vec<_> = replies.iter().map(|reply| &reply[..9]).collect();
    assert_eq!(
        codes,
        [
            "250 2.0.0",
            "250 2.0.0",
            "452 4.5.3",
            "250 2.0.0",
            "550 5.1.1",
            "250 2.0.0",
            "250 2.0.0",
            "250 2.0.0"
        ]
    );
    let post = posts.await.unwrap().remove(0);
    assert!(!post.contains("b@example.org"), "{post}");
}

#[tokio::test]
async fn a_tenant_over_its_limits_does_not_affect_the_others() {
    let (address, posts) = web(&[200, 200]).await;
    let gateway = Gateway::new()
        .with(1, &url(address), 1, 100, "a@example.org")
        .with(2, &url(address), 1, 1000, "b@example.org");
    let large = format!("Subject: {}\r\n\r\nHello\r\n", "x".repeat(100));
    for (recipient, message, reply) in [
        ("a@example.org", HELLO, "250 2.0.0"),
        ("a@example.org", HELLO, "450 4.2.1 Too many messages"),
        ("b@example.org", &large, "250 2.0.0"),
        ("b@example.org", HELLO, "450 4.2.1 Too many messages"),
    ] {
        let said = gateway.send(recipient, message).await;
        assert!(said.starts_with(reply), "{recipient}: {said}");
    }
    assert_eq!(posts.await.unwrap().len(), 2);

    let gateway = Gateway::new().with(1, NOWHERE, 10, 100, "a@example.org");
    let said = gateway.send("a@example.org", &large).await;
    assert!(said.starts_with("552 5.3.4"), "{said}");
    let mut client = gateway.client().await;
    client.mail("<a@example.com> SIZE=101").await.unwrap();
    client.rcpt("a@example.org").await.unwrap();
    let said = client.command("DATA").await.unwrap().to_string();
    assert!(said.starts_with("552 5.3.4"), "{said}");
}

/// A message with an attachment of each of these names.
fn with_attachments(names: &[&str]) -> String {
    let parts = names.iter().map(|name| {
        let kind = "Content-Type: application/octet-stream";
        let disposition = format!("Content-Disposition: attachment; filename=\"{name}\"");
        format!("--b\r\n{kind}\r\n{disposition}\r\n\r\ncontent\r\n")
    });
    let parts: String = parts.collect();
    let kind = "Content-Type: multipart/mixed; boundary=b";
    format!("{kind}\r\nMIME-Version: 1.0\r\n\r\n{parts}--b--\r\nHello\r\n")
}

#[tokio::test]
async fn the_name_of_an_attachment_is_never_a_path() {
    let (address, posts) = web(&[200]).await;
    let gateway = Gateway::new().with(1, &url(address), 10, 10_000, "a@example.org");
    let message = with_attachments(&[
        "report.pdf",
        "../../../escaped",
        "/tmp/absolute",
        "..",
        "report.pdf",
        "C:\\\\windows",
        "a\tb \u{fc}\u{202e}",
        &"x".repeat(300),
        "",
    ]);
    assert_eq!(
        gateway.send("a@example.org", &message).await,
        "250 2.0.0 Delivered"
    );
    let files = gateway.attachments();
    let (directory, _) = files[0].rsplit_once('/').unwrap();
    assert!(directory.starts_with("1/message-"), "{directory}");
    let names: Vec<_> = files
        .iter()
        .map(|file| file.strip_prefix(directory).unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "/00-report.pdf",
            "/01-.._.._.._escaped",
            "/02-_tmp_absolute",
            "/03-..",
            "/04-report.pdf",
            "/05-C__windows",
            "/06-a_b___",
            &format!("/07-{}", "x".repeat(100)),
            "/08-unnamed",
        ]
    );
    let path = gateway.dir.path().join("attachments").join(directory);
    for name in names {
        assert_eq!(
            fs::read(path.join(&name[1..])).unwrap(),
            b"content",
            "{name}"
        );
    }
    let mut others = fs::read_dir(gateway.dir.path()).unwrap();
    assert!(others.all(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        name == "attachments" || name.starts_with("tenants.db")
    }));
    let post = posts.await.unwrap().remove(0);
    let header = format!("\r\nattachments: {}\r\n", path.display());
    assert!(post.contains(&header), "{header}: {post}");
}

#[tokio::test]
async fn what_is_not_delivered_leaves_no_attachments() {
    let (address, posts) = web(&[503, 0]).await;
    let gateway = Gateway::new()
        .with(1, &url(address), 10, 100_000, "a@example.org")
        .with(2, NOWHERE, 10, 100_000, "b@example.org");
    let message = with_attachments(&["report.pdf"]);
    for (recipient, reply) in [
        (
            "a@example.org",
            "451 4.3.0 The service of the recipient is away",
        ),
        ("a@example.org", "451 4.3.0"),
        ("b@example.org", "451 4.3.0"),
    ] {
        let said = gateway.send(recipient, &message).await;
        assert!(said.starts_with(reply), "{said}");
        assert_eq!(gateway.attachments(), [""; 0]);
    }
    assert!(posts.await.unwrap()[0].contains("\r\nattachments: "));

    let many = with_attachments(&["x"; 101]);
    let said = gateway.send("a@example.org", &many).await;
    assert_eq!(said, "554 5.7.1 Too many attachments");
}

#[tokio::test]
async fn a_database_that_fails_defers_recipients() {
    let gateway = Gateway::new().with(1, NOWHERE, 10, 1000, "postmaster");
    let mut client = gateway.client().await;
    client.mail("a@example.com").await.unwrap();
    let reply = client.rcpt("Postmaster").await.unwrap();
    reply.expect_code(250).unwrap();
    let reply = client.rcpt("' OR 1=1 --@example.org").await.unwrap();
    reply.expect_code(501).unwrap();
    let reply = client.rcpt("\"' OR 1=1 --\"@example.org").await.unwrap();
    reply.expect_code(550).unwrap();
    let broken = "DROP TABLE recipients";
    gateway.database.execute(broken, ()).unwrap();
    let reply = client.rcpt("Postmaster").await.unwrap();
    assert!(reply.to_string().starts_with("451 4.3.0"), "{reply}");
}

#[tokio::test]
async fn by_its_command_line() {
    let (address, posts) = web(&[200]).await;
    let example = Example::start("multi_tenant", &[]);
    let database = Connection::open(example.dir.path().join("tenants.db")).unwrap();
    insert(&database, 1, &url(address), 10, 1000, "user@example.org");
    let mut client = example.client().await;
    send(
        &mut client,
        "Subject: hi\r\n\r\nHello",
        "250 2.0.0 Delivered",
    )
    .await;
    assert_eq!(posts.await.unwrap().len(), 1);
}
