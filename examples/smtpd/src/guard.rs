//! What each client may do over all of its sessions. What was counted outlasts a reload.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    str::FromStr,
};

use clap::{Args, ValueEnum};
use smtpd_tower::{
    guard::Guard,
    limiter::Rate,
    net::{Cidr, CidrError, CidrSet},
};

use crate::{
    amounts::{self, AnyRate},
    options::Options,
};

pub(crate) const GUARD: &str =
    "Limits for each client (an IPv4 address or an IPv6 /64) over all of its sessions";

/// The options of the guard. Those that are not set leave the framework's defaults.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct GuardOptions {
    /// Whether the limits of this section apply. Those within one session always do [default: on]
    #[arg(long, value_name = "on|off", hide_possible_values = true, help_heading = GUARD)]
    guard: Option<Guarding>,

    /// How many clients to remember, at about 200 bytes each; those that would be free again soonest are forgotten first. It
    /// takes a restart to change [default: 50000]
    #[arg(long, value_name = "N", value_parser = amounts::count, help_heading = GUARD)]
    guard_capacity: Option<NonZeroU32>,

    /// Do not count clients of this network; repeatable. `none` counts all, also those of this machine [default: 127.0.0.0/8,
    /// ::1]
    #[arg(long, value_name = "CIDR", help_heading = GUARD)]
    guard_exempt: Vec<Uncounted>,

    /// Maximum number of sessions at a time; more receive 421 [default: 50]
    #[arg(long, value_name = "N", value_parser = amounts::count, help_heading = GUARD)]
    guard_sessions: Option<NonZeroU32>,

    /// Maximum number of new sessions in a time; more receive 421. `none` sets no limit, here and below [default:
    /// 1000/1m]
    #[arg(long, value_name = "N/TIME", value_parser = amounts::rate_or_none, help_heading = GUARD)]
    guard_new_sessions: Option<AnyRate>,

    /// Maximum number of TLS handshakes at a time [default: 20]
    #[arg(long, value_name = "N", value_parser = amounts::count, help_heading = GUARD)]
    guard_handshakes: Option<NonZeroU32>,

    /// Maximum number of TLS handshakes of all clients at a time [default: 256]
    #[arg(long, value_name = "N", value_parser = amounts::count, help_heading = GUARD)]
    guard_all_handshakes: Option<NonZeroU32>,

    /// Maximum number of failed logins in a time; after that, AUTH receives 454 [default: 10/10m]
    #[arg(long, value_name = "N/TIME", value_parser = amounts::rate_or_none, help_heading = GUARD)]
    guard_failed_logins: Option<AnyRate>,

    /// Maximum number of rejected recipients in a time; after that, the client receives 421 [default: 200/10m]
    #[arg(long, value_name = "N/TIME", value_parser = amounts::rate_or_none, help_heading = GUARD)]
    guard_rejected_recipients: Option<AnyRate>,

    /// Maximum number of errors in a time; after that, the client receives 421 [default: 200/10m]
    #[arg(long, value_name = "N/TIME", value_parser = amounts::rate_or_none, help_heading = GUARD)]
    guard_errors: Option<AnyRate>,

    /// Maximum number of sessions without a message or a login in a time; more receive 421 [default: 100/10m]
    #[arg(long, value_name = "N/TIME", value_parser = amounts::rate_or_none, help_heading = GUARD)]
    guard_idle_sessions: Option<AnyRate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Guarding {
    #[value(alias = "true")]
    On,
    #[value(alias = "false")]
    Off,
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
        let rates: [(_, Set<Option<Rate>>); 5] = [
            (self.guard_new_sessions, Guard::new_sessions),
            (self.guard_failed_logins, Guard::failed_logins),
            (self.guard_rejected_recipients, Guard::rejected_recipients),
            (self.guard_errors, Guard::errors),
            (self.guard_idle_sessions, Guard::idle_sessions),
        ];
        let mut guard = match self.is_off() {
            true => Guard::off(),
            false => Guard::new(),
        };
        for (count, set) in counts {
            if let Some(count) = count {
                guard = set(guard, count.get());
            }
        }
        for (rate, set) in rates {
            guard = match rate {
                Some(AnyRate::Limited(rate)) => set(guard, Some(rate)),
                Some(AnyRate::Unlimited) => set(guard, None),
                None => guard,
            };
        }
        match &*self.guard_exempt {
            [] => guard,
            exempt => guard.exempt(CidrSet::from_iter(
                exempt.iter().filter_map(Uncounted::network),
            )),
        }
    }

    /// Returns the guard that counts for as long as the server runs, without these settings.
    pub(crate) fn new_guard(&self) -> Guard {
        let clients = self.guard_capacity.map(NonZeroUsize::try_from);
        let clients = clients.and_then(Result::ok);
        clients.map_or_else(Guard::new, Guard::with_capacity)
    }

    fn is_off(&self) -> bool {
        self.guard == Some(Guarding::Off)
    }
}

/// Returns a warning if the guard is off, and its other options have no effect.
pub(crate) fn warning(options: &Options) -> Option<String> {
    let given = options.given.names();
    let unused: Vec<_> = given.filter(|name| name.starts_with("guard-")).collect();
    let has_no_effect = options.guard.is_off() && !unused.is_empty();
    has_no_effect.then(|| {
        let place = options.given.place("guard");
        format!(
            "{place}: the guard is off, so these options have no effect: {}",
            unused.join(", ")
        )
    })
}

impl Uncounted {
    fn network(&self) -> Option<Cidr> {
        match self {
            Self::Network(network) => Some(*network),
            Self::None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Options {
        Options::read(["smtpd"].into_iter().chain(line.split_whitespace())).unwrap()
    }

    #[test]
    fn the_guard_cannot_be_turned_off() {
        for (line, is_on) in [
            ("", true),
            ("--guard on", true),
            ("--guard=true", true),
            ("--guard off", false),
            ("--guard=false", false),
            ("--guard off --guard-sessions 1", false),
        ] {
            assert_eq!(read(line).guard.guard().is_on(), is_on, "{line}");
        }
    }

    #[test]
    fn options_of_a_guard_that_is_off_are_ignored_silently() {
        assert_eq!(warning(&read("--guard off")), None);
        assert_eq!(warning(&read("--guard-sessions 1")), None);
        assert_eq!(
            warning(&read(
                "--guard off --guard-sessions 1 --guard-exempt none"
            )),
            Some(
                "--guard: the guard is off, so these options have no effect: guard-exempt, guard-sessions"
                    .to_owned()
            )
        );
    }
}
