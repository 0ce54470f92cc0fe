//! What a client is about to write, and how what is on the wire relates to what it has said.

use std::collections::VecDeque;

/// What some bytes on the wire say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Themselves.
    Same,
    /// Nothing that the protocol knows of: a handshake, a PROXY header.
    Nothing,
    /// This, once all of them have come: a record of TLS.
    Whole(Vec<u8>),
}

/// What a client is about to write.
#[derive(Debug, Default)]
pub struct Outbox {
    pieces: VecDeque<(Vec<u8>, Meaning)>,
    /// How much of the first chunk is written.
    at: usize,
}

impl Outbox {
    pub fn push(&mut self, bytes: Vec<u8>, meaning: Meaning) {
        if !bytes.is_empty() {
            self.pieces.push_back((bytes, meaning));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// What is to be written next.
    pub fn next(&self) -> &[u8] {
        self.pieces
            .front()
            .map_or(&[], |(bytes, _)| &bytes[self.at..])
    }

    /// Notes that so many bytes were written of what is next. Returns them, and what they say.
    pub fn wrote(&mut self, count: usize) -> (Vec<u8>, Meaning) {
        let Some((bytes, meaning)) = self.pieces.front() else {
            return (Vec::new(), Meaning::Nothing);
        };
        let written = bytes[self.at..self.at + count].to_vec();
        let done = self.at + count == bytes.len();
        let meaning = match meaning {
            Meaning::Whole(_) if !done => Meaning::Nothing,
            meaning => meaning.clone(),
        };
        self.at += count;
        if done {
            self.pieces.pop_front();
            self.at = 0;
        }
        (written, meaning)
    }
}

/// How many bytes on the wire are how much of what was said.
#[derive(Debug, Default)]
pub struct Passage {
    /// The ends of stretches, on the wire and in plaintext. Within a stretch of plaintext, both advance together.
    stretches: Vec<(u64, u64, bool)>,
}

impl Passage {
    pub fn add(&mut self, count: usize, meaning: &Meaning) {
        let (wire, said, _) = self.end();
        let says = match meaning {
            Meaning::Same => count,
            Meaning::Nothing => 0,
            Meaning::Whole(text) => text.len(),
        };
        let end = (
            wire + count as u64,
            said + says as u64,
            *meaning == Meaning::Same,
        );
        match self.stretches.last_mut() {
            Some(last) if last.2 && end.2 => *last = end,
            _ => self.stretches.push(end),
        }
    }

    /// How much was said by the first bytes on the wire, so many.
    pub fn said(&self, wire: u64) -> u64 {
        let at = self.stretches.partition_point(|(end, ..)| *end <= wire);
        let (start, said) = match at.checked_sub(1) {
            Some(before) => (self.stretches[before].0, self.stretches[before].1),
            None => (0, 0),
        };
        match self.stretches.get(at) {
            Some((_, _, true)) => said + wire - start,
            _ => said,
        }
    }

    fn end(&self) -> (u64, u64, bool) {
        self.stretches.last().copied().unwrap_or_default()
    }
}
