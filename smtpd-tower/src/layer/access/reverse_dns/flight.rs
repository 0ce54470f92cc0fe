//! A lookup that several sessions wait for.

use std::{
    future::poll_fn,
    net::IpAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::{
    Settings,
    cache::Waiter,
    lookups::{LookupPermit, Lookups},
};
use crate::{fault::caught, session::ReverseName};

pub(super) type Lookup = Pin<Box<dyn Future<Output = Option<String>> + Send>>;

/// Whoever holds the lock polls the lookup. If that session ends, the next one goes on.
#[derive(Default)]
pub(super) struct Flight(Mutex<State>);

#[derive(Default)]
struct State {
    running: Option<Running>,
    found: Option<Option<ReverseName>>,
}

struct Running {
    lookup: Lookup,
    since: Instant,
    _permit: LookupPermit,
}

/// What becomes of a lookup.
enum Outcome {
    Name(Option<String>),
    /// Too many wait for their turn.
    NotBegun,
    Panicked(String),
}

impl State {
    /// Starts the lookup if it has not begun, and waits for it.
    async fn run(
        &mut self,
        ip: IpAddr,
        resolver: impl FnOnce(IpAddr) -> Lookup,
        lookups: &Lookups,
        limit: Duration,
    ) -> Outcome {
        let since = match &self.running {
            Some(running) => running.since,
            None => {
                let Some(permit) = lookups.acquire(ip).await else {
                    return Outcome::NotBegun;
                };
                let lookup = match caught(|| resolver(ip)) {
                    Ok(lookup) => lookup,
                    Err(panic) => return Outcome::Panicked(panic),
                };
                let since = Instant::now();
                self.running = Some(Running {
                    lookup,
                    since,
                    _permit: permit,
                });
                since
            }
        };
        let rest = limit.saturating_sub(since.elapsed());
        let found = timeout(rest, poll_fn(|cx| self.poll(cx))).await;
        self.running = None;
        match found {
            Ok(Ok(name)) => Outcome::Name(name),
            Ok(Err(panic)) => Outcome::Panicked(panic),
            Err(_) => Outcome::Name(None),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<String>, String>> {
        let Some(mut running) = self.running.take() else {
            return Poll::Ready(Ok(None));
        };
        // What has panicked or completed is dropped within, for that may panic as well.
        let polled = caught(move || match running.lookup.as_mut().poll(cx) {
            Poll::Ready(found) => Ok(found),
            Poll::Pending => Err(running),
        });
        match polled {
            Ok(Err(running)) => {
                self.running = Some(running);
                Poll::Pending
            }
            Ok(Ok(found)) => Poll::Ready(Ok(found)),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

/// Waits for the name of an address. If the resolver panics, one of the waiters returns the message of the panic; for the others,
/// there is no name.
pub(super) async fn look_up(
    waiter: Waiter,
    resolver: impl FnOnce(IpAddr) -> Lookup,
    lookups: Lookups,
    settings: Settings,
) -> Result<Option<ReverseName>, String> {
    let mut state = waiter.flight.0.lock().await;
    if let Some(found) = &state.found {
        return Ok(found.clone());
    }
    let outcome = state
        .run(waiter.ip, resolver, &lookups, settings.limit)
        .await;
    let name = match &outcome {
        Outcome::Name(Some(name)) => ReverseName::new(name.clone()),
        _ => None,
    };
    let name = name.map(|name| name.with_confirmed(settings.confirms));
    // Whoever has waited for a lookup that has timed out or panicked does not start another.
    state.found = Some(name.clone());
    match outcome {
        Outcome::Name(_) => {
            let keep = settings.keep(name.is_some());
            waiter.landed(name.clone(), keep, settings.capacity);
            Ok(name)
        }
        Outcome::NotBegun => {
            waiter.crashed();
            Ok(None)
        }
        Outcome::Panicked(panic) => {
            waiter.crashed();
            Err(panic)
        }
    }
}
