//! The transaction: the outcome of MAIL, and the recipients of RCPT.

use std::{mem, sync::Arc};

use super::{
    envelope::{parse_mail, parse_rcpt, strip_prefix},
    fixed,
    offer::Offer,
    replies::Recipients,
    session::Refused,
};
use crate::{
    address::{Domain, ForwardPath},
    envelope::{Envelope, Recipient},
    parameter::{BodyType, Size},
    reply::Reply,
};

/// The open transaction, and the counts over all transactions of a session.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    utf8: bool,
    binary: bool,
    /// Whether the client requested a reply for each recipient of the message.
    each_asked: bool,
    /// Whether there was a MAIL since the last accepted message, or since the last command that ends a transaction.
    attempted: bool,
    /// The number of MAIL commands.
    number: u32,
    envelope: Option<Arc<Envelope>>,
    /// The recipients' domains, if they are limited.
    domains: Option<Box<Domains>>,
}

impl Transaction {
    /// Processes the argument of MAIL. Its SMTPUTF8, BODY and PRDR apply from here on, also to the reply to it.
    pub(super) fn mail(
        &mut self,
        argument: &[u8],
        offer: Offer<'_>,
    ) -> Result<Arc<Envelope>, Refused> {
        let limits = &offer.config.settings.limits;
        if self.number >= limits.messages {
            return Err(Refused::OverLimit(fixed::TOO_MANY_MESSAGES));
        }
        self.number += 1;
        self.attempted = true;
        let path = strip_prefix(argument, b"FROM:").ok_or(Refused::Fault(fixed::SYNTAX))?;
        let (sender, parameters) = parse_mail(path, offer).map_err(Refused::Fault)?;
        let declared = parameters.get::<Size>().map_or(0, Size::bytes);
        if limits.message_size.is_some_and(|limit| declared > limit) {
            return Err(Refused::Answered(Reply::too_large()));
        }
        self.utf8 = parameters.contains("SMTPUTF8");
        self.binary = parameters.get() == Some(BodyType::BinaryMime);
        self.each_asked = offer.replies_to_each(&parameters);
        Ok(Arc::new(Envelope::new(sender).with_parameters(parameters)))
    }

    /// Opens the transaction, because MAIL was accepted.
    pub(super) fn open(&mut self, envelope: Arc<Envelope>) {
        self.envelope = Some(envelope);
    }

    /// Processes the argument of RCPT.
    pub(super) fn rcpt(&mut self, argument: &[u8], offer: Offer<'_>) -> Result<Recipient, Refused> {
        let path = strip_prefix(argument, b"TO:").ok_or(Refused::Fault(fixed::SYNTAX))?;
        let limits = &offer.config.settings.limits;
        if self.len() >= limits.recipients as usize {
            return Err(Refused::Recipient(Reply::too_many_recipients()));
        }
        let recipient = parse_rcpt(path, offer, self.utf8).map_err(Refused::Fault)?;
        if let Some(limit) = limits.recipient_domains
            && !self.note_domain(recipient.path(), limit)
        {
            let reply = Reply::too_many_recipients().with_text("Too many domains");
            return Err(Refused::Recipient(reply));
        }
        Ok(recipient)
    }

    /// Notes the recipient's domain. Returns whether it is within the session's limit (RFC 9422 section 4.3).
    ///
    /// Recipients that a service refuses later count as well: the limit is on what appears in RCPT.
    fn note_domain(&mut self, recipient: &ForwardPath, limit: u32) -> bool {
        // RFC 5321 section 4.5.1: `<Postmaster>`, which has no domain, is always accepted.
        let Some(mailbox) = recipient.mailbox() else {
            return true;
        };
        let domains = self.domains.get_or_insert_default();
        domains.note(mailbox.domain(), limit as usize)
    }

    /// Adds an accepted recipient. Returns whether there is a transaction that it belongs to.
    pub(super) fn add(&mut self, recipient: Recipient) -> bool {
        let envelope = self.envelope.as_mut();
        // Usually nothing else holds the envelope any more, so nothing is copied.
        envelope
            .map(|envelope| Arc::make_mut(envelope).push(recipient))
            .is_some()
    }

    pub(super) fn end(&mut self) {
        (self.utf8, self.binary, self.each_asked) = (false, false, false);
        self.envelope = None;
    }

    /// Ends the transaction. Returns its envelope.
    pub(super) fn reset(&mut self) -> Option<Arc<Envelope>> {
        let envelope = self.envelope.take();
        self.end();
        envelope
    }

    /// Notes that a message was accepted.
    pub(super) const fn succeeded(&mut self) {
        self.attempted = false;
    }

    /// Returns whether a command that ends transactions ends one that MAIL began, even if that MAIL was refused.
    pub(super) const fn ends_attempt(&mut self) -> bool {
        mem::replace(&mut self.attempted, false)
    }

    pub(super) const fn is_utf8(&self) -> bool {
        self.utf8
    }

    pub(super) const fn is_binary(&self) -> bool {
        self.binary
    }

    pub(super) const fn envelope(&self) -> Option<&Arc<Envelope>> {
        self.envelope.as_ref()
    }

    /// Returns the recipients of the reply to the message.
    pub(super) fn recipients(&self) -> Recipients {
        Recipients {
            number: self.len(),
            each_asked: self.each_asked,
            utf8: self.utf8,
        }
    }

    fn len(&self) -> usize {
        let envelope = self.envelope.as_ref();
        envelope.map_or(0, |envelope| envelope.recipients().len())
    }
}

/// The recipient domains of a session.
#[derive(Debug, Default)]
struct Domains(Vec<Box<str>>);

impl Domains {
    /// Notes a domain. Returns whether there are at most `limit`.
    fn note(&mut self, domain: &Domain, limit: usize) -> bool {
        let domain = domain.key();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_counted_once_however_they_are_written() {
        let mut transaction = Transaction::default();
        let mut refused = |path: &str| !transaction.note_domain(&path.parse().unwrap(), 2);
        assert!(!refused("a@grå.example") && !refused("b@one.example"));
        assert!(!refused("c@ONE.example") && !refused("Postmaster"));
        assert!(refused("d@two.example"));
        // An A-label and its U-label are the same if the crate can convert them.
        assert_eq!(refused("e@xn--gr-zia.example"), cfg!(not(feature = "idna")));
    }
}
