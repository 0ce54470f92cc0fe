//! Base64 as RFC 4954 section 4 requires it: strict, nothing ignored.

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::SaslError;

/// Decodes a response. Padding is required. Stray bits, white space and anything else outside the alphabet are rejected.
pub(super) fn decode(encoded: &[u8]) -> Result<Zeroizing<Vec<u8>>, SaslError> {
    // Allocated once: a buffer that grows would leave copies of a password behind.
    let mut decoded = Zeroizing::new(vec![0; encoded.len().div_ceil(4) * 3]);
    let len = STANDARD
        .decode_slice(encoded, &mut decoded)
        .map_err(|_| SaslError::Base64)?;
    decoded.truncate(len);
    Ok(decoded)
}

/// Encodes the bytes.
#[cfg(feature = "scram")]
pub(super) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Encodes a secret.
#[cfg(feature = "client")]
pub(super) fn encode_secret(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut encoded = Zeroizing::new(vec![0; bytes.len().div_ceil(3) * 4]);
    // The space is exactly what is needed.
    let len = STANDARD.encode_slice(bytes, &mut encoded);
    encoded.truncate(len.unwrap_or_default());
    encoded
}

/// Appends the encoded bytes to `line`.
pub(super) fn encode_into(bytes: &[u8], line: &mut Vec<u8>) {
    line.extend_from_slice(STANDARD.encode(bytes).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_decoding() {
        let good: [(&str, &[u8]); 5] = [
            ("", b""),
            ("AA==", b"\0"),
            ("Zm8=", b"fo"),
            ("Zm9v", b"foo"),
            ("+/+/", b"\xfb\xff\xbf"),
        ];
        for (encoded, want) in good {
            assert_eq!(
                decode(encoded.as_bytes()).unwrap().as_slice(),
                want,
                "{encoded}"
            );
            let mut line = b"334 ".to_vec();
            encode_into(want, &mut line);
            assert_eq!(line, format!("334 {encoded}").into_bytes());
            #[cfg(feature = "client")]
            assert_eq!(encode_secret(want).as_slice(), encoded.as_bytes());
        }
        let bad = [
            "!!!!",
            "=AAA",
            "AAA=BBB",
            "AGFsaWNl*",
            "=",
            "==",
            "====",
            "*",
            "A",
            "AA",
            "AAA",
            "AA=",
            "AAAAA",
            "AAAA=",
            "AA==AA==",
            "Zm9v ",
            " Zm9v",
            "Zm9v\r\n",
            "Zm\n9v",
            "Zm9v\0",
            "-_-_",
            "AB==",
            "AAB=",
            "Zm\u{e9}",
        ];
        for encoded in bad {
            assert_eq!(
                decode(encoded.as_bytes()).unwrap_err(),
                SaslError::Base64,
                "{encoded:?}"
            );
        }
    }
}
