use std::fmt;
use std::str::FromStr;

use super::scan::{self, Scanner};
use super::{AddressError, AddressErrorKind, AddressPart, Mailbox, PathOptions, Postmaster};

/// The sender of a message: the argument of MAIL FROM (RFC 5321 section 4.1.1.2).
///
/// ```
/// use smtpd_core::{ReversePath, address::PathOptions};
///
/// let input = b"<@relay.example:a@example.org> SIZE=1000";
/// let (path, rest) = ReversePath::parse(input, PathOptions::default())?;
/// assert_eq!(path.as_str(), "a@example.org");
/// assert_eq!(path.raw(), "@relay.example:a@example.org");
/// assert_eq!(rest, b" SIZE=1000");
///
/// let (path, _) = ReversePath::parse(b"<>", PathOptions::default())?;
/// assert_eq!(path, ReversePath::Null);
/// # Ok::<(), smtpd_core::address::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReversePath {
    /// `<>`: the message is a notification that must not cause another (RFC 5321 section 4.5.5).
    Null,
    /// The mailbox that is notified if the message cannot be delivered.
    Mailbox(Mailbox),
}

impl ReversePath {
    /// Parses what follows `FROM:`. Returns the path and the rest, which is empty or begins with a space. A source route is
    /// checked and then ignored (RFC 5321 section 4.1.1.3).
    ///
    /// # Errors
    ///
    /// Fails if the grammar of RFC 5321 section 4.1.2 (extended by RFC 6531 section 3.3, if `options` say so) does not allow it,
    /// or if it or a part of it is longer than RFC 5321 section 4.5.3.1 allows.
    pub fn parse(input: &[u8], options: PathOptions) -> Result<(Self, &[u8]), AddressError> {
        if let Some((mailbox, rest)) = plain(input) {
            return Ok((Self::Mailbox(mailbox), rest));
        }
        let frame = Frame::open(input, options)?;
        if frame.bracketed && frame.ends_after(0) {
            return Ok((Self::Null, frame.close()?.rest));
        }
        let (mailbox, rest) = frame.mailbox()?;
        Ok((Self::Mailbox(mailbox), rest))
    }

    /// Returns the address without brackets and source route, which is the empty string for the null path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.mailbox().map_or("", Mailbox::as_str)
    }

    /// Returns what was sent between the brackets, with the source route.
    #[must_use]
    pub fn raw(&self) -> &str {
        self.mailbox().map_or("", Mailbox::source)
    }

    /// Returns the mailbox, unless the path is null.
    #[must_use]
    pub const fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            Self::Null => None,
            Self::Mailbox(mailbox) => Some(mailbox),
        }
    }

    /// Returns whether this is the null path, `<>`.
    #[must_use]
    pub const fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }
}

impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Mailbox> for ReversePath {
    fn from(mailbox: Mailbox) -> Self {
        Self::Mailbox(mailbox)
    }
}

/// Parses what [`as_str`](ReversePath::as_str) returns: no brackets, and the empty string is null.
impl FromStr for ReversePath {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() {
            return Ok(Self::Null);
        }
        text.parse().map(Self::Mailbox)
    }
}

/// The recipient of a message: the argument of RCPT TO (RFC 5321 section 4.1.1.3).
///
/// ```
/// use smtpd_core::{ForwardPath, address::PathOptions};
///
/// let (path, rest) =
///     ForwardPath::parse(b"<a@example.org>", PathOptions::default())?;
/// assert_eq!(path.as_str(), "a@example.org");
/// assert!(rest.is_empty());
///
/// let (path, _) = ForwardPath::parse(b"<postmaster>", PathOptions::default())?;
/// assert!(matches!(path, ForwardPath::Postmaster(_)));
/// # Ok::<(), smtpd_core::address::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ForwardPath {
    /// `<Postmaster>` without a domain: the administrator of this server.
    Postmaster(Postmaster),
    /// The mailbox that the message is for.
    Mailbox(Mailbox),
}

impl ForwardPath {
    /// Parses what follows `TO:`. Returns the path and the rest, which is empty or begins with a space. A source route is checked
    /// and then ignored (RFC 5321 section 4.1.1.3).
    ///
    /// # Errors
    ///
    /// Fails if the grammar of RFC 5321 section 4.1.2 (extended by RFC 6531 section 3.3, if `options` say so) does not allow it,
    /// if it or a part of it is longer than RFC 5321 section 4.5.3.1 allows, or if it is the null path.
    pub fn parse(input: &[u8], options: PathOptions) -> Result<(Self, &[u8]), AddressError> {
        if let Some((mailbox, rest)) = plain(input) {
            return Ok((Self::Mailbox(mailbox), rest));
        }
        let mut frame = Frame::open(input, options)?;
        if frame.ends_after(Postmaster::NAME.len())
            && let Some(postmaster) = Postmaster::at_front(frame.scanner.rest())
        {
            frame.scanner.skip(Postmaster::NAME.len());
            return Ok((Self::Postmaster(postmaster), frame.close()?.rest));
        }
        let (mailbox, rest) = frame.mailbox()?;
        Ok((Self::Mailbox(mailbox), rest))
    }

    /// Returns the address without brackets and source route.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Postmaster(postmaster) => postmaster.as_str(),
            Self::Mailbox(mailbox) => mailbox.as_str(),
        }
    }

    /// Returns what was sent between the brackets, with the source route.
    #[must_use]
    pub fn raw(&self) -> &str {
        match self {
            Self::Postmaster(postmaster) => postmaster.as_str(),
            Self::Mailbox(mailbox) => mailbox.source(),
        }
    }

    /// Returns the mailbox, unless this is the postmaster without a domain.
    #[must_use]
    pub const fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            Self::Postmaster(_) => None,
            Self::Mailbox(mailbox) => Some(mailbox),
        }
    }
}

impl fmt::Display for ForwardPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Mailbox> for ForwardPath {
    fn from(mailbox: Mailbox) -> Self {
        Self::Mailbox(mailbox)
    }
}

/// Parses what [`as_str`](ForwardPath::as_str) returns: no brackets.
impl FromStr for ForwardPath {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match Postmaster::at_front(text.as_bytes()) {
            Some(postmaster) if text.len() == Postmaster::NAME.len() => {
                Ok(Self::Postmaster(postmaster))
            }
            _ => text.parse().map(Self::Mailbox),
        }
    }
}

/// Parses a path of the most common form, a plain mailbox in brackets. Everything else is left to [`Frame`].
fn plain(input: &[u8]) -> Option<(Mailbox, &[u8])> {
    let path = input.strip_prefix(b"<")?;
    let domain = scan::plain_mailbox(path)?;
    let (content, rest) = path.split_at_checked(domain.end)?;
    match rest {
        [b'>', rest @ ..] if matches!(rest, [] | [b' ', ..]) => {
            Some((Mailbox::new(content, domain, 0).ok()?, rest))
        }
        _ => None,
    }
}

/// The context of a path: a space before it, brackets, and the rest of the command.
struct Frame<'a> {
    scanner: Scanner<'a>,
    start: usize,
    bracketed: bool,
}

/// A path without its brackets, and the rest after it.
struct Closed<'a> {
    content: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Frame<'a> {
    fn open(input: &'a [u8], options: PathOptions) -> Result<Self, AddressError> {
        let mut scanner = Scanner::new(input, options);
        while scanner.eat(b' ') {
            if !options.leniency().space_after_colon() {
                return Err(AddressErrorKind::Space.into());
            }
        }
        if scanner.peek().is_none() {
            return Err(AddressErrorKind::Empty.into());
        }
        let bracketed = scanner.eat(b'<');
        if !bracketed && !options.leniency().missing_brackets() {
            return Err(scanner.unexpected(AddressErrorKind::MissingBracket));
        }
        let start = scanner.position();
        Ok(Self {
            scanner,
            start,
            bracketed,
        })
    }

    /// Returns whether exactly `count` bytes of the path are left.
    fn ends_after(&self, count: usize) -> bool {
        match self.scanner.rest().get(count) {
            None => true,
            Some(b'>') => self.bracketed,
            Some(b' ') => !self.bracketed,
            Some(_) => false,
        }
    }

    fn mailbox(mut self) -> Result<(Mailbox, &'a [u8]), AddressError> {
        if self.ends_after(0) {
            return Err(AddressErrorKind::Empty.into());
        }
        self.scanner.route()?;
        let domain = self.scanner.mailbox()?;
        let start = self.start;
        let Closed { content, rest } = self.close()?;
        Ok((Mailbox::new(content, domain, start)?, rest))
    }

    fn close(mut self) -> Result<Closed<'a>, AddressError> {
        let content = self.scanner.since(self.start);
        AddressPart::Path.check(content.len() + "<>".len())?; // RFC 5321 section 4.5.3.1.3
        let closed = !self.bracketed || self.scanner.eat(b'>');
        let rest = self.scanner.rest();
        match rest.first() {
            None | Some(b' ') if closed => Ok(Closed { content, rest }),
            None | Some(b' ') => Err(AddressErrorKind::MissingBracket.into()),
            Some(b'>') if !self.bracketed => Err(AddressErrorKind::MissingBracket.into()),
            Some(_) if self.bracketed && closed => {
                Err(self.scanner.unexpected(AddressErrorKind::Trailing))
            }
            Some(_) => Err(self.scanner.unexpected(AddressErrorKind::Domain)),
        }
    }
}

#[cfg(test)]
mod tests {
    use AddressErrorKind as Kind;
    use proptest::prelude::*;

    use super::super::{Charset, Leniency};
    use super::*;

    const STRICT: PathOptions = PathOptions::new(Leniency::STRICT, Charset::Ascii);

    /// The address, the text between the brackets, and the rest; or what is wrong.
    type Outcome<'a> = Result<(String, String, &'a [u8]), Kind>;

    fn reverse(input: &[u8], options: PathOptions) -> Outcome<'_> {
        ReversePath::parse(input, options)
            .map(|(path, rest)| (path.to_string(), path.raw().to_owned(), rest))
            .map_err(|error| error.kind())
    }

    fn forward(input: &[u8], options: PathOptions) -> Outcome<'_> {
        ForwardPath::parse(input, options)
            .map(|(path, rest)| (path.to_string(), path.raw().to_owned(), rest))
            .map_err(|error| error.kind())
    }

    fn ok<'a>(address: &str, raw: &str, rest: &'a str) -> Outcome<'a> {
        Ok((address.to_owned(), raw.to_owned(), rest.as_bytes()))
    }

    #[test]
    fn either_path() {
        for (input, expected) in [
            ("<a@b>", ok("a@b", "a@b", "")),
            ("<a@b> ", ok("a@b", "a@b", " ")),
            ("<a@b> SIZE=1", ok("a@b", "a@b", " SIZE=1")),
            ("<\"a> b\"@c> X", ok("\"a> b\"@c", "\"a> b\"@c", " X")),
            ("<u@[127.0.0.1]>", ok("u@[127.0.0.1]", "u@[127.0.0.1]", "")),
            ("<@a:u@c>", ok("u@c", "@a:u@c", "")),
            (
                "<@a.example,@b:u@c> X",
                ok("u@c", "@a.example,@b:u@c", " X"),
            ),
            ("", Err(Kind::Empty)),
            (" <a@b>", Err(Kind::Space)),
            ("a@b", Err(Kind::MissingBracket)),
            ("a@b>", Err(Kind::MissingBracket)),
            ("<a@b", Err(Kind::MissingBracket)),
            ("<a@b SIZE=1", Err(Kind::MissingBracket)),
            ("<a@b>x", Err(Kind::Trailing)),
            ("<a@b>>", Err(Kind::Trailing)),
            ("<a@b>\t", Err(Kind::Control)),
            ("<a@b>\r\n", Err(Kind::Control)),
            ("<<a@b>>", Err(Kind::LocalPart)),
            ("< a@b>", Err(Kind::LocalPart)),
            ("<a@b >", Err(Kind::MissingBracket)),
            ("<a@b,c@d>", Err(Kind::Domain)),
            ("<a>", Err(Kind::NoDomain)),
            ("<a\0@b>", Err(Kind::Control)),
            ("<ö@b>", Err(Kind::NonAscii)),
            ("<@x>", Err(Kind::Route)),
            ("<@a,b:u@c>", Err(Kind::Route)),
            ("<@a,@[127.0.0.1]:u@c>", Err(Kind::Route)),
            ("<@a,:u@c>", Err(Kind::Route)),
            ("<@-a:u@c>", Err(Kind::Domain)),
            ("<@a:>", Err(Kind::LocalPart)),
            ("<@a:Postmaster>", Err(Kind::NoDomain)),
        ] {
            assert_eq!(reverse(input.as_bytes(), STRICT), expected, "{input}");
            assert_eq!(forward(input.as_bytes(), STRICT), expected, "{input}");
        }
    }

    #[test]
    fn null_path() {
        assert_eq!(reverse(b"<>", STRICT), ok("", "", ""));
        assert_eq!(reverse(b"<> SIZE=1", STRICT), ok("", "", " SIZE=1"));
        assert_eq!(reverse(b"<>x", STRICT), Err(Kind::Trailing));
        assert_eq!(reverse(b"<", STRICT), Err(Kind::MissingBracket));
        assert_eq!(reverse(b"< >", STRICT), Err(Kind::LocalPart));
        assert_eq!(forward(b"<>", STRICT), Err(Kind::Empty));
    }

    #[test]
    fn postmaster() {
        assert_eq!(
            forward(b"<Postmaster>", STRICT),
            ok("Postmaster", "Postmaster", "")
        );
        assert_eq!(
            forward(b"<POSTmaster> X", STRICT),
            ok("POSTmaster", "POSTmaster", " X")
        );
        assert_eq!(
            forward(b"<postmaster@b>", STRICT),
            ok("postmaster@b", "postmaster@b", "")
        );
        assert_eq!(forward(b"<postmasters>", STRICT), Err(Kind::NoDomain));
        assert_eq!(forward(b"<postmaster", STRICT), Err(Kind::MissingBracket));
        assert_eq!(forward(b"<postmaster x>", STRICT), Err(Kind::LocalPart));
        assert_eq!(reverse(b"<postmaster>", STRICT), Err(Kind::NoDomain));
        assert_eq!(
            "postMASTER".parse(),
            Ok(ForwardPath::Postmaster(Postmaster::default()))
        );
    }

    #[test]
    fn limits() {
        let options =
            PathOptions::new(Leniency::STRICT.allow_long_local_part(true), Charset::Ascii);
        let part = AddressPart::Path;
        for (bytes, expected) in [(256, None), (257, Some(Kind::TooLong { part }))] {
            let long = format!(
                "<{}@example.org>",
                "l".repeat(bytes - "<@example.org>".len())
            );
            let domain = format!("{}x", "d.".repeat(95));
            let normal = format!(
                "<{}@{domain}>",
                "l".repeat(bytes - "<@>".len() - domain.len())
            );
            let route = format!(
                "<@{domain}:{}@x>",
                "l".repeat(bytes - "<@:@x>".len() - domain.len())
            );
            for (input, options) in [(long, options), (normal, STRICT), (route, STRICT)] {
                assert_eq!(input.len(), bytes);
                assert_eq!(
                    reverse(input.as_bytes(), options).err(),
                    expected,
                    "{input}"
                );
                assert_eq!(
                    forward(input.as_bytes(), options).err(),
                    expected,
                    "{input}"
                );
            }
        }
        let part = AddressPart::LocalPart;
        let input = format!("<{}@b>", "l".repeat(65));
        assert_eq!(
            reverse(input.as_bytes(), STRICT),
            Err(Kind::TooLong { part })
        );
    }

    #[test]
    fn leniency() {
        let space = Leniency::STRICT.allow_space_after_colon(true);
        let brackets = Leniency::STRICT.allow_missing_brackets(true);
        let both = space.allow_missing_brackets(true);
        let dot = Leniency::STRICT.allow_trailing_dot_in_domain(true);
        let dots = Leniency::STRICT.allow_stray_dots_in_local_part(true);
        let common = Leniency::COMMON;
        for (leniency, input, expected) in [
            (space, "  <a@b> X", ok("a@b", "a@b", " X")),
            (space, " a@b", Err(Kind::MissingBracket)),
            (space, "\t<a@b>", Err(Kind::Control)),
            (space, " ", Err(Kind::Empty)),
            (brackets, "a@b", ok("a@b", "a@b", "")),
            (brackets, "a@b SIZE=1", ok("a@b", "a@b", " SIZE=1")),
            (brackets, "\"a b\"@c X", ok("\"a b\"@c", "\"a b\"@c", " X")),
            (brackets, "@r:a@b", ok("a@b", "@r:a@b", "")),
            (brackets, "<a@b>", ok("a@b", "a@b", "")),
            (brackets, " a@b", Err(Kind::Space)),
            (brackets, "a@b>", Err(Kind::MissingBracket)),
            (brackets, "<a@b", Err(Kind::MissingBracket)),
            (brackets, "a@b;c", Err(Kind::Domain)),
            (brackets, "a b@c", Err(Kind::LocalPart)),
            (brackets, "", Err(Kind::Empty)),
            (both, " a@b X", ok("a@b", "a@b", " X")),
            (both, " SIZE=1", Err(Kind::NoDomain)),
            (dot, "<a@b.>", ok("a@b", "a@b.", "")),
            (dots, "<a..b@c> X", ok("a..b@c", "a..b@c", " X")),
            (dots, "<.a@b>", ok(".a@b", ".a@b", "")),
            (dots, "<a.@b>", ok("a.@b", "a.@b", "")),
            (dots, "<@r:..a..@b>", ok("..a..@b", "@r:..a..@b", "")),
            (dots, "<a.b@c>", ok("a.b@c", "a.b@c", "")),
            (dots, "<.@b>", Err(Kind::LocalPart)),
            (dots, "<...@b>", Err(Kind::LocalPart)),
            (dots, "<@b>", Err(Kind::Route)),
            (dots, "<a.>", Err(Kind::NoDomain)),
            (dots, "<a..@b..c>", Err(Kind::Domain)),
            (dots, "<\"a\".b@c>", Err(Kind::LocalPart)),
            (dots, " <a@b>", Err(Kind::Space)),
            (common, " <a..b@c> X", ok("a..b@c", "a..b@c", " X")),
            (common, "a@b", Err(Kind::MissingBracket)),
            (common, "<a@b_c>", Err(Kind::Domain)),
            (common, "<a@b.>", Err(Kind::Domain)),
            (Leniency::STRICT, "<a..b@c>", Err(Kind::LocalPart)),
        ] {
            let options = PathOptions::new(leniency, Charset::Ascii);
            assert_eq!(reverse(input.as_bytes(), options), expected, "{input}");
            assert_eq!(forward(input.as_bytes(), options), expected, "{input}");
        }
        let options = PathOptions::new(brackets, Charset::Ascii);
        assert_eq!(
            forward(b"postmaster X", options),
            ok("postmaster", "postmaster", " X")
        );
    }

    fn any_options() -> impl Strategy<Value = PathOptions> {
        any::<[bool; 7]>().prop_map(|[space, brackets, long, dots, underscore, dot, utf8]| {
            let leniency = Leniency::STRICT
                .allow_space_after_colon(space)
                .allow_missing_brackets(brackets)
                .allow_long_local_part(long)
                .allow_stray_dots_in_local_part(dots)
                .allow_underscore_in_domain(underscore)
                .allow_trailing_dot_in_domain(dot);
            PathOptions::new(leniency, if utf8 { Charset::Utf8 } else { Charset::Ascii })
        })
    }

    fn check(input: &[u8], options: PathOptions) {
        if let Ok((path, rest)) = ReversePath::parse(input, options) {
            assert!(rest.is_empty() || rest.starts_with(b" "));
            assert!(!path.raw().contains(char::is_control));
            let again = format!("<{}>", path.raw());
            assert_eq!(
                ReversePath::parse(again.as_bytes(), options),
                Ok((path, &[][..]))
            );
        }
        if let Ok((path, rest)) = ForwardPath::parse(input, options) {
            assert!(rest.is_empty() || rest.starts_with(b" "));
            let again = format!("<{path}>");
            assert_eq!(
                ForwardPath::parse(again.as_bytes(), options),
                Ok((path, &[][..]))
            );
        }
    }

    #[test]
    fn the_common_form_is_a_whole_path() {
        for (input, rest) in [
            ("<a.b@c.d>", Some("")),
            ("<a@b> X", Some(" X")),
            ("<a@b>x", None),
            ("<a@b>>", None),
            ("<a@b", None),
            ("<a@b X", None),
            ("a@b>", None),
            (" <a@b>", None),
            ("<>", None),
            ("<postmaster>", None),
            ("<@b:a@b>", None),
        ] {
            let found = plain(input.as_bytes()).map(|(_, rest)| rest);
            assert_eq!(found, rest.map(str::as_bytes), "{input}");
        }
    }

    proptest! {
        #[test]
        fn the_common_form_is_parsed_as_any_other(
            text in r#"<[a.-]{1,3}@[a.-]{1,4}[> ]{0,2}[a ]{0,2}"#,
            options in any_options(),
        ) {
            if let Some((mailbox, rest)) = plain(text.as_bytes()) {
                let frame = Frame::open(text.as_bytes(), options).unwrap();
                let (slow, slow_rest) = frame.mailbox().unwrap();
                prop_assert_eq!((mailbox.source(), rest), (slow.source(), slow_rest));
                prop_assert_eq!(mailbox.domain().as_str(), slow.domain().as_str());
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>, options in any_options()) {
            check(&bytes, options);
        }

        #[test]
        fn random_syntax_never_panics(
            text in r#" ?<?(@[a.]{1,3}[,:]){0,2}["\\a. @ö]{0,6}@[a.ö_-]{1,4}[> a]{0,3}"#,
            options in any_options(),
        ) {
            check(text.as_bytes(), options);
        }
    }
}
