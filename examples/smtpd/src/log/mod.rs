//! The log on standard error: a line for each session and for each message.
//!
//! Mail does not depend on it: a separate thread writes the lines, and drops and counts those that it cannot write; a panic in
//! logging is caught. See [`writer`].

mod logfmt;
mod queue;
mod writer;

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    borrow::Cow,
    io,
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    time::Instant,
};

use smtpd_tower::{
    Envelope, Reply, Session,
    layer::QueueId,
    proxied::Forwarded,
    session::{Summary, TlsInfo},
};
use tracing::{info, level_filters::LevelFilter};
use tracing_subscriber::fmt::{
    format::Writer,
    time::{FormatTime as _, SystemTime},
};

pub(crate) use self::writer::Lines;
use self::{logfmt::Logfmt, writer::WriterThread};
use crate::{
    options::Options,
    values::{LogFormat, LogLevel},
};

/// The log of this process. Its last lines are written when it is dropped.
#[derive(Debug)]
pub(crate) struct Log {
    lines: Lines,
    _thread: WriterThread,
}

impl Log {
    /// Starts the log. Without it, the events of the framework go nowhere.
    ///
    /// # Errors
    /// Fails if the system refuses another thread.
    pub(crate) fn start(options: &Options) -> io::Result<Self> {
        let format = options.log_format.unwrap_or_default();
        let (lines, thread) = writer::start(match format {
            LogFormat::Text => lost_in_text,
            LogFormat::Json => lost_in_json,
        })?;
        let log = tracing_subscriber::fmt()
            .with_max_level(max_level(options))
            .with_target(false)
            // It would report a failure by `eprintln!`, which panics where standard error is what has failed.
            .log_internal_errors(false)
            .with_writer(lines.clone());
        match format {
            LogFormat::Text => log.event_format(Logfmt).init(),
            LogFormat::Json => log.json().flatten_event(true).init(),
        }
        panic::set_hook(Box::new(panicked));
        Ok(Self {
            lines,
            _thread: thread,
        })
    }

    /// Returns the writer that accepts its lines.
    pub(crate) fn lines(&self) -> Lines {
        self.lines.clone()
    }

    /// Writes a line as it is, whatever the level.
    pub(crate) fn say(&self, line: &str) {
        self.lines.push(&format!("{line}\n"));
    }
}

fn max_level(options: &Options) -> LevelFilter {
    match options.log_level.unwrap_or_default() {
        _ if options.quiet == Some(true) => LevelFilter::ERROR,
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// Logs a panic. The hook of the standard library writes to standard error itself, and would block the thread that panicked
/// where nobody reads it.
///
/// A panic in here would abort the process, so nothing is formatted by code from elsewhere.
fn panicked(info: &PanicHookInfo<'_>) {
    let backtrace = Backtrace::capture();
    let is_captured = backtrace.status() == BacktraceStatus::Captured;
    // Not within the current span, which may be what has panicked.
    tracing::error!(
        parent: None,
        thread = std::thread::current().name(),
        location = info.location().map(display),
        panic = message_of(info.payload()),
        backtrace = is_captured.then(|| backtrace.to_string()),
        "panicked"
    );
}

fn message_of(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// The line that reports lost lines. The subscriber cannot write it: its line would wait behind others, and could be lost.
fn lost_in_text(lines: u64) -> String {
    format!(
        "time={} level=warn msg=\"log lines lost\" lines={lines}\n",
        now()
    )
}

fn lost_in_json(lines: u64) -> String {
    format!(
        "{{\"timestamp\":\"{}\",\"level\":\"WARN\",\"message\":\"log lines lost\",\"lines\":{lines}}}\n",
        now()
    )
}

/// The time, as the subscriber writes it.
fn now() -> String {
    let mut text = String::new();
    // Writing into a string does not fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

/// A session has ended.
pub(crate) fn session(session: &Session, summary: &Summary) {
    let proxy = session.client_addr() != session.peer_addr();
    quietly(|| {
        info!(
            session = session.id(),
            listener = %session.listener_addr(),
            peer = %session.client_addr(),
            proxy = proxy.then(|| display(session.peer_addr())),
            helo = session.helo().map(|name| display(visible(name.as_str()))),
            tls = session.tls().map(|tls| tls.version().as_str()),
            cipher = session.tls().map(TlsInfo::cipher),
            user = session.identity().map(|user| display(visible(user.as_str()))),
            messages = summary.messages,
            refused = summary.refused,
            received = summary.received,
            sent = summary.sent,
            ms = summary.duration.as_millis() as u64,
            end = %summary.reason,
            "session"
        );
    });
}

/// A message was accepted or refused.
pub(crate) fn message(
    session: &Session,
    envelope: &Envelope,
    size: u64,
    began: Instant,
    reply: Option<&Reply>,
) {
    let forwarded = session.forwarded();
    quietly(|| {
        info!(
            session = session.id(),
            listener = %session.listener_addr(),
            id = session.transaction().get::<QueueId>().map(display),
            from = &*visible(envelope.sender().as_str()),
            to = &*visible(&recipients(envelope)),
            size,
            origin = forwarded.and_then(Forwarded::addr).map(display),
            origin_id = forwarded.and_then(Forwarded::ident).map(visible).as_deref(),
            ms = began.elapsed().as_millis() as u64,
            reply = reply.map(|reply| display(visible(&reply.to_string()).into_owned())),
            "message"
        );
    });
}

/// All recipients in one text.
fn recipients(envelope: &Envelope) -> Cow<'_, str> {
    match envelope.recipients() {
        [one] => one.path().as_str().into(),
        all => {
            let all: Vec<_> = all.iter().map(|to| to.path().as_str()).collect();
            all.join(",").into()
        }
    }
}

/// Escapes invisible characters in text of a client: JSON escapes only control characters, and `display` escapes nothing. Line
/// separators and the controls of writing direction would make a line show what it does not say.
fn visible(text: &str) -> Cow<'_, str> {
    if text
        .bytes()
        .all(|byte| byte == b' ' || byte.is_ascii_graphic())
    {
        return text.into();
    }
    let mut shown = String::new();
    for c in text.chars() {
        match c {
            ' '..='~' => shown.push(c),
            c if !is_escaped(c) => shown.push(c),
            c => shown.extend(c.escape_unicode()),
        }
    }
    shown.into()
}

/// Whether the standard library escapes a character that follows another one: combining marks are visible only there.
fn is_escaped(c: char) -> bool {
    let mut behind = String::from("x");
    behind.push(c);
    behind.escape_debug().nth(1) == Some('\\')
}

/// Logs something. A panic in it must not cost the reply to a message that is stored, so it is caught.
fn quietly(event: impl FnOnce()) {
    let _ = panic::catch_unwind(AssertUnwindSafe(event));
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::subscriber::{DefaultGuard, set_default};

    use super::*;

    #[derive(Clone, Default)]
    pub(crate) struct Written(Arc<Mutex<Vec<u8>>>);

    impl Written {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_is_a_line_of_the_log() {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .without_time()
            .with_target(false)
            .event_format(Logfmt)
            .with_writer(move || writer.clone())
            .finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        // A test that fails meanwhile does not say why; the hook of this process is set for a moment only.
        let hook = panic::take_hook();
        panic::set_hook(Box::new(panicked));
        quietly(|| panic!("at\n{}", 7));
        panic::set_hook(hook);
        let line = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert_eq!(line.lines().count(), 1, "{line}");
        for part in [
            "level=error msg=panicked thread=",
            "mod.rs:",
            r#"panic="at\\u{a}7""#,
        ] {
            assert!(line.contains(part), "{line}");
        }
    }

    /// Writes the log of this thread to memory, until the guard is dropped.
    pub(crate) fn capture(json: bool) -> (DefaultGuard, Written) {
        let written = Written::default();
        let writer = written.clone();
        let log = tracing_subscriber::fmt()
            .without_time()
            .with_writer(move || writer.clone());
        let guard = match json {
            true => set_default(log.json().flatten_event(true).finish()),
            false => set_default(log.event_format(Logfmt).finish()),
        };
        (guard, written)
    }

    #[test]
    fn addresses_cannot_make_a_line_of_the_log_show_what_it_does_not_say() {
        let evil = "a\u{202e}\u{2028}\u{200b}\u{2066}b";
        let envelope = Envelope::new(format!("{evil}@a.test").parse().unwrap())
            .with_recipient(format!("\"{evil}\"@a.test").parse().unwrap());
        for json in [false, true] {
            let (guard, written) = capture(json);
            message(&Session::local(), &envelope, 0, Instant::now(), None);
            drop(guard);
            let line = written.text();
            let invisible = ['\u{202e}', '\u{2028}', '\u{200b}', '\u{2066}'];
            assert!(!line.contains(invisible), "{line}");
            assert_eq!(line.matches("u{202e}").count(), 2, "{line}");
        }
    }

    #[test]
    fn what_is_seen_is_logged_as_it_is() {
        for text in [
            "a b@\"c\\d\".test",
            "gr\u{e5}",
            "u\u{308}",
            "\u{4f8b}\u{3048}",
            "",
        ] {
            assert_eq!(visible(text), text);
        }
        assert_eq!(
            visible("\u{e5}\n\u{feff}"),
            r"\u{e5}\u{a}\u{feff}".replacen(r"\u{e5}", "\u{e5}", 1)
        );
    }

    #[test]
    fn lost_lines_are_told_in_the_format_of_the_log() {
        let text = lost_in_text(3);
        let (time, rest) = text.split_once(" ").unwrap();
        assert_eq!(time.len(), "time=2026-11-30T01:02:03.456789Z".len());
        assert_eq!(rest, "level=warn msg=\"log lines lost\" lines=3\n");
        let json = lost_in_json(3);
        assert!(json.starts_with(r#"{"timestamp":"2"#), "{json}");
        let rest = r#"Z","level":"WARN","message":"log lines lost","lines":3}"#;
        assert!(json.trim_end().ends_with(rest), "{json}");
    }
}
