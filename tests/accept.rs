//! Connections for which there is no session.

mod support;

use smtpd_tower::PeerAddr;
use support::*;
use tokio::io::AsyncWriteExt;

/// As many as may be told at once that they are turned away.
const FAREWELLS: usize = 1_000;

#[tokio::test(start_paused = true)]
async fn connections_that_are_turned_away_and_dropped_do_not_keep_others_from_their_421() {
    let server = collecting().max_sessions(0);
    for _ in 0..2 * FAREWELLS {
        let (near, far) = tokio::io::duplex(1);
        let turned_away = server.serve_connection(far, PeerAddr::Unknown);
        let mut turned_away = tokio_test::task::spawn(turned_away);
        assert!(turned_away.poll().is_pending(), "the client does not read");
        drop((turned_away, near));
    }
    Client::connect(&server).expect("421 4.3.2").await;
}

/// A subscriber that cannot write its log.
struct Panics;

impl tracing::Subscriber for Panics {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        panic!("the disk is full");
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn a_log_that_panics_does_not_keep_a_client_from_its_421() {
    let _log = tracing::subscriber::set_default(Panics);
    let server = collecting().max_sessions(0);
    Client::connect(&server).expect("421 4.3.2").await;
}

#[tokio::test(start_paused = true)]
async fn one_server_that_turns_clients_away_does_not_keep_those_of_another_from_their_421() {
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
