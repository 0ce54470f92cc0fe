//! The settings of a client.

use super::timeouts::{ClientLimits, ClientTimeouts};
use crate::{address::ClientName, framing::BareNewline, protocol::Protocol, sasl::client::Account};

/// The settings of a [`Client`](super::Client). One is made for each kind of server, and shared by all sessions with it.
///
/// ```
/// use smtpd_core::{
///     Protocol,
///     client::{Account, ClientConfig, StartTls},
/// };
///
/// // A smart host that wants a password.
/// let smarthost = ClientConfig::new("relay.example.org".parse()?)
///     .start_tls(StartTls::Require)
///     .account(Account::password("alice", "secret")?);
/// // An LMTP server on a Unix socket.
/// let lmtp = ClientConfig::new("relay.example.org".parse()?)
///     .protocol(Protocol::Lmtp)
///     .start_tls(StartTls::Never);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ClientConfig {
    pub(super) name: ClientName,
    pub(super) protocol: Protocol,
    pub(super) start_tls: StartTls,
    pub(super) account: Option<Account>,
    pub(super) entropy: Option<fn(&mut [u8]) -> bool>,
    pub(super) chunking: bool,
    pub(super) pipelining: bool,
    pub(super) prdr: bool,
    pub(super) bare_newline: BareNewline,
    pub(super) timeouts: ClientTimeouts,
    pub(super) limits: ClientLimits,
}

/// When a client begins TLS by STARTTLS (RFC 3207).
///
/// ```
/// use smtpd_core::client::StartTls;
///
/// assert_eq!(StartTls::default(), StartTls::IfOffered);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StartTls {
    /// Never.
    Never,
    /// If the server offers it. Whoever can change what the server sends can prevent it, so it protects from eavesdroppers alone.
    /// If the server refuses STARTTLS although it offers it, the session continues in plaintext. If the handshake fails, it ends.
    #[default]
    IfOffered,
    /// Always. If the server does not offer it, the session ends with [`Fault::NoTls`](super::Fault::NoTls). Whether the
    /// certificate is the right one is for the driver to check, which performs the handshake.
    Require,
}

impl ClientConfig {
    /// Creates the settings of a client that calls itself `name` in EHLO: the domain of this host, or an address literal such as
    /// `[192.0.2.1]` (RFC 5321 section 4.1.1.1).
    pub fn new(name: ClientName) -> Self {
        Self {
            name,
            protocol: Protocol::Smtp,
            start_tls: StartTls::default(),
            account: None,
            entropy: None,
            chunking: true,
            pipelining: true,
            prdr: true,
            bare_newline: BareNewline::Reject,
            timeouts: ClientTimeouts::default(),
            limits: ClientLimits::default(),
        }
    }

    /// Sets the protocol. Default: SMTP.
    #[must_use]
    pub fn protocol(self, protocol: Protocol) -> Self {
        Self { protocol, ..self }
    }

    /// Sets when TLS is begun by STARTTLS. Default: if the server offers it.
    #[must_use]
    pub fn start_tls(self, start_tls: StartTls) -> Self {
        Self { start_tls, ..self }
    }

    /// Sets the account with which the client authenticates. If that is not possible, the session ends. Default: none, the client
    /// does not authenticate.
    #[must_use]
    pub fn account(self, account: Account) -> Self {
        Self {
            account: Some(account),
            ..self
        }
    }

    /// Sets the source of the random bytes that SCRAM needs; it returns whether it filled the buffer. Default: none, so SCRAM is
    /// not used.
    ///
    /// `os_entropy`, with the feature `getrandom`, sets the source of the operating system.
    #[must_use]
    pub fn entropy(self, fill: fn(&mut [u8]) -> bool) -> Self {
        Self {
            entropy: Some(fill),
            ..self
        }
    }

    /// Sets [`entropy`](Self::entropy) to the random number generator of the operating system. Needs the feature `getrandom`.
    #[cfg(feature = "getrandom")]
    #[cfg_attr(docsrs, doc(cfg(feature = "getrandom")))]
    #[must_use]
    pub fn os_entropy(self) -> Self {
        self.entropy(|bytes| getrandom::fill(bytes).is_ok())
    }

    /// Sets whether messages are sent with BDAT where the server offers CHUNKING (RFC 3030): every byte then arrives as it is,
    /// and no server can find another end in a message. If it is off, messages with `BODY=BINARYMIME` cannot be sent. Default:
    /// on.
    #[must_use]
    pub fn chunking(self, chunking: bool) -> Self {
        Self { chunking, ..self }
    }

    /// Sets whether commands are sent in groups where the server offers PIPELINING (RFC 2920). Default: on.
    #[must_use]
    pub fn pipelining(self, pipelining: bool) -> Self {
        Self { pipelining, ..self }
    }

    /// Sets whether a reply for each recipient is requested where the server offers PRDR and there are several. Default: on.
    #[must_use]
    pub fn prdr(self, prdr: bool) -> Self {
        Self { prdr, ..self }
    }

    /// Sets what happens to a bare CR or LF in a message that is sent with DATA. A server that takes a bare LF for a line end would
    /// see the end of the message at a dot that stands after one, and take the rest for commands, so such a message is refused
    /// by default, with [`Unsupported::BareNewline`](super::Unsupported::BareNewline). With BDAT, every message is sent as it is.
    /// Default: [`Reject`](BareNewline::Reject).
    #[must_use]
    pub fn bare_newline(self, bare_newline: BareNewline) -> Self {
        Self {
            bare_newline,
            ..self
        }
    }

    /// Changes timeouts. Default: those of [`ClientTimeouts::default`].
    #[must_use]
    pub fn timeouts(mut self, change: impl FnOnce(&mut ClientTimeouts)) -> Self {
        change(&mut self.timeouts);
        self
    }

    /// Changes limits. Default: those of [`ClientLimits::default`].
    #[must_use]
    pub fn limits(mut self, change: impl FnOnce(&mut ClientLimits)) -> Self {
        change(&mut self.limits);
        self
    }

    /// Returns the name that the client calls itself.
    pub const fn get_name(&self) -> &ClientName {
        &self.name
    }

    /// Returns the protocol.
    pub const fn get_protocol(&self) -> Protocol {
        self.protocol
    }

    /// Returns when TLS is begun.
    pub const fn get_start_tls(&self) -> StartTls {
        self.start_tls
    }

    /// Returns the timeouts.
    pub const fn get_timeouts(&self) -> &ClientTimeouts {
        &self.timeouts
    }

    /// Returns the limits.
    pub const fn get_limits(&self) -> &ClientLimits {
        &self.limits
    }
}
