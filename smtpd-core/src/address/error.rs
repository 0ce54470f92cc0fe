use std::error::Error;
use std::fmt;

/// Why bytes are not an address.
///
/// Its `Display` never repeats what the client sent, so it is safe to use in a reply. The replies of a session begin with this
/// text, with a capital letter.
///
/// ```
/// use smtpd_core::{Mailbox, address::AddressErrorKind};
///
/// let error = "a..b@example.org".parse::<Mailbox>().unwrap_err();
/// assert_eq!(error.kind(), AddressErrorKind::LocalPart);
/// assert_eq!(error.to_string(), "malformed local part");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressError {
    kind: AddressErrorKind,
}

impl AddressError {
    /// Returns what is wrong.
    #[must_use]
    pub const fn kind(&self) -> AddressErrorKind {
        self.kind
    }
}

impl From<AddressErrorKind> for AddressError {
    fn from(kind: AddressErrorKind) -> Self {
        Self { kind }
    }
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            AddressErrorKind::Empty => "no address given",
            AddressErrorKind::Space => "space before or inside the address",
            AddressErrorKind::MissingBracket => "address not in angle brackets",
            AddressErrorKind::Route => "malformed source route",
            AddressErrorKind::LocalPart => "malformed local part",
            AddressErrorKind::NoDomain => "address without a domain",
            AddressErrorKind::Domain => "malformed domain",
            AddressErrorKind::DisallowedLabel => "domain label not allowed by IDNA2008",
            AddressErrorKind::Literal => "malformed address literal",
            AddressErrorKind::UnsupportedLiteral => "unsupported kind of address literal",
            AddressErrorKind::TooLong { part } => {
                return write!(f, "{} longer than {} octets", part.name(), part.limit());
            }
            AddressErrorKind::NonAscii => "non-ASCII octets in the address",
            AddressErrorKind::MalformedUtf8 => "malformed UTF-8 in the address",
            AddressErrorKind::Control => "control character in the address",
            AddressErrorKind::Trailing => "unexpected text after the address",
        })
    }
}

impl Error for AddressError {}

/// The kinds of [`AddressError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AddressErrorKind {
    /// An address is needed, but there is none, as in `RCPT TO:<>`.
    Empty,
    /// A space stands before the path, or inside the HELO name.
    Space,
    /// A path lacks its `<` or `>`.
    MissingBracket,
    /// The source route before the mailbox is malformed.
    Route,
    /// The local part is neither a dot-string nor a quoted string.
    LocalPart,
    /// The address ends after the local part.
    NoDomain,
    /// The domain is malformed.
    Domain,
    /// A label of the domain is not ASCII, and IDNA2008 does not allow it, because of one of its characters or because of that
    /// character's position (RFC 5892).
    DisallowedLabel,
    /// The address literal is malformed.
    Literal,
    /// The address literal has a tag other than `IPv6`.
    UnsupportedLiteral,
    /// The address or a part of it is too long.
    TooLong {
        /// The part that is too long.
        part: AddressPart,
    },
    /// There are bytes above 127, but SMTPUTF8 was not requested.
    NonAscii,
    /// The bytes are not UTF-8.
    MalformedUtf8,
    /// There is a control character, quoted or not.
    Control,
    /// Something other than a space follows the path.
    Trailing,
}

/// A part of an address with its own length limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AddressPart {
    /// The part before the `@`, with its quotes.
    LocalPart,
    /// One label of a domain.
    Label,
    /// A domain, or the HELO name.
    Domain,
    /// A whole path with its brackets and its source route.
    Path,
}

impl AddressPart {
    /// Returns the maximum number of octets of the part.
    #[must_use]
    pub const fn limit(self) -> usize {
        match self {
            Self::LocalPart => 64, // RFC 5321 section 4.5.3.1.1
            Self::Label => 63,     // RFC 1035 section 2.3.4
            Self::Domain => 255,   // RFC 5321 section 4.5.3.1.2
            Self::Path => 256,     // RFC 5321 section 4.5.3.1.3
        }
    }

    pub(super) fn check(self, len: usize) -> Result<(), AddressError> {
        if len > self.limit() {
            return Err(AddressErrorKind::TooLong { part: self }.into());
        }
        Ok(())
    }

    const fn name(self) -> &'static str {
        match self {
            Self::LocalPart => "local part",
            Self::Label => "domain label",
            Self::Domain => "domain",
            Self::Path => "path",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_long_names_part_and_limit() {
        let error = AddressPart::Path.check(257).unwrap_err();
        assert_eq!(error.to_string(), "path longer than 256 octets");
        assert_eq!(AddressPart::Path.check(256), Ok(()));
    }
}
