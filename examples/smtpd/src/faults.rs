//! Options that cannot work together.

use std::time::Duration;

use smtpd_tower::layer::GreylistPolicy;

use crate::{
    mechanisms::{self, Mechanism},
    options::Options,
    values::Lenient,
};

/// Whether something is wrong, and what to say then.
pub(crate) type Fault = (bool, &'static str);

fn is_on(switch: Option<bool>) -> bool {
    switch.unwrap_or_default()
}

/// The options that a text names.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split([' ', ',', ':', '=', '(', ')']);
    words.filter_map(|word| word.strip_prefix("--"))
}

impl Options {
    /// Returns what cannot work, before anything starts, with the place of the option that each names first. Where an option
    /// cannot be used, nothing is said that depends on it.
    pub(crate) fn faults(&self) -> Vec<String> {
        if !self.given.is_complete() {
            return Vec::new();
        }
        self.tls_faults()
            .into_iter()
            .chain(self.client_certificate_faults())
            .chain(self.user_faults())
            .chain(self.operation_faults())
            .chain([self.lenient_fault()])
            .chain(self.recipient_faults())
            .chain(self.client_faults())
            .chain(self.limit_faults())
            .chain(self.mode_faults(self.has_tls()))
            .filter(|(is_found, _)| *is_found)
            .filter(|(_, fault)| !named(fault).any(|option| self.given.is_unusable(option)))
            .map(|(_, fault)| self.placed(fault))
            .collect()
    }

    fn placed(&self, fault: &str) -> String {
        match named(fault).find(|option| self.given.is_from_file(option)) {
            Some(option) => format!("{}: {fault}", self.given.place(option)),
            None => fault.to_owned(),
        }
    }

    fn recipient_faults(&self) -> [Fault; 3] {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '.' || !c.is_ascii_graphic();
        [
            (
                self.recipients.is_some() && self.domain.is_empty(),
                "--recipients needs --domain, which says for which domains mail is accepted",
            ),
            (
                self.recipient_delimiter.is_some() && self.recipients.is_none(),
                "--recipient-delimiter needs --recipients",
            ),
            (
                self.recipient_delimiter.is_some_and(is_name),
                "--recipient-delimiter must be a character that names do not have, such as + or -",
            ),
        ]
    }

    fn client_faults(&self) -> [Fault; 2] {
        let window = GreylistPolicy::new().window();
        // Where both were removed, the file stays until the next start.
        let is_file_removed = self.given.waiting().any(|option| option == "greylist-file");
        [
            (
                self.greylist_file.is_some() && self.greylist.is_none() && !is_file_removed,
                "--greylist-file needs --greylist",
            ),
            (
                self.greylist.is_some_and(|delay| delay >= window),
                "--greylist must be less than 1d: what is tried again later counts as new",
            ),
        ]
    }

    fn limit_faults(&self) -> [Fault; 2] {
        const PATIENCE: Duration = Duration::from_secs(5 * 60);
        [
            (
                self.limits.is_session_too_short(),
                "--max-session-bytes must be more than --max-size, or no message of that size can arrive",
            ),
            (
                self.greeting_delay.is_some_and(|delay| delay >= PATIENCE),
                "--greeting-delay must be less than 5m: no client waits longer for a greeting",
            ),
        ]
    }

    /// Whether the certificate is made here.
    pub(crate) fn is_self_signed(&self) -> bool {
        is_on(self.tls_self_signed) || is_on(self.tls_self_signed_keep)
    }

    fn has_tls(&self) -> bool {
        !self.tls_cert.is_empty() || self.is_self_signed()
    }

    fn wants(&self, what: fn(Mechanism) -> bool) -> bool {
        self.auth_mechanisms.iter().any(|m| what(*m))
    }

    fn tls_faults(&self) -> [Fault; 8] {
        let (cert, tls) = (!self.tls_cert.is_empty(), self.has_tls());
        let keys = self.tls_key.len();
        [
            (
                is_on(self.require_tls) && !tls,
                "--require-tls needs --tls-cert or --tls-self-signed",
            ),
            (
                (!self.listen_tls.is_empty() || self.is_passed("smtps")) && !tls,
                "--listen-tls needs --tls-cert or --tls-self-signed",
            ),
            (
                cert && self.is_self_signed(),
                "--tls-cert and --tls-self-signed exclude each other",
            ),
            (!cert && keys > 0, "--tls-key needs --tls-cert"),
            (
                keys > 0 && keys != self.tls_cert.len(),
                "--tls-key must be given as often as --tls-cert, in the same order, or not at all",
            ),
            (
                !cert && self.tls_key_passphrase_file.is_some(),
                "--tls-key-passphrase-file needs --tls-cert",
            ),
            (
                !self.sni.is_empty() && !tls,
                "--sni needs --tls-cert or --tls-self-signed",
            ),
            (
                is_on(self.ignore_alpn) && !tls,
                "--ignore-alpn needs --tls-cert or --tls-self-signed",
            ),
        ]
    }

    fn client_certificate_faults(&self) -> [Fault; 4] {
        let authorities = self.client_ca.is_some();
        [
            (
                authorities && !self.has_tls(),
                "--client-ca needs --tls-cert or --tls-self-signed",
            ),
            (
                !authorities && self.client_crl.is_some(),
                "--client-crl needs --client-ca",
            ),
            (
                !authorities && self.client_common_name.is_some(),
                "--client-common-name needs --client-ca",
            ),
            (
                !authorities && self.wants(|m| m == Mechanism::External),
                "--auth-mechanisms EXTERNAL needs --client-ca",
            ),
        ]
    }

    fn lenient_fault(&self) -> Fault {
        let has = |none| {
            self.lenient
                .iter()
                .any(|one| (*one == Lenient::None) == none)
        };
        (
            has(true) && has(false),
            "--lenient none and other values exclude each other",
        )
    }

    fn operation_faults(&self) -> [Fault; 2] {
        [
            (
                self.group_id.is_some() && self.user_id.is_none(),
                "--group-id needs --user-id",
            ),
            (
                !self.sockets.is_empty() && !self.check,
                "--sockets needs --check: the server itself is told by systemd which sockets it has",
            ),
        ]
    }

    fn user_faults(&self) -> [Fault; 5] {
        let in_the_clear = !self.has_tls() && !is_on(self.allow_plaintext_auth);
        let is_required = is_on(self.require_auth);
        [
            (
                !self.user.is_empty() && self.users.is_some(),
                "--user and --users exclude each other",
            ),
            (
                self.users.is_some() && self.wants(Mechanism::needs_password),
                "--users holds Argon2 hashes only, which CRAM-MD5 and SCRAM cannot use",
            ),
            (
                self.oauth_token.is_empty() && self.wants(Mechanism::is_bearer),
                "--auth-mechanisms OAUTHBEARER and XOAUTH2 need --oauth-token",
            ),
            (
                is_required && !self.has_users(),
                "--require-auth needs --user, --users or --oauth-token",
            ),
            (
                is_required
                    && in_the_clear
                    && mechanisms::offered(self).iter().all(|m| m.is_plaintext()),
                "--require-auth lets nobody in: these mechanisms need --tls-cert, --tls-self-signed or --allow-plaintext-auth",
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mistakes::Mistakes;

    /// Returns the exit code and what is wrong.
    fn read(line: &str) -> Result<Options, (u8, String)> {
        let options = Options::read(["smtpd"].into_iter().chain(line.split_whitespace()));
        let options = options.map_err(|error| (error.exit_code(), error.to_string()))?;
        let mut mistakes = Mistakes::default();
        mistakes.of_options(options.faults());
        let options = mistakes.or(Some(options));
        options.map_err(|mistakes| (mistakes.exit_code(), mistakes.to_string()))
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for line in [
            "--no-such-option",
            "--listen 25",
            "--domain a@b",
            "--proxy-from 10.0.0.1/8",
            "--xclient-from localhost",
            "--user alice",
            "--user alice:",
            "--max-recipients 0",
            "--max-header-size 0",
            "--max-command-line 511",
            "--max-session-bytes 1M",
            "--greeting-delay 5m",
            "--guard maybe",
            "--timeout 0",
            "--rate 5",
            "--auth-mechanisms NTLM",
            "--lenient dots",
            "--extensions DSN,XFOO",
            "--extensions",
            "--config /no/such/file.toml",
            "--require-tls",
            "--listen-tls a:465",
            "--tls-cert c --tls-self-signed",
            "--tls-key k",
            "--tls-cert c --tls-cert d --tls-key k",
            "--tls-cert c --tls-key k --tls-key l",
            "--group-id mail",
            "--user-id=",
            "--grace soon",
            "--http 9025",
            "--listen unix:/run/lmtp,mode=0999",
            "--listen unix:/run/lmtp,group=",
            "--listen unix:,mode=0660",
            "--sni a.test=c,k",
            "--tls-self-signed --sni a.test=c",
            "--client-ca f",
            "--tls-self-signed --client-crl f",
            "--tls-self-signed --client-common-name",
            "--ignore-alpn",
            "--user a:b --tls-self-signed --auth-mechanisms EXTERNAL",
            "--tls-self-signed --tls-key-passphrase-file p",
            "--user a:b --users f",
            "--users f --auth-mechanisms PLAIN,CRAM-MD5",
            "--lenient none,stray-dots",
            "--lenient common --lenient none",
            "--users f --auth-mechanisms SCRAM-SHA-256-PLUS",
            "--user a:b --auth-mechanisms OAUTHBEARER",
            "--oauth-token a",
            "--require-auth --oauth-token a:b",
            "--require-auth",
            "--require-auth --users f",
            "--require-auth --user a:b --auth-mechanisms LOGIN",
        ] {
            let (code, error) = read(line).unwrap_err();
            assert_eq!(code, 2, "{line}: {error}");
        }
        for line in [
            "",
            "--require-auth --user a:b",
            "--require-auth --users f --allow-plaintext-auth",
        ] {
            assert!(read(line).is_ok(), "{line}");
        }
    }
}
