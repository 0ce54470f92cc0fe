//! Bytes that are counted wrongly, and memory that grows.

use smtpd_core::{Code, Connection, Reply, Status, Step};

use super::{HELLO, after, config, with};

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "more was written than there was")]
fn a_driver_that_counts_wrongly_goes_on_with_garbage() {
    let mut session = after("");
    session.send(b"NOOP\r\n");
    let now = session.now;
    match session.poll() {
        Step::Write(mut writing) => writing.wrote(100_000, now),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_reply_of_more_than_100_lines_is_cut() {
    let mut session = after(HELLO);
    session.sent();
    let long = Reply::new(Code::HELP, Status::UNDEFINED, "x".repeat(100 << 10));
    for _ in 0..2 {
        session.send(b"HELP\r\n");
        match session.poll() {
            Step::Command(_, ask) => ask.reply(long.clone()),
            other => panic!("{other:?}"),
        }
        session.feed(b"");
        // 100 lines of 512 bytes are less than the limit of the output.
        assert!(session.output.len() <= 100 * 512);
        assert!(session.output.ends_with(b"\r\n214 2.0.0 ...\r\n"));
        assert_eq!(session.codes(), [214]);
    }
}

#[test]
fn the_wire_log_grows_while_nobody_reads_its_lines() {
    let mut session = with(config().log_wire(true), "");
    session.send(&b"NOOP\r\n".repeat(900));
    let all = session.input.len();
    let mut lines = 0;
    while !session.input.is_empty() {
        match session.poll() {
            // Dropping it makes no difference: nothing happens before all lines are returned.
            Step::Line(_) => lines += 1,
            other => panic!("{other:?}"),
        }
        let commands = (all - session.input.len()) / b"NOOP\r\n".len();
        assert!(lines > 2 * (commands - 1), "{lines} of {commands} commands");
    }
}

#[test]
fn a_session_costs_much_more_than_it_did() {
    // 312 bytes before it stored the greeting, the envelope and what every limit counts.
    let size = size_of::<Connection>() + size_of::<smtpd_core::connection::Helo>();
    assert!(size <= 312 + 96, "{size} bytes");
}
