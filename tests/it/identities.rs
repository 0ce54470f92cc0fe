//! Who a client is, and whether two addresses are one, in whole sessions.

use std::sync::{Arc, Mutex};

use smtpd_tower::{
    Auth, Data, DataReply, Mail, Pipeline, Rcpt, Reply, Request, Secret, Server,
    address::{AddressRules, Domain, ForwardPath},
    addresses::Addresses,
    deliver::Inbox,
    domains::Domains,
    extension::{Extensions, Standard},
    handler_fn,
    layer::{
        AllowClientsLayer, DenyClientsLayer, DenySendersLayer, DistinctRecipientsLayer,
        DomainFilterLayer, MaxRecipientsLayer, OwnSenderLayer, RateLimitLayer, RecipientsLayer,
    },
    limiter::Rate,
    net::{Cidr, CidrSet, TrustedPeers},
    reload::Reloadable,
    sasl::{CramMd5, Mechanisms, Scram, ScramHash, ScramKeys},
    test,
};
use support::*;
use tower::ServiceBuilder;

const NAMES: AddressRules = AddressRules::new().ignore_case(true);

/// A login that looks users up without regard to case, and has keys or the password of `alice`.
fn login(stored: Secret) -> Pipeline {
    Pipeline::new().auth(handler_fn(move |request: Request<Auth>| {
        let is_alice = NAMES.user(request.credentials().username()) == "alice";
        let secret = is_alice.then(|| stored.clone().with_user("alice"));
        async move { secret.ok_or_else(Reply::auth_failed) }
    }))
}

fn with_mechanisms(pipeline: Pipeline) -> Server {
    Server::new("mx.test", pipeline).configure(|config| {
        let all = Mechanisms::default()
            .with(CramMd5)
            .with(Scram::sha256().names(NAMES));
        config.mechanisms(all).allow_insecure_auth(true)
    })
}

#[tokio::test]
async fn a_user_that_writes_its_name_in_three_ways_has_three_quotas() {
    let keys = ScramKeys::derive(ScramHash::Sha256, "secret", b"salt", 4096).unwrap();
    for (stored, with_cram) in [
        (Secret::password("secret"), true),
        (Secret::scram(keys), false),
    ] {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let names = seen.clone();
        let mail = ServiceBuilder::new()
            .layer(RateLimitLayer::per_identity(Rate::per_hour(1).unwrap()))
            .service(handler_fn(async |_: Request<Mail>| {}));
        let mail = ServiceBuilder::new()
            .map_request(move |request: Request<Mail>| {
                let identity = request.session().identity().cloned();
                names.lock().unwrap().push(identity.unwrap().to_string());
                request
            })
            .service(mail);
        let server = with_mechanisms(login(stored).mail(mail));
        let mut codes = Vec::new();
        for (number, name) in ["ALICE", "alice", "Alice", "aLICE"].into_iter().enumerate() {
            let mut client = test::Client::connect(&server);
            client.greeting().await.unwrap();
            client.ehlo("c.test").await.unwrap();
            let reply = match number {
                0 => client.auth_plain(name, "secret").await,
                1 => client.auth_login(name, "secret").await,
                2 if with_cram => client.auth_cram_md5(name, "secret").await,
                _ => client.auth_scram_sha256(name, "secret").await,
            };
            reply.unwrap().expect_code(235).unwrap();
            let reply = client.mail("a@example.org").await.unwrap();
            codes.push(reply.code().as_u16());
        }
        assert_eq!(codes, [250, 451, 451, 451]);
        assert_eq!(*seen.lock().unwrap(), ["alice"; 4]);
    }
}

/// RFC 2033 section 4.2: a reply for each RCPT that was accepted, in their order.
#[tokio::test]
async fn a_recipient_that_is_named_twice_shifts_the_replies_to_those_behind_it() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let paths = seen.clone();
    let data = handler_fn(move |request: Request<Data>| {
        let recipients = request.envelope().recipients().iter();
        let recipients: Vec<_> = recipients.map(|one| one.path().to_string()).collect();
        *paths.lock().unwrap() = recipients.clone();
        async move {
            request.into_body().discard().await?;
            let replies = recipients
                .into_iter()
                .map(|path| match path.starts_with("full@") {
                    true => Reply::mailbox_full(),
                    false => Reply::ok(path),
                });
            Ok::<_, smtpd_tower::BodyError>(DataReply::each(replies))
        }
    });
    let rcpt = ServiceBuilder::new()
        .layer(MaxRecipientsLayer::new(5))
        .service(handler_fn(async |_: Request<Rcpt>| {}));
    let data = ServiceBuilder::new()
        .layer(DistinctRecipientsLayer::new())
        .service(data);
    let server = server(Pipeline::new().rcpt(rcpt).data(data));
    let mut client = lmtp(&server).await;
    for _ in 0..2 {
        client.cmd("MAIL FROM:<a@example.com>", "250").await;
        for recipient in [
            "b@example.org",
            "full@example.org",
            r#""b"@EXAMPLE.org"#,
            "full@Example.org",
            "c@example.org",
        ] {
            client.cmd(&format!("RCPT TO:<{recipient}>"), "250").await;
        }
        // The limit counts what was accepted.
        client.cmd("RCPT TO:<b@example.org>", "452 4.5.3").await;
        client.cmd("DATA", "354").await;
        client.send("Hello\r\n.\r\n").await;
        for reply in [
            "250 2.0.0 b@",
            "452 4.2.2",
            "250 2.0.0 b@",
            "452 4.2.2",
            "250 2.0.0 c@",
        ] {
            client.expect(reply).await;
        }
        client.cmd("NOOP", "250").await;
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        assert_eq!(seen, ["b@example.org", "full@example.org", "c@example.org"]);
    }
}

/// RFC 3461: whoever asks for a report of one and for none of the other has not said the same twice.
#[tokio::test]
async fn a_report_that_was_asked_for_is_lost_with_a_duplicate() {
    let inbox = Inbox::new();
    let data = ServiceBuilder::new()
        .layer(DistinctRecipientsLayer::new())
        .service(inbox.clone());
    let server = server(accept_rcpt().data(data))
        .configure(|config| config.extensions(Extensions::default().with(Standard::Dsn)));
    let mut client = lmtp(&server).await;
    client.cmd("MAIL FROM:<a@example.com>", "250").await;
    for parameters in [" NOTIFY=NEVER", "", " NOTIFY=NEVER", " NOTIFY=SUCCESS", ""] {
        client
            .cmd(&format!("RCPT TO:<b@example.org>{parameters}"), "250")
            .await;
    }
    client.cmd("DATA", "354").await;
    client.send("Hello\r\n.\r\n").await;
    for _ in 0..5 {
        client.expect("250").await;
    }
    client.cmd("NOOP", "250").await;
    let delivered = inbox.next().await;
    let recipients = delivered.envelope().recipients().iter();
    let asked = recipients.map(|one| one.parameters().iter().next().and_then(|(_, value)| value));
    let expected = [Some("NEVER"), None, Some("SUCCESS")];
    assert!(asked.eq(expected), "{delivered:?}");
}

#[tokio::test]
async fn lists_that_change_are_the_old_ones_until_a_restart() {
    let domains = Reloadable::new(Domains::parse(["example.org"]).unwrap());
    let users = Reloadable::new(Addresses::parse(["alice@example.org"]).unwrap());
    let rcpt = ServiceBuilder::new()
        .layer(DomainFilterLayer::new(domains.clone()))
        .layer(RecipientsLayer::new(users.clone()))
        .service(handler_fn(async |_: Request<Rcpt>| {}));
    let inbox = Inbox::new();
    let server = server(Pipeline::new().rcpt(rcpt).data(inbox.clone()));
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO client.example", "250").await;
    client.cmd("MAIL FROM:<a@example.com>", "250").await;
    client.cmd("RCPT TO:<alice@example.org>", "250").await;
    client.cmd("RCPT TO:<bob@example.org>", "550 5.1.1").await;
    client.cmd("RCPT TO:<bob@example.net>", "550 5.7.1").await;
    // In the middle of a transaction: what was accepted stays, and the next command sees the new lists.
    domains.set(Domains::parse(["example.net"]).unwrap());
    users.set(Addresses::parse(["bob@example.net"]).unwrap());
    client.cmd("RCPT TO:<alice@example.org>", "550 5.7.1").await;
    client.cmd("RCPT TO:<bob@example.net>", "250").await;
    client.cmd("RCPT TO:<POSTMASTER@example.net>", "250").await;
    client.cmd("RCPT TO:<postmaster>", "250").await;
    client.cmd("DATA", "354").await;
    client.send("Hello\r\n.\r\n").await;
    client.expect("250").await;
    let delivered = inbox.next().await;
    assert_eq!(delivered.envelope().recipients().len(), 4);
}

/// Whatever is mistyped in a list would otherwise match nothing, silently: mail bounces, or a client is not denied.
#[test]
fn a_text_that_never_matches_makes_no_layer() {
    let mistyped = |text: &str| {
        [
            ("Domains", Domains::parse([text]).is_err()),
            (
                "DomainFilterLayer",
                DomainFilterLayer::parse([text]).is_err(),
            ),
            ("Addresses", Addresses::parse([text]).is_err()),
            ("RecipientsLayer", RecipientsLayer::parse([text]).is_err()),
            ("DenySendersLayer", DenySendersLayer::parse([text]).is_err()),
            ("CidrSet", CidrSet::parse([text]).is_err()),
            ("TrustedPeers", TrustedPeers::parse([text]).is_err()),
            (
                "AllowClientsLayer",
                AllowClientsLayer::parse([text]).is_err(),
            ),
            ("DenyClientsLayer", DenyClientsLayer::parse([text]).is_err()),
            ("Domain", text.parse::<Domain>().is_err()),
            ("ForwardPath", text.parse::<ForwardPath>().is_err()),
            ("Cidr", text.parse::<Cidr>().is_err()),
        ]
    };
    for text in [
        "",
        " ",
        "@",
        ".",
        "*",
        " example.org",
        "example.org ",
        "@example.org",
        "*.example.org",
        ".example.org",
        "example..org",
        "a@example.org,b@example.org",
        "a@ example.org",
        "a@*.example.org",
        "a@[192.0.2.300]",
        "[192.0.2.300]",
        "192.0.2.0/33",
        "192.0.2.1/24",
        "fe80::1%eth0",
    ] {
        for (name, is_refused) in mistyped(text) {
            assert!(is_refused, "{name} of {text:?}");
        }
    }
    // A final dot is taken off where people write lists.
    let request = Rcpt::new("a@example.org".parse().unwrap());
    assert!(
        Domains::parse(["example.org."])
            .unwrap()
            .contains(&"example.org".parse().unwrap())
    );
    assert!(
        Addresses::parse(["a@example.org."])
            .unwrap()
            .has_recipient(request.recipient())
    );
}

#[tokio::test]
async fn a_user_may_not_send_under_its_own_name() {
    let rules = NAMES.recipient_delimiter('+');
    let domains = Domains::parse(["example.org"]).unwrap();
    let mail = ServiceBuilder::new()
        .layer(OwnSenderLayer::in_domains(domains).address_rules(rules))
        .service(handler_fn(async |_: Request<Mail>| {}));
    let server = with_mechanisms(login(Secret::password("secret")).mail(mail));
    let mut client = test::Client::connect(&server);
    client.greeting().await.unwrap();
    client.ehlo("c.test").await.unwrap();
    let reply = client.auth_plain("ALICE", "secret").await.unwrap();
    reply.expect_code(235).unwrap();
    for (sender, code) in [
        ("alice@example.org", 250),
        ("Alice+news@Example.org", 250),
        ("bob@example.org", 550),
        (r#""alice@example.org"@example.org"#, 550),
    ] {
        let reply = client.mail(sender).await.unwrap();
        assert_eq!(reply.code().as_u16(), code, "{sender}");
        client
            .command("RSET")
            .await
            .unwrap()
            .expect_code(250)
            .unwrap();
    }
}
