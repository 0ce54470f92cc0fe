//! What systemd is told (sd_notify(3)): that the server is ready, reloads, is alive, and stops. Without systemd, nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::{task, time};

/// How often systemd is asked for more time during a shutdown, and for how much.
const EXTENSION: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(15));

/// Sessions are served. Also after a reload.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Files are read again. [`ready`] ends it, whether they could be read or not.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// Tells systemd at half its interval that the server lives, from a task like those of sessions: if they no longer get their
/// turn, neither does this one, and systemd restarts the server.
pub(crate) fn keep_alive() {
    let Some(interval) = sd_notify::watchdog_enabled() else {
        return;
    };
    task::spawn(async move {
        loop {
            tell(&[NotifyState::Watchdog]);
            time::sleep(interval / 2).await;
        }
    });
}

/// The server shuts down. Returns a future that asks systemd for as much time as the sessions take.
pub(crate) fn stopping() -> impl Future<Output = ()> {
    tell(&[NotifyState::Stopping]);
    let (every, granted) = EXTENSION;
    async move {
        loop {
            let micros = u32::try_from(granted.as_micros()).unwrap_or(u32::MAX);
            tell(&[NotifyState::ExtendTimeoutUsec(micros)]);
            time::sleep(every).await;
        }
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd cannot be notified");
    }
}
