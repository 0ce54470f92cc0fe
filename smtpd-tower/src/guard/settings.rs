use std::{net::Ipv6Addr, sync::Arc, time::Duration};

use crate::{
    limiter::{Pace, Rate},
    net::{Cidr, CidrSet},
};

/// What is counted over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    NewSession,
    FailedLogin,
    RejectedRecipient,
    Error,
    IdleSession,
}

impl Counted {
    pub(super) const ALL: usize = 5;
}

/// The limits of a guard.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) is_on: bool,
    pub(super) sessions: u32,
    pub(super) handshakes: u32,
    pub(super) all_handshakes: u32,
    /// By [`Counted`].
    paces: [Option<Pace>; Counted::ALL],
    pub(super) exempt: Arc<CidrSet>,
}

impl Settings {
    pub(super) const fn pace(&self, counted: Counted) -> Option<Pace> {
        // In range: there is an element for each.
        self.paces[counted as usize]
    }

    pub(super) fn set_rate(&mut self, counted: Counted, rate: Option<Rate>) {
        self.paces[counted as usize] = rate.map(Pace::new);
    }
}

impl Default for Settings {
    fn default() -> Self {
        let mut settings = Self {
            is_on: true,
            sessions: 50,
            handshakes: 20,
            all_handshakes: 256,
            paces: [None; Counted::ALL],
            exempt: Arc::new(loopback().into_iter().collect()),
        };
        for (counted, events, minutes) in [
            (Counted::NewSession, 1000, 1),
            (Counted::FailedLogin, 10, 10),
            (Counted::RejectedRecipient, 200, 10),
            (Counted::Error, 200, 10),
            (Counted::IdleSession, 100, 10),
        ] {
            let rate = Rate::new(events, Duration::from_secs(60 * minutes));
            settings.set_rate(counted, rate.ok());
        }
        settings
    }
}

/// The addresses of this machine.
fn loopback() -> impl IntoIterator<Item = Cidr> {
    let v4 = Cidr::new([127, 0, 0, 0].into(), 8);
    [v4, Some(Cidr::around(Ipv6Addr::LOCALHOST.into(), 128))]
        .into_iter()
        .flatten()
}
