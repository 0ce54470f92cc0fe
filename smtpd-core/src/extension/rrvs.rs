use super::Extension;
use crate::parameter::{ParameterRule, ValidSince};

/// RRVS (RFC 7293): [`RRVS=`](ValidSince) on RCPT, the time since which the mailbox must have had the same owner.
///
/// If you enable it, your RCPT service must reject recipients whose mailbox has changed hands since then, with 550 5.7.17
/// (sections 5.1 and 15.3).
///
/// ```
/// use smtpd_core::extension::{Extensions, Rrvs};
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
    fn extra_bytes(&self) -> usize {
        33
    }
}
