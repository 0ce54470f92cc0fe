//! What a notification returns of the message.

use crate::body::{BodyError, Spooled};

/// The longest line that a message may have, without its CRLF (RFC 5322 section 2.1.1).
const LONGEST_LINE: usize = 998;

/// A message, or its header section.
pub(super) enum Original {
    Whole(Vec<u8>),
    Headers(Vec<u8>),
}

impl Original {
    /// Reads up to `limit` bytes of a message. If it has more, or could not be a part of a text, only its header section is
    /// returned, as far as it is within the limit.
    pub(super) async fn read(
        message: &Spooled,
        whole: bool,
        limit: usize,
    ) -> Result<Self, BodyError> {
        let mut bytes = Vec::new();
        let mut body = message.body();
        while let Some(chunk) = body.chunk().await {
            bytes.extend_from_slice(&chunk?);
            if bytes.len() > limit {
                break;
            }
        }
        if whole && bytes.len() <= limit && is_text(&bytes) {
            return Ok(Self::Whole(bytes));
        }
        bytes.truncate(limit);
        Ok(Self::Headers(headers(&bytes)))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Whole(bytes) | Self::Headers(bytes) => bytes,
        }
    }

    /// Replaces what is not ASCII in a header section.
    pub(super) fn ascii_headers(&mut self) {
        if let Self::Headers(bytes) = self {
            let others = bytes.iter_mut().filter(|byte| !byte.is_ascii());
            others.for_each(|byte| *byte = b'?');
        }
    }

    /// Keeps the header section alone.
    pub(super) fn cut(self) -> Self {
        match self {
            Self::Whole(bytes) => Self::Headers(headers(&bytes)),
            headers @ Self::Headers(_) => headers,
        }
    }
}

/// Returns the header section, without the empty line at its end. Lines are cut that are too long, and no line ends without CRLF.
fn headers(bytes: &[u8]) -> Vec<u8> {
    let bytes = match memchr::memmem::find(bytes, b"\r\n\r\n") {
        Some(end) => &bytes[..end],
        None => bytes,
    };
    let mut out = Vec::with_capacity(bytes.len() + 2);
    let mut rest = bytes;
    while !rest.is_empty() && !rest.starts_with(b"\r\n") {
        let end = memchr::memmem::find(rest, b"\r\n");
        let line = &rest[..end.unwrap_or(rest.len()).min(LONGEST_LINE)];
        out.extend(line.iter().map(|byte| match byte {
            0 | b'\r' | b'\n' => b'?',
            byte => *byte,
        }));
        out.extend_from_slice(b"\r\n");
        rest = end.and_then(|end| rest.get(end + 2..)).unwrap_or_default();
    }
    out
}

/// Returns whether it has lines as a text has them.
fn is_text(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    loop {
        let end = memchr::memmem::find(rest, b"\r\n");
        let line = &rest[..end.unwrap_or(rest.len())];
        if line.len() > LONGEST_LINE || memchr::memchr3(0, b'\r', b'\n', line).is_some() {
            return false;
        }
        match end.and_then(|end| rest.get(end + 2..)) {
            Some(next) => rest = next,
            None => return true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Body;

    async fn read(message: &str, whole: bool, limit: usize) -> (bool, String) {
        let body = Body::from(message.to_owned().into_bytes());
        let spooled = body.spool(1 << 20).await.unwrap();
        let original = Original::read(&spooled, whole, limit).await.unwrap();
        let text = String::from_utf8(original.bytes().to_vec()).unwrap();
        (matches!(original, Original::Whole(_)), text)
    }

    #[tokio::test]
    async fn what_is_returned_is_a_text() {
        const MESSAGE: &str = "A: 1\r\nB: 2\r\n\r\nHello\r\n";
        let whole = (true, MESSAGE.to_owned());
        assert_eq!(read(MESSAGE, true, 100).await, whole);
        let headers = (false, "A: 1\r\nB: 2\r\n".to_owned());
        assert_eq!(read(MESSAGE, false, 100).await, headers);
        assert_eq!(read(MESSAGE, true, 20).await, headers);
        assert_eq!(
            read(MESSAGE, true, 8).await,
            (false, "A: 1\r\nB:\r\n".into())
        );
        for odd in ["\0", "\n", "\r", &"x".repeat(999)] {
            assert_eq!(read(&format!("{MESSAGE}{odd}"), true, 9999).await, headers);
            let head = read(&format!("A: {odd}\r\n\r\n"), true, 9999).await;
            assert!(!head.0 && head.1.len() <= 1000 && head.1.ends_with("\r\n"));
            assert!(!head.1.trim_end_matches("\r\n").contains(['\0', '\r', '\n']));
        }
        for without in ["", "\r\nbody\r\n"] {
            assert_eq!(read(without, false, 99).await, (false, String::new()));
        }
    }
}
