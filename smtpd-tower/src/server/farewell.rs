//! The replies to connections that are refused.

use std::sync::OnceLock;

use smtpd_core::reply::Reply;

use crate::{engine::closing, guard::GuardReason, session::ListenerFacts};

/// Why there is no session for a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refused {
    /// There are too many sessions.
    Full,
    /// There is too little memory for more messages. The budget has logged it.
    NoMemory,
    ByGuard(GuardReason),
}

/// Returns the words for why a connection is refused, for metrics.
#[cfg(feature = "metrics")]
pub(super) fn limits() -> impl Iterator<Item = &'static str> {
    let own = [Refused::Full, Refused::NoMemory];
    let guard = GuardReason::ALL.into_iter();
    let guard = guard.filter(|reason| reason.refuses_connections());
    let own = own.into_iter().filter_map(Refused::limit);
    own.chain(guard.map(GuardReason::as_str))
}

impl Refused {
    const ALL: usize = 2 + GuardReason::ALL.len();

    /// Returns the value of a label of a metric, unless the engine has measured the refusal.
    pub(super) const fn limit(self) -> Option<&'static str> {
        match self {
            Self::Full => Some("max_sessions"),
            Self::NoMemory => Some("memory_budget"),
            Self::ByGuard(_) => None,
        }
    }

    const fn number(self) -> usize {
        match self {
            Self::Full => 0,
            Self::NoMemory => 1,
            Self::ByGuard(reason) => 2 + reason as usize,
        }
    }

    fn reply(self, listener: &ListenerFacts) -> Reply {
        match self {
            Self::Full => Reply::closing(listener.signed("has too many sessions, try again later")),
            Self::NoMemory => {
                Reply::closing(listener.signed("is short of memory, try again later"))
            }
            Self::ByGuard(reason) => closing(reason, listener),
        }
    }
}

/// The replies of a listener to connections that are refused. Each is written once, because a flood is to cost little.
#[derive(Debug, Default)]
pub(super) struct Farewells([OnceLock<Box<str>>; Refused::ALL]);

impl Farewells {
    /// Returns the reply as it is sent.
    pub(super) fn reply(&self, refused: Refused, listener: &ListenerFacts) -> &str {
        // In range: there is an element for each.
        self.0[refused.number()]
            .get_or_init(|| format!("{}\r\n", refused.reply(listener)).into_boxed_str())
    }
}
