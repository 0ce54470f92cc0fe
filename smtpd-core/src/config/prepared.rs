use std::sync::OnceLock;

use super::{Config, check::SHORTEST_LINE_LIMIT, timeouts::Times};
use crate::{
    extension::{
        Extension,
        standard::{AUTH_PARAMETER, SIZE_PARAMETER},
    },
    parameter::{self, ParameterError, ParameterRule},
    time::Nanos,
};

/// What is computed from the settings once, for all sessions of a listener.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prepared {
    pub(crate) times: Times,
    pub(crate) greeting_delay: Nanos,
    /// The maximum length of a command line in bytes, including its CRLF.
    pub(crate) line_limit: usize,
    /// How many bytes a session may receive.
    pub(crate) session_bytes: u64,
    mail_rules: Vec<ParameterRule>,
    rcpt_rules: Vec<ParameterRule>,
    /// The reply to EHLO in its wire format, for each of the sixteen states that it depends on.
    ehlo: [OnceLock<Vec<u8>>; 16],
}

impl Prepared {
    pub(super) fn of(config: &Config) -> Self {
        let extensions = || config.extensions.iter();
        let others = extensions().flat_map(Extension::mail_parameters).copied();
        // RFC 4954 section 5: if AUTH is offered.
        let auth = (!config.mechanisms.is_empty()).then_some(AUTH_PARAMETER);
        let extra: usize = extensions().map(Extension::extra_bytes).sum();
        // RFC 5321 section 4.5.3.1.4.
        let line = config.limits.command_line.max(SHORTEST_LINE_LIMIT);
        Self {
            times: Times::from(&config.timeouts),
            greeting_delay: Nanos::of(config.greeting_delay),
            line_limit: line.saturating_add(extra),
            session_bytes: config.limits.session_bytes.unwrap_or(u64::MAX),
            // SIZE is always announced, without a number if there is no limit (RFC 1870 section 4).
            mail_rules: [SIZE_PARAMETER]
                .into_iter()
                .chain(auth)
                .chain(others)
                .collect(),
            rcpt_rules: extensions()
                .flat_map(Extension::rcpt_parameters)
                .copied()
                .collect(),
            ehlo: Default::default(),
        }
    }

    /// Checks a parameter of MAIL.
    pub(crate) fn check_mail_parameter(
        &self,
        keyword: &str,
        value: Option<&str>,
    ) -> Result<(), ParameterError> {
        parameter::check(self.mail_rules.iter(), keyword, value)
    }

    /// Checks a parameter of RCPT.
    pub(crate) fn check_rcpt_parameter(
        &self,
        keyword: &str,
        value: Option<&str>,
    ) -> Result<(), ParameterError> {
        parameter::check(self.rcpt_rules.iter(), keyword, value)
    }

    /// Returns the reply to EHLO in the state with this number. It is made when it is first needed.
    pub(crate) fn ehlo(&self, state: usize, make: impl FnOnce() -> Vec<u8>) -> &[u8] {
        self.ehlo[state].get_or_init(make)
    }
}
