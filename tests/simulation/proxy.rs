//! PROXY headers, valid and broken, and what trusted peers report about their clients.

use crate::{acts::Op, model::ADDRESSES, script::Author};

/// A header, and the client that it names.
#[derive(Clone, Debug)]
pub struct Header {
    pub bytes: Vec<u8>,
    /// Whether it is valid.
    pub sound: bool,
    /// `None` if the proxy connects for itself.
    pub peer: Option<String>,
}

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

impl Header {
    fn none(bytes: impl Into<Vec<u8>>, sound: bool) -> Self {
        Self {
            bytes: bytes.into(),
            sound,
            peer: None,
        }
    }

    fn naming(bytes: impl Into<Vec<u8>>, port: u16) -> Self {
        Self {
            peer: Some(format!("{}:{port}", ADDRESSES[0])),
            ..Self::none(bytes, true)
        }
    }

    /// About a client without an address.
    fn of_nobody(bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            peer: Some("0.0.0.0:0".to_owned()),
            ..Self::none(bytes, true)
        }
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = (rest.len() as u16).to_be_bytes();
        [SIGNATURE, &[command, family], &len, rest].concat()
    }
}

impl Author<'_> {
    pub(super) fn header(&mut self) {
        let port = self.dice.between(1, 60_000) as u16;
        let [high, low] = port.to_be_bytes();
        let addresses = [198, 51, 100, 7, 192, 0, 2, 9, high, low, 0, 25];
        let client = ADDRESSES[0];
        let header = match self.dice.below(15) {
            0..3 => Header::naming(format!("PROXY TCP4 {client} 192.0.2.9 {port} 25\r\n"), port),
            3..6 => Header::naming(Header::v2(0x21, 0x11, &addresses), port),
            6 => Header::of_nobody("PROXY UNKNOWN\r\n"),
            7 => Header::none(Header::v2(0x20, 0, b""), true),
            8 => Header::none("PROXY TCP4 nonsense\r\n", false),
            9 => Header::none(Header::v2(0x21, 0x11, &addresses[..8]), false),
            10 => Header::none(format!("PROXY TCP4 {}", " ".repeat(120)), false),
            11 => Header::of_nobody(Header::v2(0x21, 0, b"")),
            12 => Header::of_nobody(Header::v2(0x21, 0x31, &[0; 216])),
            13 => Header::none(
                format!("PROXY TCP4 {client} 192.0.2.9 0{port} 25\r\n"),
                false,
            ),
            _ => return,
        };
        let slowly = self.dice.chance(15);
        if slowly {
            self.ops.push_back(Op::Drip(self.dice.pick(&[1, 40, 400])));
        }
        self.ops.push_back(Op::Header(header));
        if slowly {
            self.ops.push_back(Op::Drip(0));
        }
    }

    /// XCLIENT or XFORWARD, in order or not.
    pub(super) fn claim(&mut self) {
        let n = self.number();
        let address = self.dice.pick(&ADDRESSES);
        let text = match self.dice.below(9) {
            0 => {
                format!("XCLIENT ADDR={address} PORT={n} LOGIN=x{n} HELO=x{n}.example PROTO=ESMTP")
            }
            1 => format!("XCLIENT ADDR={address}"),
            2 => format!("XCLIENT LOGIN=x{n} HELO=x{n}.example"),
            3 => format!("XCLIENT PORT={n}"),
            4 => "XCLIENT NAME=mx.example".to_owned(),
            5 => format!("XFORWARD NAME=mx.example ADDR={address} IDENT=q{n}"),
            6 => format!("XFORWARD IDENT=q{n} SOURCE=REMOTE"),
            7 => "XCLIENT".to_owned(),
            _ => "XFORWARD BOGUS=1".to_owned(),
        };
        self.say(format!("{text}\r\n"));
        self.await_replies();
    }
}
