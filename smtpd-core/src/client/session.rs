//! The state of a session with a server.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};

use super::{
    clock::Need,
    config::ClientConfig,
    fault::{CloseReason, Fault, ProtocolFault, Stage},
    opening::{Next, Opening},
    plan::{Circumstances, Plan, Transaction},
    raw_reply::RawReply,
    report::{Outcome, Report},
    run::Run,
    unsupported::Unsupported,
    waiting::TlsFacts,
    wire::{Answer, Awaited, Wire},
};
use crate::reply::Reply;

#[derive(Debug)]
pub(super) struct Session {
    pub(super) config: Arc<ClientConfig>,
    pub(super) wire: Wire,
    state: State,
    pub(super) opening: Opening,
    run: Option<Run>,
    report: Option<Box<Report>>,
    /// The reply to a command of the caller.
    replied: Option<Reply>,
    /// Whether the server may have an open transaction that RSET must end.
    is_open: bool,
    /// Why QUIT is to be sent, or was.
    leaving: Option<CloseReason>,
    closed: Option<CloseReason>,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Handshake,
    /// The greeting, EHLO, STARTTLS or AUTH.
    Opening,
    /// Messages.
    Open,
    /// The reply to QUIT.
    Quitting,
}

impl Session {
    /// Creates a session that begins with a TLS handshake, or with the greeting.
    pub(super) fn new(config: Arc<ClientConfig>, with_tls: bool) -> Self {
        let mut session = Self {
            config,
            wire: Wire::default(),
            state: State::Handshake,
            opening: Opening::default(),
            run: None,
            report: None,
            replied: None,
            is_open: false,
            leaving: None,
            closed: None,
        };
        if !with_tls {
            session.state = State::Opening;
            session.wire.await_reply(Awaited::Greeting);
        }
        session
    }

    pub(super) const fn closed(&self) -> Option<&CloseReason> {
        self.closed.as_ref()
    }

    pub(super) const fn run(&self) -> Option<&Run> {
        self.run.as_ref()
    }

    pub(super) fn take_report(&mut self) -> Option<Box<Report>> {
        self.report.take()
    }

    pub(super) fn take_replied(&mut self) -> Option<Reply> {
        self.replied.take()
    }

    /// Returns whether there is nothing that the caller must know of.
    const fn is_silent(&self) -> bool {
        self.closed.is_none() && self.report.is_none() && self.replied.is_none()
    }

    /// Processes the replies in the input, up to the first that the caller must know of. Returns whether there was one.
    pub(super) fn read(&mut self, input: &mut BytesMut) -> bool {
        let mut has_read = false;
        while self.is_silent() {
            if self.state == State::Handshake {
                if !input.is_empty() {
                    self.fail(ProtocolFault::Injected.into(), None);
                }
                break;
            }
            match self.wire.poll(input, &self.config.limits) {
                Ok(None) => break,
                Ok(Some(answer)) => self.answered(answer),
                Err(fault) => self.fail(fault.into(), None),
            }
            has_read = true;
            self.advance();
        }
        if self.closed.is_some() {
            input.clear();
        }
        has_read
    }

    /// Sends what can be sent now.
    pub(super) fn advance(&mut self) {
        if self.closed.is_some() {
            return;
        }
        if let Some(run) = &mut self.run {
            run.advance(&mut self.wire);
            if run.is_over() {
                self.finish_run();
            }
        }
        if self.is_ready() && self.leaving.is_some() {
            self.send_quit();
        }
    }

    fn finish_run(&mut self) {
        if let Some(run) = self.run.take() {
            self.is_open |= run.is_open();
            self.report = Some(Box::new(run.into_report()));
        }
    }

    /// Returns whether the next message can begin.
    fn is_ready(&self) -> bool {
        let is_idle = self.run.is_none() && self.wire.outstanding() == 0;
        self.state == State::Open && is_idle && self.closed.is_none()
    }

    /// Returns what the session waits for, and for how long.
    pub(super) fn need(&self) -> (Need, Duration) {
        let timeouts = &self.config.timeouts;
        let wants_body = |run: &Run| run.wants_body(&self.wire);
        if self.run.as_ref().is_some_and(wants_body) {
            return (Need::Body, timeouts.body);
        }
        if !self.wire.is_written() {
            return (Need::Write, timeouts.write);
        }
        if self.state == State::Handshake {
            return (Need::Handshake, timeouts.handshake);
        }
        if self.is_ready() {
            return (Need::Ready, timeouts.idle);
        }
        let limit = match self.wire.next_awaited().map(Awaited::stage) {
            Some(Stage::Greeting) => timeouts.greeting,
            Some(Stage::Mail) => timeouts.mail,
            Some(Stage::Rcpt) => timeouts.rcpt,
            Some(Stage::Data) => timeouts.data_start,
            Some(Stage::Body | Stage::Message) => timeouts.message,
            Some(Stage::Quit) => timeouts.quit,
            _ => timeouts.command,
        };
        (Need::Read, limit)
    }

    /// Notes that a deadline has passed.
    pub(super) fn expire(&mut self, need: Need) {
        match need {
            Need::Ready => self.leave(),
            _ => self.fail(Fault::Timeout(self.stage()), None),
        }
    }

    /// Returns where the session is.
    fn stage(&self) -> Stage {
        if self.state == State::Handshake {
            return Stage::Handshake;
        }
        let awaited = self.wire.next_awaited();
        match (awaited.map(Awaited::stage), &self.run) {
            (Some(stage), _) => stage,
            (None, Some(_)) => Stage::Body,
            (None, None) => Stage::Idle,
        }
    }

    /// Sends QUIT as soon as no message is under way.
    pub(super) fn leave(&mut self) {
        self.leaving.get_or_insert(CloseReason::Quit);
        self.advance();
    }

    /// Sends QUIT because of a fault.
    fn leave_for(&mut self, fault: Fault) {
        self.leaving = Some(CloseReason::Fault(fault));
        self.send_quit();
    }

    fn send_quit(&mut self) {
        self.wire.send("QUIT", Awaited::Quit);
        self.state = State::Quitting;
    }

    /// Notes that nothing more can be read or written.
    pub(super) fn lose(&mut self) {
        if self.is_silent() {
            self.fail(Fault::Lost(self.stage()), None);
        }
    }

    /// Ends the session at once. `answered` is the command whose reply ends it.
    pub(super) fn fail(&mut self, fault: Fault, answered: Option<Awaited>) {
        if let Some(run) = &mut self.run {
            run.fail(&fault, answered, &self.wire);
            self.finish_run();
        }
        let reason = match self.state {
            // Whoever wants to leave does not care how.
            State::Quitting => self.leaving.take(),
            _ => None,
        };
        self.close(reason.unwrap_or(CloseReason::Fault(fault)));
    }

    fn close(&mut self, reason: CloseReason) {
        self.wire.output.clear();
        self.closed.get_or_insert(reason);
    }

    fn answered(&mut self, answer: Answer) {
        let Answer {
            to,
            reply,
            is_early,
        } = answer;
        let closes = reply.code().closes();
        match to {
            Some(Awaited::Quit) if !is_early => {
                let reason = self.leaving.take().unwrap_or(CloseReason::Quit);
                self.close(reason);
            }
            Some(to @ Awaited::Greeting) => self.answered_in_time(to, &reply),
            _ if closes => self.fail(Fault::Closing(reply.to_reply()), to),
            Some(to) if !is_early => self.answered_in_time(to, &reply),
            _ => self.unexpected(reply.to_reply()),
        }
    }

    fn answered_in_time(&mut self, to: Awaited, raw: &RawReply) {
        let reply = || raw.to_reply();
        let is_positive = raw.code().is_positive() && !raw.code().is_intermediate();
        match to {
            Awaited::Greeting | Awaited::Hello(_) | Awaited::StartTls | Awaited::Auth => {
                let (config, wire) = (&self.config, &mut self.wire);
                let next = self.opening.answered(to, raw, config, wire);
                self.go_on(next);
            }
            Awaited::Reset if !is_positive => {
                let (stage, reply) = (Stage::Reset, reply());
                self.fail(Fault::Refused { stage, reply }, None);
            }
            Awaited::Reset | Awaited::Noop => {}
            Awaited::Command => self.replied = Some(reply()),
            Awaited::XClient => self.xclient_answered(raw, is_positive),
            _ => {
                let Some(run) = &mut self.run else {
                    return; // The message was given up.
                };
                if let Err(fault) = run.answered(to, reply(), &mut self.wire) {
                    self.fail(fault, None);
                }
            }
        }
    }

    /// A server that refuses a message before its end can do so only once: what follows would be taken for commands.
    fn unexpected(&mut self, reply: Reply) {
        match &mut self.run {
            Some(run) if !reply.is_positive() => {
                let stage = Stage::Body;
                run.refuse(stage, &reply);
                self.fail(Fault::Refused { stage, reply }, None);
            }
            _ => self.fail(ProtocolFault::Unexpected(reply).into(), None),
        }
    }

    fn go_on(&mut self, next: Next) {
        match next {
            Next::Wait => self.state = State::Opening,
            Next::Handshake => self.state = State::Handshake,
            Next::Open => self.state = State::Open,
            Next::Leave(fault) => self.leave_for(fault),
            Next::Fail(fault) => self.fail(fault, None),
        }
    }

    /// Notes that the connection is encrypted.
    pub(super) fn encrypted(&mut self, facts: TlsFacts, input: &mut BytesMut) {
        if self.state != State::Handshake || self.closed.is_some() {
            return;
        }
        // The server says nothing before the handshake has begun.
        if !input.is_empty() {
            input.clear();
            return self.fail(ProtocolFault::Injected.into(), None);
        }
        let (config, wire) = (&self.config, &mut self.wire);
        let next = self.opening.encrypted(facts, config, wire);
        self.go_on(next);
    }

    /// Begins a message.
    pub(super) fn begin(&mut self, transaction: Transaction) {
        let plan = Plan::new(
            &transaction,
            Circumstances {
                config: &self.config,
                offers: self.opening.offers(),
                is_verified: self.opening.is_verified(),
                is_authenticated: self.opening.is_authenticated(),
            },
        );
        match plan {
            Err(reason) => self.report = Some(Box::new(Run::unsupported(&transaction, &reason))),
            Ok(plan) => {
                if std::mem::take(&mut self.is_open) {
                    self.wire.send("RSET", Awaited::Reset);
                }
                let is_pipelined =
                    self.config.pipelining && self.opening.offers().has("PIPELINING");
                self.run = Some(Run::new(transaction, plan, &self.config, is_pipelined));
                self.advance();
            }
        }
    }

    /// Sends a command of the caller.
    pub(super) fn send_command(&mut self, line: &str, awaited: Awaited) {
        self.wire.send(line, awaited);
    }

    /// After XCLIENT, the session starts anew with this reply as its greeting.
    fn xclient_answered(&mut self, raw: &RawReply, is_positive: bool) {
        self.replied = Some(raw.to_reply());
        if is_positive {
            let (config, wire) = (&self.config, &mut self.wire);
            let next = self.opening.restart(raw, config, wire);
            self.go_on(next);
        }
    }

    /// Finds out whether the server is still there.
    pub(super) fn send_noop(&mut self) {
        self.wire.send("NOOP", Awaited::Noop);
    }

    /// Appends bytes to the message.
    pub(super) fn push(&mut self, bytes: Bytes) {
        let wire = &mut self.wire;
        let result = self.run.as_mut().map(|run| run.push(bytes, wire));
        self.check(result);
    }

    /// Ends the message.
    pub(super) fn end_message(&mut self) {
        let wire = &mut self.wire;
        let result = self.run.as_mut().map(|run| run.end(wire));
        self.check(result);
    }

    fn check(&mut self, result: Option<Result<(), Unsupported>>) {
        if let Some(Err(reason)) = result {
            self.stop(&Outcome::Unsupported(reason));
        }
    }

    /// Ends the message before it is complete. Only one in chunks can be taken back; DATA ends with the connection.
    pub(super) fn stop(&mut self, outcome: &Outcome) {
        let can_go_on = self.run.as_mut().is_some_and(|run| run.abort(outcome));
        self.finish_run();
        if !can_go_on {
            self.fail(Fault::Aborted, None);
        }
    }
}
