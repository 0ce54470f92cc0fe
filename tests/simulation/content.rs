//! The content of messages.

use crate::{dice::Dice, swarm::Swarm};

/// The content of a message, which ends with CRLF.
pub fn content(dice: &Dice, swarm: &Swarm) -> Vec<u8> {
    let mut content = Vec::new();
    if swarm.capacity.0 >= 65_536 && dice.one_in(150) {
        // More than a session may keep.
        let line = [&[b'z'; 998][..], b"\r\n"].concat();
        return line.repeat(dice.between(300, 900));
    }
    for _ in 0..dice.pick(&[0, 1, 3, 3, 20]) {
        match dice.below(14) {
            0 => content.extend(b"."),
            1 => content.extend(b"..two"),
            2 => content.extend(b"MAIL FROM:<evil@sender.example>"),
            3 => content.extend(b"QUIT"),
            4 if dice.chance(20) => content.extend(b"bare\nnewline"),
            5 if dice.chance(30) => content.extend((0..dice.below(6000)).map(|_| b'y')),
            6 => content.extend(b"\xc3\xa9\xff"),
            7 => {}
            8 if dice.chance(10) => content.extend(b"nul\0byte"),
            _ => content.extend(format!("line {}", dice.below(1_000_000)).bytes()),
        }
        content.extend(b"\r\n");
    }
    content
}

/// A message as sent after DATA, with its end (RFC 5321 section 4.5.2).
pub fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut stuffed = Vec::with_capacity(content.len() + 10);
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        let at_start = stuffed.is_empty() || stuffed.ends_with(b"\r\n");
        if at_start && line.starts_with(b".") {
            stuffed.push(b'.');
        }
        stuffed.extend(line);
    }
    stuffed.extend(b".\r\n");
    stuffed
}
