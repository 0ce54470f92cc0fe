use std::{collections::VecDeque, fmt};

use super::Connection;

/// One line of a session, for logs. What could end a line or hide another is escaped; secrets are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WireLine {
    /// Who sent it.
    pub direction: Direction,
    /// The line without its CRLF.
    pub text: String,
}

/// Who sent a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The client.
    Received,
    /// The server.
    Sent,
}

impl fmt::Display for WireLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.direction {
            Direction::Received => 'C',
            Direction::Sent => 'S',
        };
        write!(f, "{mark}: {}", self.text)
    }
}

/// Lines that the caller has not fetched yet.
#[derive(Debug, Default)]
pub(super) struct WireLog(VecDeque<WireLine>);

impl WireLog {
    pub(super) fn pop(&mut self) -> Option<WireLine> {
        self.0.pop_front()
    }

    fn push(&mut self, direction: Direction, text: String) {
        self.0.push_back(WireLine { direction, text });
    }

    pub(super) fn sent(&mut self, replies: &[u8]) {
        for line in replies
            .split(|&octet| octet == b'\n')
            .filter(|line| !line.is_empty())
        {
            let shown = if line.starts_with(b"334 ") {
                b"334 [challenge]"
            } else {
                line.trim_ascii_end()
            };
            self.push(Direction::Sent, shown.escape_ascii().to_string());
        }
    }
}

impl Connection {
    pub(super) fn log_received(&mut self, text: &str) {
        if let Some(wire) = &mut self.wire {
            wire.push(Direction::Received, text.to_owned());
        }
    }

    /// Notes a command; of AUTH nothing but the mechanism, for what follows may be a password.
    pub(super) fn log_command(&mut self, line: &[u8]) {
        let Some(wire) = &mut self.wire else { return };
        let mut words = line.splitn(3, |&octet| octet == b' ');
        let is_auth = words
            .next()
            .is_some_and(|verb| verb.eq_ignore_ascii_case(b"AUTH"));
        let text = match (is_auth, words.next()) {
            (true, Some(mechanism)) if words.next().is_some() => {
                format!("AUTH {} [redacted]", mechanism.escape_ascii())
            }
            _ => line.escape_ascii().to_string(),
        };
        wire.push(Direction::Received, text);
    }
}
