use std::{
    num::NonZeroU32,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use smtpd_core::reply::Reply;
use tower_service::Service;

use super::{Counted, RateLimitLayer, Weigh, WeighKib, WeighOne};
use crate::{
    body::ByteCount,
    layer::{AnswerFuture, LimitKey, PerIp},
    limiter::{Reservation, Share},
    phase::Request,
    reply::{Answer, Verdict},
};

impl<F, W> RateLimitLayer<F, W> {
    /// Decides on a request. What is counted only when it is answered is pending.
    pub(super) fn admit<P>(&self, request: &Request<P>) -> Result<Option<Pending>, Reply>
    where
        F: LimitKey<P>,
        W: Weigh<P>,
    {
        let (config, session) = (&*self.config, request.session());
        if config.is_exempt(session) {
            return Ok(None);
        }
        let Some(key) = self.key.key(request) else {
            return config.without_key.clone().map_or(Ok(None), Err);
        };
        let Some(n) = NonZeroU32::new(self.weight.weigh(request)) else {
            return Ok(None);
        };
        let share = Share::at(config.rate.as_ref().and_then(|rate| rate(session)));
        let network = self.key.network(request);
        let is_counted_now = config.counted == Counted::Requests && !W::BY_BODY;
        let taken = match network {
            None if is_counted_now => config.limiter.take_any(key, share, n).map(|()| None),
            network => config
                .reserve(key, network, share, n)
                .map(|(client, network)| {
                    let by_recipient = W::BY_RECIPIENT;
                    let pending = Pending::new(client, network, config.counted, by_recipient);
                    // Dropped, it is counted.
                    (!is_counted_now).then_some(pending)
                }),
        };
        taken.map_err(|limited| config.refuse(session, limited))
    }
}

/// The service of [`RateLimitLayer`].
#[derive(Clone, Debug)]
pub struct RateLimit<S, F = PerIp, W = WeighOne> {
    inner: S,
    limit: RateLimitLayer<F, W>,
}

impl<S, F, W> RateLimit<S, F, W> {
    pub(super) const fn new(inner: S, limit: RateLimitLayer<F, W>) -> Self {
        Self { inner, limit }
    }
}

impl<S, F, W, P> Service<Request<P>> for RateLimit<S, F, W>
where
    S: Service<Request<P>, Response: Answer, Error: 'static>,
    F: LimitKey<P>,
    W: Weigh<P>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = RateLimitFuture<S::Future, S::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<P>) -> Self::Future {
        let (request, pending) = match self.limit.admit(&request) {
            Ok(None) => (request, None),
            Ok(Some(mut pending)) => {
                let (request, bytes) = self.limit.weight.watch_body(request);
                pending.bytes = bytes;
                (request, Some(Box::new(pending)))
            }
            Err(reply) => {
                return RateLimitFuture {
                    answer: AnswerFuture::answer(reply.or_origin("RateLimitLayer").into()),
                    pending: None,
                };
            }
        };
        RateLimitFuture {
            answer: AnswerFuture::inner(self.inner.call(request)),
            pending,
        }
    }
}

/// The future of [`RateLimit`]. What it has reserved is counted or given back when it completes or is dropped.
#[pin_project]
#[derive(Debug)]
pub struct RateLimitFuture<F, R> {
    #[pin]
    answer: AnswerFuture<F, R>,
    // Boxed, because it is large, and most limits have none.
    pending: Option<Box<Pending>>,
}

impl<F, R, E> Future for RateLimitFuture<F, R>
where
    F: Future<Output = Result<R, E>>,
    R: Answer,
    E: 'static,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.answer.poll(cx));
        if let Some(pending) = this.pending.take() {
            pending.answered(&result);
        }
        Poll::Ready(result)
    }
}

/// Returns whether a result is, or will be, a positive reply. The type of the error stays as it is, so that the layer fits into an
/// `option_layer`.
fn is_accepted<R: Answer, E: 'static>(result: &Result<R, E>) -> bool {
    matches!(
        Verdict::of_any(result),
        Verdict::Accepted | Verdict::Undecided
    )
}

/// The events of a request whose answer is awaited.
#[derive(Debug)]
pub(super) struct Pending {
    /// Those of the key, and of the network that its client is in. `None` when they are counted.
    client: Option<Reservation>,
    network: Option<Reservation>,
    counted: Counted,
    is_by_recipient: bool,
    bytes: Option<ByteCount>,
}

impl Pending {
    pub(super) const fn new(
        client: Reservation,
        network: Option<Reservation>,
        counted: Counted,
        is_by_recipient: bool,
    ) -> Self {
        Self {
            client: Some(client),
            network,
            counted,
            is_by_recipient,
            bytes: None,
        }
    }

    fn answered<R: Answer, E: 'static>(mut self, result: &Result<R, E>) {
        match (is_accepted(result), result) {
            (true, Ok(response)) if self.is_by_recipient => {
                let recipients = self.weight();
                let accepted = response.accepted_of(recipients as usize);
                self.count(u32::try_from(accepted).unwrap_or(recipients));
            }
            (true, _) => self.count(self.weight()),
            // Given back by `Drop`, unless all requests count.
            (false, _) => {}
        }
    }

    /// The weight of the request, as far as it is known by now.
    fn weight(&self) -> u32 {
        match &self.bytes {
            Some(bytes) => WeighKib::of(bytes.bytes()),
            None => self.client.as_ref().map_or(0, Reservation::events),
        }
    }

    fn count(&mut self, events: u32) {
        let reservations = [self.client.take(), self.network.take()];
        for reservation in reservations.into_iter().flatten() {
            reservation.commit_n(events);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.counted == Counted::Requests {
            self.count(self.weight());
        }
    }
}
