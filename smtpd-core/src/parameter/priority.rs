use super::{Parameter, ParameterError};

/// `MT-PRIORITY=` on MAIL: the urgency of the message, from -9 to 9 (RFC 6710 section 3). The default is 0.
///
/// ```
/// use smtpd_core::parameter::{Parameter, Priority};
///
/// assert_eq!(Priority::parse(Some("-4")).map(Priority::value), Ok(-4));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(i8);

impl Priority {
    /// Returns the number. A higher number is more urgent.
    pub const fn value(self) -> i8 {
        self.0
    }
}

impl Parameter for Priority {
    const KEYWORD: &'static str = "MT-PRIORITY";

    fn parse(value: Option<&str>) -> Result<Self, ParameterError> {
        // RFC 6710 section 7: (["-"] NZDIGIT) / "0".
        match value.unwrap_or_default().as_bytes() {
            [b'0'] => Ok(Self(0)),
            [digit @ b'1'..=b'9'] => Ok(Self((digit - b'0') as i8)),
            [b'-', digit @ b'1'..=b'9'] => Ok(Self(-((digit - b'0') as i8))),
            _ => Err(ParameterError::Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        for priority in -9..=9 {
            let text = priority.to_string();
            assert_eq!(Priority::parse(Some(&text)), Ok(Priority(priority)));
        }
        for bad in ["10", "-10", "-0", "+1", "01", "1.0", "high", "-", ""] {
            assert!(Priority::parse(Some(bad)).is_err(), "{bad:?}");
        }
        assert!(Priority::parse(None).is_err());
    }
}
