//! Finds settings with which no session could work.

use std::{error::Error, fmt, time::Duration};

use super::{Config, DriverConfig};
use crate::{
    address::{Domain, PathOptions},
    sasl::{MechanismFactory, MechanismName},
};

/// The shortest limit on command lines (RFC 5321 section 4.5.3.1.4).
pub(super) const SHORTEST_LINE_LIMIT: usize = 512;

/// A setting with which no session could work, or which has no effect. [`Config::check`] returns it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConfigError {
    /// This host name is neither a domain nor an address literal in ASCII (RFC 5321 section 4.1.2).
    InvalidHostname(Box<str>),
    /// This name of the program is empty, or contains something other than printable ASCII.
    InvalidAppName(Box<str>),
    /// The mechanism needs random bytes, but [`Config::entropy`] is not set, so it would be neither offered nor accepted.
    NoEntropy(MechanismName),
    /// Authentication is required, but there is no mechanism for it, so mail would be accepted without it.
    NoMechanism,
    /// Authentication is required, but all mechanisms need TLS, which cannot be started.
    NoUsableMechanism,
    /// TLS is required, but cannot be started.
    NoStartTls,
    /// [`Limits::command_line`](crate::Limits::command_line) is less than 512 bytes, which every server must accept (RFC 5321
    /// section 4.5.3.1.4).
    ShortLines,
    /// The limit with this name is 0, so no message could be sent.
    ZeroLimit(&'static str),
    /// The timeout with this name is 0, so it would always have expired. For no timeout, use [`Duration::MAX`].
    ZeroTimeout(&'static str),
}

impl Config {
    /// Checks for settings with which no session could work, or which have no effect. Call it when a server starts: sessions do
    /// not report such settings, they only do not offer what cannot be used.
    ///
    /// `Server` of smtpd-tower calls it for each listener, and does not serve the listener if there is an error.
    ///
    /// ```
    /// use smtpd_core::{
    ///     Config,
    ///     config::ConfigError,
    ///     sasl::{CramMd5, Mechanisms},
    /// };
    ///
    /// let config =
    ///     Config::new("mx.example.org").mechanisms(Mechanisms::none().with(CramMd5));
    /// let Err(error @ ConfigError::NoEntropy(_)) = config.check() else { panic!() };
    /// assert_eq!(
    ///     error.to_string(),
    ///     "CRAM-MD5 needs random bytes, but no entropy is set"
    /// );
    ///
    /// let error = Config::new("mail server").check().unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     r#"the host name "mail server" is neither a domain nor an address literal"#
    /// );
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the first such setting. It is wrong for sessions that begin in plaintext and for those that begin with TLS;
    /// [`DriverConfig::check_plaintext`] also finds what is wrong only for the former.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_names()?;
        if self.limits.command_line < SHORTEST_LINE_LIMIT {
            return Err(ConfigError::ShortLines);
        }
        self.check_mechanisms()?;
        self.check_limits()?;
        self.check_timeouts()
    }

    fn check_names(&self) -> Result<(), ConfigError> {
        if Domain::parse(self.hostname.as_bytes(), PathOptions::default()).is_err() {
            return Err(ConfigError::InvalidHostname(self.hostname.as_str().into()));
        }
        // RFC 5321 section 4.2: the text of a reply.
        let is_text = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
        if self.app_name.is_empty() || !self.app_name.bytes().all(is_text) {
            return Err(ConfigError::InvalidAppName(self.app_name.as_str().into()));
        }
        Ok(())
    }

    fn check_mechanisms(&self) -> Result<(), ConfigError> {
        if self.is_auth_required() && self.mechanisms.is_empty() {
            return Err(ConfigError::NoMechanism);
        }
        let mut with_entropy = self.mechanisms.iter().filter(|one| one.needs_entropy());
        match with_entropy.next() {
            Some(one) if self.entropy.is_none() => Err(ConfigError::NoEntropy(one.name())),
            _ => Ok(()),
        }
    }

    fn works_in_plaintext(&self, factory: &dyn MechanismFactory) -> bool {
        let needs_tls = factory.needs_channel_binding() || factory.needs_client_certificate();
        !needs_tls && (self.insecure_auth || !factory.is_plaintext())
    }

    fn check_limits(&self) -> Result<(), ConfigError> {
        let limits = &self.limits;
        let zero = [
            ("message_size", limits.message_size == Some(0)),
            ("header_section", limits.header_section == 0),
            ("header_lines", limits.header_lines == 0),
            ("recipients", limits.recipients == 0),
            ("recipient_domains", limits.recipient_domains == Some(0)),
            ("errors", limits.errors == 0),
            ("prompt_refusals", limits.prompt_refusals == 0),
            ("rejected_recipients", limits.rejected_recipients == 0),
            ("deferred_recipients", limits.deferred_recipients == 0),
            ("auth_failures", limits.auth_failures == 0),
            ("idle_commands", limits.idle_commands == 0),
            ("after_refusal", limits.after_refusal == 0),
            ("messages", limits.messages == 0),
            ("session_bytes", limits.session_bytes == Some(0)),
            ("min_rate", self.timeouts.min_rate == 0),
        ];
        match zero.into_iter().find(|(_, is_zero)| *is_zero) {
            Some((name, _)) => Err(ConfigError::ZeroLimit(name)),
            None => Ok(()),
        }
    }

    fn check_timeouts(&self) -> Result<(), ConfigError> {
        let timeouts = &self.timeouts;
        let all = [
            ("command", timeouts.command),
            ("line", timeouts.line),
            ("data", timeouts.data),
            ("transfer", timeouts.transfer),
            ("handshake", timeouts.handshake),
            ("write", timeouts.write),
            ("session", timeouts.session),
            ("without_message", timeouts.without_message),
            ("without_login", timeouts.without_login),
            ("after_refusal", timeouts.after_refusal),
            ("ready", timeouts.ready),
            ("call", timeouts.call),
            ("data_start", timeouts.data_start),
            ("delivery", timeouts.delivery),
        ];
        match all.into_iter().find(|(_, limit)| *limit == Duration::ZERO) {
            Some((name, _)) => Err(ConfigError::ZeroTimeout(name)),
            None => Ok(()),
        }
    }
}

impl DriverConfig {
    /// Checks the settings like [`Config::check`], for sessions that begin in plaintext: those of
    /// [`Connection::new`](crate::Connection::new).
    ///
    /// ```
    /// use smtpd_core::{
    ///     Config,
    ///     config::{ConfigError, DriverConfig},
    /// };
    ///
    /// let config = Config::new("mx.example.org").require_tls(true);
    /// assert_eq!(config.check(), Ok(()), "it works for sessions that begin with TLS");
    /// let config = DriverConfig::new(config);
    /// assert_eq!(config.check_plaintext(), Err(ConfigError::NoStartTls));
    /// assert_eq!(config.starttls(true).check_plaintext(), Ok(()));
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error of `check`. If TLS cannot be started, it returns [`NoStartTls`](ConfigError::NoStartTls) if TLS is
    /// required, and [`NoUsableMechanism`](ConfigError::NoUsableMechanism) if authentication is required and all mechanisms need
    /// TLS.
    pub fn check_plaintext(&self) -> Result<(), ConfigError> {
        let config = &self.settings;
        config.check()?;
        if self.starttls {
            return Ok(());
        }
        if config.is_tls_required() {
            return Err(ConfigError::NoStartTls);
        }
        let mut mechanisms = config.mechanisms.iter();
        if config.is_auth_required() && !mechanisms.any(|one| config.works_in_plaintext(one)) {
            return Err(ConfigError::NoUsableMechanism);
        }
        Ok(())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidHostname(name) => write!(
                f,
                "the host name {name:?} is neither a domain nor an address literal"
            ),
            Self::InvalidAppName(name) => {
                write!(f, "the app name {name:?} is not printable ASCII")
            }
            Self::NoEntropy(name) => write!(f, "{name} needs random bytes, but no entropy is set"),
            Self::NoMechanism => {
                f.write_str("authentication is required, but there is no mechanism for it")
            }
            Self::NoUsableMechanism => f.write_str(
                "authentication is required, but all mechanisms need TLS, which is not offered",
            ),
            Self::NoStartTls => f.write_str("TLS is required, but STARTTLS is not offered"),
            Self::ShortLines => write!(
                f,
                "the limit on command lines is less than {SHORTEST_LINE_LIMIT} bytes"
            ),
            Self::ZeroLimit(name) => write!(f, "the limit {name} is 0"),
            Self::ZeroTimeout(name) => write!(f, "the timeout {name} is 0"),
        }
    }
}

impl Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::super::Timeouts;
    use super::*;
    use crate::{
        limits::Limits,
        sasl::{Anonymous, CramMd5, External, Mechanisms, OAuthBearer},
    };

    fn config() -> Config {
        Config::new("mx.example.org")
    }

    fn with_auth(mechanisms: Mechanisms) -> Config {
        config().mechanisms(mechanisms).require_auth(true)
    }

    fn plain(config: Config) -> DriverConfig {
        DriverConfig::new(config)
    }

    const fn fill(_: &mut [u8]) -> bool {
        true
    }

    #[test]
    fn a_server_whose_clients_can_never_send_says_nothing() {
        let challenge = || Mechanisms::none().with(CramMd5);
        let name = CramMd5.name();
        let plaintext = [
            (config(), Ok(())),
            (config().mechanisms(Mechanisms::default()), Ok(())),
            (config().require_auth(true), Err(ConfigError::NoMechanism)),
            (
                config().mechanisms(challenge()),
                Err(ConfigError::NoEntropy(name)),
            ),
            (with_auth(challenge()), Err(ConfigError::NoEntropy(name))),
            (with_auth(challenge()).entropy(fill), Ok(())),
            (with_auth(Mechanisms::none().with(Anonymous)), Ok(())),
            (config().require_tls(true), Err(ConfigError::NoStartTls)),
        ];
        for (number, (config, expected)) in plaintext.into_iter().enumerate() {
            assert_eq!(plain(config).check_plaintext(), expected, "{number}");
        }
        let tls = plain(config().require_tls(true)).starttls(true);
        assert_eq!(tls.check_plaintext(), Ok(()));
    }

    #[test]
    fn a_name_that_no_reply_can_show_is_changed_silently() {
        let invalid = [
            "",
            "mail server",
            "mx.example.org\r\n250 X",
            "my_host",
            "dot.",
            "[192.0.2.256]",
            "gr\u{e5}.example",
        ];
        for name in invalid {
            let error = Config::new(name).check().unwrap_err();
            assert_eq!(error, ConfigError::InvalidHostname(name.into()));
            assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
        }
        for name in ["localhost", "MX.example.org", "[192.0.2.1]", "[IPv6:::1]"] {
            assert_eq!(Config::new(name).check(), Ok(()), "{name}");
        }
        for name in ["", "a\tb", "smtpd\r\n250 X", "caf\u{e9}"] {
            let error = config().app_name(name).check().unwrap_err();
            assert_eq!(error, ConfigError::InvalidAppName(name.into()));
            assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
        }
        assert_eq!(config().app_name("Mail Server (1.0)").check(), Ok(()));
    }

    #[test]
    fn a_server_whose_mechanisms_need_tls_that_is_not_there_says_nothing() {
        for mechanisms in [
            Mechanisms::default(),
            Mechanisms::none().with(OAuthBearer::new()),
            Mechanisms::none().with(External),
        ] {
            let config = with_auth(mechanisms);
            assert_eq!(config.check(), Ok(()), "TLS may come first");
            let config = plain(config);
            let plaintext = config.check_plaintext();
            assert_eq!(plaintext, Err(ConfigError::NoUsableMechanism));
            assert_eq!(config.starttls(true).check_plaintext(), Ok(()));
        }
        let insecure = with_auth(Mechanisms::default()).allow_insecure_auth(true);
        assert_eq!(plain(insecure).check_plaintext(), Ok(()));
        let external = with_auth(Mechanisms::none().with(External)).allow_insecure_auth(true);
        let plaintext = plain(external).check_plaintext();
        assert_eq!(plaintext, Err(ConfigError::NoUsableMechanism));
    }

    #[test]
    #[cfg(feature = "scram")]
    fn channel_binding_without_tls_says_nothing() {
        let plus = crate::sasl::Scram::sha256().plus();
        let config = with_auth(Mechanisms::none().with(plus)).entropy(fill);
        let plaintext = plain(config).check_plaintext();
        assert_eq!(plaintext, Err(ConfigError::NoUsableMechanism));
        let config = with_auth(Mechanisms::none().with(crate::sasl::Scram::sha256()));
        assert_eq!(plain(config.entropy(fill)).check_plaintext(), Ok(()));
    }

    #[test]
    fn a_limit_of_nothing_is_no_limit() {
        type Set = fn(&mut Limits);
        let limits: [(&str, Set); 10] = [
            ("message_size", |limits| limits.message_size = Some(0)),
            ("header_section", |limits| limits.header_section = 0),
            ("header_lines", |limits| limits.header_lines = 0),
            ("session_bytes", |limits| limits.session_bytes = Some(0)),
            ("recipients", |limits| limits.recipients = 0),
            ("recipient_domains", |limits| {
                limits.recipient_domains = Some(0)
            }),
            ("errors", |limits| limits.errors = 0),
            ("auth_failures", |limits| limits.auth_failures = 0),
            ("idle_commands", |limits| limits.idle_commands = 0),
            ("messages", |limits| limits.messages = 0),
        ];
        for (name, set) in limits {
            let error = config().limits(set).check();
            assert_eq!(error, Err(ConfigError::ZeroLimit(name)));
        }
        let error = config().timeouts(|timeouts| timeouts.min_rate = 0).check();
        assert_eq!(error, Err(ConfigError::ZeroLimit("min_rate")));
        assert_eq!(config().max_message_size(None).check(), Ok(()));
        let short = config().limits(|limits| limits.command_line = 511);
        assert_eq!(short.check(), Err(ConfigError::ShortLines));
    }

    #[test]
    fn a_timeout_of_nothing_is_no_timeout() {
        let none = Timeouts::default().inactivity(Duration::ZERO);
        let error = config().timeouts(|timeouts| *timeouts = none).check();
        assert_eq!(error, Err(ConfigError::ZeroTimeout("command")));
        let none = config().timeouts(|timeouts| timeouts.delivery = Duration::ZERO);
        let error = none.check();
        assert_eq!(error, Err(ConfigError::ZeroTimeout("delivery")));
        // The last reply may go unsent.
        let timeouts = Timeouts {
            linger: Duration::ZERO,
            ..Timeouts::default().inactivity(Duration::MAX)
        };
        assert_eq!(config().timeouts(|own| *own = timeouts).check(), Ok(()));
    }
}
