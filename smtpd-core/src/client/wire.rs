//! Commands that were sent, and the replies to them.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::{
    fault::{ProtocolFault, Stage},
    output::Output,
    raw_reply::{RawReply, ReplyReader},
    timeouts::ClientLimits,
};
use crate::helo::Greeting;

/// What a reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    Greeting,
    Hello(Greeting),
    StartTls,
    Auth,
    Reset,
    Noop,
    /// A command of the caller.
    Command,
    XClient,
    Mail,
    /// RCPT for the recipient with this index.
    Rcpt(usize),
    Data,
    /// A BDAT chunk, except the last one.
    Chunk,
    /// The whole message.
    Message,
    /// The whole message, for the recipient with this index.
    Recipient(usize),
    /// The whole message, after a reply for each recipient by PRDR.
    Overall,
    /// A message without recipients.
    Void,
    Quit,
}

impl Awaited {
    pub(super) const fn stage(self) -> Stage {
        match self {
            Self::Greeting => Stage::Greeting,
            Self::Hello(_) => Stage::Hello,
            Self::StartTls => Stage::StartTls,
            Self::Auth => Stage::Auth,
            Self::Reset => Stage::Reset,
            Self::Noop | Self::Command | Self::XClient => Stage::Command,
            Self::Mail => Stage::Mail,
            Self::Rcpt(_) => Stage::Rcpt,
            Self::Data => Stage::Data,
            Self::Chunk => Stage::Body,
            Self::Message | Self::Recipient(_) | Self::Overall | Self::Void => Stage::Message,
            Self::Quit => Stage::Quit,
        }
    }
}

/// A reply, and what it answers.
#[derive(Debug)]
pub(super) struct Answer {
    /// `None` if no command waits for a reply.
    pub(super) to: Option<Awaited>,
    pub(super) reply: RawReply,
    /// Whether it came before the command was completely written.
    pub(super) is_early: bool,
}

/// What is sent and received, in order: the first reply answers the first command.
#[derive(Debug, Default)]
pub(super) struct Wire {
    pub(super) output: Output,
    reader: ReplyReader,
    /// With how many bytes will have been written at the end of each command.
    awaited: VecDeque<(Awaited, u64)>,
}

impl Wire {
    /// Sends a command.
    pub(super) fn send(&mut self, line: &str, awaited: Awaited) {
        debug_assert!(
            !line.contains(char::is_control),
            "a control character in {line:?}"
        );
        self.output.push(line.as_bytes());
        self.output.push(b"\r\n");
        self.await_reply(awaited);
    }

    /// Sends a line that must not stay in memory.
    pub(super) fn send_secret(&mut self, parts: &[&[u8]], awaited: Awaited) {
        for part in parts {
            self.output.push_secret(part);
        }
        self.output.push(b"\r\n");
        self.await_reply(awaited);
    }

    /// Expects one more reply, to all that was sent.
    pub(super) fn await_reply(&mut self, awaited: Awaited) {
        self.awaited.push_back((awaited, self.output.end()));
    }

    /// Returns how many replies are outstanding.
    pub(super) fn outstanding(&self) -> usize {
        self.awaited.len()
    }

    /// Returns what the next reply answers.
    pub(super) fn next_awaited(&self) -> Option<Awaited> {
        self.awaited.front().map(|(awaited, _)| *awaited)
    }

    /// Returns whether everything that was sent is written.
    pub(super) const fn is_written(&self) -> bool {
        self.output.unsent() == 0
    }

    pub(super) fn poll(
        &mut self,
        input: &mut BytesMut,
        limits: &ClientLimits,
    ) -> Result<Option<Answer>, ProtocolFault> {
        let reply = self.reader.poll(input, limits)?;
        Ok(reply.map(|reply| {
            let (to, end) = self.awaited.pop_front().unzip();
            let is_early = end.is_some_and(|end| end > self.output.written());
            Answer {
                to,
                reply,
                is_early,
            }
        }))
    }
}
