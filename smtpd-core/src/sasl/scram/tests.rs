use super::{
    super::{ChannelBinding, Exchange},
    *,
};

const NONCE: [u8; 24] = [0; 24];
/// [`NONCE`] in its encoded form.
const SERVER_NONCE: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const KEY: [u8; 32] = [7; 32];

/// An example of an RFC, with its server's nonce filled in.
struct Example {
    scram: Scram,
    server_nonce: &'static str,
    salt: &'static str,
    messages: [&'static str; 4],
}

const EXAMPLES: [Example; 2] = [
    // RFC 5802 section 5.
    Example {
        scram: Scram::sha1(),
        server_nonce: "3rfcNHYJY1ZVvWVs7j",
        salt: "QSXCR+Q6sek8bf92",
        messages: [
            "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
            "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
            "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
            "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
        ],
    },
    // RFC 7677 section 3.
    Example {
        scram: Scram::sha256(),
        server_nonce: "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
        salt: "W22ZaJ0SNY7soEsUEjb6gQ==",
        messages: [
            "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        ],
    },
];

impl Example {
    fn exchange(&self) -> ScramExchange {
        ScramExchange {
            scram: self.scram,
            server_nonce: self.server_nonce.to_owned(),
            salt_key: Zeroizing::new(KEY),
            bindings: None,
            state: State::Start,
        }
    }

    fn keys(&self) -> ScramKeys {
        let salt = base64::decode(self.salt.as_bytes()).unwrap();
        ScramKeys::derive(self.scram.hash, "pencil", &salt, 4096).unwrap()
    }
}

fn challenge(step: Result<Step, SaslError>) -> String {
    match step {
        Ok(Step::Challenge(challenge)) => String::from_utf8(challenge).unwrap(),
        step => panic!("{step:?}"),
    }
}

#[test]
fn the_examples_of_rfc_5802_and_7677() {
    for example in EXAMPLES {
        let [client_first, server_first, client_final, server_final] = example.messages;
        let mut exchange = example.exchange();
        let Ok(Step::Ask(credentials)) = exchange.step(Some(client_first.as_bytes())) else {
            panic!()
        };
        assert_eq!(credentials.username(), "user");
        let step = exchange.secret(&credentials, &Secret::scram(example.keys()));
        assert_eq!(challenge(step), server_first);
        let step = exchange.step(Some(client_final.as_bytes()));
        assert_eq!(challenge(step), server_final);
        let step = exchange.step(Some(b""));
        assert!(matches!(step, Ok(Step::Done(name)) if name.as_str() == "user"));
    }
}

/// Otherwise, the salts reveal which names a lookup without regard to case knows.
#[test]
fn the_spelling_of_an_unknown_name_does_not_change_its_salt() {
    let salt = |scram: Scram, name: &str, secret: Option<&Secret>| {
        let first = server_first(scram, name, secret);
        first.split(',').nth(1).unwrap().to_owned()
    };
    let secret = Secret::password("pencil").with_user("alice");
    let exact = Scram::sha256();
    let loose = exact.names(AddressRules::new().ignore_case(true));
    for secret in [None, Some(&secret)] {
        assert_eq!(salt(loose, "Alice", secret), salt(loose, "alice", secret));
        assert_ne!(salt(exact, "Alice", secret), salt(exact, "alice", secret));
        assert_ne!(salt(loose, "Alice", secret), salt(loose, "bob", secret));
    }
    // Names that differ without being two spellings for the lookup have two salts.
    let [one, other] = ["a@b.org", "a@B.org"].map(|name| salt(exact, name, None));
    assert_ne!(one, other);
}

/// A client's reply to the server's first message, with any `r` and `c`.
struct Client<'a> {
    password: &'a str,
    header: &'a str,
    bare: &'a str,
    binding: &'a [u8],
}

impl Client<'_> {
    fn last(&self, hash: ScramHash, server_first: &str) -> String {
        let field = |name: &str| {
            let mut fields = server_first.split(',');
            fields.find_map(|field| field.strip_prefix(name)).unwrap()
        };
        let salt = base64::decode(field("s=").as_bytes()).unwrap();
        let iterations = field("i=").parse().unwrap();
        let salted = hash.salted(self.password.as_bytes(), &salt, iterations);
        let client_key = hash.hmac(&salted, b"Client Key");
        let input = [self.header.as_bytes(), self.binding].concat();
        let without_proof = format!("c={},r={}", base64::encode(&input), field("r="));
        let auth_message = format!("{},{server_first},{without_proof}", self.bare);
        let signature = hash.hmac(&hash.digest(&client_key), auth_message.as_bytes());
        let proof: Vec<_> = client_key
            .iter()
            .zip(&*signature)
            .map(|(a, b)| a ^ b)
            .collect();
        format!("{without_proof},p={}", base64::encode(&proof))
    }
}

fn start(scram: Scram, bindings: &ChannelBindings) -> Exchange {
    let context = ExchangeContext::new("mx.example.org", &NONCE)
        .with_salt_key(&KEY)
        .with_channel_bindings(bindings);
    Exchange::new(scram.start(&context))
}

fn send(exchange: &mut Exchange, message: &str) -> Result<Step, SaslError> {
    exchange.handle_line(base64::encode(message.as_bytes()).as_bytes())
}

fn send_first(exchange: &mut Exchange, message: &str) -> Result<Step, SaslError> {
    exchange.handle_initial(Some(base64::encode(message.as_bytes()).as_bytes()))
}

fn outcome(step: &Result<Step, SaslError>) -> String {
    match step {
        Ok(Step::Challenge(_)) => "challenge".to_owned(),
        Ok(Step::Ask(credentials)) => format!("ask {}", credentials.username()),
        Ok(Step::Done(identity)) => format!("done {identity}"),
        Ok(Step::Failed) => "failed".to_owned(),
        Err(error) => format!("{error:?}"),
    }
}

/// Plays the whole exchange with a client, against the stored secret or none.
fn play(
    scram: Scram,
    bindings: &ChannelBindings,
    client: &Client<'_>,
    secret: Option<&Secret>,
) -> String {
    let mut exchange = start(scram, bindings);
    let step = send_first(&mut exchange, &format!("{}{}", client.header, client.bare));
    if !matches!(step, Ok(Step::Ask(_))) {
        return outcome(&step);
    }
    let step = match secret {
        Some(secret) => exchange.handle_secret(secret),
        None => exchange.handle_refused(),
    };
    let server_first = challenge(step);
    let step = send(&mut exchange, &client.last(scram.hash, &server_first));
    if !matches!(step, Ok(Step::Challenge(_))) {
        return outcome(&step);
    }
    outcome(&exchange.handle_line(b""))
}

#[test]
fn who_authenticates() {
    let plain = Secret::password("pencil");
    let keys = |hash| Secret::scram(ScramKeys::derive(hash, "pencil", b"salt", 5000).unwrap());
    let (sha1, sha256) = (keys(ScramHash::Sha1), keys(ScramHash::Sha256));
    let named = |secret: &Secret| secret.clone().with_user("alice");
    let (plain_named, sha256_named) = (named(&plain), named(&sha256));
    let (alice, other_case) = ("n=alice,r=abc", "n=Alice,r=abc");
    for (header, bare, password, secret, want) in [
        ("n,,", alice, "pencil", Some(&plain), "done alice"),
        ("n,,", alice, "pencil", Some(&sha256), "done alice"),
        ("y,,", alice, "pencil", Some(&plain), "done alice"),
        ("n,a=alice,", alice, "pencil", Some(&plain), "done alice"),
        (
            "n,,",
            "n=a=2Cb,r=abc,x=y",
            "pencil",
            Some(&plain),
            "done a,b",
        ),
        (
            "n,,",
            "n=ali\u{ad}ce,r=abc",
            "pencil",
            Some(&plain),
            "done alice",
        ),
        ("n,a=bob,", alice, "pencil", Some(&plain), "failed"),
        ("n,,", other_case, "pencil", Some(&plain), "done Alice"),
        (
            "n,,",
            other_case,
            "pencil",
            Some(&plain_named),
            "done alice",
        ),
        (
            "n,,",
            other_case,
            "pencil",
            Some(&sha256_named),
            "done alice",
        ),
        (
            "n,a=alice,",
            other_case,
            "pencil",
            Some(&sha256_named),
            "done alice",
        ),
        (
            "n,a=Alice,",
            other_case,
            "pencil",
            Some(&sha256_named),
            "done alice",
        ),
        (
            "n,a=bob,",
            other_case,
            "pencil",
            Some(&sha256_named),
            "failed",
        ),
        ("n,,", other_case, "Pencil", Some(&sha256_named), "failed"),
        ("n,,", alice, "Pencil", Some(&plain), "failed"),
        ("n,,", alice, "Pencil", Some(&sha256), "failed"),
        ("n,,", alice, "pencil", Some(&sha1), "failed"),
        ("n,,", alice, "", Some(&Secret::password("")), "failed"),
        ("n,,", alice, "pencil", None, "failed"),
        ("p=tls-exporter,,", alice, "pencil", Some(&plain), "failed"),
        (
            "n,,",
            "n=\u{ad},r=abc",
            "pencil",
            Some(&plain),
            "Prohibited",
        ),
        ("n,,", "n=\u{7},r=abc", "pencil", Some(&plain), "Malformed"),
        ("n,,", "n=,r=abc", "pencil", Some(&plain), "Malformed"),
        ("n,,", "n=alice,r=", "pencil", Some(&plain), "Malformed"),
        (
            "n,,",
            "m=x,n=alice,r=abc",
            "pencil",
            Some(&plain),
            "Malformed",
        ),
        ("x,,", alice, "pencil", Some(&plain), "Malformed"),
        ("", alice, "pencil", Some(&plain), "Malformed"),
    ] {
        let client = Client {
            password,
            header,
            bare,
            binding: b"",
        };
        let got = play(Scram::sha256(), &ChannelBindings::none(), &client, secret);
        assert_eq!(got, want, "{header}{bare} {password}");
    }
}

#[test]
fn channel_bindings_bind() {
    let secret = Secret::password("pencil");
    let exporter = ChannelBindings::none().with(ChannelBinding::TlsExporter, *b"exported");
    let unique = ChannelBindings::none().with(ChannelBinding::TlsUnique, *b"finished");
    let none = ChannelBindings::none();
    let (plus, without) = (Scram::sha256().plus(), Scram::sha256());
    let p = "p=tls-exporter,,";
    for (scram, bindings, header, binding, want) in [
        (plus, &exporter, p, &b"exported"[..], "done alice"),
        (
            Scram::sha1().plus(),
            &exporter,
            p,
            b"exported",
            "done alice",
        ),
        (plus, &unique, "p=tls-unique,,", b"finished", "done alice"),
        // The channel of a man in the middle, or none.
        (plus, &exporter, p, b"Exported", "failed"),
        (plus, &exporter, p, b"", "failed"),
        (plus, &exporter, "p=tls-unique,,", b"exported", "failed"),
        (
            plus,
            &exporter,
            "P=tls-exporter,,",
            b"exported",
            "Malformed",
        ),
        (plus, &none, p, b"exported", "failed"),
        (plus, &exporter, "n,,", b"", "failed"),
        (plus, &exporter, "y,,", b"", "failed"),
        (without, &exporter, p, b"exported", "failed"),
        (without, &exporter, "n,,", b"", "done alice"),
        (without, &exporter, "n,,", b"exported", "failed"),
        // The -PLUS form was offered, so somebody has removed it.
        (without, &exporter, "y,,", b"", "failed"),
        (without, &none, "y,,", b"", "done alice"),
    ] {
        let client = Client {
            password: "pencil",
            header,
            bare: "n=alice,r=abc",
            binding,
        };
        let got = play(scram, bindings, &client, Some(&secret));
        assert_eq!(got, want, "{} {header}", scram.name());
    }
}

fn server_first(scram: Scram, name: &str, secret: Option<&Secret>) -> String {
    let mut exchange = start(scram, &ChannelBindings::none());
    send_first(&mut exchange, &format!("n,,n={name},r=abc")).unwrap();
    challenge(match secret {
        Some(secret) => exchange.handle_secret(secret),
        None => exchange.handle_refused(),
    })
}

#[test]
fn an_unknown_user_looks_like_a_known_one() {
    let plain = Secret::password("pencil");
    let scram = Scram::sha256();
    let known = server_first(scram, "alice", Some(&plain));
    assert_eq!(known, server_first(scram, "alice", None));
    assert_eq!(
        known,
        server_first(scram, "alice", Some(&plain)),
        "the salt stays"
    );
    let other = server_first(scram, "bob", None);
    assert_ne!(known, other);
    assert_ne!(known, server_first(Scram::sha1(), "alice", None));
    assert_eq!(known.len(), other.len());

    // Like those of stored keys.
    let keys = ScramKeys::derive(ScramHash::Sha256, "pencil", &[9; 12], 9999).unwrap();
    let stored = server_first(scram, "alice", Some(&Secret::scram(keys)));
    let like = scram.iterations(9999).salt_len(12);
    let unknown = server_first(like, "bob", None);
    assert_eq!(stored.len(), unknown.len());
    assert!(unknown.ends_with(",i=9999"));
}

#[test]
fn without_a_salt_key_the_salt_is_still_not_known_beforehand() {
    let salt = |nonce: [u8; 24]| {
        let context = ExchangeContext::new("mx.example.org", &nonce);
        let mut exchange = Exchange::new(Scram::sha256().start(&context));
        send_first(&mut exchange, "n,,n=alice,r=abc").unwrap();
        let message = challenge(exchange.handle_refused());
        message.split(",s=").nth(1).unwrap().to_owned()
    };
    assert_ne!(salt([1; 24]), salt([2; 24]));
}

#[test]
fn every_part_of_the_final_message_counts() {
    let secret = Secret::password("pencil");
    let client = Client {
        password: "pencil",
        header: "n,,",
        bare: "n=alice,r=abc",
        binding: b"",
    };
    let nonce = format!("r=abc{SERVER_NONCE}");
    type Change = fn(&str, &str) -> String;
    let cases: [(Change, &str); 8] = [
        (|message, _| message.to_owned(), "challenge"),
        (|message, nonce| message.replace(nonce, "r=abc"), "failed"),
        (
            |message, nonce| message.replace(nonce, &format!("{nonce}A")),
            "failed",
        ),
        (|message, _| message.replace("c=biws", "c=eSws"), "failed"),
        (|message, _| message.replace(",p=", ",x=y,p="), "failed"),
        (|message, _| message.replace(",p=", ",m=y,p="), "Malformed"),
        (
            |message, _| format!("{}AAAA", message.trim_end_matches('=')),
            "Malformed",
        ),
        (
            |message, _| format!("{}p=", message.split("p=").next().unwrap()),
            "failed",
        ),
    ];
    for (change, want) in cases {
        let mut exchange = start(Scram::sha256(), &ChannelBindings::none());
        send_first(&mut exchange, "n,,n=alice,r=abc").unwrap();
        let server_first = challenge(exchange.handle_secret(&secret));
        let message = change(&client.last(ScramHash::Sha256, &server_first), &nonce);
        assert_eq!(outcome(&send(&mut exchange, &message)), want, "{message}");
    }
}

#[test]
fn nothing_but_an_empty_line_answers_the_signature() {
    let secret = Secret::password("pencil");
    let client = Client {
        password: "pencil",
        header: "n,,",
        bare: "n=alice,r=abc",
        binding: b"",
    };
    for (line, want) in [
        ("", "done alice"),
        ("AA==", "Malformed"),
        ("*", "Cancelled"),
    ] {
        let mut exchange = start(Scram::sha256(), &ChannelBindings::none());
        assert_eq!(challenge(exchange.handle_initial(None)), "");
        send(&mut exchange, "n,,n=alice,r=abc").unwrap();
        let server_first = challenge(exchange.handle_secret(&secret));
        let last = client.last(ScramHash::Sha256, &server_first);
        assert!(challenge(send(&mut exchange, &last)).starts_with("v="));
        assert_eq!(outcome(&exchange.handle_line(line.as_bytes())), want);
    }
}

#[test]
fn accepting_without_a_secret_authenticates_nobody() {
    let mut exchange = start(Scram::sha256(), &ChannelBindings::none());
    send_first(&mut exchange, "n,,n=alice,r=abc").unwrap();
    let step = exchange.handle_accepted(Identity::new("alice"));
    assert_eq!(outcome(&step), "failed");
}

#[test]
fn debug_shows_no_secret_at_any_step() {
    let mut exchange = start(Scram::sha256(), &ChannelBindings::none());
    send_first(&mut exchange, "n,,n=alice,r=abc").unwrap();
    exchange.handle_secret(&Secret::password("pencil")).unwrap();
    let shown = format!("{exchange:?}");
    assert!(shown.contains("ScramExchange { scram: Scram"), "{shown}");
    assert!(
        !shown.contains("stored_key") && !shown.contains("salt_key"),
        "{shown}"
    );
}

#[test]
fn the_least_and_the_most() {
    let scram = Scram::sha1().iterations(1).salt_len(1);
    assert_eq!((scram.iterations, scram.salt_len), (4096, 8));
    assert_eq!(scram.salt_len(99).salt_len, 32);
    assert_eq!(
        scram.iterations(u32::MAX).iterations,
        ScramKeys::MAX_ITERATIONS
    );
}

/// Returns whether a client with the password `pencil` is authenticated if the server derives the keys of a stored password
/// beforehand, or within the exchange.
fn proves(secret: &Secret, beforehand: bool) -> bool {
    const BARE: &str = "n=user,r=abc";
    let mut exchange = start(Scram::sha256(), &ChannelBindings::none());
    let Ok(Step::Ask(credentials)) = send_first(&mut exchange, &format!("n,,{BARE}")) else {
        panic!()
    };
    let derivation = credentials.derivation(secret);
    let is_password = secret.as_password().is_some_and(|text| !text.is_empty());
    assert_eq!(derivation.is_some(), is_password);
    let derived = derivation.filter(|_| beforehand).map(Derivation::run);
    let server_first = challenge(exchange.handle_secret(derived.as_ref().unwrap_or(secret)));
    let client = Client {
        password: "pencil",
        header: "n,,",
        bare: BARE,
        binding: b"",
    };
    let last = client.last(ScramHash::Sha256, &server_first);
    matches!(send(&mut exchange, &last), Ok(Step::Challenge(_)))
}

#[test]
fn keys_that_are_derived_beforehand_authenticate_as_the_password_does() {
    let keys = |hash| Secret::scram(ScramKeys::derive(hash, "pencil", b"salt", 4096).unwrap());
    for (secret, want) in [
        (Secret::password("pencil"), true),
        (Secret::password("Pencil"), false),
        (Secret::password("\u{1f600}"), false),
        (Secret::password(""), false),
        (keys(ScramHash::Sha256), true),
        (keys(ScramHash::Sha1), false),
    ] {
        for beforehand in [true, false] {
            assert_eq!(proves(&secret, beforehand), want);
        }
    }
}
