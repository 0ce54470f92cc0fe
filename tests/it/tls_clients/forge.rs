//! Certificates that no tool of ours makes, and signatures that are none.

use std::sync::Arc;

use support::pki::{Authority, Issued};
use tokio_rustls::rustls::{
    Error, SignatureAlgorithm, SignatureScheme,
    pki_types::CertificateDer,
    sign::{Signer, SigningKey},
};

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;
const ECDSA_SHA256: &[u8] = &[6, 8, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 2];
pub const ECDSA_SHA1: &[u8] = &[6, 7, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 1];

pub fn element(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    match value.len() {
        0..=0x7F => [&[tag, length[1]], value].concat(),
        0x80..=0xFF => [&[tag, 0x81, length[1]], value].concat(),
        _ => [&[tag, 0x82, length[0], length[1]], value].concat(),
    }
}

/// The elements of this one, each with its tag and length.
fn elements(whole: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = value(whole);
    let mut found = Vec::new();
    while !rest.is_empty() {
        let end = rest.len() - after(rest).len();
        found.push(rest[..end].to_vec());
        rest = &rest[end..];
    }
    found
}

fn header(element: &[u8]) -> (usize, usize) {
    match element[1] {
        length @ 0..=0x7F => (2, length.into()),
        0x81 => (3, element[2].into()),
        0x82 => (4, u16::from_be_bytes([element[2], element[3]]).into()),
        other => panic!("{other:#x}"),
    }
}

fn value(element: &[u8]) -> &[u8] {
    let (start, length) = header(element);
    &element[start..start + length]
}

fn after(element: &[u8]) -> &[u8] {
    let (start, length) = header(element);
    &element[start + length..]
}

/// The parts of what is signed (RFC 5280 section 4.1).
pub struct Parts(Vec<Vec<u8>>);

impl Parts {
    /// Makes it a certificate of version 1: without a version, and without extensions.
    pub fn version_1(&mut self) {
        self.0.remove(0);
        self.0.pop();
    }

    pub fn key(&mut self, algorithm: &[u8], key: &[u8]) {
        let algorithm = element(SEQUENCE, algorithm);
        let key = element(BIT_STRING, &[&[0], key].concat());
        self.0[6] = element(SEQUENCE, &[algorithm, key].concat());
    }
}

/// The same certificate with other parts, signed again.
pub fn forged(
    by: &Authority,
    issued: &Issued,
    change: impl FnOnce(&mut Parts),
) -> CertificateDer<'static> {
    signed(by, issued, ECDSA_SHA256, change)
}

/// The same, as if it were signed by another algorithm.
pub fn signed(
    by: &Authority,
    issued: &Issued,
    algorithm: &[u8],
    change: impl FnOnce(&mut Parts),
) -> CertificateDer<'static> {
    let algorithm = element(SEQUENCE, algorithm);
    let mut parts = Parts(elements(&elements(&issued.der)[0]));
    parts.0[2].clone_from(&algorithm);
    change(&mut parts);
    let tbs = element(SEQUENCE, &parts.0.concat());
    let signature = [&[0], &by.sign(&tbs)[..]].concat();
    let all = [tbs, algorithm, element(BIT_STRING, &signature)];
    element(SEQUENCE, &all.concat()).into()
}

/// An RSA key (RFC 8017 appendix A.1.1) with a modulus of that many bytes.
pub fn rsa(bytes: usize) -> Vec<u8> {
    let modulus = [&[0][..], &vec![0xC1; bytes]].concat();
    let numbers = [element(2, &modulus), element(2, &[1, 0, 1])].concat();
    element(SEQUENCE, &numbers)
}

pub const RSA: &[u8] = &[6, 9, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 1, 5, 0];
pub const P256: &[u8] = &[
    6, 7, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 2, 1, 6, 8, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 3, 1, 7,
];
pub const P521: &[u8] = &[
    6, 7, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 2, 1, 6, 5, 0x2B, 0x81, 4, 0, 35,
];
pub const ED448: &[u8] = &[6, 3, 0x2B, 0x65, 0x71];

/// A key whose signatures are worthless: nobody can verify them, or nobody should accept them.
pub fn worthless(scheme: SignatureScheme) -> Arc<dyn SigningKey> {
    Arc::new(Worthless(scheme))
}

#[derive(Clone, Copy, Debug)]
struct Worthless(SignatureScheme);

impl SigningKey for Worthless {
    fn choose_scheme(&self, _: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        Some(Box::new(*self))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for Worthless {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(vec![0x30, 6, 2, 1, 1, 2, 1, 1])
    }

    fn scheme(&self) -> SignatureScheme {
        self.0
    }
}
