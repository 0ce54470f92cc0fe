use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

#[cfg(feature = "scram")]
use super::ScramKeys;
use super::{Identity, prepare};

/// The secret that the application stores for a user, to be compared with a proof.
///
/// It is wiped from memory when dropped, and its `Debug` does not show it.
///
/// ```
/// use smtpd_core::sasl::Secret;
///
/// assert_eq!(format!("{:?}", Secret::password("hunter2")), "Secret([redacted])");
/// ```
#[derive(Clone)]
pub struct Secret {
    kind: Kind,
    user: Option<Identity>,
}

#[derive(Clone)]
enum Kind {
    Plain(Zeroizing<String>),
    #[cfg(feature = "scram")]
    Scram(Box<ScramKeys>),
}

impl Secret {
    /// Creates a secret from the password itself. It works with every mechanism; CRAM-MD5 supports no other. For OAUTHBEARER and
    /// XOAUTH2 it is the token.
    ///
    /// PLAIN and LOGIN compare passwords after SASLprep (RFC 4013), so that accents match however they are encoded; a password
    /// that it forbids is compared byte by byte. CRAM-MD5 accepts the digest of the stored password and of its prepared form,
    /// whichever the client uses. An empty password matches nothing.
    pub fn password(password: impl Into<String>) -> Self {
        Self::new(Kind::Plain(Zeroizing::new(password.into())))
    }

    /// Creates a secret from the keys that SCRAM derives from the password (RFC 5802 section 3). They work with SCRAM of the same
    /// hash, and with the mechanisms that carry the password, PLAIN and LOGIN, which derive the keys of the password that was
    /// sent. That is slow: `Server` of smtpd-tower does it in separate threads, and drivers of smtpd-core do it with
    /// [`Credentials::derivation`](super::Credentials::derivation).
    #[cfg(feature = "scram")]
    pub fn scram(keys: ScramKeys) -> Self {
        Self::new(Kind::Scram(Box::new(keys)))
    }

    const fn new(kind: Kind) -> Self {
        Self { kind, user: None }
    }

    /// Returns the secret with the name of its user. The client is then authenticated under this name, however it has written
    /// it. Without one, it is the name that the client sent.
    ///
    /// If you look users up without regard to case, return the name that you have stored: otherwise `alice` and `Alice` are two
    /// users for everything that counts or compares identities.
    ///
    /// ```
    /// use smtpd_core::sasl::{
    ///     Exchange, ExchangeContext, MechanismFactory, NONCE_LEN, Plain, Secret,
    ///     Step,
    /// };
    ///
    /// let context = ExchangeContext::new("mx.example.org", &[7; NONCE_LEN]);
    /// let mut exchange = Exchange::new(Plain.start(&context));
    /// // \0ALICE\0secret
    /// let Step::Ask(credentials) =
    ///     exchange.handle_initial(Some(b"AEFMSUNFAHNlY3JldA=="))?
    /// else {
    ///     panic!("PLAIN asks for the secret")
    /// };
    /// assert_eq!(credentials.username(), "ALICE");
    ///
    /// let secret = Secret::password("secret").with_user("alice");
    /// let Step::Done(identity) = exchange.handle_secret(&secret)? else {
    ///     panic!("the password is right")
    /// };
    /// assert_eq!(identity.as_str(), "alice");
    /// # Ok::<(), smtpd_core::sasl::SaslError>(())
    /// ```
    #[must_use]
    pub fn with_user(self, name: impl Into<Identity>) -> Self {
        Self {
            user: Some(name.into()),
            ..self
        }
    }

    /// Returns the name of the user that it belongs to, if it was given.
    pub const fn user(&self) -> Option<&Identity> {
        self.user.as_ref()
    }

    /// Returns whether SCRAM can use it. It cannot use a password that SASLprep forbids, such as one with an emoji (RFC 5802
    /// section 2.2): such a user could only log in with another mechanism, although clients prefer SCRAM.
    pub fn supports_scram(&self) -> bool {
        match &self.kind {
            Kind::Plain(password) => prepare::password(password).is_some(),
            #[cfg(feature = "scram")]
            Kind::Scram(_) => true,
        }
    }

    /// Returns whether the password that a client sent is the right one.
    pub(super) fn matches(&self, given: &str) -> bool {
        match &self.kind {
            Kind::Plain(stored) => {
                let prepared = [given, &**stored].map(prepare::password);
                // Both are always compared, so that the time reveals nothing.
                self.is(given)
                    | matches!(&prepared, [Some(a), Some(b)] if equal(a.as_bytes(), b.as_bytes()))
            }
            #[cfg(feature = "scram")]
            Kind::Scram(keys) => keys.fit(given),
        }
    }

    /// Returns whether it is exactly that text, and not something derived from it.
    pub(super) fn is(&self, given: &str) -> bool {
        self.as_password()
            .is_some_and(|stored| !stored.is_empty() && equal(given.as_bytes(), stored.as_bytes()))
    }

    /// Returns the stored password, if there is one.
    pub(super) fn as_password(&self) -> Option<&str> {
        match &self.kind {
            Kind::Plain(stored) => Some(stored),
            #[cfg(feature = "scram")]
            Kind::Scram(_) => None,
        }
    }

    /// Returns the stored keys, if there are any.
    #[cfg(feature = "scram")]
    pub(super) fn as_scram(&self) -> Option<&ScramKeys> {
        match &self.kind {
            Kind::Plain(_) => None,
            Kind::Scram(keys) => Some(keys),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret([redacted])")
    }
}

/// Compares in a time that depends on the length of `given` only, so it reveals neither where the two differ nor, by an early
/// return, how long `stored` is.
fn equal(given: &[u8], stored: &[u8]) -> bool {
    let mut same = given.len().ct_eq(&stored.len());
    for (a, b) in given.iter().zip(stored.iter().cycle()) {
        same &= a.ct_eq(b);
    }
    same.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_password_matches() {
        for (given, stored, want) in [
            ("secret", "secret", true),
            ("sécret ☃", "sécret ☃", true),
            ("secreT", "secret", false),
            ("Secret", "secret", false),
            ("secre", "secret", false),
            ("secret1", "secret", false),
            // The stored text is repeated while comparing: a repetition is still another password.
            ("secretsecret", "secret", false),
            ("aaaa", "a", false),
            ("a", "aaaa", false),
            ("se\u{301}cret", "s\u{e9}cret", true),
            ("\u{fb01}x", "fix", true),
            ("secret\u{1f600}", "secret\u{1f600}", true),
            ("secret\u{1f600}", "secret\u{1f601}", false),
            ("\u{ad}", "\u{ad}", true),
            ("\u{ad}", "\u{200d}", false),
            ("", "\u{ad}", false),
            ("", "secret", false),
            ("secret", "", false),
            ("", "", false),
        ] {
            assert_eq!(
                Secret::password(stored).matches(given),
                want,
                "{given:?} {stored:?}"
            );
        }
    }

    #[test]
    fn scram_cannot_use_what_saslprep_forbids() {
        for (password, want) in [
            ("secret", true),
            ("s\u{e9}cret", true),
            ("\u{1f600}", false),
            ("\u{ad}", false),
            ("\u{627}a", false),
        ] {
            assert_eq!(
                Secret::password(password).supports_scram(),
                want,
                "{password:?}"
            );
        }
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        assert!(!format!("{:?}", Secret::password("hunter2")).contains("hunter2"));
    }
}
