//! SCRAM bound to the TLS channel, by each binding and in each version of TLS.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use rsasl::{
    callback::{Context, Request as SaslRequest, SessionCallback, SessionData},
    mechanisms::scram::SCRAM_SHA256_PLUS,
    prelude::{
        ChannelBindingCallback, Mechanism, Mechname, Registry, SASLClient, SASLConfig, SessionError,
    },
    property::{AuthId, Password},
};
use sha2::{Digest, Sha256};
use smtpd_tower::{
    Auth, Request, Secret, Server, handler_fn,
    sasl::{Mechanisms, Scram},
    tls::{ServerCertificate, TlsBuilder, TlsConfig},
};
use support::pki::{Anybody, Authority, Issued, TLS12, TLS13, secured, shown};
use support::*;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio_rustls::{client::TlsStream, rustls::SignatureScheme};

const BOTH: &str = "AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256";

fn scram_server(tls: &TlsConfig) -> Server {
    let auth = handler_fn(async |_: Request<Auth>| Secret::password("pencil"));
    let mechanisms = Mechanisms::none()
        .with(Scram::sha256().plus())
        .with(Scram::sha256());
    server(accept_rcpt().auth(auth))
        .tls(tls.clone())
        .configure(|config| config.mechanisms(mechanisms))
}

#[tokio::test]
async fn scram_binds_to_the_exporter() {
    let authority = Authority::new();
    let issued = authority.issue(&["mx.test"]);
    for (versions, extended_master_secret, binds) in [
        (TLS13, false, true),
        (TLS12, true, true),
        (TLS12, false, false),
    ] {
        let tls = TlsBuilder::new(issued.source())
            .require_extended_master_secret(extended_master_secret)
            .build()
            .unwrap();
        let client = authority.client(versions, None);
        let mut client = secured(&scram_server(&tls), &client, "mx.test")
            .await
            .unwrap();
        let ehlo = client.cmd("EHLO c", "250").await;
        if !binds {
            // Bound to nothing but the certificate, a client that knows `tls-unique` alone would fail.
            assert!(ehlo.ends_with("AUTH SCRAM-SHA-256"), "{ehlo}");
            client.cmd("AUTH SCRAM-SHA-256-PLUS", "504 5.5.4").await;
            client
                .cmd("AUTH SCRAM-SHA-256 eSwsbj1hbGljZSxyPWFiYw==", "334")
                .await;
            client.cmd("*", "501").await;
            continue;
        }
        assert!(ehlo.ends_with(BOTH), "{ehlo}");
        // A client that could have bound, and did not see that it can (RFC 5802 section 6): `y,,n=alice,r=abc`.
        client
            .cmd("AUTH SCRAM-SHA-256 eSwsbj1hbGljZSxyPWFiYw==", "535")
            .await;
        let exported = exported(&client);
        let mut elsewhere = exported;
        elsewhere[0] ^= 1;
        assert!(!scram_plus(&mut client, elsewhere).await);
        assert!(scram_plus(&mut client, exported).await);
    }
}

/// RFC 5929 section 4: the certificate is that which the client was shown.
#[tokio::test]
async fn scram_binds_to_the_certificate_that_was_shown() {
    let authority = Authority::new();
    let (first, second) = (
        authority.issue(&["mx.test"]),
        authority.issue(&["mx2.test"]),
    );
    let tls = TlsBuilder::new(first.source())
        .certificate(second.source())
        .bind_to_certificate_alone(true)
        .build()
        .unwrap();
    let server = scram_server(&tls);
    for versions in [TLS12, TLS13] {
        let client = authority.client(versions, None);
        // The second session of each name is resumed: no certificate is shown, and the same is meant.
        for (name, own, other) in [
            ("mx.test", &first, &second),
            ("mx2.test", &second, &first),
            ("mx.test", &first, &second),
        ] {
            let mut client = secured(&server, &client, name).await.unwrap();
            assert!(shown(&client) == own.der);
            client.cmd("EHLO c", "250").await;
            let other = Sha256::digest(&other.der);
            assert!(!end_point(&mut client, &other).await);
            assert!(end_point(&mut client, &Sha256::digest(&own.der)).await);
        }
    }
}

/// Two certificates for the same name: the client is shown the one whose key it can verify.
#[tokio::test]
async fn scram_binds_to_the_certificate_that_the_client_can_verify() {
    let ecdsa = Issued::alone("mail.example.org");
    let fixture = |name: &str| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/smtpd-tower/tests/fixtures");
        std::fs::read(format!("{folder}/{name}")).unwrap()
    };
    let rsa = ServerCertificate::from_pem(fixture("rsa.crt"), fixture("rsa.key"));
    let tls = TlsBuilder::new(ecdsa.source())
        .certificate(rsa)
        .bind_to_certificate_alone(true)
        .build()
        .unwrap();
    let server = scram_server(&tls);
    for (scheme, is_first) in [
        (SignatureScheme::ECDSA_NISTP256_SHA256, true),
        (SignatureScheme::RSA_PSS_SHA256, false),
    ] {
        let config = Anybody::signing_by(&[scheme]).client();
        // No name: the default certificate, or one like it.
        for name in ["mail.example.org", "127.0.0.1"] {
            let mut client = secured(&server, &config, name).await.unwrap();
            let received = shown(&client);
            assert_eq!(received == ecdsa.der, is_first, "{scheme:?} {name}");
            client.cmd("EHLO c", "250").await;
            assert!(end_point(&mut client, &Sha256::digest(&received)).await);
        }
    }
}

#[tokio::test]
async fn nothing_is_bound_to_where_nothing_is_known_of_the_channel() {
    let authority = Authority::new();
    let issued = authority.issue(&["mx.test"]);
    let client = authority.client(TLS12, None);
    let mut plain = Client::greeted(&scram_server(
        &TlsBuilder::new(issued.source()).build().unwrap(),
    ))
    .await;
    let ehlo = plain.cmd("EHLO c", "250").await;
    assert!(ehlo.ends_with("AUTH SCRAM-SHA-256"), "{ehlo}");

    let tls = TlsConfig::from(issued.server_config());
    let mut client = secured(&scram_server(&tls), &client, "mx.test")
        .await
        .unwrap();
    let ehlo = client.cmd("EHLO c", "250").await;
    assert!(ehlo.ends_with("AUTH SCRAM-SHA-256"), "{ehlo}");
    client.cmd("AUTH SCRAM-SHA-256-PLUS", "504").await;
}

fn exported(client: &Client<TlsStream<DuplexStream>>) -> [u8; 32] {
    let tls = client.io().get_ref().1;
    tls.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b""))
        .unwrap()
}

/// Authenticates by SCRAM-SHA-256-PLUS with this hash of a certificate.
async fn end_point<IO: AsyncRead + AsyncWrite + Unpin>(
    client: &mut Client<IO>,
    hash: &[u8],
) -> bool {
    const HEADER: &str = "p=tls-server-end-point,,";
    const FIRST: &str = "n=alice,r=abc";
    let first = STANDARD.encode(format!("{HEADER}{FIRST}"));
    let challenge = client
        .cmd(&format!("AUTH SCRAM-SHA-256-PLUS {first}"), "334 ")
        .await;
    let challenge = STANDARD.decode(&challenge[4..]).unwrap();
    let challenge = String::from_utf8(challenge).unwrap();
    let parts: Vec<_> = challenge.split(',').map(|part| &part[2..]).collect();
    let (nonce, salt) = (parts[0], STANDARD.decode(parts[1]).unwrap());
    let mut salted = [0; 32];
    pbkdf2::pbkdf2_hmac::<Sha256>(b"pencil", &salt, parts[2].parse().unwrap(), &mut salted);
    let bound = STANDARD.encode([HEADER.as_bytes(), hash].concat());
    let last = format!("c={bound},r={nonce}");
    let key = hmac(&salted, "Client Key");
    let signature = hmac(
        &Sha256::digest(&key),
        &format!("{FIRST},{challenge},{last}"),
    );
    let proof: Vec<_> = key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
    let last = STANDARD.encode(format!("{last},p={}", STANDARD.encode(proof)));
    client.send(format!("{last}\r\n")).await;
    if !client.reply().await.starts_with("334 ") {
        return false;
    }
    client.cmd("", "235").await;
    true
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// Authenticates with rsasl's client, which believes to be on that channel.
async fn scram_plus<IO: AsyncRead + AsyncWrite + Unpin>(
    client: &mut Client<IO>,
    exported: [u8; 32],
) -> bool {
    static PLUS: &[Mechanism] = &[SCRAM_SHA256_PLUS];
    let config = SASLConfig::builder()
        .with_registry(Registry::with_mechanisms(PLUS))
        .with_callback(Alice(exported))
        .unwrap();
    let name = Mechname::parse(b"SCRAM-SHA-256-PLUS").unwrap();
    let mut sasl = SASLClient::with_cb(config, Alice(exported))
        .start_suggested(&[name])
        .unwrap();
    let mut sent = Vec::new();
    sasl.step64(None, &mut sent).unwrap();
    let mut line = format!("AUTH {name} {}", String::from_utf8(sent).unwrap());
    loop {
        client.send(format!("{line}\r\n")).await;
        let reply = client.reply().await;
        let Some(challenge) = reply.strip_prefix("334 ") else {
            return reply.starts_with("235 ");
        };
        let mut sent = Vec::new();
        sasl.step64(Some(challenge.as_bytes()), &mut sent).unwrap();
        line = String::from_utf8(sent).unwrap();
    }
}

/// With the channel that she believes to be on.
struct Alice([u8; 32]);

impl ChannelBindingCallback for Alice {
    fn get_cb_data(&self, name: &str) -> Option<&[u8]> {
        (name == "tls-exporter").then_some(&self.0)
    }
}

impl SessionCallback for Alice {
    fn callback(
        &self,
        _: &SessionData,
        _: &Context<'_>,
        request: &mut SaslRequest<'_>,
    ) -> Result<(), SessionError> {
        request
            .satisfy::<AuthId>("alice")?
            .satisfy::<Password>(b"pencil")?;
        Ok(())
    }

    fn enable_channel_binding(&self) -> bool {
        true
    }
}
