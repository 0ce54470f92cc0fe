//! What an event asks of which service.

use std::sync::Arc;

use smtpd_core::{
    AuthOutcome, AuthRequest, CommandLine, Event, MailCommand, RcptCommand, Reply, ReversePath,
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Driver, SessionError, Stop,
    ask::{CatchPanic, ask},
};
use crate::{
    Auth, Command, Connect, Envelope, Helo, Mail, Phase, PhaseService, Rcpt, Request,
    pipeline::no_recipient,
};

impl<IO: AsyncRead + AsyncWrite + Unpin + Send> Driver<IO> {
    /// Handles an event. Returns one that has come up meanwhile.
    pub(super) async fn handle(&mut self, event: Event) -> Result<Option<Event>, Stop> {
        match event {
            Event::Connect => self.connect().await?,
            Event::Helo(helo) => self.helo(helo).await?,
            Event::Auth(request) => self.auth(request).await?,
            Event::Authenticated(identity) => self.session.authenticated(identity),
            Event::Mail(mail) => self.mail(mail).await?,
            Event::Rcpt(rcpt) => self.rcpt(rcpt).await?,
            Event::Data => return Box::pin(self.transfer()).await,
            Event::Command(line) => self.command(line).await?,
            Event::Reset => self.reset(),
            #[cfg(feature = "tls")]
            Event::StartTls => self.start_tls().await?,
            // The connection asks these only within a transfer, which answers them.
            _ => {}
        }
        Ok(None)
    }

    pub(super) fn end_transaction(&mut self) {
        self.envelope = None;
        self.session.end_transaction();
    }

    /// RSET, told to whom it concerns if there was something to give up.
    fn reset(&mut self) {
        if let (Some(envelope), Some(hook)) = (&self.envelope, &self.engine.hooks.reset) {
            hook(&self.session, envelope);
        }
        self.end_transaction();
    }

    async fn command(&mut self, line: CommandLine) -> Result<(), Stop> {
        let mut payload = Command::new(line.verb, line.argument);
        payload.default_reply = line.default_reply.clone();
        let service = self.engine.pipeline.command.clone();
        let reply = self.decide(service, line.default_reply, || payload).await?;
        self.connection.reply(reply);
        Ok(())
    }

    async fn connect(&mut self) -> Result<(), Stop> {
        let service = self.engine.pipeline.connect.clone();
        let reply = self.decide(service, Reply::OK, Connect::new).await?;
        self.connection.reply(reply);
        Ok(())
    }

    async fn helo(&mut self, helo: smtpd_core::Helo) -> Result<(), Stop> {
        let service = self.engine.pipeline.helo.clone();
        let (name, greeting) = (helo.name.clone(), helo.greeting);
        let reply = self
            .decide(service, Reply::OK, || Helo {
                name: helo.name,
                greeting,
            })
            .await?;
        if reply.is_positive() {
            self.end_transaction();
            self.session.greeted(name, greeting);
        }
        self.connection.reply(reply);
        Ok(())
    }

    async fn auth(&mut self, request: AuthRequest) -> Result<(), Stop> {
        let Some(service) = self.engine.pipeline.auth.clone() else {
            self.connection.reply(Reply::auth_failed());
            return Ok(());
        };
        let payload = Auth::new(request.mechanism, request.credentials);
        let outcome: AuthOutcome = self.ask(service, payload).await?;
        self.connection.reply_auth(outcome);
        Ok(())
    }

    async fn mail(&mut self, mail: MailCommand) -> Result<(), Stop> {
        self.end_transaction();
        let service = self.engine.pipeline.mail.clone();
        let (sender, parameters) = (mail.sender.clone(), mail.parameters.clone());
        let payload = || Mail::new(mail.sender).with_parameters(mail.parameters);
        let reply = self.decide(service, Reply::OK, payload).await?;
        if reply.is_positive() {
            self.envelope = Some(Arc::new(Envelope::new(sender).with_parameters(parameters)));
        }
        self.connection.reply(reply);
        Ok(())
    }

    async fn rcpt(&mut self, rcpt: RcptCommand) -> Result<(), Stop> {
        let service = self.engine.pipeline.rcpt.clone();
        let mut envelope = self
            .envelope
            .take()
            .unwrap_or_else(|| Arc::new(Envelope::new(ReversePath::Null)));
        let (recipient, parameters) = (rcpt.recipient.clone(), rcpt.parameters.clone());
        let payload = || {
            Rcpt::new(rcpt.recipient)
                .with_parameters(rcpt.parameters)
                .with_envelope(envelope.clone())
        };
        let reply = self.decide(service, no_recipient(), payload).await?;
        if reply.is_positive() {
            // The request is gone by now, so mostly nothing is copied.
            Arc::make_mut(&mut envelope).push(recipient, parameters);
        }
        self.envelope = Some(envelope);
        self.connection.reply(reply);
        Ok(())
    }

    /// The decision of a service, or the one that stands where none is set.
    async fn decide<P: Phase<Response = Reply>>(
        &mut self,
        service: Option<PhaseService<P>>,
        unset: Reply,
        payload: impl FnOnce() -> P,
    ) -> Result<Reply, Stop> {
        match service {
            Some(service) => self.ask(service, payload()).await,
            None => Ok(unset),
        }
    }

    async fn ask<P: Phase>(
        &mut self,
        service: PhaseService<P>,
        payload: P,
    ) -> Result<P::Response, Stop> {
        let request = Request::new(self.session.clone(), payload);
        let timeouts = self.engine.config.timeouts_ref();
        let call = CatchPanic(ask(service, request, timeouts.ready, Some(timeouts.call)));
        match self.attend(call).await? {
            Ok(response) => Ok(response),
            Err(failure) => {
                let reply = failure.reply();
                if !failure.is_decision() {
                    self.report(SessionError::of(P::NAME, failure));
                }
                Ok(reply.into())
            }
        }
    }
}
