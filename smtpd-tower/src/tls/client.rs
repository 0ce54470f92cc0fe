//! Client certificates.

use std::{io, sync::Arc};

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use tokio_rustls::rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::WebPkiSupportedAlgorithms,
    server::{
        ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::{
    chain,
    error::{Problem, TlsError},
    parts::Parts,
    pem,
    provider::Provider,
    revocation::{self, Current, List},
    source::ClientCertificates,
    warning::TlsWarning,
};

/// Verifies client certificates.
#[derive(Clone, Debug)]
pub(super) struct ClientVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    algorithms: WebPkiSupportedAlgorithms,
    /// The authorities with name constraints.
    constrained: Arc<[Vec<u8>]>,
}

impl ClientVerifier {
    pub(super) fn read(
        source: &ClientCertificates,
        provider: &Provider,
    ) -> Result<(Self, Vec<TlsWarning>), TlsError> {
        let blame = |problem| source.authorities.blame(problem);
        let text = source.authorities.read()?;
        let certificates = pem::certificates(&text).map_err(blame)?;
        let parts = chain::parts(&certificates).map_err(blame)?;
        let roots = Arc::new(roots(&certificates).map_err(blame)?);
        let lists = revocation::read(source)?;
        let algorithms = provider.crypto().signature_verification_algorithms;
        let current = Current::of(&lists, &parts, &algorithms)?;
        let warnings = current.warnings(source, &certificates, &parts);
        let constrained = parts.iter().filter(|parts| parts.constrains_names);
        let verifier = Self {
            inner: verifier(source, &roots, &lists, &current, provider)?,
            algorithms,
            constrained: constrained.map(|parts| parts.subject.to_vec()).collect(),
        };
        Ok((verifier, warnings))
    }

    /// The verifier for the handshake.
    pub(super) fn for_handshake(&self) -> Arc<dyn ClientCertVerifier> {
        if self.inner.client_auth_mandatory() {
            self.inner.clone()
        } else {
            Arc::new(Lenient(self.clone()))
        }
    }

    /// Returns the chain if it verifies now, even in a resumed session, for which the handshake does not verify it again. If a
    /// certificate is required, none is an error.
    pub(super) fn verified<'a, 'c>(
        &self,
        chain: &'c [CertificateDer<'a>],
    ) -> io::Result<&'c [CertificateDer<'a>]> {
        let Some((own, others)) = chain.split_first() else {
            return Ok(&[]);
        };
        let verified = if self.can_prove(own) {
            self.inner
                .verify_client_cert(own, others, UnixTime::now())
                .map(drop)
        } else {
            Err(Error::General("a key that cannot be used".to_owned()))
        };
        match verified {
            Ok(()) => Ok(chain),
            Err(error) if self.inner.client_auth_mandatory() => {
                Err(io::Error::new(io::ErrorKind::InvalidData, error))
            }
            Err(_) => Ok(&[]),
        }
    }

    /// Returns whether the client can prove that it has the key of this certificate: the certificate can be read, and signatures
    /// of its key can be verified.
    fn can_prove(&self, certificate: &CertificateDer<'_>) -> bool {
        let is_known = |parts: Parts<'_>| {
            let mut algorithms = self.algorithms.all.iter();
            parts.key.is_usual()
                && algorithms.any(|known| *known.public_key_alg_id() == *parts.key.algorithm)
        };
        ParsedCertificate::try_from(certificate).is_ok()
            && Parts::read(certificate).is_some_and(is_known)
    }

    /// Returns whether an authority that signed this verified chain has name constraints, which never cover common names.
    pub(super) fn has_constrained_authority(&self, chain: &[CertificateDer<'_>]) -> bool {
        let mut signed = chain.iter().filter_map(|der| Parts::read(der));
        !self.constrained.is_empty()
            && signed.any(|parts| self.constrained.iter().any(|name| *name == parts.issuer))
    }
}

fn roots(certificates: &[CertificateDer<'static>]) -> Result<RootCertStore, Problem> {
    let mut roots = RootCertStore::empty();
    for (n, certificate) in (1..).zip(certificates) {
        roots
            .add(certificate.clone())
            .map_err(|error| Problem::CertificateUnusable(n, error))?;
    }
    Ok(roots)
}

fn verifier(
    source: &ClientCertificates,
    roots: &Arc<RootCertStore>,
    lists: &[List<'_>],
    current: &Current<'_>,
    provider: &Provider,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let with = |lists: &[&[u8]]| {
        let owned = |der: &&[u8]| CertificateRevocationListDer::from(der.to_vec());
        let builder =
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.crypto().clone())
                .enforce_revocation_expiration()
                .with_crls(lists.iter().map(owned));
        let builder = if source.required {
            builder
        } else {
            builder.allow_unauthenticated()
        };
        builder.build()
    };
    // One at a time, to find out which one cannot be used.
    for list in lists {
        let unusable = |error| Problem::ListUnusable(list.number, Box::new(error));
        with(&[&list.der]).map_err(|error| list.source.blame(unusable(error)))?;
    }
    let blame = |problem| source.authorities.blame(problem);
    let verifier = |lists: &[&[u8]]| {
        let unusable = |error: VerifierBuilderError| Problem::AuthoritiesUnusable(error.into());
        with(lists).map_err(|error| blame(unusable(error)))
    };
    let main = verifier(&current.all())?;
    let sets = current.other_sets().map_err(blame)?;
    if sets.is_empty() {
        return Ok(main);
    }
    let others = sets.iter().map(|set| verifier(set));
    Ok(Arc::new(AnyOf {
        main,
        others: others.collect::<Result<_, _>>()?,
    }))
}

/// Verifies a certificate by the first verifier, and if that fails, by the next. They differ only in their revocation lists.
#[derive(Debug)]
struct AnyOf {
    main: Arc<dyn ClientCertVerifier>,
    others: Vec<Arc<dyn ClientCertVerifier>>,
}

impl ClientCertVerifier for AnyOf {
    fn client_auth_mandatory(&self) -> bool {
        self.main.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.main.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.main.verify_client_cert(own, others, now);
        verified.or_else(|error| {
            let rest = self.others.iter();
            let mut rest = rest.map(|verifier| verifier.verify_client_cert(own, others, now));
            rest.find_map(Result::ok).ok_or(error)
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.main
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.main
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.main.supported_verify_schemes()
    }
}

/// Accepts a certificate that does not verify, or cannot be read. The client still has to prove that it has the key, if
/// [possible](ClientVerifier::can_prove). The session does not see the certificate, because [`ClientVerifier::verified`] is
/// called after the handshake.
#[derive(Debug)]
struct Lenient(ClientVerifier);

impl ClientCertVerifier for Lenient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !self.0.can_prove(certificate) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let verifier = &self.0.inner;
        verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !self.0.can_prove(certificate) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let verifier = &self.0.inner;
        verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
#[cfg(feature = "tls-ring")]
mod tests {
    use rcgen::{CertificateParams, CertifiedIssuer, KeyPair, date_time_ymd};

    use super::*;

    type Authority = CertifiedIssuer<'static, KeyPair>;

    fn authority() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn issued(by: &Authority, expires: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(["client.test".to_owned()]).unwrap();
        params.not_after = date_time_ymd(expires, 1, 1);
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, by).unwrap().into()
    }

    /// So does the check after the handshake, even if that has resumed a session and ignored the certificate.
    #[test]
    fn only_what_verifies_now_is_returned() {
        let (ours, theirs) = (authority(), authority());
        let optional = ClientCertificates::from_pem(ours.pem());
        for source in [optional.clone(), optional.required()] {
            let (verifier, _) = ClientVerifier::read(&source, &Provider::ring()).unwrap();
            for (certificate, good) in [
                (issued(&ours, 4000), true),
                (issued(&ours, 2001), false),
                (issued(&theirs, 4000), false),
                (CertificateDer::from(vec![0x30, 0x00]), false),
            ] {
                let chain = [certificate];
                let shown = verifier.verified(&chain).map(<[_]>::len).ok();
                let none = if source.required { None } else { Some(0) };
                assert_eq!(shown, if good { Some(1) } else { none });
            }
            assert!(verifier.verified(&[]).unwrap().is_empty());
        }
    }

    #[test]
    fn authorities_that_cannot_be_used_are_named() {
        let pem = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        for (pem, text) in [
            ("", "no certificate found"),
            (pem, "certificate 1 is damaged"),
        ] {
            let source = ClientCertificates::from_pem(pem);
            let error = ClientVerifier::read(&source, &Provider::ring()).unwrap_err();
            assert_eq!(error.to_string(), text);
        }
    }
}
