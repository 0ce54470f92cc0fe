//! What a client does, and where it comes from.

use std::net::IpAddr;

use smtpd_tower::net::PeerAddr;

/// One connection.
#[derive(Clone, Debug)]
pub struct SessionPlan {
    pub number: usize,
    pub from: Origin,
    /// The connection comes within TLS.
    pub within_tls: bool,
    /// When it connects, in milliseconds.
    pub after: u64,
    pub pace: Pace,
    pub acts: Vec<Act>,
    pub end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    V4,
    OtherV4,
    V6,
    Mapped,
    Loopback,
    Unix,
    /// By a PROXY header of 192.0.2.1.
    Proxied,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Waits for each reply.
    Lockstep,
    /// Sends groups of commands at once.
    Pipelined,
    ByteByByte,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Quit,
    Close,
    /// In the middle of the last act.
    Cut,
}

#[derive(Clone, Debug)]
pub enum Act {
    Say(String),
    /// DATA and the message.
    Data(Message),
    /// The message in one chunk.
    Bdat(Message),
    Auth(&'static str),
    StartTls,
    Wait(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    Small,
    WithoutHeader,
    /// A header of more than 64 KiB, with its Date at the end.
    LargeHeader,
    Looping,
    /// So many KiB.
    Large(usize),
}

impl SessionPlan {
    /// The other end, whose port is the number of the session.
    pub fn peer(&self) -> PeerAddr {
        let port = 1000 + self.number as u16;
        let ip: IpAddr = match self.from {
            Origin::V4 | Origin::Proxied => [192, 0, 2, 1].into(),
            Origin::OtherV4 => [198, 51, 100, 7].into(),
            Origin::V6 => [0x2001, 0xdb8, 0, 0, 0, 0, 0, self.number as u16].into(),
            Origin::Mapped => [0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0201].into(),
            Origin::Loopback => [127, 0, 0, 1].into(),
            Origin::Unix => return PeerAddr::unix(Some(format!("/run/{port}"))),
        };
        (ip, port).into()
    }
}

/// The number of the session with that peer.
pub fn number_of(peer: &PeerAddr) -> usize {
    let port = match peer {
        PeerAddr::Inet(address) => usize::from(address.port()),
        PeerAddr::Unix(Some(path)) => path
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok())
            .expect("a number"),
        other => panic!("{other}"),
    };
    port - 1000
}

impl Message {
    pub fn text(self) -> Vec<u8> {
        let body = "Subject: hi\r\nDate: Sat, 28 Nov 2026 10:00:00 +0000\r\n\r\nHello\r\n";
        let line = "The quick brown fox jumps over the lazy dog, and goes on with it.\r\n";
        let text = match self {
            Self::Small => body.to_owned(),
            Self::WithoutHeader => "Hello\r\nthere\r\n".to_owned(),
            Self::LargeHeader => {
                format!(
                    "{}Date: Sat, 28 Nov 2026 10:00:00 +0000\r\n\r\nHello\r\n",
                    "X-A: b\r\n".repeat(9000)
                )
            }
            Self::Looping => "Received: from a by b\r\n".repeat(120) + body,
            Self::Large(kib) => body.to_owned() + &line.repeat(kib * 1024 / line.len()),
        };
        text.into_bytes()
    }
}
