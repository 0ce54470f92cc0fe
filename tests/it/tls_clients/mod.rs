//! Certificates of clients that are odd or revoked, what is in a name, and the protocols that clients ask for.

mod forge;

use std::{fs, sync::Arc};

use forge::worthless;
use rcgen::{
    CrlDistributionPoint, CrlIssuingDistributionPoint, CrlScope, CustomExtension, DnType,
    GeneralSubtree, NameConstraints, SerialNumber, date_time_ymd,
};
use smtpd_tower::{
    Auth, Identity, Mail, Reply, Request, Server, handler_fn,
    sasl::{External, Mechanisms},
    tls::{ClientCertificates, TlsBuilder, TlsConfig},
};
use support::pki::{Authority, Issued, Shown, TLS12, TLS13, Versions, secured};
use support::*;
use tokio_rustls::rustls::{
    self, AlertDescription, ClientConfig, SignatureScheme as Scheme, pki_types::CertificateDer,
    sign::SigningKey,
};

/// The reply to MAIL shows what the session knows about the client's certificate.
fn tls_server(tls: &TlsConfig) -> Server {
    let facts = handler_fn(async |request: Request<Mail>| {
        let tls = request.session().tls().unwrap();
        let names = tls.client_names().unwrap_or_default();
        let common = names.common_name().unwrap_or("nobody");
        Reply::ok(format!("{} shown {common}", tls.peer_certificates().len()))
    });
    let login = handler_fn(async |_: Request<Auth>| Identity::new("somebody"));
    server(accept_rcpt().auth(login).mail(facts))
        .tls(tls.clone())
        .configure(|config| config.mechanisms(Mechanisms::default().with(External)))
}

fn with_clients(issued: &Issued, clients: ClientCertificates) -> TlsConfig {
    let tls = TlsBuilder::new(issued.source()).client_certificates(clients);
    tls.build().unwrap()
}

/// Returns what the session knows, or `None` if the handshake fails, which a client of TLS 1.3 learns from the first reply.
/// EXTERNAL is offered to clients with a certificate.
async fn facts(server: &Server, client: &ClientConfig) -> Option<String> {
    let mut client = secured(server, client, "mx.test").await.ok()?;
    client.try_send("EHLO c\r\n").await.ok()?;
    let ehlo = client.try_reply().await.ok()?;
    assert!(!ehlo.is_empty(), "closed without an alert");
    let reply = client.cmd("MAIL FROM:<a@b.c>", "250 2.0.0 ").await;
    let facts = reply["250 2.0.0 ".len()..].to_owned();
    assert_eq!(ehlo.contains("EXTERNAL"), !facts.starts_with('0'), "{ehlo}");
    Some(facts)
}

/// Clients whose certificates count as none, with what is wrong with them. For some of these certificates, nobody can verify
/// that the client has the key.
fn odd_clients(authority: &Authority, versions: Versions<'_>) -> Vec<(&'static str, ClientConfig)> {
    let good = authority.issue(&["client.test"]);
    let forged = |change: &dyn Fn(&mut forge::Parts)| forge::forged(authority, &good, change);
    let keyed = |algorithm, key: &[u8]| forged(&|parts| parts.key(algorithm, key));
    let critical = authority.issue_with(&["client.test"], |params| {
        let mut unknown = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        unknown.set_criticality(true);
        params.custom_extensions = vec![unknown];
    });
    let expired = authority.issue_until(&["client.test"], 2001);
    let stranger = Authority::new().issue(&["client.test"]);
    let of_sha1 = forge::signed(authority, &good, forge::ECDSA_SHA1, |_| {});
    let own = |issued: &Issued| (issued.der.clone(), issued.signing_key());
    let signed = |der| (der, good.signing_key());
    let pss = |der| (der, worthless(Scheme::RSA_PSS_SHA256));
    let ec = |der| (der, worthless(Scheme::ECDSA_NISTP256_SHA256));
    let ed448 = keyed(forge::ED448, &[7; 57]);
    let all: [(_, (CertificateDer<'static>, Arc<dyn SigningKey>)); 11] = [
        ("version 1", signed(forged(&forge::Parts::version_1))),
        ("unknown critical extension", own(&critical)),
        ("no certificate", signed(vec![0x30, 0].into())),
        ("RSA 1024", pss(keyed(forge::RSA, &forge::rsa(128)))),
        ("RSA 9000", pss(keyed(forge::RSA, &forge::rsa(1125)))),
        ("P-521", ec(keyed(forge::P521, &[4; 133]))),
        ("compressed point", ec(keyed(forge::P256, &[3; 33]))),
        ("Ed448", (ed448, worthless(Scheme::ED25519))),
        ("SHA-1", signed(of_sha1)),
        ("expired", own(&expired)),
        ("of a stranger", own(&stranger)),
    ];
    let client = |(der, key)| authority.client_showing(versions, Some(Shown::new(vec![der], key)));
    all.map(|(what, shown)| (what, client(shown))).into()
}

#[tokio::test]
async fn a_client_with_an_odd_certificate_gets_tls_and_counts_as_without() {
    let authority = Authority::new();
    let issued = authority.issue(&["mx.test"]);
    let optional = ClientCertificates::from_pem(authority.pem());
    let lenient = tls_server(&with_clients(&issued, optional.clone()));
    let strict = tls_server(&with_clients(&issued, optional.required()));
    for versions in [TLS12, TLS13] {
        for (what, client) in odd_clients(&authority, versions) {
            // The second session is resumed.
            for _ in 0..2 {
                let facts = facts(&lenient, &client).await;
                assert_eq!(facts.as_deref(), Some("0 shown nobody"), "{what}");
            }
            assert_eq!(facts(&strict, &client).await, None, "{what}");
        }
    }
}

#[tokio::test]
async fn a_client_without_the_key_of_its_certificate_gets_no_tls() {
    let authority = Authority::new();
    let issued = authority.issue(&["mx.test"]);
    let optional = ClientCertificates::from_pem(authority.pem());
    let server = tls_server(&with_clients(&issued, optional));
    let fred = authority.issue(&["fred@example.org"]);
    let other = authority.issue(&["other.test"]);
    let stranger = Authority::new().issue(&["fred@example.org"]);
    let rsa = forge::forged(&authority, &fred, |parts| {
        parts.key(forge::RSA, &forge::rsa(256));
    });
    for versions in [TLS12, TLS13] {
        let good = authority.client(versions, Some(&fred));
        let seen = facts(&server, &good).await;
        assert_eq!(seen.as_deref(), Some("1 shown tested"));
        for (der, key) in [
            (fred.der.clone(), other.signing_key()),
            (stranger.der.clone(), other.signing_key()),
            (fred.der.clone(), worthless(Scheme::ECDSA_NISTP256_SHA256)),
            (rsa.clone(), worthless(Scheme::RSA_PSS_SHA256)),
        ] {
            let shown = Shown::new(vec![der], key);
            let client = authority.client_showing(versions, Some(shown));
            assert_eq!(facts(&server, &client).await, None);
        }
    }
}

#[tokio::test]
async fn a_common_name_is_not_there_where_names_are_constrained() {
    let named = |params: &mut rcgen::CertificateParams| {
        params.distinguished_name.push(DnType::CommonName, "alice");
        params.subject_alt_names.clear();
    };
    let constrained = |params: &mut rcgen::CertificateParams| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("other.test".to_owned())],
            excluded_subtrees: vec![],
        });
    };
    let free = Authority::new();
    let bound = Authority::with(|params| {
        params.distinguished_name.push(DnType::CommonName, "bound");
        constrained(params);
    });
    let (free_sub, bound_sub) = (free.subordinate(|_| {}), free.subordinate(constrained));
    let of_bound = bound.subordinate(|_| {});
    let issued = free.issue(&["mx.test"]);
    let clients = ClientCertificates::from_pem(free.pem() + &bound.pem());
    let server = tls_server(&with_clients(&issued, clients));
    for (authority, between, name) in [
        (&free, None, "alice"),
        (&free_sub, Some(&free_sub), "alice"),
        (&bound_sub, Some(&bound_sub), "nobody"),
        (&bound, None, "nobody"),
        (&of_bound, Some(&of_bound), "nobody"),
    ] {
        let own = authority.issue_with(&["client.test"], named);
        let between = between.map(Authority::der);
        let count = 1 + usize::from(between.is_some());
        let chain = [own.der.clone()].into_iter().chain(between).collect();
        let shown = Shown::new(chain, own.signing_key());
        let client = free.client_showing(TLS13, Some(shown));
        let seen = facts(&server, &client).await.unwrap();
        assert_eq!(seen, format!("{count} shown {name}"));
    }
}

fn numbered(authority: &Authority, serial: u64) -> Issued {
    authority.issue_with(&["client.test"], |params| {
        params.serial_number = Some(SerialNumber::from(serial));
    })
}

#[tokio::test]
async fn a_revoked_certificate_does_not_verify_at_the_start_nor_after_a_reload() {
    let authority = Authority::new();
    let issued = authority.issue(&["mx.test"]);
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("crl.pem");
    fs::write(&list, authority.revoke(&[7], 4000)).unwrap();
    let optional = ClientCertificates::from_pem(authority.pem()).crl_file(&list);
    for (clients, none) in [
        (optional.clone(), Some("0 shown nobody")),
        (optional.required(), None),
    ] {
        fs::write(&list, authority.revoke(&[7], 4000)).unwrap();
        let tls = with_clients(&issued, clients);
        assert_eq!(tls.warnings(), []);
        let server = tls_server(&tls);
        for versions in [TLS12, TLS13] {
            let seven = authority.client(versions, Some(&numbered(&authority, 7)));
            let eight = authority.client(versions, Some(&numbered(&authority, 8)));
            assert_eq!(facts(&server, &seven).await.as_deref(), none);
            // The second session is resumed.
            for _ in 0..2 {
                let seen = facts(&server, &eight).await;
                assert_eq!(seen.as_deref(), Some("1 shown tested"));
            }
            fs::write(&list, authority.revoke(&[7, 8], 4000)).unwrap();
            tls.reload().unwrap();
            assert_eq!(facts(&server, &eight).await.as_deref(), none);
            fs::write(&list, authority.revoke(&[7], 4000)).unwrap();
            tls.reload().unwrap();
        }
    }
}

#[tokio::test]
async fn without_a_list_that_is_up_to_date_no_certificate_verifies() {
    let authority = Authority::new();
    let other = Authority::with(|params| {
        params.distinguished_name.push(DnType::CommonName, "Other");
    });
    let sub = authority.subordinate(|_| {});
    let issued = authority.issue(&["mx.test"]);
    let clients = ClientCertificates::from_pem(authority.pem() + &other.pem());
    let (fresh, of_sub) = (authority.revoke(&[7], 4000), sub.revoke(&[7], 4000));
    let missing =
        "no revocation list of the authority CN=Other: none of its certificates is accepted";
    let expired = "revocation list 1 expired on 2001-01-01: no certificate of its authority is accepted until \
                   there is a new one";
    for (lists, seen, warnings) in [
        (fresh.clone(), [1, 0, 0], vec![missing]),
        (fresh.clone() + &of_sub, [1, 2, 0], vec![missing]),
        (fresh + &other.revoke(&[7], 4000), [1, 0, 1], vec![]),
        (
            authority.revoke(&[], 2001),
            [0, 0, 0],
            vec![expired, missing],
        ),
    ] {
        let tls = with_clients(&issued, clients.clone().crl_pem(lists));
        let found: Vec<_> = tls.warnings().iter().map(ToString::to_string).collect();
        assert_eq!(found, warnings);
        for ((by, between), seen) in [(&authority, None), (&sub, Some(&sub)), (&other, None)]
            .into_iter()
            .zip(seen)
        {
            let own = numbered(by, 8);
            let chain = [own.der.clone()]
                .into_iter()
                .chain(between.map(Authority::der));
            let shown = Shown::new(chain.collect(), own.signing_key());
            let client = authority.client_showing(TLS13, Some(shown));
            let facts = facts(&tls_server(&tls), &client).await.unwrap();
            assert_eq!(
                facts,
                match seen {
                    0 => "0 shown nobody".to_owned(),
                    _ => format!("{seen} shown tested"),
                },
                "{warnings:?}"
            );
        }
    }
}

/// What the session knows of a client that shows a certificate with the serial number 7, and of one with 8.
async fn seven_and_eight(tls: &TlsConfig, by: &[&Authority]) -> [bool; 2] {
    let mut shown = [false; 2];
    for (serial, shown) in [7, 8].into_iter().zip(&mut shown) {
        let own = numbered(by[0], serial);
        let chain = [own.der.clone()].into_iter();
        let chain = chain.chain(by[..by.len() - 1].iter().map(|between| between.der()));
        let own = Shown::new(chain.collect(), own.signing_key());
        let root = by.last().unwrap();
        let client = root.client_showing(TLS13, Some(own));
        let facts = facts(&tls_server(tls), &client).await;
        *shown = facts.is_some_and(|facts| facts.ends_with("shown tested"));
    }
    shown
}

#[tokio::test]
async fn of_two_lists_of_an_authority_the_most_recent_one_counts_wherever_it_stands() {
    let authority = Authority::new();
    let issued = authority.issue(&["mx.test"]);
    let list = |serials: &[u64], year, number| {
        authority.revoke_with(serials, |list| {
            list.this_update = date_time_ymd(year, 1, 1);
            list.crl_number = SerialNumber::from(number);
            // Of one that is not used it does not matter whether it has expired.
            list.next_update = date_time_ymd(if serials.is_empty() { 2003 } else { 4000 }, 1, 1);
        })
    };
    for (old, new) in [
        (list(&[], 2000, 2), list(&[7], 2001, 3)),
        (list(&[], 2000, 255), list(&[7], 2000, 256)),
        (list(&[], 2001, 4), list(&[7], 2002, 4)),
    ] {
        for lists in [old.clone() + &new, new + &old] {
            let clients = ClientCertificates::from_pem(authority.pem()).crl_pem(lists);
            let tls = with_clients(&issued, clients);
            assert_eq!(tls.warnings(), []);
            assert_eq!(seven_and_eight(&tls, &[&authority]).await, [false, true]);
        }
    }
}

#[tokio::test]
async fn lists_of_an_authority_for_different_certificates_are_all_used() {
    let authority = Authority::new();
    let sub = authority.subordinate(|_| {});
    let issued = authority.issue(&["mx.test"]);
    let list = |serials: &[u64], year, scope| {
        authority.revoke_with(serials, |list| {
            list.this_update = date_time_ymd(year, 1, 1);
            let uris = vec!["http://crl.test/".to_owned()];
            list.issuing_distribution_point = Some(CrlIssuingDistributionPoint {
                distribution_point: CrlDistributionPoint { uris },
                scope: Some(scope),
            });
        })
    };
    let of_users = list(&[], 2000, CrlScope::UserCertsOnly);
    let newer_of_users = list(&[7], 2002, CrlScope::UserCertsOnly);
    let of_authorities = list(&[], 2001, CrlScope::CaCertsOnly);
    let lists = of_users + &of_authorities + &newer_of_users + &sub.revoke(&[8], 4000);
    let clients = ClientCertificates::from_pem(authority.pem()).crl_pem(lists);
    let tls = with_clients(&issued, clients);
    assert_eq!(seven_and_eight(&tls, &[&authority]).await, [false, true]);
    let by_sub = seven_and_eight(&tls, &[&sub, &authority]).await;
    assert_eq!(by_sub, [true, false]);
}

#[tokio::test]
async fn authorities_that_share_a_name_each_have_a_list() {
    let named = |name: &'static str| {
        move |params: &mut rcgen::CertificateParams| {
            params.distinguished_name.push(DnType::CommonName, name);
        }
    };
    let [old, new] = [Authority::new(), Authority::new()];
    let [other_old, other_new] = [(); 2].map(|()| Authority::with(named("Other")));
    let issued = old.issue(&["mx.test"]);
    let authorities = old.pem() + &new.pem() + &other_new.pem() + &other_old.pem();
    let lists = [
        old.revoke(&[7], 4000),
        new.revoke(&[8], 4000),
        other_old.revoke(&[8], 4000),
        other_new.revoke(&[7], 4000),
    ];
    let optional = ClientCertificates::from_pem(authorities);
    for clients in [optional.clone(), optional.required()] {
        for turn in 0..lists.len() {
            let (last, first) = lists.split_at(turn);
            let lists = [first.concat(), last.concat()].concat();
            let tls = with_clients(&issued, clients.clone().crl_pem(lists));
            assert_eq!(tls.warnings(), []);
            for (authority, seen) in [
                (&old, [false, true]),
                (&new, [true, false]),
                (&other_old, [true, false]),
                (&other_new, [false, true]),
            ] {
                let own = [7, 8].map(|serial| numbered(authority, serial));
                for (own, seen) in own.iter().zip(seen) {
                    let client = old.client(TLS13, Some(own));
                    let facts = facts(&tls_server(&tls), &client).await;
                    let shown = facts.is_some_and(|facts| facts.ends_with("shown tested"));
                    assert_eq!(shown, seen, "{turn}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_list_that_its_authority_has_not_signed_is_told_and_lets_nobody_in() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let issued = authority.issue(&["mx.test"]);
    let (good, bad) = (authority.revoke(&[7], 4000), stranger.revoke(&[8], 4000));
    let not_signed = |number| {
        format!(
            "revocation list {number} names the authority CN=rcgen self signed cert but is not signed with its key"
        )
    };
    let missing = "no revocation list of the authority CN=rcgen self signed cert: none of its certificates is accepted";
    for (lists, seen, warnings) in [
        (
            bad.clone(),
            [false; 2],
            vec![not_signed(1), missing.to_owned()],
        ),
        (bad.clone() + &good, [false, true], vec![not_signed(1)]),
        (good + &bad, [false, true], vec![not_signed(2)]),
    ] {
        let clients = ClientCertificates::from_pem(authority.pem()).crl_pem(lists);
        let tls = with_clients(&issued, clients);
        let found: Vec<_> = tls.warnings().iter().map(ToString::to_string).collect();
        assert_eq!(found, warnings);
        assert_eq!(seven_and_eight(&tls, &[&authority]).await, seen);
    }
}

#[test]
fn too_many_keys_for_the_same_names_are_an_error() {
    let names = ["a", "b", "c", "d", "e"];
    let twice = names.into_iter().chain(names);
    let all: Vec<_> = twice
        .map(|name| {
            Authority::with(|params| {
                params.distinguished_name.push(DnType::CommonName, name);
            })
        })
        .collect();
    let issued = all[0].issue(&["mx.test"]);
    let build = |all: &[Authority]| {
        let authorities: String = all.iter().map(Authority::pem).collect();
        let lists: String = all.iter().map(|one| one.revoke(&[], 4000)).collect();
        let clients = ClientCertificates::from_pem(authorities).crl_pem(lists);
        let tls = TlsBuilder::new(issued.source()).client_certificates(clients);
        tls.build().map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(build(&all[..9]), Ok(()));
    let text = "too many revocation lists of authorities that share a name but not a key";
    assert_eq!(build(&all), Err(text.to_owned()));
}

#[test]
fn a_list_that_cannot_be_used_is_named() {
    let authority = Authority::new();
    let issued = authority.issue(&["mx.test"]);
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("crl.pem");
    let good = authority.revoke(&[7], 4000);
    let damaged = "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n";
    fs::write(&list, &good).unwrap();
    let clients = ClientCertificates::from_pem(authority.pem()).crl_file(&list);
    let tls = with_clients(&issued, clients);
    for (text, fault) in [
        (
            authority.pem(),
            "no revocation list found (in PEM, as a section `X509 CRL`)",
        ),
        (good + damaged, "revocation list 2 cannot be used"),
        (
            damaged.replace('M', "!"),
            "damaged PEM: a section is not base64",
        ),
    ] {
        fs::write(&list, text).unwrap();
        let error = tls.reload().unwrap_err();
        assert_eq!(error.to_string(), format!("{}: {fault}", list.display()));
    }
    fs::remove_file(&list).unwrap();
    assert!(tls.reload().unwrap_err().is_io());
}

/// rustls would take an empty list for one that is not looked at.
#[test]
fn protocols_that_no_client_could_name_are_an_error() {
    let issued = Authority::new().issue(&["mx.test"]);
    let build = |names: &[&str]| {
        let tls = TlsBuilder::new(issued.source()).alpn_protocols(names.iter().copied());
        tls.build().map_err(|error| error.to_string())
    };
    let text = "ALPN needs at least one protocol, and names of 1 to 255 bytes";
    let long = "x".repeat(256);
    for names in [&[][..], &[""], &["smtp", ""], &[&long]] {
        assert_eq!(build(names).unwrap_err(), text, "{names:?}");
    }
    build(&[&long[..255]]).unwrap();
}

#[tokio::test]
async fn a_client_that_asks_for_another_protocol_gets_no_handshake() {
    let authority = Authority::new();
    let issued = authority.issue(&["mx.test"]);
    let default = || TlsBuilder::new(issued.source());
    let own = default().alpn_protocols(["lmtp", "smtp"]);
    for (tls, welcome) in [
        (default(), [true, false, true, true, false]),
        (own, [true, false, true, true, true]),
        (default().ignore_alpn(), [true; 5]),
    ] {
        let server = tls_server(&tls.build().unwrap());
        let asked: [&[&str]; 5] = [
            &[],
            &["h2", "http/1.1"],
            &["smtp"],
            &["h2", "smtp"],
            &["lmtp"],
        ];
        for (names, welcome) in asked.into_iter().zip(welcome) {
            for versions in [TLS12, TLS13] {
                let mut client = authority.client(versions, None);
                client.alpn_protocols = names.iter().map(|name| name.as_bytes().to_vec()).collect();
                let secured = secured(&server, &client, "mx.test").await;
                assert_eq!(secured.is_ok(), welcome, "{names:?}");
                if let Err(error) = secured {
                    let alert =
                        rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol);
                    assert_eq!(error.to_string(), alert.to_string());
                }
            }
        }
    }
}
