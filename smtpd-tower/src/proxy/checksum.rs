//! The checksum that a header of version 2 may carry (specification, section 2.2.3).

const KIND: u8 = 0x03;

/// Returns whether the checksum of a whole header is right, or there is none.
pub(super) fn is_right(header: &[u8]) -> bool {
    let Some((before, found, behind)) = split(header) else {
        return true;
    };
    let bytes = before.iter().chain(&[0; 4]).chain(behind);
    crc32c(bytes).to_be_bytes() == found
}

/// Splits a header into what is before its checksum, the checksum, and what follows it.
fn split(header: &[u8]) -> Option<(&[u8], [u8; 4], &[u8])> {
    let addresses = match header.get(13)? >> 4 {
        1 => 12,
        2 => 36,
        3 => 216,
        _ => 0,
    };
    let mut at = 16 + addresses;
    loop {
        let (&[kind, high, low], value) = header.get(at..)?.split_first_chunk()?;
        if kind == KIND {
            let (found, behind) = value.split_first_chunk()?;
            return Some((header.get(..at + 3)?, *found, behind));
        }
        at += 3 + usize::from(u16::from_be_bytes([high, low]));
    }
}

/// CRC-32C, byte by byte (RFC 4960 appendix B): headers are short and few.
fn crc32c<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let crc = bytes.fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            let carry = if crc & 1 == 1 { POLYNOMIAL } else { 0 };
            crc >> 1 ^ carry
        })
    });
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_checksums() {
        assert_eq!(crc32c(b"123456789".iter()), 0xe306_9283);
        // RFC 3720 appendix B.4.
        assert_eq!(crc32c([0; 32].iter()), 0x8a91_36aa);
    }

    #[test]
    fn a_header_as_haproxy_sends_it() {
        let header = b"\r\n\r\n\0\r\nQUIT\n!\x11\0|\x7f\0\0\x01\x7f\0\0\x01\x86\x9c\xb2;\x03\0\x04\xc4\xcb\x99<\
            \x02\0\x0emx.example.org\x05\0\x0e-7F000001-869C \0D\x01\0\0\0\0!\0\x07TLSv1.3%\0\x05EC256\
            $\0\x11ecdsa-with-SHA256#\0\x16TLS_AES_256_GCM_SHA384";
        assert_eq!(split(header).unwrap().1, [0xc4, 0xcb, 0x99, b'<']);
        assert!(is_right(header));
        for at in (16..28).chain(31..header.len()) {
            let mut other = header.to_vec();
            other[at] ^= 1;
            assert!(!is_right(&other), "byte {at}");
        }
    }

    #[test]
    fn no_length_leads_out_of_the_header() {
        let start = b"\r\n\r\n\0\r\nQUIT\n\x21\x00\x00\x00";
        for tail in [
            &b""[..],
            b"\x03",
            b"\x03\x00\x04abc",
            b"\x04\xff\xff",
            b"\x04\x00\x00\x03",
        ] {
            assert!(is_right(&[&start[..], tail].concat()), "{tail:?}");
        }
        assert!(is_right(b"\r\n"));
        let wrong = [&start[..], b"\x04\x00\x01x\x03\x00\x04abcd"].concat();
        assert!(!is_right(&wrong));
    }
}
