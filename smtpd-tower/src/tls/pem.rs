//! PEM text (RFC 7468), with the header lines of RFC 1421 that old encrypted keys carry.

use rustls_pki_types::{
    CertificateDer,
    pem::{PemObject, SectionKind},
};
use zeroize::Zeroizing;

use super::error::Problem;

/// Returns all certificates, in order; at least one.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let chain = labelled(pem, "CERTIFICATE")?;
    if chain.is_empty() {
        return Err(Problem::NoCertificate);
    }
    Ok(chain.into_iter().map(CertificateDer::from).collect())
}

/// Returns all lists of revoked certificates (RFC 7468 section 6), in order; at least one.
pub(super) fn revocation_lists(pem: &[u8]) -> Result<Vec<Vec<u8>>, Problem> {
    let lists = labelled(pem, "X509 CRL")?;
    if lists.is_empty() {
        return Err(Problem::NoList);
    }
    Ok(lists)
}

fn labelled(pem: &[u8], label: &str) -> Result<Vec<Vec<u8>>, Problem> {
    let mut found = Vec::new();
    for section in sections(pem) {
        let section = section?;
        if section.label == label {
            found.push(section.decode()?);
        }
    }
    Ok(found)
}

/// Returns the sections of a PEM text. Text between them is skipped (RFC 7468 section 2), as is a leading byte order mark, which
/// some editors add.
pub(super) fn sections(pem: &[u8]) -> Sections<'_> {
    Sections {
        rest: pem.strip_prefix("\u{feff}".as_bytes()).unwrap_or(pem),
    }
}

/// One section: `-----BEGIN label-----`, headers, base64, `-----END label-----`.
pub(super) struct Section<'a> {
    pub(super) label: &'a str,
    headers: Vec<(&'a str, &'a str)>,
    base64: Vec<&'a [u8]>,
}

impl<'a> Section<'a> {
    /// Returns the value of a header (RFC 1421 section 4.6).
    pub(super) fn header(&self, name: &str) -> Option<&'a str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(found, _)| *found == name)
            .map(|(_, value)| *value)
    }

    /// Decodes the base64.
    pub(super) fn decode(&self) -> Result<Vec<u8>, Problem> {
        // A label that the decoder knows selects its constant-time path, and hides headers and labels that it does not know.
        const BEGIN: &[u8] = b"-----BEGIN PRIVATE KEY-----\n";
        const END: &[u8] = b"\n-----END PRIVATE KEY-----\n";
        let base64_len: usize = self.base64.iter().map(|line| line.len()).sum();
        let mut pem = Zeroizing::new(Vec::with_capacity(BEGIN.len() + base64_len + END.len()));
        pem.extend_from_slice(BEGIN);
        self.base64
            .iter()
            .for_each(|line| pem.extend_from_slice(line));
        pem.extend_from_slice(END);
        let (_, der) = <(SectionKind, Vec<u8>)>::from_pem_slice(&pem).map_err(Problem::Base64)?;
        Ok(der)
    }

    fn push(&mut self, line: &'a [u8]) {
        // Base64 contains no colon.
        match std::str::from_utf8(line)
            .ok()
            .and_then(|line| line.split_once(':'))
        {
            Some((name, value)) => self.headers.push((name.trim_end(), value.trim_start())),
            None => self.base64.push(line),
        }
    }
}

pub(super) struct Sections<'a> {
    rest: &'a [u8],
}

impl<'a> Sections<'a> {
    fn line(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let mut parts = self.rest.splitn(2, |byte| *byte == b'\n');
        let line = parts.next()?;
        self.rest = parts.next().unwrap_or_default();
        Some(line.trim_ascii())
    }
}

impl<'a> Iterator for Sections<'a> {
    type Item = Result<Section<'a>, Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        let label = loop {
            if let Some(label) = marker(self.line()?, b"-----BEGIN ") {
                break label;
            }
        };
        let mut section = Section {
            label,
            headers: Vec::new(),
            base64: Vec::new(),
        };
        while let Some(line) = self.line() {
            if marker(line, b"-----END ") == Some(label) {
                return Some(Ok(section));
            }
            if line.starts_with(b"-----") {
                break;
            }
            section.push(line);
        }
        Some(Err(Problem::Unterminated))
    }
}

fn marker<'a>(line: &'a [u8], start: &[u8]) -> Option<&'a str> {
    let label = line.strip_prefix(start)?.strip_suffix(b"-----")?;
    std::str::from_utf8(label).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_of_any_line_end_with_text_between() {
        let pem = "Bag Attributes: \u{e9}\n-----BEGIN A B-----\nProc-Type: 4,ENCRYPTED\n\nYWJj\nZGVm\n\
                   -----END A B-----\nnoise\n-----BEGIN C-----\nZw==\n-----END C-----";
        for pem in [
            pem.to_owned(),
            pem.replace('\n', "\r\n"),
            pem.replace('\n', " \n"),
            format!("\u{feff}{}", &pem[pem.find("-----").unwrap()..]),
        ] {
            let all: Vec<_> = sections(pem.as_bytes())
                .map(|section| section.unwrap())
                .collect();
            let labels: Vec<_> = all.iter().map(|section| section.label).collect();
            assert_eq!(labels, ["A B", "C"]);
            assert_eq!(all[0].header("Proc-Type"), Some("4,ENCRYPTED"));
            assert_eq!(all[0].header("DEK-Info"), None);
            assert_eq!(all[0].decode().unwrap(), b"abcdef");
            assert_eq!(all[1].decode().unwrap(), b"g");
        }
    }

    #[test]
    fn damage_is_named() {
        let table: [(&str, &str); 8] = [
            ("", "no certificate found"),
            ("garbage\0\n\n", "no certificate found"),
            (
                "-----BEGIN X-----\nYQ==\n-----END X-----\n",
                "no certificate found",
            ),
            (
                "-----BEGIN CERTIFICATE-----\n",
                "damaged PEM: a section does not end",
            ),
            (
                "-----BEGIN CERTIFICATE-----\nYQ==\n-----END X-----",
                "damaged PEM: a section does not end",
            ),
            (
                "-----BEGIN CERTIFICATE-----\nYQ==\n-----BEGIN CERTIFICATE-----\nYQ==\n\
                 -----END CERTIFICATE-----",
                "damaged PEM: a section does not end",
            ),
            (
                "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----",
                "damaged PEM: a section is not base64",
            ),
            (
                "-----BEGIN CERTIFICATE-----\n\u{fffd}\n-----END CERTIFICATE-----",
                "damaged PEM: a section is not base64",
            ),
        ];
        for (pem, text) in table {
            assert_eq!(
                certificates(pem.as_bytes()).unwrap_err().to_string(),
                text,
                "{pem:?}"
            );
        }
    }
}
