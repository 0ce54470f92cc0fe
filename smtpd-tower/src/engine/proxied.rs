//! The header of a proxy that names its client.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::Instant;

use super::stream::{Io, Stream};
use crate::{
    lifetime::later,
    proxy::{ProxyInfo, ProxyProtocol},
};

type Reading<IO> = Pin<Box<dyn Future<Output = (Stream<IO>, io::Result<ProxyInfo>)> + Send>>;

/// A PROXY header that is awaited.
pub(super) struct ProxyHeader<IO> {
    reading: Reading<IO>,
    limit: Duration,
    /// Its deadline, once it is waited for.
    until: Option<Instant>,
    /// It did not arrive, or is invalid.
    failed: Option<io::Error>,
}

impl<IO: Io> ProxyHeader<IO> {
    pub(super) fn read(proxy: ProxyProtocol, mut stream: Stream<IO>) -> Self {
        Self {
            limit: proxy.limit(),
            reading: Box::pin(async move {
                let header = proxy.read_header(&mut stream).await;
                (stream, header)
            }),
            until: None,
            failed: None,
        }
    }

    /// Returns its deadline. The time starts with the first call.
    pub(super) fn until(&mut self) -> Instant {
        let limit = self.limit;
        *self
            .until
            .get_or_insert_with(|| later(Instant::now(), limit))
    }

    /// Returns whether its time is over without a result.
    pub(super) fn is_late(&mut self, now: Instant) -> bool {
        self.until() <= now && self.failed.is_none()
    }

    /// Returns why there is no header, once that is known.
    pub(super) fn take_failure(&mut self, now: Instant) -> Option<io::Error> {
        let late = || io::Error::from(io::ErrorKind::TimedOut);
        let is_over = self.until() <= now;
        self.failed.take().or_else(|| is_over.then(late))
    }

    /// Ready when it has arrived, with the stream after it, and when it has failed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<(Stream<IO>, ProxyInfo)>> {
        if self.failed.is_some() {
            return Poll::Ready(None);
        }
        let (stream, result) = ready!(self.reading.as_mut().poll(cx));
        match result {
            Ok(info) => Poll::Ready(Some((stream, info))),
            Err(error) => {
                self.failed = Some(error);
                Poll::Ready(None)
            }
        }
    }
}
