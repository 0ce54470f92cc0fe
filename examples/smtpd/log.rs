//! What is told on standard error: a line for each session and for each message.

use std::{io, time::Instant};

use smtpd_tower::{Envelope, Reply, Session, Summary, layer::QueueId};
use tracing::{info, level_filters::LevelFilter};

use crate::{
    options::Options,
    values::{LogFormat, LogLevel},
};

/// Starts the log. Without it, the events of the framework go nowhere.
pub(crate) fn start(options: &Options) {
    let level = match options.log_level.unwrap_or_default() {
        _ if options.quiet == Some(true) => LevelFilter::ERROR,
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let log = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_writer(io::stderr);
    match options.log_format.unwrap_or_default() {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}

/// A session has ended.
pub(crate) fn session(session: &Session, summary: &Summary) {
    let proxy = session.peer() != session.connection_peer();
    info!(
        session = session.id(),
        peer = %session.peer(),
        proxy = proxy.then(|| display(session.connection_peer())),
        helo = session.helo().map(display),
        tls = session.tls().map(|tls| tls.version().as_str()),
        user = session.identity().map(display),
        messages = summary.messages,
        received = summary.received,
        sent = summary.sent,
        ms = summary.duration.as_millis() as u64,
        end = %summary.reason,
        "session"
    );
}

/// A message was taken or refused.
pub(crate) fn message(
    session: &Session,
    envelope: &Envelope,
    size: u64,
    began: Instant,
    reply: Option<&Reply>,
) {
    let forwarded = session.forwarded();
    let to: Vec<_> = envelope
        .recipients()
        .iter()
        .map(|to| to.path().as_str())
        .collect();
    info!(
        session = session.id(),
        id = session.transaction().get::<QueueId>().map(display),
        from = envelope.sender().as_str(),
        to = to.join(","),
        size,
        origin = forwarded.and_then(|from| from.addr).map(display),
        origin_id = forwarded.and_then(|from| from.ident.as_deref()),
        ms = began.elapsed().as_millis() as u64,
        reply = reply.map(display),
        "message"
    );
}
