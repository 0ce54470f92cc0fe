use std::fmt;

/// A phase of a session, as a value: [`Phase::KIND`](crate::phase::Phase::KIND) of each payload.
///
/// ```
/// use smtpd_tower::{Phase, Rcpt, phase::PhaseKind};
///
/// assert_eq!(Rcpt::KIND, PhaseKind::Rcpt);
/// assert_eq!(PhaseKind::Rcpt.to_string(), "rcpt");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PhaseKind {
    /// A client has connected.
    Connect,
    /// HELO, EHLO or LHLO.
    Helo,
    /// AUTH.
    Auth,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA, or BDAT.
    Data,
    /// VRFY, EXPN, HELP, or a verb that the protocol does not know.
    Command,
}

impl PhaseKind {
    /// All phases, in the order of a session.
    #[cfg(any(all(test, feature = "test"), feature = "metrics"))]
    pub(crate) const ALL: [Self; 7] = [
        Self::Connect,
        Self::Helo,
        Self::Auth,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::Command,
    ];

    /// Returns the name of the phase, in lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Helo => "helo",
            Self::Auth => "auth",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Command => "command",
        }
    }
}

impl fmt::Display for PhaseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
