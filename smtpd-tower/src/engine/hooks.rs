use std::fmt;

use smtpd_core::{connection::WireLine, envelope::Envelope};

use crate::session::{Answered, Hook, Session, SessionError, Summary};

/// The hooks of a server.
#[derive(Clone, Default)]
pub(crate) struct Hooks {
    pub(crate) wire: Hook<WireLine>,
    pub(crate) reply: Hook<Answered>,
    pub(crate) error: Hook<SessionError>,
    pub(crate) reset: Hook<Envelope>,
    pub(crate) close: Hook<Summary>,
}

impl Hooks {
    pub(super) fn on_wire(&self, session: &Session, line: &WireLine) {
        self.wire.call("on_wire", session, line);
    }

    pub(super) fn on_reply(&self, session: &Session, answered: &Answered) {
        self.reply.call("on_reply", session, answered);
    }

    pub(super) fn on_reset(&self, session: &Session, envelope: &Envelope) {
        self.reset.call("on_reset", session, envelope);
    }

    pub(super) fn on_close(&self, session: &Session, summary: &Summary) {
        self.close.call("on_close", session, summary);
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}
