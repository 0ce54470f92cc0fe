//! Reads PEM into a certificate with its key.

#[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]
use std::path::Path;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use tokio_rustls::rustls::{
    Error, InconsistentKeys,
    sign::{CertifiedKey, SigningKey},
};

#[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]
use super::{TlsBuilder, TlsConfig};
use super::{
    chain,
    error::{Problem, TlsError},
    key, key_kind, pem,
    provider::Provider,
    source::ServerCertificate,
    warning::{Oddity, TlsWarning},
};

/// Constructors for one certificate and the default provider; [`TlsBuilder`] is for everything else.
#[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]
impl TlsConfig {
    /// Reads the certificate chain (the server's own certificate first) and the private key from two PEM files, which may be the
    /// same file.
    ///
    /// The key is PKCS#8, PKCS#1 or SEC1. This blocks on the files: call it before the server starts, or from `spawn_blocking`.
    ///
    /// # Errors
    /// Returns a [`TlsError`] that names the file and what is wrong with it.
    ///
    /// ```no_run
    /// use smtpd_tower::tls::{TlsConfig, TlsError};
    ///
    /// # fn main() -> Result<(), TlsError> {
    /// let tls = TlsConfig::from_pem_files(
    ///     "/etc/smtpd/fullchain.pem",
    ///     "/etc/smtpd/privkey.pem",
    /// )?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_pem_files(cert: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self, TlsError> {
        let certificate = ServerCertificate::from_files(cert.as_ref(), key.as_ref());
        TlsBuilder::new(certificate).build()
    }

    /// Like [`from_pem_files`](Self::from_pem_files), with the passphrase of an encrypted key.
    ///
    /// Supports encrypted PKCS#8 (PBES2 with PBKDF2 or scrypt; AES or triple DES) and the older PEM encryption (`Proc-Type:
    /// 4,ENCRYPTED`; AES or triple DES). A key that is not encrypted is accepted too. Deriving the key from the passphrase may
    /// take a second of CPU. A file that requires more than ten million iterations of PBKDF2, or more than 1 GiB of memory or
    /// sixteen passes through it by scrypt, is rejected as [unsupported](TlsError::is_unsupported).
    ///
    /// # Errors
    /// Returns a [`TlsError`] that names the file and what is wrong with it, but never the passphrase.
    pub fn from_pem_files_with_passphrase(
        cert: impl AsRef<Path>,
        key: impl AsRef<Path>,
        passphrase: &str,
    ) -> Result<Self, TlsError> {
        let certificate = ServerCertificate::from_files(cert.as_ref(), key.as_ref());
        TlsBuilder::new(certificate.passphrase(passphrase)).build()
    }

    /// Like [`from_pem_files`](Self::from_pem_files), with the text of the files.
    ///
    /// # Errors
    /// Returns a [`TlsError`] without the name of a file.
    ///
    /// ```
    /// use smtpd_tower::tls::TlsConfig;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let dev = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    /// let (cert, key) = (dev.cert.pem(), dev.signing_key.serialize_pem());
    /// let tls = TlsConfig::from_pem(cert.as_bytes(), key.as_bytes())?;
    ///
    /// let refused = TlsConfig::from_pem(b"", key.as_bytes()).unwrap_err();
    /// assert_eq!(refused.to_string(), "no certificate found");
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_pem(cert: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        TlsBuilder::new(ServerCertificate::from_pem(cert, key)).build()
    }

    /// Like [`from_pem_files_with_passphrase`](Self::from_pem_files_with_passphrase), with the text of the files.
    ///
    /// # Errors
    /// Returns a [`TlsError`] without the name of a file and without the passphrase.
    pub fn from_pem_with_passphrase(
        cert: &[u8],
        key: &[u8],
        passphrase: &str,
    ) -> Result<Self, TlsError> {
        let certificate = ServerCertificate::from_pem(cert, key).passphrase(passphrase);
        TlsBuilder::new(certificate).build()
    }
}

/// Reads a certificate and its key, which must belong together. Also returns what is odd about them.
pub(super) fn certified_key(
    source: &ServerCertificate,
    provider: &Provider,
) -> Result<(CertifiedKey, Vec<TlsWarning>), TlsError> {
    let (cert, key) = (&source.chain, &source.key);
    let (cert_pem, key_pem) = (cert.read()?, key.read()?);
    let chain = pem::certificates(&cert_pem).map_err(|problem| cert.blame(problem))?;
    let parts = chain::parts(&chain).map_err(|problem| cert.blame(problem))?;
    let oddities = chain::oddities(&chain, &parts);
    let passphrase = source.passphrase.as_ref().map(|text| text.as_str());
    let signing_key =
        signing_key(&key_pem, passphrase, provider).map_err(|problem| key.blame(problem))?;
    let exposed = key.open_mode().map(Oddity::KeyExposed);
    let exposed = exposed.map(|oddity| key.warn(oddity));
    let oddities = oddities.into_iter().map(|oddity| cert.warn(oddity));
    let warnings = exposed.into_iter().chain(oddities).collect();
    let certified = CertifiedKey::new(chain, signing_key);
    match certified.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {
            Ok((certified, warnings))
        }
        Err(Error::InconsistentKeys(_)) => Err(match place_of_key(&certified) {
            Some(n) => cert.blame(Problem::KeyFitsAnother(n)),
            None => key.blame(Problem::KeyMismatch),
        }),
        Err(error) => Err(cert.blame(Problem::CertificateUnusable(1, error))),
    }
}

fn signing_key(
    pem: &[u8],
    passphrase: Option<&str>,
    provider: &Provider,
) -> Result<Arc<dyn SigningKey>, Problem> {
    let der = key::read(pem, passphrase)?;
    let unsupported = key_kind::unsupported(&der);
    // The provider zeroizes the key's DER, whether it accepts the key or not.
    let loaded = provider.crypto().key_provider.load_private_key(der);
    loaded.map_err(|error| match unsupported {
        Some(kind) => Problem::KeyKindUnsupported(kind),
        None => Problem::KeyUnusable(error.into()),
    })
}

/// Returns which certificate of the chain has this key, counted from 1.
fn place_of_key(certified: &CertifiedKey) -> Option<usize> {
    let fits = |certificate: &CertificateDer<'static>| {
        let alone = CertifiedKey::new(vec![certificate.clone()], certified.key.clone());
        alone.keys_match().is_ok()
    };
    certified.cert.iter().position(fits).map(|at| at + 1)
}

#[cfg(test)]
#[cfg(feature = "tls-ring")]
mod tests {
    use std::{error::Error as _, fs, path::PathBuf};

    use super::*;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures")
            .join(name)
    }

    /// Loads a key with the certificate that its name starts with.
    fn load_fixture(key: &str, passphrase: Option<&str>) -> Result<TlsConfig, TlsError> {
        let cert = if key.starts_with("rsa") {
            "rsa.crt"
        } else {
            "ec.crt"
        };
        let (cert, key) = (fixture(cert), fixture(key));
        match passphrase {
            Some(passphrase) => TlsConfig::from_pem_files_with_passphrase(cert, key, passphrase),
            None => TlsConfig::from_pem_files(cert, key),
        }
    }

    #[test]
    fn plain_keys_load_with_and_without_a_passphrase() {
        for key in ["rsa.key", "rsa-pkcs1.key", "ec.key", "ec-sec1.key"] {
            for passphrase in [None, Some("not needed")] {
                let config = load_fixture(key, passphrase);
                assert!(config.is_ok(), "{key}: {config:?}");
            }
        }
    }

    #[test]
    fn settings_are_as_documented() {
        let config = load_fixture("ec.key", None).unwrap().current();
        let config = &config.config;
        // A session cache would allow resumption too, but with a lock and memory shared by all sessions.
        assert!(config.ticketer.enabled());
        assert!(config.ignore_client_order);
        assert_eq!(config.alpn_protocols, [b"smtp"]);
    }

    #[cfg(feature = "encrypted-keys")]
    const ENCRYPTED: [&str; 13] = [
        "rsa-legacy-aes256.key",
        "rsa-legacy-des3.key",
        "ec-legacy-aes128.key",
        "ec-legacy-aes192.key",
        "ec-legacy-aes256.key",
        "ec-legacy-des3.key",
        "rsa-pkcs8-aes256.key",
        "ec-pkcs8-aes128.key",
        "ec-pkcs8-aes192.key",
        "ec-pkcs8-aes256.key",
        "ec-pkcs8-sha1.key",
        "ec-pkcs8-des3.key",
        "ec-pkcs8-scrypt.key",
    ];

    #[cfg(feature = "encrypted-keys")]
    #[test]
    fn encrypted_keys_load_with_their_passphrase_only() {
        for key in ENCRYPTED {
            let config = load_fixture(key, Some("correct horse"));
            assert!(config.is_ok(), "{key}: {config:?}");

            let wrong = load_fixture(key, Some("battery staple")).unwrap_err();
            assert!(wrong.is_passphrase_wrong(), "{key}: {wrong:?}");
            let text = format!("{wrong} {wrong:?}");
            assert!(text.contains("wrong passphrase or damaged key"), "{text}");
            assert!(!text.contains("staple"), "{text}");

            let missing = load_fixture(key, None).unwrap_err();
            assert!(missing.is_passphrase_missing(), "{key}: {missing:?}");
            assert!(
                missing
                    .to_string()
                    .starts_with(&fixture(key).display().to_string())
            );
        }
    }

    #[cfg(feature = "encrypted-keys")]
    #[test]
    fn wrong_passphrase_is_detected_even_if_the_padding_looks_right() {
        // Of 2000 wrong passphrases about 8 result in valid padding.
        let cert = fs::read(fixture("ec.crt")).unwrap();
        let key = fs::read(fixture("ec-legacy-aes128.key")).unwrap();
        for n in 0..2000 {
            let wrong = TlsConfig::from_pem_with_passphrase(&cert, &key, &n.to_string());
            let wrong = wrong.unwrap_err();
            assert!(wrong.is_passphrase_wrong(), "{n}: {wrong:?}");
        }
    }

    #[cfg(feature = "encrypted-keys")]
    #[test]
    fn keys_that_cannot_be_used_are_not_blamed_on_the_passphrase() {
        for key in ["ec-legacy-camellia256.key", "ec-pkcs8-pbes1.key"] {
            let error = load_fixture(key, Some("correct horse")).unwrap_err();
            assert!(
                error.is_unsupported() && error.source().is_some(),
                "{key}: {error:?}"
            );
        }
        let error = load_fixture("p521-pkcs8-aes256.key", Some("correct horse")).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with(": keys on the curve P-521 are not supported"),
            "{error:?}"
        );
        assert!(error.is_unsupported());
    }

    #[cfg(not(feature = "encrypted-keys"))]
    #[test]
    fn encrypted_keys_name_the_feature_that_reads_them() {
        for key in ["ec-legacy-aes128.key", "ec-pkcs8-aes256.key"] {
            for passphrase in [None, Some("correct horse")] {
                let error = load_fixture(key, passphrase).unwrap_err();
                assert!(error.is_unsupported(), "{key}: {error:?}");
                assert!(error.to_string().contains("`encrypted-keys`"), "{error}");
            }
        }
    }

    type Question = fn(&TlsError) -> bool;

    #[test]
    fn each_fault_names_its_file() {
        let garbage = "README.md";
        let table: [(_, _, _, Question); 7] = [
            (
                "none.crt",
                "ec.key",
                "none.crt: the file cannot be read",
                TlsError::is_io,
            ),
            (
                "ec.crt",
                "none.key",
                "none.key: the file cannot be read",
                TlsError::is_io,
            ),
            (
                garbage,
                "ec.key",
                "README.md: no certificate found",
                TlsError::is_certificate_missing,
            ),
            (
                "ec.key",
                "ec.key",
                "ec.key: no certificate found",
                TlsError::is_certificate_missing,
            ),
            (
                "ec.crt",
                garbage,
                "README.md: no private key found",
                TlsError::is_key_missing,
            ),
            (
                "ec.crt",
                "ec.crt",
                "ec.crt: no private key found",
                TlsError::is_key_missing,
            ),
            (
                "rsa.crt",
                "ec.key",
                "ec.key: the key does not fit the certificate",
                TlsError::is_key_mismatch,
            ),
        ];
        for (cert, key, text, is) in table {
            let error = TlsConfig::from_pem_files(fixture(cert), fixture(key)).unwrap_err();
            assert!(
                error.to_string().ends_with(&format!("/{text}")),
                "{text}: {error}"
            );
            assert!(is(&error), "{error:?}");
            assert_eq!(error.is_io(), error.source().is_some(), "{error:?}");
        }
    }

    /// Otherwise the thread that reloads the files would wait forever, and nothing would be reloaded any more.
    #[cfg(unix)]
    #[test]
    fn a_pipe_is_read_at_the_start_and_does_not_stop_a_reload() {
        let directory = tempfile::tempdir().unwrap();
        let (cert, key) = (directory.path().join("cert"), directory.path().join("key"));
        fs::copy(fixture("ec.crt"), &cert).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&key).status();
        assert!(made.unwrap().success());
        let pipe = key.clone();
        let writer = std::thread::spawn(move || {
            fs::write(pipe, fs::read(fixture("ec.key")).unwrap()).unwrap();
        });
        let tls = TlsConfig::from_pem_files(&cert, &key).unwrap();
        writer.join().unwrap();

        let error = tls.reload().unwrap_err();
        assert!(error.is_io() && error.path() == Some(&key), "{error:?}");
        let cause = error.source().unwrap().to_string();
        assert_eq!(cause, "only a regular file is read again");
        fs::remove_file(&key).unwrap();
        fs::copy(fixture("ec.key"), &key).unwrap();
        tls.reload().unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_file_without_end_is_not_read_to_its_end() {
        let error = TlsConfig::from_pem_files("/dev/zero", fixture("ec.key")).unwrap_err();
        assert!(error.is_io(), "{error:?}");
        let cause = error.source().unwrap().to_string();
        assert_eq!(cause, "it has more than 64 MiB");
    }

    #[test]
    fn damaged_certificate_and_key_are_distinguished() {
        let pem = |label: &str| format!("-----BEGIN {label}-----\nMAA=\n-----END {label}-----\n");
        let cert = fs::read_to_string(fixture("ec.crt")).unwrap();
        let key = fs::read_to_string(fixture("ec.key")).unwrap();
        let rsa = fs::read_to_string(fixture("rsa.crt")).unwrap();
        let table = [
            (pem("CERTIFICATE"), key.clone(), "certificate 1 is damaged"),
            (
                cert.clone() + &pem("CERTIFICATE"),
                key.clone(),
                "certificate 2 is damaged",
            ),
            (
                rsa + &cert,
                key.clone(),
                "the key fits certificate 2, but the server's certificate must come first",
            ),
            (
                cert.clone(),
                pem("PRIVATE KEY"),
                "the private key cannot be used",
            ),
            (
                cert.clone(),
                pem("OPENSSH PRIVATE KEY"),
                "a key of the kind \"OPENSSH PRIVATE KEY\" is not supported",
            ),
            (
                cert.clone(),
                key.replace("-----END", "-----ENDE"),
                "damaged PEM: a section does not end",
            ),
        ];
        for (cert, key, text) in table {
            let error = TlsConfig::from_pem(cert.as_bytes(), key.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), text);
            assert_eq!(error.path(), None);
        }
    }

    #[cfg(feature = "encrypted-keys")]
    #[test]
    fn one_file_holds_an_encrypted_key_and_the_chain() {
        let mut both = fs::read(fixture("ec-legacy-aes256.key")).unwrap();
        for cert in ["ec.crt", "rsa.crt"] {
            both.extend(fs::read(fixture(cert)).unwrap());
        }
        assert_eq!(pem::certificates(&both).unwrap().len(), 2);
        TlsConfig::from_pem_with_passphrase(&both, &both, "correct horse").unwrap();
    }
}
