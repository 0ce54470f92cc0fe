//! Service extensions: what EHLO announces, and the parameters that come with it (RFC 5321 section 2.2).

use std::{borrow::Cow, fmt, sync::Arc};

use crate::{
    ParameterError, ParameterRule,
    parameter::{BodyType, EnvelopeId, MailAuth, Notify, OriginalRecipient, Ret, Size, SmtpUtf8},
};

/// One extension. What is in a server's [`Extensions`] is on, and announced; what is not, is neither.
///
/// An extension of your own names its keyword and the parameters that it allows:
///
/// ```
/// use smtpd_core::{Extension, ParameterRule};
///
/// #[derive(Debug)]
/// struct Color;
///
/// impl Extension for Color {
///     fn keyword(&self) -> &str {
///         "XCOLOR"
///     }
///
///     fn mail_parameters(&self) -> &[ParameterRule] {
///         &[const { ParameterRule::new("XCOLOR", |_| Ok(())) }]
///     }
/// }
/// ```
pub trait Extension: Send + Sync + fmt::Debug {
    /// The EHLO keyword (RFC 5321 section 4.1.1.1, `ehlo-keyword`).
    fn keyword(&self) -> &str;

    /// What follows the keyword in EHLO's answer; empty by default.
    fn announcement(&self) -> Cow<'_, str> {
        Cow::Borrowed("")
    }

    /// The parameters that MAIL may have.
    fn mail_parameters(&self) -> &[ParameterRule] {
        &[]
    }

    /// The parameters that RCPT may have.
    fn rcpt_parameters(&self) -> &[ParameterRule] {
        &[]
    }
}

/// The extensions of this crate that have no settings of their own.
///
/// STARTTLS, AUTH and SIZE are no members: they are on when there is TLS, an authentication service, a size limit.
///
/// ```
/// use smtpd_core::{Config, Extensions, Standard};
///
/// let few = Extensions::none().with(Standard::Pipelining).with(Standard::EightBitMime);
/// let config = Config::new("mx.example.org").extensions(few);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Standard {
    /// PIPELINING (RFC 2920). The connection always takes commands in groups; this announces it.
    Pipelining,
    /// 8BITMIME (RFC 6152), with `BODY=` on MAIL.
    EightBitMime,
    /// ENHANCEDSTATUSCODES (RFC 2034): replies carry enhanced status codes.
    EnhancedStatusCodes,
    /// SMTPUTF8 (RFC 6531): UTF-8 in addresses, for transactions that ask for it.
    SmtpUtf8,
    /// CHUNKING (RFC 3030): the command BDAT.
    Chunking,
    /// BINARYMIME (RFC 3030), with `BODY=BINARYMIME` on MAIL; of use only with CHUNKING.
    BinaryMime,
    /// DSN (RFC 3461): `RET=` and `ENVID=` on MAIL, `NOTIFY=` and `ORCPT=` on RCPT, handed to the services.
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
    use crate::Parameter;
    if (BodyType::parse(value)? == of) == wanted {
        Ok(())
    } else {
        Err(ParameterError::Malformed)
    }
}

/// `AUTH=` on MAIL, wherever AUTH is offered (RFC 4954 section 5).
pub(crate) const AUTH_PARAMETER: ParameterRule = ParameterRule::of::<MailAuth>();
/// `SIZE=` on MAIL (RFC 1870 section 6).
pub(crate) const SIZE_PARAMETER: ParameterRule = ParameterRule::of::<Size>();

/// The extensions that are on, in the order in which EHLO names them.
///
/// ```
/// use smtpd_core::{Extensions, Standard};
///
/// let extensions = Extensions::default().without("DSN");
/// assert!(extensions.contains("pipelining") && !extensions.contains("DSN"));
/// assert!(!Extensions::none().with(Standard::Chunking).contains("PIPELINING"));
/// ```
#[derive(Clone, Debug)]
pub struct Extensions(Vec<Arc<dyn Extension>>);

impl Default for Extensions {
    /// Every [`Standard`] extension.
    fn default() -> Self {
        use Standard::*;
        [
            Pipelining,
            EightBitMime,
            EnhancedStatusCodes,
            SmtpUtf8,
            Chunking,
            BinaryMime,
            Dsn,
        ]
        .into_iter()
        .fold(Self::none(), Self::with)
    }
}

impl Extensions {
    /// No extension at all.
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// These and one more; it takes the place of one with the same keyword.
    #[must_use]
    pub fn with(self, extension: impl Extension + 'static) -> Self {
        let mut rest = self.without(extension.keyword());
        rest.0.push(Arc::new(extension));
        rest
    }

    /// These without the one of that keyword, in any case.
    #[must_use]
    pub fn without(mut self, keyword: &str) -> Self {
        self.0
            .retain(|extension| !extension.keyword().eq_ignore_ascii_case(keyword));
        self
    }

    /// Whether the extension of that keyword is on, in any case.
    pub fn contains(&self, keyword: &str) -> bool {
        self.0
            .iter()
            .any(|extension| extension.keyword().eq_ignore_ascii_case(keyword))
    }

    /// The extensions in order.
    pub fn iter(&self) -> impl Iterator<Item = &dyn Extension> {
        self.0.iter().map(|extension| &**extension)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(extensions: &Extensions, keyword: &str, value: Option<&str>) -> bool {
        let text = value.map_or_else(|| keyword.to_owned(), |v| format!("{keyword}={v}"));
        let rules = || {
            Box::new(extensions.iter().flat_map(Extension::mail_parameters))
                as Box<dyn Iterator<Item = _>>
        };
        crate::Parameters::parse(text.as_bytes(), rules).is_ok()
    }

    #[test]
    fn binarymime_is_refused_where_it_is_not_offered() {
        let all = Extensions::default();
        let some = Extensions::default().without("BINARYMIME");
        assert!(allows(&all, "BODY", Some("BINARYMIME")) && allows(&all, "BODY", Some("8BITMIME")));
        assert!(!allows(&some, "BODY", Some("BINARYMIME")) && allows(&some, "BODY", Some("7BIT")));
        assert!(!allows(&all, "BODY", Some("NONSENSE")) && !allows(&all, "BODY", None));
    }

    #[test]
    fn an_extension_is_in_the_set_once() {
        let twice = Extensions::default().with(Standard::Dsn);
        assert_eq!(twice.iter().filter(|e| e.keyword() == "DSN").count(), 1);
    }
}
