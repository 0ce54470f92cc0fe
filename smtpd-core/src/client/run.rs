//! One message under way.

use bytes::Bytes;

use super::{
    config::ClientConfig,
    content::Content,
    fault::{Fault, ProtocolFault, Stage},
    plan::{Plan, Transaction},
    report::{Outcome, Report},
    unsupported::Unsupported,
    wire::{Awaited, Wire},
};
use crate::{protocol::Protocol, reply::Reply};

/// The number of BDAT chunks that are sent before the replies to them are received.
const CHUNKS: usize = 4;

/// A transaction, from MAIL to the reply to the message.
#[derive(Debug)]
pub(super) struct Run {
    transaction: Transaction,
    plan: Plan,
    protocol: Protocol,
    /// How many replies may be outstanding.
    window: usize,
    phase: Phase,
    /// The recipient whose RCPT is sent next.
    next: usize,
    outcomes: Vec<Option<Outcome>>,
    accepted: Vec<usize>,
    content: Content,
    is_begun: bool,
    /// Whether MAIL was refused.
    is_refused: bool,
    is_complete: bool,
}

/// How far a transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// MAIL has not been answered.
    Mail,
    Rcpt,
    /// DATA is sent.
    Data,
    Body,
    /// The whole message is sent.
    End,
    /// Nobody gets the message. The reply to an empty one is awaited, or nothing.
    Void,
    Over,
}

impl Run {
    /// Begins a transaction, whose MAIL is sent by [`advance`](Self::advance).
    pub(super) fn new(
        transaction: Transaction,
        plan: Plan,
        config: &ClientConfig,
        is_pipelined: bool,
    ) -> Self {
        let outcomes = plan.rcpts.iter();
        let outcomes = outcomes.map(|rcpt| rcpt.clone().err().map(Outcome::Unsupported));
        let outcomes: Vec<_> = outcomes.collect();
        // A transaction without recipients sends nothing.
        let phase = match outcomes.iter().any(Option::is_none) {
            true => Phase::Mail,
            false => Phase::Over,
        };
        Self {
            phase,
            protocol: config.protocol,
            window: match is_pipelined {
                true => config.limits.pipelined.max(1),
                false => 1,
            },
            next: 0,
            outcomes,
            accepted: Vec::new(),
            content: Content::new(plan.is_chunked, config.bare_newline, config.limits.chunk),
            is_begun: false,
            is_refused: false,
            is_complete: false,
            transaction,
            plan,
        }
    }

    /// Returns the report of a transaction for which nothing can be sent.
    pub(super) fn unsupported(transaction: &Transaction, reason: &Unsupported) -> Report {
        let envelope = transaction.envelope();
        let outcomes = envelope.recipients().iter();
        Report {
            envelope: envelope.clone(),
            outcomes: outcomes
                .map(|_| Outcome::Unsupported(reason.clone()))
                .collect(),
            omitted: Vec::new(),
        }
    }

    /// Returns whether nothing is left to do.
    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Returns whether the server may still have an open transaction, which RSET ends.
    pub(super) fn is_open(&self) -> bool {
        self.is_begun
    }

    /// Returns whether the next bytes of the message are wanted.
    pub(super) fn wants_body(&self, wire: &Wire) -> bool {
        let has_room = self.content.has_room(wire);
        self.phase == Phase::Body && !self.is_complete && has_room
    }

    /// Returns the outcome of each recipient that is certain by now.
    pub(super) fn outcomes(&self) -> impl ExactSizeIterator<Item = Option<&Outcome>> {
        self.outcomes.iter().map(Option::as_ref)
    }

    pub(super) fn transaction(&self) -> &Transaction {
        &self.transaction
    }

    /// Sends what can be sent now.
    pub(super) fn advance(&mut self, wire: &mut Wire) {
        match self.phase {
            Phase::Mail | Phase::Rcpt => self.send_envelope(wire),
            Phase::Body => self.send_chunks(wire),
            Phase::Data | Phase::End | Phase::Void | Phase::Over => {}
        }
    }

    /// RFC 2920 section 3.1: MAIL, RCPT and DATA in one group, of which DATA must be the last.
    fn send_envelope(&mut self, wire: &mut Wire) {
        if !self.is_begun && wire.outstanding() < self.window {
            wire.send(&self.plan.mail, Awaited::Mail);
            self.is_begun = true;
        }
        while self.is_begun && wire.outstanding() < self.window {
            let Some(rcpt) = self.plan.rcpts.get(self.next) else {
                return self.send_data(wire);
            };
            if let Ok(rcpt) = rcpt {
                wire.send(rcpt, Awaited::Rcpt(self.next));
            }
            self.next += 1;
        }
    }

    fn send_data(&mut self, wire: &mut Wire) {
        let is_answered = wire.outstanding() == 0;
        if self.is_refused || self.accepted.is_empty() {
            // DATA is not sent if all recipients are refused by now, or MAIL is.
            if is_answered {
                self.phase = Phase::Over;
                return;
            }
            if self.is_refused {
                return;
            }
        }
        if !self.plan.is_chunked {
            wire.send("DATA", Awaited::Data);
            self.phase = Phase::Data;
        } else if is_answered {
            self.phase = Phase::Body;
        }
    }

    /// Notes the reply to a command of the transaction.
    pub(super) fn answered(
        &mut self,
        to: Awaited,
        reply: Reply,
        wire: &mut Wire,
    ) -> Result<(), Fault> {
        let code = reply.code();
        let is_expected = match to {
            Awaited::Data => code.is_intermediate() || !code.is_positive(),
            Awaited::Message => true, // of which PRDR has one more
            _ => !code.is_intermediate(),
        };
        if !is_expected {
            let stage = to.stage();
            return Err(ProtocolFault::WrongCode { stage, reply }.into());
        }
        match to {
            Awaited::Mail => self.mail_answered(reply),
            Awaited::Rcpt(recipient) => self.rcpt_answered(recipient, reply),
            Awaited::Data => return self.data_answered(reply, wire),
            Awaited::Chunk if !reply.is_positive() => {
                self.refuse(Stage::Body, &reply);
                self.phase = Phase::Over;
            }
            Awaited::Message => return self.message_answered(reply, wire),
            Awaited::Recipient(recipient) => self.recipient_answered(recipient, reply, wire),
            Awaited::Overall => self.overall_answered(&reply),
            Awaited::Void => self.phase = Phase::Over,
            _ => {}
        }
        Ok(())
    }

    fn mail_answered(&mut self, reply: Reply) {
        if reply.is_positive() {
            self.phase = self.phase_after_mail();
            return;
        }
        for outcome in self.outcomes.iter_mut().filter(|outcome| outcome.is_none()) {
            let (stage, reply) = (Stage::Mail, reply.clone());
            *outcome = Some(Outcome::Refused { stage, reply });
        }
        // No more of the envelope is sent.
        self.is_refused = true;
        self.next = self.plan.rcpts.len();
    }

    /// MAIL may be answered when DATA has been sent already.
    const fn phase_after_mail(&self) -> Phase {
        match self.phase {
            Phase::Mail => Phase::Rcpt,
            phase => phase,
        }
    }

    fn rcpt_answered(&mut self, recipient: usize, reply: Reply) {
        match &mut self.outcomes[recipient] {
            None if reply.is_positive() => self.accepted.push(recipient),
            outcome @ None => {
                let stage = Stage::Rcpt;
                *outcome = Some(Outcome::Refused { stage, reply });
            }
            // MAIL was refused.
            Some(_) if reply.is_positive() => self.accepted.push(recipient),
            Some(_) => {}
        }
    }

    fn data_answered(&mut self, reply: Reply, wire: &mut Wire) -> Result<(), Fault> {
        if !reply.is_positive() {
            self.refuse(Stage::Data, &reply);
            self.phase = Phase::Over;
            return Ok(());
        }
        if self.is_refused && !self.accepted.is_empty() {
            // MAIL was refused, and what follows it was not: an empty message would be delivered.
            let stage = Stage::Data;
            return Err(ProtocolFault::WrongCode { stage, reply }.into());
        }
        if !self.accepted.is_empty() {
            self.phase = Phase::Body;
        } else if self.protocol == Protocol::Lmtp {
            // RFC 2033 section 4.2: without recipients, DATA must fail, because nothing would answer its end.
            let stage = Stage::Data;
            return Err(ProtocolFault::WrongCode { stage, reply }.into());
        } else {
            // RFC 2920 section 3.1
            self.phase = Phase::Void;
            wire.send(".", Awaited::Void);
        }
        Ok(())
    }

    fn message_answered(&mut self, reply: Reply, wire: &mut Wire) -> Result<(), Fault> {
        let stage = Stage::Message;
        match reply.code().as_u16() {
            // draft-hall-prdr-00 section 4.5
            353 if self.plan.is_prdr => {
                for &recipient in &self.accepted {
                    wire.await_reply(Awaited::Recipient(recipient));
                }
                wire.await_reply(Awaited::Overall);
                return Ok(());
            }
            300..400 => return Err(ProtocolFault::WrongCode { stage, reply }.into()),
            _ => {}
        }
        for &recipient in &self.accepted {
            self.outcomes[recipient] = Some(of_message(reply.clone()));
        }
        self.finish();
        Ok(())
    }

    fn recipient_answered(&mut self, recipient: usize, reply: Reply, wire: &Wire) {
        self.outcomes[recipient] = Some(of_message(reply));
        let more = matches!(
            wire.next_awaited(),
            Some(Awaited::Recipient(_) | Awaited::Overall)
        );
        if !more {
            self.finish();
        }
    }

    /// draft-hall-prdr-00 section 4.5.3: the last reply decides whether the server is responsible for the message at all.
    fn overall_answered(&mut self, overall: &Reply) {
        if !overall.is_positive() {
            for &recipient in &self.accepted {
                let outcome = &mut self.outcomes[recipient];
                if outcome.as_ref().is_some_and(Outcome::is_accepted) {
                    *outcome = Some(of_message(overall.clone()));
                }
            }
        }
        self.finish();
    }

    /// The server has ended its transaction.
    fn finish(&mut self) {
        self.is_begun = false;
        self.phase = Phase::Over;
    }

    /// Notes that the message is refused for all who could still get it.
    pub(super) fn refuse(&mut self, stage: Stage, reply: &Reply) {
        for &recipient in &self.accepted {
            let reply = reply.clone();
            let refused = || Outcome::Refused { stage, reply };
            self.outcomes[recipient].get_or_insert_with(refused);
        }
    }

    /// Appends bytes to the message. Returns an error if it cannot be sent by DATA.
    pub(super) fn push(&mut self, bytes: Bytes, wire: &mut Wire) -> Result<(), Unsupported> {
        if self.phase != Phase::Body || self.is_complete {
            return Ok(());
        }
        self.content.push(bytes, wire)?;
        self.send_chunks(wire);
        Ok(())
    }

    /// Ends the message.
    pub(super) fn end(&mut self, wire: &mut Wire) -> Result<(), Unsupported> {
        if self.phase != Phase::Body || self.is_complete {
            return Ok(());
        }
        self.is_complete = true;
        if self.plan.is_chunked {
            self.send_chunks(wire);
            return Ok(());
        }
        self.content.finish(wire)?;
        self.ended(wire);
        Ok(())
    }

    fn send_chunks(&mut self, wire: &mut Wire) {
        if !self.plan.is_chunked || !(self.is_complete || self.content.is_full()) {
            return;
        }
        // Where each recipient has a reply, it must be clear how many replies there will be.
        let has_several = self.protocol == Protocol::Lmtp || self.plan.is_prdr;
        let window = match self.is_complete && has_several {
            true => 1,
            false => self.window.min(CHUNKS),
        };
        if wire.outstanding() >= window {
            return;
        }
        self.content.send_chunk(self.is_complete, wire);
        match self.is_complete {
            true => self.ended(wire),
            false => wire.await_reply(Awaited::Chunk),
        }
    }

    fn ended(&mut self, wire: &mut Wire) {
        self.phase = Phase::End;
        if self.protocol == Protocol::Smtp {
            return wire.await_reply(Awaited::Message);
        }
        // RFC 2033 section 4.2
        for &recipient in &self.accepted {
            wire.await_reply(Awaited::Recipient(recipient));
        }
    }

    /// Notes that the caller has stopped. Returns whether the session can go on.
    pub(super) fn abort(&mut self, outcome: &Outcome) -> bool {
        let can_go_on = self.plan.is_chunked && self.phase == Phase::Body;
        self.settle(|_| outcome.clone());
        self.phase = Phase::Over;
        can_go_on
    }

    /// Notes that the session ends. `answered` is the command whose reply ends it, which was therefore not accepted.
    pub(super) fn fail(&mut self, fault: &Fault, answered: Option<Awaited>, wire: &Wire) {
        let is_sent = self.phase == Phase::End && wire.is_written();
        if is_sent && self.plan.is_prdr {
            self.forget_accepted();
        }
        self.settle(|recipient| match answered {
            Some(Awaited::Message | Awaited::Overall) => Outcome::Failed(fault.clone()),
            Some(Awaited::Recipient(own)) if own == recipient => Outcome::Failed(fault.clone()),
            _ if is_sent => Outcome::Unknown(fault.clone()),
            _ => Outcome::Failed(fault.clone()),
        });
        self.phase = Phase::Over;
    }

    /// The reply for all recipients is missing, without which those for each of them mean nothing.
    fn forget_accepted(&mut self) {
        for outcome in &mut self.outcomes {
            if outcome.as_ref().is_some_and(Outcome::is_accepted) {
                *outcome = None;
            }
        }
    }

    /// Sets the outcome of all recipients that have none. At the end of a message, those are the accepted ones.
    fn settle(&mut self, outcome: impl Fn(usize) -> Outcome) {
        for (recipient, settled) in self.outcomes.iter_mut().enumerate() {
            settled.get_or_insert_with(|| outcome(recipient));
        }
    }

    pub(super) fn into_report(self) -> Report {
        let missing = || Outcome::Failed(Fault::Aborted);
        let outcomes = self.outcomes.into_iter();
        Report {
            envelope: self.transaction.envelope().clone(),
            outcomes: outcomes
                .map(|outcome| outcome.unwrap_or_else(missing))
                .collect(),
            omitted: self.plan.omitted,
        }
    }
}

fn of_message(reply: Reply) -> Outcome {
    match reply.is_positive() {
        true => Outcome::Accepted(reply),
        false => Outcome::Refused {
            stage: Stage::Message,
            reply,
        },
    }
}
