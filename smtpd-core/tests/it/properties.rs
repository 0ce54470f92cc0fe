//! Properties that hold for every input: random bytes, and random sessions.

use proptest::{collection::vec, prelude::*, sample::select};
use smtpd_core::config::{BareNewline, NulByte};

use crate::support::differential::{AUTH_LINE, COMMAND_LINE, Setting};

const FRAGMENTS: [&str; 71] = [
    "STARTTLS\r\n",
    "HELO client.example\r\n",
    "EHLO client.example\r\n",
    "LHLO client.example\r\n",
    "EHLO\r\n",
    "MAIL FROM:<a@b>\r\n",
    "MAIL FROM:<> SIZE=30\r\n",
    "MAIL FROM:<a@b> BODY=BINARYMIME\r\n",
    "MAIL FROM:<\u{fc}@b> SMTPUTF8\r\n",
    "MAIL FROM:<a@b> FROBNICATE\r\n",
    "MAIL FROM:<a@b> PRDR\r\n",
    "MAIL FROM:<a@b> BY=9;R HOLDFOR=9 MT-PRIORITY=9 SOLICIT=a\r\n",
    "MAIL FROM:<a@b> REQUIRETLS\r\n",
    "RCPT TO:<c@d> RRVS=2014-04-03T23:01:00Z;C\r\n",
    "ETRN example.org\r\n",
    "RCPT TO:<c@d>\r\n",
    "RCPT TO:<e@f> NOTIFY=NEVER\r\n",
    "RCPT TO:<Postmaster>\r\n",
    "RCPT TO:<\u{fc}@d>\r\n",
    "RCPT TO:<>\r\n",
    "DATA\r\n",
    "DATA\r\ntext\r\n.\r\n",
    "BDAT 0\r\n",
    "BDAT 0 LAST\r\n",
    "BDAT 4\r\n",
    "BDAT 6\r\ntext\r\n",
    "BDAT 6 LAST\r\nNOOP\r\n",
    "BDAT 1\r\n\r",
    "BDAT 1\r\n\n",
    "BDAT 100 LAST\r\n",
    "BDAT 18446744073709551615\r\n",
    "BDAT x\r\n",
    "RSET\r\n",
    "NOOP\r\n",
    "VRFY a\r\n",
    "EXPN a\r\n",
    "HELP\r\n",
    "QUIT\r\n",
    "XCLIENT HELO=a.test LOGIN=alice\r\n",
    "XCLIENT NAME=[TEMPUNAVAIL] ADDR=192.0.2.1\r\n",
    "XCLIENT ADDR\r\n",
    "XFORWARD ADDR=192.0.2.1 IDENT=4F+2B2A\r\n",
    "XFORWARD LOGIN=x\r\n",
    "AUTH PLAIN\r\n",
    "AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n",
    "AUTH LOGIN\r\n",
    "AUTH LOGIN YWxpY2U=\r\n",
    "AUTH CRAM-MD5\r\n",
    "AUTH FROBNICATE\r\n",
    "AGFsaWNlAHNlY3JldA==\r\n",
    "YWxpY2U=\r\n",
    "c2VjcmV0\r\n",
    "*\r\n",
    "AUTH ",
    "GET / HTTP/1.1\r\n",
    "FROBNICATE\r\n",
    "Subject: x\r\n",
    "text\r\n",
    "text",
    ".\r\n",
    "..\r\n",
    ".",
    "\r\n",
    "\r\n.\r\n",
    "\n.\r\n",
    "\r.\r\n",
    "\r",
    "\n",
    "\0",
    "\u{fc}",
    " ",
];

/// Commands that get one reply, whatever the state.
const COMMANDS: [&str; 12] = [
    "NOOP\r\n",
    "RSET\r\n",
    "HELO client.example\r\n",
    "EHLO client.example\r\n",
    "MAIL FROM:<a@b>\r\n",
    "RCPT TO:<c@d>\r\n",
    "RCPT TO:<>\r\n",
    "VRFY a\r\n",
    "HELP\r\n",
    "FROBNICATE\r\n",
    "DATA x\r\n",
    "XFORWARD ADDR=192.0.2.1\r\n",
];

fn settings() -> impl Strategy<Value = Setting> {
    let policy = select(vec![
        BareNewline::Reject,
        BareNewline::Normalize,
        BareNewline::PassThrough,
    ]);
    let nul = select(vec![NulByte::Reject, NulByte::Strip, NulByte::PassThrough]);
    let max_size = select(vec![0, 20, 1000]);
    (
        policy,
        nul,
        max_size,
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
        prop_oneof![Just(0), any::<u32>()],
    )
        .prop_map(
            |(policy, nul, max_size, lmtp, require_auth, mood)| Setting {
                policy,
                nul,
                max_size,
                lmtp,
                require_auth,
                mood,
            },
        )
}

/// Something that looks like SMTP: usually fragments, sometimes random bytes, or one byte many times.
fn sessions() -> impl Strategy<Value = Vec<u8>> {
    let fragment = select(FRAGMENTS.to_vec()).prop_map(|fragment| fragment.as_bytes().to_vec());
    let many = (any::<u8>(), select(vec![500, 506, 600, 12_290, 13_000]))
        .prop_map(|(byte, len)| vec![byte; len]);
    // More replies than may wait to be written.
    let flood = Just(b"EHLO client.example\r\n".repeat(300));
    let piece = prop_oneof![120 => fragment, 4 => vec(any::<u8>(), 0..20), 2 => many, 1 => flood];
    // Most sessions begin well, so that they get somewhere.
    (0..4_usize, vec(piece, 0..40)).prop_map(|(start, pieces)| {
        let text = "EHLO client.example\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";
        let start: String = text.split_inclusive('\n').take(start).collect();
        [start.into_bytes(), pieces.concat()].concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_session_is_the_same_in_all_pieces(
        setting in settings(),
        input in sessions(),
        cuts in vec(1..60_usize, 1..20),
    ) {
        setting.check(&input, &cuts);
    }

    #[test]
    fn a_session_is_the_same_with_every_driver(
        setting in settings(),
        input in sessions(),
        cuts in vec(1..300_usize, 1..20),
        whims in vec(any::<u8>(), 0..200),
    ) {
        setting.check_driver(&input, &cuts, &whims);
    }

    #[test]
    fn each_command_has_one_reply(
        commands in vec(select(COMMANDS.to_vec()), 0..25),
        cuts in vec(1..60_usize, 1..20),
        whims in vec(any::<u8>(), 0..200),
    ) {
        let (mood, input) = (whims.len() as u32, commands.concat());
        let setting = Setting { mood: mood & !1, ..Setting::OPEN };
        setting.check_driver(input.as_bytes(), &cuts, &whims);
        let (_, output) = setting.play(input.as_bytes(), &cuts);
        let last = output.split_inclusive(|&byte| byte == b'\n').filter(|line| line[3] == b' ');
        let closes = output.windows(4).any(|start| start == b"421 " || start == b"421-");
        let replies = last.count();
        prop_assert!(replies == 1 + commands.len() || closes && replies <= 1 + commands.len());
    }

    #[test]
    fn a_session_ends_with_every_driver(
        setting in settings(),
        input in sessions(),
        cuts in vec(1..300_usize, 1..20),
        whims in vec(any::<u8>(), 0..200),
    ) {
        setting.check_wild_driver(&input, &cuts, &whims);
    }

    #[test]
    fn random_bytes_give_the_same_result_however_they_are_split(
        setting in settings(),
        input in vec(any::<u8>(), 0..2000),
        cuts in vec(1..60_usize, 1..20),
    ) {
        setting.check(&input, &cuts);
    }

    #[test]
    fn a_message_is_the_same_in_all_pieces(
        setting in settings(),
        text in "[a.\r\n\0]{0,40}",
        cuts in vec(1..6_usize, 1..20),
    ) {
        let input = format!("EHLO x\r\nLHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n{text}\r\n.\r\nNOOP\r\n");
        setting.check(input.as_bytes(), &cuts);
    }

    #[test]
    fn a_command_without_end_fills_no_memory(start in "[A-Za-z :\r]{0,10}", len in 0..60_000_usize, piece in 1..5000_usize) {
        let mut session = Setting::OPEN.session();
        session.feed(start.as_bytes());
        let limit = if start.get(..5).is_some_and(|verb| verb.eq_ignore_ascii_case("AUTH ")) {
            AUTH_LINE
        } else {
            COMMAND_LINE
        };
        for piece in vec![b'x'; len].chunks(piece) {
            session.feed(piece);
            prop_assert!(session.input.len() <= limit);
        }
    }
}
