//! Tests every mechanism against the clients of rsasl, an implementation that shares no code with this one.
#![cfg(feature = "scram")]

use base64::prelude::{BASE64_STANDARD, Engine};
use rsasl::{
    callback::{Context, Request, SessionCallback, SessionData},
    mechanisms::{
        anonymous::AnonymousToken,
        oauthbearer::properties::OAuthBearerErrored,
        scram::{SCRAM_SHA1_PLUS, SCRAM_SHA256_PLUS},
        xoauth2::properties::XOAuth2Error,
    },
    prelude::{
        ChannelBindingCallback, Mechanism, Mechname, Registry, SASLClient, SASLConfig, SessionError,
    },
    property::{AuthId, AuthzId, OAuthBearerToken, Password},
};
use smtpd_core::sasl::{
    Anonymous, ChannelBinding, ChannelBindings, Credentials, Exchange, ExchangeContext, External,
    Identity, Mechanisms, OAuthBearer, SaslError, Scram, ScramHash, ScramKeys, Secret, Step,
    XOAuth2,
};

static PLUS: &[Mechanism] = &[SCRAM_SHA1_PLUS, SCRAM_SHA256_PLUS];

const EXPORTED: [u8; 32] = [0x5a; 32];

/// The credentials of a client.
#[derive(Clone, Copy)]
struct Client {
    mechanism: &'static str,
    name: &'static str,
    /// A password or a token.
    secret: &'static str,
    authzid: Option<&'static str>,
    /// The channel binding that the client sees.
    exported: Option<[u8; 32]>,
}

impl Client {
    const fn new(mechanism: &'static str, name: &'static str, secret: &'static str) -> Self {
        Self {
            mechanism,
            name,
            secret,
            authzid: None,
            exported: None,
        }
    }
}

impl SessionCallback for Client {
    fn callback(
        &self,
        _: &SessionData,
        _: &Context<'_>,
        request: &mut Request<'_>,
    ) -> Result<(), SessionError> {
        if let Some(error) = request.get_action::<XOAuth2Error>() {
            assert_eq!(error, r#"{"status":"401","schemes":"bearer"}"#);
            return Ok(());
        }
        if let Some(error) = request.get_action::<OAuthBearerErrored>() {
            assert_eq!((error.status, error.scope), ("invalid_token", Some("mail")));
            return Ok(());
        }
        request
            .satisfy::<AuthId>(self.name)?
            .satisfy::<Password>(self.secret.as_bytes())?
            .satisfy::<OAuthBearerToken>(self.secret)?
            .satisfy::<AnonymousToken>(self.name)?;
        if let Some(authzid) = self.authzid {
            request.satisfy::<AuthzId>(authzid)?;
        }
        Ok(())
    }

    fn enable_channel_binding(&self) -> bool {
        self.exported.is_some()
    }
}

impl ChannelBindingCallback for Client {
    fn get_cb_data(&self, name: &str) -> Option<&[u8]> {
        self.exported
            .as_ref()
            .filter(|_| name == "tls-exporter")
            .map(|exported| &exported[..])
    }
}

fn mechanisms() -> Mechanisms {
    Mechanisms::default()
        .with(Scram::sha1())
        .with(Scram::sha1().plus())
        .with(Scram::sha256())
        .with(Scram::sha256().plus())
        .with(OAuthBearer::new().scope("mail"))
        .with(XOAuth2::new())
        .with(External)
        .with(Anonymous)
}

/// The application: alice's password is `pencil`, stored as it is or as keys, and her token is `token`.
fn answer(
    exchange: &mut Exchange,
    credentials: &Credentials,
    stored: &Secret,
) -> Result<Step, SaslError> {
    if credentials.bearer_token().is_some() {
        return exchange.handle_secret(&Secret::password("token"));
    }
    match (credentials.username(), credentials.trace()) {
        ("alice", _) => exchange.handle_secret(stored),
        ("", Some(trace)) => exchange.handle_accepted(Identity::new(format!("guest {trace}"))),
        ("", None) => {
            let name = credentials.authzid().unwrap_or("certified");
            exchange.handle_accepted(Identity::new(name))
        }
        _ => exchange.handle_refused(),
    }
}

/// Lets the client authenticate; `plus_offered` says whether the server has the channel binding.
fn play(client: Client, stored: &Secret, plus_offered: bool) -> String {
    let exported = ChannelBindings::none().with(ChannelBinding::TlsExporter, EXPORTED);
    let mut context = ExchangeContext::new("mx.example.org", &[0; 24]).with_salt_key(&[7; 32]);
    if plus_offered {
        context = context.with_channel_bindings(&exported);
    }
    let mechanisms = mechanisms();
    let factory = mechanisms.find(client.mechanism.as_bytes()).unwrap();
    let mut exchange = Exchange::new(factory.start(&context));

    let builder = SASLConfig::builder();
    let config = match client.mechanism.ends_with("-PLUS") {
        // It would prefer the form without -PLUS, if that were registered too.
        true => builder.with_registry(Registry::with_mechanisms(PLUS)),
        false => builder.with_defaults(),
    };
    let config = config.with_callback(client).unwrap();
    let name = Mechname::parse(client.mechanism.as_bytes()).unwrap();
    let mut session = SASLClient::with_cb(config, client)
        .start_suggested(&[name])
        .unwrap();

    let mut running = true;
    let mut step = if session.are_we_first() {
        let mut sent = Vec::new();
        running = session.step(None, &mut sent).unwrap().is_running();
        let initial = match BASE64_STANDARD.encode(sent) {
            empty if empty.is_empty() => "=".to_owned(),
            initial => initial,
        };
        exchange.handle_initial(Some(initial.as_bytes()))
    } else {
        exchange.handle_initial(None)
    };
    loop {
        step = match step {
            Ok(Step::Challenge(challenge)) => {
                let mut sent = Vec::new();
                assert!(running, "the client does not expect {challenge:?}");
                running = match session.step(Some(&challenge), &mut sent) {
                    Ok(state) => state.is_running(),
                    Err(error) => return format!("the client gives up: {error}"),
                };
                exchange.handle_line(BASE64_STANDARD.encode(sent).as_bytes())
            }
            Ok(Step::Ask(credentials)) => answer(&mut exchange, &credentials, stored),
            Ok(Step::Done(identity)) => return identity.to_string(),
            Ok(Step::Failed) => return "failed".to_owned(),
            other => return format!("{other:?}"),
        }
    }
}

#[test]
fn clients_with_passwords() {
    let plain = Secret::password("pencil");
    for mechanism in ["PLAIN", "LOGIN", "SCRAM-SHA-1", "SCRAM-SHA-256"] {
        let hash = match mechanism {
            "SCRAM-SHA-1" => ScramHash::Sha1,
            _ => ScramHash::Sha256,
        };
        let keys = Secret::scram(ScramKeys::derive(hash, "pencil", b"salt", 5000).unwrap());
        for stored in [&plain, &keys] {
            for (name, password, want) in [
                ("alice", "pencil", "alice"),
                ("alice", "Pencil", "failed"),
                ("bob", "pencil", "failed"),
            ] {
                let client = Client::new(mechanism, name, password);
                assert_eq!(
                    play(client, stored, false),
                    want,
                    "{mechanism} {name} {password}"
                );
            }
        }
    }
}

#[test]
fn clients_that_act_as_somebody() {
    let plain = Secret::password("pencil");
    for mechanism in ["PLAIN", "SCRAM-SHA-1", "SCRAM-SHA-256"] {
        for (authzid, want) in [("alice", "alice"), ("bob", "failed")] {
            let client = Client {
                authzid: Some(authzid),
                ..Client::new(mechanism, "alice", "pencil")
            };
            assert_eq!(play(client, &plain, false), want, "{mechanism} {authzid}");
        }
    }
}

#[test]
fn clients_that_bind_to_the_channel() {
    let plain = Secret::password("pencil");
    for mechanism in ["SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"] {
        for (exported, want) in [(EXPORTED, "alice"), ([0; 32], "failed")] {
            let client = Client {
                exported: Some(exported),
                ..Client::new(mechanism, "alice", "pencil")
            };
            assert_eq!(play(client, &plain, true), want, "{mechanism}");
        }
    }
}

#[test]
fn a_client_from_which_the_plus_form_was_hidden_fails() {
    let plain = Secret::password("pencil");
    let client = Client {
        exported: Some(EXPORTED),
        ..Client::new("SCRAM-SHA-256", "alice", "pencil")
    };
    assert_eq!(play(client, &plain, true), "failed");
    assert_eq!(play(client, &plain, false), "alice", "nothing was hidden");
}

#[test]
fn clients_with_tokens() {
    let nothing = Secret::password("");
    for mechanism in ["OAUTHBEARER", "XOAUTH2"] {
        for (token, want) in [("token", "alice"), ("Token", "failed")] {
            let client = Client {
                authzid: Some("alice"),
                ..Client::new(mechanism, "alice", token)
            };
            assert_eq!(play(client, &nothing, false), want, "{mechanism} {token}");
        }
    }
}

#[test]
fn clients_without_secrets() {
    let nothing = Secret::password("");
    let anonymous = Client::new("ANONYMOUS", "sirhc", "");
    assert_eq!(play(anonymous, &nothing, false), "guest sirhc");
    for (authzid, want) in [(None, "certified"), (Some("fred"), "fred")] {
        let client = Client {
            authzid,
            ..Client::new("EXTERNAL", "", "")
        };
        assert_eq!(play(client, &nothing, false), want);
    }
}
