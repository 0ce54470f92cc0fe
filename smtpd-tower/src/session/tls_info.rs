//! The TLS facts of a session.

use std::{borrow::Cow, fmt, sync::Arc};

use bytes::Bytes;

/// The facts of a session's TLS, as negotiated in its handshake.
///
/// A clone costs one reference count. The engine sets those of a session; a test creates its own:
///
/// ```
/// use smtpd_tower::session::{TlsInfo, TlsVersion};
///
/// let tls = TlsInfo::new(TlsVersion::Tls13, "TLS_AES_128_GCM_SHA256")
///     .with_sni("mail.example.org");
/// assert!(tls.version() >= TlsVersion::Tls12);
/// assert_eq!(tls.bits(), Some(128));
/// assert_eq!(tls.sni(), Some("mail.example.org"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsInfo(Arc<Facts>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    version: TlsVersion,
    cipher: Cow<'static, str>,
    sni: Option<String>,
    peer_certificates: Vec<Bytes>,
    /// Whether the authority that vouches for them is constrained to certain names, or this is unknown.
    constrained_names: bool,
    resumed: bool,
}

impl TlsInfo {
    /// Creates the facts of a full handshake with this version and cipher suite (its IANA name), without a server name and
    /// without client certificates.
    pub fn new(version: TlsVersion, cipher: impl Into<Cow<'static, str>>) -> Self {
        Self(Arc::new(Facts {
            version,
            cipher: cipher.into(),
            sni: None,
            peer_certificates: Vec::new(),
            constrained_names: false,
            resumed: false,
        }))
    }

    /// Sets the server name that the client requested (RFC 6066 section 3).
    #[must_use]
    pub fn with_sni(mut self, name: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.0).sni = Some(name.into());
        self
    }

    /// Sets the client's certificates, each in DER, its own first.
    #[must_use]
    pub fn with_peer_certificates(mut self, chain: impl IntoIterator<Item = Bytes>) -> Self {
        Arc::make_mut(&mut self.0).peer_certificates = chain.into_iter().collect();
        self
    }

    #[cfg(feature = "tls")]
    pub(crate) fn with_constrained_names(mut self, constrained: bool) -> Self {
        if constrained {
            Arc::make_mut(&mut self.0).constrained_names = true;
        }
        self
    }

    #[cfg(feature = "tls")]
    pub(crate) fn has_constrained_names(&self) -> bool {
        self.0.constrained_names
    }

    /// Removes the certificates, for a client that did not take part in the handshake.
    pub(crate) fn without_peer_certificates(mut self) -> Self {
        if !self.0.peer_certificates.is_empty() {
            Arc::make_mut(&mut self.0).peer_certificates.clear();
        }
        self
    }

    /// Sets whether the handshake resumed an earlier session.
    #[must_use]
    pub fn with_resumed(mut self, resumed: bool) -> Self {
        Arc::make_mut(&mut self.0).resumed = resumed;
        self
    }

    /// Returns the version of the protocol.
    pub fn version(&self) -> TlsVersion {
        self.0.version
    }

    /// Returns the IANA name of the cipher suite, such as `TLS_AES_128_GCM_SHA256`.
    pub fn cipher(&self) -> &str {
        &self.0.cipher
    }

    /// Returns the length of the cipher's key in bits, if the name of the suite includes it.
    pub fn bits(&self) -> Option<u16> {
        let cipher = self.cipher();
        if cipher.contains("AES_128") {
            Some(128)
        } else if cipher.contains("AES_256") || cipher.contains("CHACHA20") {
            Some(256)
        } else {
            None
        }
    }

    /// Returns the server name that the client requested (RFC 6066 section 3): an unverified claim.
    pub fn sni(&self) -> Option<&str> {
        self.0.sni.as_deref()
    }

    /// Returns the client's certificates, each in DER, its own first; empty if it presented none.
    ///
    /// They are verified: by the authorities of the server's configuration, or by the verifier in your own rustls configuration.
    pub fn peer_certificates(&self) -> &[Bytes] {
        &self.0.peer_certificates
    }

    /// Returns whether the handshake resumed an earlier session instead of being a full one.
    pub fn is_resumed(&self) -> bool {
        self.0.resumed
    }
}

/// A version of TLS; a newer one is greater.
///
/// ```
/// use smtpd_tower::session::TlsVersion;
///
/// assert!(TlsVersion::Tls13 > TlsVersion::Tls12);
/// assert_eq!(TlsVersion::Tls13.to_string(), "TLSv1.3");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

impl TlsVersion {
    /// Returns the name as mail software writes it: `TLSv1.2`, `TLSv1.3`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tls12 => "TLSv1.2",
            Self::Tls13 => "TLSv1.3",
        }
    }
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_follow_from_the_cipher() {
        let table = [
            ("TLS_AES_128_GCM_SHA256", Some(128)),
            ("TLS_AES_256_GCM_SHA384", Some(256)),
            ("TLS_CHACHA20_POLY1305_SHA256", Some(256)),
            ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", Some(128)),
            ("TLS_SOMETHING_NEW", None),
        ];
        for (cipher, bits) in table {
            assert_eq!(
                TlsInfo::new(TlsVersion::Tls13, cipher).bits(),
                bits,
                "{cipher}"
            );
        }
    }

    #[test]
    fn setters_leave_an_earlier_clone_alone() {
        let plain = TlsInfo::new(TlsVersion::Tls12, "TLS_AES_128_GCM_SHA256");
        let full = plain
            .clone()
            .with_sni("a.example")
            .with_peer_certificates([Bytes::from_static(b"der")])
            .with_resumed(true);
        assert_eq!((plain.sni(), plain.is_resumed()), (None, false));
        assert!(plain.peer_certificates().is_empty());
        assert_eq!((full.sni(), full.is_resumed()), (Some("a.example"), true));
        assert_eq!(full.peer_certificates(), [Bytes::from_static(b"der")]);
    }
}
