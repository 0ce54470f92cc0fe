//! Takes the steps of the connection.

use std::task::{Context, Poll, ready};

#[cfg(feature = "tls")]
use smtpd_core::connection::TlsFacts;
use smtpd_core::connection::{CloseReason, Handshaking, Step, Writing};
use tokio::time::Instant;

use super::{
    Driver, commands,
    stream::Io,
    updates,
    wait::{Wait, Want},
    wire::Wire,
    work::{After, Desk, Panic},
};
#[cfg(feature = "tls")]
use super::{closing, secure::handshake, stream::Stream};
use crate::{
    fault::quietly,
    phase_kind::PhaseKind,
    session::{EndReason, SessionError},
};
#[cfg(feature = "tls")]
use crate::{guard::GuardReason, tls::Secured};

/// What to do after a step.
pub(super) enum Next {
    Again,
    /// Other tasks have to run.
    Pause,
    Wait(Wait),
    End(EndReason),
}

/// What a step leaves to do for the session. A [`Step`] borrows the connection until the end of a `match`, which may call a
/// service, but cannot do anything that needs the whole session.
enum Taken {
    After(After),
    Wait(Wait),
    NeedInput(Instant),
    Lost(std::io::Error),
    Closed(CloseReason),
    #[cfg(feature = "tls")]
    Handshake(Instant),
    Overdue,
}

impl Taken {
    fn of_write<IO: Io>(
        wire: &mut Wire<IO>,
        cx: &mut Context<'_>,
        mut writing: Writing<'_>,
        now: std::time::Instant,
    ) -> Self {
        match wire.poll_write(cx, &mut writing, now) {
            Poll::Ready(Ok(())) => Self::After(After::Done),
            Poll::Ready(Err(error)) => Self::Lost(error),
            Poll::Pending => Self::Wait(Wait::new(Want::Room, writing.until())),
        }
    }

    #[cfg(feature = "tls")]
    fn of_handshake(tls: Handshaking<'_>) -> Self {
        Self::Handshake(Instant::from_std(tls.until()))
    }

    /// STARTTLS is not offered without the feature, so this is never needed.
    #[cfg(not(feature = "tls"))]
    fn of_handshake(tls: Handshaking<'_>) -> Self {
        tls.failed();
        Self::After(After::Done)
    }
}

impl<IO: Io> Driver<IO> {
    /// Takes the next step of the session.
    pub(super) fn step(&mut self, cx: &mut Context<'_>) -> Next {
        if (self.work.is_some() || self.transfer.is_some())
            && let Some(next) = self.step_at_work(cx)
        {
            return next;
        }
        match self.take_step(cx) {
            Taken::After(after) => self.follow_up(after),
            Taken::Wait(wait) => return Next::Wait(wait),
            Taken::NeedInput(until) => return self.need_input(cx, until),
            Taken::Lost(error) => self.lost(Some(error)),
            Taken::Closed(reason) => return self.closed(reason),
            #[cfg(feature = "tls")]
            Taken::Handshake(until) => return self.handshake(until),
            Taken::Overdue => self.overdue(),
        }
        Next::Again
    }

    /// Continues the work in progress. Returns `None` if the connection has the next step.
    fn step_at_work(&mut self, cx: &mut Context<'_>) -> Option<Next> {
        // An answer that is ready leaves with the replies before it.
        if self.poll_asked(cx).is_ready() {
            self.pace.catch_up(&mut self.connection);
            return Some(Next::Again);
        }
        #[cfg(feature = "proxy")]
        if let Some(next) = self.awaits_proxy_header(cx) {
            return Some(next);
        }
        self.awaits_clean_up()
    }

    fn take_step(&mut self, cx: &mut Context<'_>) -> Taken {
        let now = self.pace.now().into_std();
        let (pipeline, session) = (&self.engine.pipeline, &mut self.session);
        let after = match self.connection.poll(now, &mut self.wire.input) {
            Step::Write(writing) => return Taken::of_write(&mut self.wire, cx, writing, now),
            Step::Read(reading) => return Taken::NeedInput(Instant::from_std(reading.until())),
            Step::Answer(answer) => {
                return Taken::Wait(Wait::new(Want::of(&answer), answer.until()));
            }
            Step::Closed(reason) => return Taken::Closed(reason),
            Step::Handshake(tls) => return Taken::of_handshake(tls),
            Step::StartTls(ask) => self.guarding.start_tls(ask),
            Step::Connect(ask) => commands::connect(cx, pipeline, session, ask),
            Step::XClient(client, ask) => {
                updates::impersonated(session, &mut self.transfer, *client);
                let log = &mut self.refusal_log;
                self.guarding.xclient(cx, &self.engine, session, log, ask)
            }
            Step::Helo(helo, ask) => commands::helo(cx, pipeline, session, helo, ask),
            Step::Auth(request, ask) => self.guarding.auth(cx, &self.engine, session, request, ask),
            Step::Mail(mail, ask) => {
                updates::begun(session, &mut self.transfer);
                commands::mail(cx, pipeline, session, mail, ask)
            }
            Step::Rcpt(rcpt, ask) => commands::rcpt(cx, pipeline, session, rcpt, ask),
            Step::Command(line, ask) => commands::command(cx, pipeline, session, line, ask),
            Step::Data(ask) => {
                let memory = self.guarding.next_message(session);
                self.transfer.start(cx, pipeline, session, memory, ask)
            }
            Step::Chunk(bytes, message) => self.transfer.chunk(cx, self.wire.piece(bytes), message),
            Step::ChunkEnd(ask) => self.transfer.chunk_end(cx, ask),
            Step::Message(result, ask) => self.transfer.end(cx, result, ask),
            Step::Authenticated(identity) => updates::authenticated(session, identity),
            Step::Reset(envelope) => {
                updates::reset(&self.engine.hooks, session, &mut self.transfer, envelope)
            }
            Step::XForward(forwarded) => updates::forwarded(session, *forwarded),
            Step::Line(line) => updates::line(&self.engine.hooks, session, &line),
            Step::Answered(answered) => {
                self.refusal_log
                    .report(&self.engine.hooks, session, answered)
            }
            Step::Overdue(_) => return Taken::Overdue,
        };
        Taken::After(after)
    }

    /// Does what a question or an answer leaves to do.
    fn follow_up(&mut self, after: After) {
        match after {
            After::Done => {}
            After::Given => {
                self.pace.catch_up(&mut self.connection);
            }
            After::Greeted => {
                if let Some(helo) = self.connection.helo() {
                    self.session.greeted(helo.name().clone(), helo.greeting());
                    // An open transaction ends by the step that follows.
                    self.session.forward(None);
                }
            }
            After::Answered => {
                self.wire.end_large();
                self.transfer.end_transaction(&mut self.session);
            }
            After::Work(call, polled) => {
                // The service's time starts now, and not when the session was woken.
                self.pace.catch_up(&mut self.connection);
                self.work.call(call, polled);
            }
            After::Panicked(panic) => {
                let Panic {
                    phase,
                    message,
                    then,
                } = *panic;
                self.follow_up(then);
                self.panicked(Some(phase), message);
            }
        }
    }

    /// Polls the service of a command.
    pub(super) fn poll_call(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let desk = Desk {
            connection: &mut self.connection,
            session: &self.session,
            pace: &mut self.pace,
            guarding: &mut self.guarding,
        };
        let (after, call) = ready!(self.work.poll_call(cx, desk));
        self.follow_up(after);
        self.drop_caught(Some(call.phase()), call);
        Poll::Ready(())
    }

    /// Polls the data service. Ready when it has answered, or wants more of the message.
    pub(super) fn poll_transfer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let desk = Desk {
            connection: &mut self.connection,
            session: &self.session,
            pace: &mut self.pace,
            guarding: &mut self.guarding,
        };
        let after = ready!(self.transfer.poll(cx, desk));
        self.follow_up(after);
        Poll::Ready(())
    }

    /// All input is used up.
    fn need_input(&mut self, cx: &Context<'_>, until: Instant) -> Next {
        if self.transfer.hand_over(cx, &mut self.connection) {
            self.pace.catch_up(&mut self.connection);
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

    /// A service timed out, or no processor was free in time. The client has received the reply.
    fn overdue(&mut self) {
        let Some(task) = self.work.take() else {
            let phase = PhaseKind::Data;
            self.report(SessionError::ServiceTimeout { phase });
            self.give_up_transfer();
            return self.transfer.end_transaction(&mut self.session);
        };
        match task.phase() {
            Some(phase) if task.is_service() => {
                self.report(SessionError::ServiceTimeout { phase });
            }
            _ => {
                let (session, peer) = (self.session.id(), self.session.client_addr());
                quietly(|| tracing::warn!(session, %peer, "a password was not compared in time"));
            }
        }
        self.drop_task(task);
    }

    /// The protocol is over, and everything is written.
    fn closed(&mut self, reason: CloseReason) -> Next {
        #[cfg(feature = "tls")]
        if reason == CloseReason::TlsFailed && self.work.is_handshake() {
            self.report(SessionError::Tls(std::io::ErrorKind::TimedOut.into()));
        }
        if self.abandon_work() {
            // The service is notified before anything is waited for.
            return Next::Again;
        }
        let now = self.pace.now();
        let is_dead = self.wire.is_dead();
        let closing = self.hurry();
        closing.set_lingers(!matches!(reason, CloseReason::Quit | CloseReason::Lost));
        if is_dead || closing.is_over(now) {
            return Next::End(end_reason(reason));
        }
        Next::Wait(Wait {
            want: Want::Close,
            until: closing.until(),
        })
    }

    /// Abandons the work in progress when the session is over. Returns whether a service is reading a message: it may run for a
    /// moment, to clean up.
    fn abandon_work(&mut self) -> bool {
        self.give_up_task();
        self.transfer.abandon()
    }

    /// Lets a data service whose message was aborted clean up before the session continues.
    fn awaits_clean_up(&mut self) -> Option<Next> {
        let until = self.transfer.abandoned()?;
        if until <= self.pace.now() {
            self.give_up_transfer();
            return None;
        }
        Some(Next::Wait(Wait {
            want: Want::Answer,
            until,
        }))
    }
}

#[cfg(feature = "tls")]
impl<IO: Io> Driver<IO> {
    /// Starts a handshake that the client has to begin: after STARTTLS, or at once.
    fn handshake(&mut self, until: Instant) -> Next {
        if !self.work.is_some() {
            if let Err(reason) = self.guarding.begin_handshake() {
                self.handshake_refused(reason);
                return Next::Again;
            }
            let meter = self.session.meters().handshake();
            match handshake(self.engine.tls.clone(), self.wire.take_stream(), meter) {
                Ok(handshake) => self.work.handshake(handshake),
                Err(error) => {
                    self.handshake_failed(error);
                    return Next::Again;
                }
            }
        }
        Next::Wait(Wait {
            want: Want::Answer,
            until,
        })
    }

    pub(super) fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.work.is_handshake() && self.guarding.poll_handshake_given_up(cx).is_ready() {
            self.handshake_refused(GuardReason::AllHandshakes);
            return Poll::Ready(());
        }
        match ready!(self.work.poll_handshake(cx)) {
            Ok(secured) => self.secured(secured),
            Err(error) => self.handshake_failed(error),
        }
        Poll::Ready(())
    }

    /// Starts the session anew over TLS (RFC 3207 section 4.2).
    fn secured(&mut self, secured: Secured<IO>) {
        self.guarding.end_handshake();
        let mut facts = TlsFacts::default();
        facts.bindings = secured.bindings;
        facts.client_certificate = !secured.info.peer_certificates().is_empty();
        self.wire.set_stream(Stream::Tls(secured.stream));
        self.session.secured(secured.info);
        self.transfer.end_transaction(&mut self.session);
        let now = self.pace.now().into_std();
        if let Step::Handshake(handshake) = self.connection.poll(now, &mut self.wire.input) {
            handshake.done(&mut self.wire.input, facts);
        }
    }

    /// Ends the session without a handshake, or within it. There is no reply: the client would read it as part of the handshake.
    fn handshake_refused(&mut self, reason: GuardReason) {
        self.guarding.end_handshake();
        self.engine.connection_refused(reason);
        self.refusal_log.not_admitted();
        self.give_up_task();
        self.connection.end(closing(reason, &self.engine.listener));
        self.lost(None);
    }

    /// Ends the session after a failed handshake: it never continues in plaintext.
    fn handshake_failed(&mut self, error: std::io::Error) {
        self.guarding.end_handshake();
        self.report(SessionError::Tls(error));
        self.wire.kill();
        let now = self.pace.now().into_std();
        if let Step::Handshake(handshake) = self.connection.poll(now, &mut self.wire.input) {
            handshake.failed();
        }
    }
}

#[cfg(feature = "proxy")]
impl<IO: Io> Driver<IO> {
    /// Returns what to wait for while the session has not begun, because a header is missing.
    fn awaits_proxy_header(&mut self, cx: &mut Context<'_>) -> Option<Next> {
        let now = self.pace.now();
        if self.work.awaited_header()?.is_late(now) && self.poll_proxy_header(cx).is_ready() {
            // Data that has arrived is checked before the time is.
            return Some(Next::Again);
        }
        let header = self.work.awaited_header()?;
        let until = header.until();
        if let Some(error) = header.take_failure(now) {
            self.report(SessionError::Proxy(error));
            drop(self.work.take());
            return Some(Next::End(EndReason::ProxyFailed));
        }
        Some(Next::Wait(Wait {
            want: Want::Answer,
            until,
        }))
    }

    pub(super) fn poll_proxy_header(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(header) = self.work.awaited_header() else {
            return Poll::Pending;
        };
        if let Some((stream, info)) = ready!(header.poll(cx)) {
            drop(self.work.take());
            self.wire.set_stream(stream);
            self.session.proxied(info);
            self.allow_claims();
            self.admit_client();
        }
        Poll::Ready(())
    }

    /// Counts the session for the client that the header names.
    fn admit_client(&mut self) {
        let named = self
            .guarding
            .name_client(&self.engine, &self.session, &self.connection);
        if let Err(reply) = named {
            self.refusal_log.not_admitted();
            self.connection.end(reply);
        }
    }
}

const fn end_reason(reason: CloseReason) -> EndReason {
    match reason {
        CloseReason::Lost => EndReason::Lost,
        CloseReason::TlsFailed => EndReason::TlsFailed,
        reason => EndReason::Closed(reason),
    }
}
