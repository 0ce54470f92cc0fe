//! What SCRAM binds to.

use smtpd_core::sasl::{ChannelBinding, ChannelBindings};
use tokio_rustls::rustls::{ProtocolVersion, ServerConnection};

/// The channel bindings of `connection`, whose handshake is done: `tls-exporter`, and for TLS 1.3 alone.
///
/// For TLS 1.2 it would need the extended master secret (RFC 9266 section 4.2), and rustls does not tell whether that
/// is in use; nor does it show the Finished messages that `tls-unique` is made of.
pub(crate) fn channel_bindings(connection: &ServerConnection) -> ChannelBindings {
    if connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return ChannelBindings::none();
    }
    // RFC 9266 section 2: 32 octets, this label, a context of no octets.
    match connection.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b"")) {
        Ok(exported) => ChannelBindings::none().with(ChannelBinding::TlsExporter, exported),
        Err(_) => ChannelBindings::none(),
    }
}
