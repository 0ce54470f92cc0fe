//! What is known of a session now.

use std::sync::Arc;

use super::Connection;
use crate::{
    config::Config, envelope::Envelope, helo::Helo, protocol::protocol_word, sasl::Identity,
};

impl Connection {
    /// Whether the session runs over TLS.
    pub const fn is_tls(&self) -> bool {
        self.tls
    }

    /// Returns whether a message is being received: from the answer to DATA, or the first BDAT, until the reply to the message,
    /// also between two BDAT chunks.
    pub fn is_receiving(&self) -> bool {
        self.message.is_some()
    }

    /// Returns how many messages were answered with a positive reply.
    pub const fn messages(&self) -> u32 {
        self.counts.messages
    }

    /// How the client has introduced itself. `None` before HELO, and again after STARTTLS and XCLIENT.
    pub fn helo(&self) -> Option<&Helo> {
        self.client.helo.as_deref()
    }

    /// Who the client is, if it has authenticated and that still holds: STARTTLS and XCLIENT end it.
    pub const fn identity(&self) -> Option<&Identity> {
        self.client.identity.as_ref()
    }

    /// The sender and the recipients that were accepted, from the answer to MAIL until the transaction ends, however it does.
    pub const fn envelope(&self) -> Option<&Arc<Envelope>> {
        self.transaction.envelope.as_ref()
    }

    /// The word for this session in a Received field, after `with`, such as `ESMTPS` (RFC 3848, RFC 6531 section 4.3).
    pub fn protocol_word(&self) -> &'static str {
        protocol_word(
            self.config.protocol,
            self.greeting(),
            self.transaction.utf8,
            self.tls,
            self.client.identity.is_some(),
        )
    }

    /// What the session was set up with.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }
}
