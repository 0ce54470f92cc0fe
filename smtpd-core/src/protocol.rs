//! SMTP and LMTP.

use crate::helo::Greeting;

/// The protocol of a listener.
///
/// ```
/// use smtpd_core::{Config, Protocol, config::DriverConfig};
///
/// let config = Config::new("mx.example.org");
/// let config = DriverConfig::new(config).protocol(Protocol::Lmtp);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// SMTP (RFC 5321): HELO or EHLO, one reply to a message.
    #[default]
    Smtp,
    /// LMTP (RFC 2033): LHLO, and for each accepted recipient one reply to the message.
    Lmtp,
}

/// Returns the protocol of a session as a Received field names it after `with`: RFC 3848, and RFC 6531 sections 3.7.3 and 4.3 if
/// the message was sent with SMTPUTF8.
///
/// ```
/// use smtpd_core::{
///     Protocol,
///     connection::{Greeting, protocol_word},
/// };
///
/// assert_eq!(
///     protocol_word(Protocol::Smtp, Some(Greeting::Ehlo), false, true, true),
///     "ESMTPSA"
/// );
/// ```
pub const fn protocol_word(
    protocol: Protocol,
    greeting: Option<Greeting>,
    utf8: bool,
    tls: bool,
    authenticated: bool,
) -> &'static str {
    const ESMTP: [&str; 4] = ["ESMTP", "ESMTPS", "ESMTPA", "ESMTPSA"];
    const UTF8SMTP: [&str; 4] = ["UTF8SMTP", "UTF8SMTPS", "UTF8SMTPA", "UTF8SMTPSA"];
    const LMTP: [&str; 4] = ["LMTP", "LMTPS", "LMTPA", "LMTPSA"];
    const UTF8LMTP: [&str; 4] = ["UTF8LMTP", "UTF8LMTPS", "UTF8LMTPA", "UTF8LMTPSA"];
    let words = match (protocol, greeting, utf8) {
        (Protocol::Lmtp, _, false) => LMTP,
        (Protocol::Lmtp, _, true) => UTF8LMTP,
        (Protocol::Smtp, None | Some(Greeting::Helo), _) => return "SMTP",
        (Protocol::Smtp, _, false) => ESMTP,
        (Protocol::Smtp, _, true) => UTF8SMTP,
    };
    words[tls as usize | (authenticated as usize) << 1]
}
