//! Lines: commands and the responses of SASL, cut from the input.

use bytes::{Buf, BytesMut};

use super::{Asked, Connection, Mode};
use crate::{
    framing::{Line, wipe_front},
    reply::{Code, Reply, Status},
    sasl::{MAX_RESPONSE_LINE, SaslError},
};

impl Connection {
    /// Whether the next byte begins a line.
    pub(super) fn is_between_lines(&self) -> bool {
        matches!(self.reading, Mode::Commands | Mode::SaslResponse) && !self.line.is_within()
    }

    /// Takes a line. Returns whether there was one. A line that may hold a password or a token is wiped from the input: a response of
    /// SASL, AUTH, and whatever was refused or is not known, for it may be a response that came at the wrong moment.
    #[inline]
    pub(super) fn step_line(
        &mut self,
        input: &mut BytesMut,
        limit: usize,
        handle: impl FnOnce(&mut Self, &[u8], bool),
    ) -> bool {
        // An initial response counts as part of the exchange, not of the command (RFC 4954 section 4).
        let is_auth = is_auth(input);
        let limit = if is_auth {
            limit.max(MAX_RESPONSE_LINE + 32)
        } else {
            limit
        };
        let is_secret = is_auth || self.reading == Mode::SaslResponse;
        let errors = self.counts.errors;
        match self.line.poll(input, limit) {
            None => return false,
            Some(Line::TooLong) => self.line_too_long(),
            Some(Line::Complete(len)) => {
                let more = input.len() > len + 2;
                handle(self, &input[..len], more);
                // An unknown command is not refused yet where its service is asked.
                let is_unknown = self.asked == Some(Asked::Command);
                if is_secret || is_unknown || self.counts.errors != errors {
                    wipe_front(input, len + 2);
                } else {
                    input.advance(len + 2);
                }
            }
        }
        self.clock.begin_line();
        true
    }

    fn line_too_long(&mut self) {
        self.log_received("[line too long]");
        if self.reading == Mode::SaslResponse {
            self.reading = Mode::Commands;
            return self.auth_broken_off(SaslError::TooLong);
        }
        self.fault(Reply::fixed(
            Code::SYNTAX_ERROR,
            Status::SYNTAX_ERROR,
            "Line too long",
        ))
    }
}

/// Drops all that has come, which may hold a password as well.
pub(super) fn drop_all(input: &mut BytesMut) {
    wipe_front(input, input.len());
}

fn is_auth(input: &[u8]) -> bool {
    input
        .get(..5)
        .is_some_and(|verb| verb.eq_ignore_ascii_case(b"AUTH "))
}
