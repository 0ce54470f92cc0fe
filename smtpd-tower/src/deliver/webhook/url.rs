use hyper::Uri;

use super::error::{Problem, WebhookError};

/// The URL of a web service: http or https, without a user.
#[derive(Clone, Debug)]
pub(super) struct Url {
    uri: Uri,
    host: String,
    port: u16,
    pub(super) is_tls: bool,
}

impl Url {
    pub(super) fn parse(text: &str) -> Result<Self, WebhookError> {
        Self::read(text).ok_or_else(|| {
            // A query or a password may be secret.
            let shown = match text.contains('@') {
                true => "",
                false => text.split('?').next().unwrap_or_default(),
            };
            WebhookError::new(Problem::Url(shown.to_owned()))
        })
    }

    fn read(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let is_tls = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let authority = uri
            .authority()
            .filter(|authority| !authority.as_str().contains('@'))?;
        let host = authority.host();
        let literal = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = literal.unwrap_or(host).to_owned();
        let port = match authority.port() {
            Some(port) => port.as_u16(),
            None if authority.as_str().len() > authority.host().len() => return None,
            None if is_tls => 443,
            None => 80,
        };
        (!host.is_empty()).then_some(Self {
            uri,
            host,
            port,
            is_tls,
        })
    }

    pub(super) const fn uri(&self) -> &Uri {
        &self.uri
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_service_and_no_user() {
        for (text, host, port, is_tls) in [
            ("http://example.org", "example.org", 80, false),
            ("https://example.org/a?b=c", "example.org", 443, true),
            ("http://127.0.0.1:8080/", "127.0.0.1", 8080, false),
            ("https://[::1]:8443/", "::1", 8443, true),
            ("http://[::1]/", "::1", 80, false),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!((url.host(), url.port(), url.is_tls), (host, port, is_tls));
        }
        for text in [
            "",
            "/",
            "example.org",
            "ftp://example.org/",
            "http://",
            "http:///x",
            "http://a:b@example.org/",
            "http://example.org:/",
            "http://example.org:99999/",
            "http://exa mple.org/",
            "http://example.org/\r\nx",
        ] {
            assert!(Url::parse(text).is_err(), "{text:?}");
        }
        let error = Url::parse("ftp://user:pass@example.org/?key=secret").unwrap_err();
        assert_eq!(error.to_string(), "not the URL of a web service: \"\"");
        let error = Url::parse("ftp://example.org/?key=secret").unwrap_err();
        assert_eq!(
            error.to_string(),
            "not the URL of a web service: \"ftp://example.org/\""
        );
    }
}
