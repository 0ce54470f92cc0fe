//! The facts about a client behind a proxy: from the PROXY protocol, XCLIENT and XFORWARD.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use smtpd_core::{
    connection::Greeting,
    proxied::{Attribute, Forwarded, XClient},
};

use super::{Facts, Session};
#[cfg(feature = "proxy")]
use crate::proxy::ProxyInfo;
use crate::{
    net::PeerAddr,
    session::{ReverseName, TlsInfo},
};

/// A client with an unknown address must not count as the proxy or as this machine, nor evade a limit by address.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Only sessions through a proxy have it.
#[derive(Clone, Debug)]
pub(super) struct Proxied {
    /// The other end of the socket.
    peer_addr: PeerAddr,
    /// This end of the socket.
    listener_addr: PeerAddr,
    #[cfg(feature = "proxy")]
    proxy: Option<ProxyInfo>,
    xclient: Option<XClient>,
    forwarded: Option<Forwarded>,
}

impl Session {
    /// Returns the address of the other end of the socket.
    ///
    /// This is the proxy's address if a PROXY header or XCLIENT has named the client, otherwise the same as
    /// [`client_addr`](Self::client_addr).
    pub fn peer_addr(&self) -> &PeerAddr {
        match &self.facts.proxied {
            Some(proxied) => &proxied.peer_addr,
            None => self.client_addr(),
        }
    }

    /// Returns the address at which this server has accepted the connection. Behind a trusted proxy, it is the listener's,
    /// whatever a PROXY header or XCLIENT says; [`local_addr`](Self::local_addr) is the address that the client has connected to.
    ///
    /// This is the address that the listener is bound to or, if that is the unspecified one (`0.0.0.0` or `::`), the
    /// connection's own. Use it to tell the listeners of a server apart: a client can influence what a proxy says, but not this.
    ///
    /// ```
    /// use smtpd_tower::{Session, net::PeerAddr};
    ///
    /// let session = Session::local().with_listener_addr(([192, 0, 2, 25], 25));
    /// let session = session.with_xclient("DESTADDR=198.51.100.7".parse()?);
    /// assert_eq!(session.local_addr().to_string(), "198.51.100.7:0");
    /// assert_eq!(*session.listener_addr(), PeerAddr::from(([192, 0, 2, 25], 25)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn listener_addr(&self) -> &PeerAddr {
        match &self.facts.proxied {
            Some(proxied) => &proxied.listener_addr,
            None => self.local_addr(),
        }
    }

    /// Returns the PROXY header with which the connection began.
    #[cfg(feature = "proxy")]
    pub fn proxy(&self) -> Option<&ProxyInfo> {
        self.facts.proxied.as_ref()?.proxy.as_ref()
    }

    /// Returns what a trusted proxy has said about the client by XCLIENT.
    pub fn xclient(&self) -> Option<&XClient> {
        self.facts.proxied.as_ref()?.xclient.as_ref()
    }

    /// Returns where the message of this transaction, or the next one, came from before it reached the proxy, as given by
    /// XFORWARD. For logs only: [`client_addr`](Self::client_addr) is the proxy.
    pub fn forwarded(&self) -> Option<&Forwarded> {
        self.facts.proxied.as_ref()?.forwarded.as_ref()
    }

    /// Sets where the server has accepted the connection, for tests: [`listener_addr`](Self::listener_addr), and
    /// [`local_addr`](Self::local_addr) unless a PROXY header or XCLIENT has been applied.
    #[must_use]
    pub fn with_listener_addr(mut self, address: impl Into<PeerAddr>) -> Self {
        let address = address.into();
        self.update(|facts| match &mut facts.proxied {
            Some(proxied) => proxied.listener_addr = address,
            None => facts.local = address,
        });
        self
    }

    /// Applies this PROXY header to the session, for tests.
    #[cfg(feature = "proxy")]
    #[must_use]
    pub fn with_proxy(mut self, info: ProxyInfo) -> Self {
        self.proxied(info);
        self
    }

    /// Applies this XCLIENT to the session, for tests.
    #[must_use]
    pub fn with_xclient(mut self, client: XClient) -> Self {
        self.impersonated(client);
        self
    }

    /// Applies this XFORWARD to the session, for tests.
    #[must_use]
    pub fn with_forwarded(mut self, forwarded: Forwarded) -> Self {
        self.forward(Some(forwarded));
        self
    }

    /// Applies a PROXY header that has arrived.
    #[cfg(feature = "proxy")]
    pub(crate) fn proxied(&mut self, info: ProxyInfo) {
        self.update(|facts| {
            let proxied = facts.proxied_mut();
            let (source, destination) = (info.source(), info.destination());
            let is_local = info.is_local();
            proxied.proxy = Some(info);
            if !is_local {
                let nobody = SocketAddr::new(NOBODY, 0);
                facts.client = source.unwrap_or(nobody).into();
            }
            if let Some(destination) = destination {
                facts.local = destination.into();
            }
        });
    }

    /// Starts the session anew for the client that XCLIENT names. Nothing kept for the previous client carries over.
    pub(crate) fn impersonated(&mut self, client: XClient) {
        self.end();
        let name = known(client.name()).and_then(|name| ReverseName::new(name.as_str()));
        self.update(|facts| {
            facts.state = Arc::default();
            facts.transaction = Arc::default();
            facts.impersonate(client);
        });
        if let Some(name) = name {
            // Postfix sends a name only if it leads back to the address; otherwise it sends [UNAVAILABLE] or [TEMPUNAVAIL].
            self.insert(name.with_confirmed(true));
        }
    }

    /// Applies an XFORWARD, or clears it when its transaction has ended.
    pub(crate) fn forward(&mut self, forwarded: Option<Forwarded>) {
        if forwarded.is_some() || self.forwarded().is_some() {
            self.update(|facts| facts.proxied_mut().forwarded = forwarded);
        }
    }
}

impl Facts {
    fn proxied_mut(&mut self) -> &mut Proxied {
        let (peer, local) = (&self.client, &self.local);
        self.proxied.get_or_insert_with(|| {
            Box::new(Proxied {
                peer_addr: peer.clone(),
                listener_addr: local.clone(),
                #[cfg(feature = "proxy")]
                proxy: None,
                xclient: None,
                forwarded: None,
            })
        })
    }

    fn impersonate(&mut self, client: XClient) {
        self.proxied_mut();
        self.client = address(&self.client, client.addr(), client.port());
        self.local = address(&self.local, client.dest_addr(), client.dest_port());
        let greeting = client.protocol().unwrap_or(Greeting::Helo);
        self.helo = known(client.helo()).map(|name| (name.clone(), greeting));
        self.identity = known(client.login()).cloned();
        // The handshake has shown the peer's certificate, not the client's.
        self.tls = self.tls.take().map(TlsInfo::without_peer_certificates);
        self.proxied_mut().xclient = Some(client);
    }
}

/// Returns the address that XCLIENT makes of this one. A port alone applies to the current address.
fn address(
    before: &PeerAddr,
    addr: Option<&Attribute<IpAddr>>,
    port: Option<&Attribute<u16>>,
) -> PeerAddr {
    let port = known(port).copied();
    match (addr, before) {
        (Some(addr), _) => {
            let ip = addr.known().copied().unwrap_or(NOBODY);
            SocketAddr::new(ip, port.unwrap_or(0)).into()
        }
        (None, PeerAddr::Inet(before)) => {
            SocketAddr::new(before.ip(), port.unwrap_or_else(|| before.port())).into()
        }
        (None, _) => before.clone(),
    }
}

fn known<T>(attribute: Option<&Attribute<T>>) -> Option<&T> {
    attribute.and_then(Attribute::known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xclient(attributes: &str) -> Session {
        Session::local().with_xclient(attributes.parse().unwrap())
    }

    #[test]
    fn the_certificate_of_a_proxy_is_not_that_of_its_client() {
        let tls = TlsInfo::new(crate::session::TlsVersion::Tls13, "TLS_AES_128_GCM_SHA256");
        let tls = tls.with_peer_certificates([bytes::Bytes::from_static(b"the proxy's")]);
        let session = Session::local().with_tls(tls);
        assert_eq!(session.tls().unwrap().peer_certificates().len(), 1);
        let session = session.with_xclient("ADDR=192.0.2.1".parse().unwrap());
        let tls = session.tls().expect("the connection is encrypted");
        assert!(tls.peer_certificates().is_empty());
    }

    #[test]
    fn the_client_counts_and_the_proxy_stays_visible() {
        for (attributes, peer, local) in [
            ("ADDR=192.0.2.1", "192.0.2.1:0", "127.0.0.1:25"),
            ("ADDR=192.0.2.1 PORT=7", "192.0.2.1:7", "127.0.0.1:25"),
            ("ADDR=IPV6:2001:db8::1", "[2001:db8::1]:0", "127.0.0.1:25"),
            ("PORT=7", "127.0.0.1:7", "127.0.0.1:25"),
            (
                "DESTADDR=192.0.2.9 DESTPORT=26",
                "127.0.0.1:0",
                "192.0.2.9:26",
            ),
            ("HELO=a.test", "127.0.0.1:0", "127.0.0.1:25"),
            (
                "ADDR=[UNAVAILABLE] PORT=[UNAVAILABLE]",
                "0.0.0.0:0",
                "127.0.0.1:25",
            ),
        ] {
            let session = xclient(attributes);
            assert_eq!(session.client_addr().to_string(), peer, "{attributes}");
            assert_eq!(session.local_addr().to_string(), local, "{attributes}");
            assert_eq!(session.peer_addr().to_string(), "127.0.0.1:0");
            assert_eq!(session.listener_addr().to_string(), "127.0.0.1:25");
            assert_eq!(session.xclient(), attributes.parse().ok().as_ref());
        }
    }

    #[test]
    fn a_client_whose_address_is_not_known_is_not_of_this_machine() {
        let session = xclient("ADDR=[UNAVAILABLE]");
        assert!(!session.client_addr().is_local() && session.client_addr().ip().is_some());
    }

    #[test]
    fn nothing_of_the_proxy_is_left_to_its_client() {
        let session = Session::local().with_identity("proxy");
        session.insert(7_u8);
        let client = session.with_xclient(
            "NAME=mx.test. HELO=a.test PROTO=ESMTP LOGIN=alice"
                .parse()
                .unwrap(),
        );
        assert_eq!(client.get::<u8>(), None);
        let name = ReverseName::new("mx.test").map(|name| name.with_confirmed(true));
        assert_eq!(client.get::<ReverseName>(), name);
        assert_eq!(client.identity().map(|i| i.as_str()), Some("alice"));
        assert_eq!(client.greeting(), Some(Greeting::Ehlo));
        let next = client.with_xclient("ADDR=192.0.2.1".parse().unwrap());
        assert_eq!(
            (next.identity(), next.helo(), next.get::<ReverseName>()),
            (None, None, None)
        );
    }

    #[cfg(feature = "proxy")]
    #[test]
    fn a_header_without_a_client_gives_nobody_the_address_of_the_proxy() {
        let through =
            |header: &[u8]| Session::local().with_proxy(ProxyInfo::parse(header).unwrap());
        let unix = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x31\x00\xd8"[..], &[0; 216]].concat();
        for header in [
            &b"PROXY UNKNOWN\r\n"[..],
            b"PROXY UNKNOWN 192.0.2.1 192.0.2.9 1 2\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x00\x00\x00",
            &unix,
        ] {
            let unknown = through(header);
            assert_eq!(unknown.client_addr().to_string(), "0.0.0.0:0");
            assert!(!unknown.client_addr().is_local());
            assert_eq!(unknown.peer_addr(), Session::local().client_addr());
            assert_eq!(unknown.local_addr(), Session::local().local_addr());
            assert!(
                unknown
                    .proxy()
                    .is_some_and(|proxy| proxy.source().is_none() && !proxy.is_local())
            );
        }
        let itself = through(b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00");
        assert_eq!(itself.client_addr(), Session::local().client_addr());
        assert!(itself.proxy().is_some_and(ProxyInfo::is_local));
        let named = through(b"PROXY TCP4 192.0.2.1 192.0.2.9 4711 25\r\n");
        assert_eq!(named.client_addr().to_string(), "192.0.2.1:4711");
        assert_eq!(named.local_addr().to_string(), "192.0.2.9:25");
        assert_eq!(named.peer_addr(), Session::local().client_addr());
    }

    #[test]
    fn nothing_that_a_proxy_says_moves_the_listener() {
        let addresses = [
            "192.0.2.25:25",
            "[::ffff:192.0.2.25]:25",
            "[2001:db8::25]:25",
        ];
        let bound = addresses.map(|addr| PeerAddr::from(addr.parse::<SocketAddr>().unwrap()));
        for bound in bound
            .into_iter()
            .chain([PeerAddr::unix(Some("/run/smtp")), PeerAddr::Unknown])
        {
            let session = Session::local().with_listener_addr(bound.clone());
            assert_eq!(
                (session.listener_addr(), session.local_addr()),
                (&bound, &bound)
            );
            #[cfg(feature = "proxy")]
            let session = {
                let header = b"PROXY TCP4 203.0.113.9 203.0.113.5 4711 25\r\n";
                session.with_proxy(ProxyInfo::parse(header).unwrap())
            };
            let session = session.with_forwarded("ADDR=192.0.2.7".parse().unwrap());
            assert_eq!(*session.listener_addr(), bound);
            for attributes in ["ADDR=192.0.2.1", "DESTADDR=203.0.113.6 DESTPORT=587"] {
                let session = session.clone().with_xclient(attributes.parse().unwrap());
                assert_eq!(*session.listener_addr(), bound, "{attributes}");
            }
            let session = session.with_listener_addr(([192, 0, 2, 26], 26));
            assert_eq!(session.listener_addr().to_string(), "192.0.2.26:26");
        }
    }
}
