/// Which malformed addresses to accept. Default: none.
///
/// ```
/// use smtpd_core::{
///     ReversePath,
///     address::{Charset, Leniency, PathOptions},
/// };
///
/// let lenient = Leniency::STRICT.allow_space_after_colon(true);
/// let options = PathOptions::new(lenient, Charset::Ascii);
/// assert!(ReversePath::parse(b" <a@example.org>", options).is_ok());
/// assert!(
///     ReversePath::parse(b" <a@example.org>", PathOptions::default()).is_err()
/// );
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Leniency {
    space_after_colon: bool,
    missing_brackets: bool,
    long_local_part: bool,
    stray_dots_in_local_part: bool,
    underscore_in_domain: bool,
    trailing_dot_in_domain: bool,
}

impl Leniency {
    /// Accepts no malformed address.
    pub const STRICT: Self = Self {
        space_after_colon: false,
        missing_brackets: false,
        long_local_part: false,
        stray_dots_in_local_part: false,
        underscore_in_domain: false,
        trailing_dot_in_domain: false,
    };

    /// Accepts the faults that are common in legitimate mail: spaces after the colon, sent by many programs and devices; local
    /// parts of more than 64 octets, found in forwarded and mailing list mail; and stray dots in local parts, which some
    /// providers have assigned.
    pub const COMMON: Self = Self {
        space_after_colon: true,
        missing_brackets: false,
        long_local_part: true,
        stray_dots_in_local_part: true,
        underscore_in_domain: false,
        trailing_dot_in_domain: false,
    };

    /// Sets whether spaces may stand between the colon and the path: `MAIL FROM: <a@b>`. Default: false.
    #[must_use]
    pub const fn allow_space_after_colon(mut self, allow: bool) -> Self {
        self.space_after_colon = allow;
        self
    }

    /// Sets whether a path may lack its brackets: `MAIL FROM:a@b`. Such a path ends at the first space outside quotes. Default:
    /// false.
    #[must_use]
    pub const fn allow_missing_brackets(mut self, allow: bool) -> Self {
        self.missing_brackets = allow;
        self
    }

    /// Sets whether a local part may be longer than 64 octets (RFC 5321 section 4.5.3.1.1), up to what the limit of the path
    /// leaves. Default: false.
    #[must_use]
    pub const fn allow_long_local_part(mut self, allow: bool) -> Self {
        self.long_local_part = allow;
        self
    }

    /// Sets whether dots may stand at either end of a local part, or beside each other: `.a@b`, `a.@b`, `a..b@c`. RFC 5321
    /// section 4.1.2 allows them only between atoms, or within quotes. At least one atom is needed. Default: false.
    #[must_use]
    pub const fn allow_stray_dots_in_local_part(mut self, allow: bool) -> Self {
        self.stray_dots_in_local_part = allow;
        self
    }

    /// Sets whether a domain may contain underscores, which RFC 5321 section 4.1.2 explicitly forbids. Default: false.
    #[must_use]
    pub const fn allow_underscore_in_domain(mut self, allow: bool) -> Self {
        self.underscore_in_domain = allow;
        self
    }

    /// Sets whether a domain may end in a dot, which is dropped from the parsed address. Default: false.
    #[must_use]
    pub const fn allow_trailing_dot_in_domain(mut self, allow: bool) -> Self {
        self.trailing_dot_in_domain = allow;
        self
    }

    /// Returns whether spaces may stand between the colon and the path.
    #[must_use]
    pub const fn space_after_colon(&self) -> bool {
        self.space_after_colon
    }

    /// Returns whether a path may lack its brackets.
    #[must_use]
    pub const fn missing_brackets(&self) -> bool {
        self.missing_brackets
    }

    /// Returns whether a local part may be longer than 64 octets.
    #[must_use]
    pub const fn long_local_part(&self) -> bool {
        self.long_local_part
    }

    /// Returns whether dots may stand at either end of a local part, or beside each other.
    #[must_use]
    pub const fn stray_dots_in_local_part(&self) -> bool {
        self.stray_dots_in_local_part
    }

    /// Returns whether a domain may contain underscores.
    #[must_use]
    pub const fn underscore_in_domain(&self) -> bool {
        self.underscore_in_domain
    }

    /// Returns whether a domain may end in a dot.
    #[must_use]
    pub const fn trailing_dot_in_domain(&self) -> bool {
        self.trailing_dot_in_domain
    }
}

/// The characters that an address may contain.
///
/// ```
/// use smtpd_core::{
///     Domain,
///     address::{Charset, Leniency, PathOptions},
/// };
///
/// let parse = |charset| {
///     Domain::parse(
///         "grå.example".as_bytes(),
///         PathOptions::new(Leniency::STRICT, charset),
///     )
/// };
/// assert!(parse(Charset::Utf8).is_ok() && parse(Charset::Ascii).is_err());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Charset {
    /// ASCII only (RFC 5321 section 4.1.2).
    #[default]
    Ascii,
    /// UTF-8, which a client may send after it requested SMTPUTF8 (RFC 6531 section 3.3).
    Utf8,
}

/// How to parse an address: [`Leniency`] and [`Charset`]. The default is strict and ASCII.
///
/// ```
/// use smtpd_core::{
///     ForwardPath,
///     address::{Charset, Leniency, PathOptions},
/// };
///
/// let utf8 = PathOptions::new(Leniency::STRICT, Charset::Utf8);
/// let (path, rest) = ForwardPath::parse(
///     "<пользователь@example.org> NOTIFY=NEVER".as_bytes(),
///     utf8,
/// )?;
/// assert_eq!(path.as_str(), "пользователь@example.org");
/// assert_eq!(rest.trim_ascii(), b"NOTIFY=NEVER");
/// # Ok::<(), smtpd_core::address::AddressError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PathOptions {
    leniency: Leniency,
    charset: Charset,
}

impl PathOptions {
    /// Creates options with the given leniency and charset.
    #[must_use]
    pub const fn new(leniency: Leniency, charset: Charset) -> Self {
        Self { leniency, charset }
    }

    /// Returns which malformed addresses are accepted.
    #[must_use]
    pub const fn leniency(&self) -> Leniency {
        self.leniency
    }

    /// Returns which characters are allowed.
    #[must_use]
    pub const fn charset(&self) -> Charset {
        self.charset
    }
}
