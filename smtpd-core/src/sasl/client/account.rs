use std::{error::Error, fmt};

use zeroize::Zeroizing;

use super::exchange::{ClientExchange, Kind};
use crate::sasl::ChannelBindings;

/// What a client authenticates with (RFC 4954), and by which mechanisms. Its `Debug` shows no secrets, which are wiped from memory
/// when it is dropped.
///
/// The client uses the first of these mechanisms that the server offers and that the account and the connection allow:
/// SCRAM-SHA-256-PLUS, SCRAM-SHA-1-PLUS, SCRAM-SHA-256, SCRAM-SHA-1, PLAIN, LOGIN and CRAM-MD5 for a password, OAUTHBEARER and
/// XOAUTH2 for a token, EXTERNAL otherwise. PLAIN, LOGIN and tokens are sent within TLS only, unless
/// [`allow_plaintext`](Self::allow_plaintext) is on.
///
/// ```
/// use smtpd_core::client::Account;
///
/// let account = Account::password("alice", "secret")?.act_as("team");
/// assert!(!format!("{account:?}").contains("secret"));
/// assert!(Account::password("alice", "").is_err());
/// # Ok::<(), smtpd_core::client::AccountError>(())
/// ```
#[derive(Clone)]
pub struct Account {
    proof: Proof,
    authzid: String,
    mechanisms: Option<Vec<String>>,
    plaintext: bool,
}

#[derive(Clone)]
enum Proof {
    Password(String, Zeroizing<String>),
    Token(String, Zeroizing<String>),
    External,
}

/// The facts of a session that decide on the mechanism.
#[derive(Clone, Copy)]
pub(crate) struct Channel<'a> {
    pub(crate) is_tls: bool,
    #[cfg_attr(not(feature = "scram"), allow(dead_code))]
    pub(crate) bindings: &'a ChannelBindings,
    /// Random bytes, if there are any.
    #[cfg_attr(not(feature = "scram"), allow(dead_code))]
    pub(crate) nonce: Option<&'a [u8]>,
}

impl Account {
    /// Creates an account with a user name and a password.
    ///
    /// # Errors
    ///
    /// If one of them is empty or has a control character.
    pub fn password(
        user: impl Into<String>,
        password: impl Into<String>,
    ) -> Result<Self, AccountError> {
        let (user, password) = (user.into(), Zeroizing::new(password.into()));
        check(&user)?;
        check(&password)?;
        Ok(Self::new(Proof::Password(user, password)))
    }

    /// Creates an account with a user name and a bearer token of OAuth 2.0 (RFC 6750).
    ///
    /// # Errors
    ///
    /// If one of them is empty, or has a control character.
    pub fn token(user: impl Into<String>, token: impl Into<String>) -> Result<Self, AccountError> {
        let (user, token) = (user.into(), Zeroizing::new(token.into()));
        check(&user)?;
        check(&token)?;
        Ok(Self::new(Proof::Token(user, token)))
    }

    /// Creates an account that the server knows by other means, such as the certificate of the client (RFC 4422 appendix A).
    pub fn external() -> Self {
        Self::new(Proof::External)
    }

    const fn new(proof: Proof) -> Self {
        Self {
            proof,
            authzid: String::new(),
            mechanisms: None,
            plaintext: false,
        }
    }

    /// Sets the identity that the client wants to act as. It is ignored by LOGIN, CRAM-MD5 and XOAUTH2, which cannot express it,
    /// and by an account whose identity has a control character. Default: that of the user.
    #[must_use]
    pub fn act_as(self, authzid: impl Into<String>) -> Self {
        let authzid = Some(authzid.into()).filter(|authzid| check(authzid).is_ok());
        Self {
            authzid: authzid.unwrap_or_default(),
            ..self
        }
    }

    /// Restricts the mechanisms to these, by their names in any letter case. Default: all that fit.
    #[must_use]
    pub fn mechanisms<T: Into<String>>(self, names: impl IntoIterator<Item = T>) -> Self {
        Self {
            mechanisms: Some(names.into_iter().map(Into::into).collect()),
            ..self
        }
    }

    /// Sets whether passwords and tokens may be sent without TLS, as over a Unix socket. Default: off.
    #[must_use]
    pub fn allow_plaintext(self, plaintext: bool) -> Self {
        Self { plaintext, ..self }
    }

    /// Begins an exchange with the best mechanism that is `offered`.
    pub(crate) fn start(&self, offered: &[&str], channel: Channel<'_>) -> Option<ClientExchange> {
        let is_in =
            |names: &[&str], name: &str| names.iter().any(|one| one.eq_ignore_ascii_case(name));
        let is_allowed = |name: &str| match &self.mechanisms {
            Some(names) => names.iter().any(|one| one.eq_ignore_ascii_case(name)),
            None => true,
        };
        let usable = |name: &&&str| is_in(offered, name) && is_allowed(name);
        let secrecy = channel.is_tls || self.plaintext;
        let mut names = self.candidates().iter().filter(usable);
        names.find_map(|&name| {
            let needs_secrecy = matches!(name, "PLAIN" | "LOGIN" | "OAUTHBEARER" | "XOAUTH2");
            if needs_secrecy && !secrecy {
                return None;
            }
            let kind = self.kind(name, offered, channel)?;
            Some(ClientExchange::new(name, kind))
        })
    }

    /// The mechanisms, the best one first.
    const fn candidates(&self) -> &'static [&'static str] {
        match self.proof {
            Proof::Password(..) => &[
                "SCRAM-SHA-256-PLUS",
                "SCRAM-SHA-1-PLUS",
                "SCRAM-SHA-256",
                "SCRAM-SHA-1",
                "PLAIN",
                "LOGIN",
                "CRAM-MD5",
            ],
            Proof::Token(..) => &["OAUTHBEARER", "XOAUTH2"],
            Proof::External => &["EXTERNAL"],
        }
    }

    fn kind(&self, name: &str, offered: &[&str], channel: Channel<'_>) -> Option<Kind> {
        let authzid = self.authzid.as_str();
        let one = |message: String| Some(Kind::One(Some(Zeroizing::new(message.into_bytes()))));
        match (&self.proof, name) {
            (Proof::Password(user, password), "PLAIN") => {
                // RFC 4616 section 2
                one(format!("{authzid}\0{user}\0{}", **password))
            }
            (Proof::Password(user, password), "LOGIN") => Some(Kind::login(user, password)),
            (Proof::Password(user, password), "CRAM-MD5") => Some(Kind::cram_md5(user, password)),
            (Proof::Password(user, password), _) => {
                let credentials = (user.as_str(), password.as_str());
                Kind::scram(name, credentials, authzid, offered, channel)
            }
            (Proof::Token(user, token), "OAUTHBEARER") => {
                // RFC 7628 section 3.1; the name is an authorization identity here.
                let name = if authzid.is_empty() { user } else { authzid };
                let header = super::exchange::gs2_header("n", name);
                one(format!("{header}\x01auth=Bearer {}\x01\x01", **token))
            }
            (Proof::Token(user, token), _) => {
                one(format!("user={user}\x01auth=Bearer {}\x01\x01", **token))
            }
            (Proof::External, _) => one(authzid.to_owned()),
        }
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = match &self.proof {
            Proof::Password(user, _) | Proof::Token(user, _) => Some(user),
            Proof::External => None,
        };
        f.debug_struct("Account")
            .field("user", &user)
            .field("authzid", &self.authzid)
            .field("mechanisms", &self.mechanisms)
            .finish_non_exhaustive()
    }
}

/// No mechanism can carry an empty text, or a NUL; a control character is a mistake in all of them.
fn check(text: &str) -> Result<(), AccountError> {
    match text.is_empty() || text.contains(char::is_control) {
        true => Err(AccountError(())),
        false => Ok(()),
    }
}

/// An error for a user name, a password or a token that is empty or has a control character.
///
/// ```
/// use smtpd_core::client::Account;
///
/// let error = Account::password("alice", "se\0cret").unwrap_err();
/// assert_eq!(error.to_string(), "empty text or control character in an account");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AccountError(());

impl fmt::Display for AccountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("empty text or control character in an account")
    }
}

impl Error for AccountError {}
