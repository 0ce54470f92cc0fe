//! What the fuzz targets share: the player of the tests, and settings taken from the first bytes of an input.
#![forbid(unsafe_code)]

use smtpd_core::config::{BareNewline, NulByte};

#[path = "../../tests/it/support/mod.rs"]
mod support;

use support::differential::Setting;

/// Plays a session at once, in pieces, and byte by byte, and panics where that makes a difference.
///
/// The first four bytes of the input say what the server is set up to do, what its caller is inclined to, and how long
/// the pieces are.
pub fn check_session(input: &[u8], start: &str, end: &str) {
    let Some((setting, cuts, rest)) = setting(input) else {
        return;
    };
    let session = [start.as_bytes(), rest, end.as_bytes()].concat();
    setting.check(&session, &cuts);
}

/// Plays a session with a driver that is slow, and with one that is wild, and panics where the one makes a difference or
/// the other can do harm.
///
/// The input begins as for [`check_session`]. Its last byte says how many of those before it are choices of the driver.
pub fn check_drivers(input: &[u8]) {
    let Some((setting, cuts, rest)) = setting(input) else {
        return;
    };
    let Some((&choices, rest)) = rest.split_last() else {
        return;
    };
    let (session, whims) = rest.split_at(rest.len().saturating_sub(choices.into()));
    setting.check_driver(session, &cuts, whims);
    setting.check_wild_driver(session, &cuts, whims);
}

fn setting(input: &[u8]) -> Option<(Setting, [usize; 2], &[u8])> {
    let (&[flags, mood, cut, other], rest) = input.split_first_chunk()?;
    let setting = Setting {
        policy: match flags & 3 {
            0 => BareNewline::Normalize,
            1 => BareNewline::PassThrough,
            _ => BareNewline::Reject,
        },
        nul: match flags >> 6 {
            0 => NulByte::PassThrough,
            1 => NulByte::Strip,
            _ => NulByte::Reject,
        },
        max_size: [0, 20, 1000, 0][usize::from(flags >> 2 & 3)],
        lmtp: flags & 0x10 != 0,
        require_auth: flags & 0x20 != 0,
        mood: mood.into(),
    };
    Some((setting, [cut.into(), other.into()], rest))
}

/// What becomes of an input where everything is accepted: the kind of each event and its text.
pub fn told(input: &[u8], cut: usize) -> Vec<(&'static str, Vec<u8>)> {
    let (told, _) = Setting::OPEN.play(input, &[cut]);
    told.into_iter()
        .map(|told| (told.kind, told.text))
        .collect()
}
