//! The server side of SASL (RFC 4422) as used by SMTP AUTH (RFC 4954), without I/O.
//!
//! [`Mechanisms`] is the set that a server offers. For each AUTH command, one of its [`MechanismFactory`]s starts a
//! [`Mechanism`], and an [`Exchange`] drives it: its input is the client's lines, its output is [`Step`]s. The mechanism never
//! sees base64 and never looks up a user: it asks the application with [`Step::Ask`], which accepts the [`Credentials`], refuses
//! them, or answers with the stored [`Secret`] to be compared.
//!
//! ```
//! use smtpd_core::sasl::{
//!     Exchange, ExchangeContext, Mechanisms, Secret, Step, challenge_line,
//! };
//!
//! let mechanisms = Mechanisms::default();
//! let plain = mechanisms.find(b"plain").unwrap();
//! let nonce = [0; 24]; // from a random number generator
//! let mut exchange =
//!     Exchange::new(plain.start(&ExchangeContext::new("mx.example.org", &nonce)));
//!
//! // C: AUTH PLAIN
//! let Step::Challenge(challenge) = exchange.handle_initial(None)? else {
//!     panic!()
//! };
//! assert_eq!(challenge_line(&challenge), b"334 \r\n");
//!
//! // C: AGFsaWNlAHNlY3JldA==
//! let Step::Ask(credentials) = exchange.handle_line(b"AGFsaWNlAHNlY3JldA==")?
//! else {
//!     panic!()
//! };
//! assert_eq!(credentials.username(), "alice");
//!
//! let Step::Done(identity) = exchange.handle_secret(&Secret::password("secret"))?
//! else {
//!     panic!()
//! };
//! assert_eq!(identity.as_str(), "alice");
//! # Ok::<(), smtpd_core::sasl::SaslError>(())
//! ```
//!
//! | mechanism | defined by | the application receives |
//! |---|---|---|
//! | [`Plain`], [`Login`] | RFC 4616, draft-murchison-sasl-login | the password |
//! | [`CramMd5`] | RFC 2195 | a request for the stored password |
//! | [`Scram`] | RFC 5802, RFC 7677 | the question for the keys or the password |
//! | [`OAuthBearer`], [`XOAuth2`] | RFC 7628, Google | a token |
//! | [`External`] | RFC 4422 appendix A | the question of who the client is |
//! | [`Anonymous`] | RFC 4505 | a trace |
//!
//! User names are prepared with SASLprep, whatever the mechanism (RFC 4616 section 2, RFC 5802 section 5.1), so look them up
//! among names that were prepared with [`prepare_name`]. Passwords are prepared when they are compared with a [`Secret`], but
//! [`Credentials::password`] is what the client sent.

mod anonymous;
mod base64;
mod bearer;
mod channel_binding;
#[cfg(feature = "client")]
pub(crate) mod client;
mod cram_md5;
mod credentials;
mod digest;
mod error;
mod exchange;
mod external;
mod gs2;
mod identity;
mod login;
mod mechanism;
mod oauthbearer;
mod plain;
mod prepare;
#[cfg(feature = "scram")]
mod scram;
mod secret;
mod set;
mod xoauth2;

pub use anonymous::Anonymous;
pub use channel_binding::{ChannelBinding, ChannelBindings};
pub use cram_md5::CramMd5;
pub use credentials::Credentials;
pub use error::SaslError;
pub use exchange::{Exchange, MAX_RESPONSE_LINE, challenge_line};
pub use external::External;
pub use identity::Identity;
pub use login::Login;
pub use mechanism::{ExchangeContext, Mechanism, MechanismFactory, NONCE_LEN, SALT_KEY_LEN, Step};
pub use oauthbearer::OAuthBearer;
pub use plain::Plain;
pub use prepare::prepare_name;
#[cfg(feature = "scram")]
pub use scram::{Derivation, Scram, ScramHash, ScramKeys, ScramKeysError};
pub use secret::Secret;
pub use set::{MechanismName, Mechanisms};
pub use xoauth2::XOAuth2;
