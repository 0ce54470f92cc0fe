//! What is known of the client.

use super::{Connection, Mode, State};
use crate::{
    framing::LineReader,
    helo::Helo,
    sasl::{ChannelBindings, Identity},
};

/// What the client has said of itself and shown. A session that starts anew replaces it as a whole, so that nothing of it can
/// pass for what is known of another client. The [guide](crate::guide::driver) has a table of what each command leaves of it, and
/// `tests/survival.rs` tests that.
#[derive(Debug, Default)]
pub(super) struct Client {
    pub(super) helo: Option<Box<Helo>>,
    pub(super) identity: Option<Identity>,
    pub(super) channel: Channel,
}

/// What there is of the TLS channel that ends at the client.
#[derive(Debug, Default)]
pub(super) struct Channel {
    /// What SCRAM can bind to; none where there is nothing.
    pub(super) bindings: Option<Box<ChannelBindings>>,
    /// Whether the client has shown a certificate that was verified.
    pub(super) certified: bool,
}

impl Connection {
    /// The session starts anew, up to HELO.
    pub(super) fn start_anew(&mut self, client: Client) {
        self.end_transaction();
        self.client = client;
        self.exchange = None;
        self.line = LineReader::default();
        self.state = State::Start;
        self.reading = Mode::Commands;
    }
}
