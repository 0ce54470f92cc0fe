//! The phases of a session, and what each of them asks.
//!
//! | payload | phase | asked |
//! |---|---|---|
//! | [`Connect`] | [`PhaseKind::Connect`] | when a client has connected |
//! | [`Helo`] | [`PhaseKind::Helo`] | at HELO, EHLO and LHLO |
//! | [`Auth`] | [`PhaseKind::Auth`] | when a client authenticates |
//! | [`Mail`] | [`PhaseKind::Mail`] | at MAIL |
//! | [`Rcpt`] | [`PhaseKind::Rcpt`] | at each RCPT |
//! | [`Data`] | [`PhaseKind::Data`] | at DATA, or the first BDAT, with the message |
//! | [`Command`] | [`PhaseKind::Command`] | at VRFY, EXPN, HELP and unknown verbs |
//!
//! A service is asked with a [`Request`], which holds the payload and the session. [`Phase`] is the trait of the payloads.

mod payload;
mod request;

use smtpd_core::{AuthOutcome, DataReply, Reply};

pub use self::{
    payload::{Auth, Command, Connect, Data, Helo, Mail, Rcpt},
    request::Request,
};
pub use crate::phase_kind::PhaseKind;
use crate::reply::Answer;

mod sealed {
    #[expect(unnameable_types, reason = "that is what seals the trait")]
    pub trait Sealed {}
}

/// A phase of a session. Sealed, for the protocol decides which there are.
///
/// It is there for services and layers that fit every phase: `impl<S, P: Phase> Service<Request<P>> for MyLayer<S>`.
///
/// ```
/// use smtpd_tower::{Connect, Data, Phase, phase::PhaseKind};
///
/// assert_eq!([Connect::KIND, Data::KIND], [PhaseKind::Connect, PhaseKind::Data]);
/// ```
pub trait Phase: sealed::Sealed + Send + Sync + 'static {
    /// What answers it: a [`Reply`], but for [`Auth`] and [`Data`].
    type Response: Answer;

    /// The phase as a value, for code that serves several phases and tells them apart.
    const KIND: PhaseKind;
}

macro_rules! phases {
    ($($phase:ident => $response:ty;)*) => {
        $(
            impl sealed::Sealed for $phase {}

            impl Phase for $phase {
                type Response = $response;
                const KIND: PhaseKind = PhaseKind::$phase;
            }
        )*
    };
}

phases! {
    Connect => Reply;
    Helo => Reply;
    Auth => AuthOutcome;
    Mail => Reply;
    Rcpt => Reply;
    Data => DataReply;
    Command => Reply;
}
