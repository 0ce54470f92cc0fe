use std::net::IpAddr;

use super::{Attribute, AttributeError, Value, attributes};
use crate::address::ClientName;

/// The origin of a message before it reached the proxy, as reported by the proxy with XFORWARD.
///
/// This is for logs and traces, and decides nothing by itself. An attribute is `None` if it is not known. Without an address, the
/// message originated at the proxy's own host. Parse a value from the argument of the command.
///
/// ```
/// use smtpd_core::proxied::{Forwarded, MailSource};
///
/// let forwarded: Forwarded = "ADDR=192.0.2.1 IDENT=4F2A SOURCE=REMOTE".parse()?;
/// assert_eq!(forwarded.addr(), Some([192, 0, 2, 1].into()));
/// assert_eq!(
///     (forwarded.ident(), forwarded.source()),
///     (Some("4F2A"), Some(MailSource::Remote))
/// );
/// # Ok::<(), smtpd_core::proxied::AttributeError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    name: Option<ClientName>,
    addr: Option<IpAddr>,
    port: Option<u16>,
    protocol: Option<String>,
    helo: Option<ClientName>,
    ident: Option<String>,
    source: Option<MailSource>,
}

/// Whether the proxy received a message from a local client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MailSource {
    /// `LOCAL`.
    Local,
    /// `REMOTE`.
    Remote,
}

impl Forwarded {
    /// The attributes, as EHLO announces them.
    pub(crate) const ATTRIBUTES: &str = "NAME ADDR PORT PROTO HELO IDENT SOURCE";

    /// Returns NAME: the name of the client's address in the DNS. A value that is not a host name counts as not known.
    pub const fn name(&self) -> Option<&ClientName> {
        self.name.as_ref()
    }

    /// Returns ADDR: the client's address.
    pub const fn addr(&self) -> Option<IpAddr> {
        self.addr
    }

    /// Returns PORT: the client's port.
    pub const fn port(&self) -> Option<u16> {
        self.port
    }

    /// Returns PROTO: the protocol over which the message was received, such as `ESMTP`; at most 64 characters. As in
    /// [`ident`](Self::ident), each character that could have a meaning in a header is replaced by `?`.
    pub fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    /// Returns HELO: the HELO name of the client. Each byte that is not printable ASCII is replaced by `?`.
    pub const fn helo(&self) -> Option<&ClientName> {
        self.helo.as_ref()
    }

    /// Returns IDENT: the name of the message at the proxy, such as a queue identifier; at most 255 characters.
    pub fn ident(&self) -> Option<&str> {
        self.ident.as_deref()
    }

    /// Returns SOURCE: whether the message was local there.
    pub const fn source(&self) -> Option<MailSource> {
        self.source
    }

    /// Adds the attributes of another command.
    pub(crate) fn and(&self, argument: &[u8]) -> Result<Self, AttributeError> {
        const MAX_PROTOCOL: usize = 64;
        let mut this = self.clone();
        for attribute in attributes(argument) {
            let (name, value) = attribute?;
            match &*name {
                "NAME" => this.name = value.host_name().into_known(),
                "ADDR" => this.addr = known(value.address(), "Bad ADDR")?,
                "PORT" => this.port = known(value.port(), "Bad PORT")?,
                "PROTO" => this.protocol = known(value.word(MAX_PROTOCOL), "Bad PROTO")?,
                "HELO" => this.helo = value.helo().into_known(),
                "IDENT" => this.ident = known(value.word(super::MAX_VALUE), "Bad IDENT")?,
                "SOURCE" => this.source = known(source(&value), "Bad SOURCE")?,
                _ => return Err(AttributeError("Unknown attribute of XFORWARD")),
            }
        }
        Ok(this)
    }
}

/// Parses the attributes from the argument of the command.
impl std::str::FromStr for Forwarded {
    type Err = AttributeError;

    fn from_str(attributes: &str) -> Result<Self, AttributeError> {
        Self::default().and(attributes.as_bytes())
    }
}

fn known<T>(value: Option<Attribute<T>>, fault: &'static str) -> Result<Option<T>, AttributeError> {
    value
        .map(Attribute::into_known)
        .ok_or(AttributeError(fault))
}

fn source(value: &Value) -> Option<Attribute<MailSource>> {
    if value.0.as_deref() == Some(b"") {
        return Some(Attribute::Unavailable);
    }
    value.read(|text| match text {
        _ if text.eq_ignore_ascii_case("LOCAL") => Some(MailSource::Local),
        _ if text.eq_ignore_ascii_case("REMOTE") => Some(MailSource::Remote),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attribute_is_read_and_taken_back() {
        let whole: Forwarded =
            "NAME=mx.test ADDR=IPV6:2001:db8::1 PORT=4711 PROTO=ESMTP HELO=a.test IDENT=4F+2B2A source=local"
                .parse()
                .unwrap();
        let expected = Forwarded {
            name: Some("mx.test".parse().unwrap()),
            addr: Some("2001:db8::1".parse().unwrap()),
            port: Some(4711),
            protocol: Some("ESMTP".to_owned()),
            helo: Some("a.test".parse().unwrap()),
            ident: Some("4F+2A".to_owned()),
            source: Some(MailSource::Local),
        };
        assert_eq!(whole, expected);
        let mut left = whole.clone();
        for name in Forwarded::ATTRIBUTES.split(' ') {
            let next = left.and(format!("{name}=[UNAVAILABLE]").as_bytes());
            assert_ne!(next.as_ref(), Ok(&left), "{name}");
            left = next.unwrap();
        }
        assert_eq!(left, Forwarded::default());
    }

    #[test]
    fn attributes_that_a_command_does_not_name_stay() {
        let first: Forwarded = "NAME=mx.test PORT=1".parse().unwrap();
        let second = first.and(b"PORT=2 HELO=a.test").unwrap();
        assert_eq!(Ok(second), "NAME=mx.test PORT=2 HELO=a.test".parse());
    }

    #[test]
    fn what_is_malformed_is_named() {
        let long = format!("PROTO={}", "x".repeat(65));
        for (attributes, fault) in [
            ("ADDR=", "Bad ADDR"),
            ("PORT=", "Bad PORT"),
            ("ADDR=mx.test", "Bad ADDR"),
            ("PORT=x", "Bad PORT"),
            (&*long, "Bad PROTO"),
            ("SOURCE=HERE", "Bad SOURCE"),
            ("LOGIN=alice", "Unknown attribute of XFORWARD"),
        ] {
            assert_eq!(
                attributes.parse::<Forwarded>(),
                Err(AttributeError(fault)),
                "{attributes}"
            );
        }
    }

    #[test]
    fn words_can_be_written_into_a_header() {
        let forwarded: Forwarded = "IDENT=a+20b(c)+22 PROTO=x;y".parse().unwrap();
        assert_eq!(forwarded.ident.as_deref(), Some("a?b?c??"));
        assert_eq!(forwarded.protocol.as_deref(), Some("x?y"));
    }

    #[test]
    fn words_that_are_empty_are_not_known() {
        let before: Forwarded = "NAME=mx.test PROTO=ESMTP HELO=a.test IDENT=1 SOURCE=LOCAL"
            .parse()
            .unwrap();
        let after = before.and(b"NAME= PROTO= HELO= IDENT= SOURCE=");
        assert_eq!(after, Ok(Forwarded::default()));
    }
}
