//! Who the client is, where the peer is a proxy that speaks for it.

use super::{Driver, Io};

#[cfg(feature = "proxy")]
pub(super) use self::header::ProxyHeader;

impl<IO: Io> Driver<IO> {
    /// Lets a trusted peer say for whom it speaks.
    pub(super) fn allow_claims(&mut self) {
        let peer = self.session.peer();
        let trusts = |peers: &Option<crate::net::TrustedPeers>| {
            peers.as_ref().is_some_and(|peers| peers.contains(peer))
        };
        if trusts(&self.engine.xclient_from) {
            self.connection.allow_xclient();
        }
        if trusts(&self.engine.xforward_from) {
            self.connection.allow_xforward();
        }
    }
}

#[cfg(feature = "proxy")]
mod header {
    use std::{
        io,
        pin::Pin,
        task::{Context, Poll, ready},
        time::Duration,
    };

    use tokio::time::Instant;

    use super::super::{
        Driver, Io, Work,
        close::later,
        step::Next,
        stream::Stream,
        wait::{Wait, Want},
    };
    use crate::{
        proxy::ProxyInfo,
        session::{EndReason, SessionError},
    };

    type Reading<IO> = Pin<Box<dyn Future<Output = (Stream<IO>, io::Result<ProxyInfo>)> + Send>>;

    /// A PROXY header that is awaited.
    pub(in super::super) struct ProxyHeader<IO> {
        reading: Reading<IO>,
        limit: Duration,
        /// When it has to be there, once it is waited for.
        until: Option<Instant>,
        /// It did not come, or is none.
        failed: Option<io::Error>,
    }

    impl<IO: Io> Driver<IO> {
        /// Whether the peer is a proxy that has to begin with a header.
        pub(in super::super) fn expects_proxy(&self) -> bool {
            let proxy = self.engine.proxy.as_ref();
            proxy.is_some_and(|proxy| proxy.trusts(self.session.peer()))
        }

        pub(in super::super) fn read_proxy_header(&mut self) {
            let Some(proxy) = self.engine.proxy.clone() else {
                return;
            };
            let limit = proxy.limit();
            let mut stream = self.wire.stream.take();
            let reading = Box::pin(async move {
                let header = proxy.read_header(&mut stream).await;
                (stream, header)
            });
            self.work = Some(Work::ProxyHeader(Box::new(ProxyHeader {
                reading,
                limit,
                until: None,
                failed: None,
            })));
        }

        /// What to wait for while the session has not begun, because a header is missing.
        pub(in super::super) fn awaits_proxy_header(
            &mut self,
            cx: &mut Context<'_>,
        ) -> Option<Next> {
            let Some(Work::ProxyHeader(header)) = &mut self.work else {
                return None;
            };
            let limit = header.limit;
            let until = *header
                .until
                .get_or_insert_with(|| later(Instant::now(), limit));
            let unread = header.failed.is_none() && until <= self.pace.now();
            if unread && self.poll_proxy_header(cx).is_ready() {
                // What has come is looked at before the time is.
                return Some(Next::Again);
            }
            let Some(Work::ProxyHeader(header)) = &mut self.work else {
                return None;
            };
            let late = || Some(io::Error::from(io::ErrorKind::TimedOut));
            let failed = header.failed.take();
            if let Some(error) = failed.or_else(|| (until <= self.pace.now()).then(late).flatten())
            {
                self.report(SessionError::Proxy(error));
                self.work = None;
                return Some(Next::End(EndReason::ProxyFailed));
            }
            Some(Next::Wait(Wait {
                want: Want::Answer,
                until,
            }))
        }

        pub(in super::super) fn poll_proxy_header(&mut self, cx: &mut Context<'_>) -> Poll<()> {
            let Some(Work::ProxyHeader(header)) = &mut self.work else {
                return Poll::Pending;
            };
            if header.failed.is_some() {
                return Poll::Ready(());
            }
            let (stream, result) = ready!(header.reading.as_mut().poll(cx));
            match result {
                Ok(info) => {
                    self.work = None;
                    self.wire.stream = stream;
                    self.session.proxied(info);
                    self.allow_claims();
                }
                Err(error) => header.failed = Some(error),
            }
            Poll::Ready(())
        }
    }
}
