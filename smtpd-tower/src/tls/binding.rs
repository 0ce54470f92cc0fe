//! Channel bindings for SCRAM.

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use smtpd_core::sasl::{ChannelBinding, ChannelBindings};
use tokio_rustls::rustls::{ProtocolVersion, ServerConnection};

use super::{
    certificate,
    der::{Element, OBJECT_IDENTIFIER, Reader, SEQUENCE, context},
};

/// Returns the channel bindings that `connection` exports, once its handshake is done.
///
/// For TLS 1.2, `tls-exporter` needs the extended master secret (RFC 9266 section 4.2). rustls does not tell whether it is in
/// use, so the server has to require it. Nor does rustls expose the Finished messages that `tls-unique` is made of.
pub(super) fn exported(
    connection: &ServerConnection,
    extended_master_secret: bool,
) -> ChannelBindings {
    let is_tls13 = connection.protocol_version() == Some(ProtocolVersion::TLSv1_3);
    if is_tls13 || extended_master_secret {
        // RFC 9266 section 2: 32 octets, this label, a context of no octets.
        let label = b"EXPORTER-Channel-Binding";
        if let Ok(exported) = connection.export_keying_material([0; 32], label, Some(b"")) {
            return ChannelBindings::none().with(ChannelBinding::TlsExporter, exported);
        }
    }
    ChannelBindings::none()
}

/// Returns the hash of a server's certificate, by the function that its signature uses (RFC 5929 section 4.1); `None` if it uses
/// none, like Ed25519, or one that is unknown here.
pub(super) fn end_point(der: &[u8]) -> Option<Vec<u8>> {
    let (algorithm, parameters) = certificate::signature_algorithm(der)?;
    let hash = if algorithm == RSASSA_PSS {
        pss_hash(parameters?)?
    } else {
        by_identifier(&SIGNATURES, algorithm)?
    };
    Some(match hash {
        Hash::Sha224 => Sha224::digest(der).to_vec(),
        Hash::Sha256 => Sha256::digest(der).to_vec(),
        Hash::Sha384 => Sha384::digest(der).to_vec(),
        Hash::Sha512 => Sha512::digest(der).to_vec(),
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hash {
    Sha224,
    /// Also replaces MD5 and SHA-1 (RFC 5929 section 4.1).
    Sha256,
    Sha384,
    Sha512,
}

type Identifiers<const N: usize> = [(&'static [u8], Hash); N];

/// RFC 8017 appendix C, RFC 5758 section 3.2, RFC 3279 section 2.2.3.
const SIGNATURES: Identifiers<11> = [
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 4], Hash::Sha256),
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 5], Hash::Sha256),
    (
        &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 11],
        Hash::Sha256,
    ),
    (
        &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 12],
        Hash::Sha384,
    ),
    (
        &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 13],
        Hash::Sha512,
    ),
    (
        &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 14],
        Hash::Sha224,
    ),
    (&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 1], Hash::Sha256),
    (&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 1], Hash::Sha224),
    (&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 2], Hash::Sha256),
    (&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 3], Hash::Sha384),
    (&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 4], Hash::Sha512),
];

const RSASSA_PSS: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 10];

/// RFC 4055 section 2.1.
const HASHES: Identifiers<5> = [
    (&[0x2B, 14, 3, 2, 26], Hash::Sha256),
    (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1], Hash::Sha256),
    (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2], Hash::Sha384),
    (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3], Hash::Sha512),
    (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 4], Hash::Sha224),
];

/// RSASSA-PSS names its hash in the parameters (RFC 4055 section 3.1); the default is SHA-1.
fn pss_hash(parameters: Element<'_>) -> Option<Hash> {
    if parameters.tag != SEQUENCE {
        return None;
    }
    match Reader::new(parameters.value).optional(context(0)) {
        Some(algorithm) => {
            let mut algorithm = Reader::new(algorithm).enter(SEQUENCE)?;
            by_identifier(&HASHES, algorithm.read(OBJECT_IDENTIFIER)?)
        }
        None => Some(Hash::Sha256),
    }
}

fn by_identifier(known: &[(&[u8], Hash)], identifier: &[u8]) -> Option<Hash> {
    known
        .iter()
        .find(|(known, _)| *known == identifier)
        .map(|(_, hash)| *hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds the part of a certificate that is read.
    fn certificate(algorithm: &[u8]) -> Vec<u8> {
        let mut der = vec![SEQUENCE, 0, SEQUENCE, 0];
        der.extend_from_slice(algorithm);
        der[1] = u8::try_from(der.len() - 2).unwrap();
        der
    }

    fn signed_by(identifier: &[u8], parameters: &[u8]) -> Vec<u8> {
        let length = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap();
        let identifier = [&[OBJECT_IDENTIFIER, length(identifier)], identifier].concat();
        let algorithm = [identifier, parameters.to_vec()].concat();
        certificate(&[&[SEQUENCE, length(&algorithm)], &*algorithm].concat())
    }

    #[test]
    fn the_hash_follows_from_the_signature() {
        let pss_384 = [
            SEQUENCE, 15, 0xA0, 13, SEQUENCE, 11, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2,
        ];
        for (der, len) in [
            (signed_by(SIGNATURES[0].0, &[5, 0]), Some(32)),
            (signed_by(SIGNATURES[1].0, &[5, 0]), Some(32)),
            (signed_by(SIGNATURES[3].0, &[5, 0]), Some(48)),
            (signed_by(SIGNATURES[8].0, &[]), Some(32)),
            (signed_by(SIGNATURES[10].0, &[]), Some(64)),
            (signed_by(RSASSA_PSS, &pss_384), Some(48)),
            (signed_by(RSASSA_PSS, &[SEQUENCE, 0]), Some(32)),
            (signed_by(RSASSA_PSS, &[]), None),
            // Ed25519 (RFC 8410 section 3) has no hash function of its own.
            (signed_by(&[0x2B, 0x65, 0x70], &[]), None),
            (certificate(&[]), None),
        ] {
            let hash = end_point(&der);
            assert_eq!(hash.as_ref().map(Vec::len), len, "{der:02x?}");
            if len == Some(32) {
                assert_eq!(hash.unwrap(), Sha256::digest(&der).to_vec());
            }
        }
    }
}
