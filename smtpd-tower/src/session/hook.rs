//! User functions that observe sessions.

use std::sync::Arc;

use super::{Session, SessionError};
use crate::fault::{caught, quietly};

/// A function that is called with a session and an event in it.
pub(crate) type Hook<T> = Option<Arc<dyn Fn(&Session, &T) + Send + Sync>>;

/// A function that is called when something goes wrong.
pub(crate) type ErrorHook = Hook<SessionError>;

/// Calls a hook. A panic in it does not affect the session; it is logged.
pub(crate) fn call(session: &Session, name: &'static str, hook: impl FnOnce()) {
    if let Err(panic) = caught(hook) {
        let (session, panic) = (session.id(), panic.escape_debug());
        quietly(|| tracing::error!(session, %panic, "{name} panicked"));
    }
}
