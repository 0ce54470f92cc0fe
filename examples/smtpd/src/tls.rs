//! The certificates: from files, or created at the start, and read again when they change.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rcgen::CertifiedKey;
use smtpd_tower::{
    BoxError, Server,
    tls::{ClientCertificates, ServerCertificate, TlsBuilder, TlsConfig, TlsError, TlsWarning},
};
use tokio::{signal::unix::Signal, task, time};

use crate::{
    options::Options,
    privileges::{self, Account},
    supervisor, with_causes,
};

type Result<T> = std::result::Result<T, BoxError>;

/// How often the files, and the dates in them, are checked.
const INTERVAL: Duration = Duration::from_secs(60);

/// Returns the TLS settings of the options, or `None` without TLS.
pub(crate) fn config(
    options: &Options,
    account: Option<Account>,
    hostname: &str,
) -> Result<Option<TlsConfig>> {
    let passphrase = passphrase(options)?;
    let with_passphrase = |certificate: ServerCertificate| match &passphrase {
        Some(passphrase) => certificate.passphrase(passphrase),
        None => certificate,
    };
    let mut certificates = certificates(options, account, hostname)?.into_iter();
    let Some(first) = certificates.next() else {
        return Ok(None);
    };
    let mut tls = TlsBuilder::new(with_passphrase(first)).expect_host(hostname);
    for certificate in certificates {
        tls = tls.certificate(with_passphrase(certificate));
    }
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
    Ok(Some(tls.build()?))
}

/// Logs warnings about the certificates, also when something expires later. Reads the files again when one of them has changed,
/// and at the signal.
pub(crate) fn keep_fresh(server: &Server, mut signal: Signal) {
    let Some(tls) = server.get_tls().cloned() else {
        task::spawn(async move {
            while signal.recv().await.is_some() {
                // There is nothing to read.
                supervisor::reloading();
                supervisor::ready();
            }
        });
        return;
    };
    let log = Arc::new(WarningLog::default());
    log.warn(&tls);
    let also = log.clone();
    task::spawn(tls.watch(INTERVAL, move |tls, result| also.reloaded(tls, result)));
    task::spawn(async move {
        loop {
            match time::timeout(INTERVAL, signal.recv()).await {
                Ok(Some(())) => {
                    supervisor::reloading();
                    let reloading = tls.clone();
                    if let Ok(result) = task::spawn_blocking(move || reloading.reload()).await {
                        log.reloaded(&tls, result);
                    }
                    supervisor::ready();
                }
                Ok(None) => return,
                // Something may have expired in the meantime.
                Err(_) => log.warn(&tls),
            }
        }
    });
}

/// Logs each warning once, until it no longer applies.
#[derive(Default)]
struct WarningLog(Mutex<Vec<TlsWarning>>);

impl WarningLog {
    fn reloaded(&self, tls: &TlsConfig, result: std::result::Result<(), TlsError>) {
        match result {
            Ok(()) => {
                tracing::info!("the certificates have been read again");
                self.pending(Vec::new());
                self.warn(tls);
            }
            Err(error) => {
                let why = privileges::explanation(&error).map(|why| format!("; {why}"));
                let (error, why) = (with_causes(&error), why.unwrap_or_default());
                tracing::error!("the old certificates stay: {error}{why}");
            }
        }
    }

    fn warn(&self, tls: &TlsConfig) {
        for warning in self.pending(tls.warnings()) {
            tracing::warn!("{warning}");
        }
    }

    /// Returns the warnings that have not been logged yet, and marks them as logged.
    fn pending(&self, all: Vec<TlsWarning>) -> Vec<TlsWarning> {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = |warning: &&TlsWarning| !logged.contains(warning);
        let new = all.iter().filter(is_new).cloned().collect();
        *logged = all;
        new
    }
}

fn passphrase(options: &Options) -> Result<Option<String>> {
    let Some(file) = &options.tls_key_passphrase_file else {
        return Ok(None);
    };
    let text = fs::read_to_string(file).map_err(|error| named(file, error))?;
    // Editors add a line end, and some a byte order mark. A space at the end may belong to the passphrase.
    let text = text.trim_start_matches('\u{feff}');
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}

/// The certificates for clients that request no other name, in the order of preference.
fn certificates(
    options: &Options,
    account: Option<Account>,
    hostname: &str,
) -> Result<Vec<ServerCertificate>> {
    if options.tls_self_signed_keep == Some(true) {
        let maildir = options.maildir();
        let parent = maildir.parent().unwrap_or_else(|| Path::new(""));
        return Ok(vec![kept(parent, account, hostname)?]);
    }
    if options.tls_self_signed == Some(true) {
        let (cert, key) = self_signed(hostname)?;
        return Ok(vec![ServerCertificate::from_pem(cert, key)]);
    }
    let keys = match &*options.tls_key {
        [] => &options.tls_cert,
        keys => keys,
    };
    let pairs = options.tls_cert.iter().zip(keys);
    let read = |(cert, key)| ServerCertificate::from_files(cert, key);
    Ok(pairs.map(read).collect())
}

/// The certificate of an earlier start. The first start creates it, for the user that the server becomes.
fn kept(directory: &Path, account: Option<Account>, hostname: &str) -> Result<ServerCertificate> {
    let (cert, key) = (
        directory.join("smtpd-cert.pem"),
        directory.join("smtpd-key.pem"),
    );
    if !cert.exists() && !key.exists() {
        let (cert_pem, key_pem) = self_signed(hostname)?;
        let is_new = !directory.exists();
        fs::create_dir_all(directory).map_err(|error| named(directory, error))?;
        write_private(&key, &key_pem).map_err(|error| named(&key, error))?;
        fs::write(&cert, cert_pem).map_err(|error| named(&cert, error))?;
        let created = [(directory, is_new), (&key, true), (&cert, true)];
        for (path, _) in created.into_iter().filter(|(_, is_new)| *is_new) {
            let given = account.map_or(Ok(()), |account| account.give(path));
            given.map_err(|error| named(path, error))?;
        }
    }
    Ok(ServerCertificate::from_files(cert, key))
}

/// Creates a certificate for the host and for this machine, with its key.
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
        kept(directory, None, "mx.test").unwrap();
        let read = || fs::read(directory.join("smtpd-cert.pem")).unwrap();
        let first = read();
        kept(directory, None, "mx.test").unwrap();
        assert_eq!(first, read());
        let key = fs::metadata(directory.join("smtpd-key.pem")).unwrap();
        assert_eq!(key.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_warning_that_still_applies_is_logged_once() {
        let warnings = |host: &str| {
            let (cert, key) = self_signed("mx.test").unwrap();
            let own = ServerCertificate::from_pem(cert, key);
            let tls = TlsBuilder::new(own).expect_host(host).build().unwrap();
            tls.warnings()
        };
        let (none, one, other) = (warnings("mx.test"), warnings("a.test"), warnings("b.test"));
        let log = WarningLog::default();
        assert_eq!(log.pending(none.clone()), []);
        assert_eq!(log.pending(one.clone()), one);
        assert_eq!(log.pending(one.clone()), []);
        let both = [one.clone(), other.clone()].concat();
        assert_eq!(log.pending(both.clone()), other);
        // What was put right may go wrong again.
        log.pending(none);
        assert_eq!(log.pending(both.clone()), both);
    }
}
