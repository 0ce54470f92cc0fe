//! Plays the same random input in two ways, with a caller that does not always accept.

use std::sync::Arc;

use smtpd_core::{
    Code, Config, DataReply, Protocol, Reply, Status,
    config::{BareNewline, DriverConfig, NulByte},
    sasl::{CramMd5, Mechanisms, OAuthBearer},
};

use super::{Caller, Decision, Session, Told, extensions, whims::Whims};

/// RFC 5321 section 4.5.3.1.4, plus what each extension adds.
pub(crate) const COMMAND_LINE: usize = 512 + 17 + 34 + 15 + 1007 + 5 + 11 + 33;
/// An AUTH command with the longest response (RFC 4954 section 4).
pub(crate) const AUTH_LINE: usize = 12_288 + 32;

/// 16 KiB, plus the replies to one command.
const MOST_OUTPUT: usize = (16 << 10) + (8 << 10);

/// The settings of a server, and the behavior of its caller.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) policy: BareNewline,
    pub(crate) nul: NulByte,
    /// 0 means no limit.
    pub(crate) max_size: u64,
    pub(crate) lmtp: bool,
    pub(crate) require_auth: bool,
    /// 0 means a caller that accepts everything.
    pub(crate) mood: u32,
}

impl Setting {
    /// Everything is accepted, and messages pass unchanged.
    pub(crate) const OPEN: Self = Self {
        policy: BareNewline::PassThrough,
        nul: NulByte::PassThrough,
        max_size: 0,
        lmtp: false,
        require_auth: false,
        mood: 0,
    };

    pub(crate) fn session(&self) -> Session<Moody> {
        self.start(false)
    }

    fn start(&self, starttls: bool) -> Session<Moody> {
        let config = Config::new("mx.example.org")
            .limits(|limits| {
                (limits.errors, limits.command_line, limits.recipients) = (30, 512, 3);
            })
            .extensions(extensions::all())
            .max_message_size((self.max_size > 0).then_some(self.max_size))
            .bare_newline(self.policy)
            .nul_byte(self.nul)
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
            hasty: self.mood % 5 == 1
                && self.policy != BareNewline::Reject
                && self.nul != NulByte::Reject
                && self.max_size == 0,
        };
        let config = DriverConfig::new(config)
            .starttls(starttls)
            .protocol(if self.lmtp {
                Protocol::Lmtp
            } else {
                Protocol::Smtp
            })
            .xclient(true)
            .xforward(true);
        let mut session = Session::new(Arc::new(config), false, caller);
        session.most_output = MOST_OUTPUT;
        session.connection.allow_xclient();
        session.connection.allow_xforward();
        session
    }

    /// Returns what the caller receives and what the server sends if the input comes in pieces of these lengths, repeated.
    pub(crate) fn play(&self, input: &[u8], cuts: &[usize]) -> (Vec<Told>, Vec<u8>) {
        self.play_with(input, cuts, Whims::default())
    }

    fn play_with(&self, input: &[u8], cuts: &[usize], whims: Whims) -> (Vec<Told>, Vec<u8>) {
        let mut session = self.session();
        session.whims = whims;
        session.feed(b"");
        for piece in pieces(input, cuts) {
            session.feed(piece);
            let kept = session.input.len();
            assert!(kept <= AUTH_LINE, "{kept} bytes are kept");
        }
        (session.told(), session.output)
    }

    /// Asserts that it makes no difference whether a driver answers at once, defers questions, puts messages on hold, or writes
    /// in pieces: the same number of replies is sent, in the same order.
    pub(crate) fn check_driver(&self, input: &[u8], cuts: &[usize], whims: &[u8]) {
        let (told, output) = self.play(input, &[usize::MAX]);
        let (other_told, other_output) = self.play_with(input, cuts, Whims::harmless(whims));
        assert!(
            output == other_output,
            "{}\nor {}",
            output.escape_ascii(),
            other_output.escape_ascii()
        );
        assert_eq!(told, other_told);
    }

    /// Plays with a driver that also drops questions, comes too late, and reports the end of the connection or of the server.
    /// Asserts that each session ends, whatever happens, and that no answer reaches another question.
    pub(crate) fn check_wild_driver(&self, input: &[u8], cuts: &[usize], whims: &[u8]) {
        let mut session = self.start(true);
        session.whims = Whims::wild(whims);
        session.feed(b"");
        for piece in pieces(input, cuts) {
            session.happens();
            session.feed(piece);
        }
        let mut waits = 0;
        while let Some(until) = session.until {
            waits += 1;
            assert!(waits < 10 + 2 * input.len(), "the session never ends");
            session.now = until;
            session.feed(b"");
        }
        let (told, sent) = (session.told(), session.output.len());
        session.feed(b"EHLO client.example\r\n");
        assert_eq!((session.told(), session.output.len()), (told, sent));
        assert!(session.input.is_empty());
        // A message that is accepted early may be answered after a question that comes between its chunks.
        if !input
            .to_ascii_uppercase()
            .windows(4)
            .any(|word| word == b"BDAT")
        {
            check_order(&session.output);
        }
    }

    /// Asserts that it makes no difference whether the input comes at once, in these pieces, or byte by byte.
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

/// Splits the input into pieces of these lengths, repeated.
fn pieces<'i>(mut input: &'i [u8], cuts: &[usize]) -> impl Iterator<Item = &'i [u8]> {
    let mut cuts = cuts.iter().cycle();
    std::iter::from_fn(move || {
        let len = (*cuts.next()?).clamp(1, input.len().max(1));
        input.split_off(..len)
    })
}

/// A caller that refuses now and then, each time on the same occasion.
#[derive(Debug)]
pub(crate) struct Moody {
    mood: u32,
    asked: u32,
    /// Whether it answers before the end of a message. What it has not seen then depends on how the input is split, so this is
    /// used only with settings under which no message is rejected.
    hasty: bool,
}

impl Caller for Moody {
    fn decide(&mut self, told: &Told, _: usize) -> Option<Decision> {
        match told.kind {
            // The first answer counts, so it makes no difference how many bytes come at once.
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
        // The text tells the client which question was answered.
        let text = format!("#{}.{more} ", self.asked);
        match (self.mood ^ (self.asked + more)) % 8 {
            0 => Reply::ok(text),
            1 => Reply::busy().with_text(text),
            2 => Reply::ok(text + &"a long story. ".repeat(100)),
            3 => {
                let lines = [text, String::new(), "\r\n250 three".to_owned()];
                Reply::multiline(Code::HELP, Status::UNDEFINED, lines)
            }
            4 => Reply::new(Code::START_MAIL, Status::UNDEFINED, "No answer to anything"),
            5 if self.mood.is_multiple_of(3) => Reply::closing(text),
            _ => Reply::rejected(text),
        }
    }
}

/// RFC 5321 section 4.2: three digits, a hyphen or a space, text; section 4.5.3.1.5: 512 octets.
fn check_replies(output: &[u8]) {
    let mut open = None;
    for line in output.split_inclusive(|&byte| byte == b'\n') {
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
            rest.iter().all(|byte| (b' '..=b'~').contains(byte)),
            "{shown}"
        );
        assert!(open.is_none_or(|open| open == code), "{shown}");
        open = (rest[0] == b'-').then_some(code);
    }
    assert!(open.is_none());
}

/// Asserts that the replies to questions are in the order in which they were asked.
fn check_order(output: &[u8]) {
    let output = String::from_utf8_lossy(output);
    let answered: Vec<u32> = output
        .split('#')
        .skip(1)
        .filter_map(|reply| reply.split_once('.')?.0.parse().ok())
        .collect();
    assert!(answered.is_sorted(), "{output}");
}
