//! The arguments of MAIL and RCPT: the sender and the recipients of a message.

use std::fmt;

use super::{fixed, offer::Offer};
use crate::{
    address::{AddressError, AddressErrorKind, ForwardPath, ReversePath},
    envelope::Recipient,
    parameter::{ParameterError, Parameters, malformed},
    reply::{Code, Reply, Status},
};

/// Parses what follows `FROM:`.
pub(super) fn parse_mail(
    path: &[u8],
    offer: Offer<'_>,
) -> Result<(ReversePath, Parameters), Reply> {
    let (sender, rest) =
        ReversePath::parse(path, offer.path_options(true)).map_err(|e| sender_error(&e))?;
    let parameters = Parameters::parse(rest, |keyword, value| {
        offer.config.prepared.check_mail_parameter(keyword, value)
    })
    .map_err(parameter_error)?;
    offer.check_mail(&parameters)?;
    let sender_is_ascii = sender.as_str().is_ascii();
    let all_is_ascii = sender_is_ascii && parameters.is_ascii();
    if !all_is_ascii && !parameters.contains("SMTPUTF8") {
        return Err(match sender_is_ascii {
            true => non_ascii_parameter(),
            false => fixed::NON_ASCII,
        });
    }
    Ok((sender, parameters))
}

/// Parses what follows `TO:`, in a transaction with or without SMTPUTF8.
pub(super) fn parse_rcpt(path: &[u8], offer: Offer<'_>, utf8: bool) -> Result<Recipient, Reply> {
    let (recipient, rest) =
        ForwardPath::parse(path, offer.path_options(utf8)).map_err(|e| recipient_error(&e))?;
    let parameters = Parameters::parse(rest, |keyword, value| {
        offer.config.prepared.check_rcpt_parameter(keyword, value)
    })
    .map_err(parameter_error)?;
    offer.check_rcpt(&parameters)?;
    if !utf8 && !parameters.is_ascii() {
        return Err(non_ascii_parameter());
    }
    Ok(Recipient::new(recipient, parameters))
}

/// Strips a keyword, in any letter case (RFC 5321 section 2.4).
pub(super) fn strip_prefix<'a>(argument: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (keyword, rest) = argument.split_at_checked(prefix.len())?;
    keyword.eq_ignore_ascii_case(prefix).then_some(rest)
}

fn sender_error(error: &AddressError) -> Reply {
    match error.kind() {
        AddressErrorKind::NonAscii => fixed::NON_ASCII,
        AddressErrorKind::DisallowedLabel => address_error(error, Status::BAD_SENDER_SYSTEM),
        _ => address_error(error, Status::BAD_SENDER_SYNTAX),
    }
}

fn recipient_error(error: &AddressError) -> Reply {
    match error.kind() {
        AddressErrorKind::NonAscii => fixed::NON_ASCII,
        AddressErrorKind::DisallowedLabel => address_error(error, Status::BAD_SYSTEM),
        _ => address_error(error, Status::BAD_MAILBOX_SYNTAX),
    }
}

fn address_error(error: &AddressError, status: Status) -> Reply {
    Reply::new(Code::PARAMETER_ERROR, status, sentence(error))
}

/// Returns the text of an error for a reply, beginning with a capital letter.
fn sentence(error: &impl fmt::Display) -> String {
    let mut text = error.to_string();
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text
}

/// RFC 6531 section 3.3: only SMTPUTF8 extends `esmtp-value` to UTF-8, as in `ORCPT=utf-8;` (RFC 6533 section 3).
fn non_ascii_parameter() -> Reply {
    malformed("A non-ASCII parameter needs SMTPUTF8")
}

pub(super) fn parameter_error(error: ParameterError) -> Reply {
    let code = match error {
        // RFC 5321 section 4.1.1.11.
        ParameterError::Unknown => Code::PARAMETERS_UNKNOWN,
        _ => Code::PARAMETER_ERROR,
    };
    Reply::new(code, Status::INVALID_PARAMETERS, sentence(&error))
}
