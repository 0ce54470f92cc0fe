//! How long everything may take.

use std::{num::NonZeroU64, time::Duration};

use clap::Args;
use smtpd_tower::config::Timeouts;

use crate::amounts;

pub(crate) const TIMEOUTS: &str = "Timeouts, in seconds or as in 30s, 5m, 2h";

/// The options of times. Those that are not set leave the framework's defaults. There is none for the time until a service is
/// ready and until it reads a message, because those of this server do not wait.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct TimeoutOptions {
    /// How long a silence ends a session: sets --timeout-command, --timeout-data and --timeout-write, and shortens
    /// --timeout-line, --timeout-handshake and --timeout-transfer, unless they are given [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = amounts::duration, help_heading = TIMEOUTS)]
    timeout: Option<Duration>,

    /// From a reply to the first byte of the next command; RFC 5321 requires at least 5 minutes [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = amounts::duration, help_heading = TIMEOUTS)]
    timeout_command: Option<Duration>,

    /// From the first byte of a command to the end of its line [default: 1m]
    #[arg(long, value_name = "DURATION", value_parser = amounts::duration, help_heading = TIMEOUTS)]
    timeout_line: Option<Duration>,

    /// From one byte of a message to the next one [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = amounts::duration, help_heading = TIMEOUTS)]
    timeout_data: Option<Duration>,

    /// For a whole message; it grows with the bytes that arrive, at --min-rate [default: 15m]
    #[arg(long, value_name = "DURATION", value_parser = amounts::duration, help_heading = TIMEOUTS)]
    timeout_transfer: Option<Duration>,

    /// How many bytes a second extend --timeout-transfer and --timeout-write by one second [default: 500]
    #[arg(long, value_name = "SIZE", value_parser = amounts::some_bytes, help_heading = TIMEOUTS)]
    min_rate: Option<NonZeroU64>,

    /// For a TLS handshake [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = amounts::duration, help_heading = TIMEOUTS)]
    timeout_handshake: Option<Duration>,

    /// For the client to read its replies [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = amounts::duration, help_heading = TIMEOUTS)]
    timeout_write: Option<Duration>,

    /// For a whole session; an open transaction may end [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = amounts::duration, help_heading = TIMEOUTS)]
    timeout_session: Option<Duration>,

    /// For waiting for commands since the last message [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = amounts::duration, help_heading = TIMEOUTS)]
    timeout_without_message: Option<Duration>,

    /// For waiting for commands before AUTH, where it is required [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = amounts::duration, help_heading = TIMEOUTS)]
    timeout_without_login: Option<Duration>,

    /// From a greeting of 5yz to QUIT [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = amounts::duration, help_heading = TIMEOUTS)]
    timeout_after_refusal: Option<Duration>,

    /// From the last reply to the end of the connection, for the client to read it [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = amounts::duration_or_none, help_heading = TIMEOUTS)]
    timeout_linger: Option<Duration>,

    /// For this server to answer a command, such as a login; then the client receives 451, or 454 to AUTH [default: 4m]
    #[arg(long, value_name = "DURATION", value_parser = amounts::duration, help_heading = TIMEOUTS)]
    timeout_call: Option<Duration>,

    /// For this server to store a message; then the client receives 451. Clients wait 10 minutes [default: 9m]
    #[arg(long, value_name = "DURATION", value_parser = amounts::duration, help_heading = TIMEOUTS)]
    timeout_delivery: Option<Duration>,
}

impl TimeoutOptions {
    pub(crate) fn apply(&self, timeouts: &mut Timeouts) {
        if let Some(limit) = self.timeout {
            *timeouts = timeouts.clone().inactivity(limit);
        }
        for (timeout, option) in [
            (&mut timeouts.command, self.timeout_command),
            (&mut timeouts.line, self.timeout_line),
            (&mut timeouts.data, self.timeout_data),
            (&mut timeouts.transfer, self.timeout_transfer),
            (&mut timeouts.handshake, self.timeout_handshake),
            (&mut timeouts.write, self.timeout_write),
            (&mut timeouts.session, self.timeout_session),
            (&mut timeouts.without_message, self.timeout_without_message),
            (&mut timeouts.without_login, self.timeout_without_login),
            (&mut timeouts.after_refusal, self.timeout_after_refusal),
            (&mut timeouts.linger, self.timeout_linger),
            (&mut timeouts.call, self.timeout_call),
            (&mut timeouts.delivery, self.timeout_delivery),
        ] {
            *timeout = option.unwrap_or(*timeout);
        }
        let rate = self.min_rate.map(NonZeroU64::get);
        let rate = rate.map(|rate| u32::try_from(rate).unwrap_or(u32::MAX));
        timeouts.min_rate = rate.unwrap_or(timeouts.min_rate);
    }
}

#[cfg(test)]
mod tests {
    use smtpd_tower::Config;

    use super::*;
    use crate::{config, options::Options};

    #[test]
    fn one_timeout_overrides_those_that_are_given() {
        let args = "smtpd --timeout-data 7s --timeout 5 --timeout-line 30s --min-rate 99G";
        let options = Options::read(args.split(' ')).unwrap();
        let config = config::apply(&options, Config::new("mx.test"));
        let (timeouts, second) = (config.get_timeouts(), Duration::from_secs(1));
        assert_eq!((timeouts.command, timeouts.write), (second * 5, second * 5));
        assert_eq!((timeouts.data, timeouts.line), (second * 7, second * 30));
        assert_eq!(timeouts.session, Timeouts::default().session);
        assert_eq!(timeouts.min_rate, u32::MAX);
    }
}
