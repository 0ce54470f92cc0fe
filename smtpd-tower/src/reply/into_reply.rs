use std::convert::Infallible;

use smtpd_core::{
    AuthOutcome, DataReply, Reply,
    sasl::{Identity, Secret},
};
use tower::BoxError;

use crate::body::BodyError;

/// What a handler may return for a phase whose response is `R`.
///
/// `()` is 250; a [`Reply`] is itself; a `Result` is whichever side it holds. A message may be answered with a [`DataReply`], one
/// reply for each recipient. AUTH is answered with an [`Identity`] (accepted), a [`Secret`] (for the mechanism to verify), an
/// [`AuthOutcome`], or a [`Reply`] that refuses.
///
/// ```
/// use smtpd_tower::{BodyError, DataReply, IntoReply, Reply};
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
    /// Whether [`fault`](Self::fault) may return one. If not, a call costs a little less.
    const HAS_FAULTS: bool = true;

    /// Returns the response that it stands for.
    fn into_reply(self) -> R;

    /// Returns a fault on this side that the response does not show, for the log and
    /// [`Server::on_error`](crate::server::Server::on_error).
    fn fault(&self) -> Option<BoxError> {
        None
    }
}

impl<R: From<Self>> IntoReply<R> for Reply {
    const HAS_FAULTS: bool = false;

    fn into_reply(self) -> R {
        self.into()
    }
}

impl IntoReply for () {
    const HAS_FAULTS: bool = false;

    fn into_reply(self) -> Reply {
        Reply::OK
    }
}

impl IntoReply<DataReply> for () {
    const HAS_FAULTS: bool = false;

    fn into_reply(self) -> DataReply {
        Reply::OK.into()
    }
}

impl IntoReply<Self> for DataReply {
    const HAS_FAULTS: bool = false;

    fn into_reply(self) -> Self {
        self
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
    const HAS_FAULTS: bool = false;

    fn into_reply(self) -> Self {
        self
    }
}

impl IntoReply<AuthOutcome> for Identity {
    const HAS_FAULTS: bool = false;

    fn into_reply(self) -> AuthOutcome {
        AuthOutcome::Accept(self)
    }
}

impl IntoReply<AuthOutcome> for Secret {
    const HAS_FAULTS: bool = false;

    fn into_reply(self) -> AuthOutcome {
        AuthOutcome::Verify(self)
    }
}

impl<R> IntoReply<R> for Infallible {
    const HAS_FAULTS: bool = false;

    fn into_reply(self) -> R {
        match self {}
    }
}

impl<R, T: IntoReply<R>, E: IntoReply<R>> IntoReply<R> for Result<T, E> {
    const HAS_FAULTS: bool = T::HAS_FAULTS || E::HAS_FAULTS;

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
}
