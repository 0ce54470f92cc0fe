use std::{error::Error, fmt, net::IpAddr};

/// The prefix lengths that distinguish clients: one for IPv4 and one for IPv6.
///
/// Addresses with the same first bits count as one client. The default is a whole IPv4 address and an IPv6 /64, the prefix of one
/// link (RFC 4291 section 2.5.1), within which a host chooses its addresses freely.
///
/// ```
/// use smtpd_tower::net::Prefixes;
///
/// assert_eq!(Prefixes::default(), Prefixes::new(32, 64)?);
///
/// let error = Prefixes::new(33, 48).unwrap_err();
/// assert_eq!(error.to_string(), "an IPv4 prefix has 0 to 32 bits, not 33");
/// # Ok::<(), smtpd_tower::net::PrefixesError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefixes {
    v4: u8,
    v6: u8,
}

impl Prefixes {
    /// One client: a whole IPv4 address, an IPv6 /64. This is the default.
    pub const CLIENT: Self = Self { v4: 32, v6: 64 };

    /// A client and its neighbours, by which greylisting knows a client again (RFC 6647 section 5, item 5): an IPv4 /24, an IPv6
    /// /64.
    pub(crate) const NEIGHBOURS: Self = Self { v4: 24, v6: 64 };

    /// One site: a whole IPv4 address, an IPv6 /48, which is what an organisation is given at most (RFC 6177 section 2).
    pub const SITE: Self = Self { v4: 32, v6: 48 };

    /// Creates a pair of prefix lengths, in bits. With 0, a whole address family is one client.
    ///
    /// # Errors
    ///
    /// Returns an error if a prefix is longer than the address: 32 bits for IPv4, 128 bits for IPv6.
    pub const fn new(v4: u8, v6: u8) -> Result<Self, PrefixesError> {
        if v4 > 32 {
            return Err(PrefixesError::V4(v4));
        }
        if v6 > 128 {
            return Err(PrefixesError::V6(v6));
        }
        Ok(Self { v4, v6 })
    }

    /// Returns the prefix length for IPv4, at most 32.
    pub const fn v4(self) -> u8 {
        self.v4
    }

    /// Returns the prefix length for IPv6, at most 128.
    pub const fn v6(self) -> u8 {
        self.v6
    }

    /// Returns the length for the family of that address.
    pub(crate) const fn bits_of(self, ip: IpAddr) -> u8 {
        match ip {
            IpAddr::V4(_) => self.v4,
            IpAddr::V6(_) => self.v6,
        }
    }
}

impl Default for Prefixes {
    /// Returns [`CLIENT`](Self::CLIENT).
    fn default() -> Self {
        Self::CLIENT
    }
}

/// An error of [`Prefixes::new`]: the length that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PrefixesError {
    /// An IPv4 prefix of more than 32 bits.
    V4(u8),
    /// An IPv6 prefix of more than 128 bits.
    V6(u8),
}

impl fmt::Display for PrefixesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(bits) => write!(f, "an IPv4 prefix has 0 to 32 bits, not {bits}"),
            Self::V6(bits) => write!(f, "an IPv6 prefix has 0 to 128 bits, not {bits}"),
        }
    }
}

impl Error for PrefixesError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_longer_than_the_address_is_silently_cut() {
        assert_eq!(Prefixes::new(33, 0), Err(PrefixesError::V4(33)));
        assert_eq!(Prefixes::new(0, 129), Err(PrefixesError::V6(129)));
        let longest = Prefixes::new(32, 128).unwrap();
        assert_eq!((longest.v4(), longest.v6()), (32, 128));
        let shown = Prefixes::new(24, 200).unwrap_err().to_string();
        assert_eq!(shown, "an IPv6 prefix has 0 to 128 bits, not 200");
    }
}
