use smtpd_core::{address::ClientName, config::Protocol, connection::Greeting, sasl::Identity};

use super::{Profile, Session, TlsInfo};
use crate::net::PeerAddr;

/// What is worth keeping of a session with a message that is stored, so that whoever delivers it later knows where it came from.
///
/// A [`Session`] itself must not be kept: it holds its guards, such as the permit of a limit on sessions. Its facts are plain data.
/// [`Session::stored`] turns them into a session again.
///
/// ```
/// use smtpd_tower::{
///     Session,
///     session::{Greeting, SessionFacts},
/// };
///
/// let live = Session::from_peer(([192, 0, 2, 1], 4711))
///     .with_helo("mx.example.com".parse()?, Greeting::Ehlo)
///     .with_identity("alice");
/// let facts = SessionFacts::from(&live);
/// drop(live);
///
/// // Later, perhaps in another process.
/// let session = Session::stored(facts);
/// assert_eq!(session.client_addr().to_string(), "192.0.2.1:4711");
/// assert_eq!(session.identity().unwrap().as_str(), "alice");
/// # Ok::<(), smtpd_tower::address::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionFacts {
    /// The number of the session, which the log shows: see [`Session::id`].
    pub id: u64,
    /// The address of the client.
    pub client: PeerAddr,
    /// The address that the client connected to.
    pub local: PeerAddr,
    /// The name of the server, as in its greeting.
    pub hostname: String,
    /// Whether the session spoke SMTP or LMTP.
    pub protocol: Protocol,
    /// What the listener is for.
    pub profile: Option<Profile>,
    /// The name that the client gave, and the command by which it did so.
    pub helo: Option<(ClientName, Greeting)>,
    /// What was negotiated, if the session used TLS.
    pub tls: Option<TlsInfo>,
    /// The identity of the client, if it had authenticated.
    pub identity: Option<Identity>,
}

impl SessionFacts {
    /// Creates the facts of a session of SMTP from that address, in which nothing was negotiated.
    pub fn new(id: u64, client: PeerAddr, local: PeerAddr, hostname: impl Into<String>) -> Self {
        Self {
            id,
            client,
            local,
            hostname: hostname.into(),
            protocol: Protocol::Smtp,
            profile: None,
            helo: None,
            tls: None,
            identity: None,
        }
    }
}

impl From<&Session> for SessionFacts {
    fn from(session: &Session) -> Self {
        let helo = session.helo().cloned().zip(session.greeting());
        Self {
            id: session.id(),
            client: session.client_addr().clone(),
            local: session.local_addr().clone(),
            hostname: session.hostname().to_owned(),
            protocol: session.protocol(),
            profile: session.profile(),
            helo,
            tls: session.tls().cloned(),
            identity: session.identity().cloned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::session::TlsVersion;

    #[test]
    fn a_stored_message_does_not_hold_the_permit_of_its_session() {
        let permit = Arc::new(());
        let live = Session::local();
        live.hold(permit.clone());
        let facts = SessionFacts::from(&live);
        let stored = Session::stored(facts);
        drop(live);
        assert_eq!(Arc::strong_count(&permit), 1);
        assert_eq!(stored.get::<u8>(), None);
    }

    #[test]
    fn the_facts_of_a_stored_session_are_those_of_its_own() {
        let live = Session::from_peer(([192, 0, 2, 1], 25))
            .with_helo("mx.example.com".parse().unwrap(), Greeting::Ehlo)
            .with_tls(TlsInfo::new(TlsVersion::Tls13, "TLS_AES_128_GCM_SHA256"))
            .with_profile(Profile::Submission)
            .with_identity("alice");
        let facts = SessionFacts::from(&live);
        let stored = Session::stored(facts.clone());
        assert_eq!(SessionFacts::from(&stored), facts);
        assert_eq!(stored.id(), live.id());
        let bare = SessionFacts::new(
            7,
            ([192, 0, 2, 1], 25).into(),
            ([127, 0, 0, 1], 25).into(),
            "h",
        );
        assert_eq!(SessionFacts::from(&Session::stored(bare.clone())), bare);
    }
}
