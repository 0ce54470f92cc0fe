//! The parts of a certificate (RFC 5280 section 4.1) that are used in addition to its names.

use std::fmt;

use rustls_pki_types::UnixTime;

use super::der::{
    BIT_STRING, BOOLEAN, Element, GENERALIZED_TIME, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING,
    Reader, SEQUENCE, UTC_TIME, context,
};

/// The parts of a certificate that are used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts<'a> {
    /// The name of the issuer; the value of the `SEQUENCE`.
    pub(super) issuer: &'a [u8],
    /// The name of the subject, in the same form.
    pub(super) subject: &'a [u8],
    pub(super) not_before: Time,
    pub(super) not_after: Time,
    pub(super) key: PublicKey<'a>,
    /// Whether it has name constraints for the certificates that its owner signs (section 4.2.1.10).
    pub(super) constrains_names: bool,
}

/// A public key, with its algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PublicKey<'a> {
    /// The identifier of the algorithm and its parameters.
    pub(super) algorithm: &'a [u8],
    /// The key, in a form that depends on the algorithm.
    pub(super) value: &'a [u8],
}

impl<'a> Parts<'a> {
    /// Reads a whole certificate. Returns `None` if it is damaged, or something follows it.
    pub(super) fn read(der: &'a [u8]) -> Option<Self> {
        let mut all = Reader::new(der);
        let mut certificate = all.enter(SEQUENCE)?;
        let mut tbs = certificate.enter(SEQUENCE)?;
        certificate.read(SEQUENCE)?; // the algorithm of the signature
        bits(&mut certificate)?; // the signature
        if !all.is_empty() || !certificate.is_empty() {
            return None;
        }
        tbs.optional(context(0)); // the version
        tbs.read(INTEGER)?; // the serial number
        tbs.read(SEQUENCE)?; // the algorithm of the signature again
        let issuer = tbs.read(SEQUENCE)?;
        let mut validity = tbs.enter(SEQUENCE)?;
        Some(Self {
            issuer,
            not_before: Time::read(validity.next()?)?,
            not_after: Time::read(validity.next()?)?,
            subject: tbs.read(SEQUENCE)?,
            key: PublicKey::read(tbs.enter(SEQUENCE)?)?,
            constrains_names: constrains_names(tbs)?,
        })
    }
}

impl<'a> PublicKey<'a> {
    fn read(mut info: Reader<'a>) -> Option<Self> {
        Some(Self {
            algorithm: info.read(SEQUENCE)?,
            value: bits(&mut info)?,
        })
    }

    /// Returns whether usual providers can verify signatures of a key of this form, if they know the algorithm at all.
    pub(super) fn is_usual(&self) -> bool {
        match Reader::new(self.algorithm).read(OBJECT_IDENTIFIER) {
            Some(RSA) => self.rsa().is_some_and(|(bytes, exponent)| {
                (256..=1024).contains(&bytes) && (3..1 << 33).contains(&exponent)
            }),
            // RFC 5480 section 2.2: neither compressed nor infinite.
            Some(EC) => self.value.first() == Some(&0x04),
            algorithm => algorithm.is_some(),
        }
    }

    /// Returns how many bytes the modulus of an RSA key has, and its exponent (RFC 8017 appendix A.1.1).
    fn rsa(&self) -> Option<(usize, u64)> {
        let mut key = Reader::new(self.value).enter(SEQUENCE)?;
        let modulus = without_zeros(key.read(INTEGER)?);
        let exponent = without_zeros(key.read(INTEGER)?);
        let add = |sum: u64, &byte: &u8| sum << 8 | u64::from(byte);
        let exponent = (exponent.len() <= 8).then(|| exponent.iter().fold(0, add))?;
        Some((modulus.len(), exponent))
    }
}

/// RFC 8017 appendix A.1.
pub(super) const RSA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 1];
/// RFC 5480 section 2.1.1.
pub(super) const EC: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 2, 1];

/// Returns a number without the leading zeros that mark it as not negative.
pub(super) fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|&&byte| byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// A `BIT STRING` of whole bytes.
pub(super) fn bits<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    match reader.read(BIT_STRING)? {
        [0, bytes @ ..] => Some(bytes),
        _ => None,
    }
}

fn constrains_names(mut rest: Reader<'_>) -> Option<bool> {
    let mut found = false;
    while !rest.is_empty() {
        let field = rest.next()?;
        if field.tag != context(3) {
            continue;
        }
        for extension in Reader::new(field.value).enter(SEQUENCE)?.each(SEQUENCE) {
            let mut extension = extension?;
            found |= extension.read(OBJECT_IDENTIFIER)? == NAME_CONSTRAINTS;
            extension.optional(BOOLEAN);
            extension.read(OCTET_STRING)?;
        }
    }
    Some(found)
}

const NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1D, 0x1E];

/// A time of day (RFC 5280 section 4.1.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Time {
    year: u16,
    month: u8,
    day: u8,
    second: u32,
}

impl Time {
    /// Parses either form: with two digits for the year, or with four.
    pub(super) fn read(element: Element<'_>) -> Option<Self> {
        let (year, rest) = match (element.tag, element.value) {
            (UTC_TIME, [a, b, rest @ ..]) => match two(*a, *b)? {
                year @ 0..50 => (2000 + u16::from(year), rest),
                year => (1900 + u16::from(year), rest),
            },
            (GENERALIZED_TIME, [a, b, c, d, rest @ ..]) => {
                let (century, year) = (two(*a, *b)?, two(*c, *d)?);
                (u16::from(century) * 100 + u16::from(year), rest)
            }
            _ => return None,
        };
        let &[m, n, d, e, h, i, o, p, s, t, b'Z'] = rest else {
            return None;
        };
        let (month, day) = (two(m, n)?, two(d, e)?);
        let clock = [two(h, i)?, two(o, p)?, two(s, t)?].map(u32::from);
        let is_time = (1..=12).contains(&month) && (1..=31).contains(&day);
        (is_time && clock[0] < 24 && clock[1] < 60 && clock[2] < 60).then_some(Self {
            year,
            month,
            day,
            second: clock[0] * 3600 + clock[1] * 60 + clock[2],
        })
    }

    /// Converts the time of a clock to the Gregorian calendar (by the algorithm of Howard Hinnant's `civil_from_days`).
    pub(super) fn of(unix: UnixTime) -> Self {
        let seconds = unix.as_secs();
        let days = seconds / 86_400 + 719_468;
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let from_march = (5 * of_year + 2) / 153;
        let month = if from_march < 10 {
            from_march + 3
        } else {
            from_march - 9
        };
        let day = of_year - (153 * from_march + 2) / 5 + 1;
        let year = year + era * 400 + u64::from(month <= 2);
        Self {
            year: u16::try_from(year).unwrap_or(u16::MAX),
            month: u8::try_from(month).unwrap_or(12),
            day: u8::try_from(day).unwrap_or(31),
            second: u32::try_from(seconds % 86_400).unwrap_or(0),
        }
    }
}

/// Shows only the day.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

/// Parses two digits.
fn two(tens: u8, ones: u8) -> Option<u8> {
    (tens.is_ascii_digit() && ones.is_ascii_digit()).then(|| (tens - b'0') * 10 + (ones - b'0'))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn made() -> Vec<u8> {
        let mut params = CertificateParams::new(["mx.test".to_owned()]).unwrap();
        params.not_before = date_time_ymd(1999, 12, 31);
        params.not_after = date_time_ymd(2050, 1, 2);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_parts_are_read() {
        let der = made();
        let parts = Parts::read(&der).unwrap();
        assert_eq!(parts.issuer, parts.subject);
        assert_eq!(parts.not_before.to_string(), "1999-12-31");
        assert_eq!(parts.not_after.to_string(), "2050-01-02");
        assert!(parts.key.is_usual() && !parts.constrains_names);
    }

    #[test]
    fn what_is_damaged_or_not_alone_is_not_a_certificate() {
        let der = made();
        for end in 0..der.len() {
            assert!(Parts::read(&der[..end]).is_none(), "{end}");
        }
        assert!(Parts::read(&[&der[..], &[0]].concat()).is_none());
        assert!(Parts::read(&[0, 0, 0]).is_none());
        // Whatever the result, it must not panic.
        for at in 0..der.len() {
            for byte in [0x00, 0x17, 0x30, 0x7F, 0x80, 0x84, 0xFF] {
                let mut der = der.clone();
                der[at] = byte;
                let _ = Parts::read(&der).map(|parts| parts.key.is_usual());
            }
        }
    }

    #[test]
    fn times_are_compared_with_the_clock() {
        let read = |tag, value: &str| {
            Time::read(Element {
                tag,
                value: value.as_bytes(),
                whole: &[],
            })
        };
        for (tag, text, seconds) in [
            (UTC_TIME, "700101000000Z", 0),
            (UTC_TIME, "000229235959Z", 951_868_799),
            (GENERALIZED_TIME, "20000301000000Z", 951_868_800),
            (UTC_TIME, "491231235959Z", 2_524_607_999),
            (GENERALIZED_TIME, "20500101000000Z", 2_524_608_000),
            (GENERALIZED_TIME, "99991231235959Z", 253_402_300_799),
        ] {
            let clock = Time::of(UnixTime::since_unix_epoch(Duration::from_secs(seconds)));
            assert_eq!(read(tag, text), Some(clock), "{text}");
        }
        for (tag, text) in [
            (UTC_TIME, "700101000000"),
            (UTC_TIME, "701301000000Z"),
            (UTC_TIME, "70010100000Z"),
            (UTC_TIME, "7O0101000000Z"),
            (UTC_TIME, "20000301000000Z"),
            (GENERALIZED_TIME, "20000301240000Z"),
            (GENERALIZED_TIME, "20000301000000.5Z"),
            (INTEGER, "700101000000Z"),
        ] {
            assert_eq!(read(tag, text), None, "{text}");
        }
    }

    #[test]
    fn keys_of_unusual_forms_are_detected() {
        let rsa = |bytes: usize, exponent: &[u8]| {
            let number = |value: &[u8]| {
                let length = u16::try_from(value.len()).unwrap().to_be_bytes();
                [&[INTEGER, 0x82], &length[..], value].concat()
            };
            let modulus = [&[0][..], &vec![0xC1; bytes]].concat();
            let both = [number(&modulus), number(exponent)].concat();
            let length = u16::try_from(both.len()).unwrap().to_be_bytes();
            [&[SEQUENCE, 0x82], &length[..], &both].concat()
        };
        let identifier =
            |oid: &[u8]| [&[OBJECT_IDENTIFIER, u8::try_from(oid.len()).unwrap()], oid].concat();
        for (algorithm, value, is_usual) in [
            (RSA, rsa(256, &[1, 0, 1]), true),
            (RSA, rsa(1024, &[3]), true),
            (RSA, rsa(255, &[1, 0, 1]), false),
            (RSA, rsa(128, &[1, 0, 1]), false),
            (RSA, rsa(1025, &[1, 0, 1]), false),
            (RSA, rsa(256, &[1]), false),
            (RSA, rsa(256, &[2, 0, 0, 0, 1]), false),
            (RSA, rsa(256, &[7; 9]), false),
            (RSA, vec![], false),
            (EC, vec![4, 1, 2], true),
            (EC, vec![3, 1, 2], false),
            (EC, vec![], false),
            (&[0x2B, 0x65, 0x70], vec![1; 32], true),
        ] {
            let algorithm = identifier(algorithm);
            let key = PublicKey {
                algorithm: &algorithm,
                value: &value,
            };
            assert_eq!(key.is_usual(), is_usual, "{algorithm:x?} {}", value.len());
        }
    }
}
