use std::fmt;

use smtpd_core::{Envelope, WireLine};

use crate::session::{Hook, SessionError, Summary};

/// The hooks of a server.
#[derive(Clone, Default)]
pub(crate) struct Hooks {
    pub(crate) wire: Hook<WireLine>,
    pub(crate) error: Hook<SessionError>,
    pub(crate) reset: Hook<Envelope>,
    pub(crate) close: Hook<Summary>,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}
