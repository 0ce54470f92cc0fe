use super::{Parameter, ParameterError};

/// `BY=` on MAIL: the time in seconds within which the message must be delivered (RFC 2852 section 4).
///
/// ```
/// use smtpd_core::parameter::{By, ByMode, Parameter};
///
/// let by = By::parse(Some("120;RT"))?;
/// assert_eq!(
///     (by.seconds(), by.mode(), by.is_traced()),
///     (120, ByMode::Return, true)
/// );
/// # Ok::<(), smtpd_core::parameter::ParameterError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct By {
    seconds: i32,
    mode: ByMode,
    trace: bool,
}

/// What to do with a message that is late (RFC 2852 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ByMode {
    /// `N`: notify the sender, and continue to deliver the message.
    Notify,
    /// `R`: return it to the sender.
    Return,
}

impl By {
    /// The maximum number of seconds.
    pub const MAX_SECONDS: u32 = 999_999_999;

    /// Returns the seconds, counted from MAIL. They are zero or negative only with [`ByMode::Notify`], if the message is late
    /// already.
    pub const fn seconds(self) -> i32 {
        self.seconds
    }

    /// Returns what to do if the message is late.
    pub const fn mode(self) -> ByMode {
        self.mode
    }

    /// Returns whether each relay should notify the sender (RFC 2852 section 4.1.4).
    pub const fn is_traced(self) -> bool {
        self.trace
    }
}

impl Parameter for By {
    const KEYWORD: &'static str = "BY";

    fn parse(value: Option<&str>) -> Result<Self, ParameterError> {
        let by = parse(value.unwrap_or_default()).ok_or(ParameterError::Malformed)?;
        // RFC 2852 section 4: zero or less with R is a syntax error.
        if by.mode == ByMode::Return && by.seconds <= 0 {
            return Err(ParameterError::Malformed);
        }
        Ok(by)
    }
}

fn parse(value: &str) -> Option<By> {
    let (time, rest) = value.split_once(';')?;
    let digits = time.strip_prefix(['+', '-']).unwrap_or(time);
    if !(1..=9).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (mode, trace) = match rest.as_bytes() {
        [mode] => (mode, false),
        [mode, b'T' | b't'] => (mode, true),
        _ => return None,
    };
    let mode = match mode {
        b'N' | b'n' => ByMode::Notify,
        b'R' | b'r' => ByMode::Return,
        _ => return None,
    };
    Some(By {
        seconds: time.parse().ok()?,
        mode,
        trace,
    })
}

#[cfg(test)]
mod tests {
    use super::{ByMode::*, *};

    #[test]
    fn values() {
        let cases = [
            ("120;R", Some((120, Return, false))),
            ("120;r", Some((120, Return, false))),
            ("+120;NT", Some((120, Notify, true))),
            ("-999999999;nt", Some((-999_999_999, Notify, true))),
            ("0;N", Some((0, Notify, false))),
            ("0;R", None),
            ("-1;R", None),
            ("1000000000;N", None),
            ("120", None),
            ("120;", None),
            ("120;X", None),
            ("120;RTT", None),
            ("120;TR", None),
            ("+;N", None),
            (";N", None),
            ("+-1;N", None),
            ("1.5;N", None),
            ("", None),
        ];
        for (value, expected) in cases {
            let by = By::parse(Some(value)).ok();
            let by = by.map(|by| (by.seconds(), by.mode(), by.is_traced()));
            assert_eq!(by, expected, "{value:?}");
        }
        assert!(By::parse(None).is_err());
    }
}
