//! What a proxy says of the client for which it speaks, by XCLIENT or XFORWARD (XCLIENT_README and XFORWARD_README of
//! Postfix, which define the two).

mod xclient;
mod xforward;

use std::{
    error::Error,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::{ClientName, parameter::xtext};

pub use self::{
    xclient::XClient,
    xforward::{Forwarded, MailSource},
};

/// The value of an attribute, as far as the proxy knows it.
///
/// ```
/// use smtpd_core::Attribute;
///
/// assert_eq!(Attribute::Known(25).known(), Some(&25));
/// assert_eq!(Attribute::<u16>::Unavailable.known(), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attribute<T> {
    /// The value.
    Known(T),
    /// `[UNAVAILABLE]`: there is none, or it cannot be found out.
    Unavailable,
    /// `[TEMPUNAVAIL]`: it could not be found out for now. Only names can be so.
    TemporarilyUnavailable,
}

impl<T> Attribute<T> {
    /// The value, where it is known.
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

/// What is wrong with the attributes of XCLIENT or XFORWARD, in words for the reply.
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

/// The attributes of a command, each with its name in upper case.
fn attributes(argument: &[u8]) -> impl Iterator<Item = Result<(String, Value), AttributeError>> {
    argument
        .split(|&octet| octet == b' ')
        .filter(|word| !word.is_empty())
        .map(|word| {
            let word = std::str::from_utf8(word)
                .map_err(|_| AttributeError("Attributes are ASCII, in xtext"))?;
            match word.split_once('=') {
                Some((_, "")) | None => Err(AttributeError::NONE),
                Some((_, raw)) if raw.len() > MAX_VALUE => {
                    Err(AttributeError("Attribute value too long"))
                }
                Some((name, raw)) => Ok((name.to_ascii_uppercase(), Value::new(raw)?)),
            }
        })
}

/// A value as it was meant; no control characters.
struct Value(String);

impl Value {
    fn new(raw: &str) -> Result<Self, AttributeError> {
        // Note 3: who does not know xtext sends the value as it is; so do some proxies to this day.
        let text = xtext::decode(raw).unwrap_or_else(|_| raw.to_owned());
        if text.contains(char::is_control) {
            return Err(AttributeError("Control characters in an attribute"));
        }
        Ok(Self(text))
    }

    fn read<T>(&self, parse: impl FnOnce(&str) -> Option<T>) -> Option<Attribute<T>> {
        // Note 2: in any case.
        if self.0.eq_ignore_ascii_case("[UNAVAILABLE]") {
            return Some(Attribute::Unavailable);
        }
        parse(&self.0).map(Attribute::Known)
    }

    /// The name of a host, as the DNS has them, underscores included.
    fn host_name(&self) -> Option<Attribute<ClientName>> {
        self.read(|text| {
            let is_host = text
                .bytes()
                .all(|octet| octet.is_ascii_alphanumeric() || b".-_".contains(&octet));
            let name = ClientName::parse(text.as_bytes()).ok()?;
            (is_host && text.parse::<Ipv4Addr>().is_err()).then_some(name)
        })
    }

    /// What a client says in HELO.
    fn helo(&self) -> Option<Attribute<ClientName>> {
        self.read(|text| ClientName::parse(text.as_bytes()).ok())
    }

    /// An IPv4 address, or `IPV6:` and one of IPv6.
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
            let digits = text.bytes().all(|octet| octet.is_ascii_digit());
            text.parse().ok().filter(|_| digits)
        })
    }

    /// Text that is safe wherever it is written: what could mean something in a header becomes `?`.
    fn word(&self, longest: usize) -> Option<Attribute<String>> {
        self.read(|text| {
            let clean = |c: char| {
                if c.is_ascii_graphic() && !"<>()\\\";@".contains(c) {
                    c
                } else {
                    '?'
                }
            };
            (text.len() <= longest).then(|| text.chars().map(clean).collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_names_with_values() {
        let long = format!("A={}", "x".repeat(256));
        let most = format!("A={}", "x".repeat(255));
        type Pairs<'a> = Option<&'a [(&'a str, &'a str)]>;
        let cases: [(&str, Pairs<'_>); 14] = [
            ("A=b", Some(&[("A", "b")])),
            ("a=b  Cd=e", Some(&[("A", "b"), ("CD", "e")])),
            ("A=b+2Bc+3D", Some(&[("A", "b+c=")])),
            ("A=b=c", Some(&[("A", "b=c")])),
            ("A=user+tag", Some(&[("A", "user+tag")])),
            ("A=+C3+A9", Some(&[("A", "é")])),
            (&most, Some(&[("A", &most[2..])])),
            ("", Some(&[])),
            ("A", None),
            ("A=", None),
            ("A=b C", None),
            ("A=b+0Ac", None),
            ("A=b+7F", None),
            (&long, None),
        ];
        for (argument, expected) in cases {
            let found: Result<Vec<_>, _> = attributes(argument.as_bytes()).collect();
            let found = found.map(|list| {
                list.into_iter()
                    .map(|(name, value)| (name, value.0))
                    .collect::<Vec<_>>()
            });
            let expected = expected.map(|list| {
                list.iter()
                    .map(|(name, value)| (name.to_string(), value.to_string()))
                    .collect::<Vec<_>>()
            });
            assert_eq!(found.ok(), expected, "{argument:?}");
        }
        assert!(attributes(b"A=\xff").any(|attribute| attribute.is_err()));
    }

    #[test]
    fn values_are_read_strictly() {
        use Attribute::{Known, Unavailable};
        let value = |text: &str| Value::new(text).unwrap();
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
        ] {
            assert_eq!(value(text).port(), expected, "{text}");
        }
        for (text, taken) in [
            ("mx.example.org", true),
            ("my_host", true),
            ("[UNAVAILABLE]", true),
            ("192.0.2.1", false),
            ("[192.0.2.1]", false),
            ("a(b)", false),
            ("a b", false),
        ] {
            assert_eq!(value(text).host_name().is_some(), taken, "{text}");
        }
        let word = |text: &str| value(text).word(8).and_then(Attribute::into_known);
        assert_eq!(word("a<b>(\"é").as_deref(), Some("a?b????"));
        assert_eq!(word("123456789"), None);
    }
}
