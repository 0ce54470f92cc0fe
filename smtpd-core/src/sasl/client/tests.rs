use super::{
    super::{
        ChannelBinding, ChannelBindings, CramMd5, Exchange, ExchangeContext, External, Mechanisms,
        OAuthBearer, Secret, Step, XOAuth2, base64,
    },
    *,
};

const NONCE: [u8; 24] = *b"\x00\x0f\xf0\xff0123456789abcdefghij";

fn server() -> Mechanisms {
    let mechanisms = Mechanisms::default().with(CramMd5).with(External);
    #[cfg(feature = "scram")]
    let mechanisms = {
        use super::super::Scram;
        let mechanisms = mechanisms.with(Scram::sha1()).with(Scram::sha256());
        let plus = Scram::sha256().plus();
        mechanisms.with(Scram::sha1().plus()).with(plus)
    };
    mechanisms.with(OAuthBearer::new()).with(XOAuth2::new())
}

fn exported() -> ChannelBindings {
    ChannelBindings::none().with(ChannelBinding::TlsExporter, [7; 32])
}

fn channel(bindings: &ChannelBindings) -> Channel<'_> {
    Channel {
        is_tls: true,
        bindings,
        nonce: Some(&[5; 18]),
    }
}

/// Plays both sides. Returns whether the server was convinced, and whether the client would believe it.
fn play(account: &Account, mechanism: &str, bindings: &ChannelBindings) -> Option<(bool, bool)> {
    let mut client = account.start(&[mechanism], channel(bindings))?;
    assert_eq!(client.name(), mechanism);
    let mechanisms = server();
    let factory = mechanisms.find(mechanism.as_bytes()).unwrap();
    let context = ExchangeContext::new("mx.example.org", &NONCE);
    let context = match bindings.is_empty() {
        true => context,
        false => context.with_channel_bindings(bindings),
    };
    let mut server = Exchange::new(factory.start(&context));
    let encode = |message: &[u8]| match message {
        [] => b"=".to_vec(),
        message => base64::encode_secret(message).to_vec(),
    };
    let initial = client.initial().map(|message| encode(&message));
    let mut step = server.handle_initial(initial.as_deref());
    loop {
        step = match step.unwrap() {
            Step::Challenge(challenge) => {
                let Ok(answer) = client.answer(&challenge) else {
                    return Some((false, false));
                };
                server.handle_line(&base64::encode_secret(&answer))
            }
            Step::Ask(credentials) => match credentials.bearer_token() {
                Some("secret") => server.handle_accepted(super::super::Identity::new("alice")),
                Some(_) => server.handle_refused(),
                None if mechanism == "EXTERNAL" => {
                    server.handle_accepted(super::super::Identity::new("alice"))
                }
                None => server.handle_secret(&Secret::password("secret")),
            },
            Step::Done(_) => return Some((true, client.is_done())),
            Step::Failed => return Some((false, client.is_done())),
        };
    }
}

#[test]
fn every_mechanism_convinces_our_server_with_the_right_secret_alone() {
    let none = ChannelBindings::none();
    for mechanism in ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256"] {
        if cfg!(not(feature = "scram")) && mechanism.starts_with("SCRAM") {
            continue;
        }
        let right = Account::password("alice", "secret").unwrap();
        assert_eq!(
            play(&right, mechanism, &none),
            Some((true, true)),
            "{mechanism}"
        );
        let wrong = Account::password("alice", "guess").unwrap();
        let (convinced, _) = play(&wrong, mechanism, &none).unwrap();
        assert!(!convinced, "{mechanism}");
    }
    for mechanism in ["OAUTHBEARER", "XOAUTH2"] {
        let right = Account::token("alice", "secret").unwrap();
        assert_eq!(
            play(&right, mechanism, &none),
            Some((true, true)),
            "{mechanism}"
        );
        // It answers the challenge that reports the error.
        let wrong = Account::token("alice", "guess").unwrap();
        assert_eq!(
            play(&wrong, mechanism, &none),
            Some((false, false)),
            "{mechanism}"
        );
    }
    let external = Account::external().act_as("alice");
    assert_eq!(play(&external, "EXTERNAL", &none), Some((true, true)));
    assert_eq!(
        play(&Account::external(), "EXTERNAL", &none),
        Some((true, true))
    );
}

#[cfg(feature = "scram")]
#[test]
fn scram_is_bound_to_the_channel() {
    let account = Account::password("alice", "secret").unwrap();
    for mechanism in ["SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"] {
        assert_eq!(play(&account, mechanism, &exported()), Some((true, true)));
        assert!(play(&account, mechanism, &ChannelBindings::none()).is_none());
    }
    // The server has a binding, and somebody has taken the -PLUS forms out of its offer.
    let (convinced, _) = play(&account, "SCRAM-SHA-256", &exported()).unwrap();
    assert!(!convinced);
}

#[test]
fn the_best_mechanism_is_taken_and_secrets_are_not_sent_in_plaintext() {
    let all = [
        "LOGIN",
        "PLAIN",
        "CRAM-MD5",
        "scram-sha-256",
        "SCRAM-SHA-1",
        "SCRAM-SHA-256-PLUS",
        "XOAUTH2",
        "EXTERNAL",
    ];
    let none = ChannelBindings::none();
    let tls = channel(&none);
    let plain = Channel {
        is_tls: false,
        ..tls
    };
    let no_nonce = Channel { nonce: None, ..tls };
    let password = Account::password("alice", "secret").unwrap();
    let token = Account::token("alice", "secret").unwrap();
    let name = |account: &Account, channel: Channel<'_>, offered: &[&str]| {
        account
            .start(offered, channel)
            .map(|exchange| exchange.name())
    };
    let scram = |name| cfg!(feature = "scram").then_some(name);
    assert_eq!(
        name(&password, tls, &all),
        scram("SCRAM-SHA-256").or(Some("PLAIN"))
    );
    let bindings = exported();
    let bound = channel(&bindings);
    assert_eq!(
        name(&password, bound, &all),
        scram("SCRAM-SHA-256-PLUS").or(Some("PLAIN"))
    );
    assert_eq!(name(&password, no_nonce, &all), Some("PLAIN"));
    assert_eq!(name(&password, no_nonce, &["LOGIN"]), Some("LOGIN"));
    assert_eq!(
        name(
            &password,
            Channel {
                nonce: None,
                ..plain
            },
            &all
        ),
        Some("CRAM-MD5")
    );
    assert_eq!(name(&password, plain, &["PLAIN", "LOGIN"]), None);
    assert_eq!(
        name(&password.clone().allow_plaintext(true), plain, &["PLAIN"]),
        Some("PLAIN")
    );
    assert_eq!(
        name(&password.clone().mechanisms(["login"]), tls, &all),
        Some("LOGIN")
    );
    assert_eq!(name(&password, tls, &["EXTERNAL", "XOAUTH2"]), None);
    assert_eq!(name(&token, tls, &all), Some("XOAUTH2"));
    assert_eq!(name(&token, plain, &all), None);
    assert_eq!(name(&Account::external(), plain, &all), Some("EXTERNAL"));
}

#[test]
fn an_accepted_client_that_has_proved_nothing_does_not_believe_it() {
    let none = ChannelBindings::none();
    let account = Account::password("alice", "secret").unwrap();
    for mechanism in ["LOGIN", "CRAM-MD5"] {
        let mut exchange = account.start(&[mechanism], channel(&none)).unwrap();
        assert!(exchange.initial().is_none() && !exchange.is_done());
    }
    let mut exchange = account.start(&["PLAIN"], channel(&none)).unwrap();
    assert_eq!(exchange.initial().unwrap().as_slice(), b"\0alice\0secret");
    assert!(exchange.answer(b"more").is_err());
}
