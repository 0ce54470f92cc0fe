use smtpd_core::reply::Reply;
use tower::BoxError;

use crate::{
    body::{known_reply, thrown_reply},
    fault,
};

/// Returns the reply for an error that no layer has converted to one: the first known cause decides, and a decision comes before
/// a fault.
///
/// | in the chain of sources | reply |
/// |---|---|
/// | a [`Reply`] | itself |
/// | a [`BodyError`](crate::body::BodyError) | [its reply](crate::body::BodyError::reply) |
/// | tower's `Elapsed` | 451 4.3.0 |
/// | tower's `Overloaded` | 451 4.3.2 |
/// | an `io::Error` of the kind `StorageFull` | 452 4.3.1, and it remains a fault |
/// | an `io::Error` of the kind `QuotaExceeded` | 452 4.2.2, likewise |
/// | anything else | 451 4.3.0 |
///
/// A session replies to AUTH with 454 4.7.0 instead of these (RFC 4954 section 6).
///
/// It never creates a 5yz: a fault on this side must not bounce mail. The text of the error is logged, and never sent to the
/// client.
///
/// [The guide](crate::guide::errors) has a table of what becomes which reply.
///
/// ```
/// use smtpd_tower::{Reply, recover};
///
/// assert_eq!(recover(&Reply::no_such_user().into()), Reply::no_such_user());
/// assert_eq!(
///     recover(&"password=secret".into()).to_string(),
///     "451 4.3.0 Local error in processing"
/// );
/// ```
pub fn recover(error: &BoxError) -> Reply {
    known_reply(&**error).unwrap_or_else(|| fault::reply_to_fault(&**error))
}

/// Turns a decision that a service has thrown, for example by `?`, back into a response. A fault stays an error.
pub(crate) fn decided<R: From<Reply>>(error: BoxError) -> Result<R, BoxError> {
    match thrown_reply(&*error) {
        Some(reply) => Ok(reply.into()),
        None => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::{error::Error, fmt, io};

    use tower::{load_shed::error::Overloaded, timeout::error::Elapsed};

    use super::*;
    use crate::{body::BodyError, reply::Verdict};

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
    fn a_full_disk_is_a_local_error_unless_its_service_says_so() {
        use io::ErrorKind::{Other, PermissionDenied, QuotaExceeded, StorageFull};
        for (kind, expected) in [
            (StorageFull, "452 4.3.1 Insufficient system storage"),
            (QuotaExceeded, "452 4.2.2 Mailbox full"),
            (PermissionDenied, "451 4.3.0 Local error in processing"),
        ] {
            let full = || io::Error::from(kind);
            let cases: [BoxError; 7] = [
                full().into(),
                io::Error::other(full()).into(),
                io::Error::new(Other, Wrapped(full().into())).into(),
                Wrapped(Wrapped(full().into()).into()).into(),
                BodyError::from(full()).into(),
                BodyError::other(Wrapped(full().into())).into(),
                io::Error::from(BodyError::other(full())).into(),
            ];
            for error in cases {
                assert_eq!(recover(&error).to_string(), expected, "{error:?}");
                assert_eq!(Verdict::of::<Reply>(&Err(error)), Verdict::Failed);
            }
            for error in [BodyError::from(full()), BodyError::other(full())] {
                assert_eq!(error.reply().to_string(), expected, "{error:?}");
                assert!(error.is_fault(), "{error:?}");
            }
            // What is known of the message comes first.
            let decided = io::Error::new(kind, BodyError::TooLarge);
            assert_eq!(recover(&decided.into()).code().as_u16(), 552);
            let decided = io::Error::new(kind, Reply::no_such_user());
            assert_eq!(recover(&decided.into()).code().as_u16(), 550);
        }
        #[cfg(target_os = "linux")]
        for (number, code) in [(28, "452 4.3.1"), (122, "452 4.2.2"), (13, "451 4.3.0")] {
            let error = io::Error::from_raw_os_error(number); // ENOSPC, EDQUOT, EACCES
            assert!(recover(&error.into()).to_string().starts_with(code));
        }
    }

    #[test]
    fn only_a_decision_is_turned_back_into_a_response() {
        let decisions: [BoxError; 3] = [
            Reply::no_such_user().into(),
            Wrapped(io::Error::other(Reply::no_such_user()).into()).into(),
            BodyError::other(BodyError::refused(Reply::no_such_user())).into(),
        ];
        for error in decisions {
            let shown = error.to_string();
            let decided = decided::<Reply>(error).expect(&shown);
            assert_eq!(decided, Reply::no_such_user());
        }
        // Layers outside may look for the errors of tower's layers.
        let others: [BoxError; 4] = [
            "db down".into(),
            BodyError::other("disk gone").into(),
            Elapsed::new().into(),
            Overloaded::new().into(),
        ];
        for error in others {
            let shown = error.to_string();
            let error = decided::<Reply>(error).expect_err("a fault");
            assert_eq!(error.to_string(), shown);
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
