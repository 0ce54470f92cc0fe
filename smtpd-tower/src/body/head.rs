use std::{borrow::Cow, fmt};

use bytes::{Bytes, BytesMut};

use super::{Body, BodyError};
use crate::memory::Reservation;

/// Splits the header section from its body.
pub(super) async fn split(mut body: Body, limit: usize) -> Result<(Head, Body), BodyError> {
    let mut seen = Seen::default();
    let mut reserved = Reservation::empty(body.budget().clone());
    while let Some(chunk) = body.chunk().await {
        let known = seen.bytes().len();
        seen.push(chunk?);
        if let Seen::Several(bytes) = &seen {
            reserved.grow((bytes.len() as u64).saturating_sub(reserved.bytes()))?;
        }
        match end_of_head(seen.bytes(), known) {
            Some(end) if end <= limit => {
                let mut head = reserved.attach_to(seen.into_bytes());
                let rest = head.split_off(end);
                return Ok((Head::from(head), body.prepend(rest)));
            }
            None if seen.bytes().len() <= limit => {}
            _ => return Err(BodyError::HeadTooLarge),
        }
    }
    let head = reserved.attach_to(seen.into_bytes());
    Ok((Head::from(head), Body::default()))
}

/// The beginning of a message in one piece: a chunk as it came, because it usually holds the whole header section, or several
/// that had to be copied.
#[derive(Debug)]
pub(super) enum Seen {
    One(Bytes),
    Several(BytesMut),
}

impl Seen {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::One(bytes) => bytes,
            Self::Several(bytes) => bytes,
        }
    }

    pub(super) fn push(&mut self, chunk: Bytes) {
        match self {
            Self::One(bytes) if bytes.is_empty() => *bytes = chunk,
            Self::One(bytes) => {
                let mut several = BytesMut::with_capacity(bytes.len() + chunk.len());
                several.extend_from_slice(bytes);
                several.extend_from_slice(&chunk);
                *self = Self::Several(several);
            }
            Self::Several(bytes) => bytes.extend_from_slice(&chunk),
        }
    }

    pub(super) fn into_bytes(self) -> Bytes {
        match self {
            Self::One(bytes) => bytes,
            Self::Several(bytes) => bytes.freeze(),
        }
    }
}

impl Default for Seen {
    fn default() -> Self {
        Self::One(Bytes::new())
    }
}

/// Returns where the body begins. The empty line does not end within the first `known` bytes, which were searched before.
pub(super) fn end_of_head(bytes: &[u8], known: usize) -> Option<usize> {
    const END: &[u8] = b"\r\n\r\n";
    if bytes.starts_with(b"\r\n") {
        return Some(2);
    }
    let from = known.saturating_sub(END.len() - 1);
    let mut windows = bytes.get(from..)?.windows(END.len());
    let found = windows.position(|window| window == END)?;
    Some(from + found + END.len())
}

/// The header section of a message; see [`Body::head`]. Its bytes are those that arrived.
///
/// ```
/// use smtpd_tower::{Body, BodyError};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BodyError> {
/// let message =
///     "From: a@example.com\r\nSubject: a long\r\n story\r\n\r\nHello\r\n";
/// let (head, body) = Body::from(message).head(1000).await?;
/// let names: Vec<_> = head.fields().map(|field| field.name()).collect();
/// assert_eq!(names, ["From", "Subject"]);
/// assert_eq!(*head.field("SUBJECT").unwrap().unfolded(), *b"a long story");
///
/// assert_eq!(head.into_body(body).collect().await?, message);
/// # Ok(()) }
/// ```
///
/// A head can be [changed](#changing-fields) before it is put back.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Head {
    bytes: Bytes,
}

impl Head {
    /// Returns the bytes, including the empty line at the end if there is one.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Converts the head into its bytes, including the empty line at the end if there is one.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Returns the fields from top to bottom. Lines that are not a field, which a message may contain, are skipped.
    pub fn fields(&self) -> HeaderFields<'_> {
        HeaderFields { rest: &self.bytes }
    }

    /// Returns the topmost field with that name, ignoring case (RFC 5322 section 1.2.2). For repeated fields see
    /// [`fields`](Self::fields).
    pub fn field(&self, name: &str) -> Option<HeaderField<'_>> {
        self.fields().find(|field| field.is(name))
    }

    /// Puts this head back before `body`.
    pub fn into_body(self, body: Body) -> Body {
        body.prepend(self.bytes)
    }
}

impl From<Bytes> for Head {
    /// Creates a head from these bytes, which end with the empty line if there is one.
    fn from(bytes: Bytes) -> Self {
        Self { bytes }
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.fields()).finish()
    }
}

/// The fields of a [`Head`].
#[derive(Clone, Debug)]
pub struct HeaderFields<'a> {
    rest: &'a [u8],
}

impl<'a> HeaderFields<'a> {
    /// What follows the last field that was returned.
    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for HeaderFields<'a> {
    type Item = HeaderField<'a>;

    fn next(&mut self) -> Option<HeaderField<'a>> {
        while !self.rest.is_empty() && !self.rest.starts_with(b"\r\n") {
            let (raw, rest) = self.rest.split_at(end_of_field(self.rest));
            self.rest = rest;
            if let Some(field) = HeaderField::new(raw) {
                return Some(field);
            }
        }
        None
    }
}

/// Returns where the first field ends. A line that begins with white space continues the field above it (RFC 5322 section 2.2.3).
fn end_of_field(bytes: &[u8]) -> usize {
    bytes
        .windows(3)
        .position(|window| matches!(window, [b'\r', b'\n', next] if !is_blank(*next)))
        .map_or(bytes.len(), |at| at + 2)
}

const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// One field of a [`Head`].
///
/// ```
/// use smtpd_tower::{Body, BodyError};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BodyError> {
/// let (head, _) =
///     Body::from("SUBJECT: a long\r\n story\r\n\r\n").head(1000).await?;
/// let subject = head.field("Subject").unwrap();
/// assert_eq!(subject.name(), "SUBJECT");
/// assert_eq!(subject.value(), b"a long\r\n story");
/// assert_eq!(*subject.unfolded(), *b"a long story");
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HeaderField<'a> {
    raw: &'a [u8],
    name: &'a str,
    value: &'a [u8],
}

impl<'a> HeaderField<'a> {
    fn new(raw: &'a [u8]) -> Option<Self> {
        let colon = raw.iter().position(|byte| *byte == b':')?;
        let (mut name, value) = raw.split_at(colon);
        // RFC 5322 section 4.5: white space before the colon is obsolete, but valid.
        while let [before @ .., b' ' | b'\t'] = name {
            name = before;
        }
        // RFC 5322 section 2.2: printable US-ASCII.
        if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
            return None;
        }
        Some(Self {
            raw,
            name: std::str::from_utf8(name).ok()?,
            value: value.get(1..)?.trim_ascii(),
        })
    }

    /// Returns the name as it is written.
    pub const fn name(&self) -> &'a str {
        self.name
    }

    /// Returns whether the field has that name, ignoring case (RFC 5322 section 1.2.2).
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// Returns the value without the white space around it: any bytes, including the line breaks of folding.
    pub const fn value(&self) -> &'a [u8] {
        self.value
    }

    /// Returns the value on one line: the CRLF of folding is removed (RFC 5322 section 2.2.3). Encoded words are not decoded.
    pub fn unfolded(&self) -> Cow<'a, [u8]> {
        let mut line = Vec::new();
        let mut rest = self.value;
        while let Some(at) = rest.windows(2).position(|window| window == b"\r\n") {
            let (before, after) = rest.split_at(at);
            line.extend_from_slice(before);
            rest = after.get(2..).unwrap_or_default();
        }
        if rest.len() == self.value.len() {
            return rest.into();
        }
        line.extend_from_slice(rest);
        line.into()
    }

    /// Returns the whole field as it arrived: name, colon, value, and the CRLF at its end.
    pub const fn raw(&self) -> &'a [u8] {
        self.raw
    }
}

impl fmt::Debug for HeaderField<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.raw.trim_ascii_end().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::in_pieces;

    /// Each message, and the length of its head in bytes.
    const MESSAGES: [(&[u8], usize); 11] = [
        (b"A: 1\r\nB: 2\r\n\r\nbody\r\n\r\nmore", 14),
        (b"A: 1\r\n\r\n", 8),
        (b"A: 1\r\n\r\n\r\n\r\n", 8),
        (b"A: 1\r\n", 6),
        (b"A: 1\r\n\r", 7),
        (b"A: 1", 4),
        (b"\r\nbody\r\n\r\n", 2),
        (b"\r\n", 2),
        (b"", 0),
        (b"A: 1\n\nB: 2\r\r\n\r\r\n\r\nbody", 18),
        (b"A: 1\r\n \r\n\r\nbody", 11),
    ];

    async fn check(message: &[u8], head_len: usize, chunks: &[&[u8]]) {
        let cut = || in_pieces(chunks.iter().copied(), Ok(()));
        let (head, rest) = cut().head(head_len).await.unwrap();
        assert_eq!(head.as_bytes(), &message[..head_len], "{chunks:?}");
        let rest = rest.collect().await.unwrap();
        assert_eq!(rest, &message[head_len..], "{chunks:?}");
        let (head, rest) = cut().head(head_len + 1).await.unwrap();
        assert_eq!(head.into_body(rest).collect().await.unwrap(), message);
        if let Some(limit) = head_len.checked_sub(1) {
            let error = cut().head(limit).await.unwrap_err();
            assert!(matches!(error, BodyError::HeadTooLarge), "{chunks:?}");
        }
    }

    #[tokio::test]
    async fn wherever_a_message_is_cut_its_head_is_the_same() {
        for (message, head_len) in MESSAGES {
            for first in 0..=message.len() {
                for second in first..=message.len() {
                    let (one, two) = (&message[..first], &message[first..second]);
                    check(message, head_len, &[one, two, &message[second..]]).await;
                }
            }
            let bytes: Vec<_> = message.chunks(1).collect();
            check(message, head_len, &bytes).await;
        }
    }

    #[tokio::test]
    async fn the_rest_is_not_asked_for() {
        let (feed, body) = crate::body::incoming();
        feed.push("A: 1\r\n\r\nbo".into()).await;
        let (head, mut rest) = body.head(100).await.unwrap();
        assert_eq!(head.as_bytes(), b"A: 1\r\n\r\n");
        assert_eq!(rest.chunk().await.unwrap().unwrap(), "bo");
        feed.push("dy".into()).await;
        assert_eq!(rest.chunk().await.unwrap().unwrap(), "dy");
        drop(feed);
        assert!(rest.chunk().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_head_that_is_taken_off_and_put_back_is_not_copied() {
        let message = Bytes::from(b"A: 1\r\n\r\n".repeat(7_000));
        let (head, body) = Body::from(message.clone()).head(100).await.unwrap();
        assert_eq!(head.as_bytes().as_ptr(), message.as_ptr());
        let mut whole = head.into_body(body);
        let head = whole.chunk().await.unwrap().unwrap();
        let rest = whole.chunk().await.unwrap().unwrap();
        assert_eq!(head.as_ptr(), message.as_ptr());
        assert_eq!(rest.as_ptr(), message[head.len()..].as_ptr());
        assert_eq!(head.len() + rest.len(), message.len());
    }

    #[tokio::test]
    async fn a_head_that_breaks_off_is_an_error() {
        let body = in_pieces([b"A: 1\r\n"], Err(BodyError::Incomplete));
        assert!(matches!(body.head(100).await, Err(BodyError::Incomplete)));
    }

    type Fields = &'static [(&'static str, &'static [u8], &'static [u8])];

    #[test]
    fn fields_in_a_head() {
        let table: [(&str, Fields); 10] = [
            ("", &[]),
            ("\r\n", &[]),
            (
                "A: 1\r\nb:2\r\n\r\nC: 3\r\n",
                &[("A", b"1", b"1"), ("b", b"2", b"2")],
            ),
            (
                "A: 1\r\n\t2\r\n  3 \r\nB:\r\n 4\r\n",
                &[("A", b"1\r\n\t2\r\n  3", b"1\t2  3"), ("B", b"4", b"4")],
            ),
            ("A : 1\r\nB\t :2", &[("A", b"1", b"1"), ("B", b"2", b"2")]),
            ("A:\r\nB: \r\n", &[("A", b"", b""), ("B", b"", b"")]),
            ("A: b: c\r\n", &[("A", b"b: c", b"b: c")]),
            (
                // A line that is not a field neither hides the next one nor counts as one.
                "hello\r\n A: 1\r\n: 2\r\nB C: 3\r\nD\r\n : 4\r\nå: 5\r\nE: 6\r\n",
                &[("E", b"6", b"6")],
            ),
            (" A: 1\r\nB: 2\r\n", &[("B", b"2", b"2")]),
            ("A: 1\nB: 2\r\n", &[("A", b"1\nB: 2", b"1\nB: 2")]),
        ];
        for (head, expected) in table {
            let head = Head::from(Bytes::from_static(head.as_bytes()));
            let fields: Vec<_> = head.fields().collect();
            let shown: Vec<_> = fields
                .iter()
                .map(|field| (field.name(), field.value(), field.unfolded()))
                .collect();
            let expected: Vec<_> = expected
                .iter()
                .map(|(name, value, line)| (*name, *value, Cow::from(*line)))
                .collect();
            assert_eq!(shown, expected, "{head:?}");
        }
    }

    #[test]
    fn fields_are_found_by_name_in_any_case() {
        let head = Head::from(Bytes::from(
            "A: 1\r\nReceived: 2\r\n x\r\nRECEIVED: 3\r\n\r\n",
        ));
        let received = head.field("received").unwrap();
        assert_eq!(received.raw(), b"Received: 2\r\n x\r\n");
        assert_eq!(head.field("Receive"), None);
        assert_eq!(head.fields().filter(|f| f.is("Received")).count(), 2);
        assert_eq!(
            format!("{head:?}"),
            r#"["A: 1", "Received: 2\r\n x", "RECEIVED: 3"]"#
        );
    }
}
