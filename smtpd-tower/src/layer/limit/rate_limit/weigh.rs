use smtpd_core::parameter::Size;

use crate::{
    body::ByteCount,
    phase::{Data, Request},
};

/// Returns how many events a request is for a [`RateLimitLayer`](crate::layer::RateLimitLayer).
///
/// You need this trait only for bounds in generic code: the layer has a setter for each of its implementations. It is implemented
/// by [`WeighOne`] for every phase, by [`WeighRecipients`] and [`WeighKib`] for DATA, and by functions of a request for one
/// phase.
pub trait Weigh<P> {
    /// Whether the weight of a message that is accepted is the number of recipients that it is accepted for.
    const BY_RECIPIENT: bool = false;

    /// Whether the weight of a message is known when it has arrived.
    const BY_BODY: bool = false;

    /// Returns the weight, in events. A request of weight 0 is not limited.
    fn weigh(&self, request: &Request<P>) -> u32;

    /// Counts the bytes of the message as they arrive, where [`BY_BODY`](Self::BY_BODY) is set: each started KiB is an event.
    fn watch_body(&self, request: Request<P>) -> (Request<P>, Option<ByteCount>) {
        (request, None)
    }
}

impl<P, F> Weigh<P> for F
where
    F: Fn(&Request<P>) -> u32,
{
    fn weigh(&self, request: &Request<P>) -> u32 {
        self(request)
    }
}

/// Each request is one event.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct WeighOne;

impl<P> Weigh<P> for WeighOne {
    fn weigh(&self, _: &Request<P>) -> u32 {
        1
    }
}

/// A message is as many events as it has recipients.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct WeighRecipients;

impl Weigh<Data> for WeighRecipients {
    const BY_RECIPIENT: bool = true;

    fn weigh(&self, request: &Request<Data>) -> u32 {
        u32::try_from(request.envelope().recipients().len()).unwrap_or(u32::MAX)
    }
}

/// A message is an event for each KiB.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct WeighKib;

impl WeighKib {
    /// Returns how many KiB that many bytes are, at least 1.
    pub(super) fn of(bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(1024)).map_or(u32::MAX, |kib| kib.max(1))
    }
}

impl Weigh<Data> for WeighKib {
    const BY_BODY: bool = true;

    fn weigh(&self, request: &Request<Data>) -> u32 {
        let declared = request.envelope().parameters().get::<Size>();
        Self::of(declared.map_or(0, Size::bytes))
    }

    fn watch_body(&self, request: Request<Data>) -> (Request<Data>, Option<ByteCount>) {
        let mut count = None;
        let request = request.map_body(|body| {
            let (body, bytes) = body.counted();
            count = Some(bytes);
            body
        });
        (request, count)
    }
}
