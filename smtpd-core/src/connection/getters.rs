use std::sync::Arc;

use super::Connection;
use crate::{
    config::DriverConfig, envelope::Envelope, helo::Helo, protocol::protocol_word, sasl::Identity,
};

/// The current state of the session, and what was counted of it.
impl Connection {
    /// Returns whether the session runs over TLS.
    pub const fn is_tls(&self) -> bool {
        self.session.tls
    }

    /// Returns whether the session has ended: nothing that the client sends is processed any more, and nothing is sent to it but
    /// the replies that wait to be written.
    pub const fn is_closed(&self) -> bool {
        self.session.closed.is_some()
    }

    /// Returns whether a message is being received: from the answer to DATA, or the first BDAT, until the reply to the message,
    /// also between two BDAT chunks.
    pub fn is_receiving(&self) -> bool {
        self.session.transfer.is_under_way()
    }

    /// Returns how many messages were answered with a positive reply.
    pub const fn messages(&self) -> u32 {
        self.session.messages
    }

    /// Returns how many replies have refused something, by 4yz or 5yz.
    pub const fn refusals(&self) -> u32 {
        self.session.replies.refusals()
    }

    /// Returns whether the client sent something before it was greeted, although it must wait for the greeting (RFC 5321 section
    /// 4.3.1). Programs that send spam often do not wait.
    ///
    /// What counts is the input that [`poll`](Self::poll) is given before it returns the greeting. Little is noticed unless there
    /// is a [`greeting_delay`](crate::Config::greeting_delay), because a driver has no reason to read from a client that it can
    /// greet at once. It is not measured anew after XCLIENT.
    pub const fn talked_early(&self) -> bool {
        self.talked_early
    }

    /// Returns how the client introduced itself. `None` before HELO, and again after STARTTLS and XCLIENT.
    pub fn helo(&self) -> Option<&Helo> {
        self.session.helo.as_deref()
    }

    /// Returns the identity of the client, if it has authenticated and no STARTTLS or XCLIENT has ended that.
    pub const fn identity(&self) -> Option<&Identity> {
        self.session.identity()
    }

    /// Returns the sender and the accepted recipients, from the answer to MAIL until the transaction ends in any way.
    pub const fn envelope(&self) -> Option<&Arc<Envelope>> {
        self.session.transaction.envelope()
    }

    /// Returns the protocol of this session as a Received field names it after `with`, such as `ESMTPS` (RFC 3848, RFC 6531
    /// section 4.3).
    pub fn protocol_word(&self) -> &'static str {
        let session = &self.session;
        protocol_word(
            session.config.protocol,
            session.greeting(),
            session.transaction.is_utf8(),
            session.tls,
            session.identity().is_some(),
        )
    }

    /// Returns how many errors the client has made in this session, such as unknown commands. A command that was refused because
    /// of a fault on this side, or for now, is none.
    pub const fn errors(&self) -> u32 {
        self.session.errors
    }

    /// Returns how many recipients were rejected with 5yz in this session, by a rule, a layer or a service.
    pub const fn rejected_recipients(&self) -> u32 {
        self.session.tally.rejected_recipients()
    }

    /// Returns how many times the client has failed to authenticate in this session: its credentials were rejected with 5yz, and
    /// not because of a fault on this side.
    pub const fn auth_failures(&self) -> u32 {
        self.session.authentication.failures()
    }

    /// Returns the settings of the session.
    pub fn config(&self) -> &Arc<DriverConfig> {
        &self.session.config
    }
}
