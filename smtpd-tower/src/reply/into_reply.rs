use std::convert::Infallible;

use smtpd_core::{
    connection::AuthOutcome,
    reply::{DataReply, Reply},
    sasl::{Identity, Secret},
};
use tower::BoxError;

use crate::body::BodyError;

mod sealed {
    /// The argument of a method that only this crate calls and overrides.
    #[expect(unnameable_types, reason = "this seals the method")]
    #[derive(Clone, Copy, Debug)]
    pub struct Internal;
}

pub(crate) use sealed::Internal;

/// What a handler may return for a phase whose response is `R`.
///
/// `()` is 250; a [`Reply`] is itself; a `Result` is whichever side it holds. A message may be answered with a [`DataReply`], one
/// reply for each recipient. AUTH is answered with an [`Identity`] (accepted), a [`Secret`] (for the mechanism to verify), an
/// [`AuthOutcome`], or a [`Reply`] that refuses.
///
/// ```
/// use smtpd_tower::{BodyError, DataReply, Reply, reply::IntoReply};
///
/// assert_eq!(IntoReply::<Reply>::into_reply(()), Reply::OK);
/// assert_eq!(
///     IntoReply::<Reply>::into_reply(Err::<(), _>(Reply::no_such_user())),
///     Reply::no_such_user()
/// );
/// let broken: DataReply = Err::<(), _>(BodyError::TooLarge).into_reply();
/// assert_eq!(broken.merged().code().as_u16(), 552);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an answer to this SMTP phase",
    label = "the handler returns this",
    note = "handlers answer with `()`, `Reply`, or a `Result` of these; DATA also with `DataReply`; AUTH with `Identity`, `Secret`, `AuthOutcome` or a refusing `Reply`",
    note = "for a text of your own use `Reply::ok(\"...\")`, `Reply::rejected(\"...\")` or `Reply::try_again(\"...\")`",
    note = "an error of another kind becomes an answer by `.map_err(|error| Reply::try_again(\"...\"))`, or by `impl From<YourError> for Reply` and `?`",
    note = "a function that returns `Result<Reply, BoxError>`, with `?` for any error, becomes a service by `tower::service_fn(...)`"
)]
pub trait IntoReply<R = Reply> {
    /// Returns the response that it stands for.
    fn into_reply(self) -> R;

    /// Returns a fault on this side that the response does not show, for the log and
    /// [`Server::on_error`](crate::server::Server::on_error).
    fn fault(&self) -> Option<BoxError> {
        None
    }

    /// Returns whether [`fault`](Self::fault) can return an error. If it cannot, a handler need not keep its session to report
    /// one. Nothing outside of this crate can call or override this, because nothing there can name the argument.
    #[doc(hidden)]
    fn has_faults(_: Internal) -> bool {
        true
    }
}

impl<R: From<Self>> IntoReply<R> for Reply {
    fn into_reply(self) -> R {
        self.into()
    }

    fn has_faults(_: Internal) -> bool {
        false
    }
}

impl IntoReply for () {
    fn into_reply(self) -> Reply {
        Reply::OK
    }

    fn has_faults(_: Internal) -> bool {
        false
    }
}

impl IntoReply<DataReply> for () {
    fn into_reply(self) -> DataReply {
        Reply::OK.into()
    }

    fn has_faults(_: Internal) -> bool {
        false
    }
}

impl IntoReply<Self> for DataReply {
    fn into_reply(self) -> Self {
        self
    }

    fn has_faults(_: Internal) -> bool {
        false
    }
}

impl<R: From<Reply>> IntoReply<R> for BodyError {
    fn into_reply(self) -> R {
        self.reply().into()
    }

    fn fault(&self) -> Option<BoxError> {
        self.is_fault().then(|| self.clone().into())
    }
}

impl IntoReply<Self> for AuthOutcome {
    fn into_reply(self) -> Self {
        self
    }

    fn has_faults(_: Internal) -> bool {
        false
    }
}

impl IntoReply<AuthOutcome> for Identity {
    fn into_reply(self) -> AuthOutcome {
        AuthOutcome::Accept(self)
    }

    fn has_faults(_: Internal) -> bool {
        false
    }
}

impl IntoReply<AuthOutcome> for Secret {
    fn into_reply(self) -> AuthOutcome {
        AuthOutcome::Verify(self)
    }

    fn has_faults(_: Internal) -> bool {
        false
    }
}

impl<R> IntoReply<R> for Infallible {
    fn into_reply(self) -> R {
        match self {}
    }

    fn has_faults(_: Internal) -> bool {
        false
    }
}

impl<R, T: IntoReply<R>, E: IntoReply<R>> IntoReply<R> for Result<T, E> {
    fn into_reply(self) -> R {
        match self {
            Ok(answer) => answer.into_reply(),
            Err(answer) => answer.into_reply(),
        }
    }

    fn fault(&self) -> Option<BoxError> {
        match self {
            Ok(answer) => answer.fault(),
            Err(answer) => answer.fault(),
        }
    }

    fn has_faults(internal: Internal) -> bool {
        T::has_faults(internal) || E::has_faults(internal)
    }
}
