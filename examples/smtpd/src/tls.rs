//! The certificates: from files, or created at the start, and read again when they change.

use std::{
    error::Error,
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rcgen::CertifiedKey;
use smtpd_tower::tls::{
    ClientCertificates, ServerCertificate, TlsBuilder, TlsConfig, TlsError, TlsWarning,
};
use tokio::task;

use crate::{
    file::{self, Pipes},
    mistakes::Mistakes,
    options::Options,
    privileges::{self, Account},
    served::Purpose,
    with_causes,
};

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_secs(60);

/// The file of the certificate that is made here and kept.
const CERT: &str = "smtpd-cert.pem";

/// The TLS settings, and the certificate that this process has created, if any.
type Tls = (Option<TlsConfig>, Option<Arc<SelfSigned>>);

/// Returns the TLS settings of the options. The certificate that the process has created for a host stays the same.
///
/// # Errors
/// Fails with the file that cannot be used, and why.
pub(crate) fn config(
    options: &Options,
    account: Option<Account>,
    hostname: &str,
    kept: Option<Arc<SelfSigned>>,
    purpose: Purpose,
) -> Result<Tls, Mistakes> {
    let mut mistakes = Mistakes::default();
    for (option, file) in options.tls_files() {
        let found = match purpose.pipes() {
            Pipes::Allowed => file::check_exists(file),
            Pipes::Refused => file::check_regular(file),
        };
        let place = options.given.place(option);
        mistakes.unless(found.map_err(|error| format!("{place}: {error}")));
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let passphrase = mistakes.unless(passphrase(options, purpose.pipes()));
    let own = mistakes.unless(own_certificates(options, account, hostname, kept, purpose));
    let (Some(passphrase), Some((own, self_signed))) = (passphrase, own) else {
        return Err(mistakes);
    };
    let certificates = certificates(options, own, passphrase.as_deref());
    match builder(options, hostname, &certificates).map(TlsBuilder::build) {
        Some(Ok(tls)) => Ok((Some(tls), self_signed)),
        Some(Err(error)) => Err(all_wrong(options, certificates, &error)),
        None => Ok((None, None)),
    }
}

/// Returns the certificates, each with its option. The first ones are for clients that request no other name.
fn certificates(
    options: &Options,
    own: Vec<ServerCertificate>,
    passphrase: Option<&str>,
) -> Vec<(&'static str, ServerCertificate)> {
    let has_own = !own.is_empty();
    let sni = options.sni.iter().map(|sni| {
        let certificate = ServerCertificate::from_files(&sni.cert, &sni.key).names([&sni.name]);
        ("sni", certificate)
    });
    own.into_iter()
        .map(|own| ("tls-cert", own))
        .chain(sni.filter(|_| has_own))
        .map(|(option, certificate)| match passphrase {
            Some(passphrase) => (option, certificate.passphrase(passphrase)),
            None => (option, certificate),
        })
        .collect()
}

fn builder(
    options: &Options,
    hostname: &str,
    certificates: &[(&'static str, ServerCertificate)],
) -> Option<TlsBuilder> {
    let ((_, own), others) = certificates.split_first()?;
    let tls = TlsBuilder::new(own.clone()).expect_host(hostname);
    let mut tls = others
        .iter()
        .fold(tls, |tls, (_, other)| tls.certificate(other.clone()));
    if let Some(authorities) = &options.client_ca {
        let clients = ClientCertificates::from_file(authorities);
        tls = tls.client_certificates(match &options.client_crl {
            Some(lists) => clients.crl_file(lists),
            None => clients,
        });
    }
    Some(match options.ignore_alpn {
        Some(true) => tls.ignore_alpn(),
        _ => tls,
    })
}

/// Tries each certificate alone, because together only the first error is told. If each works, it is about the clients'.
fn all_wrong(
    options: &Options,
    certificates: Vec<(&'static str, ServerCertificate)>,
    error: &TlsError,
) -> Mistakes {
    let place = |option| options.given.place(option);
    let mut mistakes = Mistakes::default();
    for (option, certificate) in certificates {
        if let Err(error) = TlsBuilder::new(certificate).build() {
            mistakes.add(format!("{}: {}", place(option), with_causes(&error)));
        }
    }
    if mistakes.is_empty() {
        let option = if options.client_ca.is_some() {
            "client-ca"
        } else {
            "tls-cert"
        };
        mistakes.add(format!("{}: {}", place(option), with_causes(error)));
    }
    mistakes
}

/// The certificates that are served now: their files are read again when one of them has changed, and each warning is logged
/// once, until it no longer applies.
#[derive(Clone, Default)]
pub(crate) struct Certificates(Arc<Mutex<Vec<TlsWarning>>>);

impl Certificates {
    /// Logs warnings, and follows the files until other settings take the place of these.
    pub(crate) fn follow(&self, tls: &TlsConfig) {
        self.pending(Vec::new());
        self.warn(Some(tls));
        let log = self.clone();
        task::spawn(tls.watch(INTERVAL, move |tls, result| log.reloaded(tls, result)));
    }

    fn reloaded(&self, tls: &TlsConfig, result: Result<(), TlsError>) {
        match result {
            Ok(()) => {
                tracing::info!("the certificates have been read again; new sessions use them");
                self.pending(Vec::new());
                self.warn(Some(tls));
            }
            Err(error) => {
                let error = with_causes(&error);
                let why = privileges::explanation(&error);
                tracing::error!(
                    "the certificates cannot be reloaded, the old certificates stay: {error}{why}"
                );
            }
        }
    }

    /// Logs what is odd now, such as what has expired in the meantime.
    pub(crate) fn warn(&self, tls: Option<&TlsConfig>) {
        for warning in self.pending(tls.map(TlsConfig::warnings).unwrap_or_default()) {
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

fn passphrase(options: &Options, pipes: Pipes) -> Result<Option<String>, String> {
    let Some(path) = &options.tls_key_passphrase_file else {
        return Ok(None);
    };
    let place = options.given.place("tls-key-passphrase-file");
    let text = file::read(path, pipes).map_err(|error| format!("{place}: {error}"))?;
    // Editors add a line end. A space at the end may belong to the passphrase.
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}

/// The certificates for clients that request no other name, in the order of preference.
fn own_certificates(
    options: &Options,
    account: Option<Account>,
    hostname: &str,
    kept: Option<Arc<SelfSigned>>,
    purpose: Purpose,
) -> Result<(Vec<ServerCertificate>, Option<Arc<SelfSigned>>), String> {
    let maildir = options.maildir();
    let parent = maildir.parent().unwrap_or_else(|| Path::new(""));
    let may_be_stored = purpose != Purpose::Check || parent.join(CERT).exists();
    if options.tls_self_signed_keep == Some(true) && may_be_stored {
        let place = options.given.place("tls-self-signed-keep");
        let certificate = stored(parent, account, hostname);
        let certificate = certificate.map_err(|error| format!("{place}: {error}"))?;
        return Ok((vec![certificate], None));
    }
    if options.is_self_signed() {
        let same = kept.filter(|kept| kept.hostname == hostname);
        let own = match same {
            Some(same) => same,
            None => Arc::new(SelfSigned::new(hostname).map_err(|error| error.to_string())?),
        };
        let certificate = ServerCertificate::from_pem(own.cert.clone(), own.key.clone());
        return Ok((vec![certificate], Some(own)));
    }
    let keys = match &*options.tls_key {
        [] => &options.tls_cert,
        keys => keys,
    };
    let pairs = options.tls_cert.iter().zip(keys);
    let read = |(cert, key)| ServerCertificate::from_files(cert, key);
    Ok((pairs.map(read).collect(), None))
}

/// The certificate of an earlier start. The first start creates it, for the user that the server becomes.
fn stored(
    directory: &Path,
    account: Option<Account>,
    hostname: &str,
) -> Result<ServerCertificate, Box<dyn Error>> {
    let (cert, key) = (directory.join(CERT), directory.join("smtpd-key.pem"));
    if !cert.exists() && !key.exists() {
        let own = SelfSigned::new(hostname)?;
        let is_new = !directory.exists();
        fs::create_dir_all(directory).map_err(|error| named(directory, error))?;
        write_private(&key, &own.key).map_err(|error| named(&key, error))?;
        fs::write(&cert, own.cert).map_err(|error| named(&cert, error))?;
        let created = [(directory, is_new), (&key, true), (&cert, true)];
        for (path, _) in created.into_iter().filter(|(_, is_new)| *is_new) {
            let given = account.map_or(Ok(()), |account| account.give(path));
            given.map_err(|error| named(path, error))?;
        }
    }
    Ok(ServerCertificate::from_files(cert, key))
}

/// A certificate for the host and for this machine, with its key.
pub(crate) struct SelfSigned {
    hostname: String,
    cert: String,
    key: String,
}

impl SelfSigned {
    fn new(hostname: &str) -> Result<Self, rcgen::Error> {
        let names = [hostname, "localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names)?;
        Ok(Self {
            hostname: hostname.to_owned(),
            cert: cert.pem(),
            key: signing_key.serialize_pem(),
        })
    }
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
        stored(directory, None, "mx.test").unwrap();
        let read = || fs::read(directory.join("smtpd-cert.pem")).unwrap();
        let first = read();
        stored(directory, None, "mx.test").unwrap();
        assert_eq!(first, read());
        let key = fs::metadata(directory.join("smtpd-key.pem")).unwrap();
        assert_eq!(key.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_warning_that_still_applies_is_logged_once() {
        let warnings = |host: &str| {
            let own = SelfSigned::new("mx.test").unwrap();
            let own = ServerCertificate::from_pem(own.cert, own.key);
            let tls = TlsBuilder::new(own).expect_host(host).build().unwrap();
            tls.warnings()
        };
        let (none, one, other) = (warnings("mx.test"), warnings("a.test"), warnings("b.test"));
        let log = Certificates::default();
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
