//! The steps that [`Client::poll`] returns.

use std::time::Instant;

use super::{
    Client,
    clock::Need,
    fault::CloseReason,
    report::Report,
    waiting::{Handshaking, Reading, Ready, Sending, Writing},
};
use crate::reply::Reply;

/// What must be done next. [`Client`] explains the steps.
///
/// The enum is intentionally exhaustive: a driver that does not know a wait would spin on it.
#[derive(Debug)]
#[must_use = "the session continues only if the step is handled"]
pub enum Step<'c> {
    /// Wait until bytes can be written, and write them. If you can, read meanwhile, and append what you read to the input.
    Write(Writing<'c>),
    /// Wait for bytes from the server, and append them to the input.
    Read(Reading<'c>),
    /// Perform a TLS handshake: nothing is left to be written in plaintext. Read nothing before it begins.
    Handshake(Handshaking<'c>),
    /// The session is open. Begin the next message, or wait for one. If you can, read meanwhile: a server that closes the
    /// connection does so here.
    Ready(Ready<'c>),
    /// Supply the next bytes of the message, or wait for them. If you can, read meanwhile: a server may refuse the message before
    /// its end.
    Body(Sending<'c>),
    /// A message that was begun has ended, in one way or another.
    Done(Box<Report>),
    /// The reply to a [command](Ready::command) of the caller.
    Replied(Reply),
    /// The session is over: close the connection. Every later poll returns this step again.
    Closed(CloseReason),
}

/// What [`Client::poll`] found.
#[derive(Debug)]
pub(super) enum Found {
    Done(Box<Report>),
    Replied(Reply),
    Wait(Need, Instant),
    Closed(CloseReason),
}

impl<'c> Step<'c> {
    pub(super) fn of(client: &'c mut Client, found: Found) -> Self {
        let (need, until) = match found {
            Found::Done(report) => return Self::Done(report),
            Found::Replied(reply) => return Self::Replied(reply),
            Found::Closed(reason) => return Self::Closed(reason),
            Found::Wait(need, until) => (need, until),
        };
        match need {
            Need::Write => Self::Write(Writing { client, until }),
            Need::Read => Self::Read(Reading { client, until }),
            Need::Handshake => Self::Handshake(Handshaking { client, until }),
            Need::Ready => Self::Ready(Ready { client, until }),
            Need::Body => Self::Body(Sending { client, until }),
        }
    }
}
