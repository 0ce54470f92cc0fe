use std::{any::Any, error::Error, io};

use smtpd_core::{Code, Reply, Status};
use tower::{BoxError, load_shed::error::Overloaded, timeout::error::Elapsed};

use crate::BodyError;

/// The reply for an error that no layer has turned into one: the first known cause decides.
///
/// | in the chain of sources | reply |
/// |---|---|
/// | a [`Reply`] | itself |
/// | a [`BodyError`] | [the reply](BodyError::reply) that belongs to it |
/// | tower's `Elapsed` | 451 4.3.0 |
/// | tower's `Overloaded` | 451 4.3.2 |
/// | anything else | 451 4.3.0 |
///
/// It is never a 5yz of its own making: a fault on this side must not bounce mail. The text of the error goes to the log,
/// never to the client.
///
/// ```
/// use smtpd_tower::{Reply, recover};
///
/// assert_eq!(recover(&Reply::no_such_user().into()), Reply::no_such_user());
/// assert_eq!(recover(&"password=secret".into()).to_string(), "451 4.3.0 Local error in processing");
/// ```
pub fn recover(error: &BoxError) -> Reply {
    known(&**error).unwrap_or_else(local_error)
}

/// The reply to a fault on this side.
pub(crate) fn local_error() -> Reply {
    Reply::try_again("Local error in processing")
}

/// The reply of the first cause that is known: without one, the error is a fault on this side.
pub(crate) fn known(error: &(dyn Error + 'static)) -> Option<Reply> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(reply) = error.downcast_ref::<Reply>() {
            return Some(reply.clone());
        }
        if let Some(body) = error.downcast_ref::<BodyError>() {
            return body.decision();
        }
        if error.is::<Elapsed>() {
            return Some(timed_out());
        }
        if error.is::<Overloaded>() {
            return Some(Reply::busy());
        }
        cause = cause_of(error);
    }
    None
}

/// The next error of the chain.
pub(crate) fn cause_of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    // The `source` of an `io::Error` passes over the error that it was made of.
    match error.downcast_ref().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

pub(crate) fn timed_out() -> Reply {
    Reply::new(
        Code::LOCAL_ERROR,
        Status::MAIL_SYSTEM,
        "Timed out, try again later",
    )
}

/// What a panic has to say.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[derive(Debug)]
    struct Wrapped(BoxError);

    impl fmt::Display for Wrapped {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("lookup failed")
        }
    }

    impl Error for Wrapped {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&*self.0)
        }
    }

    #[test]
    fn the_first_known_cause_decides() {
        let cases: [(BoxError, u16); 11] = [
            (Reply::no_such_user().into(), 550),
            (Elapsed::new().into(), 451),
            (Overloaded::new().into(), 451),
            (BodyError::TooLarge.into(), 552),
            (BodyError::Incomplete.into(), 451),
            ("db down".into(), 451),
            (io::Error::other(Reply::no_such_user()).into(), 550),
            (io::Error::from(BodyError::TooLarge).into(), 552),
            (BodyError::other("disk gone").into(), 451),
            (BodyError::refused(Reply::no_such_user()).into(), 550),
            (
                io::Error::from(BodyError::refused(Reply::no_such_user())).into(),
                550,
            ),
        ];
        for (error, code) in cases {
            let shown = error.to_string();
            let wrapped = Wrapped(Wrapped(error).into()).into();
            assert_eq!(recover(&wrapped).code().as_u16(), code, "{shown}");
        }
    }
}
