//! Messages, from MAIL to the replies.

use super::*;
use crate::{framing::BareNewline, protocol::Protocol};

/// Plays messages in a session with a server that offers these extensions.
#[track_caller]
fn sends_as(
    config: ClientConfig,
    mails: &[Mail],
    offers: &[&str],
    dialog: &str,
    outcomes: &[&str],
) {
    let hello = match config.protocol {
        Protocol::Smtp => "EHLO",
        Protocol::Lmtp => "LHLO",
    };
    let offers: String = offers
        .iter()
        .map(|offer| format!("S: 250-{offer}\n"))
        .collect();
    let start = format!(
        "S: 220 mx.example\nC: {hello} me.example\nS: 250-mx.example\n{offers}S: 250 HELP\n"
    );
    expect(
        config,
        mails,
        &format!("{start}{dialog}\nC: QUIT\nS: 221 Bye"),
        outcomes,
        "quit",
    );
}

#[track_caller]
fn sends(mails: &[Mail], offers: &[&str], dialog: &str, outcomes: &[&str]) {
    sends_as(config(), mails, offers, dialog, outcomes);
}

fn lmtp() -> ClientConfig {
    config().protocol(Protocol::Lmtp)
}

const PIPELINING: &[&str] = &["PIPELINING"];
const CHUNKING: &[&str] = &["PIPELINING", "CHUNKING"];

#[test]
fn commands_leave_one_by_one_without_pipelining() {
    sends(
        &[mail(&["c@d", "e@f"]).body(b".dot\r\nend")],
        &[],
        "
        C: MAIL FROM:<a@b>
        S: 250 Ok
        C: RCPT TO:<c@d>
        S: 250 Ok
        C: RCPT TO:<e@f>
        S: 550 5.1.1 Who?
        C: DATA
        S: 354 Go
        C: ..dot
        C: end
        C: .
        S: 250 2.0.0 Queued",
        &[
            "accepted: 250 2.0.0 Queued",
            "refused at RCPT: 550 5.1.1 Who?",
        ],
    );
    sends_as(
        config().pipelining(false),
        &[mail(&["c@d"])],
        PIPELINING,
        "
        C: MAIL FROM:<a@b>
        S: 550 No
        C| ",
        &["refused at MAIL: 550 5.0.0 No"],
    );
}

#[test]
fn the_envelope_and_data_leave_in_one_flight() {
    sends(
        &[mail(&["c@d", "e@f"])],
        PIPELINING,
        "
        C: MAIL FROM:<a@b>
        C: RCPT TO:<c@d>
        C: RCPT TO:<e@f>
        C: DATA
        S: 250 Ok
        S: 250 Ok
        S: 451 4.2.1 Later
        S: 354 Go
        C: hi
        C: .
        S: 250 2.0.0 Queued",
        &[
            "accepted: 250 2.0.0 Queued",
            "refused at RCPT: 451 4.2.1 Later",
        ],
    );
}

#[test]
fn a_long_flight_is_cut_so_that_replies_cannot_pile_up() {
    sends_as(
        config().limits(|limits| limits.pipelined = 2),
        &[mail(&["c@d", "e@f"])],
        PIPELINING,
        "
        C: MAIL FROM:<a@b>
        C: RCPT TO:<c@d>
        S: 250 Ok
        C: RCPT TO:<e@f>
        S: 250 Ok
        C: DATA
        S: 250 Ok
        S: 354 Go
        C: hi
        C: .
        S: 554 5.6.0 Spam",
        &[
            "refused at end of message: 554 5.6.0 Spam",
            "refused at end of message: 554 5.6.0 Spam",
        ],
    );
}

#[test]
fn data_that_nobody_can_get_is_ended_by_a_lone_dot() {
    sends(
        &[mail(&["c@d"]), mail(&["e@f"])],
        PIPELINING,
        "
        C: MAIL FROM:<a@b>
        C: RCPT TO:<c@d>
        C: DATA
        S: 250 Ok
        S: 550 5.1.1 Who?
        S: 354 Go
        C: .
        S: 554 No valid recipients
        C: RSET
        C: MAIL FROM:<a@b>
        C: RCPT TO:<e@f>
        C: DATA
        S: 250 Ok
        S: 250 Ok
        S: 550 5.1.1 Who?
        S: 503 No recipients",
        &["refused at RCPT: 550 5.1.1 Who?"; 2],
    );
}

#[test]
fn a_refused_sender_refuses_all_recipients() {
    sends(
        &[mail(&["c@d", "e@f"])],
        PIPELINING,
        "
        C: MAIL FROM:<a@b>
        C: RCPT TO:<c@d>
        C: RCPT TO:<e@f>
        C: DATA
        S: 550 5.7.1 No
        S: 503 MAIL first
        S: 503 MAIL first
        S: 503 MAIL first",
        &["refused at MAIL: 550 5.7.1 No"; 2],
    );
    // The rest of a long envelope is not sent at all.
    sends_as(
        config().limits(|limits| limits.pipelined = 2),
        &[mail(&["c@d", "e@f"])],
        PIPELINING,
        "
        C: MAIL FROM:<a@b>
        C: RCPT TO:<c@d>
        S: 550 5.7.1 No
        S: 503 MAIL first",
        &["refused at MAIL: 550 5.7.1 No"; 2],
    );
}

#[test]
fn a_server_that_takes_recipients_without_a_sender_gets_no_empty_message() {
    // In lock step, DATA is not sent.
    sends_as(
        config().limits(|limits| limits.pipelined = 2),
        &[mail(&["c@d"])],
        CHUNKING,
        "
        C: MAIL FROM:<a@b>
        C: RCPT TO:<c@d>
        S: 550 5.7.1 No
        S: 250 Ok",
        &["refused at MAIL: 550 5.7.1 No"],
    );
    expect(
        config(),
        &[mail(&["c@d"])],
        "
        S: 220 mx.example
        C: EHLO me.example
        S: 250-mx.example
        S: 250 PIPELINING
        C: MAIL FROM:<a@b>
        C: RCPT TO:<c@d>
        C: DATA
        S: 550 5.7.1 No
        S: 250 Ok
        S: 354 Go",
        &["refused at MAIL: 550 5.7.1 No"],
        "impossible reply to DATA: 354 Go",
    );
}

#[test]
fn refused_data_refuses_the_message_and_the_session_goes_on() {
    sends(
        &[mail(&["c@d"]), mail(&["e@f"])],
        &[],
        "
        C: MAIL FROM:<a@b>
        S: 250 Ok
        C: RCPT TO:<c@d>
        S: 250 Ok
        C: DATA
        S: 452 4.3.1 Full
        C: RSET
        S: 250 Ok
        C: MAIL FROM:<a@b>
        S: 250 Ok
        C: RCPT TO:<e@f>
        S: 550 Who?",
        &[
            "refused at DATA: 452 4.3.1 Full",
            "refused at RCPT: 550 5.0.0 Who?",
        ],
    );
}

#[test]
fn the_connection_is_used_again_without_rset_after_a_whole_message() {
    sends(
        &[mail(&["c@d"]), mail(&["e@f"])],
        PIPELINING,
        "
        C: MAIL FROM:<a@b>
        C: RCPT TO:<c@d>
        C: DATA
        S: 250 Ok
        S: 250 Ok
        S: 354 Go
        C: hi
        C: .
        S: 250 One
        C: MAIL FROM:<a@b>
        C: RCPT TO:<e@f>
        C: DATA
        S: 250 Ok
        S: 250 Ok
        S: 354 Go
        C: hi
        C: .
        S: 550 Two",
        &[
            "accepted: 250 2.0.0 One",
            "refused at end of message: 550 5.0.0 Two",
        ],
    );
}

#[test]
fn by_bdat_every_byte_is_sent_as_it_is() {
    let start = "
        C: MAIL FROM:<a@b>
        C: RCPT TO:<c@d>
        S: 250 Ok
        S: 250 Ok
    ";
    sends(
        &[mail(&["c@d"]).body(b".\r\n\0\n.\r")],
        CHUNKING,
        &format!(
            "{start}
        C: BDAT 7 LAST
        C| .\\r\\n\\0\\n.\\r
        S: 250 Queued"
        ),
        &["accepted: 250 2.0.0 Queued"],
    );
    sends(
        &[mail(&["c@d"]).body(b"")],
        CHUNKING,
        &format!(
            "{start}
        C: BDAT 0 LAST
        S: 250 Queued"
        ),
        &["accepted: 250 2.0.0 Queued"],
    );
    sends_as(
        config().chunking(false),
        &[mail(&["c@d"]).body(b"")],
        CHUNKING,
        "
        C: MAIL FROM:<a@b>
        C: RCPT TO:<c@d>
        C: DATA
        S: 250 Ok
        S: 250 Ok
        S: 354 Go
        C: .
        S: 250 Queued",
        &["accepted: 250 2.0.0 Queued"],
    );
}

#[test]
fn without_a_recipient_no_chunk_is_sent() {
    sends(
        &[mail(&["c@d"]), mail(&["e@f"])],
        CHUNKING,
        "
        C: MAIL FROM:<a@b>
        C: RCPT TO:<c@d>
        S: 250 Ok
        S: 550 Who?
        C: RSET
        C: MAIL FROM:<a@b>
        C: RCPT TO:<e@f>
        S: 250 Ok
        S: 250 Ok
        S: 550 Who?",
        &["refused at RCPT: 550 5.0.0 Who?"; 2],
    );
}

#[test]
fn lmtp_has_a_reply_for_each_accepted_recipient() {
    for offers in [PIPELINING, CHUNKING] {
        let (data, end) = match offers.len() {
            1 => ("C: DATA\n", "S: 354 Go\nC: hi\nC: .\n"),
            _ => ("", "C: BDAT 4 LAST\nC: hi\n"),
        };
        sends_as(
            lmtp(),
            &[mail(&["1@d", "2@d", "3@d", "4@d"])],
            offers,
            &format!(
                "
            C: MAIL FROM:<a@b>
            C: RCPT TO:<1@d>
            C: RCPT TO:<2@d>
            C: RCPT TO:<3@d>
            C: RCPT TO:<4@d>
            {data}S: 250 Ok
            S: 250 Ok
            S: 550 Who?
            S: 250 Ok
            S: 250 Ok
            {end}S: 250 One
            S: 452 4.2.2 Full
            S: 250 Four"
            ),
            &[
                "accepted: 250 2.0.0 One",
                "refused at RCPT: 550 5.0.0 Who?",
                "refused at end of message: 452 4.2.2 Full",
                "accepted: 250 2.0.0 Four",
            ],
        );
    }
}

#[test]
fn prdr_has_a_reply_for_each_recipient_and_the_last_one_decides() {
    let offers = &["PIPELINING", "PRDR"];
    let start = "
        C: MAIL FROM:<a@b> PRDR
        C: RCPT TO:<1@d>
        C: RCPT TO:<2@d>
        C: DATA
        S: 250 Ok
        S: 250 Ok
        S: 250 Ok
        S: 354 Go
        C: hi
        C: .
    ";
    let mails = [mail(&["1@d", "2@d"])];
    sends(
        &mails,
        offers,
        &format!(
            "{start}
        S: 353 Each
        S: 250 One
        S: 550 5.6.0 Spam
        S: 250 Done"
        ),
        &[
            "accepted: 250 2.0.0 One",
            "refused at end of message: 550 5.6.0 Spam",
        ],
    );
    sends(
        &mails,
        offers,
        &format!(
            "{start}
        S: 353 Each
        S: 250 One
        S: 550 5.6.0 Spam
        S: 451 Disk"
        ),
        &[
            "refused at end of message: 451 4.0.0 Disk",
            "refused at end of message: 550 5.6.0 Spam",
        ],
    );
    sends(
        &mails,
        offers,
        &format!(
            "{start}
        S: 250 All"
        ),
        &["accepted: 250 2.0.0 All"; 2],
    );
    sends_as(
        config().prdr(false),
        &mails,
        offers,
        &format!(
            "{}
        S: 250 All",
            start.replace(" PRDR", "")
        ),
        &["accepted: 250 2.0.0 All"; 2],
    );
}

#[test]
fn a_message_that_cannot_be_sent_costs_not_a_byte() {
    let mails = [
        mail_with("a@b", "BODY=BINARYMIME", &["c@d"]),
        mail_with("a@b", "SMTPUTF8", &["c@d"]),
        mail(&["c@d", "e@f"]).size(11),
        mail(&["\u{e5}@d"]),
    ];
    sends(
        &mails,
        &["PIPELINING", "SIZE 10"],
        "",
        &[
            "unsupported: does not support BINARYMIME",
            "unsupported: does not support SMTPUTF8",
            "unsupported: accepts at most 10 bytes",
            "unsupported: accepts at most 10 bytes",
            "unsupported: does not support SMTPUTF8",
        ],
    );
}

#[test]
fn only_the_recipients_that_can_be_sent_to_are() {
    sends(
        &[mail(&["\u{e5}@d", "c@d NOTIFY=NEVER", "\u{e5}@f"]).size(4)],
        &["PIPELINING", "SIZE 10"],
        "
        C: MAIL FROM:<a@b> SIZE=4
        C: RCPT TO:<c@d>
        C: DATA
        S: 250 Ok
        S: 250 Ok
        S: 354 Go
        C: hi
        C: .
        S: 250 Queued",
        &[
            "unsupported: does not support SMTPUTF8",
            "accepted: 250 2.0.0 Queued",
            "unsupported: does not support SMTPUTF8",
        ],
    );
}

/// A server that takes a bare LF for a line end would run the rest as commands.
#[test]
fn a_message_with_a_bare_newline_is_not_sent_by_data() {
    let start = "
        S: 220 mx.example
        C: EHLO me.example
        S: 250-mx.example
        S: 250 PIPELINING
        C: MAIL FROM:<a@b>
        C: RCPT TO:<c@d>
        C: DATA
        S: 250 Ok
        S: 250 Ok
        S: 354 Go
    ";
    let unsafe_body = "unsupported: has no safe way to receive a bare CR or LF";
    for body in [
        &b"a\n.\r\nMAIL FROM:<x@y>\r\n"[..],
        b"a\n.\nx",
        b"\n",
        b"\r",
        b"a\r.\r\n",
    ] {
        expect(
            config(),
            &[mail(&["c@d"]).body(body)],
            start,
            &[unsafe_body],
            "aborted",
        );
    }
    let normalized = config().bare_newline(BareNewline::Normalize);
    expect(
        normalized,
        &[mail(&["c@d"]).body(b"a\n.\nb\r")],
        &format!(
            "{start}
        C: a
        C: ..
        C: b
        C: .
        S: 250 Queued
        C: QUIT
        S: 221 Bye"
        ),
        &["accepted: 250 2.0.0 Queued"],
        "quit",
    );
    let passed = config().bare_newline(BareNewline::PassThrough);
    expect(
        passed,
        &[mail(&["c@d"]).body(b"a\n.\nb\r\n")],
        &format!(
            "{start}
        C| a\\n.\\nb\\r\\n.\\r\\n
        S: 250 Queued
        C: QUIT
        S: 221 Bye"
        ),
        &["accepted: 250 2.0.0 Queued"],
        "quit",
    );
}

#[test]
fn a_message_in_chunks_can_be_taken_back() {
    sends(
        &[mail(&["c@d"]).aborted(b"12345678901"), mail(&["e@f"])],
        CHUNKING,
        "
        C: MAIL FROM:<a@b>
        C: RCPT TO:<c@d>
        S: 250 Ok
        S: 250 Ok
        C: RSET
        C: MAIL FROM:<a@b>
        C: RCPT TO:<e@f>
        S: 250 Ok
        S: 250 Ok
        S: 550 Who?",
        &["failed: aborted", "refused at RCPT: 550 5.0.0 Who?"],
    );
}

#[test]
fn a_transaction_without_recipients_sends_nothing() {
    sends(&[mail(&[]), mail(&[])], PIPELINING, "", &[]);
}
