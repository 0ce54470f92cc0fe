//! The reference server as a process: its metrics, and the pages that list them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use support::Client;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::reference::Reference;

/// A metric as an exporter for Prometheus shows it: its type, and the names of its labels.
type Shown = BTreeMap<String, (String, BTreeSet<String>)>;

async fn shown(server: &Reference) -> (Shown, String) {
    let mut stream = TcpStream::connect(server.address("http")).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let mut all = Shown::new();
    for line in text.lines() {
        if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, kind) = typed.split_once(' ').unwrap();
            all.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        }
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, rest)) = line.split_once('{') else {
            continue;
        };
        let base = ["_bucket", "_sum", "_count"].into_iter();
        let base = base.filter_map(|end| name.strip_suffix(end));
        let known = base.chain([name]).find(|name| all.contains_key(*name));
        let (labels, _) = rest.rsplit_once('}').unwrap();
        let names = labels.split(',').map(|l| l.split('=').next().unwrap());
        let names = names.filter(|name| *name != "le").map(str::to_owned);
        all.get_mut(known.expect(line)).unwrap().1.extend(names);
    }
    (all, text)
}

/// What the page of the guide lists, under the names of Prometheus.
fn listed() -> Shown {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../smtpd-tower/docs/metrics.md");
    let page = fs::read_to_string(page).unwrap();
    let rows = page.lines().filter(|l| l.starts_with("| `smtp.server."));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let [name, kind, unit, labels] = [1, 2, 3, 4].map(|cell| cells[cell]);
        let mut name = name.trim_matches('`').replace('.', "_");
        if !unit.is_empty() && !name.ends_with(unit) {
            name = format!("{name}_{unit}");
        }
        if kind == "counter" {
            name += "_total";
        }
        let labels = labels.split(", ").map(|label| label.trim_matches('`'));
        let labels = labels.filter(|label| !label.is_empty());
        (name, (kind.to_owned(), labels.map(str::to_owned).collect()))
    })
    .collect()
}

#[tokio::test]
async fn the_page_lists_metrics_that_the_server_does_not_show() {
    let server = Reference::start(
        2,
        &[
            "--listen=127.0.0.1:0",
            "--http=127.0.0.1:0",
            "--user=alice:secret",
            "--allow-plaintext-auth",
            "--domain=example.org",
        ],
    );
    let (mut all, text) = shown(&server).await;
    let of_server = |name: &str| !name.starts_with("smtp_server_");
    let own: Vec<_> = all.keys().filter(|name| of_server(name)).cloned().collect();
    // The page of the reference server lists these.
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"));
    let readme = readme.unwrap();
    assert_eq!(own.len(), 3, "{own:?}");
    for name in own {
        assert!(readme.contains(&format!("`{name}`")), "{name}");
        all.remove(&name);
    }
    assert_eq!(all, listed(), "at the start: {text}");
    for zero in [
        "smtp_server_auth_total{mechanism=\"PLAIN\",outcome=\"failed\"} 0",
        "smtp_server_connections_refused_total{limit=\"max_sessions\"} 0",
        "smtp_server_disk_waiting 0",
        "smtp_server_faults_total{kind=\"service\"} 0",
        "smtp_server_messages_total{outcome=\"deferred\"} 0",
        "smtp_server_passwords_waiting 0",
        "smtp_server_session_duration_seconds_count{end=\"timeout\"} 0",
        "smtp_server_tls_handshake_duration_seconds_count{version=\"none\",outcome=\"failed\"} 0",
    ] {
        assert!(text.lines().any(|line| line == zero), "{zero}: {text}");
    }

    let mut client = Client::over(TcpStream::connect(server.address("smtp")).await.unwrap());
    client.expect("220").await;
    client.cmd("EHLO c", "250").await;
    client.cmd("FOO", "500").await;
    client.cmd("AUTH PLAIN AGFsaWNlAHdyb25n", "535").await;
    client.cmd("AUTH PLAIN AGFsaWNlAHNlY3JldA==", "235").await;
    client.cmd("MAIL FROM:<alice@example.org>", "250").await;
    client.cmd("RCPT TO:<b@example.org>", "250").await;
    client.cmd("RCPT TO:<b@example.net>", "550").await;
    client.cmd("DATA", "354").await;
    client.cmd("Hello\r\n.", "250").await;
    client.cmd("QUIT", "221").await;
    client.expect_close().await;
    let (mut all, text) = shown(&server).await;
    all.retain(|name, _| !of_server(name));
    assert_eq!(all, listed(), "after mail: {text}");
    for counted in [
        "smtp_server_auth_total{mechanism=\"PLAIN\",outcome=\"failed\"} 1",
        "smtp_server_messages_total{outcome=\"accepted\"} 1",
        "smtp_server_recipients_total{outcome=\"rejected\"} 1",
    ] {
        assert!(
            text.lines().any(|line| line == counted),
            "{counted}: {text}"
        );
    }
}
