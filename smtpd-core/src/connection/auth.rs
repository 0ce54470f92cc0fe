//! AUTH (RFC 4954).

use super::{
    Asked, AuthOutcome, AuthRequest, CloseReason, Connection, Mode, Running, command::syntax_error,
    event::Event, redact,
};
use crate::{
    config::Config,
    reply::{Code, Reply, Status},
    sasl::{
        self, ChannelBindings, Exchange, ExchangeContext, Identity, MechanismFactory, NONCE_LEN,
        SaslError,
    },
};

/// RFC 4954 section 4. It also answers mechanisms that only other sessions are offered, such as those with a certificate.
const NOT_OFFERED: Reply = Reply::fixed(
    Code::PARAMETER_NOT_IMPLEMENTED,
    Status::INVALID_PARAMETERS,
    "Unrecognized authentication mechanism",
);
/// RFC 4954 section 6.
const NEEDS_TLS: Reply = Reply::fixed(
    Code::ENCRYPTION_REQUIRED,
    Status::ENCRYPTION_NEEDED,
    "This mechanism needs TLS",
);

impl Connection {
    pub(super) fn auth(&mut self, argument: &[u8]) {
        let mut words = argument.splitn(2, |&octet| octet == b' ');
        let name = words.next().unwrap_or_default();
        let initial = words.next().map(<[u8]>::trim_ascii);
        if name.is_empty() {
            return self.fault(syntax_error());
        }
        if self.client.identity.is_some() {
            return self.fault(Reply::fixed(
                Code::BAD_SEQUENCE,
                Status::INVALID_COMMAND,
                "Already authenticated",
            ));
        }
        // After HELO as well: RFC 4954 section 4 lists when AUTH has to be refused, and HELO is not among it. Devices say EHLO
        // first and HELO then, or HELO alone, and nothing is gained by sending them away: what a mechanism needs holds anyway.
        let config = self.config.clone();
        let Some(factory) = config.mechanisms.find(name) else {
            return self.fault(NOT_OFFERED);
        };
        if !self.may_use(factory) {
            let bound = factory.needs_channel_binding() || factory.needs_client_certificate();
            let needs_tls = !self.tls && (factory.is_plaintext() || bound);
            return self.fault(if needs_tls { NEEDS_TLS } else { NOT_OFFERED });
        }
        let Some(mut exchange) = start(&config, factory, self.bindings_for(factory)) else {
            return self.fault(Reply::auth_unavailable());
        };
        let step = exchange.handle_initial(initial);
        self.exchange = Some(Box::new(Running {
            exchange,
            mechanism: factory.name(),
            refusal: None,
        }));
        self.sasl_step(step)
    }

    /// RFC 5802 section 6: a mechanism beside which there is a -PLUS form learns that the client could have bound.
    fn bindings_for(&self, factory: &dyn MechanismFactory) -> Option<&ChannelBindings> {
        let binds = self.config.mechanisms.has_plus_beside(factory.name());
        self.client.channel.bindings.as_deref().filter(|_| binds)
    }

    /// Takes a line that answers a challenge.
    pub(super) fn sasl_response(&mut self, line: &[u8], _more: bool) {
        self.log_received(redact::REDACTED);
        self.reading = Mode::Commands;
        let step = match &mut self.exchange {
            Some(running) => running.exchange.handle_line(line),
            None => Err(SaslError::OutOfSequence),
        };
        self.sasl_step(step)
    }

    /// Answers [`Event::Auth`].
    pub(super) fn answer_auth(&mut self, outcome: AuthOutcome) {
        self.asked = None;
        let Some(running) = &mut self.exchange else {
            return;
        };
        let step = match outcome {
            AuthOutcome::Accept(identity) => running.exchange.handle_accepted(identity),
            AuthOutcome::Verify(secret) => running.exchange.handle_secret(&secret),
            AuthOutcome::Refuse(reply) => {
                running.refusal = Some(fitting_refusal(reply));
                running.exchange.handle_refused()
            }
        };
        self.sasl_step(step);
    }

    fn sasl_step(&mut self, step: Result<sasl::Step, SaslError>) {
        match step {
            Ok(sasl::Step::Challenge(challenge)) => {
                self.put_raw(&sasl::challenge_line(&challenge));
                self.reading = Mode::SaslResponse;
            }
            Ok(sasl::Step::Ask(credentials)) => {
                let Some(running) = &self.exchange else {
                    return;
                };
                let request = AuthRequest {
                    mechanism: running.mechanism,
                    credentials,
                };
                self.ask(Asked::Auth, Event::Auth(request))
            }
            Ok(sasl::Step::Done(identity)) => self.authenticated(identity),
            Ok(_) => {
                let refusal = self.exchange.take().and_then(|running| running.refusal);
                self.auth_failure(refusal.unwrap_or(Reply::auth_failed()))
            }
            Err(error) => self.auth_broken_off(error),
        }
    }

    /// The client has cancelled, or has sent something that is not a response or too long. If it knows already that it was refused, the attempt
    /// counts as failed: otherwise it could guess for free by cancelling each time. A refusal that ends the session ends it.
    pub(super) fn auth_broken_off(&mut self, error: SaslError) {
        let running = self.exchange.take();
        let knows = running
            .as_ref()
            .is_some_and(|running| running.exchange.has_reported_failure());
        let refusal = running.and_then(|running| running.refusal);
        match refusal.filter(|refusal| knows || refusal.closes()) {
            Some(refusal) => self.auth_refused(&refusal, error.reply()),
            None if knows => self.auth_refused(&Reply::auth_failed(), error.reply()),
            None if matches!(error, SaslError::Empty | SaslError::Prohibited) => {
                self.auth_failure(Reply::auth_failed())
            }
            None => self.fault(error.reply()),
        }
    }

    fn authenticated(&mut self, identity: Identity) {
        self.exchange = None;
        self.client.identity = Some(identity.clone());
        // RFC 4954 section 6.
        self.put(&Reply::fixed(
            Code::AUTHENTICATED,
            Status::POLICY,
            "Authentication succeeded",
        ));
        self.tell(Event::Authenticated(identity));
    }

    fn auth_failure(&mut self, reply: Reply) {
        self.auth_refused(&reply.clone(), reply);
    }

    /// Draws the consequences of a refusal, and answers with `reply` unless they end the session.
    fn auth_refused(&mut self, refusal: &Reply, reply: Reply) {
        if refusal.closes() {
            return self.close_with(refusal.clone(), CloseReason::Refused);
        }
        if refusal.code().is_transient() {
            // Nothing was guessed, for the fault is on this side. It counts as an error, or a session could try without end.
            return self.fault(reply);
        }
        self.counts.auth_failures += 1;
        if self.counts.auth_failures >= self.config.limits.auth_failures {
            let reply = Reply::fixed(
                Code::SERVICE_UNAVAILABLE,
                Status::POLICY,
                "Too many failed authentications, closing the connection",
            );
            return self.close_with(reply, CloseReason::Limit);
        }
        self.put(&reply);
    }
}

/// The reply with a code that tells the client whether its credentials are wrong.
fn fitting_refusal(reply: Reply) -> Reply {
    match reply.code() {
        // A reply that accepts the command would leave the client in doubt about who it is.
        _ if reply.is_positive() => Reply::auth_failed(),
        // RFC 4954 section 6: a fault on this side is 454 to AUTH, so clients know that nothing is wrong with the password.
        Code::LOCAL_ERROR if reply.status().subject() == Status::MAIL_SYSTEM.subject() => {
            let unavailable = Reply::auth_unavailable();
            reply
                .with_code(unavailable.code())
                .with_status(unavailable.status())
        }
        _ => reply,
    }
}

/// Starts an exchange, unless the random octets for it cannot be had.
fn start(
    config: &Config,
    factory: &dyn MechanismFactory,
    bindings: Option<&ChannelBindings>,
) -> Option<Exchange> {
    let mut nonce = [0; NONCE_LEN];
    let salt_key = match config.entropy {
        Some(fill) if !fill(&mut nonce) => return None,
        Some(fill) => Some(config.salt_key.get_or_fill(fill)?),
        None => None,
    };
    let mut context = ExchangeContext::new(&config.hostname, &nonce);
    if let Some(key) = salt_key {
        context = context.with_salt_key(key);
    }
    if let Some(bindings) = bindings {
        context = context.with_channel_bindings(bindings);
    }
    Some(Exchange::new(factory.start(&context)))
}
