//! Passwords that are stored as hashes.

use std::{error::Error, fmt, num::NonZero, str::FromStr, sync::Arc, thread};

use argon2::{Algorithm, Argon2, Params, Version, password_hash::phc};
use smtpd_core::{
    AuthOutcome, Reply,
    sasl::{Credentials, Identity},
};
use subtle::ConstantTimeEq;
use tokio::{sync::Semaphore, task};

/// The hash of a password, by Argon2 (RFC 9106), as a PHC string: `$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH`.
///
/// All three kinds are known (argon2id, argon2i, argon2d). Its `Debug` does not show it.
///
/// ```
/// use smtpd_tower::PasswordHash;
///
/// let hash: PasswordHash = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$L1qnTgpsWMa/dMHjDHhQFw".parse()?;
/// assert!("secret".parse::<PasswordHash>().is_err());
/// # Ok::<(), smtpd_tower::PasswordHashError>(())
/// ```
#[derive(Clone)]
pub struct PasswordHash(Arc<Stored>);

struct Stored {
    argon2: Argon2<'static>,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

impl PasswordHash {
    /// The most memory that one may ask for: 1 GiB, in KiB.
    const MAX_MEMORY: u32 = 1 << 20;

    /// The most memory that one may ask for, times how often it goes through it.
    const MAX_COST: u64 = 1 << 24;

    /// Whether it is that of this password. It takes its time, by intention.
    ///
    /// # Errors
    /// Where there is not the memory for it.
    fn fits(&self, password: &str) -> Result<bool, argon2::Error> {
        let Stored { argon2, salt, hash } = &*self.0;
        let mut computed = vec![0; hash.len()];
        argon2.hash_password_into(password.as_bytes(), salt, &mut computed)?;
        Ok(computed.ct_eq(hash).into())
    }

    /// One of a password that nobody knows, with that many octets.
    fn of_nobody(argon2: Argon2<'static>, octets: usize) -> Self {
        Self(Arc::new(Stored {
            argon2,
            salt: vec![0; 16],
            hash: vec![0; octets],
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
        // As in the reference implementation, a hash without a version is of the first.
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

/// Why a text is no [`PasswordHash`].
///
/// ```
/// use smtpd_tower::{PasswordHash, PasswordHashError};
///
/// let error = "$2b$12$Ix".parse::<PasswordHash>().unwrap_err();
/// assert_eq!(error, PasswordHashError::Malformed);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PasswordHashError {
    /// It has not the form of a PHC string with a salt and a hash.
    Malformed,
    /// It is not by Argon2.
    Algorithm,
    /// The parameters, the version or the salt cannot be used.
    Parameters,
    /// It would take more than 1 GiB of memory, or go through 16 GiB.
    Cost,
}

impl fmt::Display for PasswordHashError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "expected a hash such as $argon2id$v=19$m=19456,t=2,p=1$SALT$HASH",
            Self::Algorithm => "the hash is not by Argon2",
            Self::Parameters => "the parameters of the hash cannot be used",
            Self::Cost => "the hash asks for too much memory or time",
        })
    }
}

impl Error for PasswordHashError {}

/// Compares passwords with their hashes, for the AUTH phase: in threads of their own, and not too many at a time.
///
/// An unknown user costs as much time as a known one. A clone shares the limit.
///
/// ```
/// use std::{collections::HashMap, sync::Arc};
/// use smtpd_tower::{Auth, AuthOutcome, PasswordHash, PasswordVerifier, Pipeline, Request, handler_fn};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let hash: PasswordHash = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$L1qnTgpsWMa/dMHjDHhQFw".parse()?;
/// let verifier = PasswordVerifier::new().unknown_users_like(&hash);
/// let users = Arc::new(HashMap::from([("alice", hash)]));
///
/// let pipeline = Pipeline::new().auth(handler_fn(move |request: Request<Auth>| {
///     let (verifier, users) = (verifier.clone(), users.clone());
///     async move {
///         let credentials = request.credentials();
///         verifier.verify(credentials, users.get(credentials.username())).await
///     }
/// }));
/// # drop(pipeline);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct PasswordVerifier {
    nobody: PasswordHash,
    turns: Arc<Semaphore>,
}

impl PasswordVerifier {
    /// One for each processor at a time. Unknown users cost what Argon2id with 19 MiB and two passes does.
    pub fn new() -> Self {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            nobody: PasswordHash::of_nobody(Argon2::default(), Params::DEFAULT_OUTPUT_LEN),
            turns: Arc::new(Semaphore::new(processors)),
        }
    }

    /// Lets unknown users cost what this hash does: one like those of the known.
    #[must_use]
    pub fn unknown_users_like(mut self, hash: &PasswordHash) -> Self {
        self.nobody = PasswordHash::of_nobody(hash.0.argon2.clone(), hash.0.hash.len());
        self
    }

    /// So many at a time; others wait, as long as the limit of the AUTH phase lets them. Each takes the memory that its
    /// hash asks for.
    #[must_use]
    pub fn at_a_time(mut self, turns: NonZero<usize>) -> Self {
        self.turns = Arc::new(Semaphore::new(turns.get().min(Semaphore::MAX_PERMITS)));
        self
    }

    /// Accepts whoever knows the password of that hash; `None` stands for a user that is not known.
    ///
    /// Refused is also who wants to act as somebody else (RFC 4616 section 2), and a mechanism that does not carry the
    /// password, for which a hash is of no use. Where there is no memory, the client may try again.
    pub async fn verify(
        &self,
        credentials: &Credentials,
        hash: Option<&PasswordHash>,
    ) -> AuthOutcome {
        if credentials.password().is_none() {
            return Reply::auth_failed().into();
        }
        let known = hash.is_some();
        let (hash, proof) = (hash.unwrap_or(&self.nobody).clone(), credentials.clone());
        match self.fits(hash, proof).await {
            Some(true) if known && !credentials.acts_as_other() => {
                Identity::new(credentials.username()).into()
            }
            Some(_) => Reply::auth_failed().into(),
            None => Reply::try_again("Cannot authenticate now").into(),
        }
    }

    async fn fits(&self, hash: PasswordHash, credentials: Credentials) -> Option<bool> {
        let turn = self.turns.clone().acquire_owned().await.ok()?;
        let compared = task::spawn_blocking(move || {
            // Held by the work and not by the session: a client that goes away does not end the work.
            let _turn = turn;
            hash.fits(credentials.password().unwrap_or_default())
        });
        compared.await.ok()?.ok()
    }
}

impl Default for PasswordVerifier {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the password `secret`, with parameters that cost next to nothing.
    const HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$L1qnTgpsWMa/dMHjDHhQFw";

    fn hash() -> PasswordHash {
        HASH.parse().unwrap()
    }

    async fn verify(credentials: &Credentials, hash: Option<&PasswordHash>) -> AuthOutcome {
        PasswordVerifier::new().verify(credentials, hash).await
    }

    #[tokio::test]
    async fn the_password_decides() {
        for (password, known, authzid, welcome) in [
            ("secret", true, "", true),
            ("secret", true, "alice", true),
            ("secret", true, "bob", false),
            ("Secret", true, "", false),
            ("secret", false, "", false),
        ] {
            let credentials = Credentials::plain("alice", password)
                .unwrap()
                .with_authzid(authzid)
                .unwrap();
            match verify(&credentials, known.then_some(&hash())).await {
                AuthOutcome::Accept(identity) => assert!(welcome && identity.as_str() == "alice"),
                AuthOutcome::Refuse(reply) => assert!(!welcome && reply == Reply::auth_failed()),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_mechanism_without_the_password_is_refused() {
        for credentials in [
            Credentials::lookup("alice").unwrap(),
            Credentials::bearer("alice", "secret").unwrap(),
            Credentials::external(),
        ] {
            let outcome = verify(&credentials, Some(&hash())).await;
            assert!(matches!(outcome, AuthOutcome::Refuse(_)));
        }
    }

    #[test]
    fn nobody_costs_what_the_known_do() {
        let argon2 = |verifier: &PasswordVerifier| verifier.nobody.0.argon2.params().clone();
        let plain = PasswordVerifier::new();
        assert_eq!(argon2(&plain), Params::DEFAULT);
        let like = plain.unknown_users_like(&hash());
        assert_eq!((argon2(&like).m_cost(), argon2(&like).t_cost()), (8, 1));
        assert!(!like.nobody.fits("").unwrap());
    }

    #[tokio::test]
    async fn they_take_turns() {
        let verifier = PasswordVerifier::new()
            .unknown_users_like(&hash())
            .at_a_time(NonZero::<usize>::MIN);
        let turn = verifier.turns.clone().acquire_owned().await.unwrap();
        let credentials = Credentials::plain("alice", "secret").unwrap();
        let waiting = tokio::spawn({
            let verifier = verifier.clone();
            async move { verifier.verify(&credentials, Some(&hash())).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(turn);
        assert!(matches!(waiting.await.unwrap(), AuthOutcome::Accept(_)));
        assert_eq!(verifier.turns.available_permits(), 1);
    }

    #[test]
    fn what_cannot_be_used_is_refused_when_it_is_read() {
        use PasswordHashError::*;

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
        // Without a version it is another hash.
        let old: PasswordHash = HASH.replace("v=19$", "").parse().unwrap();
        assert!(!old.fits("secret").unwrap());
        assert!(!format!("{:?}", hash()).contains("L1qn"));
    }
}
