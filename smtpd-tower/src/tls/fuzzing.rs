//! The entry points of the fuzz targets; see `crate::fuzzing`.

use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{
    binding,
    der::Reader,
    key, key_kind,
    parts::Parts,
    pem::{self, Section},
    revocation,
};

/// Returns the tag, the value and the whole of each element of a DER text, up to the first damaged one.
pub fn elements(der: &[u8]) -> Vec<(u8, &[u8], &[u8])> {
    Reader::new(der)
        .map(|element| (element.tag, element.value, element.whole))
        .collect()
}

/// Returns the label and the content of each section of a PEM text, up to the first damaged one. The content is `None` if it is
/// not base64.
pub fn sections(pem: &[u8]) -> Vec<(&str, Option<Vec<u8>>)> {
    let read = |section: Section<'_>| section.decode().ok();
    pem::sections(pem)
        .map_while(Result::ok)
        .map(|section| (section.label, read(section)))
        .collect()
}

/// Returns the certificates in a PEM text, or what is wrong with it.
///
/// # Errors
///
/// Returns an error if there are none, or the text is damaged.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    pem::certificates(pem).map_err(|problem| problem.to_string())
}

/// Returns the lists of revoked certificates in a PEM text, each with its issuer and the day of the next list, if it can be read;
/// or what is wrong with the text.
///
/// # Errors
///
/// Returns an error if there are none, or the text is damaged.
#[allow(
    clippy::type_complexity,
    reason = "only fuzz targets use it, and a type of its own would be longer"
)]
pub fn revocation_lists(
    pem: &[u8],
) -> Result<Vec<(Vec<u8>, Option<(Vec<u8>, Option<String>)>)>, String> {
    let lists = pem::revocation_lists(pem).map_err(|problem| problem.to_string())?;
    let read = |der: &[u8]| {
        let facts = revocation::Facts::read(der)?;
        let next = facts.next_update.map(|next| next.to_string());
        Some((facts.issuer.to_vec(), next))
    };
    Ok(lists
        .into_iter()
        .map(|der| (der.clone(), read(&der)))
        .collect())
}

/// The facts of a certificate apart from its names.
#[derive(Debug)]
pub struct CertificateFacts<'a> {
    /// The name of the issuer.
    pub issuer: &'a [u8],
    /// The name of the subject.
    pub subject: &'a [u8],
    /// The days between which it is valid.
    pub validity: [String; 2],
    /// Whether its key has a usual form.
    pub has_usual_key: bool,
    /// Whether there are name constraints.
    pub constrains_names: bool,
}

/// Returns the facts of a certificate, or `None` if it is not one.
pub fn certificate_facts(der: &[u8]) -> Option<CertificateFacts<'_>> {
    let parts = Parts::read(der)?;
    Some(CertificateFacts {
        issuer: parts.issuer,
        subject: parts.subject,
        validity: [parts.not_before, parts.not_after].map(|day| day.to_string()),
        has_usual_key: parts.key.is_usual(),
        constrains_names: parts.constrains_names,
    })
}

/// Returns what is not supported about a private key.
pub fn unsupported_key(key: &PrivateKeyDer<'_>) -> Option<String> {
    key_kind::unsupported(key)
}

/// Returns the first private key in a PEM text, or what is wrong with it.
///
/// # Errors
///
/// Returns an error if there is none, the text is damaged, or the passphrase does not belong to the key.
pub fn private_key(pem: &[u8], passphrase: &str) -> Result<PrivateKeyDer<'static>, String> {
    key::read(pem, Some(passphrase)).map_err(|problem| problem.to_string())
}

/// Returns the hash of a certificate for `tls-server-end-point`.
pub fn end_point(der: &[u8]) -> Option<Vec<u8>> {
    binding::end_point(der)
}
