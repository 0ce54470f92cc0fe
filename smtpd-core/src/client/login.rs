//! AUTH (RFC 4954).

use std::fmt;

use zeroize::Zeroizing;

use super::{
    capabilities::Capabilities,
    config::ClientConfig,
    fault::{Fault, ProtocolFault, Stage},
    raw_reply::RawReply,
    waiting::TlsFacts,
    wire::{Awaited, Wire},
};
use crate::sasl::{
    ChannelBindings,
    client::{Channel, ClientExchange},
};

/// The maximum length of a command line, with CRLF (RFC 5321 section 4.5.3.1.4).
const LINE: usize = 512;

/// The number of random bytes of a nonce.
const NONCE: usize = 18;

/// The authentication of a session.
#[derive(Default)]
pub(super) enum Login {
    #[default]
    None,
    Exchange {
        exchange: ClientExchange,
        /// An initial response that is too long for the command.
        held: Option<Zeroizing<Vec<u8>>>,
    },
    /// The exchange was cancelled, and the reply to that is awaited.
    Cancelled,
    Done,
}

impl Login {
    pub(super) const fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// Sends AUTH.
    pub(super) fn begin(
        &mut self,
        config: &ClientConfig,
        offers: &Capabilities,
        tls: Option<&TlsFacts>,
        wire: &mut Wire,
    ) -> Result<(), Fault> {
        let mut nonce = [0; NONCE];
        let has_nonce = config.entropy.is_some_and(|fill| fill(&mut nonce));
        let none = ChannelBindings::none();
        let channel = Channel {
            is_tls: tls.is_some(),
            bindings: tls.map_or(&none, |facts| &facts.bindings),
            nonce: has_nonce.then_some(&nonce),
        };
        let offered: Vec<_> = offers.mechanisms().collect();
        let account = config.account.as_ref();
        let exchange = account.and_then(|account| account.start(&offered, channel));
        let mut exchange = exchange.ok_or(Fault::NoMechanism)?;
        let command = format!("AUTH {}", exchange.name());
        let mut held = exchange.initial_response();
        // RFC 4954 section 4: a longer response answers the first challenge, which is empty.
        let fits = |response: &mut Zeroizing<Vec<u8>>| {
            command.len() + " \r\n".len() + response.len() <= LINE
        };
        match held.take_if(fits) {
            Some(response) => {
                let parts = [command.as_bytes(), b" ", &response];
                wire.send_secret(&parts, Awaited::Auth);
            }
            None => wire.send(&command, Awaited::Auth),
        }
        *self = Self::Exchange { exchange, held };
        Ok(())
    }

    /// Continues with a reply to AUTH, or to a line of the exchange.
    pub(super) fn answered(&mut self, raw: &RawReply, wire: &mut Wire) -> Result<(), Fault> {
        let stage = Stage::Auth;
        match (&mut *self, raw.code().as_u16()) {
            (Self::Exchange { exchange, held }, 334) => {
                let challenge = raw.lines().next().unwrap_or_default();
                let response = match held.take() {
                    Some(response) if challenge.is_empty() => Ok(response),
                    Some(_) => exchange.response(b"*"), // never base64
                    None => exchange.response(challenge),
                };
                match response {
                    Ok(response) => wire.send_secret(&[&response], Awaited::Auth),
                    Err(_) => {
                        wire.send("*", Awaited::Auth);
                        *self = Self::Cancelled;
                    }
                }
                Ok(())
            }
            (Self::Exchange { exchange, .. }, 200..300) if exchange.is_done() => {
                *self = Self::Done;
                Ok(())
            }
            (Self::Exchange { .. }, 200..300) | (Self::Cancelled, 400..600) => {
                Err(Fault::BadChallenge)
            }
            (Self::Exchange { .. }, 400..600) => {
                let reply = raw.to_reply();
                Err(Fault::Refused { stage, reply })
            }
            _ => {
                let reply = raw.to_reply();
                Err(ProtocolFault::WrongCode { stage, reply }.into())
            }
        }
    }
}

/// Shows no secrets.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Exchange { exchange, .. } => exchange.fmt(f),
            Self::Cancelled => f.write_str("Cancelled"),
            Self::Done => f.write_str("Done"),
        }
    }
}
