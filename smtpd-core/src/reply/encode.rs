//! The wire format of replies (RFC 5321 section 4.2.1).

use arrayvec::ArrayVec;

use super::{Code, Reply, Status};

/// How replies are written in the current state of the session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    pub(crate) status: bool,
    pub(crate) utf8: bool,
}

impl Reply {
    /// Appends the reply in its wire format.
    pub(crate) fn encode(&self, form: Form, out: &mut Vec<u8>) {
        if self.is_plain_yes() {
            // The reply to most commands is fixed, and its length is known.
            return match form.status {
                true => out.extend_from_slice(b"250 2.0.0 OK\r\n"),
                false => out.extend_from_slice(b"250 OK\r\n"),
            };
        }
        let mut head = self.head(form);
        if is_one_plain_line(&self.text) {
            // It is ASCII, which needs no second check.
            let as_it_is = Form { utf8: true, ..form };
            return put_line(&mut head, &self.text, true, as_it_is, out);
        }
        self.encode_lines(&mut head, form, out);
    }

    /// Appends a reply that is more than one plain line. A separate function keeps the common path small.
    fn encode_lines(&self, head: &mut Head, form: Form, out: &mut Vec<u8>) {
        let mut lines = self.lines().flat_map(pieces).peekable();
        let mut left = MAX_LINES;
        while let Some(line) = lines.next() {
            let last = lines.peek().is_none();
            left -= 1;
            if left == 0 && !last {
                return put_line(head, "...", true, form, out);
            }
            put_line(head, line, last, form, out);
        }
    }

    /// Returns whether this is [`Reply::OK`].
    fn is_plain_yes(&self) -> bool {
        let text = self.text.as_bytes();
        self.code == Code::OK && self.status == Status::UNDEFINED && matches!(text, b"OK")
    }

    /// Returns what every line begins with, up to its text.
    fn head(&self, form: Form) -> Head {
        let [hundreds, tens, ones] = self.code.digits();
        let mut head = Head::new();
        // RFC 2034 section 4: on every line of 2yz, 4yz and 5yz replies, but not on the greeting and on the reply to EHLO.
        if !form.status || self.code.is_intermediate() {
            head.extend([hundreds, tens, ones, b' ']);
            return head;
        }
        head.extend([hundreds, tens, ones, b' ', hundreds]);
        for number in [self.status.subject(), self.status.detail()] {
            head.push(b'.');
            push_decimal(number, &mut head);
        }
        head.push(b' ');
        head
    }
}

/// The space for a line's text: 512 octets without code, separator, status and CRLF (RFC 5321 section 4.5.3.1.5).
const LINE_TEXT: usize = 512 - "550-5.999.999 ".len() - 2;

/// The maximum number of lines of a reply. RFC 5321 has no limit, but clients have one, and some collect all lines before they
/// look at any.
const MAX_LINES: usize = 100;

/// Breaks a line of text into lines that are not too long.
fn pieces(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let (now, later) = split_at_limit(rest?);
        rest = (!later.is_empty()).then_some(later);
        Some(now)
    })
}

fn split_at_limit(line: &str) -> (&str, &str) {
    if line.len() <= LINE_TEXT {
        return (line, "");
    }
    let mut end = LINE_TEXT;
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.split_at(end)
}

/// Code, separator and status of a line, and the space before its text.
type Head = ArrayVec<u8, { "550-5.999.999 ".len() }>;

fn put_line(head: &mut Head, line: &str, last: bool, form: Form, out: &mut Vec<u8>) {
    out.reserve(head.len() + line.len() + "\r\n".len());
    head[3] = if last { b' ' } else { b'-' };
    match head.as_slice() {
        [start @ .., _] if line.is_empty() && start.len() > 3 => out.extend_from_slice(start),
        head => out.extend_from_slice(head),
    }
    if form.utf8 || line.is_ascii() {
        out.extend_from_slice(line.as_bytes());
    } else {
        // RFC 6531 section 3.7.4.2: UTF-8 in replies only to clients that requested it.
        out.extend(
            line.chars()
                .map(|c| if c.is_ascii() { c as u8 } else { b'?' }),
        );
    }
    out.extend_from_slice(b"\r\n");
}

/// Returns whether the text is sent unchanged. There is no early return, so that many bytes are checked at once.
fn is_one_plain_line(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= LINE_TEXT
        && bytes.iter().fold(true, |plain, &byte| {
            plain & (byte != b'\n') & byte.is_ascii()
        })
}

fn push_decimal(number: u16, out: &mut Head) {
    if number >= 100 {
        out.push(b'0' + (number / 100 % 10) as u8);
    }
    if number >= 10 {
        out.push(b'0' + (number / 10 % 10) as u8);
    }
    out.push(b'0' + (number % 10) as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENHANCED: Form = Form {
        status: true,
        utf8: false,
    };
    const PLAIN: Form = Form {
        status: false,
        utf8: false,
    };

    fn wire(reply: &Reply, form: Form) -> String {
        let mut out = Vec::new();
        reply.encode(form, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn replies_on_the_wire() {
        let start = Reply::fixed(Code::START_MAIL, Status::UNDEFINED, "Go ahead");
        let odd = Status::new(10, 205).unwrap();
        let cases = [
            (Reply::OK, ENHANCED, "250 2.0.0 OK\r\n"),
            (Reply::OK, PLAIN, "250 OK\r\n"),
            (
                Reply::no_such_user(),
                ENHANCED,
                "550 5.1.1 No such user\r\n",
            ),
            (
                Reply::busy(),
                ENHANCED,
                "451 4.3.2 System is busy, try again later\r\n",
            ),
            (Reply::new(Code::OK, odd, ""), ENHANCED, "250 2.10.205\r\n"),
            (start, ENHANCED, "354 Go ahead\r\n"),
            (
                Reply::multiline(Code::HELP, Status::UNDEFINED, ["one", "two"]),
                ENHANCED,
                "214-2.0.0 one\r\n214 2.0.0 two\r\n",
            ),
            (
                Reply::sender_refused().with_line("Ask\nus"),
                ENHANCED,
                "550-5.7.1 Sender address not allowed\r\n550 5.7.1 Ask us\r\n",
            ),
            (
                Reply::sender_refused().with_line("Ask").with_text("a\nb"),
                ENHANCED,
                "550 5.7.1 a b\r\n",
            ),
        ];
        for (reply, form, expected) in cases {
            assert_eq!(wire(&reply, form), expected);
        }
    }

    #[test]
    fn text_cannot_inject_a_reply_line() {
        for hostile in [
            "a\r\n250 ok",
            "a\n250 ok",
            "a\r250 ok",
            "a\0b",
            "a\u{85}b",
            "\x1b[2J",
        ] {
            for reply in [
                Reply::ok(hostile),
                Reply::multiline(Code::OK, Status::UNDEFINED, [hostile]),
                Reply::OK.with_text(hostile),
                Reply::OK.with_line(hostile),
            ] {
                let wire = wire(&reply, ENHANCED);
                let lines: Vec<_> = wire.split_terminator("\r\n").collect();
                assert_eq!(lines.len(), reply.lines().count(), "{wire:?}");
                for line in lines {
                    assert!(line.starts_with("250"), "{wire:?}");
                    assert!(!line.contains(char::is_control), "{wire:?}");
                }
            }
        }
    }

    #[test]
    fn long_text_is_broken_into_lines_of_512_octets() {
        let wire = wire(
            &Reply::rejected("é".repeat(700)),
            Form {
                status: true,
                utf8: true,
            },
        );
        let lines: Vec<_> = wire.split_inclusive("\r\n").collect();
        assert!(lines.len() > 1);
        assert!(lines.iter().all(|line| line.len() <= 512));
        let (last, first) = lines.split_last().unwrap();
        assert!(
            first.iter().all(|line| line.starts_with("554-5.7.1 "))
                && last.starts_with("554 5.7.1 ")
        );
    }

    #[test]
    fn text_of_any_length_makes_no_more_than_100_lines() {
        let lines = |count: usize| vec!["x"; count];
        let of = |count| Reply::multiline(Code::HELP, Status::UNDEFINED, lines(count));
        let exact = LINE_TEXT * MAX_LINES;
        for (reply, count, cut) in [
            (of(99), 99, false),
            (of(100), 100, false),
            (of(101), 100, true),
            (of(5000).with_line("y"), 100, true),
            (Reply::rejected("x".repeat(exact)), 100, false),
            (Reply::rejected("x".repeat(exact + 1)), 100, true),
            (Reply::rejected("é".repeat(1 << 19)), 100, true),
        ] {
            let wire = wire(&reply, ENHANCED);
            let lines: Vec<_> = wire.split_terminator("\r\n").collect();
            let (last, first) = lines.split_last().unwrap();
            assert_eq!(lines.len(), count);
            assert!(first.iter().all(|line| line.as_bytes()[3] == b'-'));
            assert_eq!(last.as_bytes()[3], b' ');
            assert_eq!(
                last.ends_with(".0 ...") || last.ends_with(".1 ..."),
                cut,
                "{last}"
            );
        }
    }

    #[test]
    fn non_ascii_text_is_masked_unless_the_client_asked_for_utf8() {
        assert_eq!(wire(&Reply::ok("é"), ENHANCED), "250 2.0.0 ?\r\n");
        assert_eq!(
            wire(
                &Reply::ok("é"),
                Form {
                    status: true,
                    utf8: true
                }
            ),
            "250 2.0.0 é\r\n"
        );
    }
}
