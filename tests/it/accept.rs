//! Listeners that fail, or never wait, and connections for which there is no session.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use smtpd_tower::{net::PeerAddr, server::Listener};
use support::*;
use tokio::{
    io::{AsyncWriteExt, DuplexStream},
    time::{Instant, sleep},
};

use crate::panicking_log::PanickingLog;

/// A listener that is always ready, until it was asked more often than any test allows.
struct Ready<F> {
    accept: F,
    accepted: Arc<AtomicUsize>,
}

const TOO_OFTEN: usize = 100_000;

impl<F> Listener for Ready<F>
where
    F: FnMut() -> io::Result<DuplexStream> + Send + 'static,
{
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, PeerAddr)> {
        if self.accepted.fetch_add(1, Ordering::Relaxed) > TOO_OFTEN {
            std::future::pending::<()>().await;
        }
        (self.accept)().map(|io| (io, PeerAddr::Unknown))
    }

    fn local_addr(&self) -> PeerAddr {
        PeerAddr::Unknown
    }
}

fn ready<F>(accept: F) -> (Ready<F>, Arc<AtomicUsize>) {
    let accepted = Arc::<AtomicUsize>::default();
    let listener = Ready {
        accept,
        accepted: accepted.clone(),
    };
    (listener, accepted)
}

const KINDS: [io::ErrorKind; 6] = [
    io::ErrorKind::ConnectionAborted,
    io::ErrorKind::ConnectionRefused,
    io::ErrorKind::ConnectionReset,
    io::ErrorKind::Interrupted,
    io::ErrorKind::PermissionDenied,
    io::ErrorKind::Other,
];

#[tokio::test(start_paused = true)]
async fn a_listener_that_fails_for_ever_does_not_starve_other_tasks() {
    for kind in KINDS {
        let server = collecting();
        let (listener, accepted) = ready(move || Err(kind.into()));
        let serving = tokio::spawn(server.serve(listener));
        sleep(SECOND).await;
        let first = accepted.load(Ordering::Relaxed);
        assert!((1..=1_200).contains(&first), "{kind:?}: {first} accepts");
        sleep(SECOND).await;
        let second = accepted.load(Ordering::Relaxed) - first;
        assert!((1..=1_000).contains(&second), "{kind:?}: {second} accepts");
        serving.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_a_listener_that_fails() {
    for kind in KINDS {
        let server = collecting();
        let (listener, _) = ready(move || Err(kind.into()));
        let serving = tokio::spawn(server.serve(listener));
        sleep(SECOND + SECOND / 20).await; // in the middle of a pause
        let begun = Instant::now();
        server.handle().shutdown(SECOND).await;
        serving.await.unwrap().unwrap();
        assert!(begun.elapsed().is_zero(), "{kind:?}: {:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_listener_works_again_after_many_errors() {
    let (near, far) = tokio::io::duplex(1 << 16);
    let (mut left, mut far) = (1_000, Some(far));
    let (listener, _) = ready(move || {
        left -= 1;
        match far.take_if(|_| left < 0) {
            Some(io) => Ok(io),
            None => Err(io::ErrorKind::ConnectionReset.into()),
        }
    });
    let serving = tokio::spawn(collecting().serve(listener));
    let mut client = Client::over(near);
    client.expect("220").await;
    client.cmd("QUIT", "221").await;
    serving.abort();
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_never_waits_does_not_starve_other_tasks() {
    let server = collecting().max_sessions(10);
    let (listener, accepted) = ready(|| Ok(tokio::io::duplex(64).1));
    let serving = tokio::spawn(server.serve(listener));
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    let accepted = accepted.load(Ordering::Relaxed);
    assert!((1..TOO_OFTEN).contains(&accepted), "{accepted} accepts");
    server.handle().shutdown(SECOND).await;
    serving.await.unwrap().unwrap();
}

/// The number of refused clients that may receive a reply at once.
const FAREWELLS: usize = 1_000;

#[tokio::test(start_paused = true)]
async fn connections_that_are_refused_and_dropped_do_not_keep_others_from_their_421() {
    let server = collecting().max_sessions(0);
    for _ in 0..2 * FAREWELLS {
        let (near, far) = tokio::io::duplex(1);
        let refused = server.serve_connection(far, PeerAddr::Unknown);
        let mut refused = tokio_test::task::spawn(refused);
        assert!(refused.poll().is_pending(), "the client does not read");
        drop((refused, near));
    }
    Client::connect(&server).expect("421 4.3.2").await;
}

#[tokio::test(start_paused = true)]
async fn a_log_that_panics_does_not_keep_a_client_from_its_421() {
    let _log = log_by(PanickingLog);
    let server = collecting().max_sessions(0);
    Client::connect(&server).expect("421 4.3.2").await;
}

#[tokio::test(start_paused = true)]
async fn one_server_that_refuses_clients_does_not_keep_those_of_another_from_their_421() {
    let busy = collecting().max_sessions(0);
    let mut waiting = Vec::new();
    for _ in 0..FAREWELLS {
        let (near, far) = tokio::io::duplex(1);
        tokio::spawn(busy.serve_connection(far, PeerAddr::Unknown));
        waiting.push(near);
    }
    settle().await;
    let mut one_more = Client::connect(&busy);
    one_more.expect_close().await;
    let other = collecting().max_sessions(0);
    Client::connect(&other).expect("421 4.3.2").await;
    for mut client in waiting {
        let _ = client.shutdown().await;
    }
}
