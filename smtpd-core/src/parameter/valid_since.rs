use super::{DateTime, Parameter, ParameterError, date_time::Written};

/// `RRVS=` on RCPT: the time since which the mailbox must have had the same owner (RFC 7293 section 3.1).
///
/// ```
/// use smtpd_core::parameter::{NoSupport, Parameter, ValidSince};
///
/// let since = ValidSince::parse(Some("2014-04-03T23:01:00Z;C"))?;
/// assert_eq!(since.time().to_string(), "2014-04-03T23:01:00Z");
/// assert_eq!(since.no_support(), NoSupport::Continue);
/// # Ok::<(), smtpd_core::parameter::ParameterError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ValidSince {
    time: DateTime,
    no_support: NoSupport,
}

/// What a relay should do with a message if the next server does not support RRVS (RFC 7293 section 5.1.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NoSupport {
    /// `R`: reject the message.
    #[default]
    Reject,
    /// `C`: continue without the parameter.
    Continue,
}

impl ValidSince {
    /// Returns the time since which the mailbox must have had the same owner.
    pub const fn time(self) -> DateTime {
        self.time
    }

    /// Returns what to do if the next server does not support RRVS.
    pub const fn no_support(self) -> NoSupport {
        self.no_support
    }
}

impl Parameter for ValidSince {
    const KEYWORD: &'static str = "RRVS";

    fn parse(value: Option<&str>) -> Result<Self, ParameterError> {
        let value = value.unwrap_or_default();
        let (time, no_support) = match value.split_once(';') {
            None => (value, NoSupport::Reject),
            Some((time, "R" | "r")) => (time, NoSupport::Reject),
            Some((time, "C" | "c")) => (time, NoSupport::Continue),
            Some(_) => return Err(ParameterError::Malformed),
        };
        // RFC 7293 section 3.1: no time-secfrac.
        let written = Written::parse(time)
            .filter(|written| !written.has_fraction)
            .ok_or(ParameterError::Malformed)?;
        Ok(Self {
            time: written.time,
            no_support,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{NoSupport::*, *};

    #[test]
    fn values() {
        for (value, expected) in [
            ("2014-04-03T23:01:00Z", Some((1_396_566_060, Reject))),
            ("2014-04-03T23:01:00Z;R", Some((1_396_566_060, Reject))),
            ("2014-04-03T23:01:00Z;c", Some((1_396_566_060, Continue))),
            (
                "2014-04-03T23:01:00-01:00;C",
                Some((1_396_569_660, Continue)),
            ),
            ("2014-04-03T23:01:00.5Z", None),
            ("2014-04-03T23:01:00Z;", None),
            ("2014-04-03T23:01:00Z;X", None),
            ("2014-04-03T23:01:00Z;CR", None),
            ("2014-04-03T23:01:00Z;C;R", None),
            ("2014-04-03", None),
            (";C", None),
            ("", None),
        ] {
            let since = ValidSince::parse(Some(value)).ok();
            let since = since.map(|since| (since.time().unix_seconds(), since.no_support()));
            assert_eq!(since, expected, "{value:?}");
        }
        assert!(ValidSince::parse(None).is_err());
    }
}
