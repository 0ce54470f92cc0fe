//! Panics in code that is not ours: each costs its own session at most, and never what was promised to a client.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

use smtpd_core::{Code, Reply, Status};

use crate::recover::panic_message;

/// Calls that, and returns what a panic in it says.
pub(crate) fn caught<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let message = panic_message(&*panic);
        discard(panic);
        message
    })
}

/// Calls a hook, or writes to the log. Neither may cost a session anything, so a panic is only counted by the panic hook of the
/// process, which has seen it already.
pub(crate) fn quietly(call: impl FnOnce()) {
    let _ = caught(call);
}

/// Drops what a panic has thrown, which may panic in turn.
fn discard(panic: Box<dyn Any + Send>) {
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        // There is no end to this but to leak it.
        std::mem::forget(another);
    }
}

/// What the client is told of a panic.
pub(crate) fn internal_error() -> Reply {
    Reply::new(
        Code::SERVICE_UNAVAILABLE,
        Status::MAIL_SYSTEM,
        "Internal error, closing the connection",
    )
}
