//! TLS: the server's certificate, key and settings.
//!
//! Only this module knows that TLS is done by [`rustls`]; everything else works with [`TlsConfig`]
//! and [`TlsInfo`](crate::TlsInfo).
//!
//! | feature | adds |
//! |---|---|
//! | `tls` | [`TlsConfig`] from a `rustls::ServerConfig` of your own, with a crypto provider of your own |
//! | `tls-ring` (default) | the constructors that read PEM, and the ring provider |
//! | `encrypted-keys` (default) | private keys under a passphrase |

use std::{fmt, sync::Arc};

use tokio_rustls::TlsAcceptor;

mod binding;
#[cfg(all(feature = "tls-ring", feature = "encrypted-keys"))]
mod encrypted;
#[cfg(feature = "tls-ring")]
mod error;
mod info;
#[cfg(feature = "tls-ring")]
mod key;
#[cfg(all(feature = "tls-ring", feature = "encrypted-keys"))]
mod legacy;
#[cfg(feature = "tls-ring")]
mod load;
#[cfg(feature = "tls-ring")]
mod pem;

pub(crate) use self::binding::channel_bindings;
pub use tokio_rustls::rustls;

#[cfg(feature = "tls-ring")]
pub use self::error::TlsError;

/// How the server does TLS: its certificate, its private key, and its settings. A clone is cheap.
///
/// The constructors that read PEM take TLS 1.2 and 1.3, prefer AES-128-GCM with SHA-256, hand out
/// stateless tickets for resumption, offer no ALPN and ask for no client certificate. Whoever needs
/// something else (many certificates, client certificates, another provider) converts a
/// [`rustls::ServerConfig`]:
///
/// ```
/// use smtpd_tower::tls::{TlsConfig, rustls::ServerConfig};
///
/// fn wrap(config: ServerConfig) -> TlsConfig {
///     TlsConfig::from(config)
/// }
/// ```
#[derive(Clone)]
pub struct TlsConfig(Arc<rustls::ServerConfig>);

impl TlsConfig {
    /// Takes a connection through the handshake.
    #[allow(dead_code, reason = "the engine is its caller")]
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.0))
    }
}

impl From<Arc<rustls::ServerConfig>> for TlsConfig {
    fn from(config: Arc<rustls::ServerConfig>) -> Self {
        Self(config)
    }
}

impl From<rustls::ServerConfig> for TlsConfig {
    fn from(config: rustls::ServerConfig) -> Self {
        Self(Arc::new(config))
    }
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What rustls prints of a config runs to pages and depends on the user's resolver.
        f.debug_struct("TlsConfig").finish_non_exhaustive()
    }
}
