//! What an event asks of which service, and what comes of the answer.

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
};

use smtpd_core::{
    AuthRequest, CloseReason, CommandLine, Event, MailCommand, RcptCommand, Reply, ReversePath,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::{
    Driver, SessionError, Stop,
    ask::{Call, Failure},
};
use crate::{
    Auth, Command, Connect, Envelope, Helo, Mail, Phase, PhaseService, Rcpt, Request,
    pipeline::no_recipient,
};

/// A service that has not answered at once, and what to do when it has. Boxed, so that a session that waits for its client
/// does not carry room for it.
pub(super) type Asking<IO> = Box<dyn FnMut(&mut Driver<IO>, &mut Context<'_>) -> Poll<()> + Send>;

/// Where the commands lead that are not done with an answer.
pub(super) enum Turn {
    /// All that has come is handled.
    Starved,
    Data,
    #[cfg(feature = "tls")]
    StartTls,
    Closed(CloseReason),
}

impl<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static> Driver<IO> {
    /// Handles all that the input means, so that the replies to a group of commands leave together.
    pub(super) fn poll_commands(&mut self, cx: &mut Context<'_>) -> Poll<Result<Turn, Stop>> {
        let mut now = Instant::now();
        loop {
            if let Some(mut asking) = self.asking.take() {
                if asking(self, cx).is_pending() {
                    self.asking = Some(asking);
                    return self.poll_idle(cx, true).map(Err);
                }
                // What a service took is not the client's time: its silence begins with the answer.
                now = Instant::now();
            }
            let event = match self.next.take() {
                Some(event) => Some(*event),
                None => self
                    .connection
                    .poll_event(now.into_std(), &mut self.wire.input),
            };
            self.log_wire();
            let turn = match event {
                Some(event) => self.handle(cx, event),
                None if self.heed_stage() => None,
                None => Some(Turn::Starved),
            };
            if let Some(turn) = turn {
                return Poll::Ready(Ok(turn));
            }
        }
    }

    /// Handles an event. Returns what is left to be done, but for the answer of a service.
    fn handle(&mut self, cx: &mut Context<'_>, event: Event) -> Option<Turn> {
        match event {
            Event::Connect => self.connect(cx),
            Event::XClient(client) => self.xclient(cx, *client),
            Event::Helo(helo) => self.helo(cx, helo),
            Event::Auth(request) => self.auth(cx, request),
            Event::Authenticated(identity) => self.session.authenticated(identity),
            Event::Mail(mail) => self.mail(cx, mail),
            Event::Rcpt(rcpt) => self.rcpt(cx, rcpt),
            Event::Command(line) => self.command(cx, line),
            Event::Reset => self.reset(),
            Event::XForward(forwarded) => self.session.forward(Some(*forwarded)),
            Event::Data => return Some(Turn::Data),
            #[cfg(feature = "tls")]
            Event::StartTls => return Some(Turn::StartTls),
            Event::Closed(reason) => return Some(Turn::Closed(reason)),
            // The connection asks these only within a transfer, which answers them.
            _ => {}
        }
        None
    }

    pub(super) fn end_transaction(&mut self) {
        self.envelope = None;
        self.session.end_transaction();
        self.session.forward(None);
    }

    /// RSET, told to whom it concerns if there was something to give up.
    fn reset(&mut self) {
        if let (Some(envelope), Some(hook)) = (&self.envelope, &self.engine.hooks.reset) {
            hook(&self.session, envelope);
        }
        self.end_transaction();
    }

    fn command(&mut self, cx: &mut Context<'_>, line: CommandLine) {
        let Some(service) = self.engine.pipeline.command.clone() else {
            return self.connection.reply(line.default_reply);
        };
        let mut payload = Command::new(line.verb, line.argument);
        payload.default_reply = line.default_reply;
        self.ask(cx, service, payload, |driver, reply| {
            driver.connection.reply(reply)
        });
    }

    pub(super) fn connect(&mut self, cx: &mut Context<'_>) {
        let Some(service) = self.engine.pipeline.connect.clone() else {
            return self.connection.reply(Reply::OK);
        };
        self.ask(cx, service, Connect::new(), |driver, reply| {
            driver.connection.reply(reply)
        });
    }

    fn helo(&mut self, cx: &mut Context<'_>, helo: smtpd_core::Helo) {
        let (name, greeting) = (helo.name, helo.greeting);
        let payload = Helo {
            name: name.clone(),
            greeting,
        };
        let service = self.engine.pipeline.helo.clone();
        self.ask_or(cx, service, Reply::OK, payload, move |driver, reply| {
            if reply.is_positive() {
                driver.end_transaction();
                driver.session.greeted(name, greeting);
            }
            driver.connection.reply(reply);
        });
    }

    fn auth(&mut self, cx: &mut Context<'_>, request: AuthRequest) {
        let Some(service) = self.engine.pipeline.auth.clone() else {
            return self.connection.reply(Reply::auth_failed());
        };
        let payload = Auth::new(request.mechanism, request.credentials);
        self.ask(cx, service, payload, |driver, outcome| {
            driver.connection.reply_auth(outcome);
        });
    }

    fn mail(&mut self, cx: &mut Context<'_>, mail: MailCommand) {
        // What XFORWARD has said is about this transaction.
        self.envelope = None;
        self.session.end_transaction();
        let envelope = Envelope::new(mail.sender.clone()).with_parameters(mail.parameters.clone());
        let payload = Mail::new(mail.sender).with_parameters(mail.parameters);
        let service = self.engine.pipeline.mail.clone();
        self.ask_or(cx, service, Reply::OK, payload, move |driver, reply| {
            if reply.is_positive() {
                driver.envelope = Some(Arc::new(envelope));
            }
            driver.connection.reply(reply);
        });
    }

    fn rcpt(&mut self, cx: &mut Context<'_>, rcpt: RcptCommand) {
        let envelope = self
            .envelope
            .get_or_insert_with(|| Arc::new(Envelope::new(ReversePath::Null)));
        let (recipient, parameters) = (rcpt.recipient.clone(), rcpt.parameters.clone());
        let payload = Rcpt {
            recipient: rcpt.recipient,
            parameters: rcpt.parameters,
            envelope: envelope.clone(),
        };
        let service = self.engine.pipeline.rcpt.clone();
        self.ask_or(
            cx,
            service,
            no_recipient(),
            payload,
            move |driver, reply| {
                if reply.is_positive()
                    && let Some(envelope) = &mut driver.envelope
                {
                    // The request is gone by now, so mostly nothing is copied.
                    Arc::make_mut(envelope).push(recipient, parameters);
                }
                driver.connection.reply(reply);
            },
        );
    }

    /// Asks a service, or heeds the answer that stands where none is set.
    fn ask_or<P: Phase>(
        &mut self,
        cx: &mut Context<'_>,
        service: Option<PhaseService<P>>,
        unset: P::Response,
        payload: P,
        heed: impl FnOnce(&mut Self, P::Response) + Send + 'static,
    ) {
        match service {
            Some(service) => self.ask(cx, service, payload, heed),
            None => heed(self, unset),
        }
    }

    /// Asks a service, and heeds its answer: at once if it has one at once, else by [`Driver::asking`].
    fn ask<P: Phase>(
        &mut self,
        cx: &mut Context<'_>,
        service: PhaseService<P>,
        payload: P,
        heed: impl FnOnce(&mut Self, P::Response) + Send + 'static,
    ) {
        let mut call = Call::new(service, Request::new(self.session.clone(), payload));
        if let Poll::Ready(result) = call.poll(cx) {
            drop(call);
            let answer = self.judge::<P>(result);
            return heed(self, answer);
        }
        let timeouts = self.engine.config.timeouts_ref();
        let mut call = Box::pin(call.finish(timeouts.ready, Some(timeouts.call)));
        let mut heed = Some(heed);
        self.asking = Some(Box::new(move |driver, cx| {
            let result = ready!(call.as_mut().poll(cx));
            if let Some(heed) = heed.take() {
                let answer = driver.judge::<P>(result);
                heed(driver, answer);
            }
            Poll::Ready(())
        }));
    }

    /// The answer, or what stands for it where the service has failed.
    fn judge<P: Phase>(&self, result: Result<P::Response, Failure>) -> P::Response {
        result.unwrap_or_else(|failure| {
            let reply = failure.reply();
            if !failure.is_decision() {
                self.report(SessionError::of(P::NAME, failure));
            }
            reply.into()
        })
    }
}
