//! Lists of revoked certificates (CRLs, RFC 5280 section 5).

use rustls_pki_types::CertificateDer;

use super::{
    certificate::CertificateNames,
    der::{INTEGER, Reader, SEQUENCE},
    error::TlsError,
    parts::{Parts, Time},
    pem,
    source::{ClientCertificates, Pem},
    warning::{Oddity, TlsWarning},
};

/// All lists of a source, in their order.
pub(super) type Lists<'a> = Vec<List<'a>>;

/// A list, with where it comes from.
pub(super) struct List<'a> {
    pub(super) source: &'a Pem,
    /// Which one in its file, from 1 on.
    pub(super) number: usize,
    pub(super) der: Vec<u8>,
}

/// Reads them. Of what is in them nothing is looked at yet.
pub(super) fn read(clients: &ClientCertificates) -> Result<Lists<'_>, TlsError> {
    let mut lists = Vec::new();
    for source in &clients.revoked {
        let text = source.read()?;
        let all = pem::revocation_lists(&text).map_err(|problem| source.blame(problem))?;
        let numbered = (1..).zip(all);
        lists.extend(numbered.map(|(number, der)| List {
            source,
            number,
            der,
        }));
    }
    Ok(lists)
}

/// When which lists expire, and which authorities have none: their certificates are not accepted then.
pub(super) fn warnings(
    clients: &ClientCertificates,
    lists: &[List<'_>],
    authorities: &[CertificateDer<'_>],
    parts: &[Parts<'_>],
) -> Vec<TlsWarning> {
    let mut found = Vec::new();
    let mut issuers = Vec::new();
    for list in lists {
        // What cannot be read is an error elsewhere.
        let Some((issuer, next_update)) = issuer_and_next_update(&list.der) else {
            continue;
        };
        issuers.push(issuer);
        if let Some(day) = next_update {
            let oddity = Oddity::ListExpired(list.number, day);
            found.push(list.source.warn(oddity));
        }
    }
    let Some(first) = clients.revoked.first() else {
        return found;
    };
    for (authority, parts) in authorities.iter().zip(parts) {
        if !issuers.contains(&parts.subject) {
            let names = CertificateNames::parse(authority).unwrap_or_default();
            let oddity = Oddity::NoList(names.subject().to_owned());
            found.push(first.warn(oddity));
        }
    }
    found
}

/// Who has made a list, and until when there is a next one (RFC 5280 section 5.1).
pub(super) fn issuer_and_next_update(der: &[u8]) -> Option<(&[u8], Option<Time>)> {
    let mut list = Reader::new(der).enter(SEQUENCE)?.enter(SEQUENCE)?;
    list.optional(INTEGER); // the version
    list.read(SEQUENCE)?; // the algorithm of the signature
    let issuer = list.read(SEQUENCE)?;
    Time::read(list.next()?)?; // of this list
    Some((issuer, list.next().and_then(Time::read)))
}
