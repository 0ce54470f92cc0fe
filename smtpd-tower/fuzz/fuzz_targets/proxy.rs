//! PROXY headers of both versions: read as a simple reading of the specification has it, in any pieces, and not a byte more.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use smtpd_tower::{
    fuzzing,
    proxy::{ProxyInfo, ProxyVersion},
};
use smtpd_tower_fuzz::{Wire, block_on};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const LONGEST: usize = 4096;

fuzz_target!(|input: &[u8]| {
    let (whole, taken) = read(input, usize::MAX);
    for cut in [1, 1 + input.len() % 7] {
        let (pieces, taken_in_pieces) = read(input, cut);
        assert_eq!(pieces, whole);
        // A refusal need not read all of it.
        assert!(pieces.is_err() || taken_in_pieces == taken);
    }
    match whole {
        Ok(info) => {
            assert!(taken <= LONGEST);
            let header = &input[..taken];
            assert_eq!(ProxyInfo::parse(header).as_ref(), Ok(&info));
            check(&info, header);
        }
        Err(_) => {
            if let Err(error) = ProxyInfo::parse(input) {
                let shown = error.to_string();
                assert!(
                    shown.len() < 320 && shown.bytes().all(|byte| (b' '..=b'~').contains(&byte))
                );
            } else {
                panic!("a whole header that the server does not read");
            }
        }
    }
    if input.len() <= LONGEST {
        let header = [SIGNATURE, &[0x21], input].concat();
        if let Ok(info) = ProxyInfo::parse(&header) {
            check(&info, &header);
        }
    }
});

/// Reads a header off a connection. Returns what it says, if it is one, and how many bytes were read.
fn read(input: &[u8], piece: usize) -> (Result<ProxyInfo, std::io::ErrorKind>, usize) {
    let mut io = Wire::new(input, piece);
    let info = block_on(fuzzing::read_proxy_header(&mut io));
    let taken = input.len() - io.rest().len();
    (info.map_err(|error| error.kind()), taken)
}

fn check(info: &ProxyInfo, header: &[u8]) {
    match info.version() {
        ProxyVersion::V1 => check_v1(info, header),
        ProxyVersion::V2 => check_v2(info, header),
        other => panic!("{other:?}"),
    }
    // What is copied into a log must not be endless.
    assert!(format!("{info:?}").len() <= 400 + 8 * header.len());
}

/// Section 2.1: five words, each after one space, with addresses of the same family and numbers in decimal.
fn check_v1(info: &ProxyInfo, header: &[u8]) {
    let line = header.strip_suffix(b"\r\n").expect("a line");
    assert!(header.len() <= 107 && !line.contains(&b'\r') && !line.contains(&b'\n'));
    let words: Vec<_> = line.split(|&byte| byte == b' ').collect();
    let unknown = words[1] == b"UNKNOWN";
    assert!(!info.is_local());
    if unknown {
        assert_eq!((info.source(), info.destination()), (None, None));
    } else {
        let [
            b"PROXY",
            family,
            source,
            destination,
            source_port,
            destination_port,
        ] = words[..]
        else {
            panic!("{}", header.escape_ascii());
        };
        let address = |ip: &[u8], port: &[u8]| {
            let ip: IpAddr = text(ip).parse().expect("an address");
            assert_eq!(ip.is_ipv4(), family == b"TCP4");
            let is_plain = port == b"0" || !port.starts_with(b"0");
            assert!(
                port.iter().all(u8::is_ascii_digit) && is_plain,
                "{}",
                header.escape_ascii()
            );
            SocketAddr::new(ip, text(port).parse().expect("a port"))
        };
        assert!(matches!(family, b"TCP4" | b"TCP6"));
        assert_eq!(info.source(), Some(address(source, source_port)));
        assert_eq!(
            info.destination(),
            Some(address(destination, destination_port))
        );
    }
    assert!(info.tls().is_none() && info.authority().is_none() && info.unique_id().is_none());
}

/// Section 2.2.
fn check_v2(info: &ProxyInfo, header: &[u8]) {
    assert!(header.starts_with(SIGNATURE));
    let [command, family, high, low, rest @ ..] = &header[SIGNATURE.len()..] else {
        panic!("too short");
    };
    assert_eq!(usize::from(u16::from_be_bytes([*high, *low])), rest.len());
    assert_eq!(info.is_local(), *command == 0x20);
    if *command == 0x20 {
        assert_eq!(
            (info.source(), info.authority(), info.alpn()),
            (None, None, None)
        );
        return;
    }
    assert_eq!(*command, 0x21);
    let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    let (addresses, len) = match family {
        0x00 => (None, 0),
        0x11 => {
            let ip = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&rest[at..at + 4]).unwrap());
            let end = |ip_at, port_at| SocketAddr::new(IpAddr::V4(ip(ip_at)), port(port_at));
            (Some([end(0, 8), end(4, 10)]), 12)
        }
        0x21 => {
            let ip = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&rest[at..at + 16]).unwrap());
            let end = |ip_at, port_at| SocketAddr::new(IpAddr::V6(ip(ip_at)), port(port_at));
            (Some([end(0, 32), end(16, 34)]), 36)
        }
        0x31 | 0x32 => (None, 216),
        _ => panic!("{family:#x} is no stream"),
    };
    assert_eq!(info.source(), addresses.map(|[source, _]| source));
    assert_eq!(
        info.destination(),
        addresses.map(|[_, destination]| destination)
    );
    check_fields(info, header, &rest[len..]);
}

fn check_fields(info: &ProxyInfo, header: &[u8], fields: &[u8]) {
    let fields = split(fields);
    let first = |kind: u8| {
        fields
            .iter()
            .find(|(found, _)| *found == kind)
            .map(|(_, value)| *value)
    };
    assert_eq!(info.alpn(), first(1));
    assert_eq!(info.authority(), first(2).and_then(printable));
    assert_eq!(info.unique_id(), first(5));
    assert_eq!(info.namespace(), first(0x30).and_then(printable));
    for kind in (0xe0..=0xff).chain([0x40, 0x7f]) {
        assert_eq!(info.custom(kind), first(kind), "{kind:#x}");
    }
    if let Some(sum) = first(3) {
        let at = sum.as_ptr() as usize - header.as_ptr() as usize;
        let zeroed = [&header[..at], &[0; 4], &header[at + 4..]].concat();
        assert_eq!(crc32c(&zeroed).to_be_bytes(), sum);
    }
    let tls = first(0x20);
    assert_eq!(info.tls().is_some(), tls.is_some());
    let (Some(info), Some([flags, a, b, c, d, rest @ ..])) = (info.tls(), tls) else {
        return;
    };
    let fields = split(rest);
    let first = |kind: u8| {
        fields
            .iter()
            .find(|(found, _)| *found == kind)
            .and_then(|(_, value)| printable(value))
    };
    assert_eq!(info.is_on(), flags & 1 != 0);
    let verified = flags & 1 != 0 && flags & 6 != 0 && [a, b, c, d] == [&0; 4];
    assert_eq!(info.has_verified_certificate(), verified);
    let names = [
        info.version(),
        info.common_name(),
        info.cipher(),
        info.signature_algorithm(),
        info.key_algorithm(),
    ];
    assert_eq!(names, [0x21, 0x22, 0x23, 0x24, 0x25].map(first));
}

/// Type, length, value (section 2.2.1).
fn split(mut fields: &[u8]) -> Vec<(u8, &[u8])> {
    let mut found = Vec::new();
    while let [kind, high, low, rest @ ..] = fields {
        let (value, rest) = rest.split_at(u16::from_be_bytes([*high, *low]).into());
        found.push((*kind, value));
        fields = rest;
    }
    assert!(fields.is_empty());
    found
}

/// What may be shown.
fn printable(bytes: &[u8]) -> Option<&str> {
    Some(text(bytes)).filter(|text| !text.contains(char::is_control))
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

/// Bit by bit (RFC 3720 section 12.1).
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}
