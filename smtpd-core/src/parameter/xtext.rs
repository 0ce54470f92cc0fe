use super::ParameterError;

/// Decodes xtext (RFC 3461 section 4), which stands for UTF-8 here.
pub(crate) fn decode(text: &str) -> Result<String, ParameterError> {
    let bytes = decode_octets(text.as_bytes()).ok_or(ParameterError::Malformed)?;
    String::from_utf8(bytes).map_err(|_| ParameterError::Malformed)
}

/// Decodes xtext: `+` and two hexadecimal digits stand for one byte. Returns `None` if it is not xtext.
///
/// RFC 3461 section 4 requires upper-case digits. Exim sent lower-case ones until 2018, and they are unambiguous.
pub(crate) fn decode_octets(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter().copied();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => hex_octet(&mut rest)?,
            b'=' => return None,
            b'!'..=b'~' => byte,
            _ => return None,
        });
    }
    Some(bytes)
}

/// Returns how many characters a text has as xtext.
pub(super) fn encoded_len(text: &str) -> usize {
    let is_plain = |byte: u8| matches!(byte, b'!'..=b'~') && byte != b'+' && byte != b'=';
    let len = |byte| if is_plain(byte) { 1 } else { "+XX".len() };
    text.bytes().map(len).sum()
}

/// Returns the byte that the next two digits stand for.
pub(super) fn hex_octet(digits: &mut impl Iterator<Item = u8>) -> Option<u8> {
    let mut digit = || char::from(digits.next()?).to_digit(16);
    let (high, low) = (digit()?, digit()?);
    u8::try_from(high << 4 | low).ok()
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
            ("a+2", None),
            ("a+2g", None),
            ("a+ 2", None),
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

    #[test]
    fn digits_in_lower_case_are_accepted() {
        for (text, expected) in [("a+2bb+3dc", "a+b=c"), ("+c3+a9", "é"), ("+C3+a9", "é")] {
            assert_eq!(decode(text).as_deref(), Ok(expected), "{text:?}");
        }
    }
}
