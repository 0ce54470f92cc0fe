//! XCLIENT and XFORWARD: what a trusted peer claims about the client that it speaks for (XCLIENT_README and XFORWARD_README of
//! Postfix).

use super::fixed;
use crate::{
    proxied::{AttributeError, Forwarded, XClient},
    reply::{Code, Reply, Status},
};

/// What the peer may claim, and has claimed so far. Most peers may claim nothing.
#[derive(Debug, Default)]
pub(super) struct Claims(Option<Box<Trusted>>);

#[derive(Debug, Default)]
struct Trusted {
    may_xclient: bool,
    may_xforward: bool,
    client: XClient,
    forwarded: Option<Forwarded>,
}

impl Claims {
    pub(super) fn allow_xclient(&mut self) {
        self.0.get_or_insert_default().may_xclient = true;
    }

    pub(super) fn allow_xforward(&mut self) {
        self.0.get_or_insert_default().may_xforward = true;
    }

    /// Returns the keywords that EHLO announces only to this peer.
    pub(super) fn keywords(&self) -> impl Iterator<Item = String> {
        self.0.iter().flat_map(|trusted| {
            let xclient = trusted
                .may_xclient
                .then(|| format!("XCLIENT {}", XClient::ATTRIBUTES));
            let xforward = trusted
                .may_xforward
                .then(|| format!("XFORWARD {}", Forwarded::ATTRIBUTES));
            xclient.into_iter().chain(xforward)
        })
    }

    /// Processes the argument of XCLIENT. After an address, the commands may come from that client, so nothing more is accepted
    /// from then on.
    pub(super) fn xclient(&mut self, argument: &[u8]) -> Result<XClient, Reply> {
        let trusted = self.0.as_mut().filter(|trusted| trusted.may_xclient);
        let trusted = trusted.ok_or_else(|| not_authorized(argument))?;
        let client = match trusted.client.and(argument) {
            Ok(client) if !argument.is_empty() => client,
            result => return Err(malformed(result.err())),
        };
        if client.addr().is_some() {
            (trusted.may_xclient, trusted.may_xforward) = (false, false);
        }
        trusted.client = client.clone();
        Ok(client)
    }

    /// Processes the argument of XFORWARD.
    pub(super) fn xforward(&mut self, argument: &[u8]) -> Result<Forwarded, Reply> {
        let trusted = self.0.as_mut().filter(|trusted| trusted.may_xforward);
        let trusted = trusted.ok_or_else(|| not_authorized(argument))?;
        let before = trusted.forwarded.clone().unwrap_or_default();
        let forwarded = match before.and(argument) {
            Ok(forwarded) if !argument.is_empty() => forwarded,
            result => return Err(malformed(result.err())),
        };
        trusted.forwarded = Some(forwarded.clone());
        Ok(forwarded)
    }

    /// Forgets XFORWARD, which applies to one transaction.
    pub(super) fn forget_forwarded(&mut self) {
        if let Some(trusted) = &mut self.0 {
            trusted.forwarded = None;
        }
    }
}

fn not_authorized(argument: &[u8]) -> Reply {
    if argument.is_empty() {
        malformed(None)
    } else {
        fixed::NOT_AUTHORIZED
    }
}

fn malformed(error: Option<AttributeError>) -> Reply {
    Reply::fixed(
        Code::PARAMETER_ERROR,
        Status::INVALID_PARAMETERS,
        error.unwrap_or(AttributeError::NONE).as_str(),
    )
}
