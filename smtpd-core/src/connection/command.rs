//! Commands: what each of them comes to in the present state.

use super::{Asked, CloseReason, CommandLine, Connection, Mode, State, event::Event};
use crate::{
    command::{Command, Verb, is_foreign_start},
    protocol::Protocol,
    reply::{Code, Reply, Status},
};

const SYNTAX: Reply = Reply::fixed(
    Code::PARAMETER_ERROR,
    Status::INVALID_PARAMETERS,
    "Syntax error in arguments",
);
const SEQUENCE: Reply = Reply::fixed(
    Code::BAD_SEQUENCE,
    Status::INVALID_COMMAND,
    "Bad sequence of commands",
);
const NOT_IMPLEMENTED: Reply = Reply::fixed(
    Code::NOT_IMPLEMENTED,
    Status::INVALID_COMMAND,
    "Command not implemented",
);
const UNKNOWN: Reply = Reply::fixed(
    Code::SYNTAX_ERROR,
    Status::INVALID_COMMAND,
    "Command not recognized",
);

impl Connection {
    /// Takes one command line. `more` tells whether input follows it.
    pub(super) fn command(&mut self, line: &[u8], more: bool) {
        let command = Command::new(line);
        let verb = Verb::parse(command.word).filter(|&verb| self.is_known(verb));
        self.log_command(line);
        // RFC 5321 sections 2.3.8 and 4.1.1: neither a bare CR or LF nor any other control character is part of a command.
        if has_control(line) {
            return self.fault(Reply::fixed(
                Code::SYNTAX_ERROR,
                Status::SYNTAX_ERROR,
                "Control characters, bare CR or LF in a command",
            ));
        }
        let Some(verb) = verb else {
            return self.unknown(command);
        };
        if let Some(reply) = self.refusal(verb) {
            return self.refuse(verb, command.argument, reply);
        }
        if more && verb.must_be_last() && self.config.strict_pipelining {
            return self.too_early();
        }
        if verb.is_junk() && !self.ends_attempt(verb) {
            self.counts.idle_commands += 1;
            if self.counts.idle_commands > self.config.limits.idle_commands {
                return self.close_with(
                    Reply::closing("Too many commands without mail"),
                    CloseReason::Limit,
                );
            }
        }
        self.run(verb, command.argument, more)
    }

    /// Whether the command ends what a MAIL has begun. Such a command is no more idle than its MAIL: as many messages as LIMITS
    /// announces can be tried, each of them ended by RSET (RFC 9422 section 4.1) or by a new greeting, which does the same
    /// (RFC 5321 section 4.1.4).
    fn ends_attempt(&mut self, verb: Verb) -> bool {
        let ends = matches!(verb, Verb::Rset | Verb::Helo | Verb::Ehlo | Verb::Lhlo);
        ends && std::mem::take(&mut self.counts.attempted)
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
            Verb::Noop => self.answer(Reply::OK),
            Verb::Vrfy if argument.is_empty() => self.fault(SYNTAX),
            Verb::Vrfy | Verb::Expn | Verb::Help => {
                self.other(verb.name(), argument, default_reply(verb))
            }
            Verb::Etrn => self.etrn(argument),
            Verb::Quit => self.quit(),
            Verb::XClient => self.xclient(argument),
            Verb::XForward => self.xforward(argument),
        }
    }

    fn too_early(&mut self) {
        let reply = Reply::fixed(
            Code::TRANSACTION_FAILED,
            Status::INVALID_COMMAND,
            "Commands were sent too early",
        );
        self.close_with(reply, CloseReason::Violation)
    }

    pub(super) fn answer(&mut self, reply: Reply) {
        self.put(&reply);
    }

    /// Whether the verb exists here: an extension that is off has no command.
    fn is_known(&self, verb: Verb) -> bool {
        let config = &self.config;
        match verb {
            Verb::Bdat => config.extensions.known().chunking,
            Verb::Etrn => self.is_offered("ETRN"),
            Verb::StartTls => config.starttls,
            Verb::Auth => !config.mechanisms.is_empty(),
            // RFC 2033 section 4.1: LHLO in place of HELO and EHLO.
            Verb::Lhlo => config.protocol == Protocol::Lmtp,
            Verb::Helo | Verb::Ehlo => config.protocol == Protocol::Smtp,
            Verb::XClient => config.xclient,
            Verb::XForward => config.xforward,
            _ => true,
        }
    }

    /// Whether the client begins with a protocol that has no lines: it would wait for an answer, and so would this session,
    /// until its time is over. Only the first byte of a session is looked at, so that commands cost no more.
    pub(super) fn begins_another_protocol(&self, input: &[u8]) -> bool {
        self.line.is_new() && input.first().is_some_and(|&octet| is_foreign_start(octet))
    }

    pub(super) fn close_foreign(&mut self) {
        let reply = Reply::fixed(
            Code::TRANSACTION_FAILED,
            Status::INVALID_COMMAND,
            "This is a mail server",
        );
        self.close_with(reply, CloseReason::Violation)
    }

    fn unknown(&mut self, command: Command<'_>) {
        if command.is_foreign() {
            return self.close_foreign();
        }
        if self.state == State::Refused {
            return self.fault(SEQUENCE);
        }
        if self.config.custom_commands
            && let Some(reply) = self.missing_requirement(false, false)
        {
            return self.fault(reply);
        }
        let reply = match Verb::parse(command.word) {
            // RFC 5321 section 4.2.4: the verb of an extension that is off is known, but not implemented.
            Some(Verb::Bdat | Verb::Etrn) => NOT_IMPLEMENTED,
            // RFC 2033 section 4.1: neither protocol knows the greeting of the other.
            Some(Verb::Helo | Verb::Ehlo) => UNKNOWN.with_text("This is LMTP, use LHLO"),
            Some(Verb::Lhlo) => UNKNOWN.with_text("This is SMTP, use EHLO"),
            _ => UNKNOWN,
        };
        self.other(command.word, command.argument, reply)
    }

    /// A command that means nothing to the session itself.
    pub(super) fn other(&mut self, verb: &[u8], argument: &[u8], default_reply: Reply) {
        if !self.config.custom_commands || !verb.is_ascii() || verb.is_empty() {
            return self.answer_other(&default_reply);
        }
        let line = CommandLine {
            verb: String::from_utf8_lossy(verb).to_ascii_uppercase(),
            argument: String::from_utf8_lossy(argument).into_owned(),
            default_reply,
        };
        self.ask(Asked::Command, Event::Command(line))
    }

    pub(super) fn answer_other(&mut self, reply: &Reply) {
        if reply.code().is_permanent() {
            self.fault(reply.clone())
        } else {
            self.answer(reply.clone())
        }
    }

    /// Why the verb is not in order here and now, in the order of RFC 3207, RFC 4954 and RFC 5321.
    fn refusal(&self, verb: Verb) -> Option<Reply> {
        // RFC 5321 section 3.1: 503, whatever else is the matter.
        if self.state == State::Refused && !verb.is_in_order(self.state) {
            return Some(SEQUENCE);
        }
        let requirement =
            self.missing_requirement(verb.is_allowed_before_tls(), verb.is_allowed_before_auth());
        if requirement.is_some() {
            return requirement;
        }
        let reply = match (verb, self.state) {
            _ if verb.is_in_order(self.state) => return None,
            (Verb::Data | Verb::Bdat, State::Mail) => Reply::fixed(
                Code::BAD_SEQUENCE,
                Status::INVALID_COMMAND,
                "No valid recipients",
            ),
            (Verb::Mail, State::Start) => Reply::fixed(
                Code::BAD_SEQUENCE,
                Status::INVALID_COMMAND,
                "Introduce yourself first",
            ),
            (Verb::Mail, State::Mail | State::Rcpt) => Reply::fixed(
                Code::BAD_SEQUENCE,
                Status::INVALID_COMMAND,
                "A transaction is already open",
            ),
            _ => SEQUENCE,
        };
        Some(reply)
    }

    /// What has to come first, for a command that may or may not come before it.
    fn missing_requirement(&self, before_tls: bool, before_auth: bool) -> Option<Reply> {
        if self.config.require_tls && !self.tls && !before_tls {
            return Some(Reply::tls_required());
        }
        (self.must_authenticate() && !before_auth).then(Reply::auth_required)
    }

    pub(super) fn must_authenticate(&self) -> bool {
        self.config.require_auth
            && !self.config.mechanisms.is_empty()
            && self.client.identity.is_none()
    }

    fn refuse(&mut self, verb: Verb, argument: &[u8], reply: Reply) {
        if verb == Verb::Bdat {
            return self.refuse_bdat(argument, reply);
        }
        self.fault(reply)
    }

    fn start_tls(&mut self, argument: &[u8], more: bool) {
        // RFC 3207 section 4: no parameters; section 4.2: not offered, so not taken, inside TLS.
        if !argument.is_empty() {
            return self.fault(SYNTAX);
        }
        if self.tls {
            return self.fault(Reply::fixed(
                Code::BAD_SEQUENCE,
                Status::INVALID_COMMAND,
                "TLS is already active",
            ));
        }
        if more {
            // RFC 3207 section 4.2: commands smuggled in behind STARTTLS must never be run inside TLS.
            return self.too_early();
        }
        self.ask(Asked::StartTls, Event::StartTls);
    }

    /// Waits for the handshake, once the client was told to begin it.
    pub(super) fn begin_tls(&mut self) {
        self.asked = None;
        self.put(&Reply::fixed(
            Code::READY,
            Status::UNDEFINED,
            "Ready to start TLS",
        ));
        self.reading = Mode::Handshake;
        self.due = None;
    }

    fn rset(&mut self, argument: &[u8]) {
        if !argument.is_empty() {
            return self.fault(SYNTAX);
        }
        let envelope = self.transaction.envelope.take();
        self.end_transaction();
        self.put(&Reply::OK);
        self.tell(Event::Reset(envelope));
    }

    fn quit(&mut self) {
        let text = format!(
            "{} {} closing the connection",
            self.config.hostname, self.config.app_name
        );
        self.close_with(
            Reply::new(Code::CLOSING, Status::UNDEFINED, text),
            CloseReason::Quit,
        )
    }

    fn data(&mut self, argument: &[u8]) {
        if !argument.is_empty() {
            return self.fault(SYNTAX);
        }
        if self.transaction.binary {
            // RFC 3030 section 3: BINARYMIME cannot be sent by DATA.
            return self.fault(SEQUENCE.with_text("BINARYMIME requires BDAT"));
        }
        self.ask(Asked::Data, Event::Data)
    }
}

const fn default_reply(verb: Verb) -> Reply {
    match verb {
        // RFC 5321 section 3.5.3: 252 where verification is not offered.
        Verb::Vrfy => Reply::fixed(
            Code::CANNOT_VERIFY,
            Status::UNDEFINED,
            "Cannot VRFY user, but will take a message and attempt delivery",
        ),
        Verb::Help => Reply::fixed(Code::HELP, Status::UNDEFINED, "See RFC 5321"),
        _ => Reply::fixed(
            Code::NOT_IMPLEMENTED,
            Status::INVALID_COMMAND,
            "EXPN not implemented",
        ),
    }
}

pub(super) const fn syntax_error() -> Reply {
    SYNTAX
}

/// Whether a line holds a control character other than TAB. Without an early end, so that many octets are looked at at once.
fn has_control(line: &[u8]) -> bool {
    line.iter().fold(false, |found, &octet| {
        found | ((octet < b' ') & (octet != b'\t')) | (octet == 0x7f)
    })
}
