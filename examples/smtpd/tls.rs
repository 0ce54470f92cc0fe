//! The certificates: from files, or made at start; and kept fresh.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use rcgen::CertifiedKey;
use smtpd_tower::{
    BoxError, Server,
    tls::{ClientCertificates, ServerCertificate, TlsBuilder, TlsConfig, TlsError},
};
use tokio::{signal::unix::Signal, task};

use crate::{options::Options, with_causes};

type Result<T> = std::result::Result<T, BoxError>;

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_secs(60);

/// TLS as the options want it; `None` where they do not.
pub(crate) fn config(options: &Options, hostname: &str) -> Result<Option<TlsConfig>> {
    let passphrase = passphrase(options)?;
    let with_passphrase = |certificate: ServerCertificate| match &passphrase {
        Some(passphrase) => certificate.passphrase(passphrase),
        None => certificate,
    };
    let Some(certificate) = certificate(options, hostname)? else {
        return Ok(None);
    };
    let mut tls = TlsBuilder::new(with_passphrase(certificate)).expect_host(hostname);
    for sni in &options.sni {
        let certificate = ServerCertificate::from_files(&sni.cert, &sni.key).names([&sni.name]);
        tls = tls.certificate(with_passphrase(certificate));
    }
    if let Some(authorities) = &options.client_ca {
        let clients = ClientCertificates::from_file(authorities);
        tls = tls.client_certificates(match &options.client_crl {
            Some(lists) => clients.crl_file(lists),
            None => clients,
        });
    }
    if options.ignore_alpn == Some(true) {
        tls = tls.ignore_alpn();
    }
    let tls = tls.build()?;
    warn(&tls);
    Ok(Some(tls))
}

/// Tells what is likely a mistake, though it works.
fn warn(tls: &TlsConfig) {
    for warning in tls.warnings() {
        tracing::warn!("{warning}");
    }
}

/// From now on the files are read again when one of them has changed, and at that signal.
pub(crate) fn keep_fresh(server: &Server, mut signal: Signal) {
    let tls = server.tls_ref().cloned();
    if let Some(tls) = &tls {
        let watched = tls.clone();
        task::spawn(tls.watch(INTERVAL, move |result| tell(&watched, result)));
    }
    task::spawn(async move {
        while signal.recv().await.is_some() {
            let Some(tls) = tls.clone() else { continue };
            let reloading = tls.clone();
            if let Ok(result) = task::spawn_blocking(move || reloading.reload()).await {
                tell(&tls, result);
            }
        }
    });
}

fn tell(tls: &TlsConfig, reloaded: std::result::Result<(), TlsError>) {
    match reloaded {
        Ok(()) => {
            tracing::info!("the certificates have been read again");
            warn(tls);
        }
        Err(error) => tracing::error!("the old certificates stay: {}", with_causes(&error)),
    }
}

fn passphrase(options: &Options) -> Result<Option<String>> {
    let Some(file) = &options.tls_key_passphrase_file else {
        return Ok(None);
    };
    let text = fs::read_to_string(file).map_err(|error| named(file, error))?;
    // An editor ends the line, but a passphrase may end with a blank. Some put a byte order mark in front.
    let text = text.trim_start_matches('\u{feff}');
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}

/// The certificate for whoever asks for no other.
fn certificate(options: &Options, hostname: &str) -> Result<Option<ServerCertificate>> {
    if let Some(cert) = &options.tls_cert {
        let key = options.tls_key.as_ref().unwrap_or(cert);
        return Ok(Some(ServerCertificate::from_files(cert, key)));
    }
    if options.tls_self_signed_keep == Some(true) {
        let maildir = options.maildir();
        let parent = maildir.parent().unwrap_or(Path::new(""));
        return Ok(Some(kept(parent, hostname)?));
    }
    if options.tls_self_signed == Some(true) {
        let (cert, key) = self_signed(hostname)?;
        return Ok(Some(ServerCertificate::from_pem(cert, key)));
    }
    Ok(None)
}

/// The certificate of an earlier start; at the first one it is made.
fn kept(directory: &Path, hostname: &str) -> Result<ServerCertificate> {
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
    Ok(ServerCertificate::from_files(cert, key))
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
