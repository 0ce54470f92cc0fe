use std::borrow::Cow;

use super::{Extension, SessionFacts};
use crate::{
    parameter::{ParameterRule, Parameters, Solicit, is_solicitation},
    reply::{Code, Reply, Status},
};

/// NO-SOLICITING (RFC 3865): [`SOLICIT=`](Solicit) on MAIL, the classes of advertising that the message belongs to.
///
/// ```
/// use smtpd_core::extension::{Extensions, NoSoliciting};
///
/// let none = NoSoliciting::refusing(["net.example:ADV"]).unwrap();
/// assert!(Extensions::default().with(none).contains("NO-SOLICITING"));
/// assert!(NoSoliciting::refusing(["no word"]).is_none());
/// ```
#[derive(Clone, Debug, Default)]
pub struct NoSoliciting {
    keywords: Vec<String>,
}

impl NoSoliciting {
    /// The space in a reply line (RFC 5321 section 4.5.3.1.5).
    const MAX_ANNOUNCED: usize = 480;

    /// Creates the extension without rejected classes: every class is accepted and passed to the services. There is no default
    /// class (RFC 3865 section 2.8).
    pub const fn new() -> Self {
        Self {
            keywords: Vec::new(),
        }
    }

    /// Creates the extension with classes to reject. They are announced, and MAIL with one of them is rejected with 550 5.7.1
    /// (RFC 3865 section 2.4). Returns `None` if one of them is not a solicitation class keyword, or if together they exceed 480
    /// bytes.
    pub fn refusing<T: Into<String>>(keywords: impl IntoIterator<Item = T>) -> Option<Self> {
        let keywords: Vec<_> = keywords.into_iter().map(Into::into).collect();
        let text = keywords.join(",");
        (is_solicitation(&text) && text.len() <= Self::MAX_ANNOUNCED).then_some(Self { keywords })
    }
}

impl Extension for NoSoliciting {
    fn keyword(&self) -> &str {
        "NO-SOLICITING"
    }

    fn announcement(&self, _: SessionFacts<'_>) -> Cow<'_, str> {
        self.keywords.join(",").into()
    }

    fn mail_parameters(&self) -> &[ParameterRule] {
        &[const { ParameterRule::of::<Solicit>() }]
    }

    fn check_mail(&self, parameters: &Parameters, _: SessionFacts<'_>) -> Result<(), Reply> {
        let Some(solicit) = parameters.get::<Solicit>() else {
            return Ok(());
        };
        let refused: Vec<_> = self
            .keywords
            .iter()
            .filter(|own| {
                solicit
                    .keywords()
                    .any(|word| own.eq_ignore_ascii_case(word))
            })
            .map(String::as_str)
            .collect();
        if refused.is_empty() {
            return Ok(());
        }
        // RFC 3865 section 2.4: the reply names the classes that matched.
        let text = format!("SOLICIT={}", refused.join(","));
        Err(Reply::new(Code::MAILBOX_UNAVAILABLE, Status::DENIED, text))
    }

    /// RFC 3865 section 4.1.
    fn extra_bytes(&self) -> usize {
        1007
    }
}
