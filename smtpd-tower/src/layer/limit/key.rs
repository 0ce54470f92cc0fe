use std::hash::Hash;

use smtpd_core::sasl::Identity;

use crate::{limiter::ClientKey, net::Prefixes, phase::Request, session::Session};

/// Returns the key by which a layer counts requests.
///
/// You need this trait only for bounds in generic code: [`RateLimitLayer`](crate::layer::RateLimitLayer) and
/// [`ConcurrencyLayer`](crate::layer::ConcurrencyLayer) have a constructor for each of its implementations. It is implemented by
/// [`PerIp`], [`PerIdentity`] and [`PerSession`] for every phase, and by functions of a request for one phase.
pub trait LimitKey<P> {
    /// The key: requests with equal keys count together.
    type Key: Hash;

    /// Returns the key of a request, or `None` if it is not limited.
    fn key(&self, request: &Request<P>) -> Option<Self::Key>;
}

impl<P, K, F> LimitKey<P> for F
where
    F: Fn(&Request<P>) -> Option<K>,
    K: Hash,
{
    type Key = K;

    fn key(&self, request: &Request<P>) -> Option<K> {
        self(request)
    }
}

/// Counts by the network that a client is in. Clients without an IP address are not limited.
#[derive(Clone, Copy, Debug, Default)]
pub struct PerIp {
    pub(super) prefixes: Prefixes,
}

impl<P> LimitKey<P> for PerIp {
    type Key = ClientKey;

    fn key(&self, request: &Request<P>) -> Option<ClientKey> {
        ClientKey::of_session(request.session(), self.prefixes)
    }
}

/// Counts by the identity that a client has authenticated as. Clients that have not authenticated are not limited.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct PerIdentity;

impl<P> LimitKey<P> for PerIdentity {
    type Key = Identity;

    fn key(&self, request: &Request<P>) -> Option<Identity> {
        request.session().identity().cloned()
    }
}

/// Counts by a function of the session, which fits every phase.
#[derive(Clone, Copy, Debug)]
pub struct PerSession<F>(pub(super) F);

impl<P, K, F> LimitKey<P> for PerSession<F>
where
    F: Fn(&Session) -> Option<K>,
    K: Hash,
{
    type Key = K;

    fn key(&self, request: &Request<P>) -> Option<K> {
        (self.0)(request.session())
    }
}
