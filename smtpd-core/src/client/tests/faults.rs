//! Servers that break, leave, lie and dawdle.

use super::*;
use crate::protocol::Protocol;

const DATA: &str = "
    S: 220 mx.example
    C: EHLO me.example
    S: 250-mx.example
    S: 250 PIPELINING
    C: MAIL FROM:<a@b>
    C: RCPT TO:<1@d>
    C: RCPT TO:<2@d>
    C: DATA
    S: 250 Ok
    S: 250 Ok
    S: 550 Who?
    S: 354 Go
    C: hi
    C: .
";

/// The lines of `DATA` up to the first that begins so.
fn before(line: &str) -> String {
    let lines = DATA
        .lines()
        .take_while(|one| !one.trim_start().starts_with(line));
    lines.map(|line| format!("{line}\n")).collect()
}

#[track_caller]
fn breaks(mails: &[Mail], dialog: &str, outcomes: &[&str], reason: &str) {
    expect(config(), mails, dialog, outcomes, reason);
}

fn two() -> Mail {
    mail(&["1@d", "2@d"])
}

#[test]
fn a_message_that_may_have_been_accepted_is_told_from_one_that_was_not() {
    let who = "refused at RCPT: 550 5.0.0 Who?";
    for (event, fault) in [
        ("! lost", "connection lost at end of message"),
        ("! timeout", "no reply in time at end of message"),
        (
            "S: OK",
            "malformed reply: line without a reply code from 200 to 599",
        ),
        ("S| 250", "waits"),
    ] {
        if fault == "waits" {
            let dialog = format!("{DATA}{event}\n! lost");
            let lost = "connection lost at end of message";
            breaks(&[two()], &dialog, &[&format!("unknown: {lost}"), who], lost);
            continue;
        }
        breaks(
            &[two()],
            &format!("{DATA}{event}"),
            &[&format!("unknown: {fault}"), who],
            fault,
        );
    }
    // The server has answered.
    let closing = "session closed by the server: 421 4.3.2 Bye";
    breaks(
        &[two()],
        &format!("{DATA}S: 421 4.3.2 Bye"),
        &[&format!("failed: {closing}"), who],
        closing,
    );
    // The end of the message was never sent.
    let start = before("C: hi");
    for (event, fault) in [
        ("! lost", "connection lost at message"),
        ("! timeout", "no progress in time at message"),
        ("! abort", "aborted"),
    ] {
        let dialog = format!("{start}{event}");
        breaks(
            &[two().part(b"hi\r\n")],
            &dialog,
            &[&format!("failed: {fault}"), who],
            fault,
        );
    }
}

#[test]
fn a_reply_before_the_loss_still_counts() {
    let who = "refused at RCPT: 550 5.0.0 Who?";
    breaks(
        &[two()],
        &format!("{DATA}S: 250 Queued\n! lost"),
        &["accepted: 250 2.0.0 Queued", who],
        "connection lost at idle",
    );
}

#[test]
fn the_server_may_close_the_session_at_any_reply() {
    let closing = "session closed by the server: 421 4.3.2 Bye";
    let failed = format!("failed: {closing}");
    let lines: Vec<_> = DATA.lines().filter(|line| !line.is_empty()).collect();
    for (number, line) in lines.iter().enumerate().skip(4) {
        if !line.trim_start().starts_with("S: ") {
            continue;
        }
        let start: String = lines[..number]
            .iter()
            .map(|line| format!("{line}\n"))
            .collect();
        let second = match line.trim_start() {
            "S: 354 Go" => "refused at RCPT: 550 5.0.0 Who?",
            _ => &failed,
        };
        breaks(
            &[two()],
            &format!("{start}S: 421 4.3.2 Bye"),
            &[&failed, second],
            closing,
        );
        let lost = play(config(), &[two()], &format!("{start}! lost"));
        assert!(
            lost.outcomes[0].starts_with("failed: connection lost at "),
            "{lost:?}"
        );
        let late = play(config(), &[two()], &format!("{start}! timeout"));
        assert!(
            late.outcomes[0].starts_with("failed: no reply in time at "),
            "{late:?}"
        );
    }
    let opening = "S: 220 mx.example\nC: EHLO me.example\n";
    breaks(&[], &format!("{opening}S: 421 4.3.2 Bye"), &[], closing);
    breaks(&[], "! timeout", &[], "no reply in time at greeting");
    breaks(&[], "! lost", &[], "connection lost at greeting");
}

#[test]
fn a_message_may_be_refused_before_its_end() {
    let start = before("C: hi");
    let refused = "refused at message: 552 5.3.4 Too big";
    let who = "refused at RCPT: 550 5.0.0 Who?";
    breaks(
        &[two().part(b"hi\r\n")],
        &format!("{start}S: 552 5.3.4 Too big"),
        &[refused, who],
        "message refused: 552 5.3.4 Too big",
    );
    let early = "unexpected reply: 250 2.0.0 Queued";
    breaks(
        &[two().part(b"hi\r\n")],
        &format!("{start}S: 250 Queued"),
        &[&format!("failed: {early}"), who],
        early,
    );
}

/// They would be taken for the replies to commands that are sent later.
#[test]
fn replies_before_their_commands_are_not_believed() {
    let early = |mails: &[Mail], dialog: &str| {
        let ended = play_at_once(config(), mails, dialog);
        assert_eq!(ended.reason, "unexpected reply: 250 2.0.0 Ok", "{dialog}");
        ended.outcomes
    };
    assert!(early(&[], "S| 220 mx.example\\r\\n250 Ok\\r\\n").is_empty());
    let failed = "failed: unexpected reply: 250 2.0.0 Ok";
    let start = "
        S: 220 mx.example
        C: EHLO me.example
        S: 250 mx.example
        C: MAIL FROM:<a@b>
    ";
    let twice = "S| 250 Ok\\r\\n250 Ok\\r\\n";
    assert_eq!(early(&[two()], &format!("{start}{twice}")), [failed; 2]);
    let to_all = "S| 250 Ok\\r\\n550 Who?\\r\\n250 Ok\\r\\n354 Go\\r\\n250 Ok\\r\\n";
    let start = before("S: 250 Ok");
    let outcomes = early(&[two()], &format!("{start}{to_all}"));
    assert_eq!(outcomes, ["refused at RCPT: 550 5.0.0 Who?", failed]);
}

#[test]
fn codes_that_a_command_cannot_have_end_the_session() {
    let opening = "
        S: 220 mx.example
        C: EHLO me.example
    ";
    breaks(
        &[],
        &format!("{opening}S: 354 Go"),
        &[],
        "impossible reply to EHLO: 354 Go",
    );
    let start = before("S: 250 Ok");
    let fault = "impossible reply to MAIL: 354 Go";
    let failed = format!("failed: {fault}");
    breaks(
        &[two()],
        &format!("{start}S: 354 Go"),
        &[&failed, &failed],
        fault,
    );
    let start = before("S: 354");
    let fault = "impossible reply to DATA: 250 2.0.0 Go";
    breaks(
        &[two()],
        &format!("{start}S: 250 Go"),
        &[
            &format!("failed: {fault}"),
            "refused at RCPT: 550 5.0.0 Who?",
        ],
        fault,
    );
    let fault = "impossible reply to end of message: 354 Go";
    breaks(
        &[two()],
        &format!("{DATA}S: 354 Go"),
        &[
            &format!("unknown: {fault}"),
            "refused at RCPT: 550 5.0.0 Who?",
        ],
        fault,
    );
}

#[test]
fn lmtp_recipients_are_settled_one_by_one() {
    let dialog = DATA
        .replace("EHLO", "LHLO")
        .replace("S: 550 Who?", "S: 250 Ok");
    let lmtp = || config().protocol(Protocol::Lmtp);
    let lost = "connection lost at end of message";
    expect(
        lmtp(),
        &[two()],
        &format!("{dialog}S: 250 One\n! lost"),
        &["accepted: 250 2.0.0 One", &format!("unknown: {lost}")],
        lost,
    );
    let closing = "session closed by the server: 421 4.0.0 Bye".to_owned();
    let (failed, unknown) = (format!("failed: {closing}"), format!("unknown: {closing}"));
    expect(
        lmtp(),
        &[two()],
        &format!("{dialog}S: 421 Bye"),
        &[&failed, &unknown],
        &closing,
    );
    // RFC 2033 section 4.2: nothing would answer the end of the message.
    let nobody = dialog.replace(
        "S: 250 Ok\n    S: 250 Ok\n    S: 250 Ok",
        "S: 250 Ok\n    S: 550 Who?\n    S: 550 Who?",
    );
    let nobody = nobody.replace("C: hi\n    C: .\n", "");
    expect(
        lmtp(),
        &[two()],
        &nobody,
        &["refused at RCPT: 550 5.0.0 Who?"; 2],
        "impossible reply to DATA: 354 Go",
    );
}

#[test]
fn prdr_replies_mean_nothing_without_the_last_one() {
    let dialog = DATA.replace("250 PIPELINING", "250-PIPELINING\n    S: 250 PRDR");
    let dialog = dialog
        .replace("<a@b>", "<a@b> PRDR")
        .replace("S: 550 Who?", "S: 250 Ok");
    let lost = "connection lost at end of message";
    let unknown = format!("unknown: {lost}");
    breaks(
        &[two()],
        &format!("{dialog}S: 353 Each\nS: 250 One\nS: 550 Two\n! lost"),
        &[&unknown, "refused at end of message: 550 5.0.0 Two"],
        lost,
    );
    let closing = "session closed by the server: 421 4.0.0 Bye";
    let failed = format!("failed: {closing}");
    breaks(
        &[two()],
        &format!("{dialog}S: 353 Each\nS: 250 One\nS: 250 Two\nS: 421 Bye"),
        &["failed: ".to_owned() + closing, failed]
            .each_ref()
            .map(String::as_str),
        closing,
    );
}

#[test]
fn a_refused_rset_does_not_mix_two_messages() {
    breaks(
        &[mail(&["1@d"]), mail(&["2@d"])],
        "
        S: 220 mx.example
        C: EHLO me.example
        S: 250-mx.example
        S: 250 PIPELINING
        C: MAIL FROM:<a@b>
        C: RCPT TO:<1@d>
        C: DATA
        S: 250 Ok
        S: 250 Ok
        S: 550 No
        C: RSET
        C: MAIL FROM:<a@b>
        C: RCPT TO:<2@d>
        C: DATA
        S: 500 No",
        &[
            "refused at DATA: 550 5.0.0 No",
            "failed: RSET refused: 500 5.0.0 No",
        ],
        "RSET refused: 500 5.0.0 No",
    );
}

#[test]
fn a_chunk_that_is_refused_ends_the_message() {
    let chunks = || config().limits(|limits| limits.chunk = 4);
    let start = "
        S: 220 mx.example
        C: EHLO me.example
        S: 250-mx.example
        S: 250 CHUNKING
        C: MAIL FROM:<a@b>
        S: 250 Ok
        C: RCPT TO:<1@d>
        S: 250 Ok
    ";
    let mails = [mail(&["1@d"]).part(b"1234"), mail(&["2@d"])];
    expect(
        chunks(),
        &mails,
        &format!(
            "{start}
        C| BDAT 4\\r\\n1234
        S: 452 4.3.1 Full
        C: RSET
        S: 250 Ok
        C: MAIL FROM:<a@b>
        S: 550 No
        C: QUIT
        S: 221 Bye"
        ),
        &[
            "refused at message: 452 4.3.1 Full",
            "refused at MAIL: 550 5.0.0 No",
        ],
        "quit",
    );
}

#[test]
fn a_server_that_receives_nothing_is_given_up() {
    let mut client = Client::new(Arc::new(config()));
    let mut input = BytesMut::from("220 mx.example\r\n");
    let mut now = Instant::now();
    for _ in 0..1000 {
        match client.poll(now, &mut input) {
            Step::Write(mut writing) => {
                // One byte a second is too little.
                let len = usize::from(writing.bytes().len() > 1);
                writing.wrote(len, now);
            }
            Step::Closed(reason) => {
                return assert_eq!(reason.fault(), Some(&Fault::Timeout(Stage::Hello)));
            }
            _ => {}
        }
        now += Duration::from_secs(1);
    }
    panic!("it waits forever");
}

#[test]
fn an_endless_reply_is_not_kept() {
    for (unit, fault) in [
        (&b"250-x\r\n"[..], ProtocolFault::TooManyLines),
        (&[b'x'; 1 << 20], ProtocolFault::LineTooLong),
        (
            &[b"220-", &[b'x'; 8000][..], b"\r\n"].concat(),
            ProtocolFault::ReplyTooLong,
        ),
    ] {
        let mut client = Client::new(Arc::new(config()));
        let (mut input, now) = (BytesMut::new(), Instant::now());
        let reason = (0..1 << 16).find_map(|_| {
            input.extend_from_slice(unit);
            match client.poll(now, &mut input) {
                Step::Closed(reason) => Some(reason),
                _ => None,
            }
        });
        assert_eq!(reason, Some(CloseReason::Fault(fault.into())));
        assert!(input.is_empty());
    }
}
