//! XCLIENT and XFORWARD: what a trusted peer claims of the client for which it speaks (XCLIENT_README and XFORWARD_README
//! of Postfix).

use super::{Asked, Connection, client::Client, event::Event};
use crate::{
    proxied::{Attribute, AttributeError, Forwarded, XClient},
    reply::{Code, Reply, Status},
};

/// What a peer may claim, and has claimed so far. Most peers may nothing.
#[derive(Debug, Default)]
pub(super) struct Claims {
    may_xclient: bool,
    may_xforward: bool,
    client: XClient,
    forwarded: Option<Forwarded>,
}

impl Claims {
    /// What EHLO announces to such a peer.
    fn keywords(&self) -> impl Iterator<Item = String> {
        let xclient = self
            .may_xclient
            .then(|| format!("XCLIENT {}", XClient::ATTRIBUTES));
        let xforward = self
            .may_xforward
            .then(|| format!("XFORWARD {}", Forwarded::ATTRIBUTES));
        xclient.into_iter().chain(xforward)
    }
}

impl Connection {
    /// Lets this peer say by XCLIENT who its client is, until it has named an address. Call it only for peers that are trusted,
    /// and before the greeting: it has no effect once [`Step::Connect`](super::Step::Connect) was returned, or unless
    /// [`Config::xclient`](crate::Config::xclient) is on.
    ///
    /// What follows an address may be the words of that client, so neither XCLIENT nor XFORWARD is accepted from then on.
    pub fn allow_xclient(&mut self) {
        if self.config.xclient && self.has_not_begun() {
            self.claims.get_or_insert_default().may_xclient = true;
        }
    }

    /// Lets this peer say by XFORWARD where its messages come from, as [`allow_xclient`](Self::allow_xclient) does for
    /// XCLIENT; [`Config::xforward`](crate::Config::xforward) has to be on.
    pub fn allow_xforward(&mut self) {
        if self.config.xforward && self.has_not_begun() {
            self.claims.get_or_insert_default().may_xforward = true;
        }
    }

    const fn has_not_begun(&self) -> bool {
        self.serial.is_multiple_of(super::SERIALS)
    }

    /// What EHLO announces to this peer and to no other.
    pub(super) fn claim_keywords(&self) -> impl Iterator<Item = String> {
        self.claims.iter().flat_map(|claims| claims.keywords())
    }

    /// The session starts anew for another client, up to the greeting; TLS stays.
    pub(super) fn xclient(&mut self, argument: &[u8]) {
        let Some(claims) = self.claims.as_mut().filter(|claims| claims.may_xclient) else {
            return self.unauthorized(argument);
        };
        let client = match claims.client.and(argument) {
            Ok(client) if !argument.is_empty() => client,
            result => return self.malformed(result.err()),
        };
        if client.addr().is_some() {
            (claims.may_xclient, claims.may_xforward) = (false, false);
        }
        claims.client = client.clone();
        let identity = client.login().and_then(Attribute::known).cloned();
        self.start_anew(Client {
            identity,
            ..Client::default()
        });
        self.ask(Asked::Connect, Event::XClient(Box::new(client)))
    }

    pub(super) fn xforward(&mut self, argument: &[u8]) {
        let Some(claims) = self.claims.as_mut().filter(|claims| claims.may_xforward) else {
            return self.unauthorized(argument);
        };
        let before = claims.forwarded.clone().unwrap_or_default();
        let forwarded = match before.and(argument) {
            Ok(forwarded) if !argument.is_empty() => forwarded,
            result => return self.malformed(result.err()),
        };
        claims.forwarded = Some(forwarded.clone());
        self.put(&Reply::OK);
        self.tell(Event::XForward(Box::new(forwarded)));
    }

    /// XFORWARD holds for one transaction.
    pub(super) fn forget_forwarded(&mut self) {
        if let Some(claims) = &mut self.claims {
            claims.forwarded = None;
        }
    }

    fn unauthorized(&mut self, argument: &[u8]) {
        if argument.is_empty() {
            return self.malformed(None);
        }
        self.fault(Reply::fixed(
            Code::MAILBOX_UNAVAILABLE,
            Status::POLICY,
            "Insufficient authorization",
        ))
    }

    fn malformed(&mut self, error: Option<AttributeError>) {
        self.fault(Reply::fixed(
            Code::PARAMETER_ERROR,
            Status::INVALID_PARAMETERS,
            error.unwrap_or(AttributeError::NONE).as_str(),
        ))
    }
}
