//! Passwords that are stored as hashes.
//!
//! [The guide](crate::guide::authentication#hashed-passwords) shows how to hash and to compare them.

mod memory;
mod verifier;

use std::{error::Error, fmt, hash::Hasher, str::FromStr, sync::Arc};

use argon2::{Algorithm, Argon2, Block, Params, Version, password_hash::phc};
use subtle::ConstantTimeEq;

pub use self::verifier::PasswordVerifier;

/// An Argon2 hash (RFC 9106) of a password, as a PHC string: `$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH`.
///
/// All three variants are supported (argon2id, argon2i, argon2d). `Debug` does not show the hash.
///
/// ```
/// use smtpd_tower::password_hash::PasswordHash;
///
/// let hash: PasswordHash =
///     "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$L1qnTgpsWMa/dMHjDHhQFw".parse()?;
/// assert!("secret".parse::<PasswordHash>().is_err());
/// # Ok::<(), smtpd_tower::password_hash::PasswordHashError>(())
/// ```
#[derive(Clone)]
pub struct PasswordHash(Arc<Stored>);

struct Stored {
    argon2: Argon2<'static>,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

impl PasswordHash {
    /// The most memory that a hash may ask for: 1 GiB, in KiB.
    const MAX_MEMORY: u32 = 1 << 20;

    /// The most memory that a hash may ask for, times its number of passes.
    const MAX_COST: u64 = 1 << 24;

    /// Returns whether `password` matches. Deliberately slow. `memory` has as many blocks as [`blocks`](Self::blocks) says.
    fn fits(&self, password: &str, memory: &mut [Block]) -> bool {
        let Stored { argon2, salt, hash } = &*self.0;
        let mut computed = vec![0; hash.len()];
        argon2
            .hash_password_into_with_memory(password.as_bytes(), salt, &mut computed, memory)
            .is_ok_and(|()| computed.ct_eq(hash).into())
    }

    /// Returns the memory needed to compare a password, in blocks.
    fn blocks(&self) -> usize {
        self.0.argon2.params().block_count()
    }

    /// Returns whether comparing a password takes as long as with another hash. If the hashes of users differ in cost, the time
    /// reveals who has which, and a guess is cheaper for some.
    pub fn costs_as_much_as(&self, other: &Self) -> bool {
        let cost = |hash: &Self| {
            let params = hash.0.argon2.params();
            (params.m_cost(), params.t_cost(), params.p_cost())
        };
        cost(self) == cost(other)
    }

    /// Adds its secret to a key.
    fn add_to(&self, key: &mut impl Hasher) {
        key.write(&self.0.salt);
        key.write(&self.0.hash);
    }

    /// Returns a hash of an unknown password, with that many bytes.
    fn of_nobody(argon2: Argon2<'static>, bytes: usize) -> Self {
        Self(Arc::new(Stored {
            argon2,
            salt: vec![0; 16],
            hash: vec![0; bytes],
        }))
    }
}

impl FromStr for PasswordHash {
    type Err = PasswordHashError;

    fn from_str(text: &str) -> Result<Self, PasswordHashError> {
        let parsed = phc::PasswordHash::new(text).map_err(|_| PasswordHashError::Malformed)?;
        let algorithm = Algorithm::try_from(parsed.algorithm.as_str())
            .map_err(|_| PasswordHashError::Algorithm)?;
        let params = Params::try_from(&parsed).map_err(|_| PasswordHashError::Parameters)?;
        // A hash with a key that is not supported could never match. Of two values the last would count, unlike elsewhere.
        let names = || parsed.params.iter().map(|(name, _)| name);
        let repeats = |(at, name)| names().take(at).any(|earlier| earlier == name);
        if !params.keyid().is_empty() || names().enumerate().any(repeats) {
            return Err(PasswordHashError::Parameters);
        }
        // As in the reference implementation, a hash without a version has the first one.
        let version = parsed.version.map_or(Ok(Version::V0x10), Version::try_from);
        let version = version.map_err(|_| PasswordHashError::Parameters)?;
        let (Some(salt), Some(hash)) = (parsed.salt, parsed.hash) else {
            return Err(PasswordHashError::Malformed);
        };
        let cost = u64::from(params.m_cost()) * u64::from(params.t_cost());
        if params.m_cost() > Self::MAX_MEMORY || cost > Self::MAX_COST {
            return Err(PasswordHashError::Cost);
        }
        if salt.len() < argon2::MIN_SALT_LEN {
            return Err(PasswordHashError::Parameters);
        }
        Ok(Self(Arc::new(Stored {
            argon2: Argon2::new(algorithm, version, params),
            salt: salt.to_vec(),
            hash: hash.as_bytes().to_vec(),
        })))
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash([redacted])")
    }
}

/// An error from parsing a [`PasswordHash`].
///
/// ```
/// use smtpd_tower::password_hash::{PasswordHash, PasswordHashError};
///
/// let error = "$2b$12$Ix".parse::<PasswordHash>().unwrap_err();
/// assert_eq!(error, PasswordHashError::Malformed);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PasswordHashError {
    /// It is not a PHC string with a salt and a hash.
    Malformed,
    /// It is not an Argon2 hash.
    Algorithm,
    /// The parameters, the version or the salt are not valid; one is given twice; or the hash needs a secret key (`keyid`).
    Parameters,
    /// It would take more than 1 GiB of memory, or process 16 GiB.
    Cost,
}

impl fmt::Display for PasswordHashError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "expected a hash such as $argon2id$v=19$m=19456,t=2,p=1$SALT$HASH",
            Self::Algorithm => "the hash is not by Argon2",
            Self::Parameters => "the parameters of the hash are not valid",
            Self::Cost => "the hash asks for too much memory or time",
        })
    }
}

impl Error for PasswordHashError {}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hash of the password `secret`, with parameters that cost next to nothing.
    pub(super) const HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$L1qnTgpsWMa/dMHjDHhQFw";

    pub(super) fn hash() -> PasswordHash {
        HASH.parse().unwrap()
    }

    fn fits(hash: &PasswordHash, password: &str) -> bool {
        hash.fits(password, &mut vec![Block::default(); hash.blocks()])
    }

    #[test]
    fn what_cannot_be_used_is_refused_when_it_is_read() {
        use PasswordHashError::*;

        let with = |params: &str| HASH.replace("m=8,t=1,p=1", params);
        for params in [
            "m=8,t=1,p=1,keyid=Zm9v",
            "m=8,t=1,p=1,m=9",
            "m=8,t=1,p=1,t=1",
            "m=8,t=1,p=1,p=1",
        ] {
            let error = with(params).parse::<PasswordHash>().unwrap_err();
            assert_eq!(error, Parameters, "{params}");
        }
        assert!(
            with("m=8,t=1,p=1,data=Zm9v")
                .parse::<PasswordHash>()
                .is_ok()
        );

        for (text, error) in [
            ("", Malformed),
            ("secret", Malformed),
            ("$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ", Malformed),
            (
                "$scrypt$ln=4,r=8,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
                Algorithm,
            ),
            (
                "$argon2id$v=18$m=8,t=1,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
                Parameters,
            ),
            (
                "$argon2id$v=19$m=1,t=1,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
                Parameters,
            ),
            (
                "$argon2id$v=19$m=1048577,t=1,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
                Cost,
            ),
            (
                "$argon2id$v=19$m=1048576,t=17,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
                Cost,
            ),
        ] {
            assert_eq!(text.parse::<PasswordHash>().unwrap_err(), error, "{text}");
        }
        for kind in ["argon2i", "argon2d"] {
            assert!(
                HASH.replace("argon2id", kind)
                    .parse::<PasswordHash>()
                    .is_ok()
            );
        }
        // Without a version it is a different hash.
        let old: PasswordHash = HASH.replace("v=19$", "").parse().unwrap();
        assert!(!fits(&old, "secret"));
        assert!(fits(&hash(), "secret"));
        assert!(!format!("{:?}", hash()).contains("L1qn"));
    }
}
