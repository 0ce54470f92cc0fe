//! Domains compared as RFC 5890 section 2.3.2.4 wants it: A-labels and U-labels of the same name are the same. So are address
//! literals (RFC 5321 section 4.1.3) of the same address.

use smtpd_core::{Domain, ForwardPath};

/// Domains that a user has named, in order. Mostly there are few, and then to halve is quicker than to hash.
#[derive(Clone, Debug, Default)]
pub(crate) struct DomainSet(Box<[Box<str>]>);

impl<T: AsRef<str>> FromIterator<T> for DomainSet {
    fn from_iter<I: IntoIterator<Item = T>>(domains: I) -> Self {
        let domains = domains.into_iter().map(|domain| canonical(domain.as_ref()));
        let mut domains: Vec<_> = domains.collect();
        domains.sort_unstable();
        Self(domains.into())
    }
}

impl DomainSet {
    /// Whether that domain is among them. A sub-domain is another domain.
    pub(crate) fn contains(&self, domain: &Domain) -> bool {
        // Most come as they stand in the set: nothing is allocated then.
        self.has(domain.as_str()) || self.has(&domain.canonical())
    }

    fn has(&self, domain: &str) -> bool {
        self.0.binary_search_by(|one| (**one).cmp(domain)).is_ok()
    }
}

/// Whether two recipients are the same: the local part in the same case, but however it is quoted (RFC 5321 sections 2.4
/// and 4.1.2), the domain in any case, in A-labels or U-labels, and a literal in any spelling of its address.
pub(crate) fn is_same_recipient(one: &ForwardPath, other: &ForwardPath) -> bool {
    let has_spellings = |domain: &Domain| domain.is_literal() || !domain.as_str().is_ascii();
    match (one.mailbox(), other.mailbox()) {
        (Some(a), Some(b)) if has_spellings(a.domain()) || has_spellings(b.domain()) => {
            a.domain().canonical() == b.domain().canonical()
                && a.local_part_unquoted() == b.local_part_unquoted()
        }
        _ => one == other,
    }
}

/// The canonical form of a domain that a user has named. One that is not accepted of clients, such as one in fullwidth letters, is
/// mapped as browsers do it (UTS #46). What is no domain even then is compared letter by letter, for servers that are lenient.
pub(crate) fn canonical(domain: &str) -> Box<str> {
    let parsed = domain.parse::<Domain>().ok();
    let mapped = || idna::domain_to_ascii(domain).ok()?.parse::<Domain>().ok();
    match parsed.or_else(mapped) {
        Some(domain) => (*domain.canonical()).into(),
        None => domain.to_ascii_lowercase().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_both_kinds_are_the_same() {
        let set: DomainSet = ["grå.example", "XN--BCHER-KVA.example", "lenient_name"]
            .into_iter()
            .collect();
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

    /// These are typed by people: what a client may not send is not silently a domain that matches nothing.
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
            let set: DomainSet = [named].into_iter().collect();
            assert!(named.parse::<Domain>().is_err(), "{named}");
            assert!(set.contains(&domain.parse().unwrap()), "{named}");
        }
        assert_eq!(&*canonical("LENIENT_name"), "lenient_name");
        assert_eq!(&*canonical("[192.0.2.1]"), "[192.0.2.1]");
    }

    #[test]
    fn a_literal_is_the_same_in_every_spelling_of_its_address() {
        let set: DomainSet = ["[IPv6:2001:DB8:0:0::1]"].into_iter().collect();
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
    fn recipients() {
        let same = |one: &str, other: &str| {
            is_same_recipient(&one.parse().unwrap(), &other.parse().unwrap())
        };
        for (one, other) in [
            ("a@b.example", r#""a"@B.EXAMPLE"#),
            ("a@grå.example", r#""a"@xn--gr-zia.example"#),
            ("ü@xn--gr-zia.example", "ü@GRÅ.example"),
            ("Postmaster", "POSTMASTER"),
            ("a@[IPv6:0:0::1]", r#""a"@[ipv6:::1]"#),
        ] {
            assert!(same(one, other) && same(other, one), "{one} and {other}");
        }
        for (one, other) in [
            ("A@grå.example", "a@grå.example"),
            ("a@grå.example", "a@gra.example"),
            ("a@grå.example", "Postmaster"),
            ("A@[IPv6:::1]", "a@[IPv6:0::1]"),
        ] {
            assert!(!same(one, other) && !same(other, one), "{one} and {other}");
        }
    }
}
