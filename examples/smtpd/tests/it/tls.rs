//! The reference server as a process: certificates by name, of clients, and new ones at SIGHUP.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
    time::Duration,
};

use rcgen::SerialNumber;
use support::pki::{Authority, TLS13, connect_tls, shown};
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::timeout,
};

use crate::reference::Reference;

#[tokio::test]
async fn certificates_by_name_of_clients_and_new_ones() {
    let authority = Authority::new();
    let (old, new) = (authority.issue(&["mx.test"]), authority.issue(&["mx.test"]));
    let guest = authority.issue(&["mail.guest.test"]);
    let (own, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (cert, key) = old.write(own.path());
    let (guest_cert, guest_key) = guest.write(others.path());
    let ca = own.path().join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let sni = format!(
        "*.guest.test={},{}",
        guest_cert.display(),
        guest_key.display()
    );
    let server = Reference::start(
        1,
        &[
            "--listen-tls=127.0.0.1:0",
            "--user=fred@example.org:secret",
            &format!("--tls-cert={}", cert.display()),
            &format!("--tls-key={}", key.display()),
            &format!("--client-ca={}", ca.display()),
            &format!("--sni={sni}"),
        ],
    );
    let address = server.address("smtps");
    let anonymous = authority.client(TLS13, None);

    let mut early = connect_tls(address, &anonymous, "mx.test").await;
    assert!(shown(&early) == old.der);
    let ehlo = early.cmd("EHLO c", "250").await;
    assert!(
        ehlo.contains("AUTH PLAIN") && !ehlo.contains("EXTERNAL"),
        "{ehlo}"
    );
    let other = connect_tls(address, &anonymous, "mail.guest.test").await;
    assert!(shown(&other) == guest.der);

    for (name, reply) in [("fred@example.org", "235"), ("bob@example.org", "535")] {
        let client = authority.client(TLS13, Some(&authority.issue(&[name])));
        let mut client = connect_tls(address, &client, "mx.test").await;
        let ehlo = client.cmd("EHLO c", "250").await;
        assert!(ehlo.contains(" EXTERNAL"), "{ehlo}");
        client.cmd("AUTH EXTERNAL =", reply).await;
    }

    new.write(own.path());
    let pid = server.process.id().to_string();
    let sent = Command::new("kill").args(["-HUP", &pid]).status().unwrap();
    assert!(sent.success());
    let renewed =
        async { while shown(&connect_tls(address, &anonymous, "mx.test").await) != new.der {} };
    timeout(Duration::from_secs(20), renewed).await.unwrap();
    early.cmd("NOOP", "250").await;
}

/// Starts the server, and gives what it logs.
fn start(options: &[&str]) -> (Reference, UnboundedReceiver<String>) {
    let mut server = Reference::start_logging_to(Stdio::piped(), 1, options);
    let (sender, lines_read) = unbounded_channel();
    let lines = BufReader::new(server.process.stderr.take().unwrap()).lines();
    std::thread::spawn(move || {
        lines
            .map_while(Result::ok)
            .try_for_each(|line| sender.send(line))
    });
    (server, lines_read)
}

/// Waits for a line with each of these texts, in their order.
async fn logged(log: &mut UnboundedReceiver<String>, texts: &[&str]) {
    for text in texts {
        let found = async {
            loop {
                let line = log.recv().await.expect("the server goes on");
                if line.contains(text) {
                    break line;
                }
            }
        };
        let found = timeout(Duration::from_secs(20), found).await.expect(text);
        assert!(found.contains(" level=warn "), "{found}");
    }
}

#[tokio::test]
async fn what_is_odd_about_certificates_and_secrets_is_told_at_start_and_reload() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = authority
        .issue_until(&["mx.test"], 2001)
        .write(directory.path());
    let passphrase = directory.path().join("passphrase");
    fs::write(&passphrase, "\u{feff}secret\n").unwrap();
    let set_mode =
        |path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    set_mode(&key, 0o644);
    set_mode(&passphrase, 0o604);
    let (server, mut log) = start(&[
        "--listen=127.0.0.1:0",
        &format!("--tls-cert={}", cert.display()),
        &format!("--tls-key={}", key.display()),
        &format!("--tls-key-passphrase-file={}", passphrase.display()),
    ]);
    let expected = [
        "passphrase: the file holds secrets and is open to others than its owner (mode 0604)",
        "key.pem: the private key is open to others than its owner (mode 0644)",
        "cert.pem: certificate 1 expired on 2001-01-01",
    ];
    logged(&mut log, &expected).await;

    authority.issue(&["old.test"]).write(directory.path());
    set_mode(&key, 0o600);
    server.signal("HUP");
    logged(&mut log, &["cert.pem: the certificate is not for mx.test"]).await;
}

#[tokio::test]
async fn a_client_is_not_logged_in_by_a_certificate_that_is_revoked() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = authority.issue(&["mx.test"]).write(directory.path());
    let (ca, list) = (
        directory.path().join("ca.pem"),
        directory.path().join("crl.pem"),
    );
    fs::write(&ca, authority.pem()).unwrap();
    fs::write(&list, authority.revoke(&[7], 4000)).unwrap();
    let server = Reference::start(
        1,
        &[
            "--listen-tls=127.0.0.1:0",
            "--user=fred@example.org:secret",
            &format!("--tls-cert={}", cert.display()),
            &format!("--tls-key={}", key.display()),
            &format!("--client-ca={}", ca.display()),
            &format!("--client-crl={}", list.display()),
        ],
    );
    let address = server.address("smtps");
    let may_log_in = async |serial: u64| {
        let own = authority.issue_with(&["fred@example.org"], |params| {
            params.serial_number = Some(SerialNumber::from(serial));
        });
        let client = authority.client(TLS13, Some(&own));
        let mut client = connect_tls(address, &client, "mx.test").await;
        let ehlo = client.cmd("EHLO c", "250").await;
        let offered = ehlo.contains(" EXTERNAL");
        let reply = if offered { "235" } else { "504" };
        client.cmd("AUTH EXTERNAL =", reply).await;
        offered
    };
    assert!(!may_log_in(7).await);
    assert!(may_log_in(8).await);
    fs::write(&list, authority.revoke(&[7, 8], 4000)).unwrap();
    server.signal("HUP");
    let revoked = async { while may_log_in(8).await {} };
    timeout(Duration::from_secs(20), revoked).await.unwrap();
}
