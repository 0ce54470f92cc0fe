use std::{
    io::{self, ErrorKind, Read, Write},
    sync::Arc,
};

use rustls::{ProtocolVersion, ServerConnection};
use smtpd_core::{
    connection::TlsFacts,
    sasl::{ChannelBinding, ChannelBindings},
};

/// A socket, with or without TLS. Each call makes one attempt at the socket, which may block or not.
#[derive(Debug)]
pub(crate) struct Stream<S> {
    socket: S,
    tls: Option<Box<ServerConnection>>,
    /// The number of bytes that were passed to TLS, and that it has not written yet.
    pending: usize,
}

impl<S: Read + Write> Stream<S> {
    pub(crate) fn new(socket: S) -> Self {
        Self {
            socket,
            tls: None,
            pending: 0,
        }
    }

    pub(crate) fn socket(&mut self) -> &mut S {
        &mut self.socket
    }

    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.socket.read(buffer);
        };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
            if tls.wants_write() && self.pending == 0 {
                // TLS itself has something to send, such as a new key. It can wait.
                let _ = tls.write_tls(&mut self.socket);
            }
            if tls.read_tls(&mut self.socket)? == 0 {
                return Ok(0);
            }
            process(tls, &mut self.socket)?;
        }
    }

    /// Returns how many of the bytes have left for the socket. 0 means that TLS still has them: call it again, with the same
    /// bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.socket.write(bytes);
        };
        if self.pending == 0 {
            self.pending = tls.writer().write(bytes)?;
        }
        tls.write_tls(&mut self.socket)?;
        if tls.wants_write() {
            return Ok(0);
        }
        Ok(std::mem::take(&mut self.pending))
    }

    /// Continues the handshake. Returns its results once it is done.
    pub(crate) fn handshake(
        &mut self,
        config: &Option<Arc<rustls::ServerConfig>>,
    ) -> io::Result<Option<TlsFacts>> {
        let tls = match (&mut self.tls, config) {
            (Some(tls), _) => tls,
            (tls, Some(config)) => {
                let new = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
                tls.insert(Box::new(new))
            }
            _ => return Err(ErrorKind::Unsupported.into()),
        };
        if tls.wants_write() {
            tls.write_tls(&mut self.socket)?;
        } else if tls.read_tls(&mut self.socket)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        } else {
            process(tls, &mut self.socket)?;
        }
        Ok((!tls.is_handshaking() && !tls.wants_write()).then(|| facts(tls)))
    }

    /// Tells the other side of TLS that nothing follows.
    pub(crate) fn close(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // If this cannot be written at once, the client still sees the end of the connection.
            let _ = tls.write_tls(&mut self.socket);
        }
    }
}

/// Decrypts what was read. If that fails, sends an alert to the client.
fn process(tls: &mut ServerConnection, socket: &mut impl Write) -> io::Result<()> {
    if let Err(error) = tls.process_new_packets() {
        let _ = tls.write_tls(socket);
        return Err(io::Error::other(error));
    }
    Ok(())
}

/// Returns the channel binding for SCRAM (RFC 9266): before TLS 1.3, it is not safe without further conditions.
fn facts(tls: &ServerConnection) -> TlsFacts {
    let mut facts = TlsFacts::default();
    if tls.protocol_version() == Some(ProtocolVersion::TLSv1_3)
        && let Ok(key) = tls.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", None)
    {
        facts.bindings = ChannelBindings::none().with(ChannelBinding::TlsExporter, key);
    }
    facts
}
