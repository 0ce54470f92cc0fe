use std::fmt;

/// The types of TLS channel binding (RFC 5056) that SCRAM's -PLUS forms may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChannelBinding {
    /// 32 octets exported under the label `EXPORTER-Channel-Binding` with an empty context (RFC 9266): for TLS 1.3, and
    /// for TLS 1.2 only with the extended master secret and without renegotiation.
    TlsExporter,
    /// The first Finished message of the latest handshake (RFC 5929 section 3); not defined for TLS 1.3.
    TlsUnique,
    /// The hash of the server's certificate (RFC 5929 section 4).
    TlsServerEndPoint,
}

impl ChannelBinding {
    /// Returns the name in IANA's registry.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TlsExporter => "tls-exporter",
            Self::TlsUnique => "tls-unique",
            Self::TlsServerEndPoint => "tls-server-end-point",
        }
    }
}

impl fmt::Display for ChannelBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The channel bindings of one TLS connection. The client chooses among them, and only among them.
///
/// ```
/// use smtpd_core::sasl::{ChannelBinding, ChannelBindings};
///
/// let exported = [0x5a; 32]; // from the TLS library
/// let bindings =
///     ChannelBindings::none().with(ChannelBinding::TlsExporter, exported);
/// assert!(!bindings.is_empty());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChannelBindings(Vec<(ChannelBinding, Vec<u8>)>);

impl ChannelBindings {
    /// Creates an empty set: the -PLUS forms of SCRAM are not offered.
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// Adds a binding, or replaces the one of the same kind. Empty data is ignored.
    #[must_use]
    pub fn with(mut self, kind: ChannelBinding, data: impl Into<Vec<u8>>) -> Self {
        let data = data.into();
        self.0.retain(|(known, _)| *known != kind);
        if !data.is_empty() {
            self.0.push((kind, data));
        }
        self
    }

    /// Returns whether there are no bindings.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the data of the binding that a client names; names are case-sensitive (RFC 5802 section 7, cb-name).
    #[cfg(feature = "scram")]
    pub(super) fn find(&self, name: &str) -> Option<&[u8]> {
        self.0
            .iter()
            .find(|(kind, _)| kind.as_str() == name)
            .map(|(_, data)| data.as_slice())
    }

    /// Returns the binding that a client uses, and its data.
    #[cfg(all(feature = "scram", feature = "client"))]
    pub(super) fn best(&self) -> Option<(ChannelBinding, &[u8])> {
        let order = [
            ChannelBinding::TlsExporter,
            ChannelBinding::TlsUnique,
            ChannelBinding::TlsServerEndPoint,
        ];
        let found = |kind: ChannelBinding| Some((kind, self.find(kind.as_str())?));
        order.into_iter().find_map(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_there_once_and_never_empty() {
        let bindings = ChannelBindings::none()
            .with(ChannelBinding::TlsUnique, *b"a")
            .with(ChannelBinding::TlsUnique, *b"b");
        assert_eq!(
            bindings,
            ChannelBindings::none().with(ChannelBinding::TlsUnique, *b"b")
        );
        assert!(bindings.with(ChannelBinding::TlsUnique, []).is_empty());
    }
}
