//! The settings that belong to a driver.

use std::sync::Arc;

use super::{Config, Protocol, prepared::Prepared};
use crate::extension::SessionFacts;

/// What the sessions of a listener share: the [`Config`], and what their driver can do and whom it trusts.
///
/// Only the author of a driver, such as a server of its own kind around [`Connection`](crate::connection::Connection), needs
/// these settings. `Server` of smtpd-tower chooses them itself, from its pipeline, its TLS configuration and the profile of each
/// listener.
///
/// ```
/// use std::sync::Arc;
///
/// use smtpd_core::{Config, Connection, Protocol, config::DriverConfig};
///
/// let config = Config::new("mx.example.org").max_message_size(10 << 20);
/// let config = Arc::new(DriverConfig::new(config).protocol(Protocol::Lmtp));
/// let connection = Connection::new(config.clone());
/// assert_eq!(connection.config().get_config().hostname(), "mx.example.org");
/// ```
#[derive(Clone, Debug)]
pub struct DriverConfig {
    pub(crate) settings: Config,
    pub(crate) protocol: Protocol,
    pub(crate) starttls: bool,
    pub(crate) custom_commands: bool,
    pub(crate) xclient: bool,
    pub(crate) xforward: bool,
    pub(crate) log_wire: bool,
    pub(crate) report_replies: bool,
    pub(crate) prepared: Prepared,
}

impl DriverConfig {
    /// Creates the settings of an SMTP listener whose driver can neither start TLS nor execute commands, and trusts nobody.
    pub fn new(config: Config) -> Self {
        Self {
            prepared: Prepared::of(&config),
            settings: config,
            protocol: Protocol::Smtp,
            starttls: false,
            custom_commands: false,
            xclient: false,
            xforward: false,
            log_wire: false,
            report_replies: false,
        }
    }

    /// Sets the protocol. Default: [`Protocol::Smtp`].
    #[must_use]
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self.changed()
    }

    /// Sets whether the driver can encrypt a connection. STARTTLS is offered then (RFC 3207), and
    /// [`Step::StartTls`](crate::Step::StartTls) and [`Step::Handshake`](crate::Step::Handshake) are returned for it. Default:
    /// `false`.
    #[must_use]
    pub fn starttls(mut self, available: bool) -> Self {
        self.starttls = available;
        self.changed()
    }

    /// Sets whether the driver answers VRFY, EXPN, HELP, ETRN and all verbs that the session does not know, which are then
    /// returned as [`Step::Command`](crate::Step::Command). Otherwise, the session answers them itself. AUTH is never among them:
    /// its argument may be a password. Default: `false`.
    #[must_use]
    pub fn custom_commands(mut self, on: bool) -> Self {
        self.custom_commands = on;
        self
    }

    /// Sets whether the command XCLIENT exists, with which a proxy names its client. Only peers for which
    /// [`Connection::allow_xclient`](crate::Connection::allow_xclient) was called may use it; others receive 550 5.7.0. Default:
    /// `false`.
    #[must_use]
    pub fn xclient(mut self, on: bool) -> Self {
        self.xclient = on;
        self
    }

    /// Sets whether the command XFORWARD exists, with which a proxy names the origin of its messages. Only peers for which
    /// [`Connection::allow_xforward`](crate::Connection::allow_xforward) was called may use it; others receive 550 5.7.0.
    /// Default: `false`.
    #[must_use]
    pub fn xforward(mut self, on: bool) -> Self {
        self.xforward = on;
        self
    }

    /// Sets whether every line of a session is returned as a [`Step::Line`](crate::Step::Line), before all that follows from it.
    /// Default: `false`.
    #[must_use]
    pub fn log_wire(mut self, on: bool) -> Self {
        self.log_wire = on;
        self
    }

    /// Sets whether every reply that refuses is returned as a [`Step::Answered`](crate::Step::Answered). Default: `false`.
    #[must_use]
    pub fn report_replies(mut self, on: bool) -> Self {
        self.report_replies = on;
        self
    }

    /// Returns the settings that were passed to [`new`](Self::new).
    pub const fn get_config(&self) -> &Config {
        &self.settings
    }

    /// Forgets what was prepared for the previous settings.
    /// Returns the protocol that is spoken.
    pub const fn get_protocol(&self) -> Protocol {
        self.protocol
    }

    /// Returns whether TLS is available by STARTTLS.
    pub const fn get_starttls(&self) -> bool {
        self.starttls
    }

    /// Returns whether commands are passed to the caller that the protocol does not know.
    pub const fn get_custom_commands(&self) -> bool {
        self.custom_commands
    }

    /// Returns whether XCLIENT is supported for trusted peers.
    pub const fn get_xclient(&self) -> bool {
        self.xclient
    }

    /// Returns whether XFORWARD is supported for trusted peers.
    pub const fn get_xforward(&self) -> bool {
        self.xforward
    }

    /// Returns whether lines of the session are reported for a log.
    pub const fn get_log_wire(&self) -> bool {
        self.log_wire
    }

    /// Returns whether replies that refuse are reported.
    pub const fn get_report_replies(&self) -> bool {
        self.report_replies
    }

    fn changed(mut self) -> Self {
        self.prepared = Prepared::of(&self.settings);
        self
    }
}

impl From<Config> for DriverConfig {
    fn from(config: Config) -> Self {
        Self::new(config)
    }
}

impl From<Config> for Arc<DriverConfig> {
    fn from(config: Config) -> Self {
        Self::new(config.into())
    }
}

impl<'a> SessionFacts<'a> {
    /// Creates the facts of a plaintext session of this listener, whose client has not authenticated.
    pub const fn new(config: &'a DriverConfig) -> Self {
        Self::of(config.protocol, &config.settings.limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_prepared_for_other_settings_is_forgotten() {
        let config = DriverConfig::from(Config::new("mx.example.org"));
        let ehlo = |config: &DriverConfig, text: &'static [u8]| {
            config.prepared.ehlo(0, || text.to_vec()).to_vec()
        };
        assert_eq!(ehlo(&config, b"1"), b"1");
        assert_eq!(ehlo(&config, b"2"), b"1", "it is prepared once");
        assert_eq!(ehlo(&config.clone().starttls(true), b"2"), b"2");
        assert_eq!(ehlo(&config.protocol(Protocol::Lmtp), b"3"), b"3");
    }
}
