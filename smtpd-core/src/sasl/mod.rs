//! The server side of SASL (RFC 4422) as SMTP AUTH speaks it (RFC 4954), without I/O.
//!
//! [`Mechanisms`] is what a server offers. For each AUTH command one of its [`MechanismFactory`]s starts a
//! [`Mechanism`], and an [`Exchange`] drives it: lines of the client go in, [`Step`]s come out. The mechanism never
//! sees base64 and never looks up a user: it asks the application with [`Step::Ask`], which answers that it accepts
//! the [`Credentials`], that it refuses them, or with the stored [`Secret`] to be compared.
//!
//! ```
//! use smtpd_core::sasl::{Exchange, ExchangeContext, Mechanisms, Secret, Step, challenge_line};
//!
//! let mechanisms = Mechanisms::default();
//! let plain = mechanisms.find(b"plain").unwrap();
//! let nonce = [0; 24]; // from a random number generator
//! let mut exchange = Exchange::new(plain.start(&ExchangeContext::new("mx.example.org", &nonce)));
//!
//! // C: AUTH PLAIN
//! let Step::Challenge(challenge) = exchange.handle_initial(None)? else { panic!() };
//! assert_eq!(challenge_line(&challenge), b"334 \r\n");
//!
//! // C: AGFsaWNlAHNlY3JldA==
//! let Step::Ask(credentials) = exchange.handle_line(b"AGFsaWNlAHNlY3JldA==")? else { panic!() };
//! assert_eq!(credentials.username(), "alice");
//!
//! let Step::Done(identity) = exchange.handle_secret(&Secret::plain("secret"))? else { panic!() };
//! assert_eq!(identity.as_str(), "alice");
//! # Ok::<(), smtpd_core::sasl::SaslError>(())
//! ```
//!
//! Names and passwords are compared octet by octet: they are not prepared with SASLprep, which RFC 4954 4 only
//! recommends.

mod base64;
mod cram_md5;
mod credentials;
mod error;
mod exchange;
mod identity;
mod login;
mod mechanism;
mod plain;
mod secret;
mod set;

pub use cram_md5::CramMd5;
pub use credentials::Credentials;
pub use error::SaslError;
pub use exchange::{Exchange, MAX_RESPONSE_LINE, challenge_line};
pub use identity::Identity;
pub use login::Login;
pub use mechanism::{ExchangeContext, Mechanism, MechanismFactory, NONCE_LEN, Step};
pub use plain::Plain;
pub use secret::Secret;
pub use set::{MechanismName, Mechanisms};
