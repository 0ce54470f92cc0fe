use std::fmt;

use smtpd_core::{Envelope, WireLine};

use crate::session::{Hook, Session, SessionError, Summary, call};

/// The hooks of a server.
#[derive(Clone, Default)]
pub(crate) struct Hooks {
    pub(crate) wire: Hook<WireLine>,
    pub(crate) error: Hook<SessionError>,
    pub(crate) reset: Hook<Envelope>,
    pub(crate) close: Hook<Summary>,
}

impl Hooks {
    pub(super) fn on_wire(&self, session: &Session, line: &WireLine) {
        if let Some(hook) = &self.wire {
            call(session, "on_wire", || hook(session, line));
        }
    }

    pub(super) fn on_reset(&self, session: &Session, envelope: &Envelope) {
        if let Some(hook) = &self.reset {
            call(session, "on_reset", || hook(session, envelope));
        }
    }

    pub(super) fn on_close(&self, session: &Session, summary: &Summary) {
        if let Some(hook) = &self.close {
            call(session, "on_close", || hook(session, summary));
        }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}
