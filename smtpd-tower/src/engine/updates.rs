//! Updates the session when the connection reports something, and calls the hooks.

use std::sync::Arc;

use smtpd_core::{
    connection::{AuthRequest, Connection, WireLine},
    envelope::Envelope,
    proxied::{Forwarded, XClient},
    sasl::Identity,
};

use super::{hooks::Hooks, transfer::Transfer, work::After};
use crate::{fault::quietly, meter::LastMechanism, session::Session};

/// XCLIENT: the session begins anew for another client.
pub(super) fn impersonated(session: &mut Session, transfer: &mut Transfer, client: XClient) {
    transfer.end_transaction(session);
    session.impersonated(client);
}

/// Notes whether the client has sent something before it was greeted.
pub(super) fn heard(session: &mut Session, connection: &Connection) {
    if connection.talked_early() {
        session.talked_before_greeting();
    }
}

/// MAIL: another transaction begins. XFORWARD has described it already, so that is kept.
pub(super) fn begun(session: &mut Session, transfer: &mut Transfer) {
    transfer.begin();
    session.end_transaction();
}

/// AUTH: notes the mechanism, if that is measured.
pub(super) fn authenticates(session: &Session, request: &AuthRequest) {
    if session.meters().are_on() {
        session.insert(LastMechanism(request.mechanism()));
    }
}

pub(super) fn authenticated(session: &mut Session, identity: Identity) -> After {
    if session.meters().are_on()
        && let Some(LastMechanism(mechanism)) = session.get()
    {
        session.meters().login(mechanism.as_str(), true);
    }
    session.authenticated(identity);
    After::Done
}

/// RSET, or a new HELO in a transaction. The hook is called if there was a transaction whose message was not answered.
pub(super) fn reset(
    hooks: &Hooks,
    session: &mut Session,
    transfer: &mut Transfer,
    envelope: Option<Arc<Envelope>>,
) -> After {
    if let Some(envelope) = envelope.filter(|_| !transfer.is_answered()) {
        hooks.on_reset(session, &envelope);
    }
    transfer.end_transaction(session);
    After::Done
}

pub(super) fn forwarded(session: &mut Session, forwarded: Forwarded) -> After {
    session.forward(Some(forwarded));
    After::Done
}

pub(super) fn line(hooks: &Hooks, session: &Session, line: &WireLine) -> After {
    quietly(|| tracing::trace!(session = session.id(), "{line}"));
    hooks.on_wire(session, line);
    After::Done
}
