use smtpd_core::Reply;
use tower::BoxError;

use crate::{body::known_reply, fault};

/// Returns the reply for an error that no layer has converted to one: the first known cause decides.
///
/// | in the chain of sources | reply |
/// |---|---|
/// | a [`Reply`] | itself |
/// | a [`BodyError`](crate::body::BodyError) | [its reply](crate::body::BodyError::reply) |
/// | tower's `Elapsed` | 451 4.3.0 |
/// | tower's `Overloaded` | 451 4.3.2 |
/// | anything else | 451 4.3.0 |
///
/// A session replies to AUTH with 454 4.7.0 instead of 451 4.3.z (RFC 4954 section 6).
///
/// It never creates a 5yz: a fault on this side must not bounce mail. The text of the error is logged, and never sent to the
/// client.
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
    known_reply(&**error).unwrap_or_else(fault::local_error)
}

#[cfg(test)]
mod tests {
    use std::{error::Error, fmt, io};

    use tower::{load_shed::error::Overloaded, timeout::error::Elapsed};

    use super::*;
    use crate::body::BodyError;

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
