use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::str::FromStr;

use super::scan::{Scanner, literal_ip};
#[cfg(feature = "idna")]
use super::u_label;
use super::{AddressError, AddressErrorKind, Charset, Leniency, PathOptions, Span, Text};

/// A domain name, or an address literal instead (RFC 5321 sections 4.1.2 and 4.1.3).
///
/// Names and literals compare without regard to ASCII case (RFC 5321 section 2.4). Two spellings of one IP address differ, and so
/// do an A-label and its U-label, unless you compare their `canonical` forms (with the feature `idna`). Cloning is cheap.
///
/// ```
/// use smtpd_core::Domain;
///
/// let domain: Domain = "Example.ORG".parse()?;
/// assert_eq!(domain.as_str(), "Example.ORG");
/// assert!(domain.eq_ignore_case("example.org"));
/// assert!(!domain.is_literal());
///
/// let literal: Domain = "[IPv6:2001:db8::1]".parse()?;
/// assert_eq!(literal.ip(), Some("2001:db8::1".parse().unwrap()));
/// # Ok::<(), smtpd_core::address::AddressError>(())
/// ```
#[derive(Clone)]
pub struct Domain {
    /// The text of the whole path that contains the domain.
    source: Text,
    span: Span,
}

impl Domain {
    /// Parses `input`, all of which must be a domain or an address literal.
    ///
    /// # Errors
    ///
    /// Fails if the grammar of RFC 5321 sections 4.1.2 and 4.1.3 (extended by RFC 6531 section 3.3, if `options` say so) does not
    /// allow it, or if, written in A-labels, a label is longer than 63 octets or the whole name longer than 255.
    ///
    /// A label that is not ASCII must be a U-label (RFC 5890 section 2.3.2.1), with these exceptions: upper case, text that is
    /// not normalized, and emoji are accepted, and a character that is allowed only in some contexts, such as a middle dot, is
    /// accepted anywhere (CONTEXTO, RFC 5892 section 2.6). The joiners need their context. Labels with invisible characters, or
    /// with compatibility forms such as fullwidth letters, are rejected. ASCII labels are checked as A-labels only if they stand
    /// beside U-labels: a name that is entirely ASCII is not decoded.
    ///
    /// Without the feature `idna`, only a short list of deceptive characters is rejected, because the Unicode tables are missing.
    /// With it, more names are rejected.
    pub fn parse(input: &[u8], options: PathOptions) -> Result<Self, AddressError> {
        if input.is_empty() {
            return Err(AddressErrorKind::Empty.into());
        }
        let mut scanner = Scanner::new(input, options);
        let end = scanner.domain()?;
        if !scanner.rest().is_empty() {
            return Err(scanner.unexpected(AddressErrorKind::Domain));
        }
        let text = Text::from_utf8(input).map_err(|_| AddressErrorKind::MalformedUtf8)?;
        Ok(Self::new(text, Span::new(0, end)))
    }

    /// Creates the domain at `span` in the text of a path.
    pub(super) fn new(source: Text, span: Span) -> Self {
        Self { source, span }
    }

    /// Returns the domain in the case in which it was sent; a literal includes its brackets.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.span.of(&self.source)
    }

    /// Returns whether this is `other`, without regard to ASCII case.
    #[must_use]
    pub fn eq_ignore_case(&self, other: &str) -> bool {
        self.as_str().eq_ignore_ascii_case(other)
    }

    /// Returns the form in which equivalent domains are equal: A-labels in lower case, whether A-labels or U-labels were sent
    /// (RFC 5890 section 2.3.2.4, RFC 6531 section 3.2), and for a literal the shortest spelling of its address (RFC 5952 section
    /// 4).
    ///
    /// The result parses as a domain again and is its own canonical form. It is an address literal only if this is one. The
    /// labels of a name that is entirely ASCII are not checked, and nothing is allocated for it unless it has upper-case letters.
    ///
    /// ```
    /// use smtpd_core::Domain;
    ///
    /// let (u, a): (Domain, Domain) =
    ///     ("grå.Example".parse()?, "XN--gr-zia.example".parse()?);
    /// assert_eq!(u.canonical(), "xn--gr-zia.example");
    /// assert_eq!(a.canonical(), u.canonical());
    /// # Ok::<(), smtpd_core::address::AddressError>(())
    /// ```
    #[cfg(feature = "idna")]
    #[must_use]
    pub fn canonical(&self) -> Cow<'_, str> {
        let text = self.as_str();
        if !text.is_ascii()
            && let Some(ascii) = u_label::to_ascii(text)
        {
            return ascii;
        }
        match self.ip() {
            Some(IpAddr::V4(ip)) => return Cow::Owned(format!("[{ip}]")),
            Some(IpAddr::V6(ip)) => return Cow::Owned(format!("[ipv6:{ip}]")),
            None => {}
        }
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(text.to_ascii_lowercase())
        } else {
            Cow::Borrowed(text)
        }
    }

    /// Returns the form in which equivalent domains are equal, as far as the features allow.
    pub(crate) fn key(&self) -> Cow<'_, str> {
        #[cfg(feature = "idna")]
        return self.canonical();
        #[cfg(not(feature = "idna"))]
        match self.as_str() {
            text if text.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                Cow::Owned(text.to_ascii_lowercase())
            }
            text => Cow::Borrowed(text),
        }
    }

    /// Returns whether this is an address literal.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        self.as_str().starts_with('[')
    }

    /// Returns the IP address, if this is a literal.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        let content = self.as_str().strip_prefix('[')?.strip_suffix(']')?;
        literal_ip(content).ok()
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }

    pub(super) fn span(&self) -> Span {
        self.span
    }
}

impl PartialEq for Domain {
    fn eq(&self, other: &Self) -> bool {
        self.eq_ignore_case(other.as_str())
    }
}

impl Eq for Domain {}

impl Hash for Domain {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for byte in self.as_str().bytes() {
            state.write_u8(byte.to_ascii_lowercase());
        }
        state.write_u8(0xff);
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Domain").field(&self.as_str()).finish()
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Parses strictly, with non-ASCII labels allowed.
impl FromStr for Domain {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let options = PathOptions::new(Leniency::STRICT, Charset::Utf8);
        Self::parse(text.as_bytes(), options)
    }
}

impl TryFrom<&str> for Domain {
    type Error = AddressError;

    fn try_from(text: &str) -> Result<Self, AddressError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use AddressErrorKind as Kind;

    use super::super::AddressPart;
    use super::*;

    fn kind(text: &str) -> Kind {
        text.parse::<Domain>().expect_err(text).kind()
    }

    #[test]
    fn names() {
        let label = "a".repeat(63);
        let longest = [label.as_str(); 4].join(".");
        assert_eq!(longest.len(), 255);
        for text in [
            "x", "a-b.c", "a--b", "3com.com", "1.2.3.4", &label, &longest,
        ] {
            let domain: Domain = text.parse().expect(text);
            assert_eq!((domain.as_str(), domain.ip()), (text, None));
        }
        for text in [
            "a..b", ".a", "a.", ".", "-a", "a-", "a.-b", "a-.b", "a_b", "a b", "a@b",
        ] {
            assert_eq!(kind(text), Kind::Domain, "{text}");
        }
        assert_eq!(kind(""), Kind::Empty);
        assert_eq!(kind("a\r\nb"), Kind::Control);
        let too_long = |part| Kind::TooLong { part };
        assert_eq!(kind(&"a".repeat(64)), too_long(AddressPart::Label));
        assert_eq!(
            kind(&format!("{label}.{}a.b", "a.".repeat(95))),
            too_long(AddressPart::Domain)
        );
    }

    #[test]
    fn literals() {
        for (text, ip) in [
            ("[127.0.0.1]", "127.0.0.1"),
            ("[010.001.000.255]", "10.1.0.255"),
            ("[IPv6:2001:db8::1]", "2001:db8::1"),
            ("[ipv6:2001:DB8::1]", "2001:db8::1"),
            ("[IPv6:::]", "::"),
            ("[IPv6:::ffff:192.0.2.1]", "::ffff:192.0.2.1"),
        ] {
            let domain: Domain = text.parse().expect(text);
            assert_eq!((domain.as_str(), domain.ip()), (text, ip.parse().ok()));
        }
        for text in [
            "[]",
            "[",
            "[127.0.0.1",
            "[127.0.0.]",
            "[127.0.0]",
            "[127.0.0.1.]",
            "[127.0.0.1.1]",
            "[256.1.1.1]",
            "[0127.0.0.1]",
            "[+1.0.0.1]",
            "[ 127.0.0.1]",
            "[127.0.0.1 ]",
            "[::1]",
            "[IPv6:]",
            "[IPv6:127.0.0.1]",
            "[IPv6:1:2]",
            "[IPv6:::1%1]",
            "[x-:y]",
            "[x:]",
            "[a]",
            "[[1.2.3.4]]",
            "[127.0.0.\u{663}]",
        ] {
            assert_eq!(kind(text), Kind::Literal, "{text}");
        }
        assert_eq!(kind("[127.0.0.1]x"), Kind::Domain);
        assert_eq!(kind("[X400:c=de]"), Kind::UnsupportedLiteral);
        assert_eq!(kind("[127.0.0.1\0]"), Kind::Control);
    }

    #[test]
    fn non_ascii_labels() {
        // 40 characters, 80 octets, 47 octets as an A-label
        let long = "я".repeat(40);
        for text in ["grå.org", "例え.テスト", "a.ö", &long] {
            assert_eq!(text.parse::<Domain>().expect(text).as_str(), text);
            let error = Domain::parse(text.as_bytes(), PathOptions::default()).unwrap_err();
            assert_eq!(error.kind(), Kind::NonAscii, "{text}");
        }
        let part = AddressPart::Label;
        assert_eq!(kind(&"я".repeat(64)), Kind::TooLong { part });
        assert_eq!(kind("a\u{a0}b"), Kind::Domain);
        assert_eq!(kind("a\u{2028}b"), Kind::Domain);
        assert_eq!(kind("a\u{85}b"), Kind::Control);
        let options = PathOptions::new(Leniency::STRICT, Charset::Utf8);
        for bytes in [&b"a\xff"[..], b"\xed\xa0\x80", b"\xc0\xae", b"\xe2\x82"] {
            let error = Domain::parse(bytes, options).unwrap_err();
            assert_eq!(error.kind(), Kind::MalformedUtf8, "{bytes:?}");
        }
    }

    #[test]
    fn leniency() {
        let parse = |text: &str, leniency| {
            Domain::parse(text.as_bytes(), PathOptions::new(leniency, Charset::Ascii))
                .map(|domain| domain.to_string())
                .map_err(|error| error.kind())
        };
        let underscore = Leniency::STRICT.allow_underscore_in_domain(true);
        assert_eq!(parse("_a_.b_c", underscore), Ok("_a_.b_c".to_owned()));
        assert_eq!(parse("a_b.", underscore), Err(Kind::Domain));
        let dot = Leniency::STRICT.allow_trailing_dot_in_domain(true);
        assert_eq!(parse("a.b.", dot), Ok("a.b".to_owned()));
        for text in ["a..", ".", ".a", "a._", "a.-"] {
            assert_eq!(parse(text, dot), Err(Kind::Domain), "{text}");
        }
    }

    #[test]
    #[cfg(feature = "idna")]
    fn canonical_forms() {
        for (text, canonical) in [
            ("example.org", "example.org"),
            ("Example.ORG", "example.org"),
            ("[IPv6:2001:DB8::1]", "[ipv6:2001:db8::1]"),
            ("[IPv6:2001:db8:0:0:0:00:0:1]", "[ipv6:2001:db8::1]"),
            ("[IPv6:::ffff:c000:201]", "[ipv6:::ffff:192.0.2.1]"),
            ("[010.001.000.255]", "[10.1.0.255]"),
            ("XN--NXASMQ6B.example", "xn--nxasmq6b.example"),
            ("βόλος.example", "xn--nxasmm1c.example"),
            ("ΒΌΛΟΣ.Example", "xn--nxasmq6b.example"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("BU\u{308}CHER.example", "xn--bcher-kva.example"),
            ("faß.example", "xn--fa-hia.example"),
            ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
            ("xn--gr-zia.grå", "xn--gr-zia.xn--gr-zia"),
        ] {
            let domain: Domain = text.parse().expect(text);
            assert_eq!(domain.canonical(), canonical, "{text}");
            assert_eq!(canonical.parse::<Domain>().unwrap().canonical(), canonical);
        }
    }

    #[test]
    #[cfg(feature = "idna")]
    fn canonical_forms_keep_underscores() {
        let options = PathOptions::new(
            Leniency::STRICT.allow_underscore_in_domain(true),
            Charset::Utf8,
        );
        let domain = Domain::parse("a_b.grå".as_bytes(), options).unwrap();
        assert_eq!(domain.canonical(), "a_b.xn--gr-zia");
    }

    #[test]
    #[cfg(feature = "idna")]
    fn the_canonical_form_of_an_ascii_domain_costs_nothing() {
        let domain: Domain = "xn--gr-zia.example.org".parse().unwrap();
        assert!(matches!(domain.canonical(), Cow::Borrowed(_)));
    }

    #[test]
    fn equality_ignores_case() {
        let (a, b): (Domain, Domain) = ("A.example".parse().unwrap(), "a.EXAMPLE".parse().unwrap());
        assert_eq!(a, b);
        assert_eq!(std::collections::HashSet::from([a, b]).len(), 1);
    }

    /// Characters that are likely to be mapped to something else: forms of ASCII, invisible characters, marks, and characters
    /// with special case mappings.
    #[cfg(feature = "idna")]
    const ODD: &str = "[a-zA-Z0-9.\\-_éßςΣẞİſКяאب例。．＠［］－＿⑴℀❤한ᏣꭰΩÅK\u{ad}\u{200b}\u{200c}\u{200d}\u{300}\u{308}\u{338}\u{37e}\u{3002}]{1,12}|xn--[a-z0-9-]{1,8}\\.é|[a-z]{0,3}\\PC{1,4}[a-z]{0,3}";

    #[cfg(feature = "idna")]
    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(4000))]

        #[test]
        fn a_canonical_form_is_a_domain_and_its_own_canonical_form(text in ODD, lenient: bool) {
            let leniency = Leniency::STRICT
                .allow_underscore_in_domain(lenient)
                .allow_trailing_dot_in_domain(lenient);
            let parse = |text: &str| Domain::parse(text.as_bytes(), PathOptions::new(leniency, Charset::Utf8));
            if let Ok(domain) = parse(&text) {
                let canonical = domain.canonical();
                let again = parse(&canonical).expect(&canonical);
                assert!(canonical.is_ascii() && !again.is_literal(), "{canonical}");
                assert_eq!((&*again.canonical(), again.as_str()), (&*canonical, &*canonical));
                assert!(canonical.split('.').all(|label| label.len() <= 63), "{canonical}");
                assert_eq!(canonical.split('.').count(), domain.as_str().split('.').count());
            }
        }
    }
}
