//! The settings of a server ([`Config`]), and those of the driver that runs its sessions ([`DriverConfig`]).
//!
//! - [`Limits`] and [`Timeouts`] apply to each session.
//! - [`Protocol`] is SMTP or LMTP.
//! - [`BareNewline`] and [`NulByte`] decide about messages with a bare CR or LF, or a NUL.
//! - [`ConfigError`] is returned by [`Config::check`] if no session could work with the settings.

mod check;
mod driver;
mod prepared;
mod timeouts;

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use zeroize::Zeroizing;

use crate::{
    address::Leniency,
    extension::Extensions,
    sasl::{Mechanisms, SALT_KEY_LEN},
};

pub(crate) use self::timeouts::Times;
pub use self::{check::ConfigError, driver::DriverConfig, timeouts::Timeouts};
pub use crate::{
    framing::{BareNewline, NulByte},
    limits::Limits,
    protocol::Protocol,
};

/// The settings of a server. Only the host name is required; the defaults of all other settings are safe.
///
/// What a driver can do and whom it trusts is set apart, in a [`DriverConfig`].
///
/// ```
/// use smtpd_core::Config;
///
/// let config = Config::new("mx.example.org")
///     .app_name("gateway")
///     .max_message_size(10 << 20);
/// assert_eq!(config.hostname(), "mx.example.org");
/// assert_eq!(config.check(), Ok(()));
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) hostname: String,
    pub(crate) app_name: String,
    pub(crate) extensions: Extensions,
    pub(crate) mechanisms: Mechanisms,
    /// Whether [`Config::mechanisms`] was called.
    mechanisms_are_set: bool,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) leniency: Leniency,
    pub(crate) bare_newline: BareNewline,
    pub(crate) nul_byte: NulByte,
    require_tls: Option<bool>,
    require_auth: Option<bool>,
    pub(crate) insecure_auth: bool,
    pub(crate) strict_pipelining: bool,
    pub(crate) greeting_delay: Duration,
    pub(crate) refuse_early_talkers: bool,
    pub(crate) entropy: Option<fn(&mut [u8]) -> bool>,
    pub(crate) salt_key: SaltKey,
}

/// Shared by all clones of the settings, and made when it is first needed.
#[derive(Clone, Default)]
pub(crate) struct SaltKey(Arc<OnceLock<Zeroizing<[u8; SALT_KEY_LEN]>>>);

impl Config {
    /// The default of [`app_name`](Self::app_name).
    pub const DEFAULT_APP_NAME: &'static str = "smtpd";

    /// Creates the settings of the server with this host name, which appears in the greeting, in the reply to EHLO and in the
    /// replies with which the server closes a session.
    ///
    /// The name must be a domain or an address literal in ASCII (RFC 5321 section 4.1.2), which [`check`](Self::check) verifies.
    pub fn new(hostname: impl Into<String>) -> Self {
        Self {
            hostname: hostname.into(),
            app_name: Self::DEFAULT_APP_NAME.to_owned(),
            extensions: Extensions::default(),
            mechanisms: Mechanisms::none(),
            mechanisms_are_set: false,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            leniency: Leniency::STRICT,
            bare_newline: BareNewline::default(),
            nul_byte: NulByte::default(),
            require_tls: None,
            require_auth: None,
            insecure_auth: false,
            strict_pipelining: false,
            greeting_delay: Duration::ZERO,
            refuse_early_talkers: false,
            entropy: None,
            salt_key: SaltKey::default(),
        }
    }

    /// Sets the name of the program, which appears after the host name in the greeting and in closing replies. It must be
    /// printable ASCII, which [`check`](Self::check) verifies. Default: `smtpd`.
    #[must_use]
    pub fn app_name(mut self, name: impl Into<String>) -> Self {
        self.app_name = name.into();
        self
    }

    /// Sets the extensions. An extension that [needs another one](crate::extension::Extension::requires) is left out if the other
    /// one is not in the set: BINARYMIME, for example, needs CHUNKING. Default: those of [`Extensions::default`].
    #[must_use]
    pub fn extensions(mut self, extensions: Extensions) -> Self {
        self.extensions = extensions.complete();
        self
    }

    /// Sets the SASL mechanisms. AUTH is neither offered nor accepted if there are none. Default: none.
    ///
    /// `Server` of smtpd-tower uses [`Mechanisms::default`] if this was not called and its pipeline has an AUTH service. It uses
    /// none if the pipeline has no such service.
    #[must_use]
    pub fn mechanisms(mut self, mechanisms: Mechanisms) -> Self {
        self.mechanisms = mechanisms;
        self.mechanisms_are_set = true;
        self
    }

    /// Changes the per-session limits. Those that the function leaves alone stay as they were.
    ///
    /// ```
    /// use smtpd_core::Config;
    ///
    /// let config =
    ///     Config::new("mx.example.org").limits(|limits| limits.recipients = 1000);
    /// let config = config.limits(|limits| limits.errors = 10);
    /// let limits = config.get_limits();
    /// assert_eq!((limits.recipients, limits.errors), (1000, 10));
    /// ```
    #[must_use]
    pub fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.limits);
        self
    }

    /// Sets [`Limits::message_size`] in bytes. `None` means no limit.
    ///
    /// ```
    /// use smtpd_core::Config;
    ///
    /// let config = Config::new("mx.example.org").max_message_size(10 << 20);
    /// assert_eq!(config.get_limits().message_size, Some(10 << 20));
    /// assert_eq!(config.max_message_size(None).get_limits().message_size, None);
    /// ```
    #[must_use]
    pub fn max_message_size(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.limits.message_size = bytes.into();
        self
    }

    /// Changes the timeouts of the stages of a session. Those that the function leaves alone stay as they were.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use smtpd_core::Config;
    ///
    /// let minute = Duration::from_secs(60);
    /// let config =
    ///     Config::new("mx.example.org").timeouts(|timeouts| timeouts.call = minute);
    /// assert_eq!(config.get_timeouts().call, minute);
    /// ```
    #[must_use]
    pub fn timeouts(mut self, change: impl FnOnce(&mut Timeouts)) -> Self {
        change(&mut self.timeouts);
        self
    }

    /// Sets which malformed addresses to accept. Default: none.
    #[must_use]
    pub fn leniency(mut self, leniency: Leniency) -> Self {
        self.leniency = leniency;
        self
    }

    /// Sets what to do with messages that contain a bare CR or LF. Default: they are rejected.
    #[must_use]
    pub fn bare_newline(mut self, policy: BareNewline) -> Self {
        self.bare_newline = policy;
        self
    }

    /// Sets what to do with messages that contain a NUL byte. Default: they are rejected.
    #[must_use]
    pub fn nul_byte(mut self, policy: NulByte) -> Self {
        self.nul_byte = policy;
        self
    }

    /// Sets whether clients must use TLS. Before TLS, only EHLO, NOOP, STARTTLS and QUIT are allowed then (RFC 3207 section 4),
    /// and also HELO, LHLO and XCLIENT; AUTH is not offered. Default: `false`.
    #[must_use]
    pub fn require_tls(mut self, required: bool) -> Self {
        self.require_tls = Some(required);
        self
    }

    /// Sets whether clients must authenticate. Before AUTH, only AUTH, EHLO, HELO, NOOP, RSET, STARTTLS and QUIT are allowed then
    /// (RFC 4954 section 6), and also LHLO and XCLIENT. It has no effect without mechanisms, which [`check`](Self::check)
    /// reports. Default: `false`.
    #[must_use]
    pub fn require_auth(mut self, required: bool) -> Self {
        self.require_auth = Some(required);
        self
    }

    /// Sets whether mechanisms that send the password itself, such as PLAIN, are offered and accepted without TLS. Anyone who
    /// can watch the network then learns the passwords (RFC 4954 section 4, RFC 8314 section 4.1). Default: `false`.
    #[must_use]
    pub fn allow_insecure_auth(mut self, allowed: bool) -> Self {
        self.insecure_auth = allowed;
        self
    }

    /// Sets whether a session ends with 554 if its client sends more input right after a command that must be the last of a
    /// group, such as EHLO or DATA (RFC 2920 section 3.1). Senders of spam often do that, but so do some careless programs.
    /// Default: `false`. After STARTTLS, it always ends the session.
    #[must_use]
    pub fn strict_pipelining(mut self, strict: bool) -> Self {
        self.strict_pipelining = strict;
        self
    }

    /// Sets how long a client is watched before it is greeted, or before the service for connections is asked. A client must not
    /// send anything before the greeting (RFC 5321 section 4.3.1). If it does, the delay ends at once, and
    /// [`Connection::talked_early`](crate::Connection::talked_early) returns `true`. At a connection with TLS from its first
    /// byte, the delay comes after the handshake. Default: none.
    ///
    /// Postfix's `postscreen` waits 6 seconds. Stay well below the 5 minutes that clients wait for the greeting (RFC 5321 section
    /// 4.5.3.2.1), and use no delay where mail programs of users connect, because they wait too.
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    ///
    /// use smtpd_core::{Config, Connection, Step, bytes::BytesMut};
    ///
    /// let delay = Duration::from_secs(6);
    /// let config = Config::new("mx.example.org").greeting_delay(delay);
    /// let mut connection = Connection::new(config.into());
    /// let (now, mut input) = (Instant::now(), BytesMut::new());
    /// let Step::Read(reading) = connection.poll(now, &mut input) else { panic!() };
    /// assert_eq!(reading.until(), now + delay);
    ///
    /// input.extend_from_slice(b"EHLO client.example\r\n");
    /// let step = connection.poll(now, &mut input);
    /// assert!(matches!(step, Step::Connect(_)));
    /// drop(step);
    /// assert!(connection.talked_early());
    /// ```
    #[must_use]
    pub fn greeting_delay(mut self, delay: Duration) -> Self {
        self.greeting_delay = delay;
        self
    }

    /// Sets whether a session ends with 554 5.5.1, in place of the greeting, if its client has sent something before it. That is
    /// noticed while the service for connections works, and during the [`greeting_delay`](Self::greeting_delay). Default:
    /// `false`.
    #[must_use]
    pub fn refuse_early_talkers(mut self, refuse: bool) -> Self {
        self.refuse_early_talkers = refuse;
        self
    }

    /// Sets the source of random bytes for mechanisms that challenge the client: a function that fills a slice from a
    /// cryptographic source, or returns `false` if it cannot. Default: none, and then mechanisms that need one, such as SCRAM and
    /// CRAM-MD5, are neither offered nor accepted, which [`check`](Self::check) reports.
    ///
    /// `os_entropy`, with the feature `getrandom`, sets the source of the operating system. `Server` of smtpd-tower uses it by
    /// default.
    #[must_use]
    pub fn entropy(mut self, fill: fn(&mut [u8]) -> bool) -> Self {
        self.entropy = Some(fill);
        self
    }

    /// Sets [`entropy`](Self::entropy) to the random number generator of the operating system. Needs the feature `getrandom`.
    ///
    /// ```
    /// use smtpd_core::{
    ///     Config,
    ///     sasl::{CramMd5, Mechanisms},
    /// };
    ///
    /// let config =
    ///     Config::new("mx.example.org").mechanisms(Mechanisms::none().with(CramMd5));
    /// assert!(config.check().is_err());
    /// assert_eq!(config.os_entropy().check(), Ok(()));
    /// ```
    #[cfg(feature = "getrandom")]
    #[must_use]
    pub fn os_entropy(self) -> Self {
        self.entropy(|bytes| getrandom::fill(bytes).is_ok())
    }

    /// Sets the key from which SCRAM derives the salts of users that do not exist, so that they look like those of users that do.
    /// It must be random and secret. Default: a key from [`entropy`](Self::entropy), for the life of the process. Such salts then
    /// change at a restart and differ between servers, which tells an attacker which users do not exist; a fixed key prevents
    /// that.
    #[must_use]
    pub fn salt_key(mut self, key: [u8; SALT_KEY_LEN]) -> Self {
        self.salt_key = SaltKey(Arc::new(Zeroizing::new(key).into()));
        self
    }

    /// Returns the host name that was passed to [`new`](Self::new).
    pub fn hostname(&self) -> &str {
        &self.hostname
    }

    /// Returns what [`app_name`](Self::app_name) set, or the default.
    pub fn get_app_name(&self) -> &str {
        &self.app_name
    }

    /// Returns the per-session limits.
    pub fn get_limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns the timeouts.
    pub fn get_timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// Returns the extensions that are on.
    pub fn get_extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// Returns which malformed addresses are accepted.
    pub fn get_leniency(&self) -> Leniency {
        self.leniency
    }

    /// Returns what happens to messages with a bare CR or LF.
    pub fn get_bare_newline(&self) -> BareNewline {
        self.bare_newline
    }

    /// Returns what happens to messages with a NUL byte.
    pub fn get_nul_byte(&self) -> NulByte {
        self.nul_byte
    }

    /// Returns whether mechanisms that show the password are offered without TLS.
    pub fn is_insecure_auth_allowed(&self) -> bool {
        self.insecure_auth
    }

    /// Returns whether pipelining behind a command that must be the last of a group ends the session.
    pub fn is_pipelining_strict(&self) -> bool {
        self.strict_pipelining
    }

    /// Returns how long a client is watched before it is greeted.
    pub fn get_greeting_delay(&self) -> Duration {
        self.greeting_delay
    }

    /// Returns whether a client that sends something before the greeting is refused.
    pub fn are_early_talkers_refused(&self) -> bool {
        self.refuse_early_talkers
    }

    /// Returns what [`mechanisms`](Self::mechanisms) set, or `None` if it was not called.
    pub fn get_mechanisms(&self) -> Option<&Mechanisms> {
        self.mechanisms_are_set.then_some(&self.mechanisms)
    }

    /// Returns what [`require_tls`](Self::require_tls) set, or `None` if it was not called.
    ///
    /// ```
    /// use smtpd_core::Config;
    ///
    /// let config = Config::new("mx.example.org");
    /// assert_eq!((config.get_require_tls(), config.is_tls_required()), (None, false));
    /// assert_eq!(config.require_tls(false).get_require_tls(), Some(false));
    /// ```
    pub fn get_require_tls(&self) -> Option<bool> {
        self.require_tls
    }

    /// Returns what [`require_auth`](Self::require_auth) set, or `None` if it was not called.
    pub fn get_require_auth(&self) -> Option<bool> {
        self.require_auth
    }

    /// Returns whether mail is accepted only within TLS; see [`require_tls`](Self::require_tls).
    pub fn is_tls_required(&self) -> bool {
        self.require_tls == Some(true)
    }

    /// Returns whether mail is accepted only after AUTH; see [`require_auth`](Self::require_auth).
    pub fn is_auth_required(&self) -> bool {
        self.require_auth == Some(true)
    }

    /// Returns the text after the names of the host and the program.
    pub(crate) fn signed(&self, text: &str) -> String {
        format!("{} {} {text}", self.hostname, self.app_name)
    }
}

impl SaltKey {
    /// Returns the key, which `fill` makes if there is none yet. Returns `None` if `fill` fails.
    pub(crate) fn get_or_fill(&self, fill: fn(&mut [u8]) -> bool) -> Option<&[u8; SALT_KEY_LEN]> {
        if let Some(key) = self.0.get() {
            return Some(key);
        }
        let mut key = Zeroizing::new([0; SALT_KEY_LEN]);
        fill(&mut *key).then(|| &**self.0.get_or_init(|| key))
    }
}

impl fmt::Debug for SaltKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}
