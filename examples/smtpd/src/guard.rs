//! What each client may do over all of its sessions. What was counted outlasts a reload.

use std::{num::NonZeroU32, str::FromStr};

use clap::Args;
use smtpd_tower::{
    guard::Guard,
    limiter::Rate,
    net::{Cidr, CidrError, CidrSet},
};

use crate::amounts;

const GUARD: &str =
    "Limits for each client (an IPv4 address or an IPv6 /64) over all of its sessions";

/// The options of the guard. Those that are not set leave the framework's defaults.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct GuardOptions {
    /// Do not count clients of this network; repeatable. `none` counts all, also those of this machine [default: 127.0.0.0/8,
    /// ::1]
    #[arg(long, value_name = "CIDR", help_heading = GUARD)]
    guard_exempt: Vec<Uncounted>,

    /// Maximum number of sessions at a time; more receive 421 [default: 50]
    #[arg(long, value_name = "N", value_parser = amounts::count, help_heading = GUARD)]
    guard_sessions: Option<NonZeroU32>,

    /// Maximum number of new sessions in a time; more receive 421 [default: 1000/1m]
    #[arg(long, value_name = "N/TIME", value_parser = amounts::rate, help_heading = GUARD)]
    guard_new_sessions: Option<Rate>,

    /// Maximum number of TLS handshakes at a time [default: 20]
    #[arg(long, value_name = "N", value_parser = amounts::count, help_heading = GUARD)]
    guard_handshakes: Option<NonZeroU32>,

    /// Maximum number of TLS handshakes of all clients at a time [default: 256]
    #[arg(long, value_name = "N", value_parser = amounts::count, help_heading = GUARD)]
    guard_all_handshakes: Option<NonZeroU32>,

    /// Maximum number of failed logins in a time; after that, AUTH receives 454 [default: 10/10m]
    #[arg(long, value_name = "N/TIME", value_parser = amounts::rate, help_heading = GUARD)]
    guard_failed_logins: Option<Rate>,

    /// Maximum number of rejected recipients in a time; after that, the client receives 421 [default: 200/10m]
    #[arg(long, value_name = "N/TIME", value_parser = amounts::rate, help_heading = GUARD)]
    guard_rejected_recipients: Option<Rate>,

    /// Maximum number of errors in a time; after that, the client receives 421 [default: 200/10m]
    #[arg(long, value_name = "N/TIME", value_parser = amounts::rate, help_heading = GUARD)]
    guard_errors: Option<Rate>,

    /// Maximum number of sessions without a message or a login in a time; more receive 421 [default: 100/10m]
    #[arg(long, value_name = "N/TIME", value_parser = amounts::rate, help_heading = GUARD)]
    guard_idle_sessions: Option<Rate>,
}

/// Clients that are not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Uncounted {
    Network(Cidr),
    None,
}

impl FromStr for Uncounted {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        match text {
            "none" => Ok(Self::None),
            network => network.parse().map(Self::Network),
        }
    }
}

impl GuardOptions {
    /// Returns a guard with these settings.
    pub(crate) fn guard(&self) -> Guard {
        type Set<T> = fn(Guard, T) -> Guard;
        let counts: [(_, Set<u32>); 3] = [
            (self.guard_sessions, Guard::sessions),
            (self.guard_handshakes, Guard::handshakes),
            (self.guard_all_handshakes, Guard::all_handshakes),
        ];
        let rates: [(_, Set<Rate>); 5] = [
            (self.guard_new_sessions, |guard, rate| {
                guard.new_sessions(rate)
            }),
            (self.guard_failed_logins, |guard, rate| {
                guard.failed_logins(rate)
            }),
            (self.guard_rejected_recipients, |guard, rate| {
                guard.rejected_recipients(rate)
            }),
            (self.guard_errors, |guard, rate| guard.errors(rate)),
            (self.guard_idle_sessions, |guard, rate| {
                guard.idle_sessions(rate)
            }),
        ];
        let guard = counts
            .into_iter()
            .fold(Guard::new(), |guard, (count, set)| match count {
                Some(count) => set(guard, count.get()),
                None => guard,
            });
        let guard = rates
            .into_iter()
            .fold(guard, |guard, (rate, set)| match rate {
                Some(rate) => set(guard, rate),
                None => guard,
            });
        match &*self.guard_exempt {
            [] => guard,
            exempt => guard.exempt(CidrSet::from_iter(
                exempt.iter().filter_map(Uncounted::network),
            )),
        }
    }
}

impl Uncounted {
    fn network(&self) -> Option<Cidr> {
        match self {
            Self::Network(network) => Some(*network),
            Self::None => None,
        }
    }
}
