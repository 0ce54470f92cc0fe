//! DER and certificates: no element leads out of another, the names are safe to show, and x509-parser reads the same ones.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smtpd_tower::{fuzzing::tls, tls::CertificateNames};
use x509_parser::{
    certificate::X509Certificate, der_parser::asn1_rs::FromDer, extensions::GeneralName,
};

fuzz_target!(|input: &[u8]| {
    check_elements(input, 0);
    let hash = tls::end_point(input);
    assert!(hash.is_none_or(|hash| matches!(hash.len(), 28 | 32 | 48 | 64)));
    let Some(names) = CertificateNames::parse(input) else {
        return;
    };
    check_names(&names, input.len());
    if let Ok((b"", certificate)) = X509Certificate::from_der(input) {
        compare(&certificate, &names);
        compare_facts(&certificate, input);
    }
});

/// One after the other, without a gap.
fn check_elements(der: &[u8], depth: usize) {
    let mut rest = der;
    for (tag, value, whole) in tls::elements(der) {
        assert!(rest.starts_with(whole) && whole.ends_with(value) && whole[0] == tag);
        assert!(whole.len() - value.len() <= 6 && whole.len() > value.len());
        rest = &rest[whole.len()..];
        // X.690 section 8.1.2.5: a constructed one holds others.
        if tag & 0x20 != 0 && depth < 8 {
            check_elements(value, depth + 1);
        }
    }
}

fn check_names(names: &CertificateNames, len: usize) {
    assert!(
        !names.subject().contains(char::is_control),
        "{:?}",
        names.subject()
    );
    // Two hexadecimal digits for each byte, three characters for each that is escaped, and dots.
    assert!(names.subject().len() <= 16 + 5 * len);
    let common = names.common_name().unwrap_or_default();
    assert!(!common.contains(char::is_control) && common.len() <= len);
    let hosts = names.dns_names().iter();
    assert!(
        hosts
            .clone()
            .all(|name| !name.bytes().any(|byte| byte.is_ascii_uppercase()))
    );
    for name in hosts.chain(names.emails()) {
        let is_printable = name.bytes().all(|byte| byte.is_ascii_graphic());
        assert!(!name.is_empty() && is_printable, "{name:?}");
    }
}

fn compare(certificate: &X509Certificate<'_>, names: &CertificateNames) {
    let mut hosts = Vec::new();
    let mut emails = Vec::new();
    if let Ok(Some(extension)) = certificate.subject_alternative_name() {
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(name) => hosts.push(*name),
                GeneralName::RFC822Name(name) => emails.push(*name),
                _ => {}
            }
        }
        // x509-parser does not look at the class of a tag, and so takes others for names too.
        let hosts = hosts.into_iter().map(str::to_ascii_lowercase);
        assert!(is_part(names.dns_names(), hosts));
        // RFC 5280 section 7.5: the host alone is compared without case.
        let emails = emails.into_iter().map(|address| {
            let (local, host) = address.rsplit_once('@').unwrap_or((address, ""));
            let at = &address[local.len()..address.len() - host.len()];
            [local, at, &host.to_ascii_lowercase()].concat()
        });
        assert!(is_part(names.emails(), emails));
    }
    // The last is that of the certificate, if it is text of a kind that is read.
    let Some(name) = certificate.subject().iter_common_name().last() else {
        return assert_eq!(names.common_name(), None);
    };
    let is_text = matches!(
        name.attr_value().header.raw_tag(),
        Some([0x0C | 0x13 | 0x16])
    );
    let text = name
        .as_str()
        .ok()
        .filter(|text| is_text && !text.contains(char::is_control));
    assert_eq!(names.common_name(), text);
}

/// What is more strictly read here need not be a certificate.
fn compare_facts(certificate: &X509Certificate<'_>, der: &[u8]) {
    let Some(facts) = tls::certificate_facts(der) else {
        return;
    };
    // x509-parser shows a name only up to what is damaged in it: then it is not a whole element.
    let is_same = |raw, own| {
        let whole = tls::elements(raw);
        whole.first().is_none_or(|(_, value, _)| *value == own)
    };
    assert!(is_same(certificate.issuer().as_raw(), facts.issuer));
    assert!(is_same(certificate.subject().as_raw(), facts.subject));
    let validity = certificate.validity();
    let days = [validity.not_before, validity.not_after].map(|time| {
        let (year, month, day) = time.to_datetime().to_calendar_date();
        format!("{year:04}-{:02}-{day:02}", u8::from(month))
    });
    assert_eq!(facts.validity, days);
    if let Ok(Some(_)) = certificate.name_constraints() {
        assert!(facts.constrains_names);
    }
}

/// Whether these are among the others, in the same order.
fn is_part(names: &[String], mut others: impl Iterator<Item = String>) -> bool {
    names.iter().all(|name| others.any(|other| other == *name))
}
