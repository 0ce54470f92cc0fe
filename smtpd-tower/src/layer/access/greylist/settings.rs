use std::{fmt, sync::Arc, time::Duration};

use smtpd_core::{
    address::{AddressRules, ForwardPath, ReversePath},
    reply::{Code, Reply, Status},
};
use tower::BoxError;

use super::{
    GreylistClient, GreylistKey, GreylistPolicy, GreylistVerdict,
    client::{confirmed, suffixes},
};
use crate::{
    addresses::Addresses, domains::Domains, fault::local_error, layer::Exempt, limiter::ClientKey,
    net::Prefixes, reload::Reloadable, session::Session,
};

/// What the layers of greylisting share.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) policy: GreylistPolicy,
    pub(super) prefixes: Prefixes,
    pub(super) client: ClientBy,
    pub(super) normalizes_senders: bool,
    pub(super) rules: AddressRules,
    pub(super) null_sender: NullSender,
    pub(super) exempt: Reloadable<Exempt>,
    pub(super) exempt_hosts: Reloadable<Domains>,
    pub(super) exempt_senders: Reloadable<Addresses>,
    pub(super) exempt_recipients: Reloadable<Addresses>,
    pub(super) exempts_roles: bool,
    pub(super) reply: ReplyBy,
    pub(super) limit: Duration,
    pub(super) on_failure: OnFailure,
}

pub(super) type ClientBy = Arc<dyn Fn(&Session) -> Option<GreylistClient> + Send + Sync>;
pub(super) type ReplyBy = Arc<dyn Fn(Duration) -> Reply + Send + Sync>;

/// Where the null sender is greylisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NullSender {
    AtRcpt,
    AtData,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum OnFailure {
    Pass,
    Refuse,
}

impl Default for Settings {
    fn default() -> Self {
        let reply = Reply::new(
            Code::MAILBOX_BUSY,
            Status::DENIED,
            "Greylisted, try again later",
        );
        Self {
            policy: GreylistPolicy::new(),
            prefixes: Prefixes::NEIGHBOURS,
            client: Arc::new(GreylistClient::organization),
            normalizes_senders: true,
            rules: AddressRules::new(),
            null_sender: NullSender::AtRcpt,
            // RFC 6647 section 5, item 7: authenticated clients and internal addresses.
            exempt: Exempt::local().authenticated().into(),
            exempt_hosts: Domains::default().into(),
            exempt_senders: Addresses::default().into(),
            exempt_recipients: Addresses::default().into(),
            exempts_roles: true,
            reply: Arc::new(move |_| reply.clone()),
            limit: Duration::from_secs(5),
            on_failure: OnFailure::Pass,
        }
    }
}

impl Settings {
    /// Returns the key of a recipient; `None` if it passes without greylisting.
    pub(super) fn key(
        &self,
        session: &Session,
        sender: &ReversePath,
        recipient: &ForwardPath,
    ) -> Option<GreylistKey> {
        if self.exempt.with(|exempt| exempt.contains(session))
            || self.exempts_roles && is_role(recipient)
            || self.is_exempt_host(session)
            || self.is_exempt_mail(sender, recipient)
        {
            return None;
        }
        let ip = session.client_addr().ip();
        let network = ip.map(|ip| ClientKey::with_prefixes(ip, self.prefixes));
        let client = (self.client)(session).or_else(|| network.map(GreylistClient::from))?;
        let key = GreylistKey::new(client, sender.clone(), recipient.clone())
            .with_address_rules(self.rules);
        let key = network
            .into_iter()
            .fold(key, |key, network| key.with_network(network));
        Some(if self.normalizes_senders {
            key.with_normalized_sender()
        } else {
            key
        })
    }

    fn is_exempt_host(&self, session: &Session) -> bool {
        self.exempt_hosts.with(|domains| {
            let name = (!domains.is_empty()).then(|| confirmed(session)).flatten();
            name.is_some_and(|name| {
                suffixes(name.as_str()).any(|domain| domains.contains_text(domain))
            })
        })
    }

    fn is_exempt_mail(&self, sender: &ReversePath, recipient: &ForwardPath) -> bool {
        self.exempt_senders
            .with(|list| !list.is_empty() && list.has_sender(sender))
            || self
                .exempt_recipients
                .with(|list| !list.is_empty() && list.has_recipient(recipient))
    }

    pub(super) fn refusal(&self, checked: Result<GreylistVerdict, BoxError>) -> Option<Reply> {
        match (checked, self.on_failure) {
            (Ok(GreylistVerdict::Pass), _) => None,
            (Ok(GreylistVerdict::Wait { retry_after }), _) => {
                Some((self.reply)(retry_after).or_origin("GreylistLayer"))
            }
            (Err(error), on_failure) => {
                super::log_failure(&error);
                match on_failure {
                    OnFailure::Pass => None,
                    OnFailure::Refuse => Some(local_error()),
                }
            }
        }
    }
}

/// Returns whether this is a mailbox that strangers write to when something is wrong with mail (RFC 2142 sections 2 and 5).
fn is_role(recipient: &ForwardPath) -> bool {
    let Some(mailbox) = recipient.mailbox() else {
        return true; // RFC 5321 section 4.5.1: <Postmaster>
    };
    let local = mailbox.local_part_unquoted();
    ["postmaster", "abuse"]
        .iter()
        .any(|role| role.eq_ignore_ascii_case(&local))
}

// By hand: closures have no Debug, and the lists may be long.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("policy", &self.policy)
            .field("prefixes", &self.prefixes)
            .field("normalizes_senders", &self.normalizes_senders)
            .field("rules", &self.rules)
            .field("null_sender", &self.null_sender)
            .field("exempt", &self.exempt)
            .field("exempts_roles", &self.exempts_roles)
            .field("limit", &self.limit)
            .field("on_failure", &self.on_failure)
            .finish_non_exhaustive()
    }
}
