//! What a trusted proxy reports about its client, by XCLIENT or XFORWARD (defined by XCLIENT_README and XFORWARD_README of
//! Postfix).
//!
//! - [`XClient`] holds the attributes of XCLIENT: the session continues as that client's.
//! - [`Forwarded`] holds the attributes of XFORWARD: the origin of the next message.
//! - [`Attribute`] is a value that the proxy may not know, [`MailSource`] says whether the client is a local one.
//! - [`AttributeError`] says what is malformed.

mod xclient;
mod xforward;

use std::{
    error::Error,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::{
    address::{Charset, ClientName, Domain, Leniency, PathOptions},
    parameter::xtext,
};

pub use self::{
    xclient::XClient,
    xforward::{Forwarded, MailSource},
};

/// The value of an attribute, as far as the proxy knows it.
///
/// ```
/// use smtpd_core::proxied::Attribute;
///
/// assert_eq!(Attribute::Known(25).known(), Some(&25));
/// assert_eq!(Attribute::<u16>::Unavailable.known(), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Attribute<T> {
    /// The value.
    Known(T),
    /// `[UNAVAILABLE]`: there is no value, or the proxy cannot find it out.
    Unavailable,
    /// `[TEMPUNAVAIL]`: the proxy temporarily could not find it out. Only [`XClient::name`] can have it.
    TemporarilyUnavailable,
}

impl<T> Attribute<T> {
    /// Returns the value if it is known.
    pub const fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unavailable | Self::TemporarilyUnavailable => None,
        }
    }

    fn into_known(self) -> Option<T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unavailable | Self::TemporarilyUnavailable => None,
        }
    }
}

/// Why the attributes of XCLIENT or XFORWARD are malformed. Its text is that of the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttributeError(&'static str);

impl AttributeError {
    pub(crate) const NONE: Self = Self("Expected attribute=value");

    pub(crate) const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for AttributeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for AttributeError {}

/// XCLIENT_README and XFORWARD_README, note 1.
const MAX_VALUE: usize = 255;

/// Returns the attributes of a command, each with its name in upper case.
fn attributes(argument: &[u8]) -> impl Iterator<Item = Result<(String, Value), AttributeError>> {
    argument
        .split(|&byte| byte == b' ')
        .filter(|word| !word.is_empty())
        .map(|word| {
            let equals = word.iter().position(|&byte| byte == b'=');
            let (name, raw) = equals
                .and_then(|at| word.split_at_checked(at))
                .ok_or(AttributeError::NONE)?;
            let name = String::from_utf8_lossy(name).to_ascii_uppercase();
            Ok((name, Value::new(&raw[1..])))
        })
}

/// A decoded value. `None` if it is too long.
///
/// Some attributes repeat what a client or its DNS says, whatever that is: [`host_name`](Self::host_name), [`helo`](Self::helo)
/// and [`word`](Self::word). If malformed ones were rejected, a proxy could never deliver a message of such a client. The others
/// are the proxy's own and determine who the client is: they are rejected unless they are well-formed.
struct Value(Option<Vec<u8>>);

impl Value {
    fn new(raw: &[u8]) -> Self {
        // Note 3: a proxy that does not know xtext sends the value as it is. Some still do.
        let value = || xtext::decode_octets(raw).unwrap_or_else(|| raw.to_owned());
        Self((raw.len() <= MAX_VALUE).then(value))
    }

    fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }

    fn is_unavailable(&self) -> bool {
        // Note 2: in any letter case.
        self.bytes().eq_ignore_ascii_case(b"[UNAVAILABLE]")
    }

    fn read<T>(&self, parse: impl FnOnce(&str) -> Option<T>) -> Option<Attribute<T>> {
        if self.is_unavailable() {
            return Some(Attribute::Unavailable);
        }
        let text = std::str::from_utf8(self.bytes()).ok()?;
        if text.is_empty() || text.contains(char::is_control) {
            return None;
        }
        parse(text).map(Attribute::Known)
    }

    /// A host name as found in the DNS, underscores included. Anything else is unavailable.
    fn host_name(&self) -> Attribute<ClientName> {
        let leniency = Leniency::STRICT
            .allow_underscore_in_domain(true)
            .allow_trailing_dot_in_domain(true);
        let options = PathOptions::new(leniency, Charset::Ascii);
        let name = self.read(|text| {
            let domain = Domain::parse(text.as_bytes(), options).ok()?;
            let is_address = domain.is_literal() || text.parse::<Ipv4Addr>().is_ok();
            let name = ClientName::parse(text.as_bytes()).ok();
            name.filter(|_| !is_address)
        });
        name.unwrap_or(Attribute::Unavailable)
    }

    /// What a client says in HELO. Bytes that are not allowed in such a name become `?`, and an empty name is unavailable.
    fn helo(&self) -> Attribute<ClientName> {
        if self.is_unavailable() {
            return Attribute::Unavailable;
        }
        let name = clean(self.bytes(), |_| true);
        ClientName::parse(name.as_bytes()).map_or(Attribute::Unavailable, Attribute::Known)
    }

    /// An IPv4 address, or `IPV6:` and an IPv6 address.
    fn address(&self) -> Option<Attribute<IpAddr>> {
        const IPV6: &str = "IPV6:";
        self.read(|text| match text.split_at_checked(IPV6.len()) {
            Some((prefix, rest)) if prefix.eq_ignore_ascii_case(IPV6) => {
                rest.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
            }
            _ => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        })
    }

    fn port(&self) -> Option<Attribute<u16>> {
        self.read(|text| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| digits)
        })
    }

    /// Text that is safe to write anywhere: what could have a meaning in a header becomes `?`. An empty text is unavailable.
    fn word(&self, longest: usize) -> Option<Attribute<String>> {
        let bytes = self.0.as_deref()?;
        if bytes.is_empty() || self.is_unavailable() {
            return Some(Attribute::Unavailable);
        }
        let word = || clean(bytes, |byte| !b"<>()\\\";@".contains(&byte));
        (bytes.len() <= longest).then(|| Attribute::Known(word()))
    }
}

/// Returns the text with a `?` for each byte that is not printable ASCII, or is not safe.
fn clean(bytes: &[u8], is_safe: impl Fn(u8) -> bool) -> String {
    let clean = |&byte: &u8| match byte.is_ascii_graphic() && is_safe(byte) {
        true => char::from(byte),
        false => '?',
    };
    bytes.iter().map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_names_with_values() {
        let long = format!("A={}", "x".repeat(256));
        let most = format!("A={}", "x".repeat(255));
        type Pairs<'a> = Option<&'a [(&'a str, &'a str)]>;
        let cases: [(&str, Pairs<'_>); 12] = [
            ("A=b", Some(&[("A", "b")])),
            ("a=b  Cd=e", Some(&[("A", "b"), ("CD", "e")])),
            ("A=b+2Bc+3D", Some(&[("A", "b+c=")])),
            ("A=b=c", Some(&[("A", "b=c")])),
            ("A=user+tag", Some(&[("A", "user+tag")])),
            ("A=+C3+A9", Some(&[("A", "é")])),
            (&most, Some(&[("A", &most[2..])])),
            (&long, Some(&[("A", "")])),
            ("A=", Some(&[("A", "")])),
            ("", Some(&[])),
            ("A", None),
            ("A=b C", None),
        ];
        for (argument, expected) in cases {
            let found: Result<Vec<_>, _> = attributes(argument.as_bytes()).collect();
            let found = found.map(|list| {
                list.into_iter()
                    .map(|(name, value)| (name, String::from_utf8(value.bytes().into()).unwrap()))
                    .collect::<Vec<_>>()
            });
            let expected = expected.map(|list| {
                list.iter()
                    .map(|(name, value)| (name.to_string(), value.to_string()))
                    .collect::<Vec<_>>()
            });
            assert_eq!(found.ok(), expected, "{argument:?}");
        }
    }

    #[test]
    fn values_are_read_strictly() {
        use Attribute::{Known, Unavailable};
        let value = |text: &str| Value::new(text.as_bytes());
        let ip = |text: &str| Some(Known(text.parse::<IpAddr>().unwrap()));
        for (text, expected) in [
            ("192.0.2.1", ip("192.0.2.1")),
            ("IPV6:2001:db8::1", ip("2001:db8::1")),
            ("ipv6:::ffff:192.0.2.1", ip("::ffff:192.0.2.1")),
            ("[unavailable]", Some(Unavailable)),
            ("2001:db8::1", None),
            ("IPV6:192.0.2.1", None),
            ("[192.0.2.1]", None),
            ("192.0.2.1:25", None),
            ("192.0.2.256", None),
            ("IPV6:", None),
            ("é", None),
            ("", None),
            ("+FF", None),
            ("192.0.2.1+0A", None),
        ] {
            assert_eq!(value(text).address(), expected, "{text}");
        }
        for (text, expected) in [
            ("0", Some(Known(0))),
            ("65535", Some(Known(65535))),
            ("[Unavailable]", Some(Unavailable)),
            ("65536", None),
            ("+1", None),
            ("1a", None),
            ("", None),
        ] {
            assert_eq!(value(text).port(), expected, "{text}");
        }
    }

    #[test]
    fn what_odd_clients_say_is_cleaned_or_unavailable() {
        use Attribute::{Known, Unavailable};
        let long = "x".repeat(256);
        for name in ["mx.example.org", "my_host", "mx.example.org.", "x"] {
            let parsed = Known(name.parse().unwrap());
            assert_eq!(Value::new(name.as_bytes()).host_name(), parsed, "{name}");
        }
        for name in [
            "[UNAVAILABLE]",
            "192.0.2.1",
            "[192.0.2.1]",
            "a(b)",
            "a+20b",
            "a+0Ab",
            "-a",
            "a..b",
            "gr+C3+A5",
            "+FF",
            "",
            &long,
        ] {
            let parsed = Value::new(name.as_bytes()).host_name();
            assert_eq!(parsed, Unavailable, "{name}");
        }
        for (helo, expected) in [
            ("M+C3+BCller-PC", Some("M??ller-PC")),
            ("M\u{fc}ller-PC", Some("M??ller-PC")),
            ("two+20words", Some("two?words")),
            ("a+0D+0Ab+00+FF+7f", Some("a??b???")),
            ("user+tag", Some("user+tag")),
            ("[192.0.2.7]", Some("[192.0.2.7]")),
            ("[unavailable]", None),
            ("", None),
            (&long, None),
        ] {
            let parsed = Value::new(helo.as_bytes()).helo().into_known();
            let parsed = parsed.as_ref().map(ClientName::as_str);
            assert_eq!(parsed, expected, "{helo}");
        }
        let word = |text: &str| Value::new(text.as_bytes()).word(9);
        assert_eq!(word("a<b>(\"é"), Some(Known("a?b?????".to_owned())));
        assert_eq!(word("+FF+0A"), Some(Known("??".to_owned())));
        assert_eq!(word(""), Some(Unavailable));
        assert_eq!(word("[Unavailable]"), Some(Unavailable));
        assert_eq!((word("1234567890"), word(&long)), (None, None));
    }
}
