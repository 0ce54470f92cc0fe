//! What follows from the options.

use std::path::PathBuf;

use smtpd_tower::domains::Domains;

use crate::options::Options;

impl Options {
    /// Whether there are passwords or tokens in the file of options.
    pub(crate) fn config_is_secret(&self) -> bool {
        self.given.is_from_file("user") || self.given.is_from_file("oauth-token")
    }

    /// The domains that mail is accepted for.
    pub(crate) fn domains(&self) -> Domains {
        Domains::from_iter(self.domain.iter().cloned())
    }

    /// Whether systemd has passed a socket of that name.
    pub(crate) fn is_passed(&self, name: &str) -> bool {
        self.passed.names().iter().any(|passed| passed == name)
    }

    /// Where messages are stored.
    pub(crate) fn maildir(&self) -> PathBuf {
        self.maildir.clone().unwrap_or_else(|| "mail".into())
    }

    /// The files that are read, each with its option.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&'static str, &PathBuf)> {
        let files = [
            ("config", &self.config),
            ("users", &self.users),
            ("recipients", &self.recipients),
        ];
        given(files).chain(self.tls_files())
    }

    /// The certificates, keys and lists among them.
    pub(crate) fn tls_files(&self) -> impl Iterator<Item = (&'static str, &PathBuf)> {
        let sni = self.sni.iter();
        let sni = sni.flat_map(|sni| [("sni", &sni.cert), ("sni", &sni.key)]);
        let certs = self.tls_cert.iter().map(|file| ("tls-cert", file));
        let keys = self.tls_key.iter().map(|file| ("tls-key", file));
        let files = [
            ("tls-key-passphrase-file", &self.tls_key_passphrase_file),
            ("client-ca", &self.client_ca),
            ("client-crl", &self.client_crl),
        ];
        certs.chain(keys).chain(given(files)).chain(sni)
    }

    /// Whether there is a listener for HTTP, so that somebody reads metrics.
    pub(crate) fn has_http(&self) -> bool {
        self.http.is_some() || self.is_passed("http")
    }

    /// Whether anybody can authenticate.
    pub(crate) fn has_users(&self) -> bool {
        self.has_passwords() || !self.oauth_token.is_empty()
    }

    /// Whether anybody has a password.
    pub(crate) fn has_passwords(&self) -> bool {
        !self.user.is_empty() || self.users.is_some()
    }
}

fn given<'a, const N: usize>(
    files: [(&'static str, &'a Option<PathBuf>); N],
) -> impl Iterator<Item = (&'static str, &'a PathBuf)> {
    let files = files.into_iter();
    files.filter_map(|(option, file)| Some((option, file.as_ref()?)))
}
