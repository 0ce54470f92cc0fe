//! Warnings about certificates and keys that work.

use std::{fmt, path::Path};

use super::parts::Time;

/// Something in the files of a [`TlsConfig`](super::TlsConfig) that is probably a mistake, though TLS works with it.
///
/// Its text names the file and what is odd, as in `cert.pem: certificate 1 expired on 2026-01-31`. See
/// [`TlsConfig::warnings`](super::TlsConfig::warnings).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsWarning {
    oddity: Oddity,
    path: Option<Box<Path>>,
}

impl TlsWarning {
    pub(super) fn new(oddity: Oddity, path: Option<&Path>) -> Self {
        Self {
            oddity,
            path: path.map(Box::from),
        }
    }

    /// Returns the file that it is about. `None` if the PEM did not come from a file.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Returns whether the warning applies at `now`.
    pub(super) fn applies_at(&self, now: Time) -> bool {
        match self.oddity {
            Oddity::Expired(_, day) | Oddity::ListExpired(_, day) => day < now,
            Oddity::NotYetValid(_, day) => day > now,
            _ => true,
        }
    }

    /// Returns whether a certificate or a revocation list has expired, or is not valid yet.
    pub fn is_out_of_date(&self) -> bool {
        matches!(
            self.oddity,
            Oddity::Expired(..) | Oddity::NotYetValid(..) | Oddity::ListExpired(..)
        )
    }

    /// Returns whether others than its owner may read or write the file of a private key. If root owns it, its group may read it.
    pub fn is_key_exposed(&self) -> bool {
        matches!(self.oddity, Oddity::KeyExposed(_))
    }
}

impl fmt::Display for TlsWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}: ", path.display())?;
        }
        self.oddity.fmt(f)
    }
}

/// Certificates and lists are counted from 1. Variants with a time exist before it is reached; [`TlsWarning::applies_at`]
/// compares it with the clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Oddity {
    Expired(usize, Time),
    NotYetValid(usize, Time),
    Twice(usize),
    Unrelated(usize),
    NoAlternativeName,
    NotFor(String),
    KeyExposed(u32),
    ListExpired(usize, Time),
    NoList(String),
    ListNotSigned(usize, String),
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired(n, day) => write!(f, "certificate {n} expired on {day}"),
            Self::NotYetValid(n, day) => write!(f, "certificate {n} is not valid before {day}"),
            Self::Twice(n) => write!(f, "certificate {n} appears twice"),
            Self::Unrelated(n) => write!(f, "certificate {n} is not part of the chain"),
            Self::NoAlternativeName => f.write_str(
                "the certificate has no subject alternative name, and no client that verifies it accepts that",
            ),
            Self::NotFor(host) => write!(f, "the certificate is not for {host}"),
            Self::KeyExposed(mode) => write!(
                f,
                "the private key is open to others than its owner (mode {mode:04o})"
            ),
            Self::ListExpired(n, day) => write!(
                f,
                "revocation list {n} expired on {day}: no certificate of its authority is accepted until there is a new one"
            ),
            Self::NoList(authority) => write!(
                f,
                "no revocation list of the authority {authority}: none of its certificates is accepted"
            ),
            Self::ListNotSigned(n, authority) => write!(
                f,
                "revocation list {n} names the authority {authority} but is not signed with its key"
            ),
        }
    }
}

#[cfg(test)]
#[cfg(feature = "tls-ring")]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
        IsCa, KeyIdMethod, KeyPair, SerialNumber, date_time_ymd,
    };
    use rustls_pki_types::UnixTime;

    use crate::tls::{ClientCertificates, ServerCertificate, TlsBuilder, TlsConfig};

    /// A certificate that is valid from 2001 to 2100, and a list that expires in 2090.
    fn config() -> TlsConfig {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2001, 1, 1),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&authority).unwrap().pem().unwrap();
        let mut params = CertificateParams::new(["mx.test".to_owned()]).unwrap();
        (params.not_before, params.not_after) =
            (date_time_ymd(2001, 1, 1), date_time_ymd(2100, 1, 1));
        let key = KeyPair::generate().unwrap();
        let own = params.signed_by(&key, &authority).unwrap();
        TlsBuilder::new(ServerCertificate::from_pem(own.pem(), key.serialize_pem()))
            .client_certificates(ClientCertificates::from_pem(authority.pem()).crl_pem(list))
            .build()
            .unwrap()
    }

    #[test]
    fn what_expires_while_the_server_runs_is_among_the_warnings() {
        let tls = config();
        let expired = "certificate 1 expired on 2100-01-01";
        let list = "revocation list 1 expired on 2090-01-01: \
            no certificate of its authority is accepted until there is a new one";
        for (year, expected) in [
            (1990, &["certificate 1 is not valid before 2001-01-01"][..]),
            (2026, &[]),
            (2095, &[list]),
            (2101, &[expired, list]),
        ] {
            let seconds = u64::try_from(date_time_ymd(year, 1, 1).unix_timestamp()).unwrap();
            let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
            let found = tls.warnings_at(now);
            let texts: Vec<_> = found.iter().map(ToString::to_string).collect();
            assert_eq!(texts, expected, "{year}");
            assert!(found.iter().all(super::TlsWarning::is_out_of_date));
        }
    }
}
