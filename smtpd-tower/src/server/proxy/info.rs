use std::{borrow::Cow, fmt, net::SocketAddr, sync::Arc};

use proxy_header::{ProxyHeader, SslInfo, Tlv};

use super::{ProxyHeaderError, header};

/// What a PROXY header has said of a connection. A clone costs one reference count.
///
/// It is the word of a proxy, and some of it, such as the server name, that of its client: to be escaped before it is
/// written anywhere.
///
/// ```
/// use smtpd_tower::{ProxyInfo, ProxyVersion};
///
/// let info = ProxyInfo::parse(b"PROXY TCP4 192.0.2.1 192.0.2.9 4711 25\r\n")?;
/// assert_eq!(info.version(), ProxyVersion::V1);
/// assert_eq!(info.source(), Some(([192, 0, 2, 1], 4711).into()));
/// assert_eq!(info.authority(), None);
/// # Ok::<(), smtpd_tower::ProxyHeaderError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyInfo(Arc<Facts>);

#[derive(PartialEq, Eq)]
struct Facts {
    version: ProxyVersion,
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
        Self(Arc::new(Facts { version, header }))
    }

    /// Reads a whole header, for tests.
    ///
    /// # Errors
    ///
    /// Where it is none, or there is more than that.
    pub fn parse(header: &[u8]) -> Result<Self, ProxyHeaderError> {
        header::parse(header)
    }

    /// The version of the header.
    pub fn version(&self) -> ProxyVersion {
        self.0.version
    }

    /// The address of the client. `None` where the header names none: the connection is the proxy's own, or not by IP.
    pub fn source(&self) -> Option<SocketAddr> {
        let addresses = self.0.header.proxied_address();
        addresses.map(|addresses| addresses.source)
    }

    /// The address that the client has connected to.
    pub fn destination(&self) -> Option<SocketAddr> {
        let addresses = self.0.header.proxied_address();
        addresses.map(|addresses| addresses.destination)
    }

    /// The name of the server that the client has asked for, such as by SNI (PP2_TYPE_AUTHORITY).
    pub fn authority(&self) -> Option<&str> {
        self.0.header.authority()
    }

    /// The protocol that the client and the proxy have agreed on by ALPN (PP2_TYPE_ALPN).
    pub fn alpn(&self) -> Option<&[u8]> {
        self.0.header.alpn()
    }

    /// What the proxy calls this connection (PP2_TYPE_UNIQUE_ID).
    pub fn unique_id(&self) -> Option<&[u8]> {
        self.0.header.unique_id()
    }

    /// The network namespace that the client has come from (PP2_TYPE_NETNS).
    pub fn namespace(&self) -> Option<&str> {
        self.0.header.netns()
    }

    /// What the proxy says of the client's TLS (PP2_TYPE_SSL). That ends at the proxy, so it does not make
    /// [`Session::tls`](crate::Session::tls).
    pub fn tls(&self) -> Option<ProxyTls<'_>> {
        self.0.header.ssl().map(ProxyTls)
    }

    /// The first field of a type that the protocol leaves to others, such as 0xEA of some clouds.
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
            .field("header", &self.0.header)
            .finish()
    }
}

/// What a proxy says of the TLS between it and the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyTls<'a>(SslInfo<'a>);

impl ProxyTls<'_> {
    /// Whether the client came by TLS at all.
    pub fn is_on(&self) -> bool {
        self.0.client_ssl()
    }

    /// Whether the client has shown a certificate, in this connection or the session that it resumes, and the proxy has
    /// found it good.
    pub fn has_verified_certificate(&self) -> bool {
        let shown = self.0.client_cert_conn() || self.0.client_cert_sess();
        shown && self.0.verify() == 0
    }

    /// The version, such as `TLSv1.3`.
    pub fn version(&self) -> Option<&str> {
        self.0.version()
    }

    /// The cipher suite, by the name that the proxy has for it.
    pub fn cipher(&self) -> Option<&str> {
        self.0.cipher()
    }

    /// The common name in the client's certificate.
    pub fn common_name(&self) -> Option<&str> {
        self.0.cn()
    }

    /// The algorithm of the signature on the proxy's certificate, such as `SHA256`.
    pub fn signature_algorithm(&self) -> Option<&str> {
        self.0.sig_alg()
    }

    /// The algorithm of the key of the proxy's certificate, such as `RSA2048`.
    pub fn key_algorithm(&self) -> Option<&str> {
        self.0.key_alg()
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
        let mut octets = Vec::new();
        let header = ProxyHeader::with_tlvs(Some(addresses), fields);
        header.encode_v2(&mut octets).unwrap();
        let info = ProxyInfo::parse(&octets).unwrap();
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
    fn a_certificate_counts_only_where_it_was_shown_and_found_good() {
        for (shown, verify, good) in [(true, 0, true), (true, 1, false), (false, 0, false)] {
            let tls = ProxyTls(SslInfo::new(true, shown, false, verify));
            assert_eq!(tls.has_verified_certificate(), good);
        }
    }
}
