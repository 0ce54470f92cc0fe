//! The certificate: from files, or made at start.

use std::{
    error::Error,
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rcgen::CertifiedKey;
use smtpd_tower::tls::TlsConfig;

use crate::options::Options;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// TLS as the options want it; `None` where they do not.
pub(crate) fn config(options: &Options, hostname: &str) -> Result<Option<TlsConfig>> {
    if let Some(cert) = &options.tls_cert {
        let key = options.tls_key.as_ref().unwrap_or(cert);
        let Some(file) = &options.tls_key_passphrase_file else {
            return Ok(Some(TlsConfig::from_pem_files(cert, key)?));
        };
        let text = fs::read_to_string(file).map_err(|error| named(file, error))?;
        // An editor ends the line, but a passphrase may end with a blank.
        let passphrase = text.trim_end_matches(['\r', '\n']);
        return Ok(Some(TlsConfig::from_pem_files_with_passphrase(
            cert, key, passphrase,
        )?));
    }
    if options.tls_self_signed_keep == Some(true) {
        let parent = options
            .maildir()
            .parent()
            .map(Path::to_owned)
            .unwrap_or_default();
        return Ok(Some(kept(&parent, hostname)?));
    }
    if options.tls_self_signed == Some(true) {
        let (cert, key) = self_signed(hostname)?;
        return Ok(Some(TlsConfig::from_pem(cert.as_bytes(), key.as_bytes())?));
    }
    Ok(None)
}

/// The certificate of an earlier start; at the first one it is made.
fn kept(directory: &Path, hostname: &str) -> Result<TlsConfig> {
    let (cert, key) = (
        directory.join("smtpd-cert.pem"),
        directory.join("smtpd-key.pem"),
    );
    if !cert.exists() && !key.exists() {
        let (cert_pem, key_pem) = self_signed(hostname)?;
        fs::create_dir_all(directory).map_err(|error| named(directory, error))?;
        write_private(&key, &key_pem).map_err(|error| named(&key, error))?;
        fs::write(&cert, cert_pem).map_err(|error| named(&cert, error))?;
    }
    Ok(TlsConfig::from_pem_files(cert, key)?)
}

/// A certificate for the host, and for whoever connects on this machine; with its key.
fn self_signed(hostname: &str) -> Result<(String, String)> {
    let names = [hostname, "localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names)?;
    Ok((cert.pem(), signing_key.serialize_pem()))
}

/// Writes a file that only its owner can read.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    options.mode(0o600);
    options.open(path)?.write_all(text.as_bytes())
}

fn named(path: &Path, error: std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_certificate_is_the_same_at_the_next_start() {
        use std::os::unix::fs::PermissionsExt as _;

        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        kept(directory, "mx.test").unwrap();
        let read = || fs::read(directory.join("smtpd-cert.pem")).unwrap();
        let first = read();
        kept(directory, "mx.test").unwrap();
        assert_eq!(first, read());
        let key = fs::metadata(directory.join("smtpd-key.pem")).unwrap();
        assert_eq!(key.permissions().mode() & 0o777, 0o600);
    }
}
