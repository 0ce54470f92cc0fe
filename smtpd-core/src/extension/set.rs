//! Service extensions: what EHLO announces, and the parameters that come with it (RFC 5321 section 2.2).

use std::{borrow::Cow, fmt, sync::Arc};

use super::{SessionFacts, SessionLimits, Standard};
use crate::{
    parameter::{ParameterRule, Parameters},
    reply::Reply,
};

/// An SMTP extension. An extension in a server's [`Extensions`] is enabled and announced; any other is neither.
///
/// An extension of your own defines its keyword and the parameters that it allows:
///
/// ```
/// use smtpd_core::{extension::Extension, parameter::ParameterRule};
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
    /// Returns the EHLO keyword (RFC 5321 section 4.1.1.1, `ehlo-keyword`).
    fn keyword(&self) -> &str;

    /// Returns the keywords of other extensions that must be on as well: [`Config::extensions`](crate::Config::extensions)
    /// removes an extension that lacks one. Default: none.
    fn requires(&self) -> &[&str] {
        &[]
    }

    /// Returns whether a session may use it now. If not, EHLO does not announce it, and its parameters are rejected with 555
    /// 5.5.4. Default: always.
    ///
    /// The reply to EHLO is prepared once for each possible `session`, so the result must depend on nothing else.
    fn is_offered(&self, session: SessionFacts<'_>) -> bool {
        let _ = session;
        true
    }

    /// Returns the text that follows the keyword in the reply to EHLO. As with [`is_offered`](Self::is_offered), the result must
    /// depend only on `session`. Default: empty.
    fn announcement(&self, session: SessionFacts<'_>) -> Cow<'_, str> {
        let _ = session;
        Cow::Borrowed("")
    }

    /// Returns the parameters that MAIL may have.
    fn mail_parameters(&self) -> &[ParameterRule] {
        &[]
    }

    /// Returns the parameters that RCPT may have.
    fn rcpt_parameters(&self) -> &[ParameterRule] {
        &[]
    }

    /// Checks all the parameters of a MAIL that has one of this extension's, each of them well-formed.
    ///
    /// # Errors
    ///
    /// The reply that refuses MAIL; it counts as an error of the client.
    fn check_mail(&self, parameters: &Parameters, session: SessionFacts<'_>) -> Result<(), Reply> {
        let _ = (parameters, session);
        Ok(())
    }

    /// Returns by how many bytes MAIL or RCPT may be longer than usual (RFC 5321 section 2.2.1, item 5). Default: 0.
    fn extra_bytes(&self) -> usize {
        0
    }
}

/// The enabled extensions, in the order in which EHLO lists them.
///
/// ```
/// use smtpd_core::extension::{Extensions, Standard};
///
/// let extensions = Extensions::default().without(Standard::Dsn);
/// assert!(extensions.contains("pipelining") && !extensions.contains("DSN"));
/// assert!(!Extensions::none().with(Standard::Chunking).contains("PIPELINING"));
/// ```
#[derive(Clone, Debug)]
pub struct Extensions {
    all: Vec<Arc<dyn Extension>>,
    known: Known,
}

/// The extensions that the connection checks at every command.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known {
    pub(crate) status_codes: bool,
    pub(crate) chunking: bool,
    pub(crate) utf8: bool,
}

impl Default for Extensions {
    /// Returns every [`Standard`] extension, and [`SessionLimits`].
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
        .with(SessionLimits)
    }
}

impl Extensions {
    /// Creates an empty set.
    pub const fn none() -> Self {
        Self {
            all: Vec::new(),
            known: Known {
                status_codes: false,
                chunking: false,
                utf8: false,
            },
        }
    }

    /// Adds an extension. It replaces one with the same keyword.
    #[must_use]
    pub fn with(self, extension: impl Extension + 'static) -> Self {
        let mut rest = self.without_keyword(extension.keyword());
        rest.all.push(Arc::new(extension));
        rest.noted()
    }

    /// Removes an extension, whatever its settings: the one with the same keyword.
    #[must_use]
    pub fn without(self, extension: impl Extension) -> Self {
        self.without_keyword(extension.keyword())
    }

    fn without_keyword(self, keyword: &str) -> Self {
        self.retain(|extension| !extension.keyword().eq_ignore_ascii_case(keyword))
    }

    /// Removes the extensions for which `keep` returns false.
    #[must_use]
    pub fn retain(mut self, mut keep: impl FnMut(&dyn Extension) -> bool) -> Self {
        self.all.retain(|extension| keep(&**extension));
        self.noted()
    }

    /// Returns whether the extension with this keyword is enabled, in any letter case.
    pub fn contains(&self, keyword: &str) -> bool {
        self.find(keyword).is_some()
    }

    pub(crate) const fn known(&self) -> Known {
        self.known
    }

    fn noted(mut self) -> Self {
        self.known = Known {
            status_codes: self.contains("ENHANCEDSTATUSCODES"),
            chunking: self.contains("CHUNKING"),
            utf8: self.contains("SMTPUTF8"),
        };
        self
    }

    pub(crate) fn find(&self, keyword: &str) -> Option<&dyn Extension> {
        self.iter()
            .find(|extension| extension.keyword().eq_ignore_ascii_case(keyword))
    }

    /// Removes the extensions that require a missing one, and then those that required them.
    pub(crate) fn complete(mut self) -> Self {
        loop {
            let incomplete =
                |one: &&dyn Extension| one.requires().iter().any(|other| !self.contains(other));
            let Some(keyword) = self
                .iter()
                .find(incomplete)
                .map(|one| one.keyword().to_owned())
            else {
                return self;
            };
            self = self.without_keyword(&keyword);
        }
    }

    /// Returns the extensions in order.
    pub fn iter(&self) -> impl Iterator<Item = &dyn Extension> {
        self.all.iter().map(|extension| &**extension)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(extensions: &Extensions, keyword: &str, value: Option<&str>) -> bool {
        let rules = extensions.iter().flat_map(Extension::mail_parameters);
        crate::parameter::check(rules, keyword, value).is_ok()
    }

    #[test]
    fn binarymime_is_refused_where_it_is_not_offered() {
        let all = Extensions::default();
        let some = Extensions::default().without(Standard::BinaryMime);
        assert!(allows(&all, "BODY", Some("BINARYMIME")) && allows(&all, "BODY", Some("8BITMIME")));
        assert!(!allows(&some, "BODY", Some("BINARYMIME")) && allows(&some, "BODY", Some("7BIT")));
        assert!(!allows(&all, "BODY", Some("NONSENSE")) && !allows(&all, "BODY", None));
    }

    #[test]
    fn an_extension_is_in_the_set_once() {
        let twice = Extensions::default().with(Standard::Dsn);
        assert_eq!(twice.iter().filter(|e| e.keyword() == "DSN").count(), 1);
    }

    #[test]
    fn an_extension_that_lacks_another_is_removed() {
        use crate::extension::Prdr;
        #[derive(Debug)]
        struct OnPrdr;
        impl Extension for OnPrdr {
            fn keyword(&self) -> &str {
                "XONPRDR"
            }
            fn requires(&self) -> &[&str] {
                &["prdr"]
            }
        }
        let all = Extensions::none().with(OnPrdr).with(Prdr);
        let left = |extensions: &Extensions| extensions.clone().complete().iter().count();
        assert_eq!(left(&all), 0);
        let all = Extensions::default().with(OnPrdr).with(Prdr);
        assert_eq!(left(&all), all.iter().count());
        for (extension, others) in [
            (Standard::Pipelining, 2),
            (Standard::Chunking, 1),
            (Standard::EightBitMime, 1),
            (Standard::Dsn, 0),
        ] {
            let some = all.clone().without(extension);
            assert_eq!(left(&some), some.iter().count() - others, "{extension:?}");
        }
    }
}
