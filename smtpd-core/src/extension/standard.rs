use super::Extension;
use crate::parameter::{
    BodyType, EnvelopeId, MailAuth, Notify, OriginalRecipient, ParameterError, ParameterRule, Ret,
    Size, SmtpUtf8,
};

/// The extensions of this crate that have no settings of their own.
///
/// STARTTLS, AUTH and SIZE are not among them: they depend on TLS, an authentication service and a size limit.
///
/// ```
/// use smtpd_core::{
///     Config,
///     extension::{Extensions, Standard},
/// };
///
/// let few = Extensions::none()
///     .with(Standard::Pipelining)
///     .with(Standard::EightBitMime);
/// let config = Config::new("mx.example.org").extensions(few);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Standard {
    /// PIPELINING (RFC 2920). The connection always accepts commands in groups; this announces it.
    Pipelining,
    /// 8BITMIME (RFC 6152), with `BODY=` on MAIL.
    EightBitMime,
    /// ENHANCEDSTATUSCODES (RFC 2034): replies carry enhanced status codes.
    EnhancedStatusCodes,
    /// SMTPUTF8 (RFC 6531): UTF-8 in addresses, for transactions that ask for it.
    SmtpUtf8,
    /// CHUNKING (RFC 3030): the BDAT command.
    Chunking,
    /// BINARYMIME (RFC 3030), with `BODY=BINARYMIME` on MAIL; requires CHUNKING.
    BinaryMime,
    /// DSN (RFC 3461): `RET=` and `ENVID=` on MAIL, `NOTIFY=` and `ORCPT=` on RCPT, passed to the services.
    Dsn,
}

impl Extension for Standard {
    fn keyword(&self) -> &str {
        match self {
            Self::Pipelining => "PIPELINING",
            Self::EightBitMime => "8BITMIME",
            Self::EnhancedStatusCodes => "ENHANCEDSTATUSCODES",
            Self::SmtpUtf8 => "SMTPUTF8",
            Self::Chunking => "CHUNKING",
            Self::BinaryMime => "BINARYMIME",
            Self::Dsn => "DSN",
        }
    }

    fn requires(&self) -> &[&str] {
        match self {
            Self::BinaryMime => &["CHUNKING"], // RFC 3030 section 3
            Self::SmtpUtf8 => &["8BITMIME"],   // RFC 6531 section 3.1 (8)
            _ => &[],
        }
    }

    fn mail_parameters(&self) -> &[ParameterRule] {
        const BODY: &[ParameterRule] = &[ParameterRule::new("BODY", |value| {
            body(value, BodyType::BinaryMime, false)
        })];
        const BINARY: &[ParameterRule] = &[ParameterRule::new("BODY", |value| {
            body(value, BodyType::BinaryMime, true)
        })];
        const UTF8: &[ParameterRule] = &[ParameterRule::of::<SmtpUtf8>()];
        const DSN: &[ParameterRule] = &[
            ParameterRule::of::<Ret>(),
            ParameterRule::of::<EnvelopeId>(),
        ];
        match self {
            Self::EightBitMime => BODY,
            Self::BinaryMime => BINARY,
            Self::SmtpUtf8 => UTF8,
            Self::Dsn => DSN,
            Self::Pipelining | Self::EnhancedStatusCodes | Self::Chunking => &[],
        }
    }

    fn rcpt_parameters(&self) -> &[ParameterRule] {
        const DSN: &[ParameterRule] = &[
            ParameterRule::of::<Notify>(),
            ParameterRule::of::<OriginalRecipient>(),
        ];
        match self {
            Self::Dsn => DSN,
            _ => &[],
        }
    }
}

/// 8BITMIME allows every body type but BINARYMIME, and BINARYMIME allows that one.
fn body(value: Option<&str>, of: BodyType, wanted: bool) -> Result<(), ParameterError> {
    use crate::parameter::Parameter;
    if (BodyType::parse(value)? == of) == wanted {
        Ok(())
    } else {
        Err(ParameterError::Malformed)
    }
}

/// `AUTH=` on MAIL, if AUTH is offered (RFC 4954 section 5).
pub(crate) const AUTH_PARAMETER: ParameterRule = ParameterRule::of::<MailAuth>();
/// `SIZE=` on MAIL (RFC 1870 section 6).
pub(crate) const SIZE_PARAMETER: ParameterRule = ParameterRule::of::<Size>();
