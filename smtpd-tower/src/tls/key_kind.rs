//! Determines the kind of a private key, to explain why it cannot be used.

use rustls_pki_types::PrivateKeyDer;

use super::{
    certificate::Kind,
    der::{INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, Reader, SEQUENCE, context},
    parts::{EC, RSA, without_zeros},
};

/// Describes what providers do not support about a key; `None` if it is of a usual kind and size, or cannot be determined. The
/// text contains nothing secret.
pub(super) fn unsupported(key: &PrivateKeyDer<'_>) -> Option<String> {
    match key {
        PrivateKeyDer::Pkcs1(key) => rsa(key.secret_pkcs1_der()),
        PrivateKeyDer::Sec1(key) => sec1(key.secret_sec1_der()),
        PrivateKeyDer::Pkcs8(key) => pkcs8(key.secret_pkcs8_der()),
        _ => None,
    }
}

/// RFC 8017 appendix A.1.2.
fn rsa(der: &[u8]) -> Option<String> {
    let mut key = Reader::new(der).enter(SEQUENCE)?;
    key.read(INTEGER)?; // the version
    let modulus = without_zeros(key.read(INTEGER)?);
    let unused = modulus.first()?.leading_zeros() as usize;
    let bits = modulus.len() * 8 - unused;
    (!(2047..=4096).contains(&bits)).then(|| format!("RSA keys of {bits} bits"))
}

/// RFC 5915 section 3.
fn sec1(der: &[u8]) -> Option<String> {
    let mut key = Reader::new(der).enter(SEQUENCE)?;
    key.read(INTEGER)?; // the version
    key.read(OCTET_STRING)?; // the key
    curve(Reader::new(key.optional(context(0))?).read(OBJECT_IDENTIFIER)?)
}

/// RFC 5958 section 2.
fn pkcs8(der: &[u8]) -> Option<String> {
    let mut key = Reader::new(der).enter(SEQUENCE)?;
    key.read(INTEGER)?; // the version
    let mut algorithm = key.enter(SEQUENCE)?;
    match algorithm.read(OBJECT_IDENTIFIER)? {
        RSA => rsa(key.read(OCTET_STRING)?),
        EC => curve(algorithm.read(OBJECT_IDENTIFIER)?),
        ED25519 => None,
        other => Some(match ALGORITHMS.iter().find(|(known, _)| *known == other) {
            Some((_, name)) => format!("{name} keys"),
            None => format!("keys for the algorithm {}", Kind(other)),
        }),
    }
}

fn curve(identifier: &[u8]) -> Option<String> {
    if [P256, P384].contains(&identifier) {
        return None;
    }
    Some(
        match CURVES.iter().find(|(known, _)| *known == identifier) {
            Some((_, name)) => format!("keys on the curve {name}"),
            None => format!("keys on the curve {}", Kind(identifier)),
        },
    )
}

/// RFC 5480 section 2.1.1.1.
const P256: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 3, 1, 7];
const P384: &[u8] = &[0x2B, 0x81, 4, 0, 34];
const CURVES: [(&[u8], &str); 3] = [
    (&[0x2B, 0x81, 4, 0, 33], "P-224"),
    (&[0x2B, 0x81, 4, 0, 35], "P-521"),
    (&[0x2B, 0x81, 4, 0, 10], "secp256k1"),
];

/// RFC 8410 section 3.
const ED25519: &[u8] = &[0x2B, 0x65, 0x70];
const ALGORITHMS: [(&[u8], &str); 5] = [
    (&[0x2B, 0x65, 0x6E], "X25519"),
    (&[0x2B, 0x65, 0x6F], "X448"),
    (&[0x2B, 0x65, 0x71], "Ed448"),
    // RFC 3279 section 2.3.2, RFC 4055 section 3.1.
    (&[0x2A, 0x86, 0x48, 0xCE, 0x38, 4, 1], "DSA"),
    (
        &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 10],
        "RSASSA-PSS",
    ),
];

#[cfg(test)]
mod tests {
    use rustls_pki_types::{PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};

    use super::*;

    fn element(tag: u8, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len()).unwrap().to_be_bytes();
        [&[tag, 0x82], &length[..], value].concat()
    }

    fn rsa_key(modulus: &[u8]) -> Vec<u8> {
        let numbers = [element(INTEGER, &[0]), element(INTEGER, modulus)].concat();
        element(SEQUENCE, &numbers)
    }

    fn in_pkcs8(algorithm: &[u8], parameters: &[u8], key: &[u8]) -> PrivateKeyDer<'static> {
        let algorithm = [element(OBJECT_IDENTIFIER, algorithm), parameters.to_vec()].concat();
        let all = [
            element(INTEGER, &[0]),
            element(SEQUENCE, &algorithm),
            element(OCTET_STRING, key),
        ];
        PrivatePkcs8KeyDer::from(element(SEQUENCE, &all.concat())).into()
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let sec1 = |curve: &[u8]| {
            let curve = element(context(0), &element(OBJECT_IDENTIFIER, curve));
            let all = [
                element(INTEGER, &[1]),
                element(OCTET_STRING, &[7; 66]),
                curve,
            ];
            PrivateKeyDer::from(PrivateSec1KeyDer::from(element(SEQUENCE, &all.concat())))
        };
        let pkcs1 =
            |modulus: &[u8]| PrivateKeyDer::from(PrivatePkcs1KeyDer::from(rsa_key(modulus)));
        let ec = |curve: &[u8]| in_pkcs8(EC, &element(OBJECT_IDENTIFIER, curve), &[7; 66]);
        let p521 = CURVES[1].0;
        for (key, text) in [
            (
                pkcs1(&[&[0], &[0xFF; 128][..]].concat()),
                "RSA keys of 1024 bits",
            ),
            (pkcs1(&[0x1F; 256]), "RSA keys of 2045 bits"),
            (pkcs1(&[0xFF; 256]), ""),
            (pkcs1(&[0; 256]), ""),
            (
                in_pkcs8(RSA, &[5, 0], &rsa_key(&[0xFF; 1024])),
                "RSA keys of 8192 bits",
            ),
            (in_pkcs8(RSA, &[5, 0], &[]), ""),
            (sec1(p521), "keys on the curve P-521"),
            (sec1(P384), ""),
            (ec(p521), "keys on the curve P-521"),
            (ec(&[0x2B, 0x24, 3, 3]), "keys on the curve 1.3.36.3.3"),
            (ec(P256), ""),
            (in_pkcs8(ALGORITHMS[2].0, &[], &[7; 57]), "Ed448 keys"),
            (
                in_pkcs8(&[0x2A, 3, 4], &[], &[7; 57]),
                "keys for the algorithm 1.2.3.4",
            ),
            (in_pkcs8(ED25519, &[], &[7; 34]), ""),
            (PrivatePkcs8KeyDer::from(vec![0x30, 0]).into(), ""),
        ] {
            assert_eq!(unsupported(&key).unwrap_or_default(), text);
        }
    }
}
