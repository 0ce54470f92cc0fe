//! The work in progress for a session, except the data service.

#[cfg(feature = "tls")]
use std::{io, pin::Pin, task::ready};
use std::{
    marker::PhantomData,
    task::{Context, Poll},
};

use smtpd_core::connection::Connection;

#[cfg(feature = "proxy")]
use super::proxied::ProxyHeader;
#[cfg(feature = "tls")]
use super::secure::Handshake;
use super::{guarding::Guarding, pace::Pace};
#[cfg(feature = "tls")]
use crate::tls::Secured;
use crate::{phase_kind::PhaseKind, session::Session};

/// What to do after a service was called, or has answered.
pub(super) enum After {
    /// Nothing.
    Done,
    /// The data service was given something. Its time starts now.
    Given,
    /// HELO, EHLO or LHLO was accepted.
    Greeted,
    /// The message of the transaction was answered.
    Answered,
    /// An answer has to be waited for.
    Work(Box<dyn Asking>, Polled),
    /// A service has panicked after it had answered.
    Panicked(Box<Panic>),
}

/// A panic of something that was dropped, once its answer was passed on.
pub(super) struct Panic {
    pub(super) phase: PhaseKind,
    pub(super) message: String,
    /// What the answer leaves to do.
    pub(super) then: After,
}

/// Whether something was polled since the session was woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Polled {
    Yes,
    No,
}

/// Where an answer is passed on.
pub(super) struct Desk<'a> {
    pub(super) connection: &'a mut Connection,
    pub(super) session: &'a Session,
    pub(super) pace: &'a mut Pace,
    pub(super) guarding: &'a mut Guarding,
}

/// A service that has not answered at once, and what to do when it has.
pub(super) trait Asking: Send {
    /// Ready when the service has answered, and its answer was passed on.
    fn poll(&mut self, cx: &mut Context<'_>, desk: Desk<'_>) -> Poll<After>;
    fn phase(&self) -> PhaseKind;
    /// Returns whether this waits for a service, and not for something that the session does itself.
    fn is_service(&self) -> bool {
        true
    }
}

/// The work in progress for a session, except the data service: one thing at a time.
pub(super) struct Work<IO> {
    task: Option<Task<IO>>,
}

/// What a session may wait for, except its client. Boxed, so that an idle session does not carry it.
pub(super) enum Task<IO> {
    /// The service of a command, which has not answered at once, and whether it was polled since the session was woken. The
    /// command may come between the chunks of a message.
    Call(Box<dyn Asking>, Polled, PhantomData<IO>),
    #[cfg(feature = "tls")]
    Handshake(Handshake<IO>),
    #[cfg(feature = "proxy")]
    ProxyHeader(Box<ProxyHeader<IO>>),
}

impl<IO> Work<IO> {
    pub(super) const fn new() -> Self {
        Self { task: None }
    }

    /// Records that the session was woken.
    pub(super) const fn wake(&mut self) {
        if let Some(Task::Call(_, polled, _)) = &mut self.task {
            *polled = Polled::No;
        }
    }

    pub(super) const fn is_some(&self) -> bool {
        self.task.is_some()
    }

    pub(super) const fn is_call(&self) -> bool {
        matches!(self.task, Some(Task::Call(..)))
    }

    /// Returns whether the service for connections is running.
    pub(super) fn is_connecting(&self) -> bool {
        matches!(&self.task, Some(Task::Call(call, ..)) if call.phase() == PhaseKind::Connect)
    }

    pub(super) fn call(&mut self, call: Box<dyn Asking>, polled: Polled) {
        self.task = Some(Task::Call(call, polled, PhantomData));
    }

    pub(super) const fn take(&mut self) -> Option<Task<IO>> {
        self.task.take()
    }

    /// Polls the service of a command. Ready with what it leaves to do, and with what is left of it.
    pub(super) fn poll_call(
        &mut self,
        cx: &mut Context<'_>,
        desk: Desk<'_>,
    ) -> Poll<(After, Box<dyn Asking>)> {
        // Taken out, so that a call that panics is not polled again.
        let Some(Task::Call(mut call, Polled::No, _)) = self
            .task
            .take_if(|task| matches!(task, Task::Call(_, Polled::No, _)))
        else {
            return Poll::Pending;
        };
        match call.poll(cx, desk) {
            Poll::Ready(after) => Poll::Ready((after, call)),
            Poll::Pending => {
                self.call(call, Polled::Yes);
                Poll::Pending
            }
        }
    }
}

#[cfg(feature = "tls")]
impl<IO> Work<IO> {
    pub(super) fn handshake(&mut self, handshake: Handshake<IO>) {
        self.task = Some(Task::Handshake(handshake));
    }

    pub(super) const fn is_handshake(&self) -> bool {
        matches!(self.task, Some(Task::Handshake(_)))
    }

    pub(super) fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Secured<IO>>> {
        let Some(Task::Handshake(handshake)) = &mut self.task else {
            return Poll::Pending;
        };
        let result = ready!(Pin::new(handshake).poll(cx));
        self.task = None;
        Poll::Ready(result)
    }
}

#[cfg(feature = "proxy")]
impl<IO> Work<IO> {
    pub(super) fn proxy_header(&mut self, header: ProxyHeader<IO>) {
        self.task = Some(Task::ProxyHeader(Box::new(header)));
    }

    pub(super) fn awaited_header(&mut self) -> Option<&mut ProxyHeader<IO>> {
        match &mut self.task {
            Some(Task::ProxyHeader(header)) => Some(header),
            _ => None,
        }
    }
}

impl<IO> Task<IO> {
    /// Returns the phase whose service it is, for reports.
    pub(super) fn phase(&self) -> Option<PhaseKind> {
        match self {
            Self::Call(call, ..) => Some(call.phase()),
            #[cfg(any(feature = "tls", feature = "proxy"))]
            _ => None,
        }
    }

    /// Returns whether it has the stream: a handshake or a PROXY header is read by the owner of the stream.
    pub(super) const fn has_stream(&self) -> bool {
        !matches!(self, Self::Call(..))
    }

    /// Returns whether a service is to blame if it takes too long.
    pub(super) fn is_service(&self) -> bool {
        match self {
            Self::Call(call, ..) => call.is_service(),
            #[cfg(any(feature = "tls", feature = "proxy"))]
            _ => true,
        }
    }
}
