//! What the benchmarks share: a server like the reference server's `--discard`, and a client in memory.

pub(crate) mod recorder;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use smtpd_tower::{
    Connect, Data, Helo, Mail, Pipeline, Rcpt, Request, Server, deliver::Discard, handler_fn,
    layer::DomainFilterLayer, service::PhaseService,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower::ServiceBuilder;

/// A server with a service for each phase, whose limits are out of the way.
pub(crate) fn server() -> Server {
    server_into(Discard)
}

/// The same, but messages go to that service.
pub(crate) fn server_into(data: impl PhaseService<Data>) -> Server {
    let rcpt = ServiceBuilder::new()
        .layer(DomainFilterLayer::parse(["example.org"]).unwrap())
        .service(handler_fn(async |_: Request<Rcpt>| {}));
    let pipeline = Pipeline::new()
        .connect(handler_fn(async |_: Request<Connect>| {}))
        .helo(handler_fn(async |_: Request<Helo>| {}))
        .mail(handler_fn(async |_: Request<Mail>| {}))
        .rcpt(rcpt)
        .data(data);
    Server::new("mx.example.org", pipeline).configure(|config| {
        config.limits(|limits| {
            limits.recipients = u32::MAX;
            limits.messages = u32::MAX;
            limits.message_size = None;
        })
    })
}

/// The client's side: each read gives the next group of commands, as if it came after the replies to the one before. Unlike the
/// client of the test kit it has no task and reads no replies, so that only the server is measured.
pub(crate) struct Client {
    groups: std::vec::IntoIter<Bytes>,
    now: Bytes,
    /// How much one read gives at most.
    step: usize,
    /// Let other sessions run before each group.
    yields: bool,
    yielded: bool,
}

impl Client {
    /// Says EHLO, these groups, and QUIT.
    pub(crate) fn new(groups: impl IntoIterator<Item = Bytes>) -> Self {
        let mut all = vec![Bytes::from_static(b"EHLO client.example\r\n")];
        all.extend(groups);
        all.push(Bytes::from_static(b"QUIT\r\n"));
        Self {
            groups: all.into_iter(),
            now: Bytes::new(),
            step: usize::MAX,
            yields: false,
            yielded: false,
        }
    }

    /// The same in packets of so many bytes at most.
    pub(crate) fn in_steps(self, step: usize) -> Self {
        Self { step, ..self }
    }

    /// The same, but other sessions come first each time.
    pub(crate) fn yielding(self) -> Self {
        Self {
            yields: true,
            ..self
        }
    }
}

/// MAIL, RCPT and DATA as groups of their own.
pub(crate) fn commands(recipients: usize) -> Vec<Bytes> {
    let rcpt = |n| format!("RCPT TO:<recipient{n}@example.org>\r\n").into();
    let mut all = vec![Bytes::from_static(
        b"MAIL FROM:<sender@example.com> SIZE=1024\r\n",
    )];
    all.extend((0..recipients).map(rcpt));
    all.push(Bytes::from_static(b"DATA\r\n"));
    all
}

/// Text of at least so many bytes, in lines.
pub(crate) fn text(bytes: usize) -> String {
    let line = "The quick brown fox jumps over the lazy dog, and goes on with it for so long.\r\n";
    line.repeat(bytes.div_ceil(line.len()))
}

/// The same with its end, and with a stuffed dot before every 64th line.
pub(crate) fn stuffed(bytes: usize) -> Bytes {
    let dots = |(number, line)| match number % 64 {
        63 => [".", line].concat(),
        _ => line.to_owned(),
    };
    let lines = text(bytes);
    let mut lines: String = lines.split_inclusive('\n').enumerate().map(dots).collect();
    lines.push_str(".\r\n");
    lines.into()
}

/// Text with its end.
pub(crate) fn dotted(bytes: usize) -> Bytes {
    (text(bytes) + ".\r\n").into()
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.now.is_empty() {
            if self.yields && !std::mem::replace(&mut self.yielded, true) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.yielded = false;
            self.now = self.groups.next().unwrap_or_default();
        }
        let bytes = self.now.len().min(buf.remaining()).min(self.step);
        buf.put_slice(&self.now[..bytes]);
        self.now.advance(bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
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
