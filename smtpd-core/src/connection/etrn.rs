//! ETRN (RFC 1985).

use super::{Connection, command::syntax_error};
use crate::{
    address::{Charset, Domain, PathOptions},
    reply::{Code, Reply, Status},
};

const SYNTAX: Reply = Reply::fixed(
    Code::SYNTAX_ERROR,
    Status::SYNTAX_ERROR,
    "Syntax: ETRN node",
);
/// The connection itself has no queue (RFC 1985 section 5.1).
const NO_QUEUE: Reply = Reply::fixed(
    Code::QUEUE_UNAVAILABLE,
    Status::MAIL_SYSTEM,
    "Unable to queue messages for this node",
);

impl Connection {
    pub(super) fn etrn(&mut self, argument: &[u8]) {
        // RFC 1985 section 7: 500 without a node, 501 for what is none.
        if argument.is_empty() {
            return self.fault(SYNTAX);
        }
        if !self.is_node(argument) {
            return self.fault(syntax_error());
        }
        self.other(b"ETRN", argument, NO_QUEUE)
    }

    /// RFC 1985 section 5: a fully qualified domain name; section 5.3: `@` and a domain, or `#` and a queue's name.
    fn is_node(&self, argument: &[u8]) -> bool {
        match argument {
            [b'#', queue @ ..] => !queue.is_empty() && queue.iter().all(u8::is_ascii_graphic),
            [b'@', name @ ..] => self.is_domain(name),
            name => name.contains(&b'.') && self.is_domain(name),
        }
    }

    fn is_domain(&self, name: &[u8]) -> bool {
        let options = PathOptions::new(self.config.leniency, Charset::Ascii);
        Domain::parse(name, options).is_ok_and(|domain| !domain.is_literal())
    }
}
