//! TLS: the handshake, in the session's own task.

use std::{io, pin::Pin};

use super::stream::{Io, Stream};
use crate::{
    meter::HandshakeMeter,
    tls::{Secured, TlsConfig},
};

/// A handshake in progress.
pub(super) type Handshake<IO> = Pin<Box<dyn Future<Output = io::Result<Secured<IO>>> + Send>>;

/// Starts a handshake over a stream that is in plaintext so far.
pub(super) fn handshake<IO: Io>(
    tls: Option<TlsConfig>,
    stream: Stream<IO>,
    meter: HandshakeMeter,
) -> io::Result<Handshake<IO>> {
    let tls = tls.ok_or_else(|| io::Error::other("no TLS configuration"))?;
    let Stream::Plain(io) = stream else {
        return Err(io::ErrorKind::AlreadyExists.into());
    };
    Ok(Box::pin(async move {
        let secured = tls.accept(io).await?;
        meter.done(secured.info.version().as_str());
        Ok(secured)
    }))
}
