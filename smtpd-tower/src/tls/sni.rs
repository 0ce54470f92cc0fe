//! Selects the certificate for a client.

use std::{cell::RefCell, collections::HashMap, future::Future, sync::Arc};

use rustls_pki_types::DnsName;
use tokio::task_local;
use tokio_rustls::rustls::{
    SignatureScheme,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{
    binding,
    certificate::CertificateNames,
    chain,
    error::{Problem, TlsError},
    load,
    provider::Provider,
    source::ServerCertificate,
    warning::TlsWarning,
};

task_local! {
    /// The certificate of the handshake in progress. rustls does not tell which one it has used.
    static CHOSEN: RefCell<Option<Arc<Certificate>>>;
}

/// Performs a handshake, and returns the certificate that it has used with its output.
pub(super) async fn with_choice<F: Future>(handshake: F) -> (F::Output, Option<Arc<Certificate>>) {
    let observed = async {
        let output = handshake.await;
        (output, CHOSEN.with(RefCell::take))
    };
    CHOSEN.scope(RefCell::default(), observed).await
}

/// The certificates by the names that clients request (RFC 6066 section 3). Several of one name, such as an ECDSA and an RSA one,
/// are in the order of preference.
#[derive(Debug)]
pub(super) struct Certificates {
    named: HashMap<String, Vec<Arc<Certificate>>>,
    /// The default one, and others for a name of it. There is at least one.
    default: Vec<Arc<Certificate>>,
    /// The warnings about all of them.
    pub(super) warnings: Vec<TlsWarning>,
}

/// A certificate with its key.
#[derive(Debug)]
pub(super) struct Certificate {
    key: Arc<CertifiedKey>,
    names: Vec<String>,
    warnings: Vec<TlsWarning>,
    end_point: Option<Vec<u8>>,
}

impl Certificates {
    /// Reads the certificates. A given name takes precedence over the same name in a certificate; otherwise the first certificate
    /// does. The default one should be for `host`.
    pub(super) fn read(
        default: &ServerCertificate,
        host: Option<&String>,
        others: &[ServerCertificate],
        provider: &Provider,
    ) -> Result<Self, TlsError> {
        let read = |source, host| Certificate::read(source, host, provider).map(Arc::new);
        let first = read(default, host)?;
        let mut all = vec![(default, first.clone())];
        for source in others {
            let certificate = read(source, None)?;
            if certificate.names.is_empty() {
                return Err(source.chain.blame(Problem::NoName));
            }
            all.push((source, certificate));
        }
        let is_alike = |other: &&Arc<Certificate>| {
            !Arc::ptr_eq(other, &first) && other.names.iter().any(|name| first.names.contains(name))
        };
        let alike = all.iter().map(|(_, other)| other).filter(is_alike);
        let default = [&first].into_iter().chain(alike).cloned().collect();
        all.sort_by_key(|(source, _)| source.names.is_empty());
        let mut named = HashMap::<_, Vec<_>>::new();
        for (_, certificate) in &all {
            for name in &certificate.names {
                named
                    .entry(name.clone())
                    .or_default()
                    .push(certificate.clone());
            }
        }
        let warnings = all.iter().flat_map(|(_, one)| one.warnings.clone());
        Ok(Self {
            named,
            default,
            warnings: warnings.collect(),
        })
    }

    /// Returns the first certificate for the name whose signatures the client can verify, or the first one at all: then the
    /// handshake fails, with an alert that says why.
    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Arc<Certificate>> {
        let candidates = self.of(name);
        let can_verify = |one: &&Arc<Certificate>| one.key.key.choose_scheme(schemes).is_some();
        candidates
            .iter()
            .find(can_verify)
            .or_else(|| candidates.first())
    }

    /// Returns the certificates of the name; of the name with `*` for its first label (RFC 9525 section 6.3); or the default.
    fn of(&self, name: Option<&str>) -> &[Arc<Certificate>] {
        let find = || {
            let name = name?.to_ascii_lowercase();
            self.named.get(&name).or_else(|| {
                let (_, parent) = name.split_once('.')?;
                self.named.get(&format!("*.{parent}"))
            })
        };
        find().unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let chosen = self.choose(hello.server_name(), hello.signature_schemes())?;
        // Outside of `with_choice`, nobody asks.
        let _ = CHOSEN.try_with(|choice| choice.replace(Some(chosen.clone())));
        Some(chosen.key.clone())
    }
}

impl Certificate {
    fn read(
        source: &ServerCertificate,
        expected: Option<&String>,
        provider: &Provider,
    ) -> Result<Self, TlsError> {
        let (key, mut warnings) = load::certified_key(source, provider)?;
        let own = key.cert.first().map(AsRef::as_ref).unwrap_or_default();
        let in_certificate = CertificateNames::parse(own).unwrap_or_default();
        let hosts = expected.into_iter().chain(&source.names);
        let oddities = chain::oddities_of_names(&in_certificate, hosts);
        warnings.extend(oddities.into_iter().map(|oddity| source.chain.warn(oddity)));
        let names = if source.names.is_empty() {
            // A name in a certificate that cannot be requested does no harm.
            in_certificate.dns_names().to_vec()
        } else {
            let given = source.names.iter().map(|name| host(name));
            let given: Result<_, _> = given.collect();
            given.map_err(|problem| source.chain.blame(problem))?
        };
        Ok(Self {
            end_point: binding::end_point(own),
            names,
            warnings,
            key: Arc::new(key),
        })
    }

    /// Returns the channel binding `tls-server-end-point` of a connection that uses it.
    pub(super) fn end_point(&self) -> Option<&[u8]> {
        self.end_point.as_deref()
    }
}

/// Returns a name in the form in which clients request it.
fn host(name: &str) -> Result<String, Problem> {
    let host = name.strip_prefix("*.").unwrap_or(name);
    match DnsName::try_from(host) {
        Ok(_) => Ok(name.to_ascii_lowercase()),
        Err(_) => Err(Problem::NameInvalid(name.to_owned())),
    }
}

#[cfg(test)]
#[cfg(feature = "tls-ring")]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn made(names: &[&str]) -> ServerCertificate {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(names).unwrap().self_signed(&key);
        ServerCertificate::from_pem(cert.unwrap().pem(), key.serialize_pem())
    }

    fn rsa() -> ServerCertificate {
        let fixture = |name: &str| {
            let path = format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
            std::fs::read(path).unwrap()
        };
        ServerCertificate::from_pem(fixture("rsa.crt"), fixture("rsa.key"))
    }

    fn read(
        default: &ServerCertificate,
        others: &[ServerCertificate],
    ) -> Result<Certificates, TlsError> {
        Certificates::read(default, None, others, &Provider::ring())
    }

    /// Identifies a certificate.
    fn own(source: &ServerCertificate) -> Vec<u8> {
        let pem = source.chain.read().unwrap();
        let chain = super::super::pem::certificates(&pem).unwrap();
        chain[0].to_vec()
    }

    #[test]
    fn the_name_decides() {
        let default = made(&["mx.example.org"]);
        let wild = made(&["*.Example.NET", "example.net"]);
        let exact = made(&["a.example.net", "mx.example.org"]);
        let given = made(&["never.test"]).names(["MX2.example.org", "*.deep.example.net"]);
        let over = made(&["never.test"]).names(["mx3.example.org"]);
        let last = made(&["mx3.example.org", "a.example.net"]);
        let others = [
            wild.clone(),
            exact.clone(),
            last,
            given.clone(),
            over.clone(),
        ];
        let certificates = read(&default, &others).unwrap();
        for (name, want) in [
            (None, &default),
            (Some("mx.example.org"), &default),
            (Some("MX.Example.Org"), &default),
            (Some("unknown.test"), &default),
            (Some("localhost"), &default),
            (Some("never.test"), &default),
            (Some("example.net"), &wild),
            (Some("b.example.net"), &wild),
            (Some("a.example.net"), &exact),
            (Some("A.EXAMPLE.NET"), &exact),
            (Some("c.b.example.net"), &default),
            (Some("deep.example.net"), &wild),
            (Some("x.deep.example.net"), &given),
            (Some("mx2.example.org"), &given),
            (Some("mx3.example.org"), &over),
        ] {
            let schemes = [SignatureScheme::ECDSA_NISTP256_SHA256];
            let chosen = certificates.choose(name, &schemes).unwrap();
            assert_eq!(chosen.key.cert[0].to_vec(), own(want), "{name:?}");
            assert_eq!(
                chosen.end_point(),
                binding::end_point(&own(want)).as_deref()
            );
        }
    }

    #[test]
    fn a_client_that_can_verify_the_second_certificate_only_is_refused() {
        const RSA: SignatureScheme = SignatureScheme::RSA_PSS_SHA256;
        const P256: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;
        let rsa = rsa().names(["mx.example.org"]);
        let ecdsa = made(&[]).names(["mx.example.org"]);
        let other = made(&["other.test"]);
        for (default, others) in [
            (&ecdsa, [rsa.clone(), other.clone()]),
            (&other, [ecdsa.clone(), rsa.clone()]),
        ] {
            let certificates = read(default, &others).unwrap();
            let is_default = default.chain.read().unwrap() == ecdsa.chain.read().unwrap();
            for (name, schemes, want) in [
                (Some("mx.example.org"), &[RSA, P256][..], &ecdsa),
                (Some("mx.example.org"), &[RSA], &rsa),
                (None, &[RSA, P256], default),
                (None, &[RSA], if is_default { &rsa } else { default }),
                (Some("other.test"), &[RSA], &other),
                (Some("unknown.test"), &[P256], default),
                // The handshake fails.
                (Some("mx.example.org"), &[SignatureScheme::ED448], &ecdsa),
            ] {
                let chosen = certificates.choose(name, schemes).unwrap();
                assert_eq!(
                    chosen.key.cert[0].to_vec(),
                    own(want),
                    "{name:?} {schemes:?}"
                );
            }
        }
    }

    #[test]
    fn a_certificate_that_nobody_can_ask_for_is_an_error() {
        let nameless = made(&[]);
        assert!(read(&nameless, &[]).is_ok());
        let error = read(&nameless, std::slice::from_ref(&nameless)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the certificate has no DNS name, and none was given"
        );
        for name in [
            "",
            "*",
            "a*.example.org",
            "*.*.example.org",
            "mäx.test",
            "a b",
        ] {
            let error = read(&nameless, &[made(&[]).names([name])]).unwrap_err();
            let text = error.to_string();
            assert!(text.ends_with(" is no name of a host"), "{text}");
        }
    }
}
