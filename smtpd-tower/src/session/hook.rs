//! User functions that observe sessions.

use std::sync::Arc;

use super::{Session, SessionError};
use crate::fault::{caught, quietly};

/// Functions that are called, in this order, with a session and an event in it.
pub(crate) struct Hook<T>(Vec<Function<T>>);

type Function<T> = Arc<dyn Fn(&Session, &T) + Send + Sync>;

/// Functions that are called when something goes wrong.
pub(crate) type ErrorHook = Hook<SessionError>;

impl<T> Hook<T> {
    pub(crate) fn add(&mut self, function: impl Fn(&Session, &T) + Send + Sync + 'static) {
        self.0.push(Arc::new(function));
    }

    pub(crate) const fn is_set(&self) -> bool {
        !self.0.is_empty()
    }

    /// Calls every function. A panic in one affects neither the session nor the others; it is logged.
    pub(crate) fn call(&self, name: &'static str, session: &Session, event: &T) {
        for function in &self.0 {
            if let Err(panic) = caught(|| function(session, event)) {
                let (session, panic) = (session.id(), panic.escape_debug());
                quietly(|| tracing::error!(session, %panic, "{name} panicked"));
            }
        }
    }
}

impl<T> Clone for Hook<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Hook<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}
