use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use futures_core::Stream;

use super::{
    Body, BodyError,
    beginning::{Beginning, Begins, MAILBOX_FIELD},
};

/// The stream of [`Body::prepend_header`].
pub(super) struct PrependHeader {
    /// Taken once it is known how they end.
    fields: Option<Bytes>,
    /// Decides that.
    beginning: Beginning,
    /// What has arrived without deciding it. Never more than two lines.
    undecided: BytesMut,
    body: Body,
}

impl PrependHeader {
    /// There is at least one field.
    pub(super) fn new(body: Body, mut fields: Bytes) -> Self {
        if !fields.ends_with(b"\r\n") {
            fields = joined(fields, Bytes::from_static(b"\r\n"));
        }
        Self {
            fields: Some(fields),
            beginning: Beginning::default(),
            undecided: BytesMut::new(),
            body,
        }
    }

    /// Returns how the message begins, which decides how it may follow header fields. What was looked at is back in the body
    /// then.
    fn poll_beginning(&mut self, cx: &mut Context<'_>) -> Poll<Result<Begins, BodyError>> {
        loop {
            let Some(chunk) = ready!(self.body.poll_chunk(cx)).transpose()? else {
                let seen = self.undecided.split().freeze();
                // RFC 5322 section 3.5: a message without a body needs no empty line.
                let begins = match seen.is_empty() {
                    true => Begins::Header,
                    false => Begins::Text,
                };
                self.body.put_back(seen);
                return Poll::Ready(Ok(begins));
            };
            if let Some(known) = self.beginning.look(&chunk) {
                self.body.put_back(chunk);
                self.body.put_back(self.undecided.split().freeze());
                return Poll::Ready(Ok(known));
            }
            self.undecided.extend_from_slice(&chunk);
        }
    }
}

impl Stream for PrependHeader {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.fields.is_some() {
            let begins = ready!(this.poll_beginning(cx));
            let fields = this.fields.take().unwrap_or_default();
            let before = |link| Ok(joined(fields, Bytes::from_static(link)));
            return Poll::Ready(Some(match begins {
                Ok(Begins::Header) => before(b""),
                Ok(Begins::MailboxLine) => before(MAILBOX_FIELD),
                Ok(Begins::Text) => before(b"\r\n"),
                // Nothing follows an error, and not what is undecided either.
                Err(error) => Err(error),
            }));
        }
        this.body.poll_chunk(cx)
    }
}

fn joined(first: Bytes, second: Bytes) -> Bytes {
    match (first.is_empty(), second.is_empty()) {
        (true, _) => second,
        (_, true) => first,
        _ => [first, second].concat().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::{beginning::LONGEST_NAME, in_pieces};

    const FIELD: &str = "Received: here\r\n";

    const LINE: &str = "\r\n";
    const MAILBOX: &str = "X-Mailbox-Line: ";

    /// Messages, and what has to come between them and the fields.
    const MESSAGES: [(&[u8], &str); 32] = [
        (b"A: 1\r\n\r\nHello\r\n", ""),
        (b"A:\r\n", ""),
        (b"A : 1\r\n", ""),
        (b"A \t:1", ""),
        (b"A:", ""),
        (b">From: x\r\n", ""),
        (b"\r\nHello\r\n", ""),
        (b"\r\n", ""),
        (b"", ""),
        (b"Hello\r\n", LINE),
        (b"Hello", LINE),
        (b"A", LINE),
        (b"A ", LINE),
        (b"Hello world: it is\r\n", LINE),
        (
            b"From a@b Mon Nov 30 07:58:14 2026\r\nSubject: hi\r\n",
            MAILBOX,
        ),
        (
            b">From a@b Mon Nov 30 07:58:14 2026\r\nSubject: hi\r\n",
            MAILBOX,
        ),
        (b"A\r\n: 1\r\n", LINE),
        (b" A: 1\r\n", LINE),
        (b"\tA: 1\r\n", LINE),
        (b": 1\r\n", LINE),
        (b"\xc3\xa5: 1\r\n", LINE),
        (b"\r", LINE),
        (b"\rA: 1\r\n", LINE),
        (b"\nA: 1\r\n", LINE),
        (b"From x\r\nA : 1\r\n", MAILBOX),
        (b">>From x\ry\r\r\nA: 1\r\n", MAILBOX),
        (b"From x\r\n\r\nA: 1\r\n", LINE),
        (b"From x\r\nA\r\n", LINE),
        (b"From x\r\nFrom y\r\nA: 1\r\n", LINE),
        (b"From x\r\n", LINE),
        (b"from x\r\nA: 1\r\n", LINE),
        (b"From : x\r\n", ""),
    ];

    async fn check(message: &[u8], chunks: &[&[u8]], link: &str) {
        let expected = [FIELD.as_bytes(), link.as_bytes(), message].concat();
        let body = in_pieces(chunks.iter().copied(), Ok(()));
        let whole = body.prepend_header(FIELD).collect().await.unwrap();
        assert_eq!(whole, expected, "{chunks:?}");
    }

    #[tokio::test]
    async fn text_without_a_header_does_not_become_one_wherever_it_is_cut() {
        for (message, link) in MESSAGES {
            for first in 0..=message.len() {
                for second in first..=message.len() {
                    let (one, two) = (&message[..first], &message[first..second]);
                    check(message, &[one, two, &message[second..]], link).await;
                }
            }
            let bytes: Vec<_> = message.chunks(1).collect();
            check(message, &bytes, link).await;
        }
    }

    #[tokio::test]
    async fn several_headers_are_ended_by_one_empty_line() {
        for (message, link) in MESSAGES {
            let expected = [b"A: 1\r\nB: 2\r\n", link.as_bytes(), message].concat();
            let body = || in_pieces(message.chunks(3), Ok(()));
            let at_once = body().prepend_header("B: 2\r\n").prepend_header("A: 1\r\n");
            let around = Body::new(body().prepend_header("B: 2\r\n")).prepend_header("A: 1\r\n");
            let put_back = body()
                .prepend("")
                .prepend_header("B: 2\r\n")
                .prepend("A: 1\r\n");
            for body in [at_once, around, put_back] {
                let whole = body.prepend_header("").collect().await.unwrap();
                assert_eq!(whole, expected, "{}", message.escape_ascii());
            }
        }
    }

    #[tokio::test]
    async fn a_field_without_line_end_is_not_glued_to_the_next() {
        for field in ["B: 2", "B: 2\r", "B: 2\n", "B: 2\r\n"] {
            let body = Body::from("A: 1\r\n\r\n").prepend_header(field);
            let whole = body.collect().await.unwrap();
            let end = if field.ends_with("\r\n") { "" } else { "\r\n" };
            assert_eq!(whole, format!("{field}{end}A: 1\r\n\r\n"));
        }
    }

    #[tokio::test]
    async fn what_was_put_back_before_a_message_is_part_of_it() {
        let body = |text| in_pieces([text], Ok(())).prepend("Hel");
        let whole = body("lo\r\n")
            .prepend_header(FIELD)
            .collect()
            .await
            .unwrap();
        assert_eq!(whole, format!("{FIELD}\r\nHello\r\n"));
        let whole = body("lo: 1\r\n")
            .prepend_header(FIELD)
            .collect()
            .await
            .unwrap();
        assert_eq!(whole, format!("{FIELD}Hello: 1\r\n"));
    }

    #[tokio::test]
    async fn an_endless_first_line_is_not_kept() {
        for first in ["x", " "] {
            let (feed, body) = crate::body::incoming();
            let mut body = body.prepend_header(FIELD);
            let line = format!("A{}", first.repeat(LONGEST_NAME - 1));
            feed.push(Bytes::from(line.clone())).await;
            let fields = body.chunk().await.unwrap().unwrap();
            assert_eq!(fields, format!("{FIELD}\r\n"));
            assert_eq!(body.chunk().await.unwrap().unwrap(), line);
        }
    }

    #[tokio::test]
    async fn a_message_that_breaks_off_yields_its_error_and_nothing_after_it() {
        for (message, chunks) in [("Hello", 0), ("Hello\r\n", 2), ("A: 1\r\n", 2), ("", 0)] {
            let body = in_pieces([message], Err(BodyError::Incomplete));
            let mut body = body.prepend_header(FIELD);
            for _ in 0..chunks {
                assert!(body.chunk().await.unwrap().is_ok(), "{message}");
            }
            let error = body.chunk().await;
            assert!(
                matches!(error, Some(Err(BodyError::Incomplete))),
                "{message}"
            );
            assert!(body.chunk().await.is_none());
        }
    }
}
