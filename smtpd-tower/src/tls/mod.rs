//! TLS: the server's certificates, keys and settings.
//!
//! Only this module knows that TLS is implemented by [`rustls`]; everything else works with [`TlsConfig`] and [`TlsInfo`].
//!
//! | feature | adds |
//! |---|---|
//! | `tls` | all of this module, with a [`Provider`] of your own |
//! | `tls-ring` (default) | the provider ring, and the constructors that need no other |
//! | `tls-aws-lc` | the provider aws-lc; it has to be [selected](Provider::aws_lc) if ring is enabled too |
//! | `encrypted-keys` | private keys that are encrypted with a passphrase |
//!
//! [The guide](crate::guide::tls) explains how to set up and run a server with TLS.
//!
//! # New certificates
//!
//! A [`TlsConfig`] reads its files again by [`reload`](TlsConfig::reload), and automatically with [`watch`](TlsConfig::watch).
//! The new files are used at once and as a whole; if something is wrong with them, everything stays as it was. Existing sessions
//! continue; new sessions do not resume the handshakes of earlier ones.
//!
//! What is probably a mistake but works, such as a certificate that has expired or a private key that others may read, is
//! reported by [`warnings`](TlsConfig::warnings): log them at the start, after each reload, and from time to time.
//!
//! # Certificates of clients
//!
//! With [`TlsBuilder::client_certificates`], the verified chain of a client is in [`TlsInfo::peer_certificates`], even in a
//! resumed session. Then SASL's EXTERNAL can be offered, and the AUTH service decides by the content of the certificate:
//!
//! ```
//! use smtpd_tower::{
//!     Auth, Identity, Pipeline, Reply, Request, Server, handler_fn,
//!     phase::AuthOutcome,
//!     sasl::{External, Mechanisms},
//!     session::TlsInfo,
//!     tls::TlsConfig,
//! };
//!
//! fn server(tls: TlsConfig) -> Server {
//!     Server::new("mx.example.org", Pipeline::new().auth(handler_fn(login)))
//!         .tls(tls)
//!         .configure(|config| {
//!             config.mechanisms(Mechanisms::none().with(External))
//!         })
//! }
//!
//! async fn login(request: Request<Auth>) -> AuthOutcome {
//!     let names = request
//!         .session()
//!         .tls()
//!         .and_then(TlsInfo::client_names)
//!         .unwrap_or_default();
//!     // The identity that the client requests, if any (RFC 4422 section 3.4.1).
//!     let claimed = request.credentials().authzid();
//!     let mut own =
//!         names.emails().iter().filter(|email| email.ends_with("@example.org"));
//!     match own.find(|email| claimed.is_none_or(|claimed| claimed == *email)) {
//!         Some(email) => Identity::new(email).into(),
//!         None => Reply::auth_failed().into(),
//!     }
//! }
//! ```
//!
//! Such a service uses the [alternative names](CertificateNames::has_alternative_names) of the certificate. If it has none, some
//! authorities intend the [common name](CertificateNames::common_name). [`ClientCertificates::crl_file`] rejects certificates
//! that have been revoked.
//!
//! If other mechanisms are offered too, such a service checks [`Request::mechanism`](crate::phase::Request::mechanism) first:
//!
//! ```
//! use smtpd_tower::{
//!     Auth, Config, Identity, Reply, Request, Secret,
//!     phase::AuthOutcome,
//!     sasl::{External, Mechanisms, Scram},
//!     session::TlsInfo,
//! };
//!
//! fn settings(config: Config) -> Config {
//!     config
//!         .mechanisms(Mechanisms::default().with(Scram::sha256()).with(External))
//! }
//!
//! async fn login(request: Request<Auth>) -> AuthOutcome {
//!     if request.mechanism().as_str() == "EXTERNAL" {
//!         return certified(&request);
//!     }
//!     Secret::password(password_of(request.credentials().username()).await).into()
//! }
//!
//! /// Returns the password of a user. For unknown names, returns one that nobody
//! /// knows: refusing at once would reveal them.
//! async fn password_of(name: &str) -> String {
//! #   name.to_owned()
//!     // ...
//! }
//!
//! /// As above, without a claim: the user that the certificate names.
//! fn certified(request: &Request<Auth>) -> AuthOutcome {
//!     let names = request
//!         .session()
//!         .tls()
//!         .and_then(TlsInfo::client_names)
//!         .unwrap_or_default();
//!     match (names.emails(), request.credentials().authzid()) {
//!         ([email, ..], None) => Identity::new(email).into(),
//!         _ => Reply::auth_failed().into(),
//!     }
//! }
//! # let _ = smtpd_tower::handler_fn(login);
//! # let _ = settings;
//! ```

use std::{
    fmt, io,
    sync::{Arc, PoisonError, RwLock},
};

use rustls_pki_types::UnixTime;
use smtpd_core::sasl::{ChannelBinding, ChannelBindings};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::session::TlsInfo;

mod binding;
mod builder;
mod certificate;
mod chain;
mod client;
mod der;
#[cfg(feature = "encrypted-keys")]
mod encrypted;
mod error;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod info;
mod key;
mod key_kind;
#[cfg(feature = "encrypted-keys")]
mod legacy;
mod load;
mod parts;
mod pem;
mod provider;
mod revocation;
#[cfg(feature = "webhook")]
mod roots;
mod sni;
mod source;
mod warning;
mod watch;

pub use tokio_rustls::rustls;

#[cfg(feature = "webhook")]
pub use self::roots::Roots;
pub use self::{
    builder::TlsBuilder,
    certificate::CertificateNames,
    error::TlsError,
    provider::Provider,
    source::{ClientCertificates, ServerCertificate},
    warning::TlsWarning,
};
use self::{client::ClientVerifier, parts::Time, sni::Certificate, watch::Stamp};

/// The TLS settings of a server: certificates, private keys and options.
///
/// Clones are cheap and share them: what one clone [reloads](Self::reload) or [replaces](Self::replace), the server uses from the
/// next handshake on.
///
/// The constructors that read PEM support TLS 1.2 and 1.3, prefer AES-128-GCM with SHA-256, issue stateless tickets for
/// resumption, refuse clients that request another protocol than `smtp` by [ALPN](TlsBuilder::alpn_protocols), and request no
/// client certificate. [`TlsBuilder`] is for several certificates, client certificates, and another provider. For anything else,
/// convert a [`rustls::ServerConfig`], which is used as it is:
///
/// ```
/// use smtpd_tower::tls::{TlsConfig, rustls::ServerConfig};
///
/// fn wrap(config: ServerConfig) -> TlsConfig {
///     TlsConfig::from(config)
/// }
/// ```
#[derive(Clone)]
pub struct TlsConfig(Arc<RwLock<Arc<Snapshot>>>);

/// Everything that a handshake needs, as it was read at one time.
struct Snapshot {
    config: Arc<rustls::ServerConfig>,
    /// `None` for a user's own configuration.
    origin: Option<Origin>,
}

/// The source of a snapshot, and its warnings.
struct Origin {
    clients: Option<ClientVerifier>,
    /// What is odd about the files, now or at a later time.
    warnings: Vec<TlsWarning>,
    recipe: TlsBuilder,
    stamps: Vec<Stamp>,
}

/// A connection after its handshake.
pub(crate) struct Secured<IO> {
    pub(crate) stream: Box<TlsStream<IO>>,
    pub(crate) info: TlsInfo,
    pub(crate) bindings: ChannelBindings,
}

impl TlsConfig {
    fn new(snapshot: Snapshot) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(snapshot))))
    }

    /// Reads all files again, for the handshakes that begin from now on. Existing sessions are not disturbed, but they can no
    /// longer be resumed. For a configuration without files, this is the only effect; for one from your own
    /// [`rustls::ServerConfig`], there is no effect.
    ///
    /// This blocks on the files: call it from `spawn_blocking`.
    ///
    /// # Errors
    /// Returns a [`TlsError`] that names the file and what is wrong with it; then everything stays as it was. A pipe is read at
    /// the start only: here, it is an error.
    pub fn reload(&self) -> Result<(), TlsError> {
        loop {
            let old = self.current();
            let Some(origin) = &old.origin else {
                return Ok(());
            };
            origin.recipe.check_files()?;
            let new = Arc::new(origin.recipe.clone().snapshot()?);
            let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
            // Unless the configuration has been replaced meanwhile.
            if Arc::ptr_eq(&current, &old) {
                *current = new;
                return Ok(());
            }
        }
    }

    /// Returns what is probably a mistake in the files as they were read last, though TLS works with it: a certificate that has
    /// expired, is not valid yet, has no alternative names or is not for the [expected host](TlsBuilder::expect_host),
    /// certificates in a chain that appear twice or are not part of it, private keys that others may read, and revocation lists
    /// that have expired, are missing, or are not signed by the authority that they name. Dates are compared with the time of the
    /// call. The permissions of a file are those at the last read: after a `chmod`, [reload](Self::reload).
    ///
    /// Call it after the start, after each [reload](Self::reload), and from time to time. To log each warning once, keep those of
    /// the previous call and skip them. A private key in a file of mode 0640 that is owned by root causes no warning: this is how
    /// a group of servers shares a key.
    ///
    /// ```
    /// use smtpd_tower::tls::{ServerCertificate, TlsBuilder};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let made = rcgen::generate_simple_self_signed(["old.example.org".to_owned()])?;
    /// let pem = ServerCertificate::from_pem(
    ///     made.cert.pem(),
    ///     made.signing_key.serialize_pem(),
    /// );
    /// let tls = TlsBuilder::new(pem).expect_host("mx.example.org").build()?;
    /// let warnings: Vec<_> = tls.warnings().iter().map(ToString::to_string).collect();
    /// assert_eq!(warnings, ["the certificate is not for mx.example.org"]);
    ///
    /// // Later:
    /// let logged = tls.warnings();
    /// let new =
    ///     tls.warnings().into_iter().filter(|warning| !logged.contains(warning));
    /// assert_eq!(new.count(), 0);
    /// # Ok(()) }
    /// ```
    pub fn warnings(&self) -> Vec<TlsWarning> {
        self.warnings_at(UnixTime::now())
    }

    fn warnings_at(&self, now: UnixTime) -> Vec<TlsWarning> {
        let (current, now) = (self.current(), Time::of(now));
        let all = current.origin.iter().flat_map(|origin| &origin.warnings);
        all.filter(|warning| warning.applies_at(now))
            .cloned()
            .collect()
    }

    /// Replaces the configuration by the current one of `other`, for the handshakes that begin from now on.
    pub fn replace(&self, other: &Self) {
        let new = other.current();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = new;
    }

    /// Performs the handshake of a connection.
    pub(crate) async fn accept<IO>(&self, io: IO) -> io::Result<Secured<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let snapshot = self.current();
        let acceptor = TlsAcceptor::from(snapshot.config.clone());
        let (accepted, certificate) = sni::with_choice(acceptor.accept(io)).await;
        let stream = Box::new(accepted?);
        let connection = stream.get_ref().1;
        let info = snapshot.info(connection)?;
        let bindings = snapshot.bindings(connection, certificate.as_deref());
        Ok(Secured {
            stream,
            info,
            bindings,
        })
    }

    fn current(&self) -> Arc<Snapshot> {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }
}

impl Snapshot {
    fn info(&self, connection: &rustls::ServerConnection) -> io::Result<TlsInfo> {
        let shown = connection.peer_certificates().unwrap_or_default();
        let clients = self.origin.as_ref().and_then(|o| o.clients.as_ref());
        let verified = match clients {
            Some(clients) => clients.verified(shown)?,
            None => shown,
        };
        let has_constraints =
            |clients: &ClientVerifier| clients.has_constrained_authority(verified);
        // The authorities in a user's own configuration are unknown.
        let constrained = !verified.is_empty() && clients.is_none_or(has_constraints);
        Ok(TlsInfo::of(connection, verified).with_constrained_names(constrained))
    }

    fn bindings(
        &self,
        connection: &rustls::ServerConnection,
        certificate: Option<&Certificate>,
    ) -> ChannelBindings {
        let exported = binding::exported(connection, self.config.require_ems);
        let Some(origin) = &self.origin else {
            return exported;
        };
        if exported.is_empty() && !origin.recipe.end_point_alone {
            return exported;
        }
        match certificate.and_then(Certificate::end_point) {
            Some(hash) => exported.with(ChannelBinding::TlsServerEndPoint, hash),
            None => exported,
        }
    }

    /// The state of the files when they were read.
    fn stamps(&self) -> &[Stamp] {
        self.origin.as_ref().map_or(&[], |origin| &origin.stamps)
    }

    /// Returns the current state of the files.
    fn look(&self) -> Vec<Stamp> {
        let origin = self.origin.as_ref();
        origin.map_or_else(Vec::new, |origin| origin.recipe.look())
    }
}

impl From<Arc<rustls::ServerConfig>> for TlsConfig {
    fn from(config: Arc<rustls::ServerConfig>) -> Self {
        Self::new(Snapshot {
            config,
            origin: None,
        })
    }
}

impl From<rustls::ServerConfig> for TlsConfig {
    fn from(config: rustls::ServerConfig) -> Self {
        Arc::new(config).into()
    }
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The Debug output of a rustls config runs to pages and depends on the user's resolver.
        f.debug_struct("TlsConfig").finish_non_exhaustive()
    }
}
