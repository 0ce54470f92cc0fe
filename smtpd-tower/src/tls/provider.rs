//! The cryptography for TLS.

use std::{fmt, sync::Arc};

#[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]
use tokio_rustls::rustls::CipherSuite;
use tokio_rustls::rustls::{Error, crypto::CryptoProvider, server::ProducesTickets};

/// The cryptography for TLS.
///
/// The default is [ring](Self::ring) if the feature `tls-ring` is enabled, even beside `tls-aws-lc`. It is always passed
/// explicitly: the process-wide default of rustls panics if two providers are compiled in.
///
/// ```
/// use smtpd_tower::tls::Provider;
/// # #[cfg(feature = "tls-ring")]
/// println!("{:?}", Provider::ring());
/// ```
#[derive(Clone)]
pub struct Provider {
    crypto: Arc<CryptoProvider>,
    tickets: fn() -> Result<Arc<dyn ProducesTickets>, Error>,
}

impl Provider {
    /// Creates a provider of your own, with the source of its session tickets. Its cipher suites are preferred in their order.
    pub fn new(
        crypto: CryptoProvider,
        tickets: fn() -> Result<Arc<dyn ProducesTickets>, Error>,
    ) -> Self {
        Self {
            crypto: Arc::new(crypto),
            tickets,
        }
    }

    /// Returns the provider of the crate ring.
    #[cfg(feature = "tls-ring")]
    pub fn ring() -> Self {
        use tokio_rustls::rustls::crypto::ring;

        Self::new(
            preferring_aes_128(ring::default_provider()),
            ring::Ticketer::new,
        )
    }

    /// Returns the provider of the crate aws-lc-rs: twice as fast with RSA keys, and with a post-quantum key exchange.
    #[cfg(feature = "tls-aws-lc")]
    pub fn aws_lc() -> Self {
        use tokio_rustls::rustls::crypto::aws_lc_rs;

        Self::new(
            preferring_aes_128(aws_lc_rs::default_provider()),
            aws_lc_rs::Ticketer::new,
        )
    }

    pub(crate) fn crypto(&self) -> &Arc<CryptoProvider> {
        &self.crypto
    }

    /// Tickets that nobody else can create or read, with keys that are rotated every six hours and valid for twelve.
    pub(super) fn tickets(&self) -> Result<Arc<dyn ProducesTickets>, Error> {
        (self.tickets)()
    }
}

#[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]
impl Default for Provider {
    fn default() -> Self {
        #[cfg(feature = "tls-ring")]
        return Self::ring();
        #[cfg(not(feature = "tls-ring"))]
        return Self::aws_lc();
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suites = self.crypto.cipher_suites.iter().map(|suite| suite.suite());
        f.debug_struct("Provider")
            .field("cipher_suites", &suites.collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// SHA-384 alone takes a seventh of a handshake's CPU; SHA-256 is fast in hardware. Every client supports the suite (RFC 8446
/// section 9.1).
#[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]
fn preferring_aes_128(mut crypto: CryptoProvider) -> CryptoProvider {
    crypto
        .cipher_suites
        .sort_by_key(|suite| !is_preferred(suite.suite()));
    crypto
}

#[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]
fn is_preferred(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    )
}
