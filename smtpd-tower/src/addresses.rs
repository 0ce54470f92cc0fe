//! Sets of addresses: lists of recipients and of senders.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    error::Error,
    fmt,
};

use smtpd_core::{
    address::{
        AddressError, AddressErrorKind, AddressRules, Charset, Domain, ForwardPath, Leniency,
        Mailbox, PathOptions, ReversePath,
    },
    sasl::Identity,
};

use crate::domains;

/// A set of addresses, to which senders and recipients are compared.
///
/// | entry | matches |
/// |---|---|
/// | `alice@example.org` | this mailbox, compared by [`AddressRules`]; with a delimiter also `alice+news@example.org` |
/// | `alice+news@example.org` | the mailbox with this detail alone |
/// | `*@example.org` | every mailbox in this domain |
/// | `*@*.example.org` | every mailbox in each of its subdomains, at any depth, but not in `example.org` |
/// | `postmaster` | the recipient without a domain |
/// | `<>` | the null sender |
///
/// Domains are compared as in [`Domains`](crate::domains::Domains). The set may have hundreds of thousands of entries: a lookup
/// is one in a hash table, and one for each label of the domain if there are entries with subdomains.
///
/// ```
/// use smtpd_tower::{address::AddressRules, addresses::Addresses};
///
/// let rules = AddressRules::new().ignore_case(true).recipient_delimiter('+');
/// let users = Addresses::parse_by(rules, ["alice@example.org", "*@example.net"])?;
/// assert!(users.has_recipient(&"Alice+news@Example.org".parse()?));
/// assert!(users.has_recipient(&"anyone@example.net".parse()?));
/// assert!(!users.has_recipient(&"bob@example.org".parse()?));
///
/// let error = Addresses::parse(["alice@example.org", "bob@"]).unwrap_err();
/// assert_eq!(error.to_string(), "`bob@` is not an address");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    rules: AddressRules,
    /// The canonical forms of mailboxes.
    mailboxes: HashSet<Box<str>>,
    /// The canonical forms of domains.
    domains: HashMap<Box<str>, Extent>,
    /// The canonical forms of domains whose subdomains match.
    parents: HashSet<Box<str>>,
    has_postmaster: bool,
    has_null: bool,
}

/// How much of a domain is in the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    Some,
    All,
}

enum Entry {
    Mailbox(Mailbox),
    Domain(Domain),
    Subdomains(Domain),
    Postmaster,
    Null,
}

impl Addresses {
    /// Parses a set that compares by the default [`AddressRules`].
    ///
    /// # Errors
    ///
    /// Returns an error that names the first text that is not an entry. Spaces around it are not ignored.
    pub fn parse<T: AsRef<str>>(
        entries: impl IntoIterator<Item = T>,
    ) -> Result<Self, AddressesError> {
        Self::parse_by(AddressRules::new(), entries)
    }

    /// Like [`parse`](Self::parse), with rules for local parts.
    ///
    /// # Errors
    ///
    /// Those of [`parse`](Self::parse).
    pub fn parse_by<T: AsRef<str>>(
        rules: AddressRules,
        entries: impl IntoIterator<Item = T>,
    ) -> Result<Self, AddressesError> {
        let mut set = Self {
            rules,
            ..Self::default()
        };
        for entry in entries {
            let input = entry.as_ref();
            set.add(Entry::parse(input).map_err(|source| AddressesError {
                input: input.to_owned(),
                source,
            })?);
        }
        Ok(set)
    }

    /// Returns whether a recipient is in the set.
    pub fn has_recipient(&self, recipient: &ForwardPath) -> bool {
        match recipient.mailbox() {
            Some(mailbox) => self.has_mailbox(mailbox),
            None => self.has_postmaster,
        }
    }

    /// Returns whether a sender is in the set.
    pub fn has_sender(&self, sender: &ReversePath) -> bool {
        match sender.mailbox() {
            Some(mailbox) => self.has_mailbox(mailbox),
            None => self.has_null,
        }
    }

    /// Returns whether a mailbox is in the set.
    pub fn has_mailbox(&self, mailbox: &Mailbox) -> bool {
        let domain = mailbox.domain().canonical();
        let is_listed = match self.domains.get(&*domain) {
            Some(Extent::All) => true,
            Some(Extent::Some) => self.lists(mailbox),
            // Most senders are of domains that are not in the set at all.
            None => false,
        };
        is_listed || self.is_subdomain(&domain)
    }

    /// Returns whether an entry is for this mailbox, with its detail or without.
    fn lists(&self, mailbox: &Mailbox) -> bool {
        let has = |rules: AddressRules| self.mailboxes.contains(&*rules.mailbox(mailbox));
        let whole = self.rules.keeping_details();
        has(whole) || self.rules != whole && has(self.rules)
    }

    /// Returns whether any mailbox of a domain is in the set.
    pub fn has_domain(&self, domain: &Domain) -> bool {
        let domain = domain.canonical();
        self.domains.contains_key(&*domain) || self.is_subdomain(&domain)
    }

    /// Returns whether a mailbox is that of a postmaster, by the rules of the set.
    pub(crate) fn is_for_postmaster(&self, mailbox: &Mailbox) -> bool {
        self.rules.local_part(mailbox) == "postmaster"
    }

    /// Returns whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty() && self.parents.is_empty() && !self.has_postmaster && !self.has_null
    }

    fn is_subdomain(&self, domain: &str) -> bool {
        if self.parents.is_empty() {
            return false;
        }
        let mut rest = domain;
        while let Some((_, parent)) = rest.split_once('.') {
            if self.parents.contains(parent) {
                return true;
            }
            rest = parent;
        }
        false
    }

    fn add(&mut self, entry: Entry) {
        let canonical = |domain: &Domain| Box::from(&*domain.canonical());
        match entry {
            Entry::Mailbox(mailbox) => {
                let domain = canonical(mailbox.domain());
                self.domains.entry(domain).or_insert(Extent::Some);
                let whole = self.rules.keeping_details();
                self.mailboxes.insert((*whole.mailbox(&mailbox)).into());
            }
            Entry::Domain(domain) => {
                self.domains.insert(canonical(&domain), Extent::All);
            }
            Entry::Subdomains(domain) => {
                self.parents.insert(canonical(&domain));
            }
            Entry::Postmaster => self.has_postmaster = true,
            Entry::Null => self.has_null = true,
        }
    }
}

impl Entry {
    fn parse(text: &str) -> Result<Self, AddressError> {
        const OPTIONS: PathOptions = PathOptions::new(
            Leniency::STRICT.allow_underscore_in_domain(true),
            Charset::Utf8,
        );
        if text == "<>" {
            return Ok(Self::Null);
        }
        if text.eq_ignore_ascii_case("postmaster") {
            return Ok(Self::Postmaster);
        }
        match text.rsplit_once('@') {
            Some(("*", domain)) => match domain.strip_prefix("*.") {
                // A literal has no subdomains.
                Some(parent) if parent.starts_with('[') => Err(AddressErrorKind::Domain.into()),
                Some(parent) => domains::parse(parent).map(Self::Subdomains),
                None => domains::parse(domain).map(Self::Domain),
            },
            Some((local, domain)) => {
                let domain = domains::parse(domain)?;
                let text = format!("{local}@{domain}");
                Mailbox::parse(text.as_bytes(), OPTIONS).map(Self::Mailbox)
            }
            None => Mailbox::parse(text.as_bytes(), OPTIONS).map(Self::Mailbox),
        }
    }
}

/// Returns the form in which the identities of one user are equal. Those that differ only in case, or in the spelling of a domain
/// or of accents, are one user: a login may accept a name as it was typed.
pub(crate) fn canonical_user(identity: &Identity) -> Cow<'_, str> {
    const USERS: AddressRules = AddressRules::new().ignore_case(true);
    USERS.user(identity.as_str())
}

/// An error from [`Addresses::parse`]: a text that is not an entry. Its [`source`](Error::source) explains why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressesError {
    input: String,
    source: AddressError,
}

impl AddressesError {
    /// Returns the text that is not an entry.
    pub fn input(&self) -> &str {
        &self.input
    }
}

impl fmt::Display for AddressesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not an address", self.input.escape_debug())
    }
}

impl Error for AddressesError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: AddressRules = AddressRules::new()
        .ignore_case(true)
        .recipient_delimiter('+');

    #[test]
    fn recipients_that_are_written_in_another_way_are_in_the_list() {
        let entries = [
            "alice@example.org",
            "Bob+keys@Example.org.",
            r#""c d"@example.org"#,
            "*@all.example",
            "*@*.sub.example",
            "zo\u{eb}@gr\u{e5}.example",
            "dave@[IPv6:2001:DB8::1]",
            "eve@under_score.example",
        ];
        let exact = Addresses::parse(entries).unwrap();
        let loose = Addresses::parse_by(RULES, entries).unwrap();
        for (recipient, is_exact, is_loose) in [
            ("alice@EXAMPLE.org", true, true),
            (r#""alice"@example.org"#, true, true),
            ("Alice@example.org", false, true),
            ("alice+x@example.org", false, true),
            ("Bob+keys@example.org", true, true),
            ("bob+keys@example.org", false, true),
            ("bob@example.org", false, false),
            ("bob+other@example.org", false, false),
            (r#""c d"@example.org"#, true, true),
            ("alice@example.net", false, false),
            ("anyone@ALL.example", true, true),
            ("anyone@x.all.example", false, false),
            ("anyone@a.b.sub.example", true, true),
            ("anyone@A.SUB.example", true, true),
            ("anyone@sub.example", false, false),
            ("anyone@xsub.example", false, false),
            ("zoe\u{308}@xn--gr-zia.example", true, true),
            ("dave@[ipv6:2001:db8:0::1]", true, true),
            ("Postmaster", false, false),
        ] {
            let path = recipient.parse().unwrap();
            assert_eq!(exact.has_recipient(&path), is_exact, "{recipient}");
            assert_eq!(loose.has_recipient(&path), is_loose, "{recipient}");
        }
        for (domain, expected) in [
            ("example.ORG", true),
            ("all.example", true),
            ("x.sub.example", true),
            ("sub.example", false),
            ("example.net", false),
        ] {
            assert_eq!(
                exact.has_domain(&domain.parse().unwrap()),
                expected,
                "{domain}"
            );
        }
    }

    #[test]
    fn an_entry_for_a_domain_hides_none_for_an_address_nor_the_other_way_round() {
        for entries in [
            ["a@x.example", "*@x.example"],
            ["*@x.example", "a@x.example"],
        ] {
            let set = Addresses::parse(entries).unwrap();
            assert!(
                set.has_recipient(&"b@x.example".parse().unwrap()),
                "{entries:?}"
            );
        }
    }

    #[test]
    fn postmaster_and_the_null_sender() {
        let set = Addresses::parse(["POSTmaster", "<>"]).unwrap();
        assert!(set.has_recipient(&"Postmaster".parse().unwrap()) && !set.is_empty());
        assert!(set.has_sender(&ReversePath::Null));
        let set = Addresses::parse(["Postmaster@example.org"]).unwrap();
        assert!(!set.has_recipient(&"Postmaster".parse().unwrap()));
        assert!(!set.has_sender(&ReversePath::Null));
        for address in ["postmaster@example.org", "POSTMASTER@EXAMPLE.ORG"] {
            assert!(set.has_sender(&address.parse().unwrap()), "{address}");
        }
        assert!(Addresses::parse([""; 0]).unwrap().is_empty());
    }

    #[test]
    fn an_entry_that_never_matches_is_in_the_list() {
        for entry in [
            "",
            " ",
            "@",
            "alice",
            "alice@",
            "@example.org",
            "example.org",
            " alice@example.org",
            "alice@example.org ",
            "alice@example..org",
            "alice@*.example.org",
            "*.example.org",
            "*@",
            "*@*",
            "*@*.",
            "*@*.[192.0.2.1]",
            "*@*.*.example.org",
            "al ice@example.org",
            "<alice@example.org>",
            "alice@example.org,bob@example.org",
            "alice@bob@example.org",
        ] {
            let error = Addresses::parse(["a@example.org", entry, "[x]"]).expect_err(entry);
            assert_eq!(error.input(), entry);
            assert!(error.source().is_some(), "{entry}");
        }
    }
}
