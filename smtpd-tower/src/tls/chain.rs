//! Checks chains of certificates for errors and oddities.

use rustls_pki_types::{CertificateDer, DnsName};

use super::{certificate::CertificateNames, error::Problem, parts::Parts, warning::Oddity};

/// Reads the parts of each certificate.
///
/// # Errors
/// Returns the first damaged certificate: clients would refuse the whole chain.
pub(super) fn parts<'a>(chain: &'a [CertificateDer<'_>]) -> Result<Vec<Parts<'a>>, Problem> {
    let numbered = (1..).zip(chain);
    numbered
        .map(|(n, der)| {
            Parts::read(der)
                .filter(|_| CertificateNames::parse(der).is_some())
                .ok_or(Problem::CertificateDamaged(n))
        })
        .collect()
}

/// Returns what is odd about the chain of a server's certificate, which comes first, now or at another time.
pub(super) fn oddities(chain: &[CertificateDer<'_>], parts: &[Parts<'_>]) -> Vec<Oddity> {
    let mut found = Vec::new();
    for (n, part) in (1..).zip(parts) {
        found.push(Oddity::Expired(n, part.not_after));
        found.push(Oddity::NotYetValid(n, part.not_before));
    }
    let related = related(parts);
    for (at, der) in chain.iter().enumerate().skip(1) {
        if chain.iter().take(at).any(|before| before == der) {
            found.push(Oddity::Twice(at + 1));
        } else if !related.contains(&at) {
            found.push(Oddity::Unrelated(at + 1));
        }
    }
    found
}

/// Returns the indices of the certificates that lead from the first one to an authority.
fn related(parts: &[Parts<'_>]) -> Vec<usize> {
    let mut found = vec![0];
    let mut next = 0;
    while let Some(part) = found.get(next).and_then(|&at| parts.get(at)) {
        for (at, other) in parts.iter().enumerate() {
            if other.subject == part.issuer && !found.contains(&at) {
                found.push(at);
            }
        }
        next += 1;
    }
    found
}

/// Returns whether a certificate is for the name by which clients know the server.
pub(super) fn oddities_of_names<'a>(
    names: &CertificateNames,
    hosts: impl IntoIterator<Item = &'a String>,
) -> Vec<Oddity> {
    if !names.has_alternative_names() {
        return vec![Oddity::NoAlternativeName];
    }
    let mut missing = Vec::new();
    for host in hosts {
        let plain = host.strip_prefix("*.").unwrap_or(host);
        // Clients do not request an address by SNI.
        if DnsName::try_from(plain).is_ok() && !is_for(names, host) {
            missing.push(Oddity::NotFor(host.clone()));
        }
    }
    missing
}

/// RFC 9525 section 6.3: `*` stands for one label.
fn is_for(names: &CertificateNames, host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let wild = host.split_once('.').map(|(_, rest)| format!("*.{rest}"));
    let mut names = names.dns_names().iter();
    names.any(|name| *name == host || Some(name) == wild.as_ref())
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
    };
    use rustls_pki_types::UnixTime;

    use super::*;
    use crate::tls::{parts::Time, warning::TlsWarning};

    type Issuer = CertifiedIssuer<'static, KeyPair>;

    fn authority(name: &str, by: Option<&Issuer>) -> Issuer {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        match by {
            Some(by) => CertifiedIssuer::signed_by(params, key, by).unwrap(),
            None => CertifiedIssuer::self_signed(params, key).unwrap(),
        }
    }

    fn issued(by: &Issuer, from: i32, until: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(["mx.test".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "mx");
        (params.not_before, params.not_after) =
            (date_time_ymd(from, 1, 1), date_time_ymd(until, 1, 1));
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, by).unwrap().der().clone()
    }

    fn found(chain: &[CertificateDer<'_>]) -> Vec<String> {
        let found = oddities(chain, &parts(chain).unwrap());
        let found = found
            .into_iter()
            .map(|oddity| TlsWarning::new(oddity, None));
        let now = Time::of(UnixTime::now());
        let found = found.filter(|warning| warning.applies_at(now));
        found.map(|warning| warning.to_string()).collect()
    }

    #[test]
    fn certificates_that_do_not_belong_to_the_chain_are_reported() {
        let root = authority("root", None);
        let middle = authority("middle", Some(&root));
        let other = authority("other", None);
        let own = issued(&middle, 2000, 4000);
        let (root, middle, other) = (
            root.der().clone(),
            middle.der().clone(),
            other.der().clone(),
        );
        let chain = |all: &[&CertificateDer<'static>]| -> Vec<_> {
            all.iter().map(|der| (*der).clone()).collect()
        };
        for (all, texts) in [
            (chain(&[&own]), &[][..]),
            (chain(&[&own, &middle, &root]), &[]),
            (chain(&[&own, &root, &middle]), &[]),
            (
                chain(&[&own, &root]),
                &["certificate 2 is not part of the chain"],
            ),
            (
                chain(&[&own, &middle, &other]),
                &["certificate 3 is not part of the chain"],
            ),
            (
                chain(&[&own, &middle, &own]),
                &["certificate 3 appears twice"],
            ),
            (
                chain(&[&own, &middle, &middle]),
                &["certificate 3 appears twice"],
            ),
        ] {
            assert_eq!(found(&all), texts);
        }
    }

    #[test]
    fn certificates_outside_of_their_validity_are_reported() {
        let root = authority("root", None);
        for (from, until, text) in [
            (2000, 2001, "certificate 1 expired on 2001-01-01"),
            (3000, 4000, "certificate 1 is not valid before 3000-01-01"),
        ] {
            assert_eq!(found(&[issued(&root, from, until)]), [text]);
        }
    }

    #[test]
    fn a_certificate_for_another_host_is_reported() {
        let made = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            let key = KeyPair::generate().unwrap();
            let made = CertificateParams::new(names).unwrap().self_signed(&key);
            CertificateNames::parse(made.unwrap().der()).unwrap()
        };
        let names = made(&["mx.example.org", "*.example.net", "192.0.2.1"]);
        for (host, is_for) in [
            ("mx.example.org", true),
            ("MX.Example.org.", true),
            ("a.example.net", true),
            ("*.example.net", true),
            ("b.a.example.net", false),
            ("example.net", false),
            ("*.example.org", false),
            ("localhost", false),
            // Not a name that clients can request.
            ("[192.0.2.9]", true),
            ("192.0.2.9", true),
        ] {
            let found = oddities_of_names(&names, &[host.to_owned()]);
            let expected = (!is_for).then(|| Oddity::NotFor(host.to_owned()));
            assert_eq!(found, Vec::from_iter(expected), "{host}");
        }
        let nameless = oddities_of_names(&made(&[]), &["mx.example.org".to_owned()]);
        assert_eq!(nameless, [Oddity::NoAlternativeName]);
    }
}
