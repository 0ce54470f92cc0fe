//! HELO, EHLO and LHLO, and what EHLO announces.

use super::{Asked, Connection, Slot, State};
use crate::{
    address::ClientName,
    command::Verb,
    helo::{Greeting, Helo},
    protocol::Protocol,
    reply::{Code, Form, Reply, Status},
    sasl::MechanismFactory,
};

const PLAIN: Form = Form {
    status: false,
    utf8: false,
};

impl Connection {
    pub(super) fn hello(&mut self, verb: Verb, argument: &[u8]) {
        let Ok(name) = ClientName::parse(argument) else {
            return self.fault(Reply::fixed(
                Code::PARAMETER_ERROR,
                Status::INVALID_PARAMETERS,
                "Give your domain or address literal",
            ));
        };
        let greeting = match verb {
            Verb::Helo => Greeting::Helo,
            Verb::Lhlo => Greeting::Lhlo,
            _ => Greeting::Ehlo,
        };
        self.ask(Asked::Helo, Slot::Helo(Box::new(Helo { name, greeting })))
    }

    /// RFC 5321 section 4.1.4: it resets as RSET does, but where it is refused, everything stays as it was.
    pub(super) fn greeted(&mut self, reply: &Reply) {
        let helo = match self.take_slot() {
            Slot::Helo(helo) if reply.is_positive() => helo,
            _ => return self.put(reply),
        };
        self.end_transaction();
        self.client.helo = Some(helo);
        self.state = State::Ready;
        self.put_hello();
    }

    /// The greeting itself (RFC 5321 section 4.3.1); no enhanced code on it (RFC 2034 section 4).
    pub(super) fn put_banner(&mut self) {
        let service = if self.config.protocol == Protocol::Lmtp {
            "LMTP"
        } else {
            "ESMTP"
        };
        let text = format!(
            "{} {} {service}",
            self.config.hostname, self.config.app_name
        );
        self.put_as(&Reply::new(Code::READY, Status::UNDEFINED, text), PLAIN);
    }

    /// The positive answer to the greeting of the client.
    fn put_hello(&mut self) {
        if self.greeting() == Some(Greeting::Helo) {
            let reply = Reply::new(Code::OK, Status::UNDEFINED, self.config.hostname.clone());
            return self.put_as(&reply, PLAIN);
        }
        if self.claim_keywords().next().is_some() {
            return self.put_raw(&self.ehlo_answer());
        }
        let config = self.config.clone();
        let kind = usize::from(self.tls)
            | usize::from(self.client.identity.is_some()) << 1
            | usize::from(self.client.channel.bindings.is_some()) << 2
            | usize::from(self.client.channel.certified) << 3;
        self.put_raw(config.ehlo[kind].get_or_init(|| self.ehlo_answer()));
    }

    fn ehlo_answer(&self) -> Vec<u8> {
        let mut lines = vec![self.config.hostname.clone()];
        let facts = self.facts();
        let offered = self.config.extensions.iter();
        lines.extend(
            offered
                .filter(|extension| extension.is_offered(facts))
                .map(|extension| join(extension.keyword(), &extension.announcement(facts))),
        );
        // RFC 1870 section 4: no number where there is no fixed limit.
        let size = self.config.limits.message_size.map(|size| size.to_string());
        lines.push(join("SIZE", &size.unwrap_or_default()));
        if self.config.starttls && !self.tls {
            lines.push("STARTTLS".to_owned());
        }
        // RFC 4954 section 4: one authentication in a session.
        let mechanisms: Vec<_> = self
            .offered()
            .map(|factory| factory.name().as_str())
            .collect();
        if !mechanisms.is_empty() && self.client.identity.is_none() {
            lines.push(join("AUTH", &mechanisms.join(" ")));
        }
        lines.extend(self.claim_keywords());
        let mut answer = Vec::new();
        Reply::multiline(Code::OK, Status::UNDEFINED, lines).encode(PLAIN, &mut answer);
        answer
    }

    /// The mechanisms that a client may use now.
    pub(super) fn offered(&self) -> impl Iterator<Item = &dyn MechanismFactory> {
        self.config
            .mechanisms
            .iter()
            .filter(|factory| self.may_use(*factory))
    }

    /// RFC 4954 section 4: what shows the password needs TLS. What challenges the client needs random bytes.
    pub(super) fn may_use(&self, factory: &dyn MechanismFactory) -> bool {
        if self.config.require_tls && !self.tls {
            return false; // AUTH would hear 530.
        }
        if factory.needs_channel_binding() && self.client.channel.bindings.is_none() {
            return false; // RFC 5802 section 6
        }
        if factory.needs_client_certificate() && !self.client.channel.certified {
            return false; // RFC 4422 appendix A: without it there is nothing to authenticate by
        }
        if factory.is_plaintext() && !self.tls && !self.config.insecure_auth {
            return false;
        }
        !factory.needs_entropy() || self.config.entropy.is_some()
    }
}

fn join(keyword: &str, rest: &str) -> String {
    if rest.is_empty() {
        keyword.to_owned()
    } else {
        format!("{keyword} {rest}")
    }
}
