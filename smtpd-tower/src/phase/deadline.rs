use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::body::Due;

/// When the session replies to a request by itself, because the service has taken too long:
/// [`Timeouts`](smtpd_core::Timeouts) sets it.
///
/// A layer that makes an answer wait, and would rather give it early than lose it, asks for it. For a message, the deadline
/// changes: there is none while the service reads what the client sends.
///
/// ```
/// use smtpd_tower::{Rcpt, Request, Session};
/// use tokio::time::Instant;
///
/// # fn rcpt() -> Result<Request<Rcpt>, Box<dyn std::error::Error>> {
/// #     Ok(Request::new(Session::local(), Rcpt::new("b@example.org".parse()?)))
/// # }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let request = rcpt()?;
/// let deadline = request.deadline().clone();
/// // Only a request that comes from a session has one.
/// assert_eq!(deadline.instant(), None);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Deadline(Kind);

#[derive(Clone, Debug, Default)]
enum Kind {
    #[default]
    Never,
    At(Instant),
    Message(Due),
    Part(Part),
}

/// A part of a message, whose deadline depends on what the other parts do.
#[derive(Clone)]
struct Part(Arc<dyn Fn() -> Option<Instant> + Send + Sync>);

// By hand: a closure has no Debug.
impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.0)().fmt(f)
    }
}

impl Deadline {
    /// The deadline of a request that does not come from a session.
    pub const NEVER: Self = Self(Kind::Never);

    /// Creates a deadline, for tests.
    pub const fn at(instant: Instant) -> Self {
        Self(Kind::At(instant))
    }

    pub(crate) const fn of_message(due: Due) -> Self {
        Self(Kind::Message(due))
    }

    pub(crate) fn of_part(due: impl Fn() -> Option<Instant> + Send + Sync + 'static) -> Self {
        Self(Kind::Part(Part(Arc::new(due))))
    }

    /// Returns the deadline as it is now, or `None` if nothing waits for the answer.
    pub fn instant(&self) -> Option<Instant> {
        match &self.0 {
            Kind::Never => None,
            Kind::At(instant) => Some(*instant),
            Kind::Message(due) => due.get(),
            Kind::Part(part) => (part.0)(),
        }
    }

    /// Moves the deadline, because the service was not ready for so long.
    pub(crate) fn postpone(&mut self, by: Duration) {
        match &mut self.0 {
            // The limit of a part includes the time in which its service is not ready.
            Kind::Never | Kind::Part(_) => {}
            Kind::At(instant) => *instant = later(*instant, by),
            Kind::Message(due) => due.set(due.get().map(|instant| later(instant, by))),
        }
    }
}

/// If that cannot be represented, the deadline stays where it is.
fn later(instant: Instant, by: Duration) -> Instant {
    instant.checked_add(by).unwrap_or(instant)
}
