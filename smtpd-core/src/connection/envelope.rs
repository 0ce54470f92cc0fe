//! MAIL and RCPT: from whom a message is, and for whom.

use std::{fmt, sync::Arc};

use super::{Asked, CloseReason, Connection, Slot, Transaction, command::syntax_error};
use crate::{
    address::{AddressError, AddressErrorKind, Charset, ForwardPath, PathOptions, ReversePath},
    envelope::{Envelope, Recipient},
    parameter::{BodyType, ParameterError, Parameters, Size, malformed},
    reply::{Code, Reply, Status},
};

impl Connection {
    pub(super) fn mail(&mut self, argument: &[u8]) {
        if self.counts.transactions >= self.config.limits.messages {
            return self.close_with(
                Reply::closing("Too many messages on one connection"),
                CloseReason::Limit,
            );
        }
        self.counts.transactions += 1;
        self.counts.attempted = true;
        let Some(path) = strip_prefix(argument, b"FROM:") else {
            return self.fault(syntax_error());
        };
        let (sender, parameters) = match self.parse_mail(path) {
            Ok(parsed) => parsed,
            Err(reply) => return self.fault(reply),
        };
        let declared = parameters.get::<Size>().map_or(0, Size::bytes);
        if self
            .config
            .limits
            .message_size
            .is_some_and(|limit| declared > limit)
        {
            return self.answer(Reply::too_large());
        }
        self.transaction = Transaction {
            utf8: parameters.contains("SMTPUTF8"),
            binary: parameters.get() == Some(BodyType::BinaryMime),
            reply_to_each: self.replies_to_each(&parameters),
            envelope: None,
        };
        let envelope = Envelope::new(sender).with_parameters(parameters);
        self.ask(Asked::Mail, Slot::Mail(Arc::new(envelope)))
    }

    fn parse_mail(&self, path: &[u8]) -> Result<(ReversePath, Parameters), Reply> {
        let (sender, rest) =
            ReversePath::parse(path, self.path_options(true)).map_err(|e| sender_error(&e))?;
        let parameters = Parameters::parse(rest, |keyword, value| {
            self.config.check_mail_parameter(keyword, value)
        })
        .map_err(parameter_error)?;
        self.check_mail_parameters(&parameters)?;
        let sender_is_ascii = sender.as_str().is_ascii();
        let all_is_ascii = sender_is_ascii && parameters.is_ascii();
        if !all_is_ascii && !parameters.contains("SMTPUTF8") {
            return Err(match sender_is_ascii {
                true => non_ascii_parameter(),
                false => non_ascii(),
            });
        }
        Ok((sender, parameters))
    }

    pub(super) fn rcpt(&mut self, argument: &[u8]) {
        let Some(path) = strip_prefix(argument, b"TO:") else {
            return self.fault(syntax_error());
        };
        if self.recipients() >= self.config.limits.recipients as usize {
            return self.answer(Reply::too_many_recipients());
        }
        match self.parse_rcpt(path) {
            Ok((recipient, _)) if self.is_one_domain_too_many(&recipient) => {
                self.answer(Reply::too_many_recipients().with_text("Too many domains"))
            }
            Ok((recipient, parameters)) => self.ask(
                Asked::Rcpt,
                Slot::Rcpt(Recipient::new(recipient, parameters)),
            ),
            Err(reply) => self.fault(reply),
        }
    }

    fn parse_rcpt(&self, path: &[u8]) -> Result<(ForwardPath, Parameters), Reply> {
        let options = self.path_options(self.transaction.utf8);
        let (recipient, rest) =
            ForwardPath::parse(path, options).map_err(|e| recipient_error(&e))?;
        let parameters = Parameters::parse(rest, |keyword, value| {
            self.config.check_rcpt_parameter(keyword, value)
        })
        .map_err(parameter_error)?;
        self.check_rcpt_parameters(&parameters)?;
        if !self.transaction.utf8 && !parameters.is_ascii() {
            return Err(non_ascii_parameter());
        }
        Ok((recipient, parameters))
    }

    fn path_options(&self, utf8: bool) -> PathOptions {
        let utf8 = utf8 && self.config.extensions.known().utf8;
        PathOptions::new(
            self.config.leniency,
            if utf8 { Charset::Utf8 } else { Charset::Ascii },
        )
    }
}

/// Cuts a keyword off, in any case (RFC 5321 section 2.4).
fn strip_prefix<'a>(argument: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (keyword, rest) = argument.split_at_checked(prefix.len())?;
    keyword.eq_ignore_ascii_case(prefix).then_some(rest)
}

fn sender_error(error: &AddressError) -> Reply {
    match error.kind() {
        AddressErrorKind::NonAscii => non_ascii(),
        AddressErrorKind::DisallowedLabel => address_error(error, Status::BAD_SENDER_SYSTEM),
        _ => address_error(error, Status::BAD_SENDER_SYNTAX),
    }
}

fn recipient_error(error: &AddressError) -> Reply {
    match error.kind() {
        AddressErrorKind::NonAscii => non_ascii(),
        AddressErrorKind::DisallowedLabel => address_error(error, Status::BAD_SYSTEM),
        _ => address_error(error, Status::BAD_MAILBOX_SYNTAX),
    }
}

fn address_error(error: &AddressError, status: Status) -> Reply {
    Reply::new(Code::PARAMETER_ERROR, status, sentence(error))
}

/// The text of an error as that of a reply, which begins with a capital letter.
fn sentence(error: &impl fmt::Display) -> String {
    let mut text = error.to_string();
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text
}

/// RFC 6531 section 3.5: 553 5.6.7.
fn non_ascii() -> Reply {
    Reply::fixed(
        Code::MAILBOX_NAME,
        Status::NON_ASCII_ADDRESS,
        "A non-ASCII address needs SMTPUTF8",
    )
}

/// RFC 6531 section 3.3: `esmtp-value` is extended to UTF-8 by SMTPUTF8 alone, as in `ORCPT=utf-8;` (RFC 6533 section 3).
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
