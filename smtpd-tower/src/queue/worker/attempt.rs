//! A call of the service.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, SystemTime},
};

use smtpd_core::reply::{Code, DataReply, Reply, Status};
use tokio::time::{Instant, timeout};
use tower::{BoxError, Service, ServiceExt};

use crate::{
    body::Spooled,
    fault::{local_error, panic_message, quietly},
    phase::{Data, Request},
    queue::{Job, terms::parameters_at},
    reply::recover,
    session::Session,
};

/// What the service has done with a message for which it replies 2yz: what a sender is told who wants to know of success (RFC 3464
/// section 2.3.3).
///
/// A service that knows better than the default puts it into the transaction of the [session](Request::session) that it was called
/// with: `session.transaction().insert(Disposition::Relayed)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Disposition {
    /// It is in the mailbox. The sender is told `delivered`.
    #[default]
    Delivered,
    /// It was passed on to a server that does not notify. The sender is told `relayed`.
    Relayed,
    /// It was passed on to a server that notifies the sender itself (RFC 3461), so he is not told here.
    PassedOn,
    /// It was sent to the members of a list. The sender is told `expanded`.
    Expanded,
}

/// The end of an attempt.
pub(super) struct Attempt {
    pub(super) reply: DataReply,
    pub(super) disposition: Disposition,
    pub(super) took: Duration,
    /// The reply, if the destination could not be reached.
    pub(super) fault: Option<Reply>,
}

/// What is to be delivered, and to whom.
pub(super) struct Delivery {
    pub(super) job: Arc<Job>,
    pub(super) message: Spooled,
    pub(super) recipients: Vec<usize>,
    pub(super) timeout: Duration,
    pub(super) now: SystemTime,
}

impl Delivery {
    /// Calls the service. A panic, an error that is no decision and the timeout become 451.
    pub(super) async fn run<S>(self, service: S) -> Attempt
    where
        S: Service<Request<Data>>,
        S::Response: Into<DataReply>,
        S::Error: Into<BoxError>,
    {
        let start = Instant::now();
        let session = Session::stored(self.job.facts().clone());
        session.transaction().insert(self.job.id().clone());
        let request = Request::new(session.clone(), self.data());
        let called = timeout(self.timeout, caught_panics(service.oneshot(request)));
        let (reply, is_error) = match called.await {
            Ok(Ok(Ok(response))) => (response.into(), false),
            Ok(Ok(Err(error))) => self.error(error.into()),
            Ok(Err(panic)) => {
                let (id, panic) = (self.job.id(), panic.escape_debug());
                quietly(|| tracing::error!(%id, %panic, "a delivery panicked"));
                (local_error().into(), true)
            }
            Err(_) => (timed_out().into(), true),
        };
        Attempt {
            fault: fault_of(&reply, is_error),
            reply,
            disposition: session.transaction().get().unwrap_or_default(),
            took: start.elapsed(),
        }
    }

    fn error(&self, error: BoxError) -> (DataReply, bool) {
        let reply = recover(&error);
        let is_fault = reply.origin().is_some_and(|origin| !origin.is_decision());
        if is_fault {
            let id = self.job.id();
            quietly(|| tracing::error!(%id, error = %Chain(&*error), "a delivery failed"));
        }
        (reply.into(), is_fault)
    }

    fn data(&self) -> Data {
        let (mut number, all) = (0, self.job.envelope());
        let envelope = all.subset(|_| {
            number += 1;
            self.recipients.contains(&(number - 1))
        });
        let envelope = envelope.with_parameters(parameters_at(&self.job, self.now));
        Data::new(envelope, self.message.body())
    }
}

/// An error with its sources, on one line.
struct Chain<'a>(&'a (dyn std::error::Error + 'static));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = self.0.to_string();
        let mut source = self.0.source();
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        write!(f, "{}", text.escape_debug())
    }
}

fn timed_out() -> Reply {
    let status = Status::new(4, 2).unwrap_or_default();
    Reply::new(Code::LOCAL_ERROR, status, "The delivery took too long")
}

/// Returns the reply if it says that a destination cannot be reached: RFC 3463 section 3.5 for all recipients, or 421.
fn fault_of(reply: &DataReply, is_error: bool) -> Option<Reply> {
    let is_fault = |reply: &Reply| {
        reply.code().is_transient() && (reply.status().subject() == 4 || reply.closes())
    };
    let is_fault = is_error || reply.replies().iter().all(is_fault);
    is_fault.then(|| reply.merged().clone())
}

/// Polls a future. Returns its output, or the message of its panic.
async fn caught_panics<F: Future>(future: F) -> Result<F::Output, String> {
    let mut future = pin!(future);
    std::future::poll_fn(move |cx| {
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(panic_message(&*panic))),
        }
    })
    .await
}
