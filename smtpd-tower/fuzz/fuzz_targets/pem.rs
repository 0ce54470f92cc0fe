//! PEM texts: the sections that rustls-pki-types finds in them, and what is written is read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rustls_pki_types::pem::{PemObject, SectionKind};
use smtpd_tower::fuzzing::tls;
use smtpd_tower_fuzz::{Choices, base64};

fuzz_target!(|input: &[u8]| {
    let sections = tls::sections(input);
    let decoded: usize = sections
        .iter()
        .filter_map(|(_, der)| der.as_ref())
        .map(Vec::len)
        .sum();
    assert!(decoded <= input.len() * 3 / 4);
    let certificates: Vec<_> = sections
        .iter()
        .filter(|(label, _)| *label == "CERTIFICATE")
        .map(|(_, der)| der.as_deref())
        .collect();
    if let Ok(found) = tls::certificates(input) {
        assert!(!found.is_empty());
        assert!(found.iter().map(|der| Some(&**der)).eq(certificates));
        check_other(input);
    }
    if let Ok(lists) = tls::revocation_lists(input) {
        assert!(!lists.is_empty());
        for (der, facts) in lists {
            assert!(facts.is_none_or(|(issuer, _)| issuer.len() < der.len()));
        }
    }
    if let Ok(key) = tls::private_key(input, "secret") {
        // Nothing of the key is told but its size and its algorithm.
        let told = tls::unsupported_key(&key).unwrap_or_default();
        assert!(told.len() <= 32 + 4 * input.len() && told.is_ascii());
    }
    check_written(input);
});

/// What this takes without a complaint, the other takes for the same.
fn check_other(pem: &[u8]) {
    // For headers, indented lines, lines that end by CR, and labels that are no text the other has other rules.
    let is_plain =
        |line: &[u8]| line.trim_ascii() == line && !line.contains(&b':') && !line.contains(&b'\r');
    if !pem.is_ascii() || !pem.split(|&byte| byte == b'\n').all(is_plain) {
        return;
    }
    let other: Result<Vec<_>, _> = <(SectionKind, Vec<u8>)>::pem_slice_iter(pem).collect();
    let Ok(other) = other else { return };
    let known = |(label, _): &(&str, _)| SectionKind::try_from(label.as_bytes()).is_ok();
    let own: Vec<_> = tls::sections(pem).into_iter().filter(known).collect();
    assert_eq!(own.len(), other.len());
    for ((label, der), (kind, other)) in own.into_iter().zip(other) {
        assert_eq!(SectionKind::try_from(label.as_bytes()).ok(), Some(kind));
        assert_eq!(der, Some(other));
    }
}

/// RFC 7468 section 2, with lines of any length and text between the sections.
fn check_written(input: &[u8]) {
    let mut choices = Choices(input);
    let (count, width) = (1 + choices.below(3), 1 + choices.below(80));
    let end = ["\n", "\r\n", " \n"][choices.below(3)];
    let noise = String::from_utf8_lossy(choices.bytes(8)).replace('-', "");
    let mut pem = ["", "\u{feff}"][choices.below(2)].to_owned();
    let chunks = choices.0.chunks(choices.0.len().div_ceil(count).max(1));
    let contents: Vec<_> = chunks.collect();
    for content in &contents {
        pem += &format!("{noise}{end}-----BEGIN CERTIFICATE-----{end}");
        for line in base64(content).as_bytes().chunks(width) {
            pem += str::from_utf8(line).expect("base64");
            pem += end;
        }
        pem += &format!("-----END CERTIFICATE-----{end}");
    }
    match tls::certificates(pem.as_bytes()) {
        Ok(found) => assert!(found.iter().map(|der| &**der).eq(contents)),
        Err(error) => assert!(contents.is_empty(), "{error}: {pem}"),
    }
}
