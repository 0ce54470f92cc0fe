use std::fmt;

use super::{ChannelBindings, Credentials, Identity, MechanismName, SaslError, Secret};

/// The number of random bytes that each exchange receives.
pub const NONCE_LEN: usize = 24;

/// The length in bytes of the key from which the salts of unknown users are made.
pub const SALT_KEY_LEN: usize = 32;

/// One exchange of a SASL mechanism, on the server's side.
///
/// [`step`](Self::step) is called with each response of the client. After it returned [`Step::Ask`], exactly one of
/// [`secret`](Self::secret), [`accepted`](Self::accepted) and [`refused`](Self::refused) is called with the answer of the
/// application. [`Step::Done`], [`Step::Failed`] and an error end the exchange. [`Exchange`](super::Exchange) handles base64, the
/// empty response `=`, cancelling and the length of lines.
///
/// A mechanism of your own, in which the client sends only its name and a token:
/// ```
/// use smtpd_core::sasl::{
///     Credentials, ExchangeContext, Mechanism, MechanismFactory, MechanismName,
///     Mechanisms, SaslError, Step,
/// };
///
/// #[derive(Debug)]
/// struct Token;
///
/// impl MechanismFactory for Token {
///     fn name(&self) -> MechanismName {
///         const { MechanismName::from_static("X-TOKEN") }
///     }
///     fn is_plaintext(&self) -> bool {
///         true
///     }
///     fn start(&self, _: &ExchangeContext<'_>) -> Box<dyn Mechanism> {
///         Box::new(TokenExchange)
///     }
/// }
///
/// #[derive(Debug)]
/// struct TokenExchange;
///
/// impl Mechanism for TokenExchange {
///     fn step(&mut self, response: Option<&[u8]>) -> Result<Step, SaslError> {
///         let Some(response) = response else {
///             return Ok(Step::Challenge(Vec::new()));
///         };
///         let response =
///             str::from_utf8(response).map_err(|_| SaslError::Malformed)?;
///         let (name, token) =
///             response.split_once(' ').ok_or(SaslError::Malformed)?;
///         Ok(Step::Ask(Credentials::plain(name, token)?))
///     }
/// }
///
/// assert!(Mechanisms::none().with(Token).find(b"x-token").is_some());
/// ```
pub trait Mechanism: Send + fmt::Debug {
    /// Processes the decoded response of the client.
    ///
    /// `None` is passed only in the first call, if AUTH had no initial response: a mechanism in which the server speaks first
    /// then returns its challenge, and one in which the client speaks first returns an empty one (RFC 4422 section 5.1).
    ///
    /// # Errors
    /// [`SaslError::Malformed`] and [`SaslError::Empty`] for an invalid response, [`SaslError::UnexpectedInitial`] for an initial
    /// response in a mechanism in which the server speaks first.
    fn step(&mut self, response: Option<&[u8]>) -> Result<Step, SaslError>;

    /// Continues after the application answered [`Step::Ask`] with the stored secret of the user.
    ///
    /// By default, verifies the credentials with it. Credentials that [act as another identity](Credentials::acts_as_other) fail,
    /// because the secret does not prove that right. [`Exchange`](super::Exchange) replaces the identity of [`Step::Done`] by the
    /// [user of the secret](Secret::user), if it has one.
    ///
    /// # Errors
    /// As the mechanism defines; none by default.
    fn secret(&mut self, credentials: &Credentials, secret: &Secret) -> Result<Step, SaslError> {
        // RFC 4616 section 2: both the identity and its right to act as the authorization identity are verified.
        if credentials.verify(secret) && !credentials.acts_as_other() {
            return Ok(Step::Done(Identity::new(credentials.username())));
        }
        Ok(Step::Failed)
    }

    /// Continues after the application answered [`Step::Ask`] by accepting the client under this identity.
    ///
    /// A mechanism that asks before the client has proved anything (for the stored secret) must fail here.
    ///
    /// # Errors
    /// As the mechanism defines; none by default.
    fn accepted(&mut self, identity: Identity) -> Result<Step, SaslError> {
        Ok(Step::Done(identity))
    }

    /// Continues after the application answered [`Step::Ask`] by refusing the client.
    ///
    /// A mechanism that must not reveal which users exist, or that reports why it failed (RFC 7628 section 3.2.2), continues with
    /// a challenge and fails afterwards.
    ///
    /// # Errors
    /// As the mechanism defines; none by default.
    fn refused(&mut self) -> Result<Step, SaslError> {
        Ok(Step::Failed)
    }

    /// Returns whether a challenge has told the client that it failed, as that of OAUTHBEARER does (RFC 7628 section 3.2.3). Such
    /// an exchange counts as a failed authentication even if the client cancels it.
    fn has_reported_failure(&self) -> bool {
        false
    }
}

/// What to do next in an exchange.
#[derive(Debug)]
#[non_exhaustive]
pub enum Step {
    /// Send this to the client, encoded after 334: see [`challenge_line`](super::challenge_line).
    Challenge(Vec<u8>),
    /// Ask the application about these credentials.
    Ask(Credentials),
    /// The client is authenticated (235 2.7.0, RFC 4954 section 6).
    Done(Identity),
    /// The client is not authenticated (535 5.7.8, RFC 4954 section 6, unless the application gave its own reply).
    Failed,
}

/// Starts the exchanges of one mechanism.
///
/// ```
/// use smtpd_core::sasl::{MechanismFactory, Plain};
///
/// assert_eq!(Plain.name().as_str(), "PLAIN");
/// assert!(Plain.is_plaintext(), "so it is offered over TLS alone");
/// ```
pub trait MechanismFactory: Send + Sync + fmt::Debug {
    /// Returns the name that EHLO lists and AUTH accepts.
    fn name(&self) -> MechanismName;

    /// Returns whether the client sends its password, or an equivalent, in a form that an eavesdropper can use. Such a mechanism
    /// requires TLS (RFC 4954 section 4).
    fn is_plaintext(&self) -> bool;

    /// Returns whether it binds to the TLS channel, so that it can be offered only if there are [`ChannelBindings`], under a name
    /// that ends with `-PLUS` (RFC 5802 section 6). Default: `false`.
    fn needs_channel_binding(&self) -> bool {
        false
    }

    /// Returns whether it relies on the client's TLS certificate, so that it can be offered only if there is a verified one.
    /// Default: `false`.
    fn needs_client_certificate(&self) -> bool {
        false
    }

    /// Returns whether its exchanges need random bytes, so that it can be offered only if
    /// [`Config::entropy`](crate::Config::entropy) is set. Default: `true` for every mechanism that is not plaintext, because
    /// those challenge the client.
    fn needs_entropy(&self) -> bool {
        !self.is_plaintext()
    }

    /// Starts an exchange.
    fn start(&self, context: &ExchangeContext<'_>) -> Box<dyn Mechanism>;
}

/// The facts that a mechanism may know about its session.
///
/// ```
/// use smtpd_core::sasl::{CramMd5, ExchangeContext, MechanismFactory, Step};
///
/// let nonce = [7; _]; // from the operating system's random numbers
/// let mut exchange =
///     CramMd5.start(&ExchangeContext::new("mx.example.org", &nonce));
/// let Ok(Step::Challenge(challenge)) = exchange.step(None) else { panic!() };
/// assert!(challenge.ends_with(b"@mx.example.org>"));
/// ```
#[derive(Clone, Copy)]
pub struct ExchangeContext<'a> {
    hostname: &'a str,
    nonce: &'a [u8; NONCE_LEN],
    salt_key: Option<&'a [u8; SALT_KEY_LEN]>,
    channel_bindings: Option<&'a ChannelBindings>,
}

impl<'a> ExchangeContext<'a> {
    /// Creates a context with the name of the server and a nonce.
    ///
    /// The nonce must come from a cryptographic random number generator and be used in one exchange only: anyone who can predict
    /// it, or sees it again, can replay a client's response.
    pub fn new(hostname: &'a str, nonce: &'a [u8; NONCE_LEN]) -> Self {
        Self {
            hostname,
            nonce,
            salt_key: None,
            channel_bindings: None,
        }
    }

    /// Sets the key from which the salts of unknown users are made: random, secret, and the same for all exchanges of a server.
    ///
    /// Without it, these salts change from one exchange to the next, unlike those of known users. Default: none.
    #[must_use]
    pub fn with_salt_key(mut self, key: &'a [u8; SALT_KEY_LEN]) -> Self {
        self.salt_key = Some(key);
        self
    }

    /// Sets the available channel bindings. Default: none.
    ///
    /// A SCRAM mechanism without -PLUS must also have them if, and only if, its -PLUS form is offered: it then refuses clients
    /// that believe that it is not (RFC 5802 section 6).
    #[must_use]
    pub fn with_channel_bindings(mut self, bindings: &'a ChannelBindings) -> Self {
        self.channel_bindings = Some(bindings).filter(|bindings| !bindings.is_empty());
        self
    }

    /// Returns the name of the server.
    pub fn hostname(&self) -> &'a str {
        self.hostname
    }

    /// Returns the random bytes of this exchange, [`NONCE_LEN`] of them.
    pub fn nonce(&self) -> &'a [u8] {
        self.nonce
    }

    /// Returns the key from which the salts of unknown users are made.
    pub fn salt_key(&self) -> Option<&'a [u8; SALT_KEY_LEN]> {
        self.salt_key
    }

    /// Returns the available channel bindings; never an empty set.
    pub fn channel_bindings(&self) -> Option<&'a ChannelBindings> {
        self.channel_bindings
    }
}

impl fmt::Debug for ExchangeContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExchangeContext")
            .field("hostname", &self.hostname)
            .field("channel_bindings", &self.channel_bindings)
            .finish_non_exhaustive()
    }
}
