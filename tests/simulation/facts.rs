//! What a service can see of its session.

use smtpd_tower::Session;

/// The facts that are reset at STARTTLS, EHLO or XCLIENT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub peer: String,
    pub tls: bool,
    pub helo: Option<String>,
    pub identity: Option<String>,
    /// What XFORWARD has reported about the message of this transaction.
    pub forwarded: Option<String>,
}

impl Facts {
    pub fn of(session: &Session) -> Self {
        let forwarded = session.forwarded();
        Self {
            peer: session.client_addr().to_string(),
            tls: session.tls().is_some(),
            helo: session.helo().map(|helo| helo.as_str().to_owned()),
            identity: session.identity().map(|name| name.as_str().to_owned()),
            forwarded: forwarded.and_then(|forwarded| forwarded.ident().map(str::to_owned)),
        }
    }

    /// The facts of a new session on that connection.
    pub fn of_connection(conn: u64) -> Self {
        Self {
            peer: format!("192.0.2.1:{conn}"),
            ..Self::default()
        }
    }
}
