use std::borrow::Cow;

use unicode_normalization::{UnicodeNormalization, is_nfc};

use super::{Charset, Domain, ForwardPath, Leniency, Mailbox, PathOptions, ReversePath};

/// When two addresses are the same mailbox, and which mailbox belongs to a user name.
///
/// The methods return the canonical form of an address: two addresses are the same if their canonical forms are equal, so these
/// serve as keys of a map and of limits. An address that is in its canonical form already is borrowed, not copied.
///
/// | | by default |
/// |---|---|
/// | the local part | compared with its case (RFC 5321 section 2.4), regardless of its quotes (section 4.1.2) and of how its accents are encoded (they are compared in NFC) |
/// | `postmaster` | the same in any case, whatever the rules (RFC 5321 section 4.5.1) |
/// | the domain | compared in any case, with or without a final dot; with the feature `idna` as [`Domain::canonical`](Domain) |
///
/// ```
/// use smtpd_core::{Mailbox, address::AddressRules};
///
/// let mailbox: Mailbox = r#""Alice+news"@Example.ORG"#.parse()?;
/// let rules = AddressRules::new();
/// assert_eq!(rules.mailbox(&mailbox), "Alice+news@example.org");
///
/// let rules = rules.ignore_case(true).recipient_delimiter('+');
/// assert_eq!(rules.mailbox(&mailbox), "alice@example.org");
/// assert_eq!(rules.user("Alice@example.org"), rules.mailbox(&mailbox));
/// # Ok::<(), smtpd_core::address::AddressError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AddressRules {
    ignores_case: bool,
    delimiter: Option<char>,
}

const POSTMASTER: &str = "postmaster";

impl AddressRules {
    /// Creates the rules of RFC 5321: the case of local parts matters, and nothing is cut off.
    pub const fn new() -> Self {
        Self {
            ignores_case: false,
            delimiter: None,
        }
    }

    /// Sets whether the case of local parts and user names is ignored. Default: false.
    ///
    /// Letters are compared in lower case, one by one: `Ü` is `ü`, but `ß` is not `ss`, nor the dotless `ı` an `i`.
    #[must_use]
    pub const fn ignore_case(mut self, ignored: bool) -> Self {
        self.ignores_case = ignored;
        self
    }

    /// Sets the character that begins a detail, as in `alice+news`, which is the mailbox `alice`. Default: none.
    ///
    /// A local part that begins with it has no detail, and user names have none.
    #[must_use]
    pub const fn recipient_delimiter(mut self, delimiter: char) -> Self {
        self.delimiter = Some(delimiter);
        self
    }

    /// Returns these rules without the delimiter, by which a mailbox with a detail is another.
    #[must_use]
    pub const fn keeping_details(mut self) -> Self {
        self.delimiter = None;
        self
    }

    /// Returns the canonical form of a mailbox, `local-part@domain`. The local part is not quoted, so it may contain another `@`.
    pub fn mailbox<'a>(&self, mailbox: &'a Mailbox) -> Cow<'a, str> {
        let (local, domain) = (self.local_part(mailbox), mailbox.domain().key());
        if local == mailbox.local_part() && domain == mailbox.domain().as_str() {
            return Cow::Borrowed(mailbox.as_str());
        }
        Cow::Owned(format!("{local}@{domain}"))
    }

    /// Returns the canonical form of a recipient, which is `postmaster` for the one without a domain.
    pub fn recipient<'a>(&self, recipient: &'a ForwardPath) -> Cow<'a, str> {
        recipient
            .mailbox()
            .map_or(Cow::Borrowed(POSTMASTER), |mailbox| self.mailbox(mailbox))
    }

    /// Returns the canonical form of a sender, which is the empty string for the null path.
    pub fn sender<'a>(&self, sender: &'a ReversePath) -> Cow<'a, str> {
        sender
            .mailbox()
            .map_or(Cow::Borrowed(""), |mailbox| self.mailbox(mailbox))
    }

    /// Returns the canonical form of a user name. If it is an address, this is the form of that mailbox, but for the detail: a
    /// user named `alice+news` is not the user `alice`.
    pub fn user<'a>(&self, name: &'a str) -> Cow<'a, str> {
        let name = self.folded(Cow::Borrowed(name));
        let (local, domain) = match name.rsplit_once('@') {
            Some((local, domain)) => (local, Some(domain)),
            None => (&*name, None),
        };
        let is_postmaster = is_other_case_of_postmaster(local);
        let domain = domain
            .filter(|domain| !is_plain(domain))
            .and_then(canonical);
        if domain.is_none() && !is_postmaster {
            return name;
        }
        let local = if is_postmaster { POSTMASTER } else { local };
        let rest = name.get(local.len()..).unwrap_or_default();
        Cow::Owned(match domain {
            Some(domain) => format!("{local}@{domain}"),
            None => format!("{local}{rest}"),
        })
    }

    /// Returns the canonical form of a local part, without its quotes and its detail.
    pub fn local_part<'a>(&self, mailbox: &'a Mailbox) -> Cow<'a, str> {
        let mut local = self.folded(mailbox.local_part_unquoted());
        if let Some(end) = self.detail(&local) {
            match &mut local {
                Cow::Borrowed(text) => *text = text.get(..end).unwrap_or(text),
                Cow::Owned(text) => text.truncate(end),
            }
        }
        if is_other_case_of_postmaster(&local) {
            return Cow::Borrowed(POSTMASTER);
        }
        local
    }

    /// Returns whether `mailbox` is that of the user, with or without a detail. A user whose name is not an address has a mailbox
    /// of that name in every domain.
    ///
    /// ```
    /// use smtpd_core::address::AddressRules;
    ///
    /// let rules = AddressRules::new().recipient_delimiter('+');
    /// for (user, mailbox, expected) in [
    ///     ("alice", "alice+news@example.org", true),
    ///     ("alice@example.org", "alice@Example.org", true),
    ///     ("alice@example.org", "alice@example.net", false),
    ///     ("alice+news", "alice@example.org", false),
    /// ] {
    ///     assert_eq!(rules.is_of_user(&mailbox.parse()?, user), expected);
    /// }
    /// # Ok::<(), smtpd_core::address::AddressError>(())
    /// ```
    pub fn is_of_user(&self, mailbox: &Mailbox, user: &str) -> bool {
        // Most users write their names as they are: equal texts have equal forms, unless quotes would be removed from one.
        if mailbox.local_part() == user && !user.bytes().any(|byte| matches!(byte, b'"' | b'@')) {
            return true;
        }
        let user = self.user(user);
        // A quoted local part may contain an `@`: it is not the address that the user name is.
        let form = |rules: Self| match user.contains('@') {
            true => rules.mailbox(mailbox),
            false => rules.local_part(mailbox),
        };
        !user.is_empty()
            && (form(*self) == user
                || self.delimiter.is_some() && form(self.keeping_details()) == user)
    }

    /// Returns the position at which the detail of a folded local part begins.
    fn detail(&self, local: &str) -> Option<usize> {
        let delimiter = self.delimiter?;
        let folds_to = |c: char| self.ignores_case && delimiter.to_lowercase().eq([c]);
        local
            .find(|c| c == delimiter || folds_to(c))
            .filter(|&at| at > 0)
    }

    /// Returns the text normalized and, if case is ignored, in lower case.
    fn folded<'a>(&self, text: Cow<'a, str>) -> Cow<'a, str> {
        if text.is_ascii() {
            return match self.ignores_case && text.bytes().any(|byte| byte.is_ascii_uppercase()) {
                true => Cow::Owned(text.to_ascii_lowercase()),
                false => text,
            };
        }
        if !self.ignores_case {
            return match is_nfc(&text) {
                true => text,
                false => Cow::Owned(text.nfc().collect()),
            };
        }
        // Letter by letter, so that a sigma does not depend on what follows it.
        let lower = text.nfc().flat_map(char::to_lowercase);
        Cow::Owned(lower.nfc().collect())
    }
}

fn is_other_case_of_postmaster(local: &str) -> bool {
    local != POSTMASTER && local.eq_ignore_ascii_case(POSTMASTER)
}

/// Returns whether the text is its own canonical form, or not a domain, without parsing it.
fn is_plain(domain: &str) -> bool {
    let is_plain = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    domain.bytes().all(is_plain) && !domain.ends_with('.')
}

/// Returns the canonical form of a domain that a person may have written. `None` if the text is not a domain.
fn canonical(domain: &str) -> Option<String> {
    let leniency = Leniency::STRICT
        .allow_underscore_in_domain(true)
        .allow_trailing_dot_in_domain(true);
    let options = PathOptions::new(leniency, Charset::Utf8);
    let domain = Domain::parse(domain.as_bytes(), options).ok()?;
    Some(domain.key().into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXACT: AddressRules = AddressRules::new();
    const LOOSE: AddressRules = AddressRules::new()
        .ignore_case(true)
        .recipient_delimiter('+');

    fn mailbox(text: &str) -> Mailbox {
        text.parse().expect(text)
    }

    #[test]
    fn a_mailbox_has_one_form_however_it_is_written() {
        for (text, exact, loose) in [
            (
                "alice@example.org",
                "alice@example.org",
                "alice@example.org",
            ),
            (
                "Alice@Example.ORG",
                "Alice@example.org",
                "alice@example.org",
            ),
            (
                r#""alice"@example.org"#,
                "alice@example.org",
                "alice@example.org",
            ),
            (
                r#""al\ice"@example.org"#,
                "alice@example.org",
                "alice@example.org",
            ),
            (
                "alice+x+y@example.org",
                "alice+x+y@example.org",
                "alice@example.org",
            ),
            ("+x@example.org", "+x@example.org", "+x@example.org"),
            ("++x@example.org", "++x@example.org", "++x@example.org"),
            (
                r#""@b+x"@example.org"#,
                "@b+x@example.org",
                "@b@example.org",
            ),
            (
                r#""alice@example.org"@x"#,
                "alice@example.org@x",
                "alice@example.org@x",
            ),
            (r#""+"@x"#, "+@x", "+@x"),
            (r#"""@x"#, "@x", "@x"),
            (
                "POSTmaster@example.org",
                "postmaster@example.org",
                "postmaster@example.org",
            ),
            (
                "Postmaster+x@b.org",
                "Postmaster+x@b.org",
                "postmaster@b.org",
            ),
            (
                "mu\u{308}ller@b.org",
                "m\u{fc}ller@b.org",
                "m\u{fc}ller@b.org",
            ),
            (
                "M\u{dc}LLER@b.org",
                "M\u{dc}LLER@b.org",
                "m\u{fc}ller@b.org",
            ),
            ("\u{fb01}x@b.org", "\u{fb01}x@b.org", "\u{fb01}x@b.org"),
            (
                "al\u{131}ce@b.org",
                "al\u{131}ce@b.org",
                "al\u{131}ce@b.org",
            ),
            (
                "stra\u{df}e@b.org",
                "stra\u{df}e@b.org",
                "stra\u{df}e@b.org",
            ),
        ] {
            let parsed = mailbox(text);
            assert_eq!(EXACT.mailbox(&parsed), exact, "{text}");
            assert_eq!(LOOSE.mailbox(&parsed), loose, "{text}");
        }
        assert!(matches!(
            EXACT.mailbox(&mailbox("a@b.org")),
            Cow::Borrowed(_)
        ));
        let routed = ForwardPath::parse(b"<@relay.example:Alice@B.org>", PathOptions::default());
        assert_eq!(LOOSE.recipient(&routed.unwrap().0), "alice@b.org");
    }

    #[cfg(feature = "idna")]
    #[test]
    fn a_domain_has_one_form_in_every_spelling() {
        for (text, form) in [
            ("a@gr\u{e5}.example", "a@xn--gr-zia.example"),
            ("a@XN--GR-ZIA.example", "a@xn--gr-zia.example"),
            ("a@[IPv6:2001:DB8:0::1]", "a@[ipv6:2001:db8::1]"),
        ] {
            assert_eq!(EXACT.mailbox(&mailbox(text)), form);
            assert_eq!(EXACT.user(text), form);
        }
    }

    #[test]
    fn postmaster_in_another_case_is_the_postmaster() {
        for text in ["Postmaster", "POSTMASTER", "postmaster"] {
            assert_eq!(EXACT.recipient(&text.parse().unwrap()), "postmaster");
            assert_eq!(EXACT.user(text), "postmaster");
            let address = format!("{text}@example.org");
            assert_eq!(EXACT.mailbox(&mailbox(&address)), "postmaster@example.org");
            assert_eq!(EXACT.user(&address), "postmaster@example.org");
        }
        assert_eq!(EXACT.sender(&ReversePath::Null), "");
    }

    #[test]
    fn user_names() {
        for (name, exact, loose) in [
            ("alice", "alice", "alice"),
            ("Alice", "Alice", "alice"),
            (
                "Alice@Example.ORG.",
                "Alice@example.org",
                "alice@example.org",
            ),
            ("alice+x", "alice+x", "alice+x"),
            (
                "POSTMASTER@Example.org",
                "postmaster@example.org",
                "postmaster@example.org",
            ),
            (
                "POSTMASTER@no domain",
                "postmaster@no domain",
                "postmaster@no domain",
            ),
            ("A@no domain", "A@no domain", "a@no domain"),
            ("mu\u{308}ller", "m\u{fc}ller", "m\u{fc}ller"),
            ("", "", ""),
            ("@", "@", "@"),
        ] {
            assert_eq!(EXACT.user(name), exact, "{name}");
            assert_eq!(LOOSE.user(name), loose, "{name}");
        }
        assert!(matches!(LOOSE.user("alice@example.org"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_user_with_a_detail_in_its_name_owns_no_mailbox_of_another() {
        for (user, text, exact, loose) in [
            ("alice", "alice@b.org", true, true),
            ("alice", "Alice@b.org", false, true),
            ("alice", "alice+x@b.org", false, true),
            ("alice+x", "alice+x@b.org", true, true),
            ("alice+x", "alice@b.org", false, false),
            ("alice+x", "alice+y@b.org", false, false),
            ("alice@b.org", "alice+x@B.org", false, true),
            ("alice@b.org", "alice@c.org", false, false),
            ("alice@b.org", r#""alice@b.org"@c.org"#, false, false),
            ("alice@b.org", r#""alice@b.org"@b.org"#, false, false),
            ("", r#"""@b.org"#, false, false),
        ] {
            let parsed = mailbox(text);
            assert_eq!(EXACT.is_of_user(&parsed, user), exact, "{user} {text}");
            assert_eq!(LOOSE.is_of_user(&parsed, user), loose, "{user} {text}");
        }
    }

    const LOCAL: &str = r#"[a-zA-Z+.=]{1,6}|"[ a-zA-Z@+=]{0,6}"|postmaster|PostMaster(\+x)?|[a-zA-ZßςΣİſı\u{308}\u{338}ΩÅKé=+]{1,8}"#;
    const DOMAIN: &str =
        r"[a-zA-Z]{1,3}\.(org|ORG)|\[192\.0\.2\.[0-9]\]|(grå|GRÅ|xn--gr-zia|bücher)\.[aA]";

    fn rules() -> impl Strategy<Value = AddressRules> {
        let delimiter = prop::option::of(prop::char::any());
        let delimiter = prop_oneof![Just(Some('+')), Just(Some('X')), Just(Some('=')), delimiter];
        (any::<bool>(), delimiter).prop_map(|(ignores_case, delimiter)| AddressRules {
            ignores_case,
            delimiter,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn a_canonical_form_is_its_own_canonical_form(rules in rules(), local in LOCAL, domain in DOMAIN) {
            if let Ok(parsed) = format!("{local}@{domain}").parse::<Mailbox>() {
                let form = rules.mailbox(&parsed).into_owned();
                let (local, domain) = form.rsplit_once('@').expect("a mailbox has a domain");
                let quoted = local.replace('\\', r"\\").replace('"', r#"\""#);
                let again = mailbox(&format!("\"{quoted}\"@{domain}"));
                prop_assert_eq!(rules.mailbox(&again), form);
            }
        }

        #[test]
        fn a_user_name_in_its_canonical_form_stays(rules in rules(), name in ".{0,12}|.{0,4}@.{0,8}|[a-zA-Z]{1,4}@[a-zA-Zåß.]{1,9}") {
            let form = rules.user(&name).into_owned();
            prop_assert_eq!(rules.user(&form), &*form, "{:?}", name);
        }

        #[test]
        fn two_domains_never_become_one(rules in rules(), one in DOMAIN, other in DOMAIN) {
            let [a, b] = [&one, &other].map(|domain| mailbox(&format!("x@{domain}")));
            let same = a.domain().key() == b.domain().key();
            prop_assert_eq!(rules.mailbox(&a) == rules.mailbox(&b), same);
            if one.is_ascii() && other.is_ascii() {
                prop_assert_eq!(same, one.eq_ignore_ascii_case(&other));
            }
        }

        #[test]
        fn equal_mailboxes_have_one_form(rules in rules(), local in LOCAL, domain in DOMAIN) {
            let domains = [domain.clone(), domain.to_ascii_uppercase()];
            let [a, b] = domains.map(|domain| format!("{local}@{domain}").parse::<Mailbox>());
            if let (Ok(a), Ok(b)) = (a, b) && a == b {
                prop_assert_eq!(rules.mailbox(&a), rules.mailbox(&b));
            }
        }
    }

    #[test]
    fn lower_case_is_stable_for_every_character() {
        // There are no letters with case further up.
        for c in '\0'..='\u{1ffff}' {
            for text in [format!("{c}"), format!("a{c}\u{301}")] {
                let folded = LOOSE.folded(Cow::Borrowed(&text)).into_owned();
                assert_eq!(LOOSE.folded(Cow::Borrowed(&folded)), &*folded, "{text:?}");
            }
        }
    }
}
