//! The client's end of TLS.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    sync::Arc,
};

use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, pki_types::ServerName,
};

use super::{Records, Shown};

/// What a client does wrong in a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    None,
    /// From so many bytes on, it sends rubbish over what it should.
    Rubbish(usize),
    /// It speaks plaintext instead.
    Plaintext,
    /// It sends nothing.
    Silence,
}

/// TLS as the client has it. It is shown what the server writes at once, so that the oracle is, too; but what it has to say to
/// that leaves only when the client has read as much.
pub struct Secure {
    connection: ClientConnection,
    records: Records,
    /// What it has to say, with how much of the server's bytes has to be read before.
    held: VecDeque<(u64, Vec<u8>)>,
    /// With which of the server's bytes the handshake was done.
    done: Option<u64>,
    /// Where rubbish begins, in all that is sent before the handshake is done.
    rubbish: Option<usize>,
    sent: usize,
    /// Rubbish was sent: whatever comes of it need not make sense.
    pub spoilt: bool,
    /// The server has said something.
    spoken: bool,
    /// The server has said that it sends nothing more.
    pub finished: bool,
}

impl Secure {
    pub fn new(config: Arc<ClientConfig>, flaw: Flaw, read: u64) -> Self {
        let name = ServerName::try_from("mx.example").unwrap();
        let mut secure = Self {
            connection: ClientConnection::new(config, name).unwrap(),
            records: Records::default(),
            held: VecDeque::new(),
            done: None,
            rubbish: match flaw {
                Flaw::Rubbish(at) => Some(at),
                _ => None,
            },
            sent: 0,
            spoilt: false,
            spoken: false,
            finished: false,
        };
        secure.collect(read);
        secure
    }

    /// Takes what the server has written, up to that byte of all. Returns what that says.
    pub fn receive(&mut self, end: u64, mut bytes: &[u8]) -> Result<Vec<u8>, String> {
        self.records.check(bytes)?;
        let mut text = Vec::new();
        while !bytes.is_empty() && !self.spoilt {
            let read = self.connection.read_tls(&mut bytes);
            read.map_err(|error| error.to_string())?;
            match self.connection.process_new_packets() {
                Ok(state) => self.finished |= state.peer_has_closed(),
                Err(error) => return Err(error.to_string()),
            }
            // The end of what there is is an error of its own.
            let _ = self.connection.reader().read_to_end(&mut text);
            self.collect(end);
        }
        if self.done.is_none() && !self.connection.is_handshaking() {
            self.done = Some(end);
        }
        self.spoken |= !text.is_empty();
        Ok(text)
    }

    /// What the client has to send when it has read so much.
    pub fn due(&mut self, read: u64) -> Option<Vec<u8>> {
        if !self.is_due(read) {
            return None;
        }
        let (_, bytes) = self.held.pop_front()?;
        Some(self.spoil(bytes))
    }

    pub fn is_due(&self, read: u64) -> bool {
        self.held.front().is_some_and(|(after, _)| *after <= read)
    }

    /// Whether the handshake is done for a client that has read so much.
    pub fn is_done(&self, read: u64) -> bool {
        self.done.is_some_and(|done| done <= read) && self.held.is_empty()
    }

    /// Whether the handshake is done as soon as the client has read and written all that belongs to it.
    pub fn is_settled(&self) -> bool {
        self.done.is_some()
    }

    /// Whether the server is through the handshake, and not only the client.
    pub fn has_spoken(&self) -> bool {
        self.spoken
    }

    /// Whether there is something to be sent that has to wait until the client has read more.
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// A record with this text.
    pub fn record(&mut self, text: &[u8]) -> Vec<u8> {
        self.connection.writer().write_all(text).unwrap();
        self.output()
    }

    /// Sends close_notify.
    pub fn finish(&mut self) -> Vec<u8> {
        self.connection.send_close_notify();
        self.output()
    }

    pub fn shown(&self) -> Shown {
        let chain = self.connection.peer_certificates().unwrap_or_default();
        Shown {
            der: chain.first().map_or_else(Vec::new, |first| first.to_vec()),
            resumed: self.connection.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }

    /// What the -PLUS forms of SCRAM bind to (RFC 9266). Over TLS 1.2 nothing is sure to be unique.
    pub fn exporter(&self) -> Option<Vec<u8>> {
        let unique = self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        let label = b"EXPORTER-Channel-Binding";
        let exported = self
            .connection
            .export_keying_material(vec![0; 32], label, Some(b""));
        exported.ok().filter(|_| unique)
    }

    /// Whether the server has written whole records.
    pub fn is_whole(&self) -> bool {
        self.records.are_whole()
    }

    fn collect(&mut self, end: u64) {
        let output = self.output();
        if !output.is_empty() {
            self.held.push_back((end, output));
        }
    }

    fn output(&mut self) -> Vec<u8> {
        let mut output = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut output).unwrap();
        }
        output
    }

    /// Puts rubbish over what is due to be.
    fn spoil(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        const RUBBISH: &[u8] = b"NOOP\r\nMAIL FROM:<evil@sender.example>\r\n";
        let start = self.sent;
        self.sent += bytes.len();
        let Some(at) = self.rubbish.filter(|at| *at < self.sent) else {
            return bytes;
        };
        self.spoilt = true;
        let over = bytes.iter_mut().skip(at.saturating_sub(start));
        over.zip(RUBBISH)
            .for_each(|(byte, rubbish)| *byte = *rubbish);
        bytes
    }
}
