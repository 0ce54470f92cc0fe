//! The values of options that are more than a number or a word.

use std::{
    borrow::Cow,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::ValueEnum;
use smtpd_tower::{
    Secret,
    address::Leniency,
    config::{BareNewline, NulByte},
    net::{Cidr, CidrError, TrustedPeers},
    sasl::prepare_name,
};

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// A host's name or address, and a port.
    Tcp(String),
    Unix(UnixAddress),
}

/// A Unix socket, and who may use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnixAddress {
    pub(crate) path: PathBuf,
    pub(crate) mode: Option<u32>,
    pub(crate) group: Option<Id>,
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(unix) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return unix.parse().map(Self::Unix);
        }
        let (host, port) = text.rsplit_once(':').unwrap_or_default();
        // An IPv6 address needs its brackets, or its last group would be read as the port.
        let host_is_whole = host.starts_with('[') || !host.contains(':');
        if host.is_empty() || !host_is_whole || port.parse::<u16>().is_err() {
            return Err("expected HOST:PORT, [IPV6]:PORT or unix:PATH");
        }
        Ok(Self::Tcp(text.to_owned()))
    }
}

impl FromStr for UnixAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (mut path, mut mode, mut group) = (text, None, None);
        while let Some((rest, setting)) = path.rsplit_once(',') {
            match setting.split_once('=') {
                Some(("mode", octal)) => mode = Some(permissions(octal)?),
                Some(("group", name)) => group = Some(name.parse()?),
                // A comma of the path.
                _ => break,
            }
            path = rest;
        }
        if path.is_empty() {
            return Err("expected unix:PATH[,mode=MODE][,group=GROUP]");
        }
        Ok(Self {
            path: path.into(),
            mode,
            group,
        })
    }
}

fn permissions(octal: &str) -> Result<u32, &'static str> {
    match u32::from_str_radix(octal, 8) {
        Ok(mode @ 0..=0o777) => Ok(mode),
        _ => Err("expected mode=MODE with an octal number up to 0777, such as 0660"),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(socket) => write!(f, "unix:{}", socket.path.display()),
        }
    }
}

/// A user or a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Id {
    Name(String),
    Number(u32),
}

impl FromStr for Id {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(number) => Ok(Self::Number(number)),
            Err(_) if text.is_empty() => Err("expected a name or a number"),
            Err(_) => Ok(Self::Name(text.to_owned())),
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Number(number) => number.fmt(f),
        }
    }
}

/// Proxies that are trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proxy {
    Network(Cidr),
    /// Peers on Unix sockets.
    Unix,
}

impl Proxy {
    pub(crate) const fn network(&self) -> Option<Cidr> {
        match self {
            Self::Network(network) => Some(*network),
            Self::Unix => None,
        }
    }

    /// All of them, if there are any.
    pub(crate) fn trusted(proxies: &[Self]) -> Option<TrustedPeers> {
        let peers = TrustedPeers::new(proxies.iter().filter_map(Self::network));
        match proxies {
            [] => None,
            proxies if proxies.contains(&Self::Unix) => Some(peers.with_unix_sockets()),
            _ => Some(peers),
        }
    }
}

impl FromStr for Proxy {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        match text {
            "unix" => Ok(Self::Unix),
            network => network.parse().map(Self::Network),
        }
    }
}

/// A user with the password itself, or with a token.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) password: Secret,
}

impl FromStr for User {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some((name, password)) if !name.trim().is_empty() && !password.is_empty() => Ok(Self {
                name: user_name(name)?,
                password: Secret::password(password),
            }),
            _ => Err("expected NAME:SECRET, neither of them empty"),
        }
    }
}

/// The name of a user in the form in which clients are looked up: prepared by SASLprep, and trimmed.
pub(crate) fn user_name(text: &str) -> Result<String, &'static str> {
    let name = prepare_name(text.trim()).map(Cow::into_owned);
    name.ok_or("the user name holds control characters, or others that SASLprep (RFC 4013) forbids")
}

/// A certificate for clients that request this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedCertificate {
    pub(crate) name: String,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl NamedCertificate {
    /// The same as text, with relative paths from that directory on.
    pub(crate) fn relative_to(&self, base: &Path) -> OsString {
        let mut text = OsString::from(&self.name);
        text.push("=");
        text.push(base.join(&self.cert));
        text.push(",");
        text.push(base.join(&self.key));
        text
    }
}

impl FromStr for NamedCertificate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, files) = text.split_once('=').unwrap_or_default();
        match files.split_once(',') {
            Some((cert, key)) if ![name, cert, key].contains(&"") => Ok(Self {
                name: name.to_owned(),
                cert: cert.into(),
                key: key.into(),
            }),
            _ => Err("expected NAME=CERT,KEY"),
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum BareLf {
    /// Reject the message
    Reject,
    /// Make it CRLF
    Normalize,
    /// Leave it as it is: unsafe if another server reads the messages
    Pass,
}

impl From<BareLf> for BareNewline {
    fn from(policy: BareLf) -> Self {
        match policy {
            BareLf::Reject => Self::Reject,
            BareLf::Normalize => Self::Normalize,
            BareLf::Pass => Self::PassThrough,
        }
    }
}

/// How lines end in files of the Maildir.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Newline {
    Crlf,
    Lf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Nul {
    /// Reject the message
    Reject,
    /// Leave it out. With --bare-lf pass, a CR and an LF that it stood between become the end of a line
    Strip,
    /// Leave it as it is: programs that end a text at a NUL see less of the message than others
    Pass,
}

impl From<Nul> for NulByte {
    fn from(policy: Nul) -> Self {
        match policy {
            Nul::Reject => Self::Reject,
            Nul::Strip => Self::Strip,
            Nul::Pass => Self::PassThrough,
        }
    }
}

/// Which malformed addresses to accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lenient {
    /// Nothing
    None,
    /// What is common in legitimate mail: space-after-colon, long-local-part, stray-dots
    Common,
    /// All of these
    All,
    /// MAIL FROM: <alice@example.org>
    SpaceAfterColon,
    /// MAIL FROM:alice@example.org
    MissingBrackets,
    /// More than 64 bytes before the at sign, up to 256 in total
    LongLocalPart,
    /// a..b@example.org, .a@example.org, a.@example.org
    StrayDots,
    /// alice@my_host.example.org
    UnderscoreInDomain,
    /// A dot at the end of the domain: <alice@example.org.>
    TrailingDotInDomain,
}

impl Lenient {
    /// Merges the values of a list.
    pub(crate) fn all_of(list: &[Self]) -> Leniency {
        let start = Leniency::STRICT;
        list.iter().fold(start, |set, lenient| lenient.add_to(set))
    }

    fn add_to(self, set: Leniency) -> Leniency {
        use Lenient::{LongLocalPart, SpaceAfterColon, StrayDots};
        let all = |list: &[Self]| list.iter().fold(set, |set, one| one.add_to(set));
        match self {
            Self::None => set,
            Self::Common => all(&[SpaceAfterColon, LongLocalPart, StrayDots]),
            Self::All => all(&[
                Self::Common,
                Self::MissingBrackets,
                Self::UnderscoreInDomain,
                Self::TrailingDotInDomain,
            ]),
            Self::SpaceAfterColon => set.allow_space_after_colon(true),
            Self::MissingBrackets => set.allow_missing_brackets(true),
            Self::LongLocalPart => set.allow_long_local_part(true),
            Self::StrayDots => set.allow_stray_dots_in_local_part(true),
            Self::UnderscoreInDomain => set.allow_underscore_in_domain(true),
            Self::TrailingDotInDomain => set.allow_trailing_dot_in_domain(true),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    Off,
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum RuntimeKind {
    /// One listener, and threads that share the work
    #[default]
    Threads,
    /// Threads with a listener each; the system distributes the connections, and another server on the same address is not an
    /// error
    PerCore,
}

#[cfg(test)]
mod tests {
    use smtpd_tower::net::PeerAddr;

    use super::*;

    #[test]
    fn addresses() {
        for text in [
            "127.0.0.1:0",
            "[::1]:25",
            "localhost:2525",
            "unix:/run/smtpd.sock",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "25",
            ":25",
            "::1:25",
            "localhost",
            "localhost:",
            "a:70000",
            "a:-1",
            "unix:",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn proxies() {
        assert!(Proxy::trusted(&[]).is_none());
        let socket = PeerAddr::Unix(None);
        for (text, on_sockets) in [("10.0.0.0/8", false), ("unix", true)] {
            let peers = Proxy::trusted(&[text.parse().unwrap()]).unwrap();
            assert_eq!(peers.contains(&socket), on_sockets, "{text}");
        }
        assert!("unix:/run/x".parse::<Proxy>().is_err());
    }

    #[test]
    fn a_certificate_has_a_name_and_two_files() {
        let text = "mx.test=/etc/a=b.pem,/etc/key.pem";
        let named: NamedCertificate = text.parse().unwrap();
        assert_eq!(named.name, "mx.test");
        assert_eq!(named.cert, PathBuf::from("/etc/a=b.pem"));
        assert_eq!(named.key, PathBuf::from("/etc/key.pem"));
        for text in [
            "",
            "mx.test",
            "mx.test=a",
            "mx.test=a,",
            "mx.test=,b",
            "=a,b",
            "a,b",
        ] {
            assert!(text.parse::<NamedCertificate>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_overlooked_adds_up() {
        let of = |list: &str| {
            let of = |one| <Lenient as ValueEnum>::from_str(one, true).unwrap();
            let list: Vec<_> = list.split(',').map(of).collect();
            Lenient::all_of(&list)
        };
        assert_eq!(of("none"), Leniency::STRICT);
        assert_eq!(of("common"), Leniency::COMMON);
        assert_eq!(
            of("stray-dots,LONG-LOCAL-PART,space-after-colon"),
            Leniency::COMMON
        );
        let all = "common,missing-brackets,underscore-in-domain,trailing-dot-in-domain";
        assert_eq!(of("all"), of(all));
        assert_ne!(of("all"), of("common"));
    }

    #[test]
    fn users_with_an_empty_name_or_password_are_refused() {
        let user: User = "alice:a:b".parse().unwrap();
        assert_eq!(user.name, "alice");
        assert!(!format!("{user:?}").contains("a:b"));
        for (text, name) in [
            (" alice\t:x", "alice"),
            ("mu\u{308}ller:x", "m\u{fc}ller"),
            ("\u{fb01}x:x", "fix"),
        ] {
            assert_eq!(text.parse::<User>().unwrap().name, name);
        }
        for text in ["al\tice:x", "al\nice:x", "\u{1}alice:x", "al\u{202e}ice:x"] {
            assert!(text.parse::<User>().is_err(), "{text:?}");
        }
        for text in ["alice", "alice:", ":secret", " :secret", ":", ""] {
            assert!(text.parse::<User>().is_err(), "{text}");
        }
    }
}
