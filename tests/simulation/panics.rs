//! Panics: those of the simulation are silenced, all others are faults of the server.

use std::{cell::RefCell, panic, sync::Once};

use support::panic_text;

use crate::trace::Trace;

thread_local! {
    static SEEN: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Keeps the panics of this thread from being printed.
pub fn watch() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let text = panic_text(info.payload()).unwrap_or("no text");
            let place = info.location().map(ToString::to_string);
            let seen = format!("{text} ({})", place.unwrap_or_default());
            let watched = SEEN.try_with(|all| match all.borrow_mut().as_mut() {
                Some(all) => {
                    all.push(seen);
                    true
                }
                None => false,
            });
            if watched != Ok(true) {
                before(info);
            }
        }));
    });
    SEEN.set(Some(Vec::new()));
}

/// Records the panics since the last time that are not part of the plan.
pub fn check(trace: &Trace) {
    for panic in take() {
        if !panic.starts_with("sim:") {
            trace.violate(format!("the server panics: {panic}"));
        }
    }
}

/// The panics since the last time.
pub fn take() -> Vec<String> {
    let seen = SEEN.with_borrow_mut(|all| all.as_mut().map(std::mem::take));
    seen.unwrap_or_default()
}
