//! What a client does, one thing after the other.

use crate::{proxy::Header, tls::Flaw};

/// One thing that a client does.
#[derive(Debug)]
pub enum Op {
    Say(Vec<u8>),
    /// Says the same so many times.
    Repeat(Vec<u8>, usize),
    /// Says the same without a pause, as fast as the server reads.
    Endless(Vec<u8>),
    /// Says a message, if 354 was the last reply.
    Body(Vec<u8>),
    /// Waits until there is a reply to all that was said, or so many milliseconds.
    Await(u64),
    Pause(u64),
    /// From now on says a byte in so many milliseconds; 0 is without a pause.
    Drip(u64),
    Read(Reading),
    Cut(Cut),
    /// Says a PROXY header.
    Header(Header),
    /// Begins SCRAM.
    Scram(Scram),
    /// Answers a challenge of SCRAM, with the right proof or another.
    Proof(bool),
    /// Ends SCRAM.
    Proved,
    /// Begins a handshake if the server has asked for it, or, where it is true, will.
    Secure(bool, Flaw),
    /// Waits until the handshake is done, or cuts the connection after so many milliseconds.
    Secured(u64),
    /// Ends TLS as it has to be.
    Finish,
}

/// How SCRAM is begun.
#[derive(Clone, Debug)]
pub struct Scram {
    pub user: String,
    pub plus: bool,
    /// The header says that the client could have bound, or that it binds to something else.
    pub wrong: bool,
    /// With the first message in the command.
    pub initial: bool,
}

/// How a client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    All,
    /// So many bytes at a time, with so many milliseconds between.
    Slowly(usize, u64),
    Never,
}

/// How a client ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Closes what it sends; and reads to the end.
    HalfClose,
    Close,
    Reset,
    /// Says nothing any more.
    Silence,
    /// Neither says nor reads anything any more.
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
