//! The certificates of the server, and how they are replaced while it runs.

use std::{fs, path::PathBuf, sync::LazyLock};

use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use smtpd_tower::tls::{Provider, ServerCertificate, TlsBuilder, TlsConfig};
use support::pki::Issued;
use tempfile::TempDir;
use tokio_rustls::rustls::crypto::ring::Ticketer;

use crate::dice::Dice;

/// Two of the same length, which all runs share.
static ISSUED: LazyLock<[Issued; 2]> = LazyLock::new(|| {
    [1_u64, 2].map(|serial| {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        // A random one has no fixed length.
        let change = |params: &mut CertificateParams| params.serial_number = Some(serial.into());
        Issued::alone_with("mx.example", &key, change)
    })
});

/// The certificate of a run, in its files.
pub struct Certificates {
    pub config: TlsConfig,
    directory: TempDir,
    /// Which of the two was shown first, and after each time that they were read again.
    generations: Vec<usize>,
    /// Of which of these there are sessions that may be resumed.
    resumable: Vec<usize>,
}

/// What a client has seen of the server's certificate.
#[derive(Debug)]
pub struct Shown {
    pub der: Vec<u8>,
    pub resumed: bool,
}

impl Certificates {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            config: Self::of(&directory, 0),
            directory,
            generations: vec![0],
            resumable: Vec::new(),
        }
    }

    /// The number of the present certificate.
    pub fn generation(&self) -> usize {
        self.generations.len() - 1
    }

    /// Gives the server another certificate, or the same again, or one that is no good, which must change nothing. Returns what
    /// is wrong with that.
    pub fn renew(&mut self, dice: &Dice) -> Option<String> {
        let next = dice.below(2);
        match dice.below(4) {
            0 => self.config.replace(&Self::of(&self.directory, next)),
            1 => {
                // As it is between two writes: the key of another certificate.
                write(&self.directory, [next, 1 - next]);
                let wrong = self.config.reload().is_ok();
                return wrong.then(|| "a key of another certificate was taken over".to_owned());
            }
            _ => {
                write(&self.directory, [next; 2]);
                if let Err(error) = self.config.reload() {
                    return Some(format!("a certificate was not taken over: {error}"));
                }
            }
        }
        self.generations.push(next);
        None
    }

    fn of(directory: &TempDir, number: usize) -> TlsConfig {
        let [chain, key] = write(directory, [number; 2]);
        let source = ServerCertificate::from_files(chain, key);
        let provider = Provider::new(super::provider(), Ticketer::new);
        TlsBuilder::with_provider(source, provider).build().unwrap()
    }

    /// Checks what a handshake has shown that began at that generation. One that resumes an earlier session shows what that
    /// has shown; none is resumed after its certificate was read again, even if it is the same.
    pub fn check(&mut self, began: usize, shown: &Shown) -> Result<(), String> {
        let now = self.generation();
        let fits = (began..=now).any(|generation| {
            let same = ISSUED[self.generations[generation]].der.as_ref() == shown.der;
            same && (!shown.resumed || self.resumable.contains(&generation))
        });
        self.resumable.extend(began..=now);
        let resumed = shown.resumed;
        fits.then_some(()).ok_or_else(|| {
            format!("generations {began} to {now} of the certificate do not show that; resumed: {resumed}")
        })
    }
}

/// Writes the chain and the key of these, and returns their files.
fn write(directory: &TempDir, [chain, key]: [usize; 2]) -> [PathBuf; 2] {
    let files = ["cert.pem", "key.pem"].map(|name| directory.path().join(name));
    fs::write(&files[0], &ISSUED[chain].pem).unwrap();
    fs::write(&files[1], &ISSUED[key].key_pem).unwrap();
    files
}
