//! Addresses of the type `utf-8` (RFC 6533 section 3).

use super::{ParameterError, xtext};

/// Decodes `utf-8-addr-xtext` and `utf-8-addr-unitext`: `\x{` and `}` enclose the number of a character in hexadecimal digits.
///
/// `+` and two digits stand for one byte of UTF-8, as in the xtext of every other type: some clients also encode these addresses
/// in this way, and neither form allows `+` to be anything else.
pub(super) fn decode(text: &str) -> Result<String, ParameterError> {
    let bytes = decode_octets(text).ok_or(ParameterError::Malformed)?;
    String::from_utf8(bytes).map_err(|_| ParameterError::Malformed)
}

fn decode_octets(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(xtext::hex_octet(&mut rest)?),
            b'\\' => {
                let c = embedded_char(&mut rest)?;
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            b'=' => return None,
            b'!'..=b'~' | 0x80.. => bytes.push(byte),
            _ => return None,
        }
    }
    Some(bytes)
}

/// Parses what follows the backslash of `EmbeddedUnicodeChar`: two to six digits.
fn embedded_char(rest: &mut impl Iterator<Item = u8>) -> Option<char> {
    let start = [rest.next()?, rest.next()?];
    if !start.eq_ignore_ascii_case(b"x{") {
        return None;
    }
    let (mut number, mut digits) = (0, 0);
    loop {
        match rest.next()? {
            b'}' if digits >= 2 => return char::from_u32(number),
            byte if digits < 6 => number = number << 4 | char::from(byte).to_digit(16)?,
            _ => return None,
        }
        digits += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_of_utf8_addresses_are_decoded() {
        for (text, address) in [
            ("å@example.org", "å@example.org"),
            ("\\x{E5}@example.org", "å@example.org"),
            ("\\x{e5}\\X{1F600}@example.org", "å😀@example.org"),
            ("+C3+A5@example.org", "å@example.org"),
            ("a+2Bb\\x{2B}\\x{3D}\\x{5C}@x", "a+b+=\\@x"),
            ("å\\x{10FFFF}+2b", "å\u{10FFFF}+"),
        ] {
            assert_eq!(decode(text).as_deref(), Ok(address), "{text}");
        }
    }

    #[test]
    fn malformed_forms_are_refused() {
        for text in [
            "a b",
            "a=b",
            "a\\b",
            "a\\",
            "\\x{}",
            "\\x{E}",
            "\\x{E5",
            "\\x{00000E5}",
            "\\x{D800}",
            "\\x{110000}",
            "\\x{+E5}",
            "\\u{E5}",
            "+C3",
            "+C3å",
            "+E",
        ] {
            assert!(decode(text).is_err(), "{text}");
        }
    }
}
