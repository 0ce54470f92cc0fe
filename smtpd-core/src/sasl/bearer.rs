//! The common part of OAUTHBEARER and XOAUTH2: one message with a token, and a challenge with the reasons of a refusal.

use super::{Credentials, Identity, Mechanism, SaslError, Secret, Step};

/// Parses the only message of the client. Returns `None` if it contains no token to verify.
pub(super) type Parse = Box<dyn Fn(&str) -> Result<Option<Credentials>, SaslError> + Send>;

pub(super) struct BearerExchange {
    parse: Parse,
    /// The content of the challenge to a refused client (RFC 7628 section 3.2.2).
    error: String,
    refused: bool,
}

impl BearerExchange {
    pub(super) fn new(parse: Parse, error: String) -> Self {
        Self {
            parse,
            error,
            refused: false,
        }
    }

    fn refuse(&mut self) -> Step {
        self.refused = true;
        Step::Challenge(self.error.clone().into_bytes())
    }
}

impl Mechanism for BearerExchange {
    fn step(&mut self, response: Option<&[u8]>) -> Result<Step, SaslError> {
        // RFC 7628 section 3.2.3 requires %x01, but some clients send nothing, and the exchange fails in either case.
        if self.refused {
            return Ok(Step::Failed);
        }
        let Some(response) = response else {
            return Ok(Step::Challenge(Vec::new())); // RFC 7628 section 3: the client speaks first
        };
        match (self.parse)(super::credentials::text(response)?)? {
            Some(credentials) => Ok(Step::Ask(credentials)),
            None => Ok(self.refuse()),
        }
    }

    fn secret(&mut self, credentials: &Credentials, secret: &Secret) -> Result<Step, SaslError> {
        // Without a name there is no identity to accept, whatever the token is.
        let is_named = !credentials.username().is_empty() || secret.user().is_some();
        if credentials.verify(secret) && !credentials.acts_as_other() && is_named {
            return Ok(Step::Done(Identity::new(credentials.username())));
        }
        Ok(self.refuse())
    }

    fn refused(&mut self) -> Result<Step, SaslError> {
        Ok(self.refuse())
    }

    fn has_reported_failure(&self) -> bool {
        self.refused
    }
}

impl std::fmt::Debug for BearerExchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BearerExchange")
            .field("refused", &self.refused)
            .finish_non_exhaustive()
    }
}

/// Returns the token of `Bearer TOKEN` (RFC 6750 section 2.1), with the scheme in any letter case (RFC 7628 section 4).
pub(super) fn token(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    let token = token.trim_start_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && is_token(token)).then_some(token)
}

/// RFC 6750 section 2.1: `b64token = 1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="`.
fn is_token(token: &str) -> bool {
    let body = token.trim_end_matches('=');
    let mut bytes = body.bytes();
    !body.is_empty()
        && bytes.all(|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/')
        })
}

/// Returns a JSON object with these members, each of them text (RFC 8259).
pub(super) fn json<'a>(members: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut object = String::from("{");
    for (name, value) in members {
        if object.len() > 1 {
            object.push(',');
        }
        push_quoted(&mut object, name);
        object.push(':');
        push_quoted(&mut object, value);
    }
    object.push('}');
    object
}

fn push_quoted(json: &mut String, text: &str) {
    json.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            c if c < ' ' => json.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => json.push(c),
        }
    }
    json.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        for (authorization, want) in [
            ("Bearer abc", Some("abc")),
            ("bEaReR   a-._~+/9==", Some("a-._~+/9==")),
            ("Bearer ", None),
            ("Bearer", None),
            ("", None),
            ("Bearer =", None),
            ("Bearer a=b", None),
            ("Bearer a b", None),
            ("Bearer a ", None),
            ("Bearer ü", None),
            ("OAuth realm=\"x\"", None),
        ] {
            assert_eq!(token(authorization), want, "{authorization:?}");
        }
    }

    #[test]
    fn json_is_escaped() {
        assert_eq!(
            json([("a", "1"), ("b\"", "\\\n\u{1}ü")]),
            "{\"a\":\"1\",\"b\\\"\":\"\\\\\\u000a\\u0001ü\"}"
        );
        assert_eq!(json([]), "{}");
    }
}
