//! Finds settings of a [`Config`] with which no session could work.

use std::{error::Error, fmt, time::Duration};

use super::Config;
use crate::sasl::{MechanismFactory, MechanismName};

/// The shortest limit on command lines (RFC 5321 section 4.5.3.1.4).
pub(super) const SHORTEST_LINE_LIMIT: usize = 512;

/// A setting that makes a server useless, or has no effect. [`Config::check`] returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConfigError {
    /// The host name is empty.
    NoHostname,
    /// The mechanism needs random bytes, but [`Config::entropy`] is not set, so it would be neither offered nor accepted.
    NoEntropy(MechanismName),
    /// Authentication is required, but no mechanism is on, so mail would be accepted without it.
    NoMechanism,
    /// Authentication is required, but no mechanism can be used without TLS, and TLS cannot be started.
    NoUsableMechanism,
    /// TLS is required, but cannot be started.
    NoStartTls,
    /// A command line may be shorter than 512 bytes, which every server has to accept (RFC 5321 section 4.5.3.1.4).
    ShortLines,
    /// The limit of that name is 0, so no message could be sent.
    ZeroLimit(&'static str),
    /// The timeout of that name is 0, so it would always have passed. For no limit, use [`Duration::MAX`].
    ZeroTimeout(&'static str),
}

impl Config {
    /// Looks for settings with which no session could work, or which have no effect. A server calls this when it starts,
    /// because sessions do not tell: what cannot be used is not offered.
    ///
    /// ```
    /// use smtpd_core::{Config, ConfigError, sasl::{CramMd5, Mechanisms}};
    ///
    /// let config = Config::new("mx.example.org").mechanisms(Mechanisms::none().with(CramMd5));
    /// let Err(error @ ConfigError::NoEntropy(_)) = config.check() else { panic!() };
    /// assert_eq!(error.to_string(), "CRAM-MD5 needs random bytes, but no entropy is set");
    /// ```
    ///
    /// # Errors
    ///
    /// The first such setting. It is wrong both for sessions that begin in plaintext and for those over TLS;
    /// [`check_plaintext`](Self::check_plaintext) finds what is wrong for the former alone.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.hostname.is_empty() {
            return Err(ConfigError::NoHostname);
        }
        if self.limits.command_line < SHORTEST_LINE_LIMIT {
            return Err(ConfigError::ShortLines);
        }
        self.check_mechanisms()?;
        self.check_limits()?;
        self.check_timeouts()
    }

    /// Like [`check`](Self::check), for sessions that begin in plaintext: those of [`Connection::new`](crate::Connection::new).
    ///
    /// ```
    /// use smtpd_core::{Config, ConfigError};
    ///
    /// let config = Config::new("mx.example.org").require_tls(true);
    /// assert_eq!(config.check(), Ok(()), "it is fine where TLS comes first");
    /// assert_eq!(config.check_plaintext(), Err(ConfigError::NoStartTls));
    /// assert_eq!(config.starttls(true).check_plaintext(), Ok(()));
    /// ```
    ///
    /// # Errors
    ///
    /// Those of `check`; and if TLS cannot be started, [`NoStartTls`](ConfigError::NoStartTls) where it is required, and
    /// [`NoUsableMechanism`](ConfigError::NoUsableMechanism) where authentication is required and needs it.
    pub fn check_plaintext(&self) -> Result<(), ConfigError> {
        self.check()?;
        if self.starttls {
            return Ok(());
        }
        if self.require_tls {
            return Err(ConfigError::NoStartTls);
        }
        if self.require_auth
            && !self
                .mechanisms
                .iter()
                .any(|one| self.works_in_plaintext(one))
        {
            return Err(ConfigError::NoUsableMechanism);
        }
        Ok(())
    }

    fn check_mechanisms(&self) -> Result<(), ConfigError> {
        if self.require_auth && self.mechanisms.is_empty() {
            return Err(ConfigError::NoMechanism);
        }
        let mut deprived = self.mechanisms.iter().filter(|one| one.needs_entropy());
        match deprived.next() {
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
            ("recipients", limits.recipients == 0),
            ("recipient_domains", limits.recipient_domains == Some(0)),
            ("idle_commands", limits.idle_commands == 0),
            ("messages", limits.messages == 0),
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

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHostname => f.write_str("the host name is empty"),
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

    const fn fill(_: &mut [u8]) -> bool {
        true
    }

    #[test]
    fn a_server_whose_clients_can_never_send_says_nothing() {
        let challenge = || Mechanisms::none().with(CramMd5);
        let (name, ok) = (CramMd5.name(), Ok(()));
        let plaintext = [
            (config(), ok),
            (config().mechanisms(Mechanisms::default()), ok),
            (Config::new(""), Err(ConfigError::NoHostname)),
            (config().require_auth(true), Err(ConfigError::NoMechanism)),
            (
                config().mechanisms(challenge()),
                Err(ConfigError::NoEntropy(name)),
            ),
            (with_auth(challenge()), Err(ConfigError::NoEntropy(name))),
            (with_auth(challenge()).entropy(fill), ok),
            (with_auth(Mechanisms::none().with(Anonymous)), ok),
            (config().require_tls(true), Err(ConfigError::NoStartTls)),
            (config().require_tls(true).starttls(true), ok),
        ];
        for (number, (config, expected)) in plaintext.into_iter().enumerate() {
            assert_eq!(config.check_plaintext(), expected, "{number}");
        }
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
            let plaintext = config.check_plaintext();
            assert_eq!(plaintext, Err(ConfigError::NoUsableMechanism));
            assert_eq!(config.starttls(true).check_plaintext(), Ok(()));
        }
        let insecure = with_auth(Mechanisms::default()).allow_insecure_auth(true);
        assert_eq!(insecure.check_plaintext(), Ok(()));
        let external = with_auth(Mechanisms::none().with(External)).allow_insecure_auth(true);
        let plaintext = external.check_plaintext();
        assert_eq!(plaintext, Err(ConfigError::NoUsableMechanism));
    }

    #[test]
    #[cfg(feature = "scram")]
    fn channel_binding_without_tls_says_nothing() {
        let plus = crate::sasl::Scram::sha256().plus();
        let config = with_auth(Mechanisms::none().with(plus)).entropy(fill);
        let plaintext = config.check_plaintext();
        assert_eq!(plaintext, Err(ConfigError::NoUsableMechanism));
        let config = with_auth(Mechanisms::none().with(crate::sasl::Scram::sha256()));
        assert_eq!(config.entropy(fill).check_plaintext(), Ok(()));
    }

    #[test]
    fn a_limit_of_nothing_is_no_limit() {
        type Set = fn(&mut Limits);
        let limits: [(&str, Set); 5] = [
            ("message_size", |limits| limits.message_size = Some(0)),
            ("recipients", |limits| limits.recipients = 0),
            ("recipient_domains", |limits| {
                limits.recipient_domains = Some(0)
            }),
            ("idle_commands", |limits| limits.idle_commands = 0),
            ("messages", |limits| limits.messages = 0),
        ];
        for (name, set) in limits {
            let mut limits = Limits::default();
            set(&mut limits);
            let error = config().limits(limits).check();
            assert_eq!(error, Err(ConfigError::ZeroLimit(name)));
        }
        assert_eq!(config().max_message_size(0).check(), Ok(()));
        let limits = Limits {
            command_line: 511,
            ..Limits::default()
        };
        assert_eq!(
            config().limits(limits).check(),
            Err(ConfigError::ShortLines)
        );
    }

    #[test]
    fn a_timeout_of_nothing_is_no_timeout() {
        let none = Timeouts::default().inactivity(Duration::ZERO);
        let error = config().timeouts(none).check();
        assert_eq!(error, Err(ConfigError::ZeroTimeout("command")));
        let timeouts = Timeouts {
            delivery: Duration::ZERO,
            ..Timeouts::default()
        };
        let error = config().timeouts(timeouts).check();
        assert_eq!(error, Err(ConfigError::ZeroTimeout("delivery")));
        // The last reply may go unsent.
        let timeouts = Timeouts {
            linger: Duration::ZERO,
            ..Timeouts::default().inactivity(Duration::MAX)
        };
        assert_eq!(config().timeouts(timeouts).check(), Ok(()));
    }
}
