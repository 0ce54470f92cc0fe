//! What a client does, one action after the other.

use crate::{proxy::Header, tls::Flaw};

/// One action of a client.
#[derive(Debug)]
pub enum Op {
    Say(Vec<u8>),
    /// Sends the same bytes a number of times.
    Repeat(Vec<u8>, usize),
    /// Sends the same bytes without a pause, as fast as the server reads.
    Endless(Vec<u8>),
    /// Sends a message, if 354 was the last reply.
    Body(Vec<u8>),
    /// Waits until everything sent has a reply, or for this many milliseconds.
    Await(u64),
    Pause(u64),
    /// From now on sends one byte per this many milliseconds; 0 means without a pause.
    Drip(u64),
    Read(Reading),
    Cut(Cut),
    /// Sends a PROXY header.
    Header(Header),
    /// Begins SCRAM.
    Scram(Scram),
    /// Responds to a challenge of SCRAM, with the right proof or another.
    Proof(bool),
    /// Ends SCRAM.
    Proved,
    /// Begins a handshake if the server is ready for it or, if true, will be.
    Secure(bool, Flaw),
    /// Waits until the handshake is done, or cuts the connection after this many milliseconds.
    Secured(u64),
    /// Ends TLS properly.
    Finish,
}

/// How SCRAM is begun.
#[derive(Clone, Debug)]
pub struct Scram {
    pub user: String,
    pub plus: bool,
    /// The header claims that the client could have bound, or binds to something else.
    pub wrong: bool,
    /// With the first message in the command.
    pub initial: bool,
}

/// How a client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    All,
    /// This many bytes at a time, with this many milliseconds between.
    Slowly(usize, u64),
    Never,
}

/// How a client ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Closes its sending side, and reads to the end.
    HalfClose,
    Close,
    Reset,
    /// Sends nothing any more.
    Silence,
    /// Neither sends nor reads anything any more.
    Deafness,
}

impl Cut {
    pub const ALL: [Self; 5] = [
        Self::HalfClose,
        Self::Close,
        Self::Reset,
        Self::Silence,
        Self::Deafness,
    ];
}
