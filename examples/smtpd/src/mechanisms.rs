//! The mechanisms of AUTH: their names, and which of them are offered.

use clap::ValueEnum;
use smtpd_tower::sasl::{CramMd5, External, Login, Mechanisms, OAuthBearer, Plain, Scram, XOAuth2};

use crate::{options::Options, users::NAMES};

/// The mechanisms to offer: those of the options, or by default those that work with what is stored for the users.
pub(crate) fn offered(options: &Options) -> Mechanisms {
    let known = [
        Mechanism::Plain,
        Mechanism::Login,
        Mechanism::CramMd5,
        Mechanism::ScramSha256,
        Mechanism::ScramSha1,
        Mechanism::OAuthBearer,
        Mechanism::XOAuth2,
        Mechanism::External,
    ];
    let works = |mechanism: &Mechanism| match mechanism {
        Mechanism::External => options.client_ca.is_some(),
        bearer if bearer.is_bearer() => !options.oauth_token.is_empty(),
        secret if secret.needs_password() => !options.user.is_empty(),
        _ => options.has_passwords(),
    };
    let wanted = match &*options.auth_mechanisms {
        [] => known.into_iter().filter(works).collect(),
        wanted => wanted.to_vec(),
    };
    let none = Mechanisms::none();
    wanted
        .into_iter()
        .fold(none, |set, mechanism| mechanism.add_to(set))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mechanism {
    #[value(name = "PLAIN")]
    Plain,
    #[value(name = "LOGIN")]
    Login,
    #[value(name = "CRAM-MD5")]
    CramMd5,
    #[value(name = "SCRAM-SHA-256")]
    ScramSha256,
    #[value(name = "SCRAM-SHA-256-PLUS")]
    ScramSha256Plus,
    #[value(name = "SCRAM-SHA-1")]
    ScramSha1,
    #[value(name = "SCRAM-SHA-1-PLUS")]
    ScramSha1Plus,
    #[value(name = "OAUTHBEARER")]
    OAuthBearer,
    #[value(name = "XOAUTH2")]
    XOAuth2,
    #[value(name = "EXTERNAL")]
    External,
}

impl Mechanism {
    pub(crate) fn add_to(self, set: Mechanisms) -> Mechanisms {
        // An unknown name has one salt, however it is written, as users have.
        let scram = |scram: Scram| set.clone().with(scram.names(NAMES));
        match self {
            Self::Plain => set.with(Plain),
            Self::Login => set.with(Login),
            Self::CramMd5 => set.with(CramMd5),
            Self::ScramSha256 => scram(Scram::sha256()),
            Self::ScramSha256Plus => scram(Scram::sha256().plus()),
            Self::ScramSha1 => scram(Scram::sha1()),
            Self::ScramSha1Plus => scram(Scram::sha1().plus()),
            Self::OAuthBearer => set.with(OAuthBearer::new()),
            Self::XOAuth2 => set.with(XOAuth2::new()),
            Self::External => set.with(External),
        }
    }

    /// Whether it uses a token.
    pub(crate) fn is_bearer(self) -> bool {
        matches!(self, Self::OAuthBearer | Self::XOAuth2)
    }

    /// Whether the password itself has to be known, and a hash of it does not do.
    pub(crate) fn needs_password(self) -> bool {
        !self.is_bearer() && !matches!(self, Self::Plain | Self::Login | Self::External)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::Unreadable;

    fn read(line: &str) -> Result<Options, Unreadable> {
        Options::read(["smtpd"].into_iter().chain(line.split_whitespace()))
    }

    #[test]
    fn the_mechanisms_follow_from_what_is_known_of_the_users() {
        let passwords = ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "SCRAM-SHA-1"];
        for (line, names) in [
            ("--user a:b", &passwords[..]),
            ("--users f", &["PLAIN", "LOGIN"]),
            ("--oauth-token a:b", &["OAUTHBEARER", "XOAUTH2"]),
            (
                "--users f --oauth-token a:b",
                &["PLAIN", "LOGIN", "OAUTHBEARER", "XOAUTH2"],
            ),
            (
                "--users f --tls-self-signed --client-ca f",
                &["PLAIN", "LOGIN", "EXTERNAL"],
            ),
            ("--user a:b --auth-mechanisms login", &["LOGIN"]),
            (
                "--user a:b --auth-mechanisms scram-sha-1-plus,SCRAM-SHA-1",
                &["SCRAM-SHA-1-PLUS", "SCRAM-SHA-1"],
            ),
        ] {
            let mechanisms = offered(&read(line).unwrap());
            assert!(
                mechanisms
                    .iter()
                    .map(|m| m.name().as_str())
                    .eq(names.iter().copied()),
                "{line}"
            );
        }
    }
}
