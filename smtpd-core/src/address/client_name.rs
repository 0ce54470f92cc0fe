use std::fmt;
use std::str;

use super::{AddressError, AddressErrorKind, AddressPart, Domain, PathOptions, Text};

/// The name by which a client identifies itself in HELO or EHLO (RFC 5321 section 4.1.1.1).
///
/// Many clients send something that is neither a domain nor an address literal. It is kept unchanged, because RFC 5321 section
/// 4.1.4 forbids refusing mail because of it, if it is printable ASCII without spaces and thus safe to log and to write into a
/// header.
///
/// ```
/// use smtpd_core::address::{ClientName, ClientNameKind};
///
/// assert_eq!(
///     ClientName::parse(b"mx.example.org")?.kind(),
///     ClientNameKind::Domain
/// );
/// assert_eq!(
///     ClientName::parse(b"[192.0.2.1]")?.kind(),
///     ClientNameKind::Literal
/// );
/// assert_eq!(
///     ClientName::parse(b"my_laptop")?.kind(),
///     ClientNameKind::Other
/// );
/// assert!(ClientName::parse(b"two words").is_err());
/// # Ok::<(), smtpd_core::address::AddressError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ClientName(Name);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Name {
    Domain(Domain),
    Other(Text),
}

impl ClientName {
    /// Parses the argument of HELO or EHLO.
    ///
    /// # Errors
    ///
    /// Fails if it is empty or longer than 255 octets, or contains anything but printable ASCII.
    pub fn parse(input: &[u8]) -> Result<Self, AddressError> {
        if input.is_empty() {
            return Err(AddressErrorKind::Empty.into());
        }
        AddressPart::Domain.check(input.len())?; // RFC 5321 section 4.5.3.1.2
        if let Ok(domain) = Domain::parse(input, PathOptions::default()) {
            return Ok(Self(Name::Domain(domain)));
        }
        match input.iter().find(|byte| !byte.is_ascii_graphic()) {
            Some(b' ') => return Err(AddressErrorKind::Space.into()),
            Some(0x80..) => return Err(AddressErrorKind::NonAscii.into()),
            Some(_) => return Err(AddressErrorKind::Control.into()),
            None => {}
        }
        let text = str::from_utf8(input).map_err(|_| AddressErrorKind::NonAscii)?;
        Ok(Self(Name::Other(text.into())))
    }

    /// Returns the name as it was sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Name::Domain(domain) => domain.as_str(),
            Name::Other(text) => text,
        }
    }

    /// Returns the form of the name.
    #[must_use]
    pub fn kind(&self) -> ClientNameKind {
        match self.domain() {
            Some(domain) if domain.is_literal() => ClientNameKind::Literal,
            Some(_) => ClientNameKind::Domain,
            None => ClientNameKind::Other,
        }
    }

    /// Returns the domain or address literal, or `None` if the name is neither.
    #[must_use]
    pub const fn domain(&self) -> Option<&Domain> {
        match &self.0 {
            Name::Domain(domain) => Some(domain),
            Name::Other(_) => None,
        }
    }
}

impl fmt::Debug for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClientName").field(&self.as_str()).finish()
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TryFrom<&str> for ClientName {
    type Error = AddressError;

    fn try_from(text: &str) -> Result<Self, AddressError> {
        Self::parse(text.as_bytes())
    }
}

impl str::FromStr for ClientName {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text.as_bytes())
    }
}

/// The form of a [`ClientName`].
///
/// ```
/// use smtpd_core::address::{ClientName, ClientNameKind};
///
/// let kind = |name: &str| name.parse().map(|name: ClientName| name.kind());
/// assert_eq!(kind("mx.example.org"), Ok(ClientNameKind::Domain));
/// assert_eq!(kind("[192.0.2.1]"), Ok(ClientNameKind::Literal));
/// assert_eq!(kind("my_host"), Ok(ClientNameKind::Other));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClientNameKind {
    /// A domain, as RFC 5321 section 4.1.1.1 requires.
    Domain,
    /// An address literal, for a client without a domain.
    Literal,
    /// Neither of them.
    Other,
}

#[cfg(test)]
mod tests {
    use AddressErrorKind as Kind;

    use super::*;

    #[test]
    fn kinds() {
        let longest = "_".repeat(255);
        for (text, kind) in [
            ("localhost", ClientNameKind::Domain),
            ("Mail.Example.org", ClientNameKind::Domain),
            ("[127.0.0.1]", ClientNameKind::Literal),
            ("[IPv6:::1]", ClientNameKind::Literal),
            ("[x:y]", ClientNameKind::Other),
            ("[256.0.0.1]", ClientNameKind::Other),
            ("under_score", ClientNameKind::Other),
            ("dot.", ClientNameKind::Other),
            ("<a@b>", ClientNameKind::Other),
            (&longest, ClientNameKind::Other),
        ] {
            let name = ClientName::parse(text.as_bytes()).expect(text);
            assert_eq!((name.as_str(), name.kind()), (text, kind));
        }
    }

    #[test]
    fn refused() {
        let part = AddressPart::Domain;
        for (bytes, kind) in [
            (&b""[..], Kind::Empty),
            (b"a b", Kind::Space),
            (b" a", Kind::Space),
            (b"a ", Kind::Space),
            (b"a\tb", Kind::Control),
            (b"a\rb", Kind::Control),
            (b"a\0", Kind::Control),
            (b"a\x7f", Kind::Control),
            (b"gr\xc3\xa5", Kind::NonAscii),
            (&[b'_'; 256], Kind::TooLong { part }),
        ] {
            assert_eq!(
                ClientName::parse(bytes).unwrap_err().kind(),
                kind,
                "{bytes:?}"
            );
        }
    }
}
