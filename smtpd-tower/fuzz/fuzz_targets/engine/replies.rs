//! What the server has written, as its client reads it.

/// The longest line of a reply, with its line break (RFC 5321 section 4.5.3.1.5).
const LONGEST: usize = 512;

/// What is known of the replies of a session.
#[derive(Debug, Default)]
pub struct Replies {
    /// The number of the data service's call for each message that was answered with a positive reply.
    pub taken: Vec<usize>,
    /// The code of the last complete reply.
    pub last_code: Option<u16>,
    /// A reply has begun and not ended.
    pub breaks_off: bool,
}

impl Replies {
    /// # Panics
    ///
    /// Where a reply is not well-formed.
    pub fn read(written: &[u8]) -> Self {
        let mut replies = Self::default();
        let mut open: Option<u16> = None;
        let mut rest = written;
        while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
            let (line, after) = rest.split_at(end);
            rest = &after[2..];
            let (code, last) = parse(line);
            assert!(
                open.is_none_or(|open| open == code),
                "two codes in one reply: {:?}",
                line.escape_ascii().to_string()
            );
            open = (!last).then_some(code);
            if last {
                replies.last_code = Some(code);
                replies.taken.extend(taken(line));
            }
        }
        assert!(rest.len() < LONGEST, "a line without an end");
        // Over LMTP each recipient has a reply (RFC 2033 section 4.2).
        replies.taken.dedup();
        replies.breaks_off = open.is_some() || !rest.is_empty();
        replies
    }
}

/// The code of a line, and whether it is the last of its reply.
fn parse(line: &[u8]) -> (u16, bool) {
    let shown = || line.escape_ascii().to_string();
    assert!(line.len() + 2 <= LONGEST, "too long: {}", shown());
    let printable = |byte: &u8| *byte >= b' ' && *byte != 0x7f;
    assert!(line.iter().all(printable), "not printable: {}", shown());
    let code = line
        .get(..3)
        .and_then(|code| std::str::from_utf8(code).ok())
        .and_then(|code| code.parse().ok())
        .filter(|code| (200..600).contains(code));
    let Some(code) = code else {
        panic!("no code: {}", shown());
    };
    match line.get(3) {
        None | Some(b' ') => (code, true),
        Some(b'-') => (code, false),
        _ => panic!("no separator: {}", shown()),
    }
}

/// The number of the call that has taken a message.
fn taken(line: &[u8]) -> Option<usize> {
    let text = line.strip_prefix(b"250 ")?;
    let text = text.strip_prefix(b"2.0.0 ").unwrap_or(text);
    let number = text.strip_prefix(b"Taken ")?.strip_suffix(b".")?;
    std::str::from_utf8(number).ok()?.parse().ok()
}
