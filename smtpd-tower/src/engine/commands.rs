//! What an event asks of which service, and what comes of the answer.

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
};

use smtpd_core::{
    AuthRequest, CommandLine, Deferred, Envelope, MailCommand, Overdue, RcptCommand, Reply,
    WireLine, XClient, ask_kind as kind,
};

use super::{
    Driver, Io, Work,
    ask::{Call, Failure, Outcome},
};
use crate::{
    fault::quietly,
    phase::{Auth, Command, Connect, Helo, Mail, Phase, Rcpt, Request},
    phase_kind::PhaseKind,
    service::{PhaseService, Pipeline, no_recipient},
    session::{self, SessionError},
};

/// A service that has not answered at once, and what to do when it has.
pub(super) trait Asking<IO>: Send
where
    IO: Io,
{
    /// Ready when the service has answered, and its answer was passed on.
    fn poll(&mut self, driver: &mut Driver<IO>, cx: &mut Context<'_>) -> Poll<()>;
    fn phase(&self) -> PhaseKind;
    /// Whether it is the service that is waited for, and not something that the session does itself.
    fn is_service(&self) -> bool {
        true
    }
}

/// A call of the service of one phase.
struct Pending<P: Phase, K, F> {
    call: Call<P>,
    /// The question that the call answers, and what to do with the answer.
    answer: Option<(Deferred<K>, F)>,
}

impl<IO, P, K, F> Asking<IO> for Pending<P, K, F>
where
    IO: Io,
    P: Phase,
    F: FnOnce(&mut Driver<IO>, Deferred<K>, P::Response) + Send,
{
    fn poll(&mut self, driver: &mut Driver<IO>, cx: &mut Context<'_>) -> Poll<()> {
        let waited = self.call.is_waiting();
        let polled = self.call.poll(cx);
        if waited
            && !self.call.is_waiting()
            && let Some((question, _)) = &self.answer
        {
            driver.catch_up();
            driver.connection.begin(question);
        }
        let result = ready!(polled);
        if let Some((question, pass_on)) = self.answer.take() {
            let answer = driver.resolve::<P>(result);
            pass_on(driver, question, answer);
        }
        Poll::Ready(())
    }

    fn phase(&self) -> PhaseKind {
        P::KIND
    }
}

impl<IO: Io> Driver<IO> {
    /// Lets the service of a command go on.
    pub(super) fn poll_call(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.polled.work, true) {
            return Poll::Pending;
        }
        let Some(Work::Call(mut call)) = self.work.take() else {
            return Poll::Pending;
        };
        if call.poll(self, cx).is_pending() {
            self.work = Some(Work::Call(call));
            return Poll::Pending;
        }
        let phase = call.phase();
        self.drop_caught(Some(phase), call);
        Poll::Ready(())
    }

    /// A service was too late, or the comparison of a password after it. The client was told.
    pub(super) fn overdue(&mut self, _: Overdue) {
        let work = self.work.as_ref();
        let phase = work.map_or(Some(PhaseKind::Data), Work::phase);
        if let Some(phase) = phase
            && work.is_none_or(Work::is_service)
        {
            self.report(SessionError::ServiceTimeout { phase });
        } else {
            let (session, peer) = (self.session.id(), self.session.peer());
            quietly(|| tracing::warn!(session, %peer, "a password was not compared in time"));
        }
        match self.work.take() {
            Some(work) => self.drop_caught(phase, work),
            None => {
                self.give_up_transfer();
                self.end_transaction();
            }
        }
    }

    pub(super) fn line(&mut self, line: &WireLine) {
        quietly(|| tracing::trace!(session = self.session.id(), "{line}"));
        if let Some(hook) = &self.engine.hooks.wire {
            session::call(&self.session, "on_wire", || hook(&self.session, line));
        }
    }

    pub(super) fn end_transaction(&mut self) {
        if let Some(transfer) = &mut self.transfer {
            // RSET or EHLO between the chunks of the message.
            transfer.abandon();
        }
        self.session.end_transaction();
        self.session.forward(None);
    }

    /// RSET. The hook is called if there was something to give up.
    pub(super) fn reset(&mut self, envelope: Option<&Envelope>) {
        let open = envelope.filter(|_| !self.answered);
        if let (Some(envelope), Some(hook)) = (open, &self.engine.hooks.reset) {
            session::call(&self.session, "on_reset", || hook(&self.session, envelope));
        }
        self.end_transaction();
    }

    pub(super) fn command(
        &mut self,
        cx: &mut Context<'_>,
        line: CommandLine,
        question: Deferred<kind::Command>,
    ) {
        let unset = line.default_reply.clone();
        let mut payload = Command::new(line.verb, line.argument);
        payload.default_reply = line.default_reply;
        self.ask(cx, |p| &p.command, unset, payload, question, Self::reply);
    }

    pub(super) fn connect(&mut self, cx: &mut Context<'_>, question: Deferred<kind::Connect>) {
        let payload = Connect::new();
        self.ask(
            cx,
            |p| &p.connect,
            Reply::OK,
            payload,
            question,
            Self::reply,
        );
    }

    /// XCLIENT: the client is asked about as if it had connected itself.
    pub(super) fn xclient(
        &mut self,
        cx: &mut Context<'_>,
        client: XClient,
        question: Deferred<kind::Connect>,
    ) {
        self.end_transaction();
        self.session.impersonated(client);
        self.connect(cx, question);
    }

    pub(super) fn helo(
        &mut self,
        cx: &mut Context<'_>,
        helo: smtpd_core::Helo,
        question: Deferred<kind::Helo>,
    ) {
        let payload = Helo {
            name: helo.name,
            greeting: helo.greeting,
        };
        self.ask(cx, |p| &p.helo, Reply::OK, payload, question, Self::greeted);
    }

    fn greeted(&mut self, question: Deferred<kind::Helo>, reply: Reply) {
        // An intermediate reply is none to HELO.
        let accepted = reply.is_positive() && !reply.code().is_intermediate();
        self.reply(question, reply);
        if accepted && let Some(helo) = self.connection.helo() {
            self.session.greeted(helo.name.clone(), helo.greeting);
            self.end_transaction();
        }
    }

    pub(super) fn auth(
        &mut self,
        cx: &mut Context<'_>,
        request: AuthRequest,
        question: Deferred<kind::Auth>,
    ) {
        let credentials = request.credentials.clone();
        let payload = Auth::new(request.mechanism, request.credentials);
        let unset = Reply::auth_failed().into();
        let pass_on = move |driver: &mut Self, question, outcome| {
            driver.authenticate(question, &credentials, outcome)
        };
        self.ask(cx, |p| &p.auth, unset, payload, question, pass_on);
    }

    pub(super) fn mail(
        &mut self,
        cx: &mut Context<'_>,
        mail: MailCommand,
        question: Deferred<kind::Mail>,
    ) {
        self.answered = false;
        // What XFORWARD has said is about this transaction.
        self.session.end_transaction();
        let payload = Mail::new(mail.sender).with_parameters(mail.parameters);
        self.ask(cx, |p| &p.mail, Reply::OK, payload, question, Self::reply);
    }

    pub(super) fn rcpt(
        &mut self,
        cx: &mut Context<'_>,
        rcpt: RcptCommand,
        question: Deferred<kind::Rcpt>,
    ) {
        let payload = Rcpt {
            recipient: rcpt.recipient,
            parameters: rcpt.parameters,
            envelope: self.envelope(),
        };
        self.ask(
            cx,
            |p| &p.rcpt,
            no_recipient(),
            payload,
            question,
            Self::reply,
        );
    }

    /// The sender and the recipients that were accepted so far.
    pub(super) fn envelope(&self) -> Arc<Envelope> {
        self.connection.envelope().cloned().unwrap_or_default()
    }

    fn reply<K: kind::OneReply>(&mut self, question: Deferred<K>, reply: Reply) {
        if let Some(ask) = self.connection.resume(question) {
            ask.reply(reply);
        }
    }

    /// Calls the phase's service, or uses the default answer. An answer that comes at once is passed on at once.
    fn ask<P: Phase, K: 'static>(
        &mut self,
        cx: &mut Context<'_>,
        service: fn(&Pipeline) -> &Option<PhaseService<P>>,
        unset: P::Response,
        payload: P,
        question: Deferred<K>,
        pass_on: impl FnOnce(&mut Self, Deferred<K>, P::Response) + Send + 'static,
    ) {
        let Some(service) = service(&self.engine.pipeline) else {
            return pass_on(self, question, unset);
        };
        let request = Request::new(self.session.clone(), payload);
        match Call::start(service, request, cx) {
            Outcome::Answered(result) => {
                let answer = self.resolve::<P>(result);
                pass_on(self, question, answer);
            }
            Outcome::Panicked(result, message) => {
                let answer = self.resolve::<P>(result);
                pass_on(self, question, answer);
                self.panicked(Some(P::KIND), message);
            }
            Outcome::Pending(call) => {
                if !call.is_waiting() {
                    self.connection.begin(&question);
                }
                // The time that the service has begins now, and not when the session was woken.
                self.catch_up();
                let answer = Some((question, pass_on));
                self.polled.work = true;
                self.work = Some(Work::Call(Box::new(Pending { call, answer })));
            }
        }
    }

    /// The answer, or what stands for it where the service has failed.
    pub(super) fn resolve<P: Phase>(&self, result: Result<P::Response, Failure>) -> P::Response {
        result.unwrap_or_else(|failure| {
            let reply = failure.reply();
            if !failure.is_decision() {
                self.report(failure.into_error(P::KIND));
            }
            reply.into()
        })
    }
}
