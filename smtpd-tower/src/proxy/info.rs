use std::{borrow::Cow, fmt, net::SocketAddr, sync::Arc};

use proxy_header::{ProxyHeader, SslInfo, Tlv};

use super::{ProxyHeaderError, header};

/// The content of a PROXY header. A clone costs one reference count.
///
/// It is what a proxy claims, and some of it, such as the server name, is what its client claims: escape it before writing it
/// anywhere.
///
/// ```
/// use smtpd_tower::proxy::{ProxyInfo, ProxyVersion};
///
/// let info = ProxyInfo::parse(b"PROXY TCP4 192.0.2.1 192.0.2.9 4711 25\r\n")?;
/// assert_eq!(info.version(), ProxyVersion::V1);
/// assert_eq!(info.source(), Some(([192, 0, 2, 1], 4711).into()));
/// assert_eq!(info.authority(), None);
/// # Ok::<(), smtpd_tower::proxy::ProxyHeaderError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyInfo(Arc<Facts>);

#[derive(PartialEq, Eq)]
struct Facts {
    version: ProxyVersion,
    is_local: bool,
    header: ProxyHeader<'static>,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl ProxyInfo {
    pub(super) fn new(version: ProxyVersion, header: ProxyHeader<'static>) -> Self {
        Self(Arc::new(Facts {
            version,
            is_local: false,
            header,
        }))
    }

    /// A header with the command LOCAL, which only version 2 has.
    pub(super) fn local() -> Self {
        Self(Arc::new(Facts {
            version: ProxyVersion::V2,
            is_local: true,
            header: ProxyHeader::with_local(),
        }))
    }

    /// Parses a whole header, for tests.
    ///
    /// # Errors
    ///
    /// Returns an error if this is not a header, or there is more than a header.
    pub fn parse(header: &[u8]) -> Result<Self, ProxyHeaderError> {
        header::parse(header)
    }

    /// Returns the version of the header.
    pub fn version(&self) -> ProxyVersion {
        self.0.version
    }

    /// Returns whether the proxy speaks for itself and not for a client, as in a health check (the command LOCAL of version 2).
    pub fn is_local(&self) -> bool {
        self.0.is_local
    }

    /// Returns the address of the client. `None` if the header names none: the connection is [the proxy's own](Self::is_local),
    /// or the client did not connect over IP.
    pub fn source(&self) -> Option<SocketAddr> {
        let addresses = self.0.header.proxied_address();
        addresses.map(|addresses| addresses.source)
    }

    /// Returns the address that the client has connected to.
    pub fn destination(&self) -> Option<SocketAddr> {
        let addresses = self.0.header.proxied_address();
        addresses.map(|addresses| addresses.destination)
    }

    /// Returns the name of the server that the client has requested, such as by SNI (PP2_TYPE_AUTHORITY). `None` if it contains
    /// control characters, such as CR or LF: no host has such a name.
    pub fn authority(&self) -> Option<&str> {
        printable(self.0.header.authority())
    }

    /// Returns the protocol that the client and the proxy have agreed on by ALPN (PP2_TYPE_ALPN).
    pub fn alpn(&self) -> Option<&[u8]> {
        self.0.header.alpn()
    }

    /// Returns the proxy's own id of this connection (PP2_TYPE_UNIQUE_ID).
    pub fn unique_id(&self) -> Option<&[u8]> {
        self.0.header.unique_id()
    }

    /// Returns the network namespace of the client (PP2_TYPE_NETNS), unless it contains control characters.
    pub fn namespace(&self) -> Option<&str> {
        printable(self.0.header.netns())
    }

    /// Returns what the proxy says about the client's TLS (PP2_TYPE_SSL). That TLS ends at the proxy, so it does not set
    /// [`Session::tls`](crate::session::Session::tls).
    pub fn tls(&self) -> Option<ProxyTls<'_>> {
        self.0.header.ssl().map(ProxyTls)
    }

    /// Returns the first field of a type that the protocol leaves to others, such as 0xEA of some clouds.
    pub fn custom(&self, kind: u8) -> Option<&[u8]> {
        self.0.header.tlvs().find_map(|field| match field {
            Ok(Tlv::Custom(found, Cow::Borrowed(value))) if found == kind => Some(value),
            _ => None,
        })
    }
}

impl fmt::Debug for ProxyInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyInfo")
            .field("version", &self.0.version)
            .field("is_local", &self.0.is_local)
            .field("header", &self.0.header)
            .finish()
    }
}

fn printable(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.contains(char::is_control))
}

/// The TLS between the proxy and the client, as the proxy describes it. Text that contains control characters is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyTls<'a>(SslInfo<'a>);

impl ProxyTls<'_> {
    /// Returns whether the client uses TLS at all.
    pub fn is_on(&self) -> bool {
        self.0.client_ssl()
    }

    /// Returns whether the client uses TLS and has presented a certificate, in this connection or the session that it resumes,
    /// and the proxy has verified it.
    pub fn has_verified_certificate(&self) -> bool {
        let shown = self.0.client_cert_conn() || self.0.client_cert_sess();
        self.is_on() && shown && self.0.verify() == 0
    }

    /// Returns the version, such as `TLSv1.3`.
    pub fn version(&self) -> Option<&str> {
        printable(self.0.version())
    }

    /// Returns the cipher suite, by the proxy's name for it.
    pub fn cipher(&self) -> Option<&str> {
        printable(self.0.cipher())
    }

    /// Returns the common name in the client's certificate. It identifies the client only if the proxy [has
    /// verified](Self::has_verified_certificate) the certificate.
    pub fn common_name(&self) -> Option<&str> {
        printable(self.0.cn())
    }

    /// Returns the algorithm of the signature on the proxy's certificate, such as `SHA256`.
    pub fn signature_algorithm(&self) -> Option<&str> {
        printable(self.0.sig_alg())
    }

    /// Returns the algorithm of the key of the proxy's certificate, such as `RSA2048`.
    pub fn key_algorithm(&self) -> Option<&str> {
        printable(self.0.key_alg())
    }
}

#[cfg(test)]
mod tests {
    use proxy_header::ProxiedAddress;

    use super::*;

    #[test]
    fn every_field_of_version_2_is_there() {
        let mut tls = SslInfo::new(true, true, false, 0);
        for field in [
            Tlv::SslVersion("TLSv1.3".into()),
            Tlv::SslCn("alice".into()),
            Tlv::SslCipher("TLS_AES_128_GCM_SHA256".into()),
            Tlv::SslSigAlg("SHA256".into()),
            Tlv::SslKeyAlg("EC256".into()),
        ] {
            tls.append_tlv(field);
        }
        let addresses = ProxiedAddress::stream(
            "192.0.2.1:4711".parse().unwrap(),
            "192.0.2.9:25".parse().unwrap(),
        );
        let fields = [
            Tlv::Alpn(b"smtp"[..].into()),
            Tlv::Authority("mx.example.org".into()),
            Tlv::Noop(3),
            Tlv::UniqueId(b"\x01\x02"[..].into()),
            Tlv::Netns("blue".into()),
            Tlv::Ssl(tls),
            Tlv::Custom(0xea, b"vpce"[..].into()),
        ];
        let mut bytes = Vec::new();
        let header = ProxyHeader::with_tlvs(Some(addresses), fields);
        header.encode_v2(&mut bytes).unwrap();
        let info = ProxyInfo::parse(&bytes).unwrap();
        assert_eq!(info.version(), ProxyVersion::V2);
        assert_eq!(info.destination(), Some(([192, 0, 2, 9], 25).into()));
        assert_eq!(info.authority(), Some("mx.example.org"));
        assert_eq!(
            (info.alpn(), info.unique_id()),
            (Some(&b"smtp"[..]), Some(&[1, 2][..]))
        );
        assert_eq!(
            (info.namespace(), info.custom(0xea)),
            (Some("blue"), Some(&b"vpce"[..]))
        );
        assert_eq!(info.custom(0xeb), None);
        let tls = info.tls().unwrap();
        assert!(tls.is_on() && tls.has_verified_certificate());
        assert_eq!(
            (tls.version(), tls.common_name()),
            (Some("TLSv1.3"), Some("alice"))
        );
        assert_eq!(tls.cipher(), Some("TLS_AES_128_GCM_SHA256"));
        assert_eq!(
            (tls.signature_algorithm(), tls.key_algorithm()),
            (Some("SHA256"), Some("EC256"))
        );
    }

    #[test]
    fn a_certificate_counts_only_if_it_was_presented_and_verified() {
        for (on, shown, verify, good) in [
            (true, true, 0, true),
            (true, true, 1, false),
            (true, false, 0, false),
            (false, true, 0, false),
        ] {
            for resumed in [true, false] {
                let tls = ProxyTls(SslInfo::new(
                    on,
                    shown && !resumed,
                    shown && resumed,
                    verify,
                ));
                assert_eq!(tls.has_verified_certificate(), good);
            }
        }
    }

    #[test]
    fn text_with_control_characters_is_not_shown() {
        for bad in ["mx.test\r\nX: y", "a\0", "\u{85}", "\x7f"] {
            let mut tls = SslInfo::new(true, true, false, 0);
            tls.append_tlv(Tlv::SslVersion(bad.into()));
            tls.append_tlv(Tlv::SslCn(bad.into()));
            tls.append_tlv(Tlv::SslCipher(bad.into()));
            tls.append_tlv(Tlv::SslSigAlg(bad.into()));
            tls.append_tlv(Tlv::SslKeyAlg(bad.into()));
            let fields = [
                Tlv::Authority(bad.into()),
                Tlv::Netns(bad.into()),
                Tlv::Ssl(tls),
            ];
            let mut bytes = Vec::new();
            let header = ProxyHeader::with_tlvs(None, fields);
            header.encode_v2(&mut bytes).unwrap();
            // Without addresses the encoder writes LOCAL, whose fields are ignored.
            bytes[12] = 0x21;
            let info = ProxyInfo::parse(&bytes).unwrap();
            assert_eq!((info.authority(), info.namespace()), (None, None));
            let tls = info.tls().unwrap();
            let texts = [
                tls.version(),
                tls.common_name(),
                tls.cipher(),
                tls.signature_algorithm(),
                tls.key_algorithm(),
            ];
            assert_eq!(texts, [None; 5], "{bad:?}");
        }
    }
}
