//! The phases of a session, and the request of each.
//!
//! | payload | phase | called |
//! |---|---|---|
//! | [`Connect`] | [`PhaseKind::Connect`] | when a client has connected |
//! | [`Helo`] | [`PhaseKind::Helo`] | for HELO, EHLO and LHLO |
//! | [`Auth`] | [`PhaseKind::Auth`] | when a client authenticates |
//! | [`Mail`] | [`PhaseKind::Mail`] | for MAIL |
//! | [`Rcpt`] | [`PhaseKind::Rcpt`] | for each RCPT |
//! | [`Data`] | [`PhaseKind::Data`] | for DATA, or the first BDAT, with the message |
//! | [`Command`] | [`PhaseKind::Command`] | for VRFY, EXPN, HELP and unknown verbs |
//!
//! A service is called with a [`Request`], which holds the payload, the session and the [`Deadline`] of the answer. [`Phase`] is
//! the trait of the payloads.
//!
//! A payload contains the value that [`smtpd_core`] returns for the command, for example a
//! [`MailCommand`](smtpd_core::connection::MailCommand), and forwards to it. It is a type of its own because a service may need
//! more than the command: [`Rcpt`] adds the envelope, which a driver of `smtpd-core` reads from the connection, and [`Data`] the
//! body. The value is moved into the payload, not copied.

mod command;
mod deadline;
mod payload;
mod request;

use smtpd_core::reply::{DataReply, Reply};

pub use self::{
    command::Command,
    deadline::Deadline,
    payload::{Auth, Connect, Data, Helo, Mail, Rcpt},
    request::Request,
};
pub use crate::phase_kind::PhaseKind;
use crate::reply::Answer;
#[doc(inline)]
pub use smtpd_core::connection::AuthOutcome;

mod sealed {
    #[expect(unnameable_types, reason = "this seals the trait")]
    pub trait Sealed {}
}

/// A phase of a session. Sealed, because the protocol defines the phases.
///
/// Use it for services and layers that fit every phase: `impl<S, P: Phase> Service<Request<P>> for MyLayer<S>`.
///
/// [The guide](crate::guide::phases) describes each of them: when it is called, and with which replies.
///
/// ```
/// use smtpd_tower::{Connect, Data, Phase, phase::PhaseKind};
///
/// assert_eq!([Connect::KIND, Data::KIND], [PhaseKind::Connect, PhaseKind::Data]);
/// ```
pub trait Phase: sealed::Sealed + Send + Sync + 'static {
    /// The type of its response: a [`Reply`], except for [`Auth`] and [`Data`].
    type Response: Answer;

    /// The phase as a value, for code that serves several phases and distinguishes them.
    const KIND: PhaseKind;

    /// Returns the response of a [`Pipeline`](crate::service::Pipeline) that has no service for this phase.
    ///
    /// ```
    /// use smtpd_tower::{Connect, Phase, Rcpt, Reply};
    ///
    /// assert_eq!(Connect::new().default_response(), Reply::OK);
    /// assert_eq!(
    ///     Rcpt::new("user@example.org".parse()?).default_response(),
    ///     Reply::relay_denied()
    /// );
    /// # Ok::<(), smtpd_tower::address::AddressError>(())
    /// ```
    fn default_response(&self) -> Self::Response;
}

/// The reply to RCPT if no service is set, and if no route of a router matches.
pub(crate) const fn no_recipient() -> Reply {
    Reply::relay_denied()
}

/// The reply to DATA if no service is set, and if no route of a router matches.
pub(crate) fn no_delivery() -> Reply {
    Reply::try_again("No delivery is set up")
}

macro_rules! phases {
    ($($phase:ident => $response:ty, $default:expr;)*) => {
        $(
            impl sealed::Sealed for $phase {}

            impl Phase for $phase {
                type Response = $response;
                const KIND: PhaseKind = PhaseKind::$phase;

                fn default_response(&self) -> $response {
                    let default: fn(&Self) -> $response = $default;
                    default(self)
                }
            }
        )*
    };
}

phases! {
    Connect => Reply, |_| Reply::OK;
    Helo => Reply, |_| Reply::OK;
    Auth => AuthOutcome, |_| Reply::auth_failed().into();
    Mail => Reply, |_| Reply::OK;
    Rcpt => Reply, |_| no_recipient();
    Data => DataReply, |_| no_delivery().into();
    Command => Reply, |command| command.default_reply().clone();
}
