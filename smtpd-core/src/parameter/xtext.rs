use super::ParameterError;

/// Undoes xtext: `+` and two upper-case hexadecimal digits stand for one octet (RFC 3461 section 4).
pub(crate) fn decode(text: &str) -> Result<String, ParameterError> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        octets.push(match octet {
            b'+' => match (rest.next().and_then(hex), rest.next().and_then(hex)) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return Err(ParameterError::Malformed),
            },
            b'=' => return Err(ParameterError::Malformed),
            b'!'..=b'~' => octet,
            _ => return Err(ParameterError::Malformed),
        });
    }
    String::from_utf8(octets).map_err(|_| ParameterError::Malformed)
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xtext_is_decoded() {
        let cases = [
            ("", Some("")),
            ("abc", Some("abc")),
            ("a+2Bb+3Dc", Some("a+b=c")),
            ("+C3+A9", Some("é")),
            ("a+2b", None),
            ("a+2", None),
            ("+", None),
            ("a b", None),
            ("a=b", None),
            ("é", None),
            ("+FF", None),
        ];
        for (text, expected) in cases {
            assert_eq!(decode(text).ok().as_deref(), expected, "{text:?}");
        }
    }
}
