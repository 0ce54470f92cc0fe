//! TLS at the client's end.

use crate::{model::Model, trace::Trace};

/// A TLS connection of a client.
pub struct ClientTls {}

impl ClientTls {
    pub fn new() -> Self {
        Self {}
    }

    pub fn pending(&mut self) -> Vec<u8> {
        Vec::new()
    }

    pub fn read(&mut self, _bytes: &[u8], _model: &mut Model, _trace: &Trace) {}

    pub fn encrypt(&mut self, bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }
}

pub fn server_config() -> smtpd_tower::tls::TlsConfig {
    unimplemented!()
}
