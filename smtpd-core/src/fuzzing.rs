//! Functions for the fuzz targets only. They exist only when cargo-fuzz compiles this crate.

use crate::{
    proxied::{AttributeError, Forwarded, XClient},
    reply::{Form, Reply},
};

/// Returns a reply as it goes over the wire, with or without enhanced status codes and UTF-8.
pub fn encode_reply(reply: &Reply, status: bool, utf8: bool) -> Vec<u8> {
    let mut out = Vec::new();
    reply.encode(Form { status, utf8 }, &mut out);
    out
}

/// Parses the argument of an XCLIENT command that follows others.
///
/// # Errors
///
/// If an attribute is malformed.
pub fn xclient_and(before: &XClient, argument: &[u8]) -> Result<XClient, AttributeError> {
    before.and(argument)
}

/// Parses the argument of an XFORWARD command that follows others.
///
/// # Errors
///
/// If an attribute is malformed.
pub fn forwarded_and(before: &Forwarded, argument: &[u8]) -> Result<Forwarded, AttributeError> {
    before.and(argument)
}
