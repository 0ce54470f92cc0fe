//! Lists of revoked certificates (CRLs, RFC 5280 section 5).

use rustls_pki_types::CertificateDer;
use tokio_rustls::rustls::crypto::WebPkiSupportedAlgorithms;

use super::{
    certificate::CertificateNames,
    der::{BOOLEAN, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, Reader, SEQUENCE, context},
    error::{Problem, TlsError},
    parts::{Parts, PublicKey, Time, bits, without_zeros},
    pem,
    source::{ClientCertificates, Pem},
    warning::{Oddity, TlsWarning},
};

/// A list, with its source.
pub(super) struct List<'a> {
    pub(super) source: &'a Pem,
    /// Its index in the file, from 1.
    pub(super) number: usize,
    pub(super) der: Vec<u8>,
}

/// Reads all lists, without parsing them.
pub(super) fn read(clients: &ClientCertificates) -> Result<Vec<List<'_>>, TlsError> {
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

/// The lists in use, the most recent first.
///
/// If an authority has several lists for the same certificates, only the most recent is used (RFC 5280 section 5.2.3). If they
/// are for different certificates that overlap, each is complete, so the most recent one is right.
pub(super) struct Current<'a>(Vec<Signed<'a>>);

/// A parsed list, with its signer.
struct Signed<'a> {
    list: &'a List<'a>,
    facts: Facts<'a>,
    signer: Signer<'a>,
}

/// The signer of a list. Authorities with the same name, such as the old and the new one during a change of keys, have different
/// keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Signer<'a> {
    name: &'a [u8],
    key: Key<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key<'a> {
    /// An authority with that name has signed the list.
    Verified(PublicKey<'a>),
    /// No authority with that name has signed it. The key is what the list claims (RFC 5280 section 5.2.1), perhaps that of an
    /// authority whose certificate clients present.
    Claimed(&'a [u8]),
}

impl<'a> Current<'a> {
    pub(super) fn of(
        lists: &'a [List<'a>],
        authorities: &[Parts<'a>],
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<Self, TlsError> {
        let mut all = Vec::new();
        for list in lists {
            let Some(facts) = Facts::read(&list.der) else {
                let problem = Problem::ListUnusable(list.number, "it is damaged".into());
                return Err(list.source.blame(problem));
            };
            let signer = facts.signer(authorities, algorithms);
            all.push(Signed {
                list,
                facts,
                signer,
            });
        }
        all.sort_by(|one, other| other.facts.age().cmp(&one.facts.age()));
        let mut current: Vec<Signed<'_>> = Vec::new();
        for one in all {
            let replaces = |newer: &Signed<'_>| {
                newer.signer == one.signer && newer.facts.scope == one.facts.scope
            };
            if !current.iter().any(replaces) {
                current.push(one);
            }
        }
        Ok(Self(current))
    }

    pub(super) fn all(&self) -> Vec<&'a [u8]> {
        self.0.iter().map(|one| &*one.list.der).collect()
    }

    /// rustls selects the first list that names the authority of a certificate, and only then checks whether the authority has
    /// signed it. So if the same name stands for several keys, [all](Self::all) lists can verify the certificates of only one
    /// key; these sets leave out lists, so that those of the other keys can be verified.
    pub(super) fn other_sets(&self) -> Result<Vec<Vec<&'a [u8]>>, Problem> {
        let mut sets: Vec<Vec<Signer<'a>>> = vec![Vec::new()];
        for (at, Signed { signer, .. }) in self.0.iter().enumerate() {
            let mut before = self.0.iter().take(at);
            if before.any(|one| one.signer.name == signer.name) {
                continue;
            }
            let signers = self.signers(signer.name);
            let with_each = |set: &Vec<Signer<'a>>| {
                let with = |signer: &Signer<'a>| [&set[..], &[*signer]].concat();
                signers.iter().map(with).collect::<Vec<_>>()
            };
            sets = sets.iter().flat_map(with_each).collect();
            if sets.len() > MAX_SETS {
                return Err(Problem::ListsOfTooManyKeys);
            }
        }
        let lists = |set: Vec<Signer<'a>>| {
            let lists = self.0.iter().filter(|one| set.contains(&one.signer));
            lists.map(|one| &*one.list.der).collect()
        };
        // The first set contains those that come first among all.
        Ok(sets.into_iter().skip(1).map(lists).collect())
    }

    /// Returns who has signed lists in that name, each once.
    fn signers(&self, name: &[u8]) -> Vec<Signer<'a>> {
        let mut signers = Vec::new();
        for Signed { signer, .. } in &self.0 {
            if signer.name == name && !signers.contains(signer) {
                signers.push(*signer);
            }
        }
        signers
    }

    /// Reports when lists expire, which are not signed by the authority they name, and which authorities have none: their
    /// certificates are not accepted then.
    pub(super) fn warnings(
        &self,
        clients: &ClientCertificates,
        authorities: &[CertificateDer<'_>],
        parts: &[Parts<'_>],
    ) -> Vec<TlsWarning> {
        let subject = |authority: &CertificateDer<'_>| {
            let names = CertificateNames::parse(authority).unwrap_or_default();
            names.subject().to_owned()
        };
        let both = || authorities.iter().zip(parts);
        let mut found = Vec::new();
        for Signed {
            list,
            facts,
            signer,
        } in &self.0
        {
            let mut named = both().filter(|(_, parts)| parts.subject == signer.name);
            match (signer.key, named.next()) {
                (Key::Claimed(_), Some((authority, _))) => {
                    let oddity = Oddity::ListNotSigned(list.number, subject(authority));
                    found.push(list.source.warn(oddity));
                }
                _ => found.extend(facts.next_update.map(|day| {
                    let oddity = Oddity::ListExpired(list.number, day);
                    list.source.warn(oddity)
                })),
            }
        }
        let Some(first) = clients.revoked.first() else {
            return found;
        };
        for (authority, parts) in both() {
            let own = parts.signer();
            if !self.0.iter().any(|one| one.signer == own) {
                found.push(first.warn(Oddity::NoList(subject(authority))));
            }
        }
        found
    }
}

/// The maximum number of sets of lists: four authorities with two keys each need this many.
const MAX_SETS: usize = 16;

impl<'a> Parts<'a> {
    /// The authority whose certificates the lists cover.
    const fn signer(&self) -> Signer<'a> {
        Signer {
            name: self.subject,
            key: Key::Verified(self.key),
        }
    }
}

/// The parts of a list that are used (RFC 5280 section 5.1).
pub(super) struct Facts<'a> {
    /// The signed data, the algorithm, and the signature.
    signed: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
    pub(super) issuer: &'a [u8],
    this_update: Time,
    pub(super) next_update: Option<Time>,
    /// Its number, without leading zeros; empty if it has none.
    number: &'a [u8],
    /// Which certificates it covers (section 5.2.5); empty if all.
    scope: &'a [u8],
    /// Which key signed it, as the issuer identifies it (section 5.2.1).
    key: &'a [u8],
}

impl<'a> Facts<'a> {
    pub(super) fn read(der: &'a [u8]) -> Option<Self> {
        let mut whole = Reader::new(der).enter(SEQUENCE)?;
        let signed = whole.next().filter(|element| element.tag == SEQUENCE)?;
        let mut list = Reader::new(signed.value);
        list.optional(INTEGER); // the version
        list.read(SEQUENCE)?; // the algorithm of the signature
        let mut facts = Self {
            signed: signed.whole,
            algorithm: whole.read(SEQUENCE)?,
            signature: bits(&mut whole)?,
            issuer: list.read(SEQUENCE)?,
            this_update: Time::read(list.next()?)?,
            next_update: None,
            number: &[],
            scope: &[],
            key: &[],
        };
        let mut ahead = list;
        if let Some(time) = ahead.next().and_then(Time::read) {
            (facts.next_update, list) = (Some(time), ahead);
        }
        list.optional(SEQUENCE); // the certificates
        if let Some(extensions) = list.optional(context(0)) {
            facts.read_extensions(Reader::new(extensions).enter(SEQUENCE)?)?;
        }
        Some(facts)
    }

    fn read_extensions(&mut self, extensions: Reader<'a>) -> Option<()> {
        for extension in extensions.each(SEQUENCE) {
            let mut extension = extension?;
            let kind = extension.read(OBJECT_IDENTIFIER)?;
            extension.optional(BOOLEAN); // whether it is critical
            let value = extension.read(OCTET_STRING)?;
            match kind {
                CRL_NUMBER => self.number = without_zeros(Reader::new(value).read(INTEGER)?),
                ISSUING_DISTRIBUTION_POINT => self.scope = value,
                AUTHORITY_KEY_IDENTIFIER => self.key = value,
                _ => {}
            }
        }
        Some(())
    }

    /// A number that grows from one list to the next.
    const fn age(&self) -> (Time, usize, &'a [u8]) {
        (self.this_update, self.number.len(), self.number)
    }

    fn signer(
        &self,
        authorities: &[Parts<'a>],
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Signer<'a> {
        let mut named = authorities
            .iter()
            .filter(|parts| parts.subject == self.issuer);
        match named.find(|parts| self.is_signed_with(&parts.key, algorithms)) {
            Some(parts) => parts.signer(),
            None => Signer {
                name: self.issuer,
                key: Key::Claimed(self.key),
            },
        }
    }

    fn is_signed_with(&self, key: &PublicKey<'_>, algorithms: &WebPkiSupportedAlgorithms) -> bool {
        let mut fitting = algorithms.all.iter().filter(|known| {
            *known.public_key_alg_id() == *key.algorithm
                && *known.signature_alg_id() == *self.algorithm
        });
        fitting.any(|known| {
            let verified = known.verify_signature(key.value, self.signed, self.signature);
            verified.is_ok()
        })
    }
}

const CRL_NUMBER: &[u8] = &[0x55, 0x1D, 20];
const ISSUING_DISTRIBUTION_POINT: &[u8] = &[0x55, 0x1D, 28];
const AUTHORITY_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1D, 35];
