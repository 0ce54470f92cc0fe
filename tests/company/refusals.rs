//! What layers refuse that look at nothing but the request.

use smtpd_tower::{
    Reply,
    reply::{Code, Status},
};

use crate::{
    layers::OURS,
    plan::{Kind, Spec},
    rules::Case,
    station::{Facts, Said},
};

impl Case<'_> {
    /// The refusal of layers that look at nothing but the request.
    pub fn must_refuse(&self, kind: &Kind) -> Option<Said> {
        let facts = &self.call.facts;
        let denied = |text: &'static str| {
            Said::of(&Reply::new(Code::MAILBOX_UNAVAILABLE, Status::DENIED, text))
        };
        let (refuses, said) = match *kind {
            Kind::RequireAuth => (facts.identity.is_none(), Said::of(&Reply::auth_required())),
            Kind::RequireTls => (!facts.tls, Said::of(&Reply::tls_required())),
            Kind::AllowClients(_) => (!allowed(facts), Said::of(&Reply::rejected("Access denied"))),
            Kind::DenyClients(_) => (listed(facts), Said::of(&Reply::rejected("Access denied"))),
            Kind::ScoreGate(points) => (facts.score >= points, denied("Message refused by policy")),
            Kind::MaxRecipients(_) if facts.is_local && Spec::exempts_local(self.call.place.1) => {
                return None;
            }
            Kind::MaxRecipients(n) => (
                facts.recipients.len() >= n,
                Said::of(&Reply::too_many_recipients()),
            ),
            Kind::DomainFilter => (!ours(facts), Said::of(&Reply::relay_denied())),
            Kind::Recipients => (!ours(facts), Said::of(&Reply::no_such_user())),
            Kind::DenySenders => (
                facts.sender.as_deref() == Some("carol@example.net"),
                Said::of(&Reply::sender_refused()),
            ),
            Kind::HeloCheck if facts.helo.as_deref() == Some("localhost") => {
                (is_outside(facts), denied("That is a loopback name"))
            }
            Kind::HeloCheck => (forged(facts), denied("That is my own name")),
            Kind::OwnSender if facts.identity.is_none() => {
                (true, Said::of(&Reply::auth_required()))
            }
            Kind::OwnSender => (!owns(facts), denied("This sender is not you")),
            Kind::SizeLimit(limit) => (facts.declared > Some(limit), Said::of(&Reply::too_large())),
            Kind::Gate => (
                facts.is_local && !facts.tls,
                Said::of(&Reply::try_again("Not from here")),
            ),
            Kind::Filter | Kind::FilterAsync => {
                (facts.ip.is_none(), Said::of(&Reply::rejected("Filtered")))
            }
            _ => return None,
        };
        refuses.then_some(said)
    }
}

fn allowed(facts: &Facts) -> bool {
    facts.ip.is_none_or(|ip| {
        let text = ip.to_string();
        ["192.0.2.", "127.0.0.1", "2001:db8:", "203.0.113."]
            .iter()
            .any(|start| text.starts_with(start))
    })
}

fn listed(facts: &Facts) -> bool {
    facts.ip.is_some_and(|ip| {
        let text = ip.to_string();
        text.starts_with("198.51.100.") || text == "203.0.113.9"
    })
}

fn ours(facts: &Facts) -> bool {
    let recipient = facts.recipient.as_deref().unwrap_or_default();
    match recipient.rsplit_once('@') {
        Some((_, domain)) => OURS.contains(&domain),
        None => true,
    }
}

fn forged(facts: &Facts) -> bool {
    let is_own = facts.helo.as_deref() == Some("mx.test");
    is_own && is_outside(facts)
}

/// Not this machine, nor a user.
const fn is_outside(facts: &Facts) -> bool {
    !facts.is_local && !facts.is_own && facts.identity.is_none()
}

fn owns(facts: &Facts) -> bool {
    let sender = facts.sender.as_deref().unwrap_or_default();
    let user = facts.identity.as_deref().unwrap_or_default();
    sender.is_empty() || sender.split('@').next() == Some(user)
}
