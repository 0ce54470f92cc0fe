//! What can be said of options while some of them cannot be used: everything that does not depend on those.

use crate::options::Options;

/// Options that are judged together. If one of them cannot be used, nothing can be said of the others.
const TOGETHER: [&[&str]; 2] = [
    &[
        "tls-cert",
        "tls-key",
        "tls-key-passphrase-file",
        "tls-self-signed",
        "tls-self-signed-keep",
        "sni",
        "client-ca",
        "client-crl",
        "client-common-name",
        "ignore-alpn",
    ],
    &["user-id", "group-id"],
];

/// Returns these options, and those that are judged with them.
pub(crate) fn with_dependents(unusable: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut all: Vec<_> = unusable.into_iter().collect();
    for together in TOGETHER {
        if all.iter().any(|option| together.contains(&option.as_str())) {
            all.extend(together.iter().map(|&option| option.to_owned()));
        }
    }
    all
}

impl Options {
    /// Leaves out what would be wrong only because of the options that cannot be used.
    pub(crate) fn without_dependents(mut self) -> Self {
        let given = self.given.clone();
        if given.is_unusable("tls-cert") {
            self.tls_cert.clear();
            self.tls_key.clear();
            self.sni.clear();
            for file in [
                &mut self.tls_key_passphrase_file,
                &mut self.client_ca,
                &mut self.client_crl,
            ] {
                *file = None;
            }
        }
        if given.is_unusable("user-id") {
            self.user_id = None;
        }
        if given.is_unusable("maildir") {
            self.discard = Some(true);
        }
        if given.is_unusable("hostname") {
            self.hostname = Some("localhost".to_owned());
        }
        if given.is_unusable("greylist-file") {
            self.greylist_file = None;
        }
        self
    }
}
