use std::{hash::Hash, num::NonZeroU32};

use smtpd_core::sasl::Identity;

use crate::{
    addresses::canonical_user, limiter::ClientKey, net::Prefixes, phase::Request, session::Session,
};

/// Returns the key by which a layer counts requests.
///
/// You need this trait only for bounds in generic code: [`RateLimitLayer`](crate::layer::RateLimitLayer),
/// [`ConcurrencyLayer`](crate::layer::ConcurrencyLayer) and [`SessionsPerIpLayer`](crate::layer::SessionsPerIpLayer) have a
/// constructor for each of its implementations. It is implemented by [`PerIp`], [`PerIdentity`] and [`PerSession`] for every
/// phase, and by [`PerRequest`] for one.
pub trait LimitKey<P> {
    /// The key: requests with equal keys count together.
    type Key: Hash;

    /// Returns the key of a request, or `None` if it is not limited.
    fn key(&self, request: &Request<P>) -> Option<Self::Key>;

    /// Returns the key of the wider network that the client is in, and how many times the limit of one key it has. `None` if
    /// there is no such limit, which is the default.
    fn network(&self, request: &Request<P>) -> Option<(Self::Key, NonZeroU32)> {
        let _ = request;
        None
    }
}

/// Finds the key of what a layer is asked about while it runs, as by [`RateLimitLayer::usage`](crate::layer::RateLimitLayer::usage).
///
/// You need this trait only for bounds in generic code.
///
/// | the layer counts | it is asked about |
/// |---|---|
/// | [`PerIp`] | a [`ClientKey`] |
/// | [`PerIdentity`] | the name of a user, in any spelling: an [`Identity`] or text |
/// | [`PerSession`], [`PerRequest`] | a key as your function returns it |
pub trait FindKey<T> {
    /// The key: see [`LimitKey::Key`].
    type Key: Hash;

    /// Returns the key that stands for `subject`.
    fn find_key(&self, subject: T) -> Self::Key;
}

/// Counts by the network that a client is in. Clients without an IP address are not limited.
///
/// A client is an IPv4 address or an IPv6 /64. Whoever has a larger network of IPv6 has many of them, so all clients of a /48
/// together have 16 times the limit of one.
#[derive(Clone, Copy, Debug)]
pub struct PerIp {
    prefixes: Prefixes,
    network: Option<(Prefixes, NonZeroU32)>,
}

impl PerIp {
    /// How many times the limit of a client a whole network has.
    const SITE_FACTOR: NonZeroU32 = NonZeroU32::MIN.saturating_add(15);

    pub(super) const fn get_prefixes(&self) -> Prefixes {
        self.prefixes
    }

    pub(super) const fn set_prefixes(&mut self, prefixes: Prefixes) {
        self.prefixes = prefixes;
    }

    pub(super) const fn set_network(&mut self, network: Option<(Prefixes, NonZeroU32)>) {
        self.network = network;
    }
}

impl Default for PerIp {
    fn default() -> Self {
        Self {
            prefixes: Prefixes::CLIENT,
            network: Some((Prefixes::SITE, Self::SITE_FACTOR)),
        }
    }
}

impl FindKey<ClientKey> for PerIp {
    type Key = ClientKey;

    fn find_key(&self, subject: ClientKey) -> ClientKey {
        subject
    }
}

impl<P> LimitKey<P> for PerIp {
    type Key = ClientKey;

    fn key(&self, request: &Request<P>) -> Option<ClientKey> {
        ClientKey::of_session(request.session(), self.prefixes)
    }

    fn network(&self, request: &Request<P>) -> Option<(ClientKey, NonZeroU32)> {
        let (prefixes, factor) = self.network?;
        let ip = request.session().client_addr().ip()?;
        if prefixes.bits_of(ip) >= self.prefixes.bits_of(ip) {
            return None; // As for IPv4 by default.
        }
        let network = ClientKey::with_prefixes(ip, prefixes);
        // An IPv6 address may stand for one of IPv4.
        let of_client = self.prefixes.bits_of(network.network().network());
        (network.network().bits() < of_client).then_some((network, factor))
    }
}

/// Counts by the identity that a client has authenticated as. Clients that have not authenticated are not limited.
///
/// Identities that differ only in case, or in the spelling of a domain, count together: if a login accepts a name as it was
/// typed, `alice`, `Alice` and `ALICE` have one quota, not three.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct PerIdentity;

impl PerIdentity {
    /// Returns the key of an identity.
    pub(super) fn key_of(identity: &Identity) -> Identity {
        let name = canonical_user(identity);
        match name == identity.as_str() {
            true => identity.clone(), // which most are, and then nothing is allocated
            false => Identity::new(name),
        }
    }
}

impl<N: AsRef<str>> FindKey<N> for PerIdentity {
    type Key = Identity;

    fn find_key(&self, subject: N) -> Identity {
        Self::key_of(&Identity::new(subject))
    }
}

impl<P> LimitKey<P> for PerIdentity {
    type Key = Identity;

    fn key(&self, request: &Request<P>) -> Option<Identity> {
        request.session().identity().map(Self::key_of)
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

impl<K: Hash, F> FindKey<K> for PerSession<F> {
    type Key = K;

    fn find_key(&self, subject: K) -> K {
        subject
    }
}

/// Counts by a function of the request, which fits one phase.
#[derive(Clone, Copy, Debug)]
pub struct PerRequest<F>(pub(super) F);

impl<P, K, F> LimitKey<P> for PerRequest<F>
where
    F: Fn(&Request<P>) -> Option<K>,
    K: Hash,
{
    type Key = K;

    fn key(&self, request: &Request<P>) -> Option<K> {
        (self.0)(request)
    }
}

impl<K: Hash, F> FindKey<K> for PerRequest<F> {
    type Key = K;

    fn find_key(&self, subject: K) -> K {
        subject
    }
}

/// Gives a layer that counts by client the settings of [`PerIp`].
macro_rules! client_settings {
    ($layer:ty $(, $weight:ident)?) => {
        impl$(<$weight>)? $layer {
            /// Sets which addresses are the same client: those with the same first bits. Default:
            /// [`Prefixes::CLIENT`](crate::net::Prefixes::CLIENT).
            #[must_use]
            pub fn prefixes(mut self, prefixes: $crate::net::Prefixes) -> Self {
                self.key.set_prefixes(prefixes);
                self
            }

            /// Sets the limit of all clients of a wider network together: `factor` times that of one. Default: an IPv6 /48
            /// ([`Prefixes::SITE`](crate::net::Prefixes::SITE)), 16 times.
            ///
            /// Whoever has a /48 of IPv6 has 65,536 networks of /64, each of which is a client. A prefix that is as long as that
            /// of a client, as for IPv4 by default, is no limit. A network is counted as a key of its own.
            #[must_use]
            pub fn network(mut self, prefixes: $crate::net::Prefixes, factor: ::std::num::NonZeroU32) -> Self {
                self.key.set_network(Some((prefixes, factor)));
                self
            }

            /// Does not limit wider networks.
            #[must_use]
            pub fn without_network(mut self) -> Self {
                self.key.set_network(None);
                self
            }

            /// Remembers the addresses of the clients that were refused last, up to `clients` of them, for [`top`](Self::top).
            #[must_use]
            pub fn watch(self, clients: ::std::num::NonZeroUsize) -> Self {
                let prefixes = self.key.get_prefixes();
                self.watch_by(clients, move |session| {
                    let key = $crate::limiter::ClientKey::of_session(session, prefixes);
                    key.map(|key| key.to_string())
                })
            }
        }
    };
}

pub(super) use client_settings;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phase::Connect;

    #[test]
    fn a_user_has_a_quota_for_each_spelling_of_its_name() {
        let key = |name: &str| {
            let session = Session::local().with_identity(name);
            PerIdentity.key(&Request::new(session, Connect::new()))
        };
        for (one, other) in [
            ("alice", "ALICE"),
            ("alice@example.org", "Alice@Example.ORG"),
            ("zo\u{eb}@gr\u{e5}.example", "ZOE\u{308}@xn--gr-zia.example"),
        ] {
            assert_eq!(key(one), key(other), "{one} and {other}");
        }
        assert_ne!(key("alice"), key("bob"));
        assert_ne!(key("alice"), key("alice+x"));
        assert_eq!(
            PerIdentity.key(&Request::new(Session::local(), Connect::new())),
            None
        );
    }
}
