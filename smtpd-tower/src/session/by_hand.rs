use std::sync::Arc;

use smtpd_core::{address::ClientName, config::Protocol, connection::Greeting, sasl::Identity};

use super::{ListenerFacts, Profile, Session, SessionFacts, TlsInfo};
use crate::net::PeerAddr;

/// # For stored messages
impl Session {
    /// Creates a session for a message that was stored earlier, from what was kept of its own session. There is no client: the
    /// state is empty, nothing is negotiated any more, and errors are only logged.
    pub fn stored(facts: SessionFacts) -> Self {
        let listener = ListenerFacts {
            hostname: facts.hostname,
            app_name: "smtpd".to_owned(),
            profile: facts.profile,
            ..Default::default()
        };
        let mut session = Self::new(
            facts.client,
            facts.local,
            Arc::new(listener),
            facts.protocol,
        );
        session.update(|session| session.id = facts.id);
        if let Some(tls) = facts.tls {
            session.set_tls(tls);
        }
        if let Some((name, greeting)) = facts.helo {
            session.greeted(name, greeting);
        }
        if let Some(identity) = facts.identity {
            session.authenticated(identity);
        }
        session
    }
}

/// # For tests
///
/// Sessions created by hand, for requests that do not come from a server.
impl Session {
    /// Creates a session for tests: from 127.0.0.1, with nothing negotiated.
    pub fn local() -> Self {
        Self::from_peer(([127, 0, 0, 1], 0))
    }

    /// Creates a session for tests, from that address.
    pub fn from_peer(peer: impl Into<PeerAddr>) -> Self {
        let listener = ListenerFacts {
            hostname: "localhost".to_owned(),
            app_name: "smtpd".to_owned(),
            ..Default::default()
        };
        Self::new(
            peer.into(),
            ([127, 0, 0, 1], 25).into(),
            Arc::new(listener),
            Protocol::Smtp,
        )
    }

    /// Sets the HELO name, for tests.
    #[must_use]
    pub fn with_helo(mut self, name: ClientName, greeting: Greeting) -> Self {
        self.greeted(name, greeting);
        self
    }

    /// Sets the TLS facts, for tests.
    #[must_use]
    pub fn with_tls(mut self, tls: TlsInfo) -> Self {
        self.set_tls(tls);
        self
    }

    /// Sets that the client has talked early, for tests.
    #[must_use]
    pub fn with_early_talk(mut self) -> Self {
        self.talked_before_greeting();
        self
    }

    /// Sets the profile of the listener, for tests.
    #[must_use]
    pub fn with_profile(mut self, profile: Profile) -> Self {
        self.update(|facts| Arc::make_mut(&mut facts.listener).profile = Some(profile));
        self
    }

    /// Sets the identity of an authenticated client, for tests.
    #[must_use]
    pub fn with_identity(mut self, identity: impl Into<Identity>) -> Self {
        self.authenticated(identity.into());
        self
    }
}
