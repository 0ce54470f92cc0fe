//! Processes commands, depending on the current state.

use super::{
    etrn,
    event::{CloseReason, Event},
    fixed,
    offer::Offer,
    question::{Asked, Slot},
    session::{Mode, Session},
    state::State,
    subject::CommandLine,
    transfer::Chunk,
    waiting::TlsFacts,
};
use crate::{
    address::ClientName,
    command::{Command, Verb},
    helo::{Greeting, Helo},
    protocol::Protocol,
    proxied::Attribute,
    reply::{Code, Reply, Status},
};

impl Session {
    /// Processes one command line. `more` says whether input follows it.
    pub(super) fn command(&mut self, line: &[u8], more: bool) {
        let command = Command::new(line);
        let verb = Verb::parse(command.word);
        self.replies
            .begin_command(line, verb, &self.config.settings.mechanisms);
        let verb = verb.filter(|&verb| self.is_known(verb));
        // RFC 5321 sections 2.3.8 and 4.1.1: neither a bare CR or LF nor any other control character is part of a command.
        if has_control(line) {
            return self.fault(fixed::CONTROL_CHARACTERS);
        }
        let Some(verb) = verb else {
            return self.unknown(command);
        };
        if let Some(reply) = self.objection(verb) {
            return match verb {
                Verb::Bdat => self.refuse_bdat(command.argument, reply),
                _ => self.fault(reply),
            };
        }
        if more && verb.must_be_last() && self.config.settings.strict_pipelining {
            return self.close_with(fixed::TOO_EARLY, CloseReason::Violation);
        }
        if verb.is_junk() && !self.ends_attempt(verb) {
            self.idle_commands += 1;
            if self.idle_commands >= self.config.settings.limits.idle_commands {
                return self.close_over_limit(&fixed::TOO_MANY_COMMANDS);
            }
        }
        self.run(verb, command.argument, more)
    }

    /// Returns whether the command ends a transaction that MAIL began. Such a command is no more idle than its MAIL: a client can
    /// attempt as many messages as LIMITS announces, each ended by RSET (RFC 9422 section 4.1) or by a new greeting, which has
    /// the same effect (RFC 5321 section 4.1.4).
    fn ends_attempt(&mut self, verb: Verb) -> bool {
        let ends = matches!(verb, Verb::Rset | Verb::Helo | Verb::Ehlo | Verb::Lhlo);
        ends && self.transaction.ends_attempt()
    }

    /// Counts a command after a greeting of 5yz. Returns whether the client has had its chances to send QUIT.
    pub(super) fn is_turned_away(&mut self) -> bool {
        if self.state != State::Refused {
            return false;
        }
        self.idle_commands += 1;
        self.idle_commands > self.config.settings.limits.after_refusal
    }

    fn run(&mut self, verb: Verb, argument: &[u8], more: bool) {
        match verb {
            Verb::Helo | Verb::Ehlo | Verb::Lhlo => self.hello(verb, argument),
            Verb::StartTls => self.start_tls(argument, more),
            Verb::Auth => self.auth(argument),
            Verb::Mail => self.mail(argument),
            Verb::Rcpt => self.rcpt(argument),
            Verb::Data => self.data(argument),
            Verb::Bdat => self.bdat(argument),
            Verb::Rset => self.rset(argument),
            Verb::Noop => self.put(&Reply::OK),
            Verb::Vrfy if argument.is_empty() => self.fault(fixed::SYNTAX),
            Verb::Vrfy => self.other(verb.name(), argument, fixed::NO_VRFY),
            Verb::Expn => self.other(verb.name(), argument, fixed::NO_EXPN),
            Verb::Help => self.other(verb.name(), argument, fixed::NO_HELP),
            Verb::Etrn => self.etrn(argument),
            Verb::Quit => self.quit(),
            Verb::XClient => self.xclient(argument),
            Verb::XForward => self.xforward(argument),
        }
    }

    /// Returns whether the verb exists here: an extension that is off has no command.
    fn is_known(&self, verb: Verb) -> bool {
        let config = &self.config;
        match verb {
            Verb::Bdat => config.settings.extensions.known().chunking,
            Verb::Etrn => self.offer().has("ETRN"),
            Verb::StartTls => config.starttls,
            Verb::Auth => !config.settings.mechanisms.is_empty(),
            // RFC 2033 section 4.1: LHLO replaces HELO and EHLO.
            Verb::Lhlo => config.protocol == Protocol::Lmtp,
            Verb::Helo | Verb::Ehlo => config.protocol == Protocol::Smtp,
            Verb::XClient => config.xclient,
            Verb::XForward => config.xforward,
            _ => true,
        }
    }

    fn unknown(&mut self, command: Command<'_>) {
        if command.is_foreign() {
            return self.close_foreign();
        }
        if self.state == State::Refused {
            return self.fault(fixed::SEQUENCE);
        }
        if self.config.custom_commands
            && let Some(reply) = self.missing_requirement(false, false)
        {
            return self.fault(reply);
        }
        let reply = match Verb::parse(command.word) {
            // RFC 5321 section 4.2.4: the verb of an extension that is off is known, but not implemented.
            Some(Verb::Bdat | Verb::Etrn) => fixed::NOT_IMPLEMENTED,
            // RFC 2033 section 4.1: neither protocol accepts the greeting of the other.
            Some(Verb::Helo | Verb::Ehlo) => fixed::UNKNOWN.with_text("This is LMTP, use LHLO"),
            Some(Verb::Lhlo) => fixed::UNKNOWN.with_text("This is SMTP, use EHLO"),
            _ => fixed::UNKNOWN,
        };
        self.other(command.word, command.argument, reply)
    }

    /// Handles a command that has no meaning for the session itself. The argument of an AUTH that is off may be a password, so no
    /// caller sees it.
    fn other(&mut self, verb: &[u8], argument: &[u8], default_reply: Reply) {
        let is_auth = verb.eq_ignore_ascii_case(b"AUTH");
        if !self.config.custom_commands || is_auth || !verb.is_ascii() || verb.is_empty() {
            return self.answer_other(default_reply);
        }
        let line = CommandLine::parse(verb, argument, default_reply);
        if line.may_be_shown() {
            self.replies.about(line.argument());
        }
        self.question
            .ask(Asked::Command, Event::Command(Box::new(line)))
    }

    pub(super) fn answer_other(&mut self, reply: Reply) {
        if reply.blames_client() {
            self.fault(reply)
        } else {
            self.put(&reply)
        }
    }

    /// Returns why the verb is not allowed here and now, in the order of RFC 3207, RFC 4954 and RFC 5321.
    fn objection(&self, verb: Verb) -> Option<Reply> {
        // RFC 5321 section 3.1: 503 takes precedence.
        if self.state == State::Refused && !verb.is_in_order(self.state) {
            return Some(fixed::SEQUENCE);
        }
        let requirement =
            self.missing_requirement(verb.is_allowed_before_tls(), verb.is_allowed_before_auth());
        if requirement.is_some() || verb.is_in_order(self.state) {
            return requirement;
        }
        Some(match (verb, self.state) {
            (Verb::Data | Verb::Bdat, State::Mail) => fixed::NO_RECIPIENTS,
            (Verb::Mail, State::Start) => fixed::INTRODUCE_YOURSELF,
            (Verb::Mail, State::Mail | State::Rcpt) => fixed::OPEN_TRANSACTION,
            _ => fixed::SEQUENCE,
        })
    }

    /// Returns what the client must do before a command that may or may not come before it.
    fn missing_requirement(&self, before_tls: bool, before_auth: bool) -> Option<Reply> {
        if self.config.settings.is_tls_required() && !self.tls && !before_tls {
            return Some(Reply::tls_required());
        }
        (self.must_authenticate() && !before_auth).then(Reply::auth_required)
    }

    fn hello(&mut self, verb: Verb, argument: &[u8]) {
        let Ok(name) = ClientName::parse(argument) else {
            return self.fault(fixed::MALFORMED_HELO);
        };
        let greeting = match verb {
            Verb::Helo => Greeting::Helo,
            Verb::Lhlo => Greeting::Lhlo,
            _ => Greeting::Ehlo,
        };
        let helo = Box::new(Helo::new(name).with_greeting(greeting));
        self.question.ask(Asked::Helo, Slot::Helo(helo))
    }

    fn start_tls(&mut self, argument: &[u8], more: bool) {
        // RFC 3207 section 4: no parameters; section 4.2: not offered within TLS, so not accepted.
        if !argument.is_empty() {
            return self.fault(fixed::SYNTAX);
        }
        if self.tls {
            return self.fault(fixed::ALREADY_TLS);
        }
        if more {
            // RFC 3207 section 4.2: commands injected after STARTTLS must never be run within TLS.
            return self.close_with(fixed::TOO_EARLY, CloseReason::Violation);
        }
        self.question.ask(Asked::StartTls, Event::StartTls);
    }

    fn auth(&mut self, argument: &[u8]) {
        let config = &self.config.settings;
        let progress = self.authentication.begin(argument, config, self.tls);
        self.authenticate(progress);
    }

    fn mail(&mut self, argument: &[u8]) {
        let offer = Offer::new(&self.config, self.tls, self.authentication.is_done());
        match self.transaction.mail(argument, offer) {
            Ok(envelope) => self.question.ask(Asked::Mail, Slot::Mail(envelope)),
            Err(refused) => self.refuse(refused),
        }
    }

    fn rcpt(&mut self, argument: &[u8]) {
        let offer = Offer::new(&self.config, self.tls, self.authentication.is_done());
        match self.transaction.rcpt(argument, offer) {
            Ok(recipient) => self.question.ask(Asked::Rcpt, Slot::Rcpt(recipient)),
            Err(refused) => self.refuse(refused),
        }
    }

    fn data(&mut self, argument: &[u8]) {
        if !argument.is_empty() {
            return self.fault(fixed::SYNTAX);
        }
        if self.transaction.is_binary() {
            // RFC 3030 section 3: BINARYMIME cannot be sent by DATA.
            return self.fault(fixed::SEQUENCE.with_text("BINARYMIME requires BDAT"));
        }
        self.question.ask(Asked::Data, Event::Data)
    }

    fn bdat(&mut self, argument: &[u8]) {
        let Some(chunk) = Chunk::parse(argument) else {
            return self.malformed_bdat();
        };
        let is_binary = self.transaction.is_binary();
        let config = &self.config.settings;
        if self.transfer.begin_chunk(chunk, config, is_binary) {
            self.question.ask(Asked::Data, Event::Data)
        } else {
            self.read(Mode::Message)
        }
    }

    /// RFC 3030 section 2: the octets that a refused BDAT announces are sent anyway, so they must be read and dropped.
    fn refuse_bdat(&mut self, argument: &[u8], reply: Reply) {
        let Some(chunk) = Chunk::parse(argument) else {
            return self.malformed_bdat();
        };
        if chunk.size > self.config.settings.limits.drain {
            return self.close_with(reply, CloseReason::Violation);
        }
        let config = &self.config.settings;
        self.transfer.begin_void(chunk, reply, config);
        self.read(Mode::Message)
    }

    /// The end of the message cannot be known, so the session cannot continue.
    fn malformed_bdat(&mut self) {
        self.close_with(fixed::MALFORMED_BDAT, CloseReason::Violation)
    }

    fn rset(&mut self, argument: &[u8]) {
        if !argument.is_empty() {
            return self.fault(fixed::SYNTAX);
        }
        let envelope = self.transaction.reset();
        self.end_transaction();
        self.put(&Reply::OK);
        self.question.notify(Event::Reset(envelope));
    }

    fn etrn(&mut self, argument: &[u8]) {
        // RFC 1985 section 7: 500 without a node, 501 for an invalid one.
        if argument.is_empty() {
            return self.fault(fixed::ETRN_SYNTAX);
        }
        if !etrn::is_node(argument, self.offer()) {
            return self.fault(fixed::SYNTAX);
        }
        self.other(b"ETRN", argument, fixed::NO_QUEUE)
    }

    fn quit(&mut self) {
        let text = self.config.settings.signed("closing the connection");
        let reply = Reply::new(Code::CLOSING, Status::UNDEFINED, text);
        self.close_with(reply, CloseReason::Quit)
    }

    /// Restarts the session for another client, from the greeting; TLS stays.
    fn xclient(&mut self, argument: &[u8]) {
        let client = match self.claims.xclient(argument) {
            Ok(client) => client,
            Err(reply) => return self.fault(reply),
        };
        let identity = client.login().and_then(Attribute::known).cloned();
        self.replies.begin_greeting();
        // The TLS connection ends at the proxy.
        self.start_anew(identity, TlsFacts::default());
        let event = Event::XClient(Box::new(client));
        self.question.ask(Asked::Connect, event)
    }

    fn xforward(&mut self, argument: &[u8]) {
        match self.claims.xforward(argument) {
            Ok(forwarded) => {
                self.put(&Reply::OK);
                self.question.notify(Event::XForward(Box::new(forwarded)));
            }
            Err(reply) => self.fault(reply),
        }
    }
}

/// Returns whether a line contains a control character other than TAB. There is no early return, so that many bytes are checked
/// at once.
fn has_control(line: &[u8]) -> bool {
    line.iter().fold(false, |found, &byte| {
        found | ((byte < b' ') & (byte != b'\t')) | (byte == 0x7f)
    })
}
