//! TLS, and what is required of it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{DnType, SerialNumber};
use support::pki::{Anybody, Authority, Issued, TLS13, connect_tls, handshake, shown};
use tokio::net::TcpStream;
use tokio_rustls::rustls::{
    SignatureScheme,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::{Reference, announced, codes_of, message, start};

/// What is written for a certificate and its key.
fn options_of(cert: &Path, key: &Path) -> [String; 2] {
    [
        format!("--tls-cert={}", cert.display()),
        format!("--tls-key={}", key.display()),
    ]
}

/// The certificate that a server shows for that name.
async fn certificate_for(server: &Reference, name: &str) -> CertificateDer<'static> {
    shown(&connect_tls(server.address("smtps"), &Anybody::new().client(), name).await)
}

fn start_tls(options: &[&str]) -> Reference {
    Reference::start(1, &[&["--listen-tls=127.0.0.1:0"], options].concat())
}

/// With certificate and key in one file.
pub(super) async fn tls_cert() {
    let dir = tempfile::tempdir().unwrap();
    let issued = Authority::new().issue(&["mx.test"]);
    let file = dir.path().join("both.pem");
    fs::write(&file, format!("{}{}", issued.pem, issued.key_pem)).unwrap();
    let server = start_tls(&[&format!("--tls-cert={}", file.display())]);
    assert!(certificate_for(&server, "mx.test").await == issued.der);
    each_client_receives_the_certificate_that_it_can_verify().await;
}

fn fixture(name: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../smtpd-tower/tests/fixtures");
    fixtures.join(name)
}

/// The names of the certificates do not matter to these clients, which request none.
async fn each_client_receives_the_certificate_that_it_can_verify() {
    let files = ["ec", "rsa"].map(|kind| {
        let file = |ending| fixture(&format!("{kind}.{ending}"));
        (file("crt"), file("key"))
    });
    let options = files.each_ref().map(|(cert, key)| options_of(cert, key));
    let options: Vec<_> = options.iter().flatten().map(String::as_str).collect();
    let server = start_tls(&options);
    for (scheme, cert) in [
        (SignatureScheme::ECDSA_NISTP256_SHA256, Some(0)),
        (SignatureScheme::ED25519, None),
        (SignatureScheme::RSA_PSS_SHA256, Some(1)),
    ] {
        let config = Anybody::signing_by(&[scheme]).client();
        let io = TcpStream::connect(server.address("smtps")).await.unwrap();
        let received = handshake(io, &config, "127.0.0.1")
            .await
            .as_ref()
            .map(shown)
            .ok();
        let expected = cert.map(|cert| CertificateDer::from_pem_file(&files[cert].0).unwrap());
        assert!(received == expected, "{scheme:?}");
    }
}

pub(super) async fn tls_key() {
    let dir = tempfile::tempdir().unwrap();
    let issued = Authority::new().issue(&["mx.test"]);
    let (cert, key) = issued.write(dir.path());
    let server = start_tls(&options_of(&cert, &key).each_ref().map(String::as_str));
    assert!(certificate_for(&server, "mx.test").await == issued.der);

    let passphrase = dir.path().join("passphrase");
    fs::write(&passphrase, "correct horse").unwrap();
    let mut options = options_of(&cert, &fixture("p521-pkcs8-aes256.key")).to_vec();
    options.push(format!(
        "--tls-key-passphrase-file={}",
        passphrase.display()
    ));
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let refused = Reference::command(&dir, &options).output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        said.contains("keys on the curve P-521 are not supported"),
        "{said}"
    );
}

/// Both keys are under it, that of `--sni` too.
pub(super) async fn tls_key_passphrase_file() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = |name: &str| -> PathBuf {
        let folder = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../smtpd-tower/tests/fixtures"
        );
        Path::new(folder).join(name)
    };
    let passphrase = dir.path().join("passphrase");
    fs::write(&passphrase, "correct horse\n").unwrap();
    let (rsa, rsa_key) = (fixture("rsa.crt"), fixture("rsa-pkcs8-aes256.key"));
    let (ec, ec_key) = (fixture("ec.crt"), fixture("ec-pkcs8-aes256.key"));
    let [cert, key] = options_of(&rsa, &rsa_key);
    let sni = format!("--sni=ec.test={},{}", ec.display(), ec_key.display());
    let passphrase = format!("--tls-key-passphrase-file={}", passphrase.display());
    let server = start_tls(&[&cert, &key, &sni, &passphrase]);
    for (name, file) in [("mx.test", rsa), ("ec.test", ec)] {
        let expected = CertificateDer::from_pem_file(file).unwrap();
        assert!(certificate_for(&server, name).await == expected, "{name}");
    }
}

/// Another one at each start.
pub(super) async fn tls_self_signed() {
    let announcement = announced(&start(&["--tls-self-signed=false"]), "smtp").await;
    assert!(!announcement.contains("STARTTLS"), "{announcement}");
    let announcement = announced(&start(&["--tls-self-signed"]), "smtp").await;
    assert!(announcement.contains("STARTTLS"), "{announcement}");
    let (one, two) = (
        start_tls(&["--tls-self-signed"]),
        start_tls(&["--tls-self-signed"]),
    );
    assert!(certificate_for(&one, "mx.test").await != certificate_for(&two, "mx.test").await);
}

/// The same one at each start, beside the Maildir.
pub(super) async fn tls_self_signed_keep() {
    let dir = tempfile::tempdir().unwrap();
    let maildir = format!("--maildir={}", dir.path().join("mail").display());
    let mut seen = Vec::new();
    for _ in 0..2 {
        let server = start_tls(&["--tls-self-signed-keep", &maildir]);
        seen.push(certificate_for(&server, "mx.test").await);
    }
    assert!(seen[0] == seen[1]);
    let kept = CertificateDer::from_pem_file(dir.path().join("smtpd-cert.pem")).unwrap();
    assert!(kept == seen[0]);
    assert!(dir.path().join("smtpd-key.pem").exists());
}

pub(super) async fn sni() {
    let (own, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let authority = Authority::new();
    let (first, second) = (
        authority.issue(&["mx.test"]),
        authority.issue(&["*.guest.test"]),
    );
    let (cert, key) = first.write(own.path());
    let (guest_cert, guest_key) = second.write(others.path());
    let sni = format!(
        "--sni=*.guest.test={},{}",
        guest_cert.display(),
        guest_key.display()
    );
    let [cert, key] = options_of(&cert, &key);
    let server = start_tls(&[&cert, &key, &sni]);
    assert!(certificate_for(&server, "mail.guest.test").await == second.der);
    assert!(certificate_for(&server, "other.test").await == first.der);
}

/// A client with a certificate of that authority is the user that it names.
pub(super) async fn client_ca() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, foreign) = (Authority::new(), Authority::new());
    let issued = ours.issue(&["mx.test"]);
    let (cert, key) = issued.write(dir.path());
    let ca = dir.path().join("ca.pem");
    fs::write(&ca, ours.pem()).unwrap();
    let [cert, key] = options_of(&cert, &key);
    let ca = format!("--client-ca={}", ca.display());
    let server = start_tls(&[&cert, &key, &ca, "--user=fred@example.org:secret"]);
    let address = server.address("smtps");
    let own = ours.issue(&["fred@example.org"]);
    let mut client = connect_tls(address, &ours.client(TLS13, Some(&own)), "mx.test").await;
    let announced = client.cmd("EHLO c", "250").await;
    assert!(announced.contains("EXTERNAL"), "{announced}");
    client.cmd("AUTH EXTERNAL =", "235").await;
    // That of a stranger is as good as none: the session goes on without.
    let other = foreign.issue(&["fred@example.org"]);
    let mut client = connect_tls(address, &ours.client(TLS13, Some(&other)), "mx.test").await;
    let announced = client.cmd("EHLO c", "250").await;
    assert!(!announced.contains("EXTERNAL"), "{announced}");
    client.cmd("AUTH EXTERNAL =", "504").await;
}

/// A server whose users log in by certificates of that authority.
fn start_for(authority: &Authority, dir: &Path, options: &[&str]) -> Reference {
    let (cert, key) = authority.issue(&["mx.test"]).write(dir);
    let ca = dir.join("ca.pem");
    fs::write(&ca, authority.pem()).unwrap();
    let [cert, key] = options_of(&cert, &key);
    let ca = format!("--client-ca={}", ca.display());
    let common = [&cert, &key, &ca, "--user=fred@example.org:secret"];
    start_tls(&[&common, options].concat())
}

/// Returns the reply to a client that tries to log in with that certificate.
async fn login(server: &Reference, authority: &Authority, own: &Issued) -> String {
    let config = authority.client(TLS13, Some(own));
    let mut client = connect_tls(server.address("smtps"), &config, "mx.test").await;
    client.cmd("EHLO c", "250").await;
    client.send("AUTH EXTERNAL =\r\n").await;
    client.try_reply().await.unwrap()[..3].to_owned()
}

pub(super) async fn client_crl() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let list = dir.path().join("crl.pem");
    fs::write(&list, authority.revoke(&[7], 4000)).unwrap();
    let option = format!("--client-crl={}", list.display());
    let server = start_for(&authority, dir.path(), &[&option]);
    for (serial, code) in [(7_u64, "504"), (8, "235")] {
        let own = authority.issue_with(&["fred@example.org"], |params| {
            params.serial_number = Some(SerialNumber::from(serial));
        });
        assert_eq!(login(&server, &authority, &own).await, code);
    }
}

pub(super) async fn client_common_name() {
    let authority = Authority::new();
    let named = authority.issue_with(&[], |params| {
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, "fred@example.org");
    });
    for (option, code) in [
        ("--client-common-name=true", "235"),
        ("--client-common-name=false", "535"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let server = start_for(&authority, dir.path(), &[option]);
        assert_eq!(login(&server, &authority, &named).await, code, "{option}");
    }
}

pub(super) async fn ignore_alpn() {
    let authority = Authority::new();
    let mut config = authority.client(TLS13, None);
    config.alpn_protocols = vec![b"h2".to_vec()];
    for (option, welcome) in [("--ignore-alpn=false", false), ("--ignore-alpn", true)] {
        let dir = tempfile::tempdir().unwrap();
        let server = start_for(&authority, dir.path(), &[option]);
        let io = TcpStream::connect(server.address("smtps")).await.unwrap();
        let connected = handshake(io, &config, "mx.test").await;
        assert_eq!(connected.is_ok(), welcome, "{option}");
    }
}

pub(super) async fn require_tls() {
    let text = message("x\r\n");
    for (options, code) in [
        (&[][..], "250"),
        (&["--require-tls=false"], "250"),
        (&["--require-tls=true"], "530"),
        (&["--require-tls"], "530"),
    ] {
        let server = start(&[&["--tls-self-signed"], options].concat());
        assert_eq!(codes_of(&server, &text).await[2], code, "{options:?}");
    }
}
