//! What the fuzz targets share: a runtime, bodies in pieces, and an executor that notices a lost wake.
#![forbid(unsafe_code)]

use std::{
    cell::RefCell,
    convert::Infallible,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use futures_core::Stream;
use smtpd_tower::{Body, BodyError, Data, Reply, Request};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::{Builder, Runtime},
};

thread_local! {
    static RUNTIME: RefCell<Runtime> = RefCell::new(
        Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime"),
    );
}

/// Runs a future on a runtime whose clock stands still while anything can go on.
pub fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.with_borrow(|runtime| runtime.block_on(future))
}

/// Polls a future to its end, but only where it was woken. Its timers never fire.
///
/// # Panics
///
/// Where it waits and nothing will wake it.
pub fn drive<F: Future>(future: F) -> F::Output {
    RUNTIME.with_borrow(|runtime| {
        let _entered = runtime.enter();
        poll_woken(future)
    })
}

fn poll_woken<F: Future>(future: F) -> F::Output {
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = Waker::from(woken.clone());
    let mut future = pin!(future);
    while woken.0.swap(false, Ordering::SeqCst) {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
    }
    panic!("it waits, and nothing wakes it");
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A body in pieces of these lengths, over and over, and then this end. A length of 0 lets the reader wait once.
pub fn body(message: &[u8], cuts: &[u8], end: Result<(), BodyError>) -> Body {
    let pieces = Pieces {
        rest: Bytes::copy_from_slice(message),
        cuts: cuts.to_vec(),
        at: 0,
        end: end.err(),
    };
    Body::new(pieces)
}

struct Pieces {
    rest: Bytes,
    cuts: Vec<u8>,
    at: usize,
    end: Option<BodyError>,
}

impl Stream for Pieces {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let cut = self
            .cuts
            .get(self.at)
            .copied()
            .map_or(usize::MAX, usize::from);
        self.at = match self.at + 1 < self.cuts.len() {
            true => self.at + 1,
            // A wait does not come over and over: with nothing else it would have no end.
            false => self
                .cuts
                .iter()
                .position(|cut| *cut != 0)
                .unwrap_or(self.cuts.len()),
        };
        if cut == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.rest.is_empty() {
            return Poll::Ready(self.end.take().map(Err));
        }
        let len = cut.min(self.rest.len());
        Poll::Ready(Some(Ok(self.rest.split_to(len))))
    }
}

/// A connection on which these bytes come, so many at a time, and which takes whatever is written.
#[derive(Debug)]
pub struct Wire<'a> {
    rest: &'a [u8],
    piece: usize,
}

impl<'a> Wire<'a> {
    pub const fn new(bytes: &'a [u8], piece: usize) -> Self {
        Self { rest: bytes, piece }
    }

    /// What was not read.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl AsyncRead for Wire<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let len = self.piece.min(self.rest.len()).min(buf.remaining());
        let (now, later) = self.rest.split_at(len);
        buf.put_slice(now);
        self.rest = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The message that comes through a layer around DATA.
pub fn through<S, L>(layer: L, request: Request<Data>) -> Bytes
where
    L: tower::Layer<Collect, Service = S>,
    S: tower::Service<Request<Data>, Response = Bytes, Error = Infallible>,
{
    let service = layer.layer(Collect);
    match block_on(tower::ServiceExt::oneshot(service, request)) {
        Ok(message) => message,
    }
}

/// A data service that answers with the message.
#[derive(Clone, Copy, Debug)]
pub struct Collect;

impl tower::Service<Request<Data>> for Collect {
    type Response = Bytes;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Bytes, Infallible>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Data>) -> Self::Future {
        Box::pin(async { Ok(request.into_body().collect().await.unwrap_or_default()) })
    }
}

/// A small reader of bytes that decide something; 0 where there are no more.
#[derive(Clone, Debug)]
pub struct Choices<'a>(pub &'a [u8]);

impl<'a> Choices<'a> {
    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or_default()
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end.max(1)
    }

    /// The next bytes, or as many as there are.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    /// Some bytes, at most 7, before which their number stands.
    pub fn cuts(&mut self) -> &'a [u8] {
        let len = self.below(8);
        self.bytes(len)
    }
}

/// A reply that a byte chooses.
pub fn reply(choice: u8) -> Reply {
    match choice % 6 {
        0 => Reply::OK,
        1 => Reply::ok(format!("Taken {choice}")),
        2 => Reply::busy(),
        3 => Reply::try_again(format!("Later {choice}")),
        4 => Reply::no_such_user(),
        _ => Reply::rejected(format!("No {choice}")),
    }
}

/// RFC 4648 section 4.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= group.len() { digit.into() } else { '=' });
        }
    }
    text
}
