use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_util::io::poll_read_buf;

use super::{ClientError, ClientReply};

/// The number of bytes read at once.
const READ: usize = 4 << 10;
/// A longer line is not valid: RFC 5321 section 4.5.3.1.5 allows 512 octets.
const MAX_LINE: usize = 64 << 10;

/// The bytes of a client: the input that was not processed, and the output.
#[derive(Debug)]
pub(super) struct Wire<IO> {
    pub(super) io: IO,
    pub(super) seen: BytesMut,
    eof: bool,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Wire<IO> {
    pub(super) fn new(io: IO) -> Self {
        Self {
            io,
            seen: BytesMut::new(),
            eof: false,
        }
    }

    pub(super) async fn write(&mut self, mut bytes: &[u8]) -> Result<(), ClientError> {
        poll_fn(|cx| self.poll_write(cx, &mut bytes)).await?;
        Ok(self.io.flush().await?)
    }

    /// Reads one reply, which may have many lines.
    pub(super) async fn reply(&mut self) -> Result<ClientReply, ClientError> {
        let mut lines = Vec::new();
        loop {
            let Some(line) = self.line().await? else {
                return Err(match lines.last() {
                    Some(line) => ClientError::Malformed(format!("{line} and no more")),
                    None => ClientError::Closed,
                });
            };
            let last = line.as_bytes().get(3) != Some(&b'-');
            lines.push(line);
            if last {
                return ClientReply::parse(lines);
            }
        }
    }

    /// Reads a line without its CRLF. Returns `None` at the end of the connection.
    pub(super) async fn line(&mut self) -> Result<Option<String>, ClientError> {
        let malformed = |line: &[u8]| ClientError::Malformed(line.escape_ascii().to_string());
        loop {
            if let Some(end) = self.seen.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.seen.split_to(end + 2);
                let text = std::str::from_utf8(line.strip_suffix(b"\r\n").unwrap_or_default());
                return match text {
                    Ok(text) if !text.contains(['\r', '\n']) => Ok(Some(text.to_owned())),
                    _ => Err(malformed(&line)),
                };
            }
            if self.seen.len() > MAX_LINE {
                return Err(ClientError::Malformed("an endless line".to_owned()));
            }
            if poll_fn(|cx| self.poll_fill(cx)).await? == 0 {
                return match &*self.seen {
                    b"" => Ok(None),
                    rest => Err(malformed(rest)),
                };
            }
        }
    }

    /// Reads these bytes. If others arrive, returns no error, and they remain to be read.
    pub(super) async fn expect(&mut self, bytes: &[u8]) -> Result<(), Option<ClientError>> {
        while self.seen.len() < bytes.len() && bytes.starts_with(&self.seen) {
            match poll_fn(|cx| self.poll_fill(cx)).await? {
                0 if self.seen.is_empty() => return Err(Some(ClientError::Closed)),
                0 => return Err(None),
                _ => {}
            }
        }
        if !self.seen.starts_with(bytes) {
            return Err(None);
        }
        self.seen.advance(bytes.len());
        Ok(())
    }

    /// Reads while it cannot write: each end may wait for the other to read.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut &[u8],
    ) -> Poll<Result<(), ClientError>> {
        while !bytes.is_empty() {
            match Pin::new(&mut self.io).poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(ClientError::Closed)),
                Poll::Ready(Ok(written)) => *bytes = bytes.get(written..).unwrap_or_default(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending if self.eof => return Poll::Pending,
                Poll::Pending => {
                    ready!(self.poll_fill(cx))?;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, ClientError>> {
        self.seen.reserve(READ);
        let read = ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.seen))?;
        self.eof = read == 0;
        Poll::Ready(Ok(read))
    }
}
