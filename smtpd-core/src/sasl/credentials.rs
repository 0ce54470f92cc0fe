use std::{fmt, sync::Arc};

use zeroize::Zeroizing;

#[cfg(feature = "scram")]
use super::scram::{Derivation, Recipe};
use super::{
    Identity, SaslError, Secret, digest,
    prepare::{self, prepare_name},
};

/// The credentials that a client presented, for the application to verify.
///
/// A mechanism that carries the password provides it in [`password`](Self::password), one that carries a token in
/// [`bearer_token`](Self::bearer_token). For the others, the application answers with the stored [`Secret`] of
/// [`username`](Self::username), or calls [`verify`](Self::verify) itself.
///
/// Names are prepared with SASLprep (RFC 4013): look them up among names that were prepared with
/// [`prepare_name`](super::prepare_name). They contain no control characters. The password is never empty. The user name is empty
/// only if the mechanism does not require one: EXTERNAL, ANONYMOUS, and OAUTHBEARER, whose token identifies the user. A clone
/// shares the secret part instead of copying it; it is wiped from memory with the last clone, and `Debug` does not show it.
///
/// ```
/// use smtpd_core::sasl::{Credentials, Secret};
///
/// let credentials = Credentials::plain("alice", "hunter2")?;
/// assert!(credentials.verify(&Secret::password("hunter2")));
/// assert!(!format!("{credentials:?}").contains("hunter2"));
/// # Ok::<(), smtpd_core::sasl::SaslError>(())
/// ```
#[derive(Clone)]
pub struct Credentials {
    authzid: Option<Arc<str>>,
    username: Arc<str>,
    proof: Arc<Proof>,
}

enum Proof {
    Nothing,
    Password(Zeroizing<String>),
    Bearer(Zeroizing<String>),
    Trace(String),
    #[cfg(feature = "scram")]
    Scram(Recipe),
    CramMd5 {
        challenge: Vec<u8>,
        digest: Zeroizing<[u8; digest::DIGEST_LEN]>,
    },
}

impl Credentials {
    /// Creates credentials of a user name and its password, as PLAIN and LOGIN carry them.
    ///
    /// # Errors
    /// [`SaslError::Malformed`] if the name contains control characters or the password contains NUL, [`SaslError::Empty`] if one
    /// of them is empty, [`SaslError::Prohibited`] if SASLprep forbids the name.
    pub fn plain(username: &str, password: &str) -> Result<Self, SaslError> {
        if password.contains('\0') {
            return Err(SaslError::Malformed); // RFC 4616 section 2
        }
        if password.is_empty() {
            return Err(SaslError::Empty); // RFC 4616 section 2: passwd = 1*SAFE
        }
        Self::new(
            username,
            Proof::Password(Zeroizing::new(password.to_owned())),
        )
    }

    /// Creates credentials of a user name and the digest that answers this challenge (RFC 2195 section 2).
    ///
    /// # Errors
    /// The errors of [`plain`](Self::plain), for the name.
    pub fn cram_md5(username: &str, challenge: &[u8], digest: [u8; 16]) -> Result<Self, SaslError> {
        Self::new(
            username,
            Proof::CramMd5 {
                challenge: challenge.to_vec(),
                digest: Zeroizing::new(digest),
            },
        )
    }

    /// Creates credentials of a user name only, for a mechanism that needs the stored secret to continue;
    /// [`verify`](Self::verify) returns false.
    ///
    /// # Errors
    /// The errors of [`plain`](Self::plain), for the name.
    pub fn lookup(username: &str) -> Result<Self, SaslError> {
        Self::new(username, Proof::Nothing)
    }

    /// Creates credentials of a bearer token (RFC 6750), and the name of the user or an empty one.
    ///
    /// # Errors
    /// [`SaslError::Malformed`] if the name contains control characters, [`SaslError::Prohibited`] if SASLprep forbids it,
    /// [`SaslError::Empty`] if the token is empty.
    pub fn bearer(username: &str, token: &str) -> Result<Self, SaslError> {
        if token.is_empty() {
            return Err(SaslError::Empty);
        }
        Self::unnamed(username, Proof::Bearer(Zeroizing::new(token.to_owned())))
    }

    /// Creates credentials without a name or a proof: the session already knows who the client is (RFC 4422 appendix A).
    pub fn external() -> Self {
        Self {
            authzid: None,
            username: "".into(),
            proof: Arc::new(Proof::Nothing),
        }
    }

    /// Creates credentials without a name, but with a trace of the user, which may be empty (RFC 4505 section 2).
    ///
    /// # Errors
    /// [`SaslError::Malformed`] if the trace contains control characters.
    pub fn anonymous(trace: &str) -> Result<Self, SaslError> {
        check_name(trace)?;
        Self::unnamed("", Proof::Trace(trace.to_owned()))
    }

    /// Sets how SCRAM derives keys for these credentials.
    #[cfg(feature = "scram")]
    pub(super) fn with_recipe(self, recipe: Recipe) -> Self {
        Self {
            proof: Arc::new(Proof::Scram(recipe)),
            ..self
        }
    }

    fn new(username: &str, proof: Proof) -> Result<Self, SaslError> {
        let credentials = Self::unnamed(username, proof)?;
        if username.is_empty() {
            return Err(SaslError::Empty); // RFC 4616 section 2: authcid = 1*SAFE
        }
        Ok(credentials)
    }

    fn unnamed(username: &str, proof: Proof) -> Result<Self, SaslError> {
        Ok(Self {
            authzid: None,
            username: prepared(username)?,
            proof: Arc::new(proof),
        })
    }

    /// Sets the identity to act as (RFC 4422 section 3.4.1). An empty one is the same as none. Default: none.
    ///
    /// # Errors
    /// [`SaslError::Malformed`] if it contains control characters, [`SaslError::Prohibited`] if SASLprep forbids it.
    pub fn with_authzid(mut self, authzid: &str) -> Result<Self, SaslError> {
        self.authzid = Some(prepared(authzid)?).filter(|authzid| !authzid.is_empty());
        Ok(self)
    }

    /// Returns the credentials without the request to act as `user`, who they belong to.
    pub(super) fn of_user(self, user: &Identity) -> Self {
        Self {
            authzid: self.authzid.filter(|authzid| **authzid != *user.as_str()),
            ..self
        }
    }

    /// Returns the user name, which is the authentication identity.
    pub fn username(&self) -> &str {
        &self.username
    }

    /// Returns the authorization identity that the client requests to act as, if any.
    pub fn authzid(&self) -> Option<&str> {
        self.authzid.as_deref()
    }

    /// Returns whether the client requests to act as another identity than the user whose secret it proves to know.
    ///
    /// Only the application can allow that, by accepting the credentials; a matching secret is not enough.
    pub fn acts_as_other(&self) -> bool {
        self.authzid()
            .is_some_and(|authzid| authzid != self.username())
    }

    /// Returns the password as the client sent it, if the mechanism carries it.
    ///
    /// The application may check it against anything: a hash, a directory, another server.
    pub fn password(&self) -> Option<&str> {
        match &*self.proof {
            Proof::Password(password) => Some(password),
            _ => None,
        }
    }

    /// Returns the token, if the mechanism carries one: OAUTHBEARER and XOAUTH2.
    ///
    /// The application must validate it, and accept the identity that it was issued to.
    pub fn bearer_token(&self) -> Option<&str> {
        match &*self.proof {
            Proof::Bearer(token) => Some(token),
            _ => None,
        }
    }

    /// Returns the trace that an ANONYMOUS client left, which may be empty. It is not verified.
    pub fn trace(&self) -> Option<&str> {
        match &*self.proof {
            Proof::Trace(trace) => Some(trace),
            _ => None,
        }
    }

    /// Returns the slow part of the comparison with this secret, if there is one: a password was sent and the keys of SCRAM are
    /// stored, or the other way round.
    ///
    /// This is for drivers of smtpd-core. [`verify`](Self::verify) and
    /// [`AuthOutcome::Verify`](crate::connection::AuthOutcome::Verify) do the work at once, in the calling thread. If other
    /// sessions wait for that thread, [run](Derivation::run) the derivation elsewhere first, and use the secret that it returns.
    /// `Server` of smtpd-tower does so by itself: see [`Derivation`].
    #[cfg(feature = "scram")]
    pub fn derivation(&self, secret: &Secret) -> Option<Derivation> {
        match &*self.proof {
            Proof::Password(password) => {
                let stored = secret.as_scram()?;
                Some(Derivation::of_given(password, stored).with_user(secret.user()))
            }
            Proof::Scram(recipe) => {
                // A password that SCRAM cannot use takes as long as others: otherwise the time would reveal whose it is.
                let password = secret.as_password().filter(|text| !text.is_empty())?;
                Some(recipe.of_stored(password).with_user(secret.user()))
            }
            _ => None,
        }
    }

    /// Returns whether they prove knowledge of this secret. The time does not reveal how similar they are. Keys of SCRAM are
    /// compared with a password by deriving its keys, which can take a second: see [`derivation`](Self::derivation).
    ///
    /// It does not check whether the user may act as [`authzid`](Self::authzid): see [`acts_as_other`](Self::acts_as_other).
    #[must_use]
    pub fn verify(&self, secret: &Secret) -> bool {
        match &*self.proof {
            Proof::Nothing | Proof::Trace(_) => false,
            #[cfg(feature = "scram")]
            Proof::Scram(_) => false,
            Proof::Password(password) => secret.matches(password),
            Proof::Bearer(token) => secret.is(token),
            Proof::CramMd5 { challenge, digest } => secret.as_password().is_some_and(|stored| {
                let fits = |password: &str| digest::verify(password, challenge, digest);
                let prepared = prepare::password(stored);
                // Both are always compared, so that the time reveals nothing.
                fits(stored) | fits(prepared.as_ref().map_or(stored, |text| text))
            }),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("authzid", &self.authzid)
            .field("username", &self.username)
            .field("proof", &self.proof)
            .finish()
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            #[cfg(feature = "scram")]
            Self::Scram(_) => "Nothing",
            Self::Password(_) => "Password([redacted])",
            Self::Bearer(_) => "Bearer([redacted])",
            Self::Trace(trace) => return write!(f, "Trace({trace:?})"),
            Self::CramMd5 { .. } => "CramMd5([redacted])",
        })
    }
}

/// Returns the text of a response, or of a part of it.
pub(super) fn text(bytes: &[u8]) -> Result<&str, SaslError> {
    std::str::from_utf8(bytes).map_err(|_| SaslError::Malformed)
}

/// An empty name stays empty: it means that there is none.
fn prepared(name: &str) -> Result<Arc<str>, SaslError> {
    check_name(name)?;
    match prepare_name(name) {
        Some(name) => Ok(name.into()),
        None if name.is_empty() => Ok("".into()),
        None => Err(SaslError::Prohibited),
    }
}

fn check_name(name: &str) -> Result<(), SaslError> {
    // A name is written into logs, headers and queries, so it must not contain CR, LF or NUL.
    if name.contains(char::is_control) {
        Err(SaslError::Malformed)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_passwords_are_checked() {
        for (username, password, want) in [
            ("alice", "secret", None),
            ("ålice", "sé cret\t", None),
            ("", "secret", Some(SaslError::Empty)),
            ("alice", "", Some(SaslError::Empty)),
            ("", "", Some(SaslError::Empty)),
            ("a\rb", "secret", Some(SaslError::Malformed)),
            ("a\nb", "secret", Some(SaslError::Malformed)),
            ("a\0b", "secret", Some(SaslError::Malformed)),
            ("a\u{85}b", "secret", Some(SaslError::Malformed)),
            ("a\u{202e}b", "secret", Some(SaslError::Prohibited)),
            ("\u{ad}", "secret", Some(SaslError::Prohibited)),
            ("alice", "sec\0ret", Some(SaslError::Malformed)),
        ] {
            assert_eq!(
                Credentials::plain(username, password).err(),
                want,
                "{username:?} {password:?}"
            );
        }
        for (username, want) in [("", SaslError::Empty), ("a\tb", SaslError::Malformed)] {
            assert_eq!(Credentials::lookup(username).unwrap_err(), want);
            assert_eq!(
                Credentials::cram_md5(username, b"<1@a>", [0; 16]).unwrap_err(),
                want
            );
        }
    }

    #[test]
    fn only_another_authzid_acts_as_other() {
        for (authzid, want) in [
            ("", false),
            ("alice", false),
            ("bob", true),
            ("Alice", true),
        ] {
            let credentials = Credentials::plain("alice", "secret")
                .unwrap()
                .with_authzid(authzid)
                .unwrap();
            assert_eq!(
                credentials.authzid(),
                Some(authzid).filter(|authzid| !authzid.is_empty())
            );
            assert_eq!(credentials.acts_as_other(), want, "{authzid:?}");
        }
        let malformed = Credentials::lookup("alice").unwrap().with_authzid("a\nb");
        assert_eq!(malformed.unwrap_err(), SaslError::Malformed);
    }

    #[test]
    fn a_name_is_the_same_however_it_is_written() {
        for (name, want) in [
            ("mu\u{308}ller", "m\u{fc}ller"),
            ("m\u{fc}ller", "m\u{fc}ller"),
            ("\u{fb01}x", "fix"),
            ("\u{ff41}lice", "alice"),
        ] {
            for credentials in [
                Credentials::plain(name, "secret"),
                Credentials::lookup(name),
                Credentials::cram_md5(name, b"<1@a>", [0; 16]),
                Credentials::bearer(name, "token"),
            ] {
                let credentials = credentials.unwrap();
                assert_eq!(credentials.username(), want);
                let itself = credentials.with_authzid(name).unwrap();
                assert!(!itself.acts_as_other());
            }
        }
    }

    #[test]
    fn what_proves_nothing_is_never_verified() {
        for credentials in [
            Credentials::lookup("alice").unwrap(),
            Credentials::external().with_authzid("alice").unwrap(),
            Credentials::anonymous("alice").unwrap(),
        ] {
            assert!(!credentials.verify(&Secret::password("alice")));
        }
    }

    #[test]
    fn a_token_is_no_password() {
        let bearer = Credentials::bearer("", "token").unwrap();
        assert_eq!(
            (bearer.bearer_token(), bearer.password()),
            (Some("token"), None)
        );
        assert!(
            bearer.verify(&Secret::password("token")) && !bearer.verify(&Secret::password("other"))
        );
        let plain = Credentials::plain("alice", "secret").unwrap();
        assert_eq!((plain.bearer_token(), plain.trace()), (None, None));
        assert_eq!(
            Credentials::bearer("alice", "").unwrap_err(),
            SaslError::Empty
        );
    }

    #[test]
    fn debug_shows_the_names_but_no_proof() {
        let plain = Credentials::plain("alice", "hunter2")
            .unwrap()
            .with_authzid("bob")
            .unwrap();
        let cram = Credentials::cram_md5("alice", b"<1@a>", [0xb9; 16]).unwrap();
        let bearer = Credentials::bearer("alice", "hunter2").unwrap();
        for credentials in [plain, cram, bearer] {
            let shown = format!("{credentials:?} {credentials:#?}");
            assert!(
                shown.contains("alice") && shown.contains("[redacted]"),
                "{shown}"
            );
            assert!(
                !shown.contains("hunter2") && !shown.contains("185") && !shown.contains("b9"),
                "{shown}"
            );
        }
    }
}
