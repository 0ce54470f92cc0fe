//! HTTP for those who watch the server: whether it lives, whether it is ready, and its metrics.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use smtpd_tower::server::{Handle, Listener};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task, time,
};

use crate::metrics::Metrics;

/// How many connections there are at most. The oldest one makes room for a new one: a client that is slow keeps nobody waiting.
const MOST: usize = 32;

/// How long a connection may take, of which it may take half for the header of a request.
const LONGEST: Duration = Duration::from_secs(10);

/// The type of all answers, in which Prometheus looks for the version of its format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the answers depend on.
#[derive(Clone)]
pub(crate) struct Health {
    metrics: Metrics,
    stopping: Arc<AtomicBool>,
}

impl Health {
    /// The server is ready from now on.
    pub(crate) fn new(recorded: PrometheusHandle, server: Handle) -> Self {
        Self {
            metrics: Metrics::new(recorded, server),
            stopping: Arc::default(),
        }
    }

    /// From now on, no new client should be sent here.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let is_stopping = self.stopping.load(Ordering::Relaxed);
        let (status, text) = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/healthz") => (StatusCode::OK, "ok\n".into()),
            (&Method::GET | &Method::HEAD, "/readyz") => match is_stopping {
                true => (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n".into()),
                false => (StatusCode::OK, "ready\n".into()),
            },
            (&Method::GET | &Method::HEAD, "/metrics") => (StatusCode::OK, self.metrics.text()),
            (_, "/healthz" | "/readyz" | "/metrics") => {
                (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into())
            }
            _ => (
                StatusCode::NOT_FOUND,
                "there are /healthz, /readyz and /metrics\n".into(),
            ),
        };
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }
}

/// Serves a listener as long as the process lives.
pub(crate) async fn serve<L: Listener>(mut listener: L, health: Health) {
    let mut connections = VecDeque::with_capacity(MOST);
    loop {
        let Ok((io, _)) = listener.accept().await else {
            // Descriptors may be used up.
            time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        if connections.len() == MOST {
            let oldest: Option<task::AbortHandle> = connections.pop_front();
            oldest.inspect(task::AbortHandle::abort);
        }
        let connection = task::spawn(time::timeout(LONGEST, answer(io, health.clone())));
        connections.push_back(connection.abort_handle());
    }
}

/// Answers one request.
async fn answer<IO>(io: IO, health: Health) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| {
        let response = health.answer(&request);
        async { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(LONGEST / 2)
        .keep_alive(false)
        .max_buf_size(16 << 10)
        .max_headers(64)
        .serve_connection(TokioIo::new(io), service)
        .await
        .map_err(io::Error::other)
}
