use super::{
    Credentials, ExchangeContext, Mechanism, MechanismFactory, MechanismName, SaslError,
    bearer::{self, BearerExchange},
    gs2::{self, BindingFlag},
};

/// OAUTHBEARER (RFC 7628): a bearer token of OAuth 2.0 (RFC 6750), with an optional user name.
///
/// The application reads the token with [`Credentials::bearer_token`], and the name with [`Credentials::username`], which is
/// empty if the client sent none. The token identifies the client; if there is a name, the application must check that the token
/// was issued to that user. A refused client receives a challenge with an error in JSON, answers it with `%x01`, and then
/// receives the refusal (RFC 7628 section 3.2.3).
///
/// ```
/// use smtpd_core::sasl::{Mechanisms, OAuthBearer};
///
/// let bearer = OAuthBearer::new()
///     .scope("https://mail.example.org/")
///     .openid_configuration(
///         "https://example.org/.well-known/openid-configuration",
///     );
/// assert!(
///     Mechanisms::none()
///         .with(bearer)
///         .find(b"oauthbearer")
///         .is_some()
/// );
/// ```
#[derive(Debug, Clone, Default)]
pub struct OAuthBearer {
    scope: Option<String>,
    openid_configuration: Option<String>,
    hosts: Vec<String>,
}

impl OAuthBearer {
    /// Creates the mechanism. By default, it tells a refused client only that its token is invalid.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the scope that a token needs, which a refused client receives. A single scope is preferred to a list (RFC 7628
    /// section 3.2.2). Default: none.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.scope = Some(scope.into());
        self
    }

    /// Sets the URL at which clients learn how to get a token, which a refused client receives (RFC 7628 section 3.2.2). Default:
    /// none.
    #[must_use]
    pub fn openid_configuration(mut self, url: impl Into<String>) -> Self {
        self.openid_configuration = Some(url.into());
        self
    }

    /// Adds a name of this server, in any letter case. A client that claims to have connected to another host is refused (RFC
    /// 7628 section 3.2). By default, any name is accepted.
    #[must_use]
    pub fn host(mut self, name: impl Into<String>) -> Self {
        self.hosts.push(name.into());
        self
    }

    /// RFC 7628 section 3.2.2.
    fn error(&self) -> String {
        let scope = self.scope.as_deref().map(|scope| ("scope", scope));
        let url = self.openid_configuration.as_deref();
        let members = [("status", "invalid_token")]
            .into_iter()
            .chain(scope)
            .chain(url.map(|url| ("openid-configuration", url)));
        bearer::json(members)
    }

    /// RFC 7628 section 3.1: `client-resp = (gs2-header kvsep *kvpair kvsep) / kvsep`.
    fn parse(&self, message: &str) -> Result<Option<Credentials>, SaslError> {
        if message == "\x01" {
            return Ok(None); // RFC 7628 section 3.1: it answers an error, and requests one if it comes first.
        }
        let (header, rest) = gs2::parse(message)?;
        let pairs = rest
            .strip_prefix('\x01')
            .and_then(|rest| rest.strip_suffix('\x01'))
            .ok_or(SaslError::Malformed)?;
        let fields = Fields::parse(pairs)?;
        let known_host = |host: &str| {
            self.hosts.is_empty()
                || self
                    .hosts
                    .iter()
                    .any(|name| name.eq_ignore_ascii_case(host))
        };
        // RFC 7628 section 3 defines no channel binding.
        let unbound = !matches!(header.flag, BindingFlag::Required(_));
        let name = header.authzid.unwrap_or_default();
        let credentials = match bearer::token(fields.auth) {
            Some(token) if unbound && fields.host.is_none_or(known_host) => {
                Credentials::bearer(&name, token)?.with_authzid(&name)?
            }
            _ => return Ok(None),
        };
        Ok(Some(credentials))
    }
}

impl MechanismFactory for OAuthBearer {
    fn name(&self) -> MechanismName {
        const { MechanismName::from_static("OAUTHBEARER") }
    }

    fn is_plaintext(&self) -> bool {
        true // RFC 7628 section 3: TLS is required.
    }

    fn start(&self, _: &ExchangeContext<'_>) -> Box<dyn Mechanism> {
        let this = self.clone();
        Box::new(BearerExchange::new(
            Box::new(move |message| this.parse(message)),
            self.error(),
        ))
    }
}

/// The key/value pairs that are used here.
#[derive(Debug)]
struct Fields<'a> {
    auth: &'a str,
    host: Option<&'a str>,
}

impl<'a> Fields<'a> {
    /// `kvpair = key "=" value kvsep`. Unknown keys are ignored, and known ones must not be repeated.
    fn parse(pairs: &'a str) -> Result<Self, SaslError> {
        let (mut auth, mut host, mut port) = (None, None, None);
        for pair in pairs.split_terminator('\x01') {
            let (key, value) = pair.split_once('=').ok_or(SaslError::Malformed)?;
            let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphabetic());
            if !is_key || !value.bytes().all(is_value_octet) {
                return Err(SaslError::Malformed);
            }
            let field = match key {
                "auth" => &mut auth,
                "host" => &mut host,
                "port" => &mut port,
                _ => continue,
            };
            if field.replace(value).is_some() {
                return Err(SaslError::Malformed);
            }
        }
        if !pairs.is_empty() && !pairs.ends_with('\x01') || port.is_some_and(|port| !is_port(port))
        {
            return Err(SaslError::Malformed);
        }
        let auth = auth.ok_or(SaslError::Malformed)?; // RFC 7628 section 3.1: required
        Ok(Self { auth, host })
    }
}

/// RFC 7628 section 3.1: `value = *(VCHAR / SP / HTAB / CR / LF )`.
fn is_value_octet(byte: u8) -> bool {
    byte.is_ascii_graphic() || matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// RFC 7628 section 3.1: a decimal positive integer without leading zeros.
fn is_port(port: &str) -> bool {
    !port.starts_with(['0', '+']) && port.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Exchange, Identity, Secret, Step, base64},
        *,
    };

    const TOKEN: &str = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==";

    fn exchange(bearer: OAuthBearer) -> Exchange {
        Exchange::new(bearer.start(&ExchangeContext::new("mx.example.org", &[0; 24])))
    }

    fn encode(message: &str) -> Vec<u8> {
        let mut line = Vec::new();
        base64::encode_into(message.as_bytes(), &mut line);
        if line.is_empty() { b"=".to_vec() } else { line }
    }

    /// Returns the outcome of a first message: the credentials, the error, or the challenge of an error.
    fn outcome(bearer: OAuthBearer, message: &str) -> String {
        match exchange(bearer).handle_initial(Some(&encode(message))) {
            Ok(Step::Ask(credentials)) => format!(
                "{} {}",
                credentials.username(),
                credentials.bearer_token().unwrap()
            ),
            Ok(Step::Challenge(_)) => "refused".to_owned(),
            Err(error) => format!("{error:?}"),
            Ok(step) => panic!("{step:?}"),
        }
    }

    #[test]
    fn the_successful_exchange_of_rfc_7628() {
        // Section 4.1, over SMTP.
        let initial = b"bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9NTg3AWF1dGg9QmVhcmVyIHZGOWRmdDRxbVRjMk52YjNSbGNrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB";
        let mut exchange = exchange(OAuthBearer::new().host("Server.example.com"));
        let Ok(Step::Ask(credentials)) = exchange.handle_initial(Some(initial)) else {
            panic!()
        };
        assert_eq!(credentials.username(), "user@example.com");
        assert_eq!(credentials.authzid(), Some("user@example.com"));
        assert_eq!(credentials.bearer_token(), Some(TOKEN));
        assert!(!credentials.acts_as_other());
        let step = exchange.handle_accepted(Identity::new("user@example.com"));
        assert!(matches!(step, Ok(Step::Done(_))));
    }

    #[test]
    fn the_failed_exchange_of_rfc_7628() {
        // Section 4.3: an empty authorization asks for the scope.
        let initial =
            b"bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9AQE=";
        let error = b"eyJzdGF0dXMiOiJpbnZhbGlkX3Rva2VuIiwic2NvcGUiOiJleGFtcGxlX3Njb3BlIiwib3BlbmlkLWNvbmZpZ3VyYXRpb24iOiJodHRwczovL2V4YW1wbGUuY29tLy53ZWxsLWtub3duL29wZW5pZC1jb25maWd1cmF0aW9uIn0=";
        let mut exchange = exchange(
            OAuthBearer::new()
                .scope("example_scope")
                .openid_configuration("https://example.com/.well-known/openid-configuration"),
        );
        let Ok(Step::Challenge(challenge)) = exchange.handle_initial(Some(initial)) else {
            panic!()
        };
        assert_eq!(challenge, base64::decode(error).unwrap().as_slice());
        assert!(matches!(exchange.handle_line(b"AQ=="), Ok(Step::Failed)));
    }

    #[test]
    fn the_smtp_example_of_rfc_7628_breaks_its_own_grammar() {
        // Section 4.4 has `user=`, but section 3.1 requires `a=`.
        let initial = b"bix1c2VyPXNvbWV1c2VyQGV4YW1wbGUuY29tLAFhdXRoPUJlYXJlciB2RjlkZnQ0cW1UYzJOdmIzUmxja0JoZEhSaGRtbHpkR0V1WTI5dENnPT0BAQ==";
        let step = exchange(OAuthBearer::new()).handle_initial(Some(initial));
        assert_eq!(step.unwrap_err(), SaslError::Malformed);
    }

    #[test]
    fn a_refused_token_fails_after_the_answer_to_the_error() {
        type Answer = fn(&mut Exchange) -> Result<Step, SaslError>;
        let wrong: Answer = |exchange| exchange.handle_secret(&Secret::password("other"));
        let named = "n,a=alice,\x01auth=Bearer t\x01\x01";
        for (answer, message) in [
            (Exchange::handle_refused as Answer, named),
            (wrong, named),
            // A valid token, but no user name.
            (
                |exchange| exchange.handle_secret(&Secret::password("t")),
                "n,,\x01auth=Bearer t\x01\x01",
            ),
        ] {
            for (line, want) in [
                ("AQ==", Ok(())),
                ("", Ok(())),
                ("*", Err(SaslError::Cancelled)),
            ] {
                let mut exchange = exchange(OAuthBearer::new());
                exchange.handle_initial(Some(&encode(message))).unwrap();
                let Ok(Step::Challenge(error)) = answer(&mut exchange) else {
                    panic!()
                };
                assert_eq!(error, br#"{"status":"invalid_token"}"#);
                let step = exchange.handle_line(line.as_bytes());
                assert_eq!(step.map(|step| assert!(matches!(step, Step::Failed))), want);
            }
        }
    }

    #[test]
    fn messages() {
        for (message, want) in [
            ("n,,\x01auth=Bearer t\x01\x01", " t"),
            ("y,a=a=2Cb,\x01auth=bearer t\x01\x01", "a,b t"),
            ("n,,\x01x=y\x01auth=Bearer t\x01qs=\x01\x01", " t"),
            ("p=tls-exporter,,\x01auth=Bearer t\x01\x01", "refused"),
            ("n,,\x01auth=\x01\x01", "refused"),
            ("n,,\x01auth=Basic t\x01\x01", "refused"),
            ("\x01", "refused"),
            ("", "Malformed"),
            ("n,,", "Malformed"),
            ("n,,\x01", "Malformed"),
            ("n,,\x01\x01", "Malformed"),
            ("n,,\x01auth=Bearer t\x01", "Malformed"),
            ("n,,\x01auth=Bearer t", "Malformed"),
            ("n,,auth=Bearer t\x01\x01", "Malformed"),
            ("n,,\x01auth=Bearer t\x01\x01\x01", "Malformed"),
            ("n,,\x01auth=Bearer t\x01auth=Bearer t\x01\x01", "Malformed"),
            (
                "n,,\x01host=a\x01host=a\x01auth=Bearer t\x01\x01",
                "Malformed",
            ),
            ("n,,\x01port=0\x01auth=Bearer t\x01\x01", "Malformed"),
            ("n,,\x01port=70000\x01auth=Bearer t\x01\x01", "Malformed"),
            ("n,,\x01x_y=1\x01auth=Bearer t\x01\x01", "Malformed"),
            ("n,,\x01=1\x01auth=Bearer t\x01\x01", "Malformed"),
            ("n,,\x01x\x01auth=Bearer t\x01\x01", "Malformed"),
            ("n,,\x01x=\0\x01auth=Bearer t\x01\x01", "Malformed"),
            ("n,,\x01x=ü\x01auth=Bearer t\x01\x01", "Malformed"),
            ("n,a=a\nb,\x01auth=Bearer t\x01\x01", "Malformed"),
            ("n,user=a,\x01auth=Bearer t\x01\x01", "Malformed"),
        ] {
            assert_eq!(outcome(OAuthBearer::new(), message), want, "{message:?}");
        }
    }

    #[test]
    fn a_client_of_another_host_is_refused() {
        let bearer = OAuthBearer::new()
            .host("mx.example.org")
            .host("mail.example.org");
        for (host, want) in [
            ("\x01host=MAIL.example.org", " t"),
            ("", " t"),
            ("\x01host=evil.example", "refused"),
            ("\x01host=", "refused"),
        ] {
            let message = format!("n,,{host}\x01auth=Bearer t\x01\x01");
            assert_eq!(outcome(bearer.clone(), &message), want, "{host}");
        }
    }
}
