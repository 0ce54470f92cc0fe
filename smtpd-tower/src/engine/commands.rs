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
    ask::{Call, Failure, Outcome},
};
use crate::{
    Auth, Command, Connect, Envelope, Helo, Mail, Phase, PhaseService, Pipeline, Rcpt, Request,
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
        let unset = line.default_reply.clone();
        let mut payload = Command::new(line.verb, line.argument);
        payload.default_reply = line.default_reply;
        self.ask(
            cx,
            |pipeline| &pipeline.command,
            unset,
            payload,
            Self::reply,
        );
    }

    pub(super) fn connect(&mut self, cx: &mut Context<'_>) {
        self.ask(
            cx,
            |pipeline| &pipeline.connect,
            Reply::OK,
            Connect::new(),
            Self::reply,
        );
    }

    fn helo(&mut self, cx: &mut Context<'_>, helo: smtpd_core::Helo) {
        let (name, greeting) = (helo.name, helo.greeting);
        let payload = Helo {
            name: name.clone(),
            greeting,
        };
        self.ask(
            cx,
            |pipeline| &pipeline.helo,
            Reply::OK,
            payload,
            move |driver, reply| {
                if reply.is_positive() {
                    driver.end_transaction();
                    driver.session.greeted(name, greeting);
                }
                driver.reply(reply);
            },
        );
    }

    fn auth(&mut self, cx: &mut Context<'_>, request: AuthRequest) {
        let payload = Auth::new(request.mechanism, request.credentials);
        let unset = Reply::auth_failed().into();
        self.ask(
            cx,
            |pipeline| &pipeline.auth,
            unset,
            payload,
            |driver, outcome| {
                driver.connection.reply_auth(outcome);
            },
        );
    }

    fn mail(&mut self, cx: &mut Context<'_>, mail: MailCommand) {
        // What XFORWARD has said is about this transaction.
        self.envelope = None;
        self.session.end_transaction();
        let envelope = Envelope::new(mail.sender.clone()).with_parameters(mail.parameters.clone());
        let payload = Mail::new(mail.sender).with_parameters(mail.parameters);
        self.ask(
            cx,
            |pipeline| &pipeline.mail,
            Reply::OK,
            payload,
            move |driver, reply| {
                if reply.is_positive() {
                    driver.envelope = Some(Arc::new(envelope));
                }
                driver.reply(reply);
            },
        );
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
        self.ask(
            cx,
            |pipeline| &pipeline.rcpt,
            no_recipient(),
            payload,
            move |driver, reply| {
                if reply.is_positive()
                    && let Some(envelope) = &mut driver.envelope
                {
                    // The request is gone by now, so mostly nothing is copied.
                    Arc::make_mut(envelope).push(recipient, parameters);
                }
                driver.reply(reply);
            },
        );
    }

    fn reply(&mut self, reply: Reply) {
        self.connection.reply(reply);
    }

    /// Asks a service, or heeds the answer that stands where none is set. An answer that comes at once is heeded at once,
    /// any other by [`Driver::asking`].
    fn ask<P: Phase>(
        &mut self,
        cx: &mut Context<'_>,
        service: fn(&Pipeline) -> &Option<PhaseService<P>>,
        unset: P::Response,
        payload: P,
        heed: impl FnOnce(&mut Self, P::Response) + Send + 'static,
    ) {
        let Some(service) = service(&self.engine.pipeline) else {
            return heed(self, unset);
        };
        let request = Request::new(self.session.clone(), payload);
        let call = match Call::start(service, request, cx) {
            Outcome::Answered(result) => {
                let answer = self.judge::<P>(result);
                return heed(self, answer);
            }
            Outcome::Pending(call) => call,
        };
        let timeouts = self.engine.config.timeouts_ref();
        let mut call = Box::pin(call.finish(timeouts.ready, timeouts.call));
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
    pub(super) fn judge<P: Phase>(&self, result: Result<P::Response, Failure>) -> P::Response {
        result.unwrap_or_else(|failure| {
            let reply = failure.reply();
            if !failure.is_decision() {
                self.report(SessionError::of(P::NAME, failure));
            }
            reply.into()
        })
    }
}
