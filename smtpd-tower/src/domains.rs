//! Domains compared as in RFC 5890 section 2.3.2.4: the A-label and the U-label of one name are the same. So are
//! address literals (RFC 5321 section 4.1.3) of the same address.

use std::{error::Error, fmt, sync::Arc};

use smtpd_core::address::{AddressError, Charset, Domain, Leniency, PathOptions};

/// A set of domains, to which the domains of clients are compared.
///
/// Case does not matter (RFC 5321 section 2.4), and A-labels and U-labels of the same name are the same (RFC 5890 section
/// 2.3.2.4). A subdomain is another domain. The set may also contain address literals, such as `[192.0.2.1]`; those of the same
/// address are the same. Cloning is cheap.
///
/// ```
/// use smtpd_tower::domains::Domains;
///
/// let domains = Domains::parse(["example.org", "grå.example"])?;
/// assert!(domains.contains(&"EXAMPLE.org".parse()?));
/// assert!(domains.contains(&"xn--gr-zia.example".parse()?));
/// assert!(!domains.contains(&"sub.example.org".parse()?));
///
/// let error = Domains::parse(["example.org", "exa mple.net"]).unwrap_err();
/// assert_eq!(error.to_string(), "`exa mple.net` is not a domain");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Domains(Arc<[Box<str>]>);

impl Domains {
    /// Parses domains that people have written.
    ///
    /// Accepts more than from clients by default: underscores, a trailing dot, and what UTS #46 maps to a domain as browsers do,
    /// such as fullwidth letters.
    ///
    /// # Errors
    ///
    /// Returns an error that names the first text that is not a domain.
    pub fn parse<T: AsRef<str>>(
        domains: impl IntoIterator<Item = T>,
    ) -> Result<Self, DomainsError> {
        domains
            .into_iter()
            .map(|domain| {
                let input = domain.as_ref();
                parse(input).map_err(|source| DomainsError {
                    input: input.to_owned(),
                    source,
                })
            })
            .collect()
    }

    /// Returns whether `domain` is in the set.
    pub fn contains(&self, domain: &Domain) -> bool {
        // Most domains are written as in the set, which avoids an allocation.
        self.has(domain.as_str()) || self.has(&domain.canonical())
    }

    /// Returns whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Like [`contains`](Self::contains), for a text that may not be a domain.
    pub(crate) fn contains_text(&self, domain: &str) -> bool {
        self.has(&canonical(domain))
    }

    /// Usually the domains are few, and then binary search is faster than hashing.
    fn has(&self, domain: &str) -> bool {
        self.0.binary_search_by(|one| (**one).cmp(domain)).is_ok()
    }
}

impl FromIterator<Domain> for Domains {
    fn from_iter<I: IntoIterator<Item = Domain>>(domains: I) -> Self {
        let domains = domains.into_iter();
        let mut domains: Vec<Box<str>> =
            domains.map(|domain| (*domain.canonical()).into()).collect();
        domains.sort_unstable();
        Self(domains.into())
    }
}

/// An error from [`Domains::parse`]: a text that is not a domain. Its [`source`](Error::source) explains why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainsError {
    input: String,
    source: AddressError,
}

impl DomainsError {
    /// Returns the text that is not a domain.
    pub fn input(&self) -> &str {
        &self.input
    }
}

impl fmt::Display for DomainsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not a domain", self.input.escape_debug())
    }
}

impl Error for DomainsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

/// Parses a domain that a person has written.
pub(crate) fn parse(domain: &str) -> Result<Domain, AddressError> {
    let leniency = Leniency::STRICT
        .allow_underscore_in_domain(true)
        .allow_trailing_dot_in_domain(true);
    let options = PathOptions::new(leniency, Charset::Utf8);
    Domain::parse(domain.as_bytes(), options).or_else(|source| {
        // What clients may not send, such as fullwidth letters, is mapped as browsers do it (UTS #46).
        let mapped = idna::domain_to_ascii(domain).ok();
        let mapped = mapped.and_then(|domain| domain.parse().ok());
        mapped.ok_or(source)
    })
}

/// Returns the canonical form of a domain that a person has written. A text that is not a domain is returned in lower case.
pub(crate) fn canonical(domain: &str) -> Box<str> {
    match parse(domain) {
        Ok(domain) => (*domain.canonical()).into(),
        Err(_) => domain.to_ascii_lowercase().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_both_kinds_are_the_same() {
        let set =
            Domains::parse(["grå.example", "XN--BCHER-KVA.example", "Lenient_name."]).unwrap();
        assert!(set.contains_text("LENIENT_name") && !set.contains_text("lenient name"));
        for (domain, expected) in [
            ("grå.example", true),
            ("GRÅ.Example", true),
            ("xn--gr-zia.example", true),
            ("XN--GR-ZIA.EXAMPLE", true),
            ("bücher.example", true),
            ("xn--bcher-kva.example", true),
            ("gra.example", false),
            ("sub.grå.example", false),
            ("bucher.example", false),
        ] {
            let domain: Domain = domain.parse().unwrap();
            assert_eq!(set.contains(&domain), expected, "{domain}");
        }
    }

    /// People type these: what a client may not send must not silently become a domain that matches nothing.
    #[test]
    fn a_domain_in_another_width_is_no_domain_that_matches_nothing() {
        for (named, domain) in [
            (
                "\u{4f8b}\u{3048}\u{3002}\u{30c6}\u{30b9}\u{30c8}",
                "\u{4f8b}\u{3048}.\u{30c6}\u{30b9}\u{30c8}",
            ),
            ("\u{ff45}xample.org", "example.org"),
            ("exam\u{ad}ple.org", "example.org"),
            ("\u{ff27}R\u{c5}.example", "xn--gr-zia.example"),
        ] {
            let set = Domains::parse([named]).unwrap();
            assert!(named.parse::<Domain>().is_err(), "{named}");
            assert!(set.contains(&domain.parse().unwrap()), "{named}");
        }
        assert_eq!(&*canonical("LENIENT_name"), "lenient_name");
        assert_eq!(&*canonical("[192.0.2.1]"), "[192.0.2.1]");
    }

    #[test]
    fn a_literal_is_the_same_in_every_spelling_of_its_address() {
        let set = Domains::parse(["[IPv6:2001:DB8:0:0::1]"]).unwrap();
        for (literal, expected) in [
            ("[IPv6:2001:db8::1]", true),
            ("[ipv6:2001:0db8::0:0001]", true),
            ("[IPv6:2001:db8::2]", false),
        ] {
            let domain: Domain = literal.parse().unwrap();
            assert_eq!(set.contains(&domain), expected, "{literal}");
        }
    }

    #[test]
    fn a_mistyped_domain_is_a_domain_that_matches_nothing() {
        for named in [
            "",
            ".",
            "exa mple.org",
            "example..org",
            "-example.org",
            "user@example.org",
            "*.example.org",
            "example.org,example.net",
            "https://example.org",
            "[192.0.2.300]",
        ] {
            let error = Domains::parse(["example.org", named, "[x]"]).unwrap_err();
            assert_eq!(error.input(), named);
            assert!(error.source().is_some(), "{named}");
        }
        let error = Domains::parse(["a\nb"]).unwrap_err();
        assert_eq!(error.to_string(), r"`a\nb` is not a domain");
        let nothing: [&str; 0] = [];
        assert!(Domains::parse(nothing).unwrap().is_empty());
    }
}
