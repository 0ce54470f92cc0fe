//! The content of a certificate: its subject, and how it is signed.

use std::fmt::{self, Write as _};

use super::der::{
    BOOLEAN, Element, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, Reader, SEQUENCE, SET, context,
};

/// The names in a certificate (RFC 5280): its subject, and the mail addresses and hosts it is for.
///
/// They are worth as much as the authority that signed it: use the names of a certificate that the handshake has verified, such
/// as [`TlsInfo::client_names`](crate::session::TlsInfo::client_names). Addresses in UTF-8 (RFC 8398) are not included.
///
/// ```
/// use smtpd_tower::tls::CertificateNames;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let made = rcgen::generate_simple_self_signed(["mx.example.org".to_owned()])?;
/// let names = CertificateNames::parse(made.cert.der()).ok_or("no certificate")?;
/// assert_eq!(names.dns_names(), ["mx.example.org"]);
/// assert_eq!(names.subject(), "CN=rcgen self signed cert");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateNames {
    subject: String,
    common_name: Option<String>,
    emails: Vec<String>,
    dns_names: Vec<String>,
    alternative: bool,
}

impl CertificateNames {
    /// Parses the names from the DER of a certificate. Returns `None` if it is not a certificate.
    pub fn parse(der: &[u8]) -> Option<Self> {
        let mut tbs = Reader::new(der).enter(SEQUENCE)?.enter(SEQUENCE)?;
        tbs.optional(context(0)); // the version
        tbs.read(INTEGER)?; // the serial number
        for _ in ["signature", "issuer", "validity"] {
            tbs.read(SEQUENCE)?;
        }
        let mut names = Self::default();
        names.read_subject(tbs.enter(SEQUENCE)?)?;
        tbs.read(SEQUENCE)?; // the public key
        while !tbs.is_empty() {
            let field = tbs.next()?;
            match field.tag {
                0x81 | 0x82 => {} // unique identifiers of issuer and subject
                tag if tag == context(3) => {
                    names.read_extensions(Reader::new(field.value).enter(SEQUENCE)?)?;
                }
                _ => return None,
            }
        }
        Some(names)
    }

    /// Returns the distinguished name of the subject as text (RFC 4514), with control characters escaped; empty if it has none.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Returns the common name of the subject, the last if there are several, unless it contains control characters.
    ///
    /// It identifies the subject only if there are [no alternative names](Self::has_alternative_names): it is free text, which no
    /// authority has to check as thoroughly (RFC 6125 section 6.4.4; RFC 9525 section 2 says that common names must not be used
    /// at all).
    pub fn common_name(&self) -> Option<&str> {
        self.common_name.as_deref()
    }

    /// Returns whether the subject has alternative names (RFC 5280 section 4.2.1.6), of any kind.
    pub fn has_alternative_names(&self) -> bool {
        self.alternative
    }

    pub(super) fn without_common_name(mut self) -> Self {
        self.common_name = None;
        self
    }

    /// Returns the mail addresses among the subject's alternative names (RFC 5280 section 4.2.1.6), all of them printable ASCII.
    /// The host is in lower case, because its case is irrelevant (section 7.5).
    pub fn emails(&self) -> &[String] {
        &self.emails
    }

    /// Returns the host names among them, all of them printable ASCII in lower case, possibly with `*` as the first label.
    pub fn dns_names(&self) -> &[String] {
        &self.dns_names
    }

    /// RFC 4514 section 2.1: the last part of the name comes first.
    fn read_subject(&mut self, name: Reader<'_>) -> Option<()> {
        let mut parts = Vec::new();
        for set in name.each(SET) {
            let mut part = String::new();
            for attribute in set?.each(SEQUENCE) {
                let mut attribute = attribute?;
                let kind = attribute.read(OBJECT_IDENTIFIER)?;
                let value = attribute.next()?;
                if kind == COMMON_NAME {
                    self.common_name = text(value)
                        .filter(|text| !text.contains(char::is_control))
                        .map(str::to_owned);
                }
                // RFC 4514 section 2.2
                let plus = if part.is_empty() { "" } else { "+" };
                let _ = write!(part, "{plus}{}={}", Kind(kind), Value(value));
            }
            parts.push(part);
        }
        parts.reverse();
        self.subject = parts.join(",");
        Some(())
    }

    fn read_extensions(&mut self, extensions: Reader<'_>) -> Option<()> {
        for extension in extensions.each(SEQUENCE) {
            self.read_extension(extension?)?;
        }
        Some(())
    }

    fn read_extension(&mut self, mut extension: Reader<'_>) -> Option<()> {
        let kind = extension.read(OBJECT_IDENTIFIER)?;
        extension.optional(BOOLEAN); // whether it is critical
        let value = extension.read(OCTET_STRING)?;
        if kind != SUBJECT_ALT_NAME {
            return Some(());
        }
        self.alternative = true;
        let mut alternatives = Reader::new(value).enter(SEQUENCE)?;
        while !alternatives.is_empty() {
            let name = alternatives.next()?;
            let Ok(text) = str::from_utf8(name.value) else {
                continue;
            };
            if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
                continue;
            }
            match name.tag {
                0x81 => self.emails.push(with_lower_case_host(text)),
                0x82 => self.dns_names.push(text.to_ascii_lowercase()),
                _ => {}
            }
        }
        Some(())
    }
}

fn with_lower_case_host(email: &str) -> String {
    match email.rsplit_once('@') {
        Some((local, host)) => format!("{local}@{}", host.to_ascii_lowercase()),
        // RFC 5280 section 4.2.1.6 has no address without a host.
        None => email.to_owned(),
    }
}

/// Returns the algorithm that a certificate is signed with: the bytes of its identifier, and its parameters.
pub(super) fn signature_algorithm(der: &[u8]) -> Option<(&[u8], Option<Element<'_>>)> {
    let mut certificate = Reader::new(der).enter(SEQUENCE)?;
    certificate.read(SEQUENCE)?; // what is signed
    let mut algorithm = certificate.enter(SEQUENCE)?;
    Some((algorithm.read(OBJECT_IDENTIFIER)?, algorithm.next()))
}

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1D, 0x11];

/// The attributes that have a short name (RFC 4514 section 3, and one that many old certificates have).
const KINDS: [(&[u8], &str); 10] = [
    (COMMON_NAME, "CN"),
    (&[0x55, 0x04, 0x06], "C"),
    (&[0x55, 0x04, 0x07], "L"),
    (&[0x55, 0x04, 0x08], "ST"),
    (&[0x55, 0x04, 0x09], "STREET"),
    (&[0x55, 0x04, 0x0A], "O"),
    (&[0x55, 0x04, 0x0B], "OU"),
    (
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xF2, 0x2C, 0x64, 0x01, 0x01],
        "UID",
    ),
    (
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xF2, 0x2C, 0x64, 0x01, 0x19],
        "DC",
    ),
    (
        &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x09, 0x01],
        "emailAddress",
    ),
];

/// The kind of an attribute: its short name, or its identifier in dotted form.
pub(super) struct Kind<'a>(pub(super) &'a [u8]);

impl fmt::Display for Kind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((_, name)) = KINDS.iter().find(|(kind, _)| *kind == self.0) {
            return f.write_str(name);
        }
        let (mut arc, mut first) = (0_u64, true);
        for &byte in self.0 {
            // An arc too large to represent appears as another one: this is for reading only.
            arc = arc << 7 | u64::from(byte & 0x7F);
            if byte & 0x80 != 0 {
                continue;
            }
            if std::mem::take(&mut first) {
                // X.690 section 8.19.4
                let root = (arc / 40).min(2);
                write!(f, "{root}.{}", arc - root * 40)?;
            } else {
                write!(f, ".{arc}")?;
            }
            arc = 0;
        }
        Ok(())
    }
}

/// The value of an attribute.
struct Value<'a>(Element<'a>);

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(text) = text(self.0) else {
            // RFC 4514 section 2.4: a value that is not text is written in hexadecimal.
            f.write_char('#')?;
            return self.0.whole.iter().try_for_each(|o| write!(f, "{o:02x}"));
        };
        let last = text.chars().count().saturating_sub(1);
        for (at, c) in text.chars().enumerate() {
            let edge = c == ' ' && (at == 0 || at == last) || c == '#' && at == 0;
            match c {
                '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=' => write!(f, "\\{c}")?,
                _ if edge => write!(f, "\\{c}")?,
                _ if c.is_control() => {
                    let mut bytes = [0; 4];
                    let bytes = c.encode_utf8(&mut bytes).bytes();
                    bytes.into_iter().try_for_each(|o| write!(f, "\\{o:02x}"))?;
                }
                _ => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// The text of a `UTF8String`, a `PrintableString` or an `IA5String`.
fn text(element: Element<'_>) -> Option<&str> {
    matches!(element.tag, 0x0C | 0x13 | 0x16)
        .then(|| str::from_utf8(element.value).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, SanType};

    use super::*;

    fn made(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn names_are_read() {
        let der = made(|params| {
            let subject = &mut params.distinguished_name;
            subject.push(DnType::CountryName, "AT");
            subject.push(DnType::OrganizationName, "Cheese, Inc.");
            subject.push(DnType::CustomDnType(vec![1, 2, 840, 9999]), "x");
            subject.push(DnType::CommonName, "fred");
            params.subject_alt_names = vec![
                SanType::Rfc822Name("Fred@Example.org".try_into().unwrap()),
                SanType::DnsName("MX.example.org".try_into().unwrap()),
                SanType::IpAddress([127, 0, 0, 1].into()),
                SanType::DnsName("*.example.net".try_into().unwrap()),
            ];
        });
        let names = CertificateNames::parse(&der).unwrap();
        assert_eq!(
            names.subject(),
            "CN=fred,1.2.840.9999=x,O=Cheese\\, Inc.,C=AT"
        );
        assert_eq!(names.common_name(), Some("fred"));
        assert!(names.has_alternative_names());
        assert_eq!(names.emails(), ["Fred@example.org"]);
        assert_eq!(names.dns_names(), ["mx.example.org", "*.example.net"]);
    }

    #[test]
    fn a_certificate_may_have_no_names() {
        let names = CertificateNames::parse(&made(|_| {})).unwrap();
        assert_eq!(names, CertificateNames::default());
    }

    #[test]
    fn nothing_in_a_name_can_break_a_line() {
        for (name, shown, common) in [
            (" a ", "CN=\\ a\\ ", Some(" a ")),
            ("#a\"b\\c=d", "CN=\\#a\\\"b\\\\c\\=d", Some("#a\"b\\c=d")),
            ("a\r\nb\0", "CN=a\\0d\\0ab\\00", None),
            ("\u{85}ä", "CN=\\c2\\85ä", None),
        ] {
            let der = made(|params| params.distinguished_name.push(DnType::CommonName, name));
            let names = CertificateNames::parse(&der).unwrap();
            assert_eq!((names.subject(), names.common_name()), (shown, common));
        }
        let der = made(|params| {
            let email = SanType::Rfc822Name("a\r\n@b".try_into().unwrap());
            params.subject_alt_names = vec![email];
            let name = DnValue::BmpString("a".try_into().unwrap());
            params.distinguished_name.push(DnType::CommonName, name);
        });
        let names = CertificateNames::parse(&der).unwrap();
        assert_eq!((names.subject(), names.emails().len()), ("CN=#1e020061", 0));
    }

    #[test]
    fn names_that_are_damaged_or_not_in_an_attribute_are_not_read() {
        let der = made(|params| {
            params.distinguished_name.push(DnType::CommonName, "fred");
            params.subject_alt_names = ["a.example", "b.example"]
                .map(|name| SanType::DnsName(name.try_into().unwrap()))
                .into();
        });
        // The subject follows the issuer, which is the same here.
        let attribute = [&[SET, 13, SEQUENCE, 11, 6, 3], COMMON_NAME].concat();
        let at = |part: &[u8]| der.windows(part.len()).rposition(|found| found == part);
        for (part, offset) in [
            (&attribute[..], 2),
            (&attribute, 3),
            (b"\x82\x09a.example", 1),
            (b"\x82\x09b.example", 1),
            (b"\xA3\x23\x30\x21", 0),
            (b"\xA3\x23\x30\x21", 1),
        ] {
            let mut der = der.clone();
            der[at(part).unwrap() + offset] += 2;
            assert_eq!(CertificateNames::parse(&der), None, "{part:x?}");
        }
        assert!(CertificateNames::parse(&der).is_some());
    }

    /// Whatever the result, it must not panic.
    #[test]
    fn damaged_certificates_are_survived() {
        let der = made(|params| params.distinguished_name.push(DnType::CommonName, "fred"));
        for end in 0..der.len() {
            assert_eq!(CertificateNames::parse(&der[..end]), None, "{end}");
        }
        for at in 0..der.len() {
            for byte in [0x00, 0x1F, 0x30, 0x7F, 0x80, 0x84, 0xFF] {
                let mut der = der.clone();
                der[at] = byte;
                let _ = (CertificateNames::parse(&der), signature_algorithm(&der));
            }
        }
    }
}
