//! The logins of one client, over all of its sessions, as the guard counts them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use smtpd_tower::{
    Auth, BoxError, Reply, Request, Secret, Server,
    guard::{Guard, GuardReason},
    limiter::{ClientKey, Rate},
    net::CidrSet,
    phase::AuthOutcome,
    reply::Origin,
    sasl::{Mechanisms, Scram},
};
use support::*;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};
use tower::service_fn;

const CLIENT: ([u8; 4], u16) = ([192, 0, 2, 1], 4711);

/// `alice` with the password `wrong`, and with `secret`.
const WRONG: &str = "AUTH PLAIN AGFsaWNlAHdyb25n";
const RIGHT: &str = "AUTH PLAIN AGFsaWNlAHNlY3JldA==";

/// What the guard holds against the client: logins in progress, failed logins, errors.
fn held_against(server: &Server) -> (u32, u64, u64) {
    let usage = server.get_guard().usage(ClientKey::new(CLIENT.0.into()));
    (usage.logins(), usage.failed_logins(), usage.errors())
}

/// A server whose users have the password `secret`, which it knows once `answer` has ended.
fn with_auth<F>(answer: impl Fn(Request<Auth>) -> F + Clone + Send + Sync + 'static) -> Server
where
    F: Future<Output = Result<AuthOutcome, BoxError>> + Send + 'static,
{
    server(accept_rcpt().auth(service_fn(answer)))
        .configure(|config| config.allow_insecure_auth(true))
        .guard(Guard::new())
}

fn secret() -> Result<AuthOutcome, BoxError> {
    Ok(AuthOutcome::Verify(Secret::password("secret")))
}

async fn greeted(server: &Server) -> Client {
    let mut client = Client::from_peer(server, CLIENT);
    client.expect("220").await;
    client.cmd("EHLO c", "250").await;
    client
}

/// Begins sessions that log in with this command at the same time.
async fn all_at_once(server: &Server, n: usize, command: &str) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..n {
        clients.push(greeted(server).await);
    }
    for client in &mut clients {
        client.send(format!("{command}\r\n")).await;
    }
    settle().await;
    clients
}

#[tokio::test(start_paused = true)]
async fn as_many_passwords_are_tried_at_once_as_there_are_sessions() {
    let (calls, open) = (Arc::<AtomicUsize>::default(), Arc::new(Semaphore::new(0)));
    let (counter, gate) = (calls.clone(), open.clone());
    let server = with_auth(move |_| {
        let gate = gate.clone();
        counter.fetch_add(1, Ordering::Relaxed);
        async move {
            drop(gate.acquire().await?);
            secret()
        }
    });
    let begun = Instant::now();
    let mut clients = all_at_once(&server, 50, WRONG).await;
    assert_eq!(calls.load(Ordering::Relaxed), 10);
    assert_eq!(held_against(&server), (10, 0, 0));
    for client in &mut clients[10..] {
        client
            .expect("454 4.7.0 Too many authentications at a time")
            .await;
    }
    assert_eq!(begun.elapsed(), 5 * SECOND);
    open.add_permits(1);
    for client in &mut clients[..10] {
        client.expect("535").await;
    }
    assert_eq!(held_against(&server), (0, 10, 0));
    clients[49]
        .cmd(RIGHT, "454 4.7.0 Too many failed authentications")
        .await;
    assert_eq!(calls.load(Ordering::Relaxed), 10);
    let stats = server.get_guard().stats();
    assert_eq!(stats.refused(GuardReason::Logins), 40);
    assert_eq!(stats.refused(GuardReason::FailedLogins), 1);
}

#[tokio::test(start_paused = true)]
async fn an_office_whose_programs_all_log_in_at_once_is_refused() {
    let server = with_auth(|_| async {
        sleep(SECOND).await;
        secret()
    });
    let begun = Instant::now();
    let mut clients = all_at_once(&server, 50, RIGHT).await;
    for (number, client) in (0..).zip(&mut clients) {
        client.expect("235").await;
        // Ten at a time, in the order in which they came.
        assert_eq!(begun.elapsed().as_secs(), 1 + number / 10);
    }
    assert_eq!(held_against(&server), (0, 0, 0));
    assert_eq!(server.get_guard().stats().total(), 0);
}

/// A server that answers each login when a permit is added.
fn with_gate(guard: Guard) -> (Server, Arc<Semaphore>) {
    let open = Arc::new(Semaphore::new(0));
    let gate = open.clone();
    let server = with_auth(move |_| {
        let gate = gate.clone();
        async move {
            gate.acquire().await?.forget();
            secret()
        }
    });
    (server.guard(guard), open)
}

#[tokio::test(start_paused = true)]
async fn a_login_in_progress_is_lost_when_the_limits_change() {
    let strict = || Guard::new().failed_logins(Rate::per_hour(1).unwrap());
    let exempt = || Guard::new().exempt(CidrSet::parse(["192.0.2.0/24"]).unwrap());
    for lenient in [Guard::off(), exempt(), Guard::new().failed_logins(None)] {
        let (server, open) = with_gate(strict());
        let mut clients = all_at_once(&server, 2, RIGHT).await;
        assert_eq!(held_against(&server).0, 1);
        server.get_guard().reload(&lenient);
        // The first stays counted until its end, and the second waits no longer than it would for its refusal.
        assert_eq!(held_against(&server).0, 1);
        sleep(5 * SECOND).await;
        open.add_permits(2);
        for client in &mut clients {
            client.expect("235").await;
        }
        assert_eq!(held_against(&server), (0, 0, 0));
        assert_eq!(server.get_guard().stats().total(), 0);
        // A login that has begun without a limit is not counted later.
        let mut uncounted = all_at_once(&server, 1, RIGHT).await.remove(0);
        server.get_guard().reload(&strict());
        let mut counted = all_at_once(&server, 1, RIGHT).await.remove(0);
        assert!(held_against(&server).0 >= 1);
        open.add_permits(2);
        uncounted.expect("235").await;
        counted.expect("235").await;
        assert_eq!(held_against(&server), (0, 0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_stays_in_progress_after_its_end() {
    let never = || with_auth(|_| std::future::pending());
    let one = Rate::per_hour(1).unwrap();

    let server = never();
    let mut client = all_at_once(&server, 1, RIGHT).await.remove(0);
    assert_eq!(held_against(&server).0, 1);
    let session = client.take_session();
    drop(client);
    session.await.unwrap();
    assert_eq!(held_against(&server), (0, 0, 0), "its client is lost");

    let mut client = all_at_once(&server, 1, RIGHT).await.remove(0);
    let session = client.take_session();
    session.abort();
    assert!(session.await.unwrap_err().is_cancelled());
    assert_eq!(held_against(&server), (0, 0, 0), "its task is aborted");

    let mut client = all_at_once(&server, 1, RIGHT).await.remove(0);
    client.expect("454").await;
    assert_eq!(held_against(&server), (0, 0, 0), "its service is too slow");

    // One waits for the other, and is given up.
    let server = never().guard(Guard::new().failed_logins(one));
    let mut clients = all_at_once(&server, 2, RIGHT).await;
    for session in [clients[1].take_session(), clients[0].take_session()] {
        assert_eq!(held_against(&server).0, 1);
        session.abort();
        assert!(session.await.unwrap_err().is_cancelled());
    }
    assert_eq!(held_against(&server), (0, 0, 0), "both are aborted");
}

#[tokio::test(start_paused = true)]
async fn a_login_that_is_given_up_while_it_waits_takes_the_turn_of_the_next() {
    let guard = Guard::new().failed_logins(Rate::per_hour(1).unwrap());
    let (server, open) = with_gate(guard);
    let mut clients = all_at_once(&server, 4, RIGHT).await;
    let mut clients = clients.drain(..);
    let (mut first, mut second) = (clients.next().unwrap(), clients.next().unwrap());
    let (mut third, mut fourth) = (clients.next().unwrap(), clients.next().unwrap());
    second.take_session().abort();
    open.add_permits(1);
    first.expect("235").await;
    settle().await;
    // The third has the turn of the first, and is aborted with it.
    assert_eq!(held_against(&server), (1, 0, 0));
    third.take_session().abort();
    open.add_permits(1);
    fourth.expect("235").await;
    assert_eq!(held_against(&server), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_faults_of_a_server_are_held_against_its_clients() {
    type Answer = fn() -> Result<AuthOutcome, BoxError>;
    let answers: [(Answer, &str); 5] = [
        (|| Err("the directory is down".into()), "454"),
        (|| panic!("on purpose"), "421"),
        (|| Ok(AuthOutcome::Refuse(Reply::auth_unavailable())), "454"),
        (|| Ok(AuthOutcome::Refuse(Reply::closing("busy"))), "421"),
        (
            || {
                let reply = Reply::rejected("broken").with_origin(Origin::Fault);
                Ok(AuthOutcome::Refuse(reply))
            },
            "554",
        ),
    ];
    for (answer, code) in answers {
        let server = with_auth(move |_| async move { answer() });
        for _ in 0..50 {
            let mut client = greeted(&server).await;
            for _ in 0..6 {
                client.cmd(RIGHT, code).await;
                if code == "421" {
                    break;
                }
            }
        }
        settle().await;
        assert_eq!(held_against(&server), (0, 0, 0), "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_exchange_that_is_cancelled_is_a_failure_or_stays_in_progress() {
    let server = with_auth(|_| async { secret() })
        .configure(|config| config.mechanisms(Mechanisms::default().with(Scram::sha256())));
    let mut client = greeted(&server).await;
    client.cmd("AUTH LOGIN", "334").await;
    assert_eq!(held_against(&server), (0, 0, 0), "nothing is compared yet");
    client.cmd("*", "501").await;
    settle().await;
    assert_eq!(held_against(&server), (0, 0, 1));
    // The service has answered, and the client has not.
    client
        .cmd("AUTH SCRAM-SHA-256 biwsbj1hbGljZSxyPWFiYw==", "334")
        .await;
    assert_eq!(held_against(&server), (1, 0, 1));
    client.cmd("*", "501").await;
    settle().await;
    assert_eq!(held_against(&server), (0, 0, 2));
}

#[tokio::test(start_paused = true)]
async fn the_refusal_of_a_login_takes_longer_than_a_service_may() {
    let server = with_auth(|_| async {
        sleep(Duration::from_millis(2900)).await;
        secret()
    })
    .guard(Guard::new().failed_logins(Rate::per_hour(1).unwrap()))
    .configure(|config| {
        config.timeouts(|timeouts| {
            (timeouts.ready, timeouts.call) = (2 * SECOND, 3 * SECOND);
        })
    });
    let (told, mut origins) = tokio::sync::mpsc::unbounded_channel();
    let server = server.on_reply(move |_, answered| {
        let _ = told.send(answered.origin());
    });
    // The second waits for the first, for a second at most.
    let mut clients = all_at_once(&server, 1, RIGHT).await;
    let begun = Instant::now();
    clients.extend(all_at_once(&server, 1, RIGHT).await);
    clients[1].expect("454 4.7.0 Too many").await;
    assert_eq!(begun.elapsed(), SECOND);
    assert_eq!(origins.recv().await, Some(Origin::Guard));
    // Its time begins when it has its turn.
    sleep(Duration::from_millis(1800)).await;
    clients[1].send(format!("{RIGHT}\r\n")).await;
    clients[0].expect("235").await;
    clients[1].expect("235").await;
    assert!(begun.elapsed() >= 5 * SECOND, "{:?}", begun.elapsed());
    assert!(origins.try_recv().is_err());
}
