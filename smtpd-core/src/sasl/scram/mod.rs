//! SCRAM (RFC 5802, RFC 7677).

#[cfg(feature = "client")]
mod client;
mod derivation;
mod hash;
mod keys;
mod message;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

#[cfg(feature = "client")]
pub(super) use self::client::ScramClient;
pub(super) use self::derivation::Recipe;
use self::message::{Final, First};
pub use self::{
    derivation::Derivation,
    hash::ScramHash,
    keys::{ScramKeys, ScramKeysError},
};
use super::{
    ChannelBindings, Credentials, ExchangeContext, Identity, Mechanism, MechanismFactory,
    MechanismName, SALT_KEY_LEN, SaslError, Secret, Step, base64,
    credentials::text,
    gs2::{BindingFlag, Header},
};
use crate::address::AddressRules;

/// SCRAM-SHA-1, SCRAM-SHA-256 and their -PLUS forms (RFC 5802, RFC 7677): client and server prove to each other that they know
/// the password, which does not cross the network.
///
/// The application answers [`Step::Ask`] with [`Secret::scram`] of the same hash, or with [`Secret::password`], whose keys are
/// then derived each time: with 4,096 iterations that takes about half a millisecond, so with many users it is better to store
/// keys. [`Credentials::derivation`] is that work, to be done in another thread. Accepting without a secret makes the exchange
/// fail.
///
/// # Channel binding
/// The -PLUS forms bind the exchange to its TLS connection, which prevents a man-in-the-middle attack. They are offered only if
/// the connection has [`ChannelBindings`]. A client that could have used one, but was made to believe that there is none, fails
/// (RFC 5802 section 6). Offer both forms.
///
/// # Unknown users
/// A user that the application refuses goes through the whole exchange and fails at its end. The salt stays the same for that
/// name as long as the server's [`salt_key`](crate::Config::salt_key) does. To make such names look like users,
/// [`iterations`](Self::iterations) and [`salt_len`](Self::salt_len) must be those of the stored keys, in the -PLUS form as well.
/// An application that stores passwords should answer for unknown users with a [`Secret::password`] that nobody knows: then they
/// also take the time of deriving the keys. If names are looked up without regard to case, set [`names`](Self::names). An
/// application that stores keys should do so only for mechanisms that carry the password: here, dummy keys would show the same
/// salt for all unknown names.
///
/// Each exchange needs a nonce, so the mechanism is offered only if [`Config::entropy`](crate::Config::entropy) is set.
///
/// ```
/// use smtpd_core::sasl::{Mechanisms, Scram};
///
/// // As many iterations as the stored keys have.
/// let scram = Scram::sha256().iterations(10_000);
/// let mechanisms = Mechanisms::default().with(scram.plus()).with(scram);
/// assert!(mechanisms.find(b"SCRAM-SHA-256-PLUS").is_some());
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Scram {
    hash: ScramHash,
    plus: bool,
    iterations: u32,
    salt_len: usize,
    names: Option<AddressRules>,
}

impl Scram {
    /// Creates SCRAM-SHA-256 (RFC 7677).
    pub const fn sha256() -> Self {
        Self::new(ScramHash::Sha256)
    }

    /// Creates SCRAM-SHA-1 (RFC 5802), for clients that support nothing better.
    pub const fn sha1() -> Self {
        Self::new(ScramHash::Sha1)
    }

    const fn new(hash: ScramHash) -> Self {
        Self {
            hash,
            plus: false,
            iterations: ScramKeys::MIN_ITERATIONS,
            salt_len: 16,
            names: None,
        }
    }

    /// Returns the form that binds to the TLS channel: SCRAM-SHA-256-PLUS, SCRAM-SHA-1-PLUS.
    #[must_use]
    pub const fn plus(mut self) -> Self {
        self.plus = true;
        self
    }

    /// Sets the iterations for plaintext passwords and unknown users: at least 4,096, at most [`ScramKeys::MAX_ITERATIONS`].
    /// Default: 4,096.
    #[must_use]
    pub const fn iterations(mut self, iterations: u32) -> Self {
        self.iterations = if iterations < ScramKeys::MIN_ITERATIONS {
            ScramKeys::MIN_ITERATIONS
        } else if iterations > ScramKeys::MAX_ITERATIONS {
            ScramKeys::MAX_ITERATIONS
        } else {
            iterations
        };
        self
    }

    /// Sets the length in bytes of the salt for plaintext passwords and unknown users: at least 8, at most 32. Default: 16.
    #[must_use]
    pub const fn salt_len(mut self, bytes: usize) -> Self {
        self.salt_len = if bytes < 8 {
            8
        } else if bytes > 32 {
            32
        } else {
            bytes
        };
        self
    }

    /// Sets the rules by which your lookup compares user names. Default: names are compared as they are.
    ///
    /// The salt of an unknown user depends on its name, in the [canonical form](AddressRules::user) of these rules. If they are
    /// not those of the lookup, the salts show which names are known: if it finds `Alice` under `alice`, both have one salt,
    /// but two spellings of an unknown name would have two.
    #[must_use]
    pub const fn names(mut self, rules: AddressRules) -> Self {
        self.names = Some(rules);
        self
    }
}

impl MechanismFactory for Scram {
    fn name(&self) -> MechanismName {
        const SHA1: MechanismName = MechanismName::from_static("SCRAM-SHA-1");
        const SHA1_PLUS: MechanismName = MechanismName::from_static("SCRAM-SHA-1-PLUS");
        const SHA256: MechanismName = MechanismName::from_static("SCRAM-SHA-256");
        const SHA256_PLUS: MechanismName = MechanismName::from_static("SCRAM-SHA-256-PLUS");
        match (self.hash, self.plus) {
            (ScramHash::Sha1, false) => SHA1,
            (ScramHash::Sha1, true) => SHA1_PLUS,
            (ScramHash::Sha256, false) => SHA256,
            (ScramHash::Sha256, true) => SHA256_PLUS,
        }
    }

    fn is_plaintext(&self) -> bool {
        false
    }

    fn needs_channel_binding(&self) -> bool {
        self.plus
    }

    fn start(&self, context: &ExchangeContext<'_>) -> Box<dyn Mechanism> {
        let mut salt_key = Zeroizing::new([0; SALT_KEY_LEN]);
        match context.salt_key() {
            Some(key) => *salt_key = *key,
            None => {
                for (byte, random) in salt_key.iter_mut().zip(context.nonce()) {
                    *byte = *random;
                }
            }
        }
        Box::new(ScramExchange {
            scram: *self,
            server_nonce: base64::encode(context.nonce()),
            salt_key,
            bindings: context.channel_bindings().cloned(),
            state: State::Start,
        })
    }
}

struct ScramExchange {
    scram: Scram,
    server_nonce: String,
    salt_key: Zeroizing<[u8; SALT_KEY_LEN]>,
    bindings: Option<ChannelBindings>,
    state: State,
}

enum State {
    Start,
    /// The application was asked for the secret.
    Asked(Opening),
    /// The proof of the client is due.
    Challenged(Box<Challenge>),
    /// The client must acknowledge the server's signature.
    Proved(Identity),
    Over,
}

/// The outcome of the first message.
struct Opening {
    username: String,
    bare: String,
    /// The nonces of the client and the server.
    nonce: String,
    /// The required value of `c=`.
    binding: String,
}

struct Challenge {
    opening: Opening,
    server_first: String,
    keys: ScramKeys,
    /// Whether the user exists, and may act as the requested identity.
    genuine: bool,
}

impl Mechanism for ScramExchange {
    fn step(&mut self, response: Option<&[u8]>) -> Result<Step, SaslError> {
        match (std::mem::replace(&mut self.state, State::Over), response) {
            (State::Start, None) => {
                self.state = State::Start;
                Ok(Step::Challenge(Vec::new())) // RFC 5802 section 5.2: the client speaks first
            }
            (State::Start, Some(response)) => self.open(text(response)?),
            (State::Challenged(challenge), Some(response)) => {
                self.prove(*challenge, text(response)?)
            }
            // RFC 4954 section 4: SMTP cannot send data along with success, so the client answers it with an empty response.
            (State::Proved(identity), Some([])) => Ok(Step::Done(identity)),
            (State::Proved(_), Some(_)) => Err(SaslError::Malformed),
            _ => Err(SaslError::OutOfSequence),
        }
    }

    fn secret(&mut self, credentials: &Credentials, secret: &Secret) -> Result<Step, SaslError> {
        let keys = match secret.as_scram() {
            Some(keys) => Some(keys.clone()).filter(|keys| keys.hash() == self.scram.hash),
            None => {
                let password = secret.as_password().filter(|text| !text.is_empty());
                let recipe = self.recipe(credentials.username());
                password.and_then(|password| recipe.of_stored(password).keys())
            }
        };
        self.challenge(keys, !credentials.acts_as_other())
    }

    fn accepted(&mut self, _: Identity) -> Result<Step, SaslError> {
        Ok(Step::Failed) // Nothing is proved yet.
    }

    fn refused(&mut self) -> Result<Step, SaslError> {
        self.challenge(None, false)
    }
}

impl ScramExchange {
    fn open(&mut self, message: &str) -> Result<Step, SaslError> {
        let (header, bare) = super::gs2::parse(message)?;
        let First { username, nonce } = message::first(bare)?;
        let Some(binding) = self.binding(&header) else {
            return Ok(Step::Failed);
        };
        // RFC 5802 section 5.1: prepared for the lookup, and hashed as it was sent.
        let authzid = header.authzid.unwrap_or_default();
        let credentials = Credentials::lookup(&username)?.with_authzid(&authzid)?;
        let recipe = self.recipe(credentials.username());
        let credentials = credentials.with_recipe(recipe);
        self.state = State::Asked(Opening {
            username: credentials.username().to_owned(),
            bare: bare.to_owned(),
            nonce: format!("{nonce}{}", self.server_nonce),
            binding,
        });
        Ok(Step::Ask(credentials))
    }

    /// Returns the required value of `c=` in the next message, or `None` if the client requests an impossible binding (RFC 5802
    /// section 6).
    fn binding(&self, header: &Header<'_>) -> Option<String> {
        let mut input = header.text.as_bytes().to_vec();
        match (header.flag, self.scram.plus) {
            (BindingFlag::Required(name), true) => {
                input.extend_from_slice(self.bindings.as_ref()?.find(name)?);
            }
            (BindingFlag::Unsupported, false) => {}
            // The client did not learn that the server supports binding: somebody has removed the -PLUS form from the list.
            (BindingFlag::Unused, false) if self.bindings.is_none() => {}
            _ => return None,
        }
        Some(base64::encode(&input))
    }

    /// Sends the server-first-message. Its content does not reveal whether there are keys. Its timing may: a plaintext password
    /// takes the time of deriving them.
    fn challenge(&mut self, keys: Option<ScramKeys>, may_act: bool) -> Result<Step, SaslError> {
        let State::Asked(opening) = std::mem::replace(&mut self.state, State::Over) else {
            return Err(SaslError::OutOfSequence);
        };
        let genuine = keys.is_some() && may_act;
        let keys = keys.unwrap_or_else(|| {
            let salt = self.salt(&opening.username);
            ScramKeys::of_nobody(self.scram.hash, salt, self.scram.iterations)
        });
        let server_first = format!(
            "r={},s={},i={}",
            opening.nonce,
            base64::encode(keys.salt()),
            keys.iterations()
        );
        let message = server_first.clone().into_bytes();
        self.state = State::Challenged(Box::new(Challenge {
            opening,
            server_first,
            keys,
            genuine,
        }));
        Ok(Step::Challenge(message))
    }

    fn prove(&mut self, challenge: Challenge, message: &str) -> Result<Step, SaslError> {
        let message = message::last(message)?;
        let Some(signature) = challenge.verify(&message) else {
            return Ok(Step::Failed); // RFC 5802 section 5.1: the server-final-message is optional then
        };
        self.state = State::Proved(Identity::new(&challenge.opening.username));
        Ok(Step::Challenge(
            format!("v={}", base64::encode(&signature)).into_bytes(),
        ))
    }

    /// Returns how the keys of a plaintext password are derived.
    fn recipe(&self, username: &str) -> Recipe {
        Recipe {
            hash: self.scram.hash,
            salt: self.salt(username),
            iterations: self.scram.iterations,
        }
    }

    /// Returns the salt for a name without one, which looks random and is the same each time.
    fn salt(&self, username: &str) -> Vec<u8> {
        let name = match self.scram.names {
            Some(rules) => rules.user(username),
            None => username.into(),
        };
        let named = format!("{}\0{name}", self.scram.hash);
        let mut salt = ScramHash::Sha256
            .hmac(&*self.salt_key, named.as_bytes())
            .to_vec();
        salt.truncate(self.scram.salt_len);
        salt
    }
}

impl Challenge {
    /// Returns the signature of the server, if the client's proof is valid.
    fn verify(&self, message: &Final<'_>) -> Option<Zeroizing<Vec<u8>>> {
        let auth_message = format!(
            "{},{},{}",
            self.opening.bare, self.server_first, message.without_proof
        );
        // All of it is always computed, so that the time reveals nothing.
        let proved = self.keys.verify(auth_message.as_bytes(), &message.proof);
        let signature = self.keys.sign(auth_message.as_bytes());
        let same_nonce = message.nonce == self.opening.nonce;
        let same_channel: bool = message
            .binding
            .as_bytes()
            .ct_eq(self.opening.binding.as_bytes())
            .into();
        (self.genuine && proved && same_nonce && same_channel).then_some(signature)
    }
}

impl std::fmt::Debug for ScramExchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScramExchange")
            .field("scram", &self.scram)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
