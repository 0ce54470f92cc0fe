//! The waits that a driver performs.

use std::{fmt, time::Instant};

use bytes::{Bytes, BytesMut};

use super::{
    Client,
    command::{self, CommandError},
    fault::Fault,
    plan::Transaction,
    report::Outcome,
    run::Run,
};
use crate::{envelope::Envelope, sasl::ChannelBindings};

/// Bytes must be written, at the latest by [`until`](Self::until).
pub struct Writing<'c> {
    pub(super) client: &'c mut Client,
    pub(super) until: Instant,
}

impl<'c> Writing<'c> {
    /// Returns bytes that must be written; never empty when the step is returned. More may follow them.
    pub fn bytes(&self) -> &[u8] {
        self.client.session.wire.output.bytes()
    }

    /// Notes that `written` of the bytes were written at `now`. Any excess is ignored.
    ///
    /// # Panics
    ///
    /// In debug builds, if `written` exceeds the number of bytes.
    pub fn wrote(&mut self, written: usize, now: Instant) {
        self.client.wrote(written, now);
    }

    /// Returns when the server's time is over. Poll then.
    pub const fn until(&self) -> Instant {
        self.until
    }

    /// Returns the client, to notify it of an event.
    pub const fn into_client(self) -> &'c mut Client {
        self.client
    }
}

/// Bytes from the server are needed, at the latest by [`until`](Self::until).
pub struct Reading<'c> {
    pub(super) client: &'c mut Client,
    pub(super) until: Instant,
}

impl<'c> Reading<'c> {
    /// Returns when the server's time is over. Poll then.
    pub const fn until(&self) -> Instant {
        self.until
    }

    /// Returns the client, to notify it of an event.
    pub const fn into_client(self) -> &'c mut Client {
        self.client
    }
}

/// The results of a TLS handshake.
///
/// ```
/// use smtpd_core::client::TlsFacts;
///
/// let mut facts = TlsFacts::default();
/// facts.verified = true;
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct TlsFacts {
    /// The channel bindings for the -PLUS forms of SCRAM (RFC 5802 section 6). They are used only if this is not empty.
    pub bindings: ChannelBindings,
    /// Whether the server presented a verified certificate for the name that was connected to. Messages with `REQUIRETLS` are sent
    /// only then (RFC 8689 section 4.2.1).
    pub verified: bool,
}

/// A TLS handshake is needed, at the latest by [`until`](Self::until).
pub struct Handshaking<'c> {
    pub(super) client: &'c mut Client,
    pub(super) until: Instant,
}

impl<'c> Handshaking<'c> {
    /// Returns when the time for the handshake is over. Poll then.
    pub const fn until(&self) -> Instant {
        self.until
    }

    /// Notes that the connection is encrypted. The client introduces itself again, and what the server offered in plaintext is
    /// forgotten (RFC 3207 section 4.2). If there is anything in `input`, it was sent in plaintext, and the session ends with
    /// [`ProtocolFault::Injected`](super::ProtocolFault::Injected).
    pub fn done(self, input: &mut BytesMut, facts: TlsFacts) {
        self.client.session.encrypted(facts, input);
    }

    /// Notes that the handshake has failed. The session ends: it never continues in plaintext.
    pub fn failed(self) {
        self.client.session.fail(Fault::TlsFailed, None);
    }

    /// Returns the client, to notify it of an event.
    pub const fn into_client(self) -> &'c mut Client {
        self.client
    }
}

/// The session is open, and nothing is under way: the caller decides what comes next, at the latest by [`until`](Self::until).
pub struct Ready<'c> {
    pub(super) client: &'c mut Client,
    pub(super) until: Instant,
}

impl<'c> Ready<'c> {
    /// Returns when the client sends QUIT by itself. Poll then.
    pub const fn until(&self) -> Instant {
        self.until
    }

    /// Begins a message. If the server lacks something that it needs, nothing is sent, and the next step is
    /// [`Done`](super::Step::Done).
    pub fn send(self, transaction: Transaction) {
        self.client.session.begin(transaction);
    }

    /// Sends a command that the client does not know itself, such as XFORWARD, VRFY or ETRN. The next step after its reply is
    /// [`Replied`](super::Step::Replied). If the server accepts XCLIENT, the session starts anew: the client sends EHLO again.
    ///
    /// # Errors
    ///
    /// If `line` is not one line of printable ASCII, or a command that the client sends by itself.
    pub fn command(self, line: &str) -> Result<(), CommandError> {
        let awaited = command::check(line)?;
        self.client.session.send_command(line, awaited);
        Ok(())
    }

    /// Sends NOOP, to find out whether the server is still there.
    pub fn noop(self) {
        self.client.session.send_noop();
    }

    /// Sends QUIT.
    pub fn quit(self) {
        self.client.quit();
    }

    /// Returns the client, to ask what the server offers, or to notify it of an event.
    pub const fn into_client(self) -> &'c mut Client {
        self.client
    }
}

/// The server waits for the message, whose next bytes are needed at the latest by [`until`](Self::until).
pub struct Sending<'c> {
    pub(super) client: &'c mut Client,
    pub(super) until: Instant,
}

impl<'c> Sending<'c> {
    /// Returns when the session ends because nothing more was sent. Poll then.
    pub const fn until(&self) -> Instant {
        self.until
    }

    /// Returns the envelope.
    pub fn envelope(&self) -> Option<&Envelope> {
        let run = self.client.session.run();
        run.map(|run| &**run.transaction().envelope())
    }

    /// Returns the outcome for each recipient of the envelope, in its order. `None` is a recipient that the server accepted: it
    /// gets the message.
    pub fn outcomes(&self) -> impl Iterator<Item = Option<&Outcome>> {
        let run = self.client.session.run();
        run.into_iter().flat_map(Run::outcomes)
    }

    /// Sends the next bytes of the message, as they are: dots are stuffed where that is necessary. Call it as often as there are
    /// bytes at hand, and poll again: the session asks for more when it has room.
    pub fn send(&mut self, bytes: impl Into<Bytes>) {
        self.client.send(bytes.into());
    }

    /// Ends the message. If it is sent by DATA and does not end with CRLF, CRLF is added.
    pub fn end(self) {
        self.client.end();
    }

    /// Stops in the middle of the message: nobody gets it. By BDAT, the session goes on; DATA cannot be cancelled, so it ends.
    pub fn abort(self) {
        let outcome = Outcome::Failed(Fault::Aborted);
        self.client.session.stop(&outcome);
    }

    /// Returns the client, to notify it of an event.
    pub const fn into_client(self) -> &'c mut Client {
        self.client
    }
}

macro_rules! debug {
    ($($wait:ident)*) => { $(
        impl fmt::Debug for $wait<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut shown = f.debug_struct(stringify!($wait));
                shown.field("until", &self.until).finish_non_exhaustive()
            }
        }
    )* };
}

debug!(Writing Reading Handshaking Ready Sending);
