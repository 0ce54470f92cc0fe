//! The settings of a server: [`Config`], which its sessions share.
//!
//! - [`Limits`] are how much of everything a session may have, [`Timeouts`] how long each stage of it may take.
//! - [`Protocol`] is SMTP or LMTP.
//! - [`BareNewline`] and [`NulByte`] are what happens to messages with a bare CR or LF, or a NUL.
//! - [`ConfigError`] is what [`Config::check`] finds: settings with which no session could work.

mod check;
mod prepared;
mod timeouts;

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use zeroize::Zeroizing;

use self::prepared::Prepared;
use crate::{
    address::Leniency,
    extension::{Extensions, SessionFacts},
    sasl::{Mechanisms, SALT_KEY_LEN},
};

pub(crate) use self::timeouts::Times;
pub use self::{check::ConfigError, timeouts::Timeouts};
pub use crate::{
    framing::{BareNewline, NulByte},
    limits::Limits,
    protocol::Protocol,
};

/// The configuration of a server. Only the host name must be given; what is not set is safe.
///
/// ```
/// use smtpd_core::{Config, Extensions};
///
/// let config = Config::new("mx.example.org").app_name("gateway").max_message_size(10 << 20);
/// assert_eq!(config.hostname(), "mx.example.org");
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) hostname: String,
    pub(crate) app_name: String,
    pub(crate) protocol: Protocol,
    pub(crate) extensions: Extensions,
    pub(crate) mechanisms: Mechanisms,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) leniency: Leniency,
    pub(crate) bare_newline: BareNewline,
    pub(crate) nul_byte: NulByte,
    pub(crate) starttls: bool,
    pub(crate) require_tls: bool,
    pub(crate) require_auth: bool,
    pub(crate) insecure_auth: bool,
    pub(crate) strict_pipelining: bool,
    pub(crate) custom_commands: bool,
    pub(crate) xclient: bool,
    pub(crate) xforward: bool,
    pub(crate) log_wire: bool,
    pub(crate) entropy: Option<fn(&mut [u8]) -> bool>,
    pub(crate) salt_key: SaltKey,
    /// Computed from the rest after each change.
    pub(crate) prepared: Prepared,
}

/// Shared by all clones of a configuration, and made when it is first needed.
#[derive(Clone, Default)]
pub(crate) struct SaltKey(Arc<OnceLock<Zeroizing<[u8; SALT_KEY_LEN]>>>);

impl Config {
    /// The name of the program, where no other is set.
    pub const DEFAULT_APP_NAME: &'static str = "smtpd";

    /// A configuration for the host of that name, which the greeting, EHLO's answer and closing replies show.
    ///
    /// Control characters and blanks in the name become hyphens.
    pub fn new(hostname: impl Into<String>) -> Self {
        Self {
            hostname: word(hostname.into()),
            app_name: Self::DEFAULT_APP_NAME.to_owned(),
            protocol: Protocol::Smtp,
            extensions: Extensions::default(),
            mechanisms: Mechanisms::none(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            leniency: Leniency::STRICT,
            bare_newline: BareNewline::default(),
            nul_byte: NulByte::default(),
            starttls: false,
            require_tls: false,
            require_auth: false,
            insecure_auth: false,
            strict_pipelining: false,
            custom_commands: false,
            xclient: false,
            xforward: false,
            log_wire: false,
            entropy: None,
            salt_key: SaltKey::default(),
            prepared: Prepared::default(),
        }
        .changed()
    }

    /// The name of the program, shown beside the host's. `smtpd` by default.
    #[must_use]
    pub fn app_name(mut self, name: impl Into<String>) -> Self {
        self.app_name = word(name.into());
        self.changed()
    }

    /// SMTP or LMTP. `Server` of smtpd-tower sets it by itself, for each listener.
    #[must_use]
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self.changed()
    }

    /// The extensions that are on, except those that [need another one](crate::extension::Extension::requires) which is off: without CHUNKING
    /// there is no BINARYMIME either.
    #[must_use]
    pub fn extensions(mut self, extensions: Extensions) -> Self {
        self.extensions = extensions.complete();
        self.changed()
    }

    /// The SASL mechanisms that are on, in place of those that were. None by default, and AUTH is then neither offered nor
    /// taken; `Server` of smtpd-tower begins with [`Mechanisms::default`] instead where its pipeline has an AUTH service.
    #[must_use]
    pub fn mechanisms(mut self, mechanisms: Mechanisms) -> Self {
        self.mechanisms = mechanisms;
        self.changed()
    }

    /// How much of everything a session may have.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self.changed()
    }

    /// Octets of a message at most; 0 for no limit.
    #[must_use]
    pub fn max_message_size(mut self, octets: u64) -> Self {
        self.limits.message_size = (octets > 0).then_some(octets);
        self.changed()
    }

    /// How long a session may take over what.
    #[must_use]
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self.changed()
    }

    /// What malformed addresses are taken all the same; none by default.
    #[must_use]
    pub fn leniency(mut self, leniency: Leniency) -> Self {
        self.leniency = leniency;
        self.changed()
    }

    /// What to do with messages that hold a bare CR or LF; refuse them by default.
    #[must_use]
    pub fn bare_newline(mut self, policy: BareNewline) -> Self {
        self.bare_newline = policy;
        self
    }

    /// Sets what to do with messages that hold a NUL byte. By default they are rejected.
    #[must_use]
    pub fn nul_byte(mut self, policy: NulByte) -> Self {
        self.nul_byte = policy;
        self
    }

    /// Whether the caller can upgrade a connection to TLS, so that STARTTLS is offered (RFC 3207).
    /// `Server` of smtpd-tower sets it by itself, where it has a certificate.
    #[must_use]
    pub fn starttls(mut self, available: bool) -> Self {
        self.starttls = available;
        self.changed()
    }

    /// Before TLS, allow only EHLO, HELO, NOOP, STARTTLS and QUIT (RFC 3207 section 4), and XCLIENT where it is on.
    /// AUTH, which is not allowed then, is not offered either.
    #[must_use]
    pub fn require_tls(mut self, required: bool) -> Self {
        self.require_tls = required;
        self.changed()
    }

    /// Before AUTH, allow only AUTH, EHLO, HELO, NOOP, RSET, STARTTLS and QUIT (RFC 4954 section 6). It has no effect
    /// while no mechanism is on, which [`check`](Self::check) reports.
    #[must_use]
    pub fn require_auth(mut self, required: bool) -> Self {
        self.require_auth = required;
        self
    }

    /// Offer and take mechanisms that show the password, such as PLAIN, also without TLS. Whoever can watch the network
    /// then learns the passwords (RFC 4954 section 4, RFC 8314 section 4.1).
    #[must_use]
    pub fn allow_insecure_auth(mut self, allowed: bool) -> Self {
        self.insecure_auth = allowed;
        self.changed()
    }

    /// End a session whose client sends commands, or a message, behind a command that must be the last of a group, such as
    /// EHLO or DATA (RFC 2920 section 3.1). Senders of junk do that often, some careless programs too; off by default.
    /// Behind STARTTLS it is never allowed.
    #[must_use]
    pub fn strict_pipelining(mut self, strict: bool) -> Self {
        self.strict_pipelining = strict;
        self
    }

    /// Ask the caller, by [`Step::Command`](crate::Step::Command), about VRFY, EXPN, HELP, ETRN and every verb that the connection does not know;
    /// off by default, so that it answers them by itself. `Server` of smtpd-tower sets it by itself, where its pipeline has a
    /// service for commands.
    #[must_use]
    pub fn custom_commands(mut self, on: bool) -> Self {
        self.custom_commands = on;
        self
    }

    /// Whether there is a command XCLIENT, by which a proxy says who its client is. Nobody may use it but the peers for
    /// which [`Connection::allow_xclient`](crate::Connection::allow_xclient) is called; others receive 550 5.7.0. `Server` of
    /// smtpd-tower sets it by itself, where it is told whom to trust.
    #[must_use]
    pub fn xclient(mut self, on: bool) -> Self {
        self.xclient = on;
        self
    }

    /// Whether there is a command XFORWARD, by which a proxy says where its messages come from, for the peers for which
    /// [`Connection::allow_xforward`](crate::Connection::allow_xforward) is called. `Server` of smtpd-tower sets it by itself,
    /// where it is told whom to trust.
    #[must_use]
    pub fn xforward(mut self, on: bool) -> Self {
        self.xforward = on;
        self
    }

    /// Hand out every line of the session as a [`Step::Line`](crate::Step::Line), before anything that follows it. Off by
    /// default. `Server` of smtpd-tower turns it on where a hook wants the lines.
    #[must_use]
    pub fn log_wire(mut self, on: bool) -> Self {
        self.log_wire = on;
        self
    }

    /// Sets where mechanisms that challenge the client take random bytes from: a function that fills a slice from a
    /// cryptographic source, or returns `false` if it cannot. None by default, and mechanisms that need one, such as SCRAM and
    /// CRAM-MD5, are then neither offered nor accepted, which [`check`](Self::check) reports. `Server` of smtpd-tower begins with
    /// the source of the operating system, and so does `os_entropy`, which the feature `getrandom` adds.
    #[must_use]
    pub fn entropy(mut self, fill: fn(&mut [u8]) -> bool) -> Self {
        self.entropy = Some(fill);
        self.changed()
    }

    /// Sets [`entropy`](Self::entropy) to the random number generator of the operating system. Needs the feature `getrandom`.
    ///
    /// ```
    /// use smtpd_core::{Config, sasl::{CramMd5, Mechanisms}};
    ///
    /// let config = Config::new("mx.example.org").mechanisms(Mechanisms::none().with(CramMd5));
    /// assert!(config.check().is_err());
    /// assert_eq!(config.os_entropy().check(), Ok(()));
    /// ```
    #[cfg(feature = "getrandom")]
    #[must_use]
    pub fn os_entropy(self) -> Self {
        self.entropy(|bytes| getrandom::fill(bytes).is_ok())
    }

    /// The key from which SCRAM makes salts for users that do not exist, so that they look like those of users that do. It has
    /// to be random and secret. By default [`entropy`](Self::entropy) gives one for the life of the process. Then someone who
    /// tries names before and after a restart, or on two servers, sees such salts change. The same key prevents that.
    #[must_use]
    pub fn salt_key(mut self, key: [u8; SALT_KEY_LEN]) -> Self {
        self.salt_key = SaltKey(Arc::new(Zeroizing::new(key).into()));
        self
    }

    /// The host's name.
    pub fn hostname(&self) -> &str {
        &self.hostname
    }

    /// The program's name.
    pub fn program(&self) -> &str {
        &self.app_name
    }

    /// The limits in force.
    pub fn limits_ref(&self) -> &Limits {
        &self.limits
    }

    /// The time limits in force.
    pub fn timeouts_ref(&self) -> &Timeouts {
        &self.timeouts
    }

    /// The SASL mechanisms that are on.
    pub fn mechanisms_ref(&self) -> &Mechanisms {
        &self.mechanisms
    }

    /// Whether mail is taken within TLS alone; see [`require_tls`](Self::require_tls).
    pub fn is_tls_required(&self) -> bool {
        self.require_tls
    }

    /// Whether mail is taken after AUTH alone; see [`require_auth`](Self::require_auth).
    pub fn is_auth_required(&self) -> bool {
        self.require_auth
    }

    /// A text behind the names of the host and the program.
    pub(crate) fn signed(&self, text: &str) -> String {
        format!("{} {} {text}", self.hostname, self.app_name)
    }

    fn changed(mut self) -> Self {
        self.prepared = Prepared::of(&self);
        self
    }
}

impl<'a> SessionFacts<'a> {
    /// A session in plaintext, of a client that has not authenticated.
    pub const fn new(config: &'a Config) -> Self {
        Self::of(config.protocol, &config.limits)
    }
}

impl SaltKey {
    /// The key, made by `fill` if there was none. `None` if it could not be made.
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

fn word(name: String) -> String {
    name.chars()
        .map(|c| {
            if c.is_control() || c.is_whitespace() {
                '-'
            } else {
                c
            }
        })
        .collect()
}
