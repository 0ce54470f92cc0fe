use super::Extension;
use crate::parameter::{ParameterRule, ValidSince};

/// RRVS (RFC 7293): [`RRVS=`](ValidSince) on RCPT, since when the mailbox must have belonged to one owner.
///
/// Who turns it on has to refuse recipients whose mailbox has changed hands since, with 550 5.7.17 (sections 5.1 and 15.3).
///
/// ```
/// use smtpd_core::{Extensions, extension::Rrvs};
///
/// assert!(Extensions::default().with(Rrvs).contains("RRVS"));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Rrvs;

impl Extension for Rrvs {
    fn keyword(&self) -> &str {
        "RRVS"
    }

    fn rcpt_parameters(&self) -> &[ParameterRule] {
        &[const { ParameterRule::of::<ValidSince>() }]
    }

    /// RFC 7293 section 3.1.
    fn extra_octets(&self) -> usize {
        33
    }
}
