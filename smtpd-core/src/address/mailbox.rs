use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::str::FromStr;

use super::scan::Scanner;
use super::{
    AddressError, AddressErrorKind, AddressPart, Charset, Domain, Leniency, PathOptions, Span, Text,
};

/// A mailbox, `local-part@domain` (RFC 5321 section 4.1.2).
///
/// Two mailboxes are equal if their local parts are equal, in the same case but regardless of quoting, and their domains are
/// equal, in any ASCII case (RFC 5321 sections 2.4 and 4.1.2). Cloning is cheap.
///
/// ```
/// use smtpd_core::Mailbox;
///
/// let mailbox: Mailbox = r#""john doe"@Example.org"#.parse()?;
/// assert_eq!(mailbox.local_part(), r#""john doe""#);
/// assert_eq!(mailbox.local_part_unquoted(), "john doe");
/// assert_eq!(mailbox.domain().as_str(), "Example.org");
/// assert_eq!(mailbox, r#""john\ doe"@example.ORG"#.parse()?);
/// # Ok::<(), smtpd_core::address::AddressError>(())
/// ```
#[derive(Clone)]
pub struct Mailbox {
    /// Holds the text of the whole path that contains the mailbox.
    domain: Domain,
}

impl Mailbox {
    /// Parses `input`, all of which must be a mailbox without brackets.
    ///
    /// # Errors
    ///
    /// Fails if the grammar of RFC 5321 section 4.1.2 (extended by RFC 6531 section 3.3, if `options` say so) does not allow it,
    /// or if it or a part of it is longer than RFC 5321 section 4.5.3.1 allows.
    pub fn parse(input: &[u8], options: PathOptions) -> Result<Self, AddressError> {
        if input.is_empty() {
            return Err(AddressErrorKind::Empty.into());
        }
        let mut scanner = Scanner::new(input, options);
        let domain = scanner.mailbox()?;
        if !scanner.rest().is_empty() {
            return Err(scanner.unexpected(AddressErrorKind::Domain));
        }
        Self::new(input, domain, 0)
    }

    /// Creates the mailbox of the path `source`, which begins `offset` bytes into the scanned text and has no brackets. The
    /// domain's range is relative to the scanned text.
    pub(super) fn new(
        source: &[u8],
        domain: Range<usize>,
        offset: usize,
    ) -> Result<Self, AddressError> {
        AddressPart::Path.check(source.len() + "<>".len())?; // RFC 5321 section 4.5.3.1.3
        let text = Text::from_utf8(source).map_err(|_| AddressErrorKind::MalformedUtf8)?;
        let span = Span::new(domain.start - offset, domain.end - offset);
        Ok(Self {
            domain: Domain::new(text, span),
        })
    }

    /// Returns the address as it was sent: `local-part@domain`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.up_to(self.domain.span().end)
    }

    /// Returns the local part as it was sent, with its quotes.
    #[must_use]
    pub fn local_part(&self) -> &str {
        self.up_to(self.domain.span().start.saturating_sub(1)) // the `@`
    }

    /// Returns the local part without quotes and backslashes. It may contain spaces, `@` and other special characters.
    #[must_use]
    pub fn local_part_unquoted(&self) -> Cow<'_, str> {
        let local = self.local_part();
        let quoted = local.strip_prefix('"').and_then(|s| s.strip_suffix('"'));
        let Some(quoted) = quoted else {
            return Cow::Borrowed(local);
        };
        if !quoted.contains('\\') {
            return Cow::Borrowed(quoted);
        }
        let mut text = String::with_capacity(quoted.len());
        let mut chars = quoted.chars();
        while let Some(c) = chars.next() {
            text.extend(if c == '\\' { chars.next() } else { Some(c) });
        }
        Cow::Owned(text)
    }

    /// Returns the domain or address literal.
    #[must_use]
    pub const fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Returns whether the local part was sent as a quoted string.
    #[must_use]
    pub fn is_quoted(&self) -> bool {
        self.local_part().starts_with('"')
    }

    /// Returns whether the address is entirely ASCII, and can thus be sent to a server without SMTPUTF8.
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.as_str().is_ascii()
    }

    /// Returns the text from the start of the mailbox, which follows the source route if there is one (RFC 5321 section 4.1.2: `[
    /// A-d-l ":" ] Mailbox`). No local part begins with `@`, and no domain of a route contains a colon.
    fn up_to(&self, end: u16) -> &str {
        let path = self.source().get(..end.into()).unwrap_or_default();
        match path
            .strip_prefix('@')
            .and_then(|route| route.split_once(':'))
        {
            Some((_, mailbox)) => mailbox,
            None => path,
        }
    }

    /// Returns the path that the mailbox was parsed from, without brackets.
    pub(super) fn source(&self) -> &str {
        self.domain.source()
    }
}

impl PartialEq for Mailbox {
    fn eq(&self, other: &Self) -> bool {
        // RFC 5321 section 4.1.2: "all quoted forms MUST be treated as equivalent"
        self.domain == other.domain && self.local_part_unquoted() == other.local_part_unquoted()
    }
}

impl Eq for Mailbox {}

impl Hash for Mailbox {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.local_part_unquoted().hash(state);
        self.domain.hash(state);
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mailbox").field(&self.as_str()).finish()
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Parses strictly, with non-ASCII allowed: [`is_ascii`](Mailbox::is_ascii) returns whether there is any.
impl FromStr for Mailbox {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let options = PathOptions::new(Leniency::STRICT, Charset::Utf8);
        Self::parse(text.as_bytes(), options)
    }
}

impl TryFrom<&str> for Mailbox {
    type Error = AddressError;

    fn try_from(text: &str) -> Result<Self, AddressError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use AddressErrorKind as Kind;
    use proptest::prelude::*;

    use super::*;

    fn mailbox(text: &str) -> Mailbox {
        text.parse().expect(text)
    }

    fn kind(text: &str) -> Kind {
        text.parse::<Mailbox>().expect_err(text).kind()
    }

    #[test]
    fn accepted() {
        let longest = "l".repeat(64);
        for (local, unquoted, domain) in [
            ("a", "a", "b"),
            ("a.b.c", "a.b.c", "example.org"),
            ("a#$&'*+-/=?^_`{|}~.9!%", "a#$&'*+-/=?^_`{|}~.9!%", "x"),
            (longest.as_str(), longest.as_str(), "x"),
            ("u", "u", "[127.0.0.1]"),
            ("u", "u", "[IPv6:2001:db8::1]"),
            (r#""a@b""#, "a@b", "example.org"),
            (r#""john doe""#, "john doe", "x"),
            (r#""a\"b""#, "a\"b", "x"),
            (r#""a\\""#, "a\\", "x"),
            (r#""a\b\ ""#, "ab ", "x"),
            (r#""..<>()[],;:""#, "..<>()[],;:", "x"),
            (r#""""#, "", "x"),
            ("jörg", "jörg", "müller.example"),
            (r#""ö ü""#, "ö ü", "x"),
        ] {
            let text = format!("{local}@{domain}");
            let parsed = mailbox(&text);
            assert_eq!(parsed.as_str(), text);
            assert_eq!(parsed.local_part(), local);
            assert_eq!(parsed.local_part_unquoted(), unquoted);
            assert_eq!(parsed.domain().as_str(), domain);
            assert_eq!(parsed.is_quoted(), local.starts_with('"'));
            assert_eq!(parsed.is_ascii(), text.is_ascii());
        }
    }

    #[test]
    fn refused() {
        for (text, expected) in [
            ("", Kind::Empty),
            ("a..b@x", Kind::LocalPart),
            (".a@x", Kind::LocalPart),
            ("a.@x", Kind::LocalPart),
            ("@x", Kind::LocalPart),
            ("a b@x", Kind::LocalPart),
            ("a,b@x", Kind::LocalPart),
            ("a(b)@x", Kind::LocalPart),
            ("a\\b@x", Kind::LocalPart),
            ("a\"b@x", Kind::LocalPart),
            ("\"a\"b@x", Kind::LocalPart),
            ("\"a\".b@x", Kind::LocalPart),
            ("\"a@x", Kind::LocalPart),
            ("\"a\\\"@x", Kind::LocalPart),
            ("\"a\\ö\"@x", Kind::LocalPart),
            ("\"a\\", Kind::LocalPart),
            ("a", Kind::NoDomain),
            ("a@", Kind::Domain),
            ("a@x..y", Kind::Domain),
            ("a@.x", Kind::Domain),
            ("a@b@c", Kind::Domain),
            ("a@b ", Kind::Domain),
            ("<a@b>", Kind::LocalPart),
            ("u@[256.1.1.1]", Kind::Literal),
            ("u@[tag:text]", Kind::UnsupportedLiteral),
        ] {
            assert_eq!(kind(text), expected, "{text}");
        }
        let part = AddressPart::LocalPart;
        assert_eq!(
            kind(&format!("{}@x", "l".repeat(65))),
            Kind::TooLong { part }
        );
    }

    #[test]
    fn every_ascii_byte() {
        for byte in 0..0x80 {
            let c = char::from(byte);
            let accepts = |text: String| text.parse::<Mailbox>().is_ok();
            let is_atext = c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c);
            assert_eq!(accepts(format!("{c}@x")), is_atext, "{c:?}");
            let is_qtext = !c.is_ascii_control() && !"\"\\".contains(c);
            assert_eq!(accepts(format!("\"{c}\"@x")), is_qtext, "{c:?}");
            let is_quotable = !c.is_ascii_control();
            assert_eq!(accepts(format!("\"\\{c}\"@x")), is_quotable, "{c:?}");
            let is_label = c.is_ascii_alphanumeric() || "-.".contains(c);
            assert_eq!(accepts(format!("a@x{c}y")), is_label, "{c:?}");
        }
    }

    #[test]
    fn control_characters_are_rejected_even_in_quotes() {
        for control in (0..0x20).chain(0x7f..0xa0) {
            let control = char::from(control);
            for text in [
                format!("a{control}b@x"),
                format!("{control}@x"),
                format!("\"a{control}b\"@x"),
                format!("a@x{control}"),
                format!("a@[127.0.0.1{control}]"),
            ] {
                let literal_in_utf8 = !control.is_ascii() && text.contains('[');
                let expected = if literal_in_utf8 {
                    Kind::Literal
                } else {
                    Kind::Control
                };
                assert_eq!(kind(&text), expected, "{text:?}");
            }
        }
        for text in ["\"\\\0\"@x", "\"\\\r\"@x", "\"\\\n\"@x", "\"\\\x1b\"@x"] {
            assert_eq!(kind(text), Kind::Control, "{text:?}");
        }
    }

    #[test]
    fn charset() {
        let utf8 = PathOptions::new(Leniency::STRICT, Charset::Utf8);
        for bytes in [
            &b"j\xc3\xb6rg@x"[..],
            b"\"\xc3\xb6\"@x",
            b"a@\xc3\xb6",
            b"a@x\xc3\xb6",
        ] {
            let error = Mailbox::parse(bytes, PathOptions::default()).unwrap_err();
            assert_eq!(error.kind(), Kind::NonAscii, "{bytes:?}");
            assert!(!Mailbox::parse(bytes, utf8).unwrap().is_ascii());
        }
        for bytes in [
            &b"\xff@x"[..],
            b"\"\xed\xa0\x80\"@x",
            b"\xc0\xae@x",
            b"a@\xf5\x80\x80\x80",
        ] {
            let error = Mailbox::parse(bytes, utf8).unwrap_err();
            assert_eq!(error.kind(), Kind::MalformedUtf8, "{bytes:?}");
        }
    }

    #[test]
    fn equality() {
        let set = HashSet::from([mailbox("a.b@Example.org"), mailbox("\"a\\.b\"@example.ORG")]);
        assert_eq!(set.len(), 1);
        assert_ne!(mailbox("a@x"), mailbox("A@x"));
        assert_ne!(mailbox("a@x"), mailbox("a@y"));
    }

    fn any_options() -> impl Strategy<Value = PathOptions> {
        (any::<[bool; 4]>()).prop_map(|[long, underscore, dot, utf8]| {
            let leniency = Leniency::STRICT
                .allow_long_local_part(long)
                .allow_underscore_in_domain(underscore)
                .allow_trailing_dot_in_domain(dot);
            PathOptions::new(leniency, if utf8 { Charset::Utf8 } else { Charset::Ascii })
        })
    }

    fn round_trips(mailbox: &Mailbox, options: PathOptions) {
        let again = Mailbox::parse(mailbox.to_string().as_bytes(), options).unwrap();
        assert_eq!(&again, mailbox);
        assert_eq!(again.as_str(), mailbox.as_str());
        let parts = format!("{}@{}", mailbox.local_part(), mailbox.domain());
        assert_eq!(parts, mailbox.as_str());
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>, options in any_options()) {
            if let Ok(mailbox) = Mailbox::parse(&bytes, options) {
                round_trips(&mailbox, options);
            }
        }

        #[test]
        fn random_syntax_never_panics(
            text in r#"["\\a.@\[\]:0-9_ö-]{0,20}"#,
            options in any_options(),
        ) {
            if let Ok(mailbox) = Mailbox::parse(text.as_bytes(), options) {
                round_trips(&mailbox, options);
            }
        }

        #[test]
        fn generated_mailboxes_parse(
            local in r#"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,9}(\.[a-zö-]{1,9}){0,2}|"([ !#-\[\]-~]|\\[ -~]){0,9}""#,
            domain in r"([A-Za-z0-9]([a-z0-9-]{0,9}[a-z0-9])?\.){0,3}[a-zé]{1,9}|\[IPv6:[0-9a-f]{1,4}::\]",
            utf8: bool,
        ) {
            let text = format!("{local}@{domain}");
            let charset = if utf8 { Charset::Utf8 } else { Charset::Ascii };
            let options = PathOptions::new(Leniency::STRICT, charset);
            let parsed = Mailbox::parse(text.as_bytes(), options);
            prop_assert_eq!(parsed.is_ok(), utf8 || text.is_ascii());
            if let Ok(mailbox) = parsed {
                prop_assert_eq!(mailbox.as_str(), text);
                round_trips(&mailbox, options);
            }
        }
    }
}
