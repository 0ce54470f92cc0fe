//! The replies that refuse: each is logged, up to a limit, and reported to the hooks.

use smtpd_core::connection;

use super::{hooks::Hooks, work::After};
use crate::{
    fault::quietly,
    session::{Answered, Session},
};

/// The log of a session's refusals. A client can cause many in a second, so only the first ones have an event each.
#[derive(Debug, Default)]
pub(super) struct RefusalLog {
    logged: u32,
    unlogged: u32,
    /// The guard has refused the client, and reports that itself.
    is_not_admitted: bool,
}

/// The maximum number of refusals of a session that are logged. Failed authentications are not counted: the protocol limits them,
/// and what bans guessers has to see them.
const MAX_LOGGED: u32 = 50;

impl RefusalLog {
    /// Reports nothing more: the guard has refused the client before its session has begun. It has logged that, as for clients
    /// that it refuses when they connect, for which there is no session either.
    pub(super) const fn not_admitted(&mut self) {
        self.is_not_admitted = true;
    }

    /// Logs and reports a reply.
    pub(super) fn report(
        &mut self,
        hooks: &Hooks,
        session: &Session,
        answered: Box<connection::Answered>,
    ) -> After {
        if self.is_not_admitted {
            return After::Done;
        }
        let answered = Answered::new(answered);
        measure(session, &answered);
        if answered.is_failed_login() {
            answered.log(session);
        } else if self.logged < MAX_LOGGED {
            self.logged += 1;
            answered.log(session);
        } else {
            self.unlogged = self.unlogged.saturating_add(1);
        }
        hooks.on_reply(session, &answered);
        After::Done
    }

    /// Logs how many had no event, at the end of the session.
    pub(super) fn end(&self, session: &Session) {
        if self.unlogged == 0 {
            return;
        }
        quietly(|| {
            tracing::info!(
                session = session.id(),
                listener = %session.listener_addr(),
                peer = %session.client_addr(),
                refusals = self.unlogged,
                "more was refused"
            );
        });
    }
}

fn measure(session: &Session, answered: &Answered) {
    let meters = session.meters();
    meters.refused(
        answered.origin().as_str(),
        answered.phase(),
        answered.reply(),
    );
    if answered.is_failed_login() {
        meters.login(answered.argument(), false);
    }
}
