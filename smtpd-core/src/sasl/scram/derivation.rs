use std::fmt;

use zeroize::Zeroizing;

use super::{
    super::{Identity, Secret},
    ScramHash, ScramKeys,
};

/// The slow part of comparing a password with a [`Secret`]: deriving the keys of SCRAM from the password, which takes about 85
/// milliseconds for 600,000 iterations and a second and a half for the maximum, [`ScramKeys::MAX_ITERATIONS`].
///
/// [`Credentials::derivation`](super::super::Credentials::derivation) returns it. It borrows nothing, so it can
/// [`run`](Self::run) in another thread, and its result then replaces the secret. A client that guesses passwords makes the
/// server derive keys, so let only a few run at a time. All of these times are those of a release build: without optimization, it
/// takes seconds.
///
/// Only a driver of smtpd-core has to do this. `Server` of smtpd-tower derives keys in separate threads, shared by all servers of
/// the process: one for each processor at a time. Clients and their networks are served in rotation, and up to 1,024 sessions may
/// wait, for 10 seconds each. A client that finds the queue full, or waits longer, receives 454 4.7.0.
///
/// ```
/// use smtpd_core::sasl::{Credentials, ScramHash, ScramKeys, Secret};
///
/// let keys =
///     ScramKeys::derive(ScramHash::Sha256, "pencil", b"a random salt", 4096)?;
/// let mut secret = Secret::scram(keys);
/// let credentials = Credentials::plain("user", "pencil")?;
/// if let Some(derivation) = credentials.derivation(&secret) {
///     secret = std::thread::spawn(|| derivation.run()).join().unwrap();
/// }
/// assert!(credentials.derivation(&secret).is_none());
/// // Or answer with it: `AuthOutcome::Verify(secret)`.
/// assert!(credentials.verify(&secret));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Derivation {
    password: Zeroizing<String>,
    hash: ScramHash,
    salt: Vec<u8>,
    iterations: u32,
    /// The keys that the password is compared with, if the client sent the password.
    stored: Option<Box<ScramKeys>>,
    /// The user of the secret.
    user: Option<Identity>,
}

impl Derivation {
    /// Creates the derivation for a password that a client sent, to be compared with these keys.
    pub(in super::super) fn of_given(password: &str, stored: &ScramKeys) -> Self {
        Self {
            password: Zeroizing::new(password.to_owned()),
            hash: stored.hash(),
            salt: stored.salt().to_vec(),
            iterations: stored.iterations(),
            stored: Some(Box::new(stored.clone())),
            user: None,
        }
    }

    /// Sets the user of the secret.
    pub(in super::super) fn with_user(self, user: Option<&Identity>) -> Self {
        Self {
            user: user.cloned(),
            ..self
        }
    }

    /// Returns how often the hash is computed. The time that [`run`](Self::run) takes is proportional to it.
    pub const fn iterations(&self) -> u32 {
        self.iterations
    }

    /// Derives the keys. Returns a secret for the same credentials whose comparison takes no time.
    pub fn run(self) -> Secret {
        let keys = self.keys();
        let secret = match (keys, self.stored) {
            // The password itself replaces the keys that it matches, and an empty password, which matches nothing, all others.
            (Some(keys), Some(stored)) if keys.is_same(&stored) => {
                Secret::password(self.password.as_str())
            }
            (_, Some(_)) | (None, None) => Secret::password(""),
            (Some(keys), None) => Secret::scram(keys),
        };
        match self.user {
            Some(user) => secret.with_user(user),
            None => secret,
        }
    }

    /// Returns `None` for a password that SASLprep forbids, after the same time.
    pub(super) fn keys(&self) -> Option<ScramKeys> {
        let of = |password| ScramKeys::compute(self.hash, password, &self.salt, self.iterations);
        let keys = of(&self.password).ok();
        if keys.is_none() {
            let _ = std::hint::black_box(of("of nobody"));
        }
        keys
    }
}

/// How a SCRAM mechanism derives the keys of a password that is stored as plaintext.
#[derive(Clone)]
pub(in super::super) struct Recipe {
    pub(super) hash: ScramHash,
    pub(super) salt: Vec<u8>,
    pub(super) iterations: u32,
}

impl Recipe {
    pub(in super::super) fn of_stored(&self, password: &str) -> Derivation {
        Derivation {
            password: Zeroizing::new(password.to_owned()),
            hash: self.hash,
            salt: self.salt.clone(),
            iterations: self.iterations,
            stored: None,
            user: None,
        }
    }
}

impl fmt::Debug for Derivation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Derivation")
            .field("hash", &self.hash)
            .field("iterations", &self.iterations)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::super::Credentials, *};

    #[test]
    fn a_derived_secret_matches_if_the_keys_match() {
        let keys = |hash| ScramKeys::derive(hash, "pencil", b"salt", 5000).unwrap();
        let stored = [ScramHash::Sha256, ScramHash::Sha1].map(|hash| Secret::scram(keys(hash)));
        for (secret, password) in stored
            .iter()
            .flat_map(|secret| ["pencil", "Pencil", "\u{1f600}", "\u{ad}"].map(|p| (secret, p)))
        {
            let credentials = Credentials::plain("user", password).unwrap();
            let derivation = credentials.derivation(secret).unwrap();
            assert_eq!(derivation.iterations(), 5000);
            assert!(!format!("{derivation:?}").contains(password));
            let derived = derivation.run();
            assert!(credentials.derivation(&derived).is_none());
            assert_eq!(credentials.verify(&derived), password == "pencil");
            assert_eq!(credentials.verify(secret), password == "pencil");
        }
    }

    #[test]
    fn a_derived_secret_is_still_that_of_its_user() {
        let keys = ScramKeys::derive(ScramHash::Sha256, "pencil", b"salt", 4096).unwrap();
        let secret = Secret::scram(keys).with_user("user");
        for password in ["pencil", "guess", "\u{ad}"] {
            let credentials = Credentials::plain("USER", password).unwrap();
            let derived = credentials.derivation(&secret).unwrap().run();
            assert_eq!(derived.user(), secret.user());
        }
    }

    /// Otherwise, its user would receive a reply sooner than others, known or unknown.
    #[test]
    fn a_password_that_scram_cannot_use_takes_no_less_time() {
        let recipe = Recipe {
            hash: ScramHash::Sha256,
            salt: b"salt".to_vec(),
            iterations: 5000,
        };
        let credentials = Credentials::lookup("user").unwrap().with_recipe(recipe);
        for (password, usable) in [("pencil", true), ("\u{1f600}", false), ("\u{ad}", false)] {
            let secret = Secret::password(password);
            assert_eq!(secret.supports_scram(), usable);
            let derivation = credentials.derivation(&secret).unwrap();
            assert_eq!(derivation.iterations(), 5000);
            let derived = derivation.run();
            assert_eq!(derived.as_scram().is_some(), usable, "{password:?}");
            assert!(credentials.derivation(&derived).is_none());
        }
    }

    #[test]
    fn what_is_compared_at_once_needs_no_derivation() {
        let keys = ScramKeys::derive(ScramHash::Sha256, "pencil", b"salt", 4096).unwrap();
        let keys = Secret::scram(keys);
        let plain = Credentials::plain("user", "pencil").unwrap();
        assert!(plain.derivation(&Secret::password("pencil")).is_none());
        for credentials in [
            Credentials::external(),
            Credentials::lookup("user").unwrap(),
            Credentials::bearer("user", "pencil").unwrap(),
            Credentials::cram_md5("user", b"<1@a>", [0; 16]).unwrap(),
        ] {
            assert!(credentials.derivation(&keys).is_none());
        }
    }
}
