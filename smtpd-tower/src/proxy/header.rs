use std::{error::Error, fmt, io};

use proxy_header::{ParseConfig, Protocol, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{ProxyInfo, ProxyVersion, checksum};

const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The shortest header is `PROXY UNKNOWN` CRLF; no header of version 2 is shorter than [`V2_FIXED`].
const SHORTEST: usize = 15;
/// Specification, section 2.1: the longest header of version 1, with its CRLF.
const V1_LONGEST: usize = 107;
/// Signature, version and command, family, length.
const V2_FIXED: usize = 16;
/// Section 2.2 requires at least 536; certificates in TLVs need more.
const V2_LONGEST: usize = 4096;
/// Version 2 with the command LOCAL: the proxy itself, not a client.
const LOCAL: u8 = 0x20;

/// Reads a header from the connection, and not one byte more.
pub(super) async fn read<IO: AsyncRead + Unpin>(io: &mut IO) -> io::Result<ProxyInfo> {
    let mut header = Vec::with_capacity(V1_LONGEST);
    loop {
        match missing(&header)? {
            0 => return Ok(parse(&header)?),
            bytes => {
                let mut some = (&mut *io).take(bytes as u64);
                if some.read_buf(&mut header).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
    }
}

/// Parses a whole header.
pub(super) fn parse(header: &[u8]) -> Result<ProxyInfo, ProxyHeaderError> {
    if missing(header)? != 0 {
        return Err(ProxyHeaderError::new(Kind::Malformed, header));
    }
    let version = match header.starts_with(V2) {
        true => ProxyVersion::V2,
        false => ProxyVersion::V1,
    };
    // Section 2.2: the content of a LOCAL header must be ignored.
    if version == ProxyVersion::V2 && header.get(V2.len()) == Some(&LOCAL) {
        return Ok(ProxyInfo::local());
    }
    let malformed = |_| ProxyHeaderError::new(Kind::Malformed, header);
    let (parsed, len) = ProxyHeader::parse(header, ParseConfig::default()).map_err(malformed)?;
    let is_exact = version == ProxyVersion::V2 || is_exact_v1(header);
    if len != header.len() || !is_exact || !is_sound(&parsed) {
        return Err(ProxyHeaderError::new(Kind::Malformed, header));
    }
    if version == ProxyVersion::V2 && !checksum::is_right(header) {
        return Err(ProxyHeaderError::new(Kind::Checksum, header));
    }
    Ok(ProxyInfo::new(version, parsed.into_owned()))
}

/// Returns whether a line of version 1 follows section 2.1 exactly, because the parser is more tolerant: `UNKNOWN` must be a word
/// of its own, and ports are digits without a sign or leading zeros.
fn is_exact_v1(header: &[u8]) -> bool {
    let line = header.strip_suffix(b"\r\n").unwrap_or(header);
    let mut words = line.split(|&byte| byte == b' ');
    let is_number = |word: &[u8]| {
        word == b"0"
            || matches!(word, [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit))
    };
    match words.nth(1) {
        // What follows is ignored.
        Some(b"UNKNOWN") => true,
        Some(b"TCP4" | b"TCP6") => words.skip(2).all(is_number),
        _ => false,
    }
}

/// Returns whether it is about a stream, and every field in it can be read.
fn is_sound(header: &ProxyHeader<'_>) -> bool {
    let is_stream = header
        .proxied_address()
        .is_none_or(|addresses| addresses.protocol == Protocol::Stream);
    is_stream
        && header.tlvs().all(|field| field.is_ok())
        && header
            .ssl()
            .is_none_or(|tls| tls.tlvs().all(|field| field.is_ok()))
}

/// Returns the least number of bytes that the header still lacks; 0 if it is complete.
fn missing(header: &[u8]) -> Result<usize, ProxyHeaderError> {
    if !begins_as(header, V1) && !begins_as(header, V2) {
        return Err(ProxyHeaderError::new(Kind::None, header));
    }
    if header.len() < SHORTEST {
        return Ok(SHORTEST - header.len());
    }
    let missing = if header.starts_with(V1) {
        missing_v1(header)
    } else {
        missing_v2(header)
    };
    missing.map_err(|kind| ProxyHeaderError::new(kind, header))
}

fn missing_v1(header: &[u8]) -> Result<usize, Kind> {
    let (line, end) = match header
        .iter()
        .position(|&byte| byte == b'\r' || byte == b'\n')
    {
        Some(at) => header.split_at(at),
        None => (header, &[][..]),
    };
    match end {
        b"" | b"\r" | b"\r\n" if line.len() + 2 > V1_LONGEST => Err(Kind::TooLong),
        b"" | b"\r" | b"\r\n" => Ok(2 - end.len()),
        _ => Err(Kind::Malformed),
    }
}

fn missing_v2(header: &[u8]) -> Result<usize, Kind> {
    let Some(&[high, low]) = header.get(V2_FIXED - 2..V2_FIXED) else {
        return Ok(V2_FIXED - header.len());
    };
    let whole = V2_FIXED + usize::from(u16::from_be_bytes([high, low]));
    if whole > V2_LONGEST {
        return Err(Kind::TooLong);
    }
    whole.checked_sub(header.len()).ok_or(Kind::Malformed)
}

fn begins_as(header: &[u8], signature: &[u8]) -> bool {
    header.iter().zip(signature).all(|(a, b)| a == b)
}

/// An error of reading a PROXY header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyHeaderError {
    kind: Kind,
    start: Box<[u8]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    None,
    Malformed,
    TooLong,
    Checksum,
}

impl ProxyHeaderError {
    fn new(kind: Kind, header: &[u8]) -> Self {
        const SHOWN: usize = 64;
        Self {
            kind,
            start: header.iter().take(SHOWN).copied().collect(),
        }
    }

    /// Returns whether a header has begun.
    pub fn is_malformed(&self) -> bool {
        self.kind != Kind::None
    }
}

impl fmt::Display for ProxyHeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::None => "no PROXY header",
            Kind::Malformed => "malformed PROXY header",
            Kind::TooLong => "PROXY header too long",
            Kind::Checksum => "PROXY header with a wrong checksum",
        })?;
        write!(f, ": {}", self.start.escape_ascii())
    }
}

impl Error for ProxyHeaderError {}

impl From<ProxyHeaderError> for io::Error {
    fn from(error: ProxyHeaderError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [V2, &[command, family], &len, rest].concat()
    }

    const ADDRESSES: &[u8] = &[192, 0, 2, 1, 192, 0, 2, 9, 0x12, 0x67, 0, 25];

    /// All valid headers, with the client that each names.
    fn good() -> Vec<(Vec<u8>, Option<&'static str>)> {
        let v6 = [&[0x20, 1][..], &[0; 29], &[9, 0x12, 0x67, 0, 25]].concat();
        let text = |line: &str| line.as_bytes().to_vec();
        vec![
            (
                text("PROXY TCP4 192.0.2.1 192.0.2.9 4711 25\r\n"),
                Some("192.0.2.1:4711"),
            ),
            (
                text("PROXY TCP6 2001:: ::9 4711 25\r\n"),
                Some("[2001::]:4711"),
            ),
            (
                text("PROXY TCP6 ::ffff:192.0.2.1 ::9 1 25\r\n"),
                Some("[::ffff:192.0.2.1]:1"),
            ),
            (text("PROXY UNKNOWN\r\n"), None),
            (
                text(&format!(
                    "PROXY UNKNOWN {} 65535 65535\r\n",
                    ["ffff:"; 15].concat() + "ffff"
                )),
                None,
            ),
            (v2(0x21, 0x11, ADDRESSES), Some("192.0.2.1:4711")),
            (v2(0x21, 0x21, &v6), Some("[2001::]:4711")),
            (v2(0x21, 0x31, &[b'x'; 216]), None),
            (v2(0x21, 0x00, b""), None),
            (v2(0x20, 0x00, b""), None),
            (v2(0x20, 0xff, b"anything"), None),
            (v2(0x20, 0x11, ADDRESSES), None),
            (
                v2(
                    0x21,
                    0x11,
                    &[ADDRESSES, b"\x04\x00\x02xx\xea\x00\x01y"].concat(),
                ),
                Some("192.0.2.1:4711"),
            ),
            (
                v2(
                    0x21,
                    0x11,
                    &[ADDRESSES, &[4, 0x0f, 0xe1], &[0; 4065]].concat(),
                ),
                Some("192.0.2.1:4711"),
            ),
        ]
    }

    /// Invalid headers, each up to the first byte that shows it.
    fn bad() -> Vec<(Vec<u8>, Kind)> {
        let text = |line: &str| line.as_bytes().to_vec();
        let field = |field: &[u8]| v2(0x21, 0x11, &[ADDRESSES, field].concat());
        vec![
            (text("EHLO client.example\r\n"), Kind::None),
            (text("\r\n\r\n\r\n"), Kind::None),
            (text("\x16\x03\x01"), Kind::None),
            (
                text("proxy TCP4 192.0.2.1 192.0.2.9 4711 25\r\n"),
                Kind::None,
            ),
            (text("PROXY\tUNKNOWN\r\n"), Kind::None),
            (text("PROXY X\r\nEHLO a\r\n"), Kind::Malformed),
            (text("PROXY UNKNOWN\nEHLO\r\n"), Kind::Malformed),
            (text("PROXY UNKNOWN \rx\r\n"), Kind::Malformed),
            (
                text("PROXY TCP5 192.0.2.1 192.0.2.9 4711 25\r\n"),
                Kind::Malformed,
            ),
            (text("PROXY TCP4 2001:: ::9 4711 25\r\n"), Kind::Malformed),
            (
                text("PROXY TCP4 192.0.2.1 192.0.2.9 4711\r\n"),
                Kind::Malformed,
            ),
            (
                text("PROXY TCP4 192.0.2.1 192.0.2.9 70000 25\r\n"),
                Kind::Malformed,
            ),
            (
                text("PROXY TCP4  192.0.2.1 192.0.2.9 4711 25\r\n"),
                Kind::Malformed,
            ),
            (
                text(&format!("PROXY UNKNOWN {}\r\n", "x".repeat(92))),
                Kind::TooLong,
            ),
            (v2(0x11, 0x11, ADDRESSES), Kind::Malformed),
            (v2(0x22, 0x11, ADDRESSES), Kind::Malformed),
            (v2(0x21, 0x12, ADDRESSES), Kind::Malformed),
            (v2(0x21, 0x41, ADDRESSES), Kind::Malformed),
            (v2(0x21, 0x11, &ADDRESSES[1..]), Kind::Malformed),
            (v2(0x21, 0x21, ADDRESSES), Kind::Malformed),
            (v2(0x21, 0x31, ADDRESSES), Kind::Malformed),
            (field(b"\x04"), Kind::Malformed),
            (field(b"\x04\x00\x02x"), Kind::Malformed),
            (field(b"\x02\x00\x01\xff"), Kind::Malformed),
            (field(b"\x20\x00\x04xxxx"), Kind::Malformed),
            (
                field(b"\x20\x00\x08\x01\0\0\0\0\x21\x00\x09"),
                Kind::Malformed,
            ),
            (field(b"\x03\x00\x04abcd"), Kind::Checksum),
            (v2(0x21, 0x11, &[0; 4081]), Kind::TooLong),
        ]
    }

    #[tokio::test]
    async fn a_header_is_read_in_any_chunks_and_nothing_after_it() {
        for (header, source) in good() {
            for behind in ["", "EHLO client.example\r\n", "\r\n", "PROXY UNKNOWN\r\n"] {
                for size in [1, 2, 3, 7, 10_000] {
                    let mut io = tokio_test::io::Builder::new();
                    for chunk in header.chunks(size) {
                        io.read(chunk);
                    }
                    let mut io = AsyncReadExt::chain(io.build(), behind.as_bytes());
                    let info = read(&mut io).await.unwrap();
                    let expected = source.map(|source| source.parse().unwrap());
                    assert_eq!(info.source(), expected);
                    let mut left = String::new();
                    io.read_to_string(&mut left).await.unwrap();
                    assert_eq!(left, behind);
                }
            }
            let whole = [&header[..], b"EHLO client.example\r\n"].concat();
            let mut io = &whole[..];
            read(&mut io).await.unwrap();
            assert_eq!(io, b"EHLO client.example\r\n", "at once");
        }
    }

    #[test]
    fn a_port_with_a_sign_or_leading_zeros_is_invalid() {
        for ports in ["+4711 25", "4711 +25", "04711 25", "4711 025", "00 0"] {
            let header = format!("PROXY TCP4 192.0.2.1 192.0.2.9 {ports}\r\n");
            let error = parse(header.as_bytes()).unwrap_err();
            assert_eq!(error.kind, Kind::Malformed, "{ports}");
        }
        assert!(parse(b"PROXY TCP4 192.0.2.1 192.0.2.9 0 65535\r\n").is_ok());
        // What follows UNKNOWN is ignored.
        assert!(parse(b"PROXY UNKNOWN +1 02\r\n").is_ok());
    }

    #[test]
    fn a_word_that_begins_with_unknown_is_another_word() {
        for line in [
            "PROXY UNKNOWNX\r\n",
            "PROXY UNKNOWN4 a b 1 2\r\n",
            "PROXY UNKNOWN\t1\r\n",
        ] {
            let error = parse(line.as_bytes()).unwrap_err();
            assert_eq!(error.kind, Kind::Malformed, "{line}");
        }
    }

    #[tokio::test]
    async fn what_is_not_a_header_is_refused_as_soon_as_it_shows() {
        for (bytes, kind) in bad() {
            let shown = bytes.escape_ascii().to_string();
            assert_eq!(parse(&bytes).unwrap_err().kind, kind, "{shown}");
            // More never arrives, so it must not be waited for.
            let (mut far, mut io) = tokio::io::duplex(5000);
            tokio::io::AsyncWriteExt::write_all(&mut far, &bytes)
                .await
                .unwrap();
            let error = read(&mut io).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{shown}");
        }
    }

    #[tokio::test]
    async fn a_header_that_ends_too_early_is_none() {
        for (header, _) in good() {
            for len in 0..header.len().min(300) {
                let mut io = &header[..len];
                let error = read(&mut io).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
                assert!(parse(&header[..len]).is_err());
            }
        }
    }

    #[test]
    fn errors_show_what_came_and_no_control_character() {
        let error = parse(b"EHLO a\x1b[2J\r\n").unwrap_err();
        assert_eq!(error.to_string(), "no PROXY header: EHLO a\\x1b[2J\\r\\n");
        assert!(!error.is_malformed());
        let long = [V1, &[b'x'; 200]].concat();
        assert_eq!(
            parse(&long).unwrap_err().to_string().len(),
            64 + "PROXY header too long: ".len()
        );
    }
}
