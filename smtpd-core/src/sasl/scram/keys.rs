use std::{error, fmt, str::FromStr};

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{
    super::{base64, prepare},
    ScramHash,
};

/// The data that a server stores for a SCRAM user instead of the password (RFC 5802 section 3).
///
/// An attacker who steals it can neither authenticate with it nor read the password from it, but can guess passwords offline, and
/// can impersonate this server. It is wiped from memory when dropped, and its `Debug` shows no key.
///
/// Its text has the form of RFC 5803, which other servers use too:
/// ```
/// use smtpd_core::sasl::{Credentials, ScramHash, ScramKeys, Secret};
///
/// let salt = [7; 16]; // from a random number generator, for each user anew
/// let keys = ScramKeys::derive(ScramHash::Sha256, "pencil", &salt, 4096)?;
/// let text = keys.to_text();
/// assert!(text.starts_with("SCRAM-SHA-256$4096:BwcHBwcHBwcHBwcHBwcHBw==$"));
/// assert_eq!(text.parse::<ScramKeys>()?.to_text(), text);
///
/// // It serves PLAIN and LOGIN too.
/// assert!(
///     Credentials::plain("user", "pencil")
///         .unwrap()
///         .verify(&Secret::scram(keys))
/// );
/// # Ok::<(), smtpd_core::sasl::ScramKeysError>(())
/// ```
#[derive(Clone)]
pub struct ScramKeys {
    hash: ScramHash,
    iterations: u32,
    salt: Vec<u8>,
    stored_key: Zeroizing<Vec<u8>>,
    server_key: Zeroizing<Vec<u8>>,
}

impl ScramKeys {
    /// The minimum number of iterations for deriving keys (RFC 7677 section 4).
    pub const MIN_ITERATIONS: u32 = 4096;

    /// The maximum number of iterations of keys, which takes about a second and a half. A plaintext password, as sent by PLAIN,
    /// is compared by deriving its keys, so stored keys determine how long a login takes.
    pub const MAX_ITERATIONS: u32 = 10_000_000;

    /// Derives the keys of a password. The time is proportional to the iterations: 4,096 take half a millisecond, 600,000 about
    /// 85.
    ///
    /// # Errors
    /// [`ScramKeysError::Password`] if the password is empty or cannot be prepared with SASLprep (RFC 4013),
    /// [`ScramKeysError::Salt`] if the salt is empty, [`ScramKeysError::Iterations`] if there are fewer than
    /// [`MIN_ITERATIONS`](Self::MIN_ITERATIONS) or more than [`MAX_ITERATIONS`](Self::MAX_ITERATIONS).
    pub fn derive(
        hash: ScramHash,
        password: &str,
        salt: &[u8],
        iterations: u32,
    ) -> Result<Self, ScramKeysError> {
        if !(Self::MIN_ITERATIONS..=Self::MAX_ITERATIONS).contains(&iterations) {
            return Err(ScramKeysError::Iterations);
        }
        Self::compute(hash, password, salt, iterations)
    }

    /// Creates keys from their stored parts. There may be fewer iterations than [`derive`](Self::derive) requires.
    ///
    /// # Errors
    /// [`ScramKeysError::Salt`] if the salt is empty, [`ScramKeysError::Iterations`] if there are none or more than
    /// [`MAX_ITERATIONS`](Self::MAX_ITERATIONS), [`ScramKeysError::Key`] if a key does not have the length of the hash.
    pub fn from_parts(
        hash: ScramHash,
        salt: &[u8],
        iterations: u32,
        stored_key: &[u8],
        server_key: &[u8],
    ) -> Result<Self, ScramKeysError> {
        if salt.is_empty() {
            return Err(ScramKeysError::Salt);
        }
        if !(1..=Self::MAX_ITERATIONS).contains(&iterations) {
            return Err(ScramKeysError::Iterations);
        }
        if stored_key.len() != hash.output_len() || server_key.len() != hash.output_len() {
            return Err(ScramKeysError::Key);
        }
        Ok(Self {
            hash,
            iterations,
            salt: salt.to_vec(),
            stored_key: Zeroizing::new(stored_key.to_vec()),
            server_key: Zeroizing::new(server_key.to_vec()),
        })
    }

    /// Returns the hash function.
    pub fn hash(&self) -> ScramHash {
        self.hash
    }

    /// Returns the salt.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// Returns the number of iterations with which the keys were derived.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// Returns the keys as text: `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`, the last three in base64 (RFC 5803 section
    /// 2).
    ///
    /// The text is as secret as the keys, and is not wiped from memory.
    pub fn to_text(&self) -> String {
        let [salt, stored, server] =
            [&self.salt, &*self.stored_key, &*self.server_key].map(|bytes| base64::encode(bytes));
        format!("{}${}:{salt}${stored}:{server}", self.hash, self.iterations)
    }

    /// Creates keys for a user that does not exist. A client that proves knowledge of them must still be refused.
    pub(super) fn of_nobody(hash: ScramHash, salt: Vec<u8>, iterations: u32) -> Self {
        let none = Zeroizing::new(vec![0; hash.output_len()]);
        Self {
            hash,
            iterations,
            salt,
            stored_key: none.clone(),
            server_key: none,
        }
    }

    /// Returns whether these are the keys of that password.
    pub(in super::super) fn fit(&self, password: &str) -> bool {
        Self::compute(self.hash, password, &self.salt, self.iterations)
            .is_ok_and(|given| given.is_same(self))
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.stored_key.ct_eq(&other.stored_key).into()
    }

    /// Returns whether the client that sent the proof knows the password (RFC 5802 section 3).
    pub(super) fn verify(&self, auth_message: &[u8], proof: &[u8]) -> bool {
        let signature = self.hash.hmac(&self.stored_key, auth_message);
        let mut client_key = Zeroizing::new(proof.to_vec());
        for (byte, mask) in client_key.iter_mut().zip(signature.iter()) {
            *byte ^= mask;
        }
        let given = self.hash.digest(&client_key);
        proof.len() == self.hash.output_len() && given.ct_eq(&self.stored_key).into()
    }

    /// Returns the proof that the server knows the keys (RFC 5802 section 3, ServerSignature).
    pub(super) fn sign(&self, auth_message: &[u8]) -> Zeroizing<Vec<u8>> {
        self.hash.hmac(&self.server_key, auth_message)
    }

    pub(super) fn compute(
        hash: ScramHash,
        password: &str,
        salt: &[u8],
        iterations: u32,
    ) -> Result<Self, ScramKeysError> {
        // RFC 5802 section 2.2, Normalize().
        let password = prepare::password(password).ok_or(ScramKeysError::Password)?;
        let salted = hash.salted(password.as_bytes(), salt, iterations);
        let stored_key = hash.digest(&hash.hmac(&salted, b"Client Key"));
        let server_key = hash.hmac(&salted, b"Server Key");
        Self::from_parts(hash, salt, iterations, &stored_key, &server_key)
    }
}

impl FromStr for ScramKeys {
    type Err = ScramKeysError;

    /// Parses what [`to_text`](Self::to_text) writes.
    fn from_str(text: &str) -> Result<Self, ScramKeysError> {
        let mut fields = text.split('$');
        let (Some(name), Some(info), Some(value), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(ScramKeysError::Text);
        };
        let pair = |field: &'_ str| {
            let (first, second) = field.split_once(':').ok_or(ScramKeysError::Text)?;
            Ok((first.to_owned(), decode(second)?))
        };
        let hash = ScramHash::ALL
            .into_iter()
            .find(|hash| hash.as_str() == name)
            .ok_or(ScramKeysError::Text)?;
        let (iterations, salt) = pair(info)?;
        let (stored_key, server_key) = pair(value)?;
        let is_number = iterations.bytes().all(|byte| byte.is_ascii_digit());
        let iterations = iterations.parse().ok().filter(|_| is_number);
        Self::from_parts(
            hash,
            &salt,
            iterations.ok_or(ScramKeysError::Iterations)?,
            &decode(&stored_key)?,
            &server_key,
        )
    }
}

fn decode(text: &str) -> Result<Zeroizing<Vec<u8>>, ScramKeysError> {
    base64::decode(text.as_bytes()).map_err(|_| ScramKeysError::Text)
}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramKeys")
            .field("hash", &self.hash)
            .field("iterations", &self.iterations)
            .finish_non_exhaustive()
    }
}

/// Why [`ScramKeys`] are invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ScramKeysError {
    /// The password is empty, or SASLprep forbids a character in it (RFC 4013 section 2.3).
    Password,
    /// The salt is empty.
    Salt,
    /// The iterations are too few, too many, or not a number.
    Iterations,
    /// A key does not have the length of the hash.
    Key,
    /// The text does not have the form of RFC 5803, or names another hash.
    Text,
}

impl fmt::Display for ScramKeysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password => "the password is empty or holds forbidden characters",
            Self::Salt => "the salt is empty",
            Self::Iterations => "too few or too many iterations",
            Self::Key => "a key has the wrong length",
            Self::Text => "expected SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey",
        })
    }
}

impl error::Error for ScramKeysError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_keys_cannot_make_a_login_take_hours() {
        let most = ScramKeys::MAX_ITERATIONS;
        let key = [0; 32];
        let stored = |n| ScramKeys::from_parts(ScramHash::Sha256, b"salt", n, &key, &key);
        let text = stored(most)
            .unwrap()
            .to_text()
            .replace("$10000000:", "$10000001:");
        for error in [
            stored(most + 1).unwrap_err(),
            stored(u32::MAX).unwrap_err(),
            text.parse::<ScramKeys>().unwrap_err(),
            ScramKeys::derive(ScramHash::Sha256, "secret", b"salt", most + 1).unwrap_err(),
        ] {
            assert_eq!(error, ScramKeysError::Iterations);
        }
    }

    #[test]
    fn text_and_back() {
        // RFC 7677 section 3: its salt and password, as another server stores them.
        let text = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
        let salt = base64::decode(b"W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let keys = ScramKeys::derive(ScramHash::Sha256, "pencil", &salt, 4096).unwrap();
        assert_eq!(keys.to_text(), text);
        let parsed: ScramKeys = text.parse().unwrap();
        assert!(parsed.fit("pencil") && !parsed.fit("Pencil") && !parsed.fit(""));
        assert_eq!((parsed.iterations(), parsed.salt()), (4096, &salt[..]));
        let sha1 = ScramKeys::derive(ScramHash::Sha1, "pencil", b"salt", 5000).unwrap();
        let parsed: ScramKeys = sha1.to_text().parse().unwrap();
        assert_eq!(parsed.hash(), ScramHash::Sha1);
        assert!(parsed.fit("pencil"));
    }

    #[test]
    fn faulty_text() {
        use ScramKeysError::{Iterations, Key, Salt, Text};
        let key = "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=";
        for (text, want) in [
            (String::new(), Text),
            (format!("SCRAM-SHA-512$4096:AA==${key}:{key}"), Text),
            (format!("scram-sha-256$4096:AA==${key}:{key}"), Text),
            (format!("SCRAM-SHA-256$4096:AA==${key}"), Text),
            (format!("SCRAM-SHA-256$4096:AA==${key}:{key}$"), Text),
            (format!("SCRAM-SHA-256$4096:AA${key}:{key}"), Text),
            (format!("SCRAM-SHA-256$4096${key}:{key}"), Text),
            (format!("SCRAM-SHA-256$4096:${key}:{key}"), Salt),
            (format!("SCRAM-SHA-256$0:AA==${key}:{key}"), Iterations),
            (format!("SCRAM-SHA-256$+1:AA==${key}:{key}"), Iterations),
            (format!("SCRAM-SHA-256$x:AA==${key}:{key}"), Iterations),
            (
                format!("SCRAM-SHA-256$99999999999:AA==${key}:{key}"),
                Iterations,
            ),
            (format!("SCRAM-SHA-256$4096:AA==$AA==:{key}"), Key),
            (format!("SCRAM-SHA-256$4096:AA==${key}:"), Key),
            (format!("SCRAM-SHA-1$4096:AA==${key}:{key}"), Key),
        ] {
            assert_eq!(text.parse::<ScramKeys>().unwrap_err(), want, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_derived() {
        use ScramKeysError::{Iterations, Password, Salt};
        for (password, salt, iterations, want) in [
            ("", "salt", 4096, Password),
            ("a\0b", "salt", 4096, Password),
            ("\u{ad}", "salt", 4096, Password),
            ("pencil", "", 4096, Salt),
            ("pencil", "salt", 4095, Iterations),
        ] {
            let keys = ScramKeys::derive(ScramHash::Sha1, password, salt.as_bytes(), iterations);
            assert_eq!(keys.unwrap_err(), want, "{password:?}");
        }
    }

    #[test]
    fn passwords_are_prepared() {
        // RFC 4013 section 3: a soft hyphen maps to nothing, a roman numeral to its letters.
        let keys = ScramKeys::derive(ScramHash::Sha256, "I\u{ad}X\u{aa}", b"salt", 4096).unwrap();
        assert!(keys.fit("IXa") && keys.fit("\u{2168}\u{aa}") && !keys.fit("ix"));
    }

    #[test]
    fn debug_shows_no_key() {
        let keys = ScramKeys::derive(ScramHash::Sha1, "pencil", &[9; 8], 4096).unwrap();
        let debug = format!("{keys:?}");
        assert_eq!(debug, "ScramKeys { hash: Sha1, iterations: 4096, .. }");
    }
}
