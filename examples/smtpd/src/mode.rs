//! What the listeners are for.

use clap::ValueEnum;
use smtpd_tower::Profile;

use crate::{faults::Fault, mechanisms, options::Options, sockets::Passing};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Other servers: mail for --domain, which must be given, and no AUTH
    Mx,
    /// Users: neither AUTH before TLS nor mail before AUTH. They may write to any recipient, but only under their own name: alice as
    /// alice@DOMAIN, of any domain without --domain. A Date and a Message-ID are added to their messages if missing
    Submission,
}

impl Mode {
    pub(crate) fn profile(self, implicit_tls: bool) -> Profile {
        match self {
            Self::Mx => Profile::Mx,
            Self::Submission if implicit_tls => Profile::Submissions,
            Self::Submission => Profile::Submission,
        }
    }
}

impl Options {
    /// Whether there is a listener for users.
    pub(crate) fn has_submission(&self) -> bool {
        self.mode == Some(Mode::Submission)
            || !self.listen_submission.is_empty()
            || self.has_submissions()
            || self.is_passed("submission")
    }

    fn has_submissions(&self) -> bool {
        !self.listen_submissions.is_empty() || self.is_passed("submissions")
    }

    fn has_lmtp(&self) -> bool {
        !self.listen_lmtp.is_empty() || self.is_passed("lmtp")
    }

    /// Returns what cannot work, before anything starts.
    pub(crate) fn mode_faults(&self, has_tls: bool) -> [Fault; 8] {
        let is_mx = self.mode == Some(Mode::Mx);
        let has_submission = self.has_submission();
        [
            (
                is_mx && self.domain.is_empty(),
                "--mode mx needs --domain, which says for whom mail is accepted",
            ),
            (
                is_mx && self.require_auth == Some(true),
                "--mode mx and --require-auth exclude each other: other servers do not authenticate",
            ),
            (
                self.lets_no_user_in() && self.passed != Passing::Unknown,
                "--mode mx offers no AUTH: --user, --users and --oauth-token need --listen-submission, --listen-submissions or --listen-lmtp, or a socket from systemd of that kind",
            ),
            (
                has_submission && !self.has_users(),
                self.submission_needs(SubmissionNeed::Users),
            ),
            (
                has_submission && self.require_auth == Some(false),
                "--require-auth=false does not fit a listener for submission, which always requires authentication",
            ),
            (
                has_submission && !has_tls && self.require_tls != Some(false),
                self.submission_needs(SubmissionNeed::Tls),
            ),
            (
                self.has_submissions() && !has_tls,
                "--listen-submissions needs --tls-cert or --tls-self-signed",
            ),
            (
                has_submission
                    && !has_tls
                    && self.allow_plaintext_auth != Some(true)
                    && mechanisms::offered(self).iter().all(|m| m.is_plaintext()),
                self.submission_needs(SubmissionNeed::Mechanism),
            ),
        ]
    }

    /// Whether there are users, but no listener at which they can authenticate, except for sockets that are not known.
    fn lets_no_user_in(&self) -> bool {
        let has_listener = self.has_submission() || self.has_lmtp();
        self.mode == Some(Mode::Mx) && !has_listener && self.has_users()
    }

    /// Returns what is wrong unless systemd passes a socket that is not known.
    pub(crate) fn socket_warning(&self) -> Option<&'static str> {
        (self.passed == Passing::Unknown && self.lets_no_user_in()).then_some(
            "--mode mx offers no AUTH, so users need a listener for submission or LMTP: none is in the options; if systemd passes a socket for that, name it, as in --sockets smtp,submissions",
        )
    }

    /// The text for what a listener for submission needs, with the option that has made it one.
    fn submission_needs(&self, need: SubmissionNeed) -> &'static str {
        use SubmissionNeed::{Mechanism, Tls, Users};
        match (need, self.mode) {
            (Users, Some(Mode::Submission)) => {
                "--mode submission needs --user, --users or --oauth-token"
            }
            (Users, _) => {
                "a listener for submission (--listen-submission, --listen-submissions) needs --user, --users or --oauth-token"
            }
            (Tls, Some(Mode::Submission)) => {
                "--mode submission needs --tls-cert or --tls-self-signed, or --require-tls=false"
            }
            (Tls, _) => {
                "a listener for submission (--listen-submission, --listen-submissions) needs --tls-cert or --tls-self-signed, or --require-tls=false"
            }
            (Mechanism, Some(Mode::Submission)) => {
                "--mode submission lets nobody in: without TLS these mechanisms need --allow-plaintext-auth"
            }
            (Mechanism, _) => {
                "a listener for submission (--listen-submission, --listen-submissions) lets nobody in: without TLS these mechanisms need --allow-plaintext-auth"
            }
        }
    }
}

#[derive(Clone, Copy)]
enum SubmissionNeed {
    Users,
    Tls,
    Mechanism,
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
        for (line, fault) in [
            (
                "--mode relay",
                "--mode: expected mx, submission, not \"relay\"",
            ),
            ("--mode mx", "--mode mx needs --domain"),
            (
                "--mode mx --domain a.test --require-auth --user a:b --tls-self-signed",
                "exclude each other",
            ),
            (
                "--mode mx --domain a.test --users f",
                "--mode mx offers no AUTH",
            ),
            (
                "--mode mx --domain a.test --listen-tls a:1 --oauth-token a:b --tls-self-signed",
                "--mode mx offers no AUTH",
            ),
            ("--mode submission", "--mode submission needs --user"),
            (
                "--listen-submission a:1",
                "--listen-submissions) needs --user",
            ),
            (
                "--mode submission --user a:b",
                "submission needs --tls-cert",
            ),
            (
                "--mode submission --user a:b --tls-self-signed --require-auth=false",
                "always requires authentication",
            ),
            (
                "--listen-submissions a:1 --user a:b --require-tls=false",
                "--listen-submissions needs",
            ),
            (
                "--mode submission --users f --require-tls=false",
                "lets nobody in",
            ),
        ] {
            let (code, error) = read(line).unwrap_err();
            assert_eq!(code, 2, "{line}");
            assert!(error.contains(fault), "{line}: {error}");
        }
        for line in [
            "--mode mx --domain a.test --listen-lmtp a:1 --user a:b",
            "--mode submission --user a:b --tls-self-signed",
            "--mode submission --user a:b --require-tls=false",
            "--mode mx --domain a.test --listen a:1 --listen-submissions a:2 --user a:b --tls-self-signed",
        ] {
            assert!(read(line).is_ok(), "{line}");
        }
    }
}
