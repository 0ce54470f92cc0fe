//! AUTH (RFC 4954): the identity of the client, and the exchange that proves it.

use super::{event::AuthOutcome, fixed, session::Refused, subject::AuthRequest, waiting::TlsFacts};
use crate::{
    config::Config,
    reply::{Code, Origin, Reply},
    sasl::{
        self, ChannelBindings, Exchange, ExchangeContext, Identity, MechanismFactory,
        MechanismName, NONCE_LEN, SaslError,
    },
};

/// The identity of the client, and the facts that it can authenticate with.
#[derive(Debug, Default)]
pub(super) struct Authentication {
    /// The current exchange.
    exchange: Option<Box<Running>>,
    identity: Option<Identity>,
    /// The channel bindings of the TLS connection with the client; `None` if there are none.
    bindings: Option<Box<ChannelBindings>>,
    /// Whether the client presented a verified certificate.
    certified: bool,
    failures: u32,
}

#[derive(Debug)]
struct Running {
    exchange: Exchange,
    mechanism: MechanismName,
    /// The caller's refusal, kept until the mechanism has finished.
    refusal: Option<Reply>,
}

/// The outcome of an authentication step.
#[derive(Debug)]
pub(super) enum Progress {
    /// The client must answer this line.
    Challenge(Vec<u8>),
    /// The caller must be asked.
    Ask(AuthRequest),
    Done(Identity),
    Refused(Refused),
}

impl Authentication {
    /// Replaces everything known about the client; failures stay counted.
    pub(super) fn start_anew(&mut self, identity: Option<Identity>, channel: TlsFacts) {
        let bindings = Some(channel.bindings).filter(|bindings| !bindings.is_empty());
        *self = Self {
            exchange: None,
            identity,
            bindings: bindings.map(Box::new),
            certified: channel.client_certificate,
            failures: self.failures,
        };
    }

    pub(super) const fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn cancel(&mut self) {
        self.exchange = None;
    }

    pub(super) const fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Returns whether the client has authenticated.
    pub(super) const fn is_done(&self) -> bool {
        self.identity.is_some()
    }

    /// Returns the mechanism of the current exchange.
    pub(super) fn mechanism(&self) -> Option<MechanismName> {
        self.exchange.as_ref().map(|running| running.mechanism)
    }

    /// Returns everything that the reply to EHLO depends on, as a number below 8.
    pub(super) fn kind(&self) -> usize {
        usize::from(self.is_done())
            | usize::from(self.bindings.is_some()) << 1
            | usize::from(self.certified) << 2
    }

    /// Returns the mechanisms that the client may use now.
    pub(super) fn offered<'a>(
        &self,
        config: &'a Config,
        tls: bool,
    ) -> impl Iterator<Item = &'a dyn MechanismFactory> {
        let all = config.mechanisms.iter();
        all.filter(move |factory| self.may_use(*factory, config, tls))
    }

    /// RFC 4954 section 4: a mechanism that reveals the password requires TLS. One that challenges the client requires random
    /// bytes.
    fn may_use(&self, factory: &dyn MechanismFactory, config: &Config, tls: bool) -> bool {
        if config.is_tls_required() && !tls {
            return false; // AUTH would be rejected with 530.
        }
        if factory.needs_channel_binding() && self.bindings.is_none() {
            return false; // RFC 5802 section 6
        }
        if factory.needs_client_certificate() && !self.certified {
            return false; // RFC 4422 appendix A: it authenticates by the certificate
        }
        if factory.is_plaintext() && !tls && !config.insecure_auth {
            return false;
        }
        !factory.needs_entropy() || config.entropy.is_some()
    }

    /// Processes the argument of AUTH.
    pub(super) fn begin(&mut self, argument: &[u8], config: &Config, tls: bool) -> Progress {
        let mut words = argument.splitn(2, |&byte| byte == b' ');
        let name = words.next().unwrap_or_default();
        let initial = words.next().map(<[u8]>::trim_ascii);
        if name.is_empty() {
            return Progress::fault(fixed::SYNTAX);
        }
        if self.identity.is_some() {
            return Progress::fault(fixed::ALREADY_AUTHENTICATED);
        }
        // Accepted after HELO as well: RFC 4954 section 4 lists when AUTH must be rejected, and HELO is not among the cases. Some
        // devices send EHLO and then HELO, or only HELO, and rejecting them gains nothing: the requirements of a mechanism are
        // checked anyway.
        let Some(factory) = config.mechanisms.find(name) else {
            return Progress::fault(fixed::NO_MECHANISM);
        };
        if !self.may_use(factory, config, tls) {
            let bound = factory.needs_channel_binding() || factory.needs_client_certificate();
            let needs_tls = !tls && (factory.is_plaintext() || bound);
            return Progress::fault(match needs_tls {
                true => fixed::TLS_FOR_MECHANISM,
                false => fixed::NO_MECHANISM,
            });
        }
        let Some(mut exchange) = start(config, factory, self.bindings_for(factory, config)) else {
            let reply = Reply::auth_unavailable().with_origin(Origin::Fault);
            return Progress::Refused(Refused::Login(reply));
        };
        let step = exchange.handle_initial(initial);
        self.exchange = Some(Box::new(Running {
            exchange,
            mechanism: factory.name(),
            refusal: None,
        }));
        self.progress(step, config)
    }

    /// RFC 5802 section 6: if a -PLUS form exists, the plain form must know that the client could have used channel binding.
    fn bindings_for(
        &self,
        factory: &dyn MechanismFactory,
        config: &Config,
    ) -> Option<&ChannelBindings> {
        let binds = config.mechanisms.has_plus_beside(factory.name());
        self.bindings.as_deref().filter(|_| binds)
    }

    /// Processes a line that answers a challenge.
    pub(super) fn respond(&mut self, line: &[u8], config: &Config) -> Progress {
        let step = match &mut self.exchange {
            Some(running) => running.exchange.handle_line(line),
            None => Err(SaslError::OutOfSequence),
        };
        self.progress(step, config)
    }

    /// Applies the caller's answer. Returns `None` if there is no exchange.
    pub(super) fn answer(&mut self, outcome: AuthOutcome, config: &Config) -> Option<Progress> {
        let running = self.exchange.as_mut()?;
        let step = match outcome {
            AuthOutcome::Accept(identity) => running.exchange.handle_accepted(identity),
            AuthOutcome::Verify(secret) => running.exchange.handle_secret(&secret),
            AuthOutcome::Refuse(reply) => {
                running.refusal = Some(fitting_refusal(reply));
                running.exchange.handle_refused()
            }
        };
        Some(self.progress(step, config))
    }

    fn progress(&mut self, step: Result<sasl::Step, SaslError>, config: &Config) -> Progress {
        match step {
            Ok(sasl::Step::Challenge(challenge)) => {
                Progress::Challenge(sasl::challenge_line(&challenge))
            }
            Ok(sasl::Step::Ask(credentials)) => match &self.exchange {
                Some(running) => Progress::Ask(AuthRequest::new(running.mechanism, credentials)),
                None => self.break_off(SaslError::OutOfSequence, config),
            },
            Ok(sasl::Step::Done(identity)) => {
                self.exchange = None;
                self.identity = Some(identity.clone());
                Progress::Done(identity)
            }
            Ok(_) => {
                let refusal = self.exchange.take().and_then(|running| running.refusal);
                self.fail(refusal.unwrap_or(Reply::auth_failed()), config)
            }
            Err(error) => self.break_off(error, config),
        }
    }

    /// Ends the exchange because the client cancelled it, or sent something too long or other than a response. If the client
    /// already knows that it was refused, the attempt counts as failed: otherwise, it could guess without limit by cancelling
    /// each time. A refusal that closes the session still closes it.
    pub(super) fn break_off(&mut self, error: SaslError, config: &Config) -> Progress {
        let running = self.exchange.take();
        let knows = running
            .as_ref()
            .is_some_and(|running| running.exchange.has_reported_failure());
        let refusal = running.and_then(|running| running.refusal);
        match refusal.filter(|refusal| knows || refusal.closes()) {
            Some(refusal) => self.refuse(&refusal, error.reply(), config),
            None if knows => self.refuse(&Reply::auth_failed(), error.reply(), config),
            None if matches!(error, SaslError::Empty | SaslError::Prohibited) => {
                self.fail(Reply::auth_failed(), config)
            }
            None => Progress::fault(error.reply()),
        }
    }

    fn fail(&mut self, reply: Reply, config: &Config) -> Progress {
        self.refuse(&reply.clone(), reply, config)
    }

    /// Counts a refusal, and answers with `reply` unless the session ends.
    fn refuse(&mut self, refusal: &Reply, reply: Reply, config: &Config) -> Progress {
        if refusal.blames_client() {
            self.failures += 1;
        }
        if refusal.closes() {
            return Progress::Refused(Refused::because_it_closes(refusal.clone()));
        }
        if !refusal.blames_client() {
            // Nothing was guessed.
            return Progress::Refused(Refused::Login(reply));
        }
        Progress::Refused(match self.failures >= config.limits.auth_failures {
            true => Refused::OverLimit(fixed::TOO_MANY_FAILURES),
            false => Refused::Answered(reply),
        })
    }
}

impl Progress {
    const fn fault(reply: Reply) -> Self {
        Self::Refused(Refused::Fault(reply))
    }
}

/// Returns the reply with a code that tells the client whether its credentials are wrong.
fn fitting_refusal(reply: Reply) -> Reply {
    match reply.code() {
        // A reply that accepts the command would leave the client in doubt about its identity.
        _ if reply.is_positive() => Reply::auth_failed(),
        // RFC 4954 section 6: at AUTH, the temporary failures are 454 and 432. A client that receives another code may take the
        // password for wrong and ask its user for a new one.
        Code::TLS_UNAVAILABLE | Code::PASSWORD_TRANSITION => reply,
        code if code.is_transient() && !reply.closes() => {
            let unavailable = Reply::auth_unavailable();
            reply
                .with_code(unavailable.code())
                .with_status(unavailable.status())
        }
        _ => reply,
    }
}

/// Starts an exchange, unless the random bytes for it are unavailable.
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
