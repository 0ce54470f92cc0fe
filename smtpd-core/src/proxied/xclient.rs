use std::net::IpAddr;

use super::{Attribute, AttributeError, attributes};
use crate::{
    address::ClientName,
    helo::Greeting,
    sasl::{Identity, prepare_name},
};

/// The client's facts, as reported by a proxy with XCLIENT.
///
/// An attribute is `None` if the proxy has not sent it. The others are only as trustworthy as the proxy. Parse a value from the
/// argument of the command.
///
/// ```
/// use std::net::IpAddr;
///
/// use smtpd_core::proxied::{Attribute, XClient};
///
/// let client: XClient =
///     "NAME=mx.example.net ADDR=192.0.2.1 LOGIN=[UNAVAILABLE]".parse()?;
/// assert_eq!(
///     client.addr(),
///     Some(&Attribute::Known(IpAddr::from([192, 0, 2, 1])))
/// );
/// assert_eq!(
///     (client.login(), client.port()),
///     (Some(&Attribute::Unavailable), None)
/// );
/// assert_eq!(
///     "ADDR=here".parse::<XClient>().unwrap_err().to_string(),
///     "Bad ADDR"
/// );
/// # Ok::<(), smtpd_core::proxied::AttributeError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct XClient {
    name: Option<Attribute<ClientName>>,
    addr: Option<Attribute<IpAddr>>,
    port: Option<Attribute<u16>>,
    protocol: Option<Greeting>,
    helo: Option<Attribute<ClientName>>,
    login: Option<Attribute<Identity>>,
    dest_addr: Option<Attribute<IpAddr>>,
    dest_port: Option<Attribute<u16>>,
}

impl XClient {
    /// The attributes, as EHLO announces them.
    pub(crate) const ATTRIBUTES: &str = "NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT";

    /// Returns NAME: the name of the client's address in the DNS. A value that is not a host name counts as unavailable.
    pub const fn name(&self) -> Option<&Attribute<ClientName>> {
        self.name.as_ref()
    }

    /// Returns ADDR: the client's address.
    pub const fn addr(&self) -> Option<&Attribute<IpAddr>> {
        self.addr.as_ref()
    }

    /// Returns PORT: the client's port.
    pub const fn port(&self) -> Option<&Attribute<u16>> {
        self.port.as_ref()
    }

    /// Returns PROTO: [`Greeting::Helo`] for `SMTP`, [`Greeting::Ehlo`] for `ESMTP`, [`Greeting::Lhlo`] for `LMTP`.
    /// XCLIENT_README does not define the last one, but proxies for LMTP send it.
    pub const fn protocol(&self) -> Option<Greeting> {
        self.protocol
    }

    /// Returns HELO: the HELO name of the client. Each byte that is not printable ASCII is replaced by `?`. An empty name counts
    /// as unavailable.
    pub const fn helo(&self) -> Option<&Attribute<ClientName>> {
        self.helo.as_ref()
    }

    /// Returns LOGIN: the identity under which the client has authenticated to the proxy. It is [prepared](prepare_name), like
    /// those of clients that authenticate here.
    pub const fn login(&self) -> Option<&Attribute<Identity>> {
        self.login.as_ref()
    }

    /// Returns DESTADDR: the address that the client has connected to.
    pub const fn dest_addr(&self) -> Option<&Attribute<IpAddr>> {
        self.dest_addr.as_ref()
    }

    /// Returns DESTPORT: the port that the client has connected to.
    pub const fn dest_port(&self) -> Option<&Attribute<u16>> {
        self.dest_port.as_ref()
    }

    /// Adds the attributes of another command. HELO, PROTO and LOGIN apply to one command only, because they belong to a client
    /// that the next command may change.
    pub(crate) fn and(&self, argument: &[u8]) -> Result<Self, AttributeError> {
        let mut client = Self {
            protocol: None,
            helo: None,
            login: None,
            ..self.clone()
        };
        for attribute in attributes(argument) {
            let (name, value) = attribute?;
            match &*name {
                "NAME" if value.bytes().eq_ignore_ascii_case(b"[TEMPUNAVAIL]") => {
                    client.name = Some(Attribute::TemporarilyUnavailable);
                }
                "NAME" => client.name = Some(value.host_name()),
                "ADDR" => client.addr = Some(value.address().ok_or(AttributeError("Bad ADDR"))?),
                "PORT" => client.port = Some(value.port().ok_or(AttributeError("Bad PORT"))?),
                "PROTO" => {
                    let protocol = protocol(value.bytes());
                    client.protocol = Some(protocol.ok_or(AttributeError("Bad PROTO"))?)
                }
                "HELO" => client.helo = Some(value.helo()),
                "LOGIN" => {
                    let login = value.read(|text| Some(identity(text)));
                    client.login = Some(login.ok_or(AttributeError("Bad LOGIN"))?)
                }
                "DESTADDR" => {
                    client.dest_addr = Some(value.address().ok_or(AttributeError("Bad DESTADDR"))?)
                }
                "DESTPORT" => {
                    client.dest_port = Some(value.port().ok_or(AttributeError("Bad DESTPORT"))?)
                }
                _ => return Err(AttributeError("Unknown attribute of XCLIENT")),
            }
        }
        Ok(client)
    }
}

/// Parses the attributes from the argument of the command.
impl std::str::FromStr for XClient {
    type Err = AttributeError;

    fn from_str(attributes: &str) -> Result<Self, AttributeError> {
        Self::default().and(attributes.as_bytes())
    }
}

/// A name that cannot be prepared belongs to no user here, so it stays unchanged.
fn identity(text: &str) -> Identity {
    Identity::new(prepare_name(text).as_deref().unwrap_or(text))
}

fn protocol(text: &[u8]) -> Option<Greeting> {
    match text {
        _ if text.eq_ignore_ascii_case(b"SMTP") => Some(Greeting::Helo),
        _ if text.eq_ignore_ascii_case(b"ESMTP") => Some(Greeting::Ehlo),
        _ if text.eq_ignore_ascii_case(b"LMTP") => Some(Greeting::Lhlo),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attribute_is_read() {
        let client: XClient =
            "name=mx.test ADDR=IPV6:2001:db8::1 PORT=4711 PROTO=esmtp HELO=[192.0.2.7] \
             LOGIN=al+2Bice DESTADDR=192.0.2.9 DESTPORT=25"
                .parse()
                .unwrap();
        let expected = XClient {
            name: Some(Attribute::Known("mx.test".parse().unwrap())),
            addr: Some(Attribute::Known("2001:db8::1".parse().unwrap())),
            port: Some(Attribute::Known(4711)),
            protocol: Some(Greeting::Ehlo),
            helo: Some(Attribute::Known("[192.0.2.7]".parse().unwrap())),
            login: Some(Attribute::Known("al+ice".into())),
            dest_addr: Some(Attribute::Known("192.0.2.9".parse().unwrap())),
            dest_port: Some(Attribute::Known(25)),
        };
        assert_eq!(client, expected);
        for name in XClient::ATTRIBUTES.split(' ').filter(|&n| n != "PROTO") {
            let client: Result<XClient, _> = format!("{name}=[unavailable]").parse();
            assert_ne!(client.unwrap(), XClient::default(), "{name}");
        }
    }

    #[test]
    fn a_login_is_the_name_that_the_user_has_here() {
        for (login, name) in [
            ("mu\u{308}ller", "m\u{fc}ller"),
            ("a\u{202e}b", "a\u{202e}b"),
        ] {
            let client: XClient = format!("LOGIN={login}").parse().unwrap();
            assert_eq!(client.login, Some(Attribute::Known(name.into())));
        }
    }

    #[test]
    fn every_protocol_of_this_crate_is_known() {
        for (attribute, greeting) in [
            ("PROTO=SMTP", Greeting::Helo),
            ("PROTO=esmtp", Greeting::Ehlo),
            ("PROTO=LMTP", Greeting::Lhlo),
        ] {
            let client: XClient = attribute.parse().unwrap();
            assert_eq!(client.protocol, Some(greeting), "{attribute}");
        }
    }

    #[test]
    fn what_is_malformed_is_named() {
        for (attributes, fault) in [
            ("ADDR=example.org", "Bad ADDR"),
            ("ADDR=[TEMPUNAVAIL]", "Bad ADDR"),
            ("ADDR=", "Bad ADDR"),
            ("PORT=", "Bad PORT"),
            ("LOGIN=", "Bad LOGIN"),
            ("LOGIN=alice+0A", "Bad LOGIN"),
            ("LOGIN=+FF", "Bad LOGIN"),
            ("PROTO=", "Bad PROTO"),
            ("PORT=65536", "Bad PORT"),
            ("PROTO=QMQP", "Bad PROTO"),
            ("PROTO=[UNAVAILABLE]", "Bad PROTO"),
            ("DESTADDR=x", "Bad DESTADDR"),
            ("DESTPORT=x", "Bad DESTPORT"),
            ("SOURCE=LOCAL", "Unknown attribute of XCLIENT"),
            ("ADDR=192.0.2.1 NAME", "Expected attribute=value"),
        ] {
            assert_eq!(
                attributes.parse::<XClient>(),
                Err(AttributeError(fault)),
                "{attributes}"
            );
        }
    }

    #[test]
    fn what_one_command_says_of_a_login_does_not_reach_the_client_of_the_next() {
        let first: XClient = "LOGIN=alice HELO=a.test PROTO=ESMTP NAME=mx.test PORT=1"
            .parse()
            .unwrap();
        let second = first.and(b"ADDR=192.0.2.1 PORT=2").unwrap();
        let whole: XClient = "NAME=mx.test ADDR=192.0.2.1 PORT=2".parse().unwrap();
        assert_eq!(second, whole);
    }
}
