use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use smtpd_core::config::Timeouts;

use super::{ErrorHook, Profile};
use crate::{memory::MemoryBudget, meter::Meters, permits::Permits};

/// What the sessions of a listener have in common.
#[derive(Clone, Default)]
pub(crate) struct ListenerFacts {
    /// The names that the server shows.
    pub(crate) hostname: String,
    pub(crate) app_name: String,
    pub(crate) profile: Option<Profile>,
    pub(crate) timeouts: Timeouts,
    pub(crate) on_error: ErrorHook,
    /// For work that keeps a processor busy.
    pub(crate) permits: Permits,
    pub(crate) memory: MemoryBudget,
    pub(crate) meters: Meters,
    pub(crate) shutting_down: ShuttingDown,
}

/// Whether the server is shutting down. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct ShuttingDown(Arc<AtomicBool>);

impl ShuttingDown {
    pub(crate) fn begin(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl ListenerFacts {
    /// Returns the text after the names of the host and the program.
    pub(crate) fn signed(&self, text: &str) -> String {
        format!("{} {} {text}", self.hostname, self.app_name)
    }
}

impl fmt::Debug for ListenerFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerFacts")
            .field("hostname", &self.hostname)
            .field("app_name", &self.app_name)
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}
