use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use smtpd_core::config::Protocol;
use tracing::{Level, Span, field};

use crate::{fault::quietly, net::PeerAddr, session::Session};

/// The span of a session, which the spans of its requests are within. It is closed when the session ends, also if something still
/// has the session.
#[derive(Clone)]
pub(super) struct SessionSpan(Arc<Open>);

struct Open {
    span: Mutex<Option<Span>>,
    /// Whether TLS was recorded.
    is_secured: AtomicBool,
}

/// Closes the span of a session when it is dropped.
struct CloseOnDrop(SessionSpan);

impl SessionSpan {
    /// Runs a function within the span of the session, if a subscriber enables that. The first request of a session opens it.
    pub(super) fn in_scope<T>(session: &Session, f: impl FnOnce() -> T) -> T {
        if !tracing::enabled!(Level::INFO) {
            return f();
        }
        let known = session.get::<Self>();
        let session_span = known.unwrap_or_else(|| Self::open(session));
        match session_span.current(session) {
            Some(span) => span.in_scope(f),
            None => f(),
        }
    }

    fn open(session: &Session) -> Self {
        let (client, server) = (session.client_addr(), session.local_addr());
        let protocol = match session.protocol() {
            Protocol::Lmtp => "lmtp",
            _ => "smtp",
        };
        let span = tracing::span!(
            Level::INFO,
            "smtp.session",
            smtp.session.id = session.id(),
            network.protocol.name = protocol,
            network.transport = transport(client),
            client.address = client.ip().map(field::display),
            client.port = port(client),
            server.address = server.ip().map(field::display),
            server.port = port(server),
            tls.protocol.version = field::Empty,
            tls.cipher = field::Empty,
        );
        let opened = Self(Arc::new(Open {
            span: Mutex::new(Some(span)),
            is_secured: AtomicBool::new(false),
        }));
        session.insert(opened.clone());
        session.hold(CloseOnDrop(opened.clone()));
        opened
    }

    /// Returns the span, with what has become known.
    fn current(&self, session: &Session) -> Option<Span> {
        let span = self.0.span.lock();
        let span = span.unwrap_or_else(PoisonError::into_inner).clone()?;
        if let Some(tls) = session.tls()
            && !self.0.is_secured.swap(true, Ordering::Relaxed)
        {
            let version = tls.version().as_str();
            let number = version.strip_prefix("TLSv").unwrap_or(version);
            span.record("tls.protocol.version", number);
            span.record("tls.cipher", tls.cipher());
        }
        Some(span)
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        let Self(SessionSpan(open)) = self;
        let span = open
            .span
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        quietly(|| drop(span));
    }
}

/// Returns what OpenTelemetry calls the transport.
const fn transport(peer: &PeerAddr) -> Option<&'static str> {
    match peer {
        PeerAddr::Inet(_) => Some("tcp"),
        PeerAddr::Unix(_) => Some("unix"),
        PeerAddr::Unknown => None,
    }
}

const fn port(peer: &PeerAddr) -> Option<u16> {
    match peer {
        PeerAddr::Inet(address) => Some(address.port()),
        PeerAddr::Unix(_) | PeerAddr::Unknown => None,
    }
}
