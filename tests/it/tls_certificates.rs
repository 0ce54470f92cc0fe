//! Certificates: which one a client is shown, new ones while the server runs, and those of clients.

use std::{fs, time::Duration};

use rcgen::DnType;
use smtpd_tower::{
    Auth, Identity, Mail, Reply, Request, Server, handler_fn,
    phase::AuthOutcome,
    sasl::{External, Mechanisms},
    session::{TlsInfo, TlsVersion},
    tls::{ClientCertificates, ServerCertificate, TlsBuilder, TlsConfig},
};
use support::pki::{Authority, Issued, TLS12, TLS13, secured, shown};
use support::*;
use tokio::{
    io::DuplexStream,
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_rustls::{client::TlsStream, rustls::ClientConfig};

type TlsClient = Client<TlsStream<DuplexStream>>;

/// The reply to MAIL shows the TLS facts of the session; EXTERNAL accepts any certificate with a mail address.
fn tls_server(tls: &TlsConfig) -> Server {
    let facts = handler_fn(async |request: Request<Mail>| {
        let tls = request.session().tls().unwrap();
        let names = tls.client_names().unwrap_or_default();
        let resumed = if tls.is_resumed() { " resumed" } else { "" };
        Reply::ok(format!(
            "{} shown {}{resumed}",
            tls.peer_certificates().len(),
            names.emails().join(" ")
        ))
    });
    server(accept_rcpt().auth(handler_fn(login)).mail(facts))
        .tls(tls.clone())
        .configure(|config| config.mechanisms(Mechanisms::default().with(External)))
}

async fn login(request: Request<Auth>) -> AuthOutcome {
    let tls = request.session().tls();
    let names = tls.and_then(TlsInfo::client_names).unwrap_or_default();
    let claimed = request.credentials().authzid();
    let mut own = names.emails().iter();
    match own.find(|email| claimed.is_none_or(|claimed| claimed == *email)) {
        Some(email) => Identity::new(email).into(),
        None => Reply::auth_failed().into(),
    }
}

fn with_clients(issued: &Issued, clients: ClientCertificates) -> TlsConfig {
    TlsBuilder::new(issued.source())
        .client_certificates(clients)
        .build()
        .unwrap()
}

#[tokio::test]
async fn the_name_that_is_asked_for_picks_the_certificate() {
    let authority = Authority::new();
    let default = authority.issue(&["mx.test", "unknown.test", "127.0.0.1"]);
    let guests = authority.issue(&["*.guests.test"]);
    let exact = authority.issue(&["vip.guests.test"]);
    let tls = TlsBuilder::new(default.source().names(["mx.test"]))
        .certificate(guests.source())
        .certificate(exact.source().names(["VIP.Guests.test"]))
        .build()
        .unwrap();
    let server = tls_server(&tls);
    for versions in [TLS12, TLS13] {
        let client = authority.client(versions, None);
        for (name, want) in [
            ("mx.test", &default),
            ("unknown.test", &default),
            ("127.0.0.1", &default),
            ("a.guests.test", &guests),
            ("vip.guests.test", &exact),
        ] {
            let client = secured(&server, &client, name).await.unwrap();
            assert!(shown(&client) == want.der, "{name}");
        }
    }
}

#[tokio::test]
async fn nothing_older_than_the_least_version_is_spoken() {
    let authority = Authority::new();
    let issued = authority.issue(&["mx.test"]);
    let tls = TlsBuilder::new(issued.source())
        .min_version(TlsVersion::Tls13)
        .build()
        .unwrap();
    for (versions, welcome) in [(TLS12, false), (TLS13, true)] {
        let client = authority.client(versions, None);
        let secured = secured(&tls_server(&tls), &client, "mx.test").await;
        assert_eq!(secured.is_ok(), welcome);
    }
}

#[tokio::test]
async fn a_reload_is_for_new_sessions() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (authority.issue(&["mx.test"]), authority.issue(&["mx.test"]));
    let (cert, key) = old.write(directory.path());
    let tls = TlsConfig::from_pem_files(&cert, &key).unwrap();
    let server = tls_server(&tls);
    for versions in [TLS12, TLS13] {
        old.write(directory.path());
        tls.reload().unwrap();
        let client = authority.client(versions, None);
        let mut first = greeted(&server, &client).await;
        assert!(shown(&first) == old.der);
        assert!(facts(&mut first).await.ends_with("shown "));
        let mut second = greeted(&server, &client).await;
        assert!(facts(&mut second).await.ends_with(" resumed"));

        new.write(directory.path());
        tls.reload().unwrap();
        first.cmd("RSET", "250").await;
        let mut third = greeted(&server, &client).await;
        assert!(shown(&third) == new.der);
        assert!(facts(&mut third).await.ends_with("shown "), "resumed");
    }
}

#[tokio::test]
async fn a_bad_file_leaves_everything_as_it_was() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (authority.issue(&["mx.test"]), authority.issue(&["mx.test"]));
    let (cert, key) = old.write(directory.path());
    let ca = directory.path().join("ca.pem");
    fs::write(&ca, authority.pem()).unwrap();
    let tls = TlsBuilder::new(ServerCertificate::from_files(&cert, &key))
        .client_certificates(ClientCertificates::from_file(&ca))
        .build()
        .unwrap();
    let server = tls_server(&tls);
    // This is PEM, but what is in it is no certificate.
    let damaged =
        old.pem.clone() + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let upside_down = authority.pem() + &old.pem;
    let fits_second = "the key fits certificate 2, but the server's certificate must come first";
    for (file, text, fault) in [
        (&cert, "", "no certificate found"),
        (&cert, &damaged, "certificate 2 is damaged"),
        (&cert, &upside_down, fits_second),
        (&ca, &damaged, "certificate 2 is damaged"),
        (&cert, &*new.pem, "the key does not fit the certificate"),
        (
            &key,
            "-----BEGIN PRIVATE KEY-----",
            "damaged PEM: a section does not end",
        ),
        (&ca, "", "no certificate found"),
    ] {
        fs::write(file, text).unwrap();
        let error = tls.reload().unwrap_err();
        let blamed = if fault.starts_with("the key does") {
            &key
        } else {
            file
        };
        assert_eq!(error.to_string(), format!("{}: {fault}", blamed.display()));
        assert_eq!(error.path(), Some(&**blamed));
        let client = authority.client(TLS13, None);
        let client = secured(&server, &client, "mx.test").await.unwrap();
        assert!(shown(&client) == old.der);
        old.write(directory.path());
        fs::write(&ca, authority.pem()).unwrap();
    }
    fs::remove_file(&key).unwrap();
    assert!(tls.reload().unwrap_err().is_io());
}

#[cfg(unix)]
#[test]
fn what_is_odd_is_known_with_its_file_and_anew_after_a_reload() {
    use std::os::unix::fs::PermissionsExt as _;

    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = authority.issue(&["mx.test"]).write(directory.path());
    let set_mode = |mode| fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
    set_mode(0o600);
    let own = ServerCertificate::from_files(&cert, &key);
    let tls = TlsBuilder::new(own).expect_host("mx.test").build().unwrap();
    assert_eq!(tls.warnings(), []);

    let expired = authority.issue_until(&["old.test"], 2001);
    expired.write(directory.path());
    let other = Authority::with(|params| params.distinguished_name.push(DnType::CommonName, "x"));
    fs::write(&cert, expired.pem + &other.pem()).unwrap();
    set_mode(0o604);
    tls.reload().unwrap();
    let warnings = tls.warnings();
    let texts: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    let (cert_text, key_text) = (cert.display(), key.display());
    let expected = [
        format!("{key_text}: the private key is open to others than its owner (mode 0604)"),
        format!("{cert_text}: certificate 1 expired on 2001-01-01"),
        format!("{cert_text}: certificate 2 is not part of the chain"),
        format!("{cert_text}: the certificate is not for mx.test"),
    ];
    assert_eq!(texts, expected);
    assert!(warnings[0].is_key_exposed() && !warnings[0].is_out_of_date());
    assert!(warnings[1].is_out_of_date() && !warnings[1].is_key_exposed());
    assert_eq!(warnings[0].path(), Some(&*key));
    // A damaged file leaves these too.
    fs::write(&cert, "").unwrap();
    tls.reload().unwrap_err();
    assert_eq!(tls.warnings(), warnings);
}

#[tokio::test]
async fn what_replaces_a_configuration_is_reloaded_from_then_on() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (authority.issue(&["mx.test"]), authority.issue(&["mx.test"]));
    let (cert, key) = old.write(directory.path());
    let tls = TlsConfig::from_pem_files(&cert, &key).unwrap();
    let server = tls_server(&tls);
    tls.replace(&TlsBuilder::new(new.source()).build().unwrap());
    tls.reload().unwrap();
    let client = authority.client(TLS13, None);
    let client = secured(&server, &client, "mx.test").await.unwrap();
    assert!(shown(&client) == new.der);
}

#[tokio::test(start_paused = true)]
async fn a_watched_file_is_read_again_when_it_has_changed() {
    const MINUTE: Duration = Duration::from_secs(60);
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (authority.issue(&["mx.test"]), authority.issue(&["mx.test"]));
    let (cert, key) = old.write(directory.path());
    let tls = TlsConfig::from_pem_files(&cert, &key).unwrap();
    let server = tls_server(&tls);
    let (tell, mut told) = mpsc::unbounded_channel();
    let watch = tls.watch(MINUTE, move |tls, result| {
        let told = result.map(|()| tls.warnings());
        tell.send(told.map_err(|e| e.to_string())).unwrap();
    });
    let watch = tokio::spawn(watch);
    let begun = Instant::now();
    sleep(10 * MINUTE).await;
    assert!(told.try_recv().is_err(), "nothing has changed");

    // The certificate comes before its key: that is logged once, not each minute.
    fs::write(&cert, &new.pem).unwrap();
    let fault = told.recv().await.unwrap().unwrap_err();
    assert!(fault.ends_with("key.pem: the key does not fit the certificate"));
    sleep(10 * MINUTE).await;
    assert!(told.try_recv().is_err(), "nothing has changed");
    fs::write(&key, &new.key_pem).unwrap();
    assert_eq!(told.recv().await.unwrap(), Ok(tls.warnings()));
    assert!(begun.elapsed() <= 23 * MINUTE);
    let client = authority.client(TLS13, None);
    let client = secured(&server, &client, "mx.test").await.unwrap();
    assert!(shown(&client) == new.der);

    // What was read by hand is not read again.
    old.write(directory.path());
    tls.reload().unwrap();
    sleep(10 * MINUTE).await;
    assert!(told.try_recv().is_err());

    drop((server, tls, client));
    watch.await.unwrap();
}

#[tokio::test]
async fn client_certificates_optional_and_required() {
    let (authority, other) = (Authority::new(), Authority::new());
    let issued = authority.issue(&["mx.test"]);
    let optional = ClientCertificates::from_pem(authority.pem());
    let fred = authority.issue(&["fred@example.org"]);
    let expired = authority.issue_until(&["fred@example.org"], 2001);
    let stranger = other.issue(&["fred@example.org"]);
    for versions in [TLS12, TLS13] {
        for (own, optional_sees, required_sees) in [
            (None, Some("0 shown "), None),
            (
                Some(&fred),
                Some("1 shown fred@example.org"),
                Some("1 shown fred@example.org"),
            ),
            (Some(&expired), Some("0 shown "), None),
            (Some(&stranger), Some("0 shown "), None),
        ] {
            let client = authority.client(versions, own);
            let required = optional.clone().required();
            for (clients, sees) in [(optional.clone(), optional_sees), (required, required_sees)] {
                let server = tls_server(&with_clients(&issued, clients));
                let seen = try_facts(&server, &client).await;
                assert_eq!(seen.as_deref(), sees);
            }
            // A client that is not asked shows nothing.
            let server = tls_server(&TlsBuilder::new(issued.source()).build().unwrap());
            assert_eq!(
                try_facts(&server, &client).await.as_deref(),
                Some("0 shown ")
            );
        }
    }
}

#[tokio::test]
async fn external_goes_by_the_certificate() {
    let authority = Authority::new();
    let issued = authority.issue(&["mx.test"]);
    let clients = ClientCertificates::from_pem(authority.pem());
    let server = tls_server(&with_clients(&issued, clients));
    let fred = authority.issue(&["fred@example.org", "f@example.org"]);
    let nameless = authority.issue(&["client.test"]);
    for versions in [TLS12, TLS13] {
        let anonymous = authority.client(versions, None);
        let mut client = secured(&server, &anonymous, "mx.test").await.unwrap();
        let ehlo = client.cmd("EHLO c", "250").await;
        assert!(
            ehlo.contains("AUTH PLAIN LOGIN") && !ehlo.contains("EXTERNAL"),
            "{ehlo}"
        );
        client.cmd("AUTH EXTERNAL =", "504 5.5.4").await;

        // The second session is resumed, and nobody looks at the certificate in its handshake.
        let fred = authority.client(versions, Some(&fred));
        for resumed in ["", " resumed"] {
            for (response, reply) in [
                ("=", "235"),
                ("ZnJlZEBleGFtcGxlLm9yZw==", "235"), // fred@example.org
                ("ZkBleGFtcGxlLm9yZw==", "235"),     // f@example.org
                ("Ym9iQGV4YW1wbGUub3Jn", "535"),     // bob@example.org
            ] {
                let mut client = secured(&server, &fred, "mx.test").await.unwrap();
                let ehlo = client.cmd("EHLO c", "250").await;
                assert!(ehlo.contains("AUTH PLAIN LOGIN EXTERNAL"), "{ehlo}");
                client
                    .cmd(&format!("AUTH EXTERNAL {response}"), reply)
                    .await;
                let facts = client.cmd("MAIL FROM:<a@b.c>", "250").await;
                assert!(
                    facts.contains("1 shown fred@example.org f@example.org"),
                    "{facts}"
                );
                assert!(facts.ends_with(resumed), "{facts}");
            }
        }
        let nameless = authority.client(versions, Some(&nameless));
        let mut client = greeted(&server, &nameless).await;
        client.cmd("AUTH EXTERNAL =", "535").await;
    }
}

/// A ticket is a certificate that was verified once; an authority that is not trusted any more has none.
#[tokio::test]
async fn a_ticket_does_not_outlive_the_authority() {
    let (authority, other) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    fs::write(&ca, authority.pem()).unwrap();
    let issued = authority.issue(&["mx.test"]);
    let tls = with_clients(&issued, ClientCertificates::from_file(&ca));
    let server = tls_server(&tls);
    let client = authority.client(TLS13, Some(&authority.issue(&["fred@example.org"])));
    let seen = try_facts(&server, &client).await.unwrap();
    assert_eq!(seen, "1 shown fred@example.org");
    fs::write(&ca, other.pem()).unwrap();
    tls.reload().unwrap();
    assert_eq!(try_facts(&server, &client).await.unwrap(), "0 shown ");
}

async fn greeted(server: &Server, client: &ClientConfig) -> TlsClient {
    let mut client = secured(server, client, "mx.test").await.unwrap();
    client.cmd("EHLO c", "250").await;
    client
}

async fn facts(client: &mut TlsClient) -> String {
    let reply = client.cmd("MAIL FROM:<a@b.c>", "250 2.0.0 ").await;
    reply["250 2.0.0 ".len()..].to_owned()
}

/// `None` if the handshake fails: in TLS 1.3, a client learns that from the first reply.
async fn try_facts(server: &Server, client: &ClientConfig) -> Option<String> {
    let mut client = secured(server, client, "mx.test").await.ok()?;
    client.try_send("EHLO c\r\n").await.ok()?;
    // With TLS 1.3 a client learns by an alert instead of the first reply that it is refused.
    let ehlo = client.try_reply().await.ok()?;
    if ehlo.is_empty() {
        return None;
    }
    Some(facts(&mut client).await)
}
