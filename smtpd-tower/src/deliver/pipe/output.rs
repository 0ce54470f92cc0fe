use std::{
    fs::File,
    io::{self, PipeReader, Read},
};

use tokio::{io::AsyncReadExt, net::unix::pipe::Receiver};

/// How much is read at a time.
const CHUNK: usize = 8 * 1024;

/// How much is read after the command has ended, which others may hold open and write to: twice what a pipe holds.
const MAX_REST: usize = 128 * 1024;

/// What a command writes.
#[derive(Debug)]
pub(super) struct Output {
    /// `None` at the end.
    pipe: Option<Receiver>,
    kept: Vec<u8>,
    limit: usize,
}

impl Output {
    pub(super) fn new(pipe: PipeReader, limit: usize) -> io::Result<Self> {
        Ok(Self {
            pipe: Some(Receiver::from_owned_fd(pipe.into())?),
            kept: Vec::new(),
            limit,
        })
    }

    /// Reads forever, and keeps the beginning.
    pub(super) async fn read(&mut self) -> ! {
        let mut buffer = [0; CHUNK];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut buffer).await {
                Ok(n @ 1..) => self.keep(&buffer[..n]),
                Ok(0) | Err(_) => self.pipe = None,
            }
        }
        std::future::pending().await
    }

    /// Reads what is there, without waiting for more, and returns what was kept.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let pipe = self.pipe.take();
        let Some(Ok(descriptor)) = pipe.map(Receiver::into_nonblocking_fd) else {
            return self.kept;
        };
        let (mut pipe, mut buffer) = (File::from(descriptor), [0; CHUNK]);
        let mut rest = MAX_REST;
        while let Ok(n @ 1..) = pipe.read(&mut buffer) {
            self.keep(&buffer[..n]);
            rest = rest.saturating_sub(n);
            if rest == 0 {
                break;
            }
        }
        self.kept
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = self.limit - self.kept.len();
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}
