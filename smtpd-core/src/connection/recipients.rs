//! What is counted and answered by recipient.

use std::borrow::Cow;

use super::Connection;
use crate::{
    address::{Domain, ForwardPath},
    protocol::Protocol,
    reply::{Code, DataReply, Reply, Status},
};

impl Connection {
    /// Whether the recipient's domain exceeds the session's limit (RFC 9422 section 4.3). Notes the domain if not.
    ///
    /// What a service refuses later counts as well: the limit is on what appears in RCPT.
    pub(super) fn is_one_domain_too_many(&mut self, recipient: &ForwardPath) -> bool {
        // RFC 5321 section 4.5.1: `<Postmaster>`, which has no domain, is always welcome.
        let (Some(limit), Some(mailbox)) =
            (self.config.limits.recipient_domains, recipient.mailbox())
        else {
            return false;
        };
        let domains = self.counts.domains.get_or_insert_default();
        !domains.note(mailbox.domain(), limit as usize)
    }

    /// Sends the reply to a message: one, or one for each recipient. Returns whether any of them closes the session.
    pub(super) fn put_data_reply(&mut self, reply: &DataReply) -> bool {
        // RFC 2033 section 4.2.
        if self.config.protocol == Protocol::Lmtp {
            return self.put_each(reply);
        }
        if !self.transaction.reply_to_each || self.is_same_for_all(reply) {
            self.put(reply.merged());
            return reply.merged().closes();
        }
        // draft-hall-prdr-00 section 4.5.
        self.put(&Reply::fixed(
            Code::EACH_RECIPIENT,
            Status::UNDEFINED,
            "A reply for each recipient follows",
        ));
        let closes = self.put_each(reply);
        let overall = reply.overall();
        self.put(&overall);
        closes || overall.closes()
    }

    /// How many recipients of the transaction were accepted.
    pub(super) fn recipients(&self) -> usize {
        let envelope = self.transaction.envelope.as_ref();
        envelope.map_or(0, |envelope| envelope.recipients().len())
    }

    fn put_each(&mut self, reply: &DataReply) -> bool {
        let mut closes = false;
        for number in 0..self.recipients() {
            closes |= reply.for_recipient(number).closes();
            self.put(reply.for_recipient(number));
        }
        closes
    }

    fn is_same_for_all(&self, reply: &DataReply) -> bool {
        (1..self.recipients()).all(|number| reply.for_recipient(number) == reply.for_recipient(0))
    }
}

/// The domains that the recipients of a session are of.
#[derive(Debug, Default)]
pub(super) struct Domains(Vec<Box<str>>);

impl Domains {
    /// Notes a domain. Returns whether it is one of no more than `limit`.
    fn note(&mut self, domain: &Domain, limit: usize) -> bool {
        let domain = key(domain);
        if self.0.iter().any(|known| **known == *domain) {
            return true;
        }
        if self.0.len() >= limit {
            return false;
        }
        self.0.push(domain.into());
        true
    }
}

/// What stands for a domain where domains are told apart.
fn key(domain: &Domain) -> Cow<'_, str> {
    #[cfg(feature = "idna")]
    return domain.canonical();
    #[cfg(not(feature = "idna"))]
    domain.as_str().to_ascii_lowercase().into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{config::Config, limits::Limits};

    #[test]
    fn domains_are_counted_once_however_they_are_written() {
        let limits = Limits {
            recipient_domains: Some(2),
            ..Limits::default()
        };
        let config = Arc::new(Config::new("mx.example.org").limits(limits));
        let mut connection = Connection::new(config);
        let mut refused = |path: &str| connection.is_one_domain_too_many(&path.parse().unwrap());
        assert!(!refused("a@grå.example") && !refused("b@one.example"));
        assert!(!refused("c@ONE.example") && !refused("Postmaster"));
        assert!(refused("d@two.example"));
        // An A-label and its U-label are the same where the crate knows of them.
        assert_eq!(refused("e@xn--gr-zia.example"), cfg!(not(feature = "idna")));
    }
}
