//! Plays the same input in two ways, with a caller that is not always kind: for random input.

use std::sync::Arc;

use smtpd_core::{
    BareNewline, Code, Config, DataReply, Limits, Protocol, Reply, Status,
    sasl::{CramMd5, Mechanisms, OAuthBearer},
};

use super::{Caller, Decision, Session, Told, extensions};

/// RFC 5321 section 4.5.3.1.4, and what each extension adds.
pub(crate) const COMMAND_LINE: usize = 512 + 17 + 34 + 15 + 1007 + 5 + 11 + 33;
/// An AUTH command with the longest response (RFC 4954 section 4).
pub(crate) const AUTH_LINE: usize = 12_288 + 32;

/// What a server is set up to do, and its caller inclined to.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) policy: BareNewline,
    /// 0 for no limit.
    pub(crate) max_size: u64,
    pub(crate) lmtp: bool,
    pub(crate) require_auth: bool,
    /// 0 for a caller that accepts everything.
    pub(crate) mood: u32,
}

impl Setting {
    /// Everything is accepted, and messages come through as they are.
    pub(crate) const OPEN: Self = Self {
        policy: BareNewline::PassThrough,
        max_size: 0,
        lmtp: false,
        require_auth: false,
        mood: 0,
    };

    pub(crate) fn session(&self) -> Session<Moody> {
        let mut limits = Limits::default();
        (limits.errors, limits.command_line, limits.recipients) = (30, 512, 3);
        let config = Config::new("mx.example.org")
            .limits(limits)
            .extensions(extensions::all())
            .max_message_size(self.max_size)
            .bare_newline(self.policy)
            .protocol(if self.lmtp {
                Protocol::Lmtp
            } else {
                Protocol::Smtp
            })
            .mechanisms(Mechanisms::default().with(CramMd5).with(OAuthBearer::new()))
            .allow_insecure_auth(true)
            .require_auth(self.require_auth)
            .entropy(|nonce| {
                nonce.fill(0);
                true
            });
        let caller = Moody {
            mood: self.mood,
            asked: 0,
            hasty: self.mood % 5 == 1 && self.policy != BareNewline::Reject && self.max_size == 0,
        };
        let config = config.xclient(true).xforward(true);
        let mut session = Session::new(Arc::new(config), false, caller);
        session.connection.allow_xclient();
        session.connection.allow_xforward();
        session
    }

    /// What the caller is told and what the server sends, where the input comes in pieces of these lengths, over and over.
    pub(crate) fn play(&self, input: &[u8], cuts: &[usize]) -> (Vec<Told>, Vec<u8>) {
        let mut session = self.session();
        session.feed(b"");
        let mut rest = input;
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, later) = rest.split_at((*cut).clamp(1, rest.len()));
            session.feed(piece);
            assert!(
                session.input.len() <= AUTH_LINE,
                "{} octets are kept",
                session.input.len()
            );
            rest = later;
        }
        (session.told(), session.output)
    }

    /// Asserts that it makes no difference whether the input comes at once, in these pieces, or octet by octet.
    pub(crate) fn check(&self, input: &[u8], cuts: &[usize]) {
        let (told, output) = self.play(input, &[usize::MAX]);
        for cuts in [cuts, &[1]] {
            let (other_told, other_output) = self.play(input, cuts);
            assert!(
                output == other_output,
                "{}\nor {}",
                output.escape_ascii(),
                other_output.escape_ascii()
            );
            assert_eq!(told, other_told);
        }
        check_replies(&output);
    }
}

/// One that refuses now and then, each time on the same occasion.
#[derive(Debug)]
pub(crate) struct Moody {
    mood: u32,
    asked: u32,
    /// Whether it answers before the end of a message. What it has not seen then is not the same in all pieces, so this
    /// goes only with settings under which no message has a fault.
    hasty: bool,
}

impl Caller for Moody {
    fn decide(&mut self, told: &Told, _: usize) -> Option<Decision> {
        match told.kind {
            // The first answer counts, so how many octets come at once makes no difference.
            "early" => self.hasty.then(|| self.reply(0).into()),
            "tls" => None,
            _ if self.is_kind() => None,
            "taken" | "refused" => Some(Decision::Replies(DataReply::each([
                self.reply(0),
                self.reply(1),
                self.reply(2),
            ]))),
            _ => Some(self.reply(0).into()),
        }
    }
}

impl Moody {
    fn is_kind(&mut self) -> bool {
        self.asked += 1;
        self.mood == 0
            || !self
                .mood
                .wrapping_mul(self.asked)
                .rotate_left(7)
                .is_multiple_of(4)
    }

    fn reply(&self, more: u32) -> Reply {
        match (self.mood ^ (self.asked + more)) % 8 {
            0 => Reply::ok("Yes"),
            1 => Reply::busy(),
            2 => Reply::ok("a long story. ".repeat(100)),
            3 => Reply::multiline(Code::HELP, Status::UNDEFINED, ["one", "", "\r\n250 three"]),
            4 => Reply::new(Code::START_MAIL, Status::UNDEFINED, "No answer to anything"),
            5 if self.mood.is_multiple_of(3) => Reply::closing("Going down"),
            _ => Reply::rejected("No"),
        }
    }
}

/// RFC 5321 section 4.2: three digits, a hyphen or a blank, text; section 4.5.3.1.5: 512 octets.
fn check_replies(output: &[u8]) {
    let mut open = None;
    for line in output.split_inclusive(|&octet| octet == b'\n') {
        let shown = line.escape_ascii();
        assert!(line.len() <= 512 && line.ends_with(b"\r\n"), "{shown}");
        let (code, rest) = line[..line.len() - 2]
            .split_at_checked(3)
            .unwrap_or_default();
        assert!(
            matches!(code, [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9']),
            "{shown}"
        );
        assert!(matches!(rest, [b' ' | b'-', ..]), "{shown}");
        assert!(
            rest.iter().all(|octet| (b' '..=b'~').contains(octet)),
            "{shown}"
        );
        assert!(open.is_none_or(|open| open == code), "{shown}");
        open = (rest[0] == b'-').then_some(code);
    }
    assert!(open.is_none());
}
