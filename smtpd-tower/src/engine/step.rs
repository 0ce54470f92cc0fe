//! The steps of the connection, each taken.

use std::task::{Context, Poll};

use bytes::Bytes;
use smtpd_core::{
    AuthRequest, CloseReason, CommandLine, Deferred, Envelope, Forwarded, Helo, MailCommand,
    MessageError, Overdue, RcptCommand, Step, WireLine, XClient, ask_kind as ask, sasl::Identity,
};
use tokio::time::Instant;

use super::{
    Driver, Io, Work,
    wait::{Wait, Want},
};
use crate::{
    phase_kind::PhaseKind,
    session::{EndReason, SessionError},
};

/// What is left to be done after a step.
pub(super) enum Next {
    Again,
    /// Other tasks have to get their turn.
    Pause,
    Wait(Wait),
    End(EndReason),
}

/// A step that does not borrow the connection. A [`Step`] borrows it until the end of a `match`, within which nothing else could
/// be done for the session. Every question is deferred, because its service may take its time.
enum Turn {
    Done,
    Wait(Wait),
    Lost(std::io::Error),
    Starved(Instant),
    Closed(CloseReason),
    #[cfg(feature = "tls")]
    Handshake(Instant),
    Connect(Deferred<ask::Connect>),
    XClient(Box<XClient>, Deferred<ask::Connect>),
    Helo(Helo, Deferred<ask::Helo>),
    Auth(AuthRequest, Deferred<ask::Auth>),
    Mail(MailCommand, Deferred<ask::Mail>),
    Rcpt(RcptCommand, Deferred<ask::Rcpt>),
    Command(CommandLine, Deferred<ask::Command>),
    Data(Deferred<ask::Data>),
    Chunk(Bytes),
    ChunkEnd(Deferred<ask::Chunk>),
    Message(Result<(), MessageError>, Deferred<ask::Message>),
    Authenticated(Identity),
    Reset(Option<std::sync::Arc<Envelope>>),
    XForward(Box<Forwarded>),
    Overdue(Overdue),
    Line(WireLine),
}

impl<IO: Io> Driver<IO> {
    /// Takes the next step of the session.
    pub(super) fn step(&mut self, cx: &mut Context<'_>) -> Next {
        if (self.work.is_some() || self.transfer.is_some())
            && let Some(next) = self.step_at_work(cx)
        {
            return next;
        }
        match self.poll_connection(cx) {
            Turn::Done => {}
            Turn::Wait(wait) => return Next::Wait(wait),
            Turn::Starved(until) => return self.starved(cx, until),
            Turn::Closed(reason) => return self.closed(reason),
            #[cfg(feature = "tls")]
            Turn::Handshake(until) => return self.handshake(until),
            Turn::Lost(error) => self.lost(Some(error)),
            Turn::Connect(question) => self.connect(cx, question),
            Turn::XClient(client, question) => self.xclient(cx, *client, question),
            Turn::Helo(helo, question) => self.helo(cx, helo, question),
            Turn::Auth(request, question) => self.auth(cx, request, question),
            Turn::Mail(mail, question) => self.mail(cx, mail, question),
            Turn::Rcpt(rcpt, question) => self.rcpt(cx, rcpt, question),
            Turn::Command(line, question) => self.command(cx, line, question),
            Turn::Data(question) => self.data(cx, question),
            Turn::Chunk(bytes) => self.chunk(cx, bytes),
            Turn::ChunkEnd(question) => self.chunk_end(cx, question),
            Turn::Message(result, question) => self.message_end(cx, result, question),
            Turn::Authenticated(identity) => self.session.authenticated(identity),
            Turn::Reset(envelope) => self.reset(envelope.as_deref()),
            Turn::XForward(forwarded) => self.session.forward(Some(*forwarded)),
            Turn::Overdue(overdue) => self.overdue(overdue),
            Turn::Line(line) => self.line(&line),
        }
        Next::Again
    }

    /// Lets what is at work for the session go on. `None` where the connection has the next step.
    fn step_at_work(&mut self, cx: &mut Context<'_>) -> Option<Next> {
        // An answer that is there leaves with the replies before it.
        if self.poll_asked(cx).is_ready() {
            self.catch_up();
            return Some(Next::Again);
        }
        #[cfg(feature = "proxy")]
        if let Some(next) = self.awaits_proxy_header(cx) {
            return Some(next);
        }
        self.awaits_clean_up()
    }

    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Turn {
        let now = self.pace.now().into_std();
        match self.connection.poll(now, &mut self.wire.input) {
            Step::Write(mut writing) => match self.wire.poll_write(cx, &mut writing, now) {
                Poll::Ready(Ok(())) => Turn::Done,
                Poll::Ready(Err(error)) => Turn::Lost(error),
                Poll::Pending => Turn::Wait(Wait::new(Want::Room, writing.until())),
            },
            Step::Read(reading) => Turn::Starved(Instant::from_std(reading.until())),
            Step::Answer(answer) => Turn::Wait(Wait::new(Want::of(&answer), answer.until())),
            Step::Closed(reason) => Turn::Closed(reason),
            #[cfg(feature = "tls")]
            Step::Handshake(handshake) => Turn::Handshake(Instant::from_std(handshake.until())),
            #[cfg(not(feature = "tls"))]
            Step::Handshake(handshake) => {
                handshake.failed();
                Turn::Done
            }
            Step::Connect(ask) => Turn::Connect(ask.queue()),
            Step::XClient(client, ask) => Turn::XClient(client, ask.queue()),
            Step::Helo(helo, ask) => Turn::Helo(helo, ask.queue()),
            Step::Auth(request, ask) => Turn::Auth(request, ask.queue()),
            Step::Mail(mail, ask) => Turn::Mail(mail, ask.queue()),
            Step::Rcpt(rcpt, ask) => Turn::Rcpt(rcpt, ask.queue()),
            Step::Command(line, ask) => Turn::Command(line, ask.queue()),
            Step::StartTls(ask) => {
                ask.accept();
                Turn::Done
            }
            Step::Data(ask) => Turn::Data(ask.queue()),
            Step::Chunk(bytes, _) => Turn::Chunk(bytes),
            Step::ChunkEnd(ask) => Turn::ChunkEnd(ask.defer()),
            Step::Message(result, ask) => Turn::Message(result, ask.defer()),
            Step::Authenticated(identity) => Turn::Authenticated(identity),
            Step::Reset(envelope) => Turn::Reset(envelope),
            Step::XForward(forwarded) => Turn::XForward(forwarded),
            Step::Overdue(overdue) => Turn::Overdue(overdue),
            Step::Line(line) => Turn::Line(line),
        }
    }

    /// All that has come is used up.
    fn starved(&mut self, cx: &mut Context<'_>, until: Instant) -> Next {
        if self.hand_over(cx) {
            return Next::Again;
        }
        if self.connection.is_receiving() {
            self.wire.begin_large();
        }
        Next::Wait(Wait {
            want: Want::Input,
            until,
        })
    }

    /// The connection has failed.
    pub(super) fn lost(&mut self, error: Option<std::io::Error>) {
        if let Some(error) = error {
            self.report(SessionError::Io(error));
        }
        self.wire.dead = true;
        self.connection.handle_lost();
    }

    /// Drops what is at work, since nobody waits for it any more. A panic in its `Drop` is reported.
    pub(super) fn give_up_work(&mut self) {
        if let Some(work) = self.work.take() {
            // A handshake, or a PROXY header, is read by who has the stream.
            self.wire.dead |= !matches!(work, Work::Call(_));
            let phase = work.phase();
            self.drop_caught(phase, work);
        }
        self.give_up_transfer();
    }

    pub(super) fn give_up_transfer(&mut self) {
        if let Some(transfer) = self.transfer.take() {
            self.wire.end_large();
            self.drop_caught(Some(PhaseKind::Data), transfer);
        }
    }

    /// Drops what is a service's. A panic in its `Drop` ends the session, but not before what was answered is said.
    pub(super) fn drop_caught<T>(&mut self, phase: Option<PhaseKind>, dropped: T) {
        if let Err(message) = crate::fault::caught(|| drop(dropped)) {
            self.report(SessionError::Panic { phase, message });
            self.connection.end(crate::fault::internal_error());
        }
    }
}

impl<IO: Io> Work<IO> {
    /// The phase whose service it is, for reports.
    pub(super) fn phase(&self) -> Option<PhaseKind> {
        match self {
            Self::Call(call) => Some(call.phase()),
            #[cfg(feature = "tls")]
            Self::Handshake(_) => None,
            #[cfg(feature = "proxy")]
            Self::ProxyHeader(_) => None,
        }
    }

    /// Whether a service is to blame where it takes too long.
    pub(super) fn is_service(&self) -> bool {
        match self {
            Self::Call(call) => call.is_service(),
            #[cfg(any(feature = "tls", feature = "proxy"))]
            _ => true,
        }
    }
}
