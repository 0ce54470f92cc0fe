//! lettre's client against the reference server: plain, STARTTLS, implicit TLS, each mechanism.

use lettre::{
    SmtpTransport, Transport,
    address::Envelope,
    transport::smtp::{
        authentication::{Credentials, Mechanism},
        client::{Tls, TlsParameters},
    },
};

use crate::reference::Reference;

#[test]
fn every_mode_and_mechanism_delivers_the_same_octets() {
    let options = "--listen 127.0.0.1:0 --listen-tls 127.0.0.1:0 --tls-self-signed --user alice:secret --allow-plaintext-auth";
    let server = Reference::start(2, &options.split(' ').collect::<Vec<_>>());
    let tls = || {
        TlsParameters::builder("mx.test".to_owned())
            .dangerous_accept_invalid_certs(true)
            .build_rustls()
            .unwrap()
    };
    let mut sent = Vec::new();
    for mechanism in [None, Some(Mechanism::Plain), Some(Mechanism::Login)] {
        for (kind, mode) in [
            ("smtp", Tls::None),
            ("smtp", Tls::Required(tls())),
            ("smtps", Tls::Wrapper(tls())),
        ] {
            let mut transport = SmtpTransport::builder_dangerous("127.0.0.1")
                .port(server.address(kind).port())
                .tls(mode);
            if let Some(mechanism) = mechanism {
                let credentials = Credentials::new("alice".to_owned(), "secret".to_owned());
                transport = transport
                    .credentials(credentials)
                    .authentication(vec![mechanism]);
            }
            let message =
                format!("Subject: {}\r\n\r\n.\r\n..dots\r\nfrom lettre", sent.len()).into_bytes();
            let recipients = vec![
                "user@example.org".parse().unwrap(),
                "other@example.org".parse().unwrap(),
            ];
            let envelope =
                Envelope::new(Some("alice@example.org".parse().unwrap()), recipients).unwrap();
            transport.build().send_raw(&envelope, &message).unwrap();
            // lettre ends every message with CRLF.CRLF.
            sent.push([&message[..], b"\r\n"].concat());
        }
    }
    let delivered = server.delivered();
    assert_eq!(delivered.len(), sent.len());
    for message in sent {
        assert_eq!(
            delivered
                .iter()
                .filter(|content| content.ends_with(&message))
                .count(),
            1
        );
    }
}
