//! Faults on this side: the replies to errors and panics.
//!
//! Panics may also come from code that is not a service's: a subscriber, a hook, a destructor. A client that receives no reply to
//! a stored message resends it for days, so a panic in code that only observes must not lose the answer of a service.

use std::{
    any::Any,
    error::Error,
    io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
};

use smtpd_core::reply::{Code, Origin, Reply, Status};
use tower::{load_shed::error::Overloaded, timeout::error::Elapsed};
use tracing::{Span, span};

/// Returns the reply to a fault on this side, by the first of its causes that has one.
pub(crate) fn reply_to_fault(error: &(dyn Error + 'static)) -> Reply {
    let mut cause = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref().map(io::Error::kind) {
            Some(io::ErrorKind::StorageFull) => return of_fault(Reply::storage_full()),
            Some(io::ErrorKind::QuotaExceeded) => return of_fault(Reply::mailbox_full()),
            _ => cause = cause_of(error),
        }
    }
    local_error()
}

/// Returns the reply to a fault on this side that nothing more is known of.
pub(crate) fn local_error() -> Reply {
    of_fault(Reply::try_again("Local error in processing"))
}

fn of_fault(reply: Reply) -> Reply {
    reply.with_origin(Origin::Fault)
}

/// Returns the reply to a request that has timed out.
pub(crate) fn timed_out() -> Reply {
    Reply::new(
        Code::LOCAL_ERROR,
        Status::MAIL_SYSTEM,
        "Timed out, try again later",
    )
    .with_origin(Origin::Timeout)
}

/// Returns the reply that this error stands for, ignoring its sources.
pub(crate) fn reply_of(error: &(dyn Error + 'static)) -> Option<Reply> {
    if let Some(reply) = error.downcast_ref::<Reply>() {
        return Some(reply.clone());
    }
    if error.is::<Elapsed>() {
        return Some(timed_out());
    }
    let shed = || Reply::busy().with_origin("LoadShedLayer");
    error.is::<Overloaded>().then(shed)
}

/// Returns the next error of the chain.
pub(crate) fn cause_of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    // The `source` of an `io::Error` skips the error that it wraps.
    match error.downcast_ref().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

/// Runs code that only observes, such as an event of `tracing`. A panic in it ends here, after the panic hook has reported it.
///
/// It costs nothing measurable if nothing panics.
pub(crate) fn quietly(observe: impl FnOnce()) {
    let _ = caught(observe);
}

/// Runs a function. Returns its result, or the message of its panic.
pub(crate) fn caught<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(message)
}

/// Returns the message of a panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}

/// Returns the message of a panic and drops its payload. That may panic as well; the second payload is leaked.
fn message(panic: Box<dyn Any + Send>) -> String {
    let text = panic_message(&*panic);
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        mem::forget(again);
    }
    text
}

/// Returns the reply after a panic.
pub(crate) fn internal_error() -> Reply {
    of_fault(Reply::new(
        Code::SERVICE_UNAVAILABLE,
        Status::MAIL_SYSTEM,
        "Internal error, closing the connection",
    ))
}

/// A span that is entered, left and closed [quietly], also while another panic unwinds.
#[derive(Debug)]
pub(crate) struct QuietSpan(Span);

impl QuietSpan {
    pub(crate) const fn new(span: Span) -> Self {
        Self(span)
    }

    pub(crate) const fn get(&self) -> &Span {
        &self.0
    }

    /// Runs a function within the span.
    pub(crate) fn in_scope<T>(&self, f: impl FnOnce() -> T) -> T {
        let _entered = Entered(caught(|| self.0.enter()).ok());
        f()
    }
}

impl Drop for QuietSpan {
    fn drop(&mut self) {
        let span = mem::replace(&mut self.0, Span::none());
        quietly(|| drop(span));
    }
}

struct Entered<'a>(Option<span::Entered<'a>>);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let entered = self.0.take();
        quietly(|| drop(entered));
    }
}

/// Subscribers for tests: one that panics, and one that keeps what it is told.
#[cfg(test)]
pub(crate) mod test {
    use std::{
        io,
        sync::{Arc, LazyLock, Mutex},
    };

    use tracing::{
        Dispatch, Event, Level, Metadata, Subscriber,
        span::{Attributes, Id, Record},
        subscriber::{DefaultGuard, Interest, NoSubscriber},
    };

    /// Makes a subscriber current on this thread until the guard is dropped.
    ///
    /// While a process has a single subscriber, tracing asks only the thread that reaches an event first whether anybody wants it, and
    /// remembers the answer for all threads: a test without a subscriber could silence the events of this one. A second subscriber,
    /// which wants nothing, makes tracing ask all of them.
    fn log_by(subscriber: impl Subscriber + Send + Sync + 'static) -> DefaultGuard {
        static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));
        LazyLock::force(&SECOND);
        tracing::subscriber::set_default(subscriber)
    }

    /// Where a subscriber may panic.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum At {
        Enabled,
        NewSpan,
        Enter,
        Exit,
        Event,
        Close,
        Everywhere,
    }

    pub(crate) const ALL: [At; 7] = [
        At::Enabled,
        At::NewSpan,
        At::Enter,
        At::Exit,
        At::Event,
        At::Close,
        At::Everywhere,
    ];

    pub(crate) struct Panicking(At);

    impl Panicking {
        /// Makes it current on this thread until the guard is dropped.
        pub(crate) fn listen(at: At) -> DefaultGuard {
            log_by(Self(at))
        }

        fn pass(&self, at: At) {
            assert!(![at, At::Everywhere].contains(&self.0), "{at:?}");
        }
    }

    impl Subscriber for Panicking {
        // Called under a lock of tracing's, which a panic would poison for the process.
        fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
            Interest::sometimes()
        }

        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            assert!(self.0 != At::Enabled, "{:?}", self.0);
            *metadata.level() <= Level::INFO
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            self.pass(At::NewSpan);
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, _: &Event<'_>) {
            self.pass(At::Event);
        }

        fn enter(&self, _: &Id) {
            self.pass(At::Enter);
        }

        fn exit(&self, _: &Id) {
            self.pass(At::Exit);
        }

        fn try_close(&self, _: Id) -> bool {
            self.pass(At::Close);
            true
        }
    }

    /// What was logged on this thread.
    #[derive(Clone, Default)]
    pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

    impl Log {
        /// Captures events up to `level`, until the guard is dropped.
        pub(crate) fn listen(level: Level) -> (Self, DefaultGuard) {
            let log = Self::default();
            let writer = log.clone();
            let subscriber = tracing_subscriber::fmt()
                .with_ansi(false)
                .without_time()
                .with_target(false)
                .with_max_level(level)
                .with_writer(move || writer.clone())
                .finish();
            (log, log_by(subscriber))
        }

        /// Returns the lines since the last call.
        pub(crate) fn lines(&self) -> Vec<String> {
            let bytes = std::mem::take(&mut *self.0.lock().unwrap());
            let text = String::from_utf8(bytes).unwrap();
            text.lines().map(|line| line.trim().to_owned()).collect()
        }
    }

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::panic_any;

    use super::{
        test::{ALL, Panicking},
        *,
    };

    /// Panics again when it is dropped.
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic_any(Self);
        }
    }

    #[test]
    fn a_payload_that_panics_when_it_is_dropped_is_caught_too() {
        assert_eq!(
            caught(|| panic_any(Bomb)),
            Err::<(), _>("no message".into())
        );
        assert_eq!(caught(|| panic!("at {}", 7)), Err::<(), _>("at 7".into()));
        assert_eq!(caught(|| 7), Ok(7));
    }

    #[test]
    fn a_span_of_a_subscriber_that_panics_lets_results_and_panics_through() {
        for at in ALL {
            let _guard = Panicking::listen(at);
            let span = caught(|| tracing::info_span!("span"));
            let span = QuietSpan::new(span.unwrap_or(Span::none()));
            assert_eq!(span.in_scope(|| 7), 7, "{at:?}");
            let panicked = caught(|| span.in_scope(|| panic!("within")));
            assert_eq!(panicked, Err::<(), _>("within".into()), "{at:?}");
            // Closed while a panic unwinds.
            let panicked = caught(move || {
                let _span = span;
                panic!("before")
            });
            assert_eq!(panicked, Err::<(), _>("before".into()), "{at:?}");
        }
    }
}
