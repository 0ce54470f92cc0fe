use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_core::Stream;
use sync_wrapper::SyncWrapper;
use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};

use super::task::Ledger;
use crate::{
    body::{Body, BodyError, SinkFailure},
    router::probed_broadcast,
};

/// What the service puts before the message, depending on its head.
pub(super) const BEFORE: &str = "B: 2\r\n";

/// The path from the engine to the readers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Incoming,
    Inspect,
    PrependByHead,
    PrependHeader,
    Head,
    BodyReader,
    #[cfg(feature = "spool")]
    Spool,
    Tee,
    Broadcast {
        readers: usize,
        ahead: usize,
    },
}

pub(super) fn bodies(kind: Kind, body: Body, ledger: &Arc<Ledger>) -> Vec<Body> {
    match kind {
        Kind::Incoming => vec![body],
        Kind::Inspect => vec![body.inspect(|_| ())],
        Kind::PrependByHead => vec![body.prepend_by_head(100, |head| {
            assert!(head.field("A").is_some());
            BEFORE.to_owned()
        })],
        Kind::PrependHeader => vec![body.prepend_header(BEFORE)],
        Kind::Head => {
            let head = Box::pin(SyncWrapper::new(body.head(100)));
            let (mut head, mut rest) = (Some(head), None);
            vec![polled(move |cx| {
                if let Some(reading) = &mut head {
                    let read = ready!(reading.as_mut().get_pin_mut().poll(cx));
                    head = None;
                    let (head, body) = match read {
                        Ok(read) => read,
                        Err(error) => return Poll::Ready(Some(Err(error))),
                    };
                    rest = Some(head.into_body(body));
                }
                rest.as_mut()
                    .map_or(Poll::Ready(None), |body| body.poll_chunk(cx))
            })]
        }
        Kind::BodyReader => {
            let mut reader = body.into_reader();
            let mut failed = false;
            vec![polled(move |cx| {
                if failed {
                    return Poll::Ready(None);
                }
                let read = ready!(Pin::new(&mut reader).poll_fill_buf(cx));
                let read = read.map(Bytes::copy_from_slice).map_err(BodyError::from);
                failed = read.is_err();
                Pin::new(&mut reader).consume(read.as_ref().map_or(0, Bytes::len));
                Poll::Ready(Some(read).filter(|read| !matches!(read, Ok(read) if read.is_empty())))
            })]
        }
        #[cfg(feature = "spool")]
        Kind::Spool => {
            let mut spooling = Some(body.spool(1000));
            let mut spooled = None;
            vec![polled(move |cx| {
                if let Some(reading) = &mut spooling {
                    let read = ready!(Pin::new(reading).poll(cx));
                    spooling = None;
                    match read {
                        Ok(read) => spooled = Some(read.body()),
                        Err(error) => return Poll::Ready(Some(Err(error))),
                    }
                }
                let spooled: Option<&mut Body> = spooled.as_mut();
                spooled.map_or(Poll::Ready(None), |body| body.poll_chunk(cx))
            })]
        }
        Kind::Tee => {
            let (sink, mut copy) = tokio::io::duplex(3);
            let copy = polled(move |cx| {
                let mut buffer = [0; 2];
                let mut buffer = ReadBuf::new(&mut buffer);
                let read = ready!(Pin::new(&mut copy).poll_read(cx, &mut buffer));
                assert!(read.is_ok());
                let read = Bytes::copy_from_slice(buffer.filled());
                Poll::Ready(Some(Ok(read)).filter(|_| !buffer.filled().is_empty()))
            });
            vec![body.tee(sink, SinkFailure::GiveUp), copy]
        }
        Kind::Broadcast { readers, ahead } => {
            let (bodies, locked) = probed_broadcast(body, readers, ahead);
            ledger.probes.lock().unwrap().push(Box::new(locked));
            bodies
        }
    }
}

pub(super) fn polled<F>(poll: F) -> Body
where
    F: FnMut(&mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> + Send + Unpin + 'static,
{
    struct Polled<F>(F);

    impl<F> Stream for Polled<F>
    where
        F: FnMut(&mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> + Unpin,
    {
        type Item = Result<Bytes, BodyError>;

        fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            (self.0)(cx)
        }
    }

    Body::new(Polled(poll))
}
