use std::task::{Context, Poll};

use smtpd_core::reply::Reply;
use tower_layer::Layer;
use tower_service::Service;

use super::{GreylistFuture, GreylistLayer, GreylistStore, MemoryGreylist};
use crate::phase::{Data, Request};

/// Greylists messages from the null sender at DATA: [`GreylistLayer::into_rcpt_and_data`].
#[derive(Debug)]
pub struct GreylistDataLayer<G = MemoryGreylist> {
    greylist: GreylistLayer<G>,
}

impl<G> GreylistDataLayer<G> {
    pub(super) const fn new(greylist: GreylistLayer<G>) -> Self {
        Self { greylist }
    }
}

// By hand: a derived Clone would require G: Clone.
impl<G> Clone for GreylistDataLayer<G> {
    fn clone(&self) -> Self {
        Self::new(self.greylist.clone())
    }
}

impl<S, G> Layer<S> for GreylistDataLayer<G> {
    type Service = GreylistData<S, G>;

    fn layer(&self, inner: S) -> GreylistData<S, G> {
        GreylistData {
            inner,
            greylist: self.greylist.clone(),
        }
    }
}

/// The service of [`GreylistDataLayer`].
#[derive(Debug)]
pub struct GreylistData<S, G = MemoryGreylist> {
    inner: S,
    greylist: GreylistLayer<G>,
}

// By hand: a derived Clone would require G: Clone.
impl<S: Clone, G> Clone for GreylistData<S, G> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            greylist: self.greylist.clone(),
        }
    }
}

impl<S, G> Service<Request<Data>> for GreylistData<S, G>
where
    S: Service<Request<Data>> + Clone,
    S::Response: From<Reply>,
    G: GreylistStore,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = GreylistFuture<G::Check, S, S::Future, Data>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Data>) -> Self::Future {
        let envelope = request.envelope().clone();
        let key = envelope.sender().is_null().then(|| {
            // RFC 6647 section 5, item 1: the first recipient is sufficient.
            let mut recipients = envelope.recipients().iter();
            recipients.find_map(|recipient| {
                let settings = &self.greylist.settings;
                settings.key(request.session(), envelope.sender(), recipient.path())
            })
        });
        self.greylist.check(&mut self.inner, request, key.flatten())
    }
}
