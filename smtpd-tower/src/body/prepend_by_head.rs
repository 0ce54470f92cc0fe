use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_core::Stream;

use super::{
    Body, BodyError, Head,
    beginning::{Beginning, Begins},
    head::{Seen, end_of_head},
};

/// The stream of [`Body::prepend_by_head`].
pub(super) struct PrependByHead<F> {
    body: Body,
    seen: Seen,
    limit: usize,
    /// Taken once the head is there.
    make: Option<F>,
}

impl<F> PrependByHead<F> {
    pub(super) fn new(body: Body, limit: usize, make: F) -> Self {
        Self {
            body,
            seen: Seen::default(),
            limit,
            make: Some(make),
        }
    }
}

impl<F: FnOnce(&Head) -> String + Unpin> Stream for PrependByHead<F> {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        while this.make.is_some() {
            let known = this.seen.bytes().len();
            let chunk = match ready!(this.body.poll_chunk(cx)).transpose() {
                Ok(chunk) => chunk,
                Err(error) => {
                    // Nothing follows an error, neither the buffered bytes nor a clean end.
                    this.make = None;
                    this.seen = Seen::default();
                    return Poll::Ready(Some(Err(error)));
                }
            };
            let is_at_end = chunk.is_none();
            this.seen.push(chunk.unwrap_or_default());
            let seen = this.seen.bytes();
            let end = end_of_head(seen, known);
            if end.is_none() && !is_at_end && seen.len() < this.limit {
                continue;
            }
            let is_whole = is_at_end || end.is_some_and(|end| end <= this.limit);
            let bytes = std::mem::take(&mut this.seen).into_bytes();
            let end = match Beginning::default().look(&bytes) {
                Some(Begins::Text) => Some(0),
                Some(_) if is_whole => Some(end.unwrap_or(bytes.len())),
                None if is_whole => Some(0),
                _ => None,
            };
            let fields = this.make.take().zip(end).map(|(make, end)| {
                let head = Head::from(bytes.slice(..end));
                make(&head)
            });
            let body = std::mem::take(&mut this.body).prepend(bytes);
            this.body = body.prepend_header(fields.unwrap_or_default());
        }
        this.body.poll_chunk(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::in_pieces;

    fn names(head: &Head) -> String {
        let names: String = head.fields().map(|field| field.name()).collect();
        format!("X: {names}\r\n")
    }

    #[tokio::test]
    async fn wherever_a_message_is_cut_the_same_stands_before_it() {
        for (message, before) in [
            ("A: 1\r\nB: 2\r\n\r\nC: 3\r\n\r\n", "X: AB\r\n"),
            ("\r\nC: 3\r\n", "X: \r\n"),
            ("A: 1\r\n", "X: A\r\n"),
            ("", "X: \r\n"),
            ("Hello\r\nC: 3\r\n\r\n", "X: \r\n\r\n"),
            ("From a@b\r\nC: 3\r\n\r\n", "X: C\r\nX-Mailbox-Line: "),
        ] {
            for cut in 0..=message.len() {
                let (first, second) = message.as_bytes().split_at(cut);
                let body = in_pieces([first, second], Ok(())).prepend_by_head(100, names);
                let whole = body.collect().await.unwrap();
                assert_eq!(whole, format!("{before}{message}"), "{cut}");
            }
        }
    }

    #[tokio::test]
    async fn a_head_beyond_the_limit_is_not_kept_and_gets_nothing() {
        let message = "A: 1\r\nB: 2\r\n\r\nHello\r\n";
        for size in 1..=message.len() {
            for (limit, before) in [(14, "X: AB\r\n"), (13, ""), (7, ""), (6, ""), (0, "")] {
                let chunks = message.as_bytes().chunks(size);
                let body = in_pieces(chunks, Ok(())).prepend_by_head(limit, names);
                let whole = body.collect().await.unwrap();
                assert_eq!(whole, format!("{before}{message}"), "{size} {limit}");
            }
        }
        let (feed, body) = crate::body::incoming();
        let mut body = body.prepend_by_head(10, names);
        feed.push("A: 1\r\nB: 2\r\n".into()).await;
        assert_eq!(body.chunk().await.unwrap().unwrap(), "A: 1\r\nB: 2\r\n");
    }

    #[tokio::test]
    async fn a_head_that_breaks_off_yields_its_error_and_nothing_after_it() {
        let body = in_pieces([b"A: 1\r\n"], Err(BodyError::Incomplete));
        let mut body = body.prepend_by_head(100, names);
        assert!(matches!(
            body.chunk().await,
            Some(Err(BodyError::Incomplete))
        ));
        assert!(body.chunk().await.is_none());
    }
}
