use std::fmt;

use super::{ErrorHook, Profile};

/// What the sessions of a listener have in common.
#[derive(Clone, Default)]
pub(crate) struct ListenerFacts {
    /// The names that the server shows.
    pub(crate) hostname: String,
    pub(crate) app_name: String,
    pub(crate) profile: Option<Profile>,
    pub(crate) on_error: ErrorHook,
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
