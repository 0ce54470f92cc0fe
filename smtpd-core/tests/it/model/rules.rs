//! The rules of a session, as RFC 5321 and its extensions give them: which command is legal where, its reply, and what it changes.
//! They know nothing of bytes, time and pipelining, and share no code with `Connection`.

use self::{Answer::*, Argument::*, Command::*, State::*, Text::*};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Hello(&'static str),
    StartTls,
    Auth,
    Mail(Argument),
    Rcpt(Argument),
    /// The message follows if the server wants it.
    Data(Argument, Text),
    Bdat(Text),
    BdatLast(Text),
    Rset,
    Noop,
    Vrfy,
    Expn,
    Help,
    Unknown,
    Quit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Argument {
    WellFormed,
    Malformed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Text {
    Clean,
    BareNewline,
}

/// What a service says to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Yes,
    Defer,
    Reject,
    Close,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) lmtp: bool,
    pub(super) starttls: bool,
    pub(super) require_tls: bool,
    pub(super) require_auth: bool,
    pub(super) errors: u32,
    pub(super) auth_failures: u32,
    pub(super) idle_commands: u32,
    pub(super) messages: u32,
    pub(super) recipients: usize,
    pub(super) after_refusal: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before HELO.
    Start,
    Ready,
    /// MAIL was accepted.
    InMail,
    /// A recipient was accepted.
    InRcpt,
    /// Between two chunks.
    InChunks,
    /// A chunk was refused.
    Broken,
    /// The greeting was 5yz.
    Refused,
}

/// What a model and a connection must agree on, besides the replies.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) closed: bool,
    pub(super) tls: bool,
    pub(super) helo: bool,
    pub(super) authenticated: bool,
    pub(super) messages: u32,
    pub(super) failures: u32,
    pub(super) errors: u32,
    /// The recipients of the open transaction.
    pub(super) transaction: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Model {
    rules: Rules,
    state: State,
    facts: Facts,
    /// Attempts to authenticate that were deferred.
    deferred: u32,
    idle: u32,
    mails: u32,
    /// Whether MAIL was tried since the last message or reset.
    attempted: bool,
    /// How the next questions are answered.
    answers: Vec<Answer>,
    replies: Vec<u16>,
}

impl Model {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            state: Start,
            facts: Facts::default(),
            deferred: 0,
            idle: 0,
            mails: 0,
            attempted: false,
            answers: Vec::new(),
            replies: Vec::new(),
        }
    }

    /// Returns the replies to a new connection, and how many of the answers were not needed.
    pub(super) fn connect(&mut self, answers: &[Answer]) -> (Vec<u16>, usize) {
        self.answers = answers.iter().rev().copied().collect();
        match self.ask() {
            Yes => self.say(220),
            Reject => (self.state, self.replies) = (Refused, vec![554]),
            Defer | Close => self.close(421),
        }
        self.told()
    }

    /// Returns the replies to a command and its message, and how many of the answers were not needed.
    pub(super) fn receive(&mut self, command: Command, answers: &[Answer]) -> (Vec<u16>, usize) {
        self.answers = answers.iter().rev().copied().collect();
        match self.objection(command) {
            _ if self.facts.closed => {}
            Some(code) => self.fault(code),
            None if self.is_too_idle(command) => self.close(421),
            None => self.run(command),
        }
        self.told()
    }

    fn told(&mut self) -> (Vec<u16>, usize) {
        (std::mem::take(&mut self.replies), self.answers.len())
    }

    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The reply to a command that is not legal here.
    fn objection(&self, command: Command) -> Option<u16> {
        let Rules { lmtp, starttls, .. } = self.rules;
        let unknown = match command {
            Hello(verb) => (verb == "LHLO") != lmtp, // RFC 2033 section 4.1
            StartTls => !starttls,
            Unknown => true,
            _ => false,
        };
        if self.state == Refused {
            return (command != Quit).then_some(503); // RFC 5321 section 3.1
        }
        if unknown {
            return Some(500);
        }
        let before_tls = matches!(command, Hello(_) | StartTls | Noop | Quit); // RFC 3207 section 4
        let before_auth = before_tls || matches!(command, Auth | Rset); // RFC 4954 section 6
        let (tls, auth) = (self.facts.tls, self.facts.authenticated);
        if self.rules.require_tls && !tls && !before_tls
            || self.rules.require_auth && !auth && !before_auth
        {
            return Some(530);
        }
        let states: &[State] = match command {
            StartTls => &[Start, Ready],
            Auth | Mail(_) => &[Ready],
            Rcpt(_) => &[InMail, InRcpt],
            Data(..) => &[InRcpt],
            Bdat(_) | BdatLast(_) => &[InRcpt, InChunks],
            _ => return None,
        };
        (!states.contains(&self.state)).then_some(503)
    }

    /// Counts the commands that lead to no mail. One that ends a transaction is not among them.
    fn is_too_idle(&mut self, command: Command) -> bool {
        match command {
            Hello(_) | Rset if std::mem::take(&mut self.attempted) => {}
            Hello(_) | StartTls | Rset | Noop | Vrfy | Expn | Help => self.idle += 1,
            _ => {}
        }
        self.idle >= self.rules.idle_commands
    }

    fn run(&mut self, command: Command) {
        match command {
            Hello(_) => self.hello(),
            StartTls => self.start_tls(),
            Auth => self.auth(),
            Mail(argument) => self.mail(argument),
            Rcpt(argument) => self.rcpt(argument),
            Data(Malformed, _) => self.fault(501),
            Data(WellFormed, text) => self.data(text),
            Bdat(text) => self.chunk(text),
            BdatLast(text) => self.last_chunk(text),
            Rset => {
                self.end_transaction();
                self.say(250);
            }
            Noop => self.say(250),
            Vrfy => self.say(252),
            Expn => self.fault(502),
            Help => self.say(214),
            Unknown => self.fault(500),
            Quit => self.close(221),
        }
    }

    /// RFC 5321 section 4.1.4: it resets the session, unless it is refused.
    fn hello(&mut self) {
        if self.is_accepted(250) {
            self.end_transaction();
            self.facts.helo = true;
            self.state = Ready;
        }
    }

    /// RFC 3207 section 4.2: the session starts anew.
    fn start_tls(&mut self) {
        if self.facts.tls {
            self.fault(503);
        } else if self.is_accepted(220) {
            (self.facts.tls, self.facts.helo, self.facts.authenticated) = (true, false, false);
            self.state = Start;
        }
    }

    /// RFC 4954 section 4. A fault of the server is neither a wrong password nor an error, but there may be as many as errors.
    fn auth(&mut self) {
        if self.facts.authenticated {
            return self.fault(503);
        }
        match self.ask() {
            Yes => {
                self.facts.authenticated = true;
                self.say(235);
            }
            Defer => {
                self.deferred += 1;
                match self.deferred < self.rules.errors {
                    true => self.say(454),
                    false => self.close(421),
                }
            }
            Reject => {
                self.facts.failures += 1;
                match self.facts.failures < self.rules.auth_failures {
                    true => self.say(535),
                    false => self.close(421),
                }
            }
            Close => self.close(421),
        }
    }

    fn mail(&mut self, argument: Argument) {
        if self.mails >= self.rules.messages {
            return self.close(421);
        }
        self.mails += 1;
        self.attempted = true;
        if argument == Malformed {
            self.fault(501);
        } else if self.is_accepted(250) {
            self.facts.transaction = Some(0);
            self.state = InMail;
        }
    }

    fn rcpt(&mut self, argument: Argument) {
        let Some(accepted) = self.facts.transaction else {
            unreachable!("RCPT is legal in a transaction only");
        };
        if argument == Malformed {
            self.fault(501);
        } else if accepted >= self.rules.recipients {
            self.say(452);
        } else if self.is_accepted(250) {
            self.facts.transaction = Some(accepted + 1);
            self.state = InRcpt;
        }
    }

    fn data(&mut self, text: Text) {
        match self.is_accepted(354) {
            true => self.message(text),
            false => self.end_transaction(),
        }
    }

    /// RFC 3030 section 2: after a refused chunk, only RSET or a greeting helps.
    fn chunk(&mut self, text: Text) {
        let refusal = self.first_refusal().or_else(|| self.refusal_of(text));
        self.state = if refusal.is_none() { InChunks } else { Broken };
        match refusal {
            Some(421) => self.close(421),
            code => self.say(code.unwrap_or(250)),
        }
    }

    fn last_chunk(&mut self, text: Text) {
        match self.first_refusal() {
            Some(421) => self.close(421),
            Some(code) => self.message_reply(code),
            None => self.message(text),
        }
    }

    /// Asks about the message as DATA does, at its first chunk.
    fn first_refusal(&mut self) -> Option<u16> {
        match self.state {
            InRcpt => self.refusal(),
            _ => None,
        }
    }

    fn message(&mut self, text: Text) {
        let refusal = self.refusal_of(text);
        self.message_reply(refusal.unwrap_or(250));
    }

    /// Text with a bare newline is never accepted (RFC 5321 section 2.3.8).
    fn refusal_of(&mut self, text: Text) -> Option<u16> {
        let refusal = self.refusal();
        refusal.or_else(|| (text == BareNewline).then_some(550))
    }

    fn message_reply(&mut self, code: u16) {
        // RFC 2033 section 4.2: LMTP has a reply for each recipient.
        let recipients = self.facts.transaction.unwrap_or_default();
        for _ in 0..if self.rules.lmtp { recipients } else { 1 } {
            self.say(code);
        }
        if code == 250 {
            self.facts.messages += 1;
            (self.idle, self.attempted) = (0, false);
        }
        self.end_transaction();
        if code == 421 {
            self.end();
        }
    }

    /// Asks a service whether the command is accepted, and says so or how it is refused.
    fn is_accepted(&mut self, code: u16) -> bool {
        match self.refusal() {
            None => {
                self.say(code);
                return true;
            }
            Some(421) => self.close(421),
            Some(code) => self.say(code),
        }
        false
    }

    fn refusal(&mut self) -> Option<u16> {
        match self.ask() {
            Yes => None,
            Defer => Some(451),
            Reject => Some(554),
            Close => Some(421),
        }
    }

    fn ask(&mut self) -> Answer {
        self.answers.pop().unwrap_or(Yes)
    }

    fn say(&mut self, code: u16) {
        self.replies.push(code);
    }

    /// The reply to a client error. Too many end the session, and so does anything but QUIT after a greeting of 5yz.
    fn fault(&mut self, code: u16) {
        self.facts.errors += 1;
        self.idle += u32::from(self.state == Refused);
        let stays = self.state == Refused && self.idle > self.rules.after_refusal;
        match self.facts.errors >= self.rules.errors || stays {
            true => self.close(421),
            false => self.say(code),
        }
    }

    fn end_transaction(&mut self) {
        self.facts.transaction = None;
        if self.state != Start {
            self.state = Ready;
        }
    }

    fn close(&mut self, code: u16) {
        self.say(code);
        self.end();
    }

    fn end(&mut self) {
        (self.facts.closed, self.facts.transaction) = (true, None);
    }
}
