use std::fmt;

use super::{ChannelBindings, Credentials, Identity, MechanismName, SaslError, Secret};

/// Octets of randomness that each exchange is given.
pub const NONCE_LEN: usize = 24;

/// Octets of the key that the salts of unknown users are made with.
pub const SALT_KEY_LEN: usize = 32;

/// One running exchange of a SASL mechanism, on the server's side.
///
/// [`step`](Self::step) is called with each response of the client. After it returned [`Step::Ask`], exactly one of
/// [`secret`](Self::secret), [`accepted`](Self::accepted) and [`refused`](Self::refused) is called with the answer of
/// the application. [`Step::Done`], [`Step::Failed`] and an error end the exchange. Base64, the empty response `=`,
/// cancelling and the length of lines are the work of [`Exchange`](super::Exchange).
///
/// A mechanism of one's own, in which the client sends nothing but its name and a token:
/// ```
/// use smtpd_core::sasl::{
///     Credentials, ExchangeContext, Mechanism, MechanismFactory, MechanismName, Mechanisms, SaslError, Step,
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
///         let Some(response) = response else { return Ok(Step::Challenge(Vec::new())) };
///         let response = str::from_utf8(response).map_err(|_| SaslError::Malformed)?;
///         let (name, token) = response.split_once(' ').ok_or(SaslError::Malformed)?;
///         Ok(Step::Ask(Credentials::plain(name, token)?))
///     }
/// }
///
/// assert!(Mechanisms::none().with(Token).find(b"x-token").is_some());
/// ```
pub trait Mechanism: Send + fmt::Debug {
    /// Takes the decoded response of the client.
    ///
    /// `None` comes only as the first call, when AUTH carried no initial response: a mechanism in which the server
    /// speaks first then gives its challenge, one in which the client speaks first an empty one (RFC 4422 section 5.1).
    ///
    /// # Errors
    /// [`SaslError::Malformed`] and [`SaslError::Empty`] for what the response holds,
    /// [`SaslError::UnexpectedInitial`] for an initial response in a mechanism in which the server speaks first.
    fn step(&mut self, response: Option<&[u8]>) -> Result<Step, SaslError>;

    /// The application answered [`Step::Ask`] with the stored secret of the user.
    ///
    /// By default the credentials are verified with it. Credentials that
    /// [act as somebody else](Credentials::acts_as_other) fail, as the secret says nothing about that right.
    ///
    /// # Errors
    /// As the mechanism defines; never by default.
    fn secret(&mut self, credentials: &Credentials, secret: &Secret) -> Result<Step, SaslError> {
        // RFC 4616 section 2: the identity is verified, and that it may act as the authorization identity.
        if credentials.verify(secret) && !credentials.acts_as_other() {
            return Ok(Step::Done(Identity::new(credentials.username())));
        }
        Ok(Step::Failed)
    }

    /// The application answered [`Step::Ask`] by accepting the client under this identity.
    ///
    /// A mechanism that asks before the client has proved anything (for the stored secret) must fail here.
    ///
    /// # Errors
    /// As the mechanism defines; never by default.
    fn accepted(&mut self, identity: Identity) -> Result<Step, SaslError> {
        Ok(Step::Done(identity))
    }

    /// The application answered [`Step::Ask`] by refusing the client.
    ///
    /// A mechanism that must not show which users exist, or that tells why it failed (RFC 7628 section 3.2.2), goes on with a
    /// challenge and fails afterwards.
    ///
    /// # Errors
    /// As the mechanism defines; never by default.
    fn refused(&mut self) -> Result<Step, SaslError> {
        Ok(Step::Failed)
    }

    /// Returns whether a challenge has reported to the client that it failed, as that of OAUTHBEARER does (RFC 7628 section 3.2.3).
    /// Such an exchange counts as a failed authentication even if the client cancels it.
    fn has_reported_failure(&self) -> bool {
        false
    }
}

/// What is to be done next in an exchange.
#[derive(Debug)]
#[non_exhaustive]
pub enum Step {
    /// Send this to the client, encoded after 334: see [`challenge_line`](super::challenge_line).
    Challenge(Vec<u8>),
    /// Ask the application about these credentials.
    Ask(Credentials),
    /// The client is authenticated (235 2.7.0, RFC 4954 section 6).
    Done(Identity),
    /// The client is not authenticated (535 5.7.8, RFC 4954 section 6, unless the application gave a reply of its own).
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
    /// The name that EHLO lists and AUTH takes.
    fn name(&self) -> MechanismName;

    /// Whether the client sends its password, or something as good as it, in a form that whoever listens can use: such
    /// a mechanism needs TLS (RFC 4954 section 4).
    fn is_plaintext(&self) -> bool;

    /// Whether it binds to the TLS channel, so that it can be offered only where there are [`ChannelBindings`], under
    /// a name that ends with `-PLUS` (RFC 5802 section 6). `false` by default.
    fn needs_channel_binding(&self) -> bool {
        false
    }

    /// Whether it goes by the certificate that the client has shown to TLS, so that it can be offered only where there
    /// is a verified one. `false` by default.
    fn needs_client_certificate(&self) -> bool {
        false
    }

    /// Whether its exchanges need random bytes, so that it can be offered only if [`Config::entropy`](crate::Config::entropy) is
    /// set. By default `true` of every mechanism that is not plaintext, because those challenge the client.
    fn needs_entropy(&self) -> bool {
        !self.is_plaintext()
    }

    /// Starts an exchange.
    fn start(&self, context: &ExchangeContext<'_>) -> Box<dyn Mechanism>;
}

/// What a mechanism may know about the session that it runs in.
///
/// ```
/// use smtpd_core::sasl::{CramMd5, ExchangeContext, MechanismFactory, Step};
///
/// let nonce = [7; _]; // from the operating system's random numbers
/// let mut exchange = CramMd5.start(&ExchangeContext::new("mx.example.org", &nonce));
/// assert!(matches!(exchange.step(None), Ok(Step::Challenge(challenge)) if challenge.ends_with(b"@mx.example.org>")));
/// ```
#[derive(Clone, Copy)]
pub struct ExchangeContext<'a> {
    hostname: &'a str,
    nonce: &'a [u8; NONCE_LEN],
    salt_key: Option<&'a [u8; SALT_KEY_LEN]>,
    channel_bindings: Option<&'a ChannelBindings>,
}

impl<'a> ExchangeContext<'a> {
    /// A context with the name of the server and randomness.
    ///
    /// The nonce must come from a cryptographic random number generator and serve one exchange only: who can foresee
    /// it, or sees it again, can replay the answer of a client.
    pub fn new(hostname: &'a str, nonce: &'a [u8; NONCE_LEN]) -> Self {
        Self {
            hostname,
            nonce,
            salt_key: None,
            channel_bindings: None,
        }
    }

    /// Sets the key that makes the salts of unknown users: random, secret, and the same for all exchanges of a server.
    ///
    /// Without it such salts change from exchange to exchange, which those of known users may not do.
    #[must_use]
    pub fn with_salt_key(mut self, key: &'a [u8; SALT_KEY_LEN]) -> Self {
        self.salt_key = Some(key);
        self
    }

    /// Sets what a mechanism may bind to.
    ///
    /// A SCRAM without -PLUS must have them too where its -PLUS form is offered, and only there: it then refuses
    /// clients that believe it is not (RFC 5802 section 6).
    #[must_use]
    pub fn with_channel_bindings(mut self, bindings: &'a ChannelBindings) -> Self {
        self.channel_bindings = Some(bindings).filter(|bindings| !bindings.is_empty());
        self
    }

    /// The name of the server.
    pub fn hostname(&self) -> &'a str {
        self.hostname
    }

    /// The randomness of this exchange: [`NONCE_LEN`] octets.
    pub fn nonce(&self) -> &'a [u8] {
        self.nonce
    }

    /// The key that makes the salts of unknown users.
    pub fn salt_key(&self) -> Option<&'a [u8; SALT_KEY_LEN]> {
        self.salt_key
    }

    /// What a mechanism may bind to; never without any binding in it.
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
