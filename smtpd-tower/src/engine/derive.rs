//! SCRAM keys that are derived from a password, in another thread than the session's.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use smtpd_core::{
    connection::{Ask, AuthOutcome, Deferred, ask_kind as kind},
    reply::{Origin, Reply},
    sasl::{Credentials, Derivation, Secret},
};

use super::work::{After, Asking, Desk, Polled};
use crate::{
    limiter::ClientKey, net::Prefixes, permits::Unavailable, phase_kind::PhaseKind,
    session::Session,
};

/// A running derivation. The question that its secret answers stays open until it ends.
struct Deriving {
    secret: Pin<Box<dyn Future<Output = Result<Secret, Unavailable>> + Send>>,
    question: Option<Deferred<kind::Auth>>,
}

impl Asking for Deriving {
    fn poll(&mut self, cx: &mut Context<'_>, desk: Desk<'_>) -> Poll<After> {
        let outcome = match ready!(self.secret.as_mut().poll(cx)) {
            Ok(secret) => AuthOutcome::Verify(secret),
            Err(Unavailable) => {
                AuthOutcome::Refuse(Reply::auth_unavailable().with_origin(Origin::Timeout))
            }
        };
        let question = self.question.take();
        if let Some(ask) = question.and_then(|question| desk.connection.resume(question)) {
            ask.answer(outcome);
        }
        Poll::Ready(After::Done)
    }

    fn phase(&self) -> PhaseKind {
        PhaseKind::Auth
    }

    fn is_service(&self) -> bool {
        false
    }
}

/// Passes the answer on, unless comparing its secret would block the thread's sessions. The wait for a processor reveals to a
/// client that a secret was compared, so a service that hides which users exist answers with a secret for unknown ones too.
pub(super) fn authenticate(
    ask: Ask<'_, kind::Auth>,
    session: &Session,
    credentials: &Credentials,
    outcome: AuthOutcome,
) -> After {
    let derivation = match &outcome {
        AuthOutcome::Verify(secret) => credentials.derivation(secret),
        _ => None,
    };
    let Some(derivation) = derivation else {
        ask.answer(outcome);
        return After::Done;
    };
    // Nothing has polled it since the session was woken, although the service may have been polled.
    After::Work(Box::new(derive(ask, session, derivation)), Polled::No)
}

fn derive(ask: Ask<'_, kind::Auth>, session: &Session, derivation: Derivation) -> Deriving {
    let client = ClientKey::of_session(session, Prefixes::CLIENT).map(ClientKey::network);
    let permits = session.permits().clone();
    let secret = async move {
        permits
            .compute(client, None, move || derivation.run())
            .await
    };
    Deriving {
        secret: Box::pin(secret),
        question: Some(ask.defer()),
    }
}

#[cfg(test)]
#[cfg(feature = "test")]
mod tests {
    use std::{
        net::IpAddr,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        thread,
        time::Duration,
    };

    use smtpd_core::{
        connection::AuthOutcome,
        reply::Reply,
        sasl::{Mechanisms, ScramHash, ScramKeys, Secret},
    };
    use tokio::task;

    use crate::{
        guard::Guard,
        permits::Permit,
        phase::{Auth, Request},
        server::Server,
        service::{Pipeline, handler_fn},
        test::Client,
    };

    /// Returns all permits of the sessions that the test kit begins.
    async fn all_permits(server: &Server) -> Vec<Permit> {
        let processors = thread::available_parallelism().unwrap().get();
        let mut permits = Vec::new();
        for _ in 0..processors {
            permits.push(server.own_permits().acquire(None).await.unwrap());
        }
        permits
    }

    fn server() -> Server {
        let keys = ScramKeys::derive(ScramHash::Sha256, "pencil", b"salt", 4096).unwrap();
        // One that answers later is polled within the same wake as the derivation.
        let auth = handler_fn(move |request: Request<Auth>| {
            let secret = Secret::scram(keys.clone());
            async move {
                if request.credentials().username() == "late" {
                    task::yield_now().await;
                }
                AuthOutcome::from(secret)
            }
        });
        Server::new("mx.test", Pipeline::new().auth(auth)).configure(|config| {
            let config = config.mechanisms(Mechanisms::default());
            config
                .allow_insecure_auth(true)
                .timeouts(|timeouts| timeouts.call = Duration::from_secs(20))
        })
    }

    async fn greeted(server: &Server) -> Client {
        greet(Client::connect(server)).await
    }

    async fn greeted_from(server: &Server, ip: [u8; 4]) -> Client {
        greet(Client::from_peer(server, (ip, 4711))).await
    }

    async fn greet(mut client: Client) -> Client {
        client.greeting().await.unwrap();
        client.ehlo("client.test").await.unwrap();
        client
    }

    #[tokio::test]
    async fn other_sessions_are_answered_while_keys_are_derived() {
        let server = server();
        for (name, password, code) in [
            ("alice", "pencil", 235),
            ("late", "pencil", 235),
            ("alice", "Pencil", 535),
        ] {
            let (mut guessing, mut other) = (greeted(&server).await, greeted(&server).await);
            let permits = all_permits(&server).await;
            let guess = task::spawn(async move { guessing.auth_plain(name, password).await });
            for _ in 0..50 {
                let reply = other.noop().await.unwrap();
                reply.expect_code(250).unwrap();
            }
            assert!(
                !guess.is_finished(),
                "the keys were derived without a permit"
            );
            drop(permits);
            guess.await.unwrap().unwrap().expect_code(code).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_waits_for_a_permit_is_answered_in_time() {
        let faults = Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = faults.clone();
        let server =
            server().on_error(move |_, error| seen.lock().unwrap().push(error.to_string()));
        let permits = all_permits(&server).await;
        let mut client = greeted(&server).await;
        let begun = tokio::time::Instant::now();
        let reply = client.auth_plain("alice", "pencil").await.unwrap();
        assert_eq!(reply.to_string(), Reply::auth_unavailable().to_string());
        assert_eq!(begun.elapsed().as_secs(), 10);
        assert_eq!(
            *faults.lock().unwrap(),
            [""; 0],
            "the service is not to blame"
        );
        drop(permits);
        let reply = client.auth_plain("alice", "pencil").await.unwrap();
        reply.expect_code(235).unwrap();
    }

    /// All of them wait before the honest client does. No time passes, so it is turns that count.
    #[tokio::test(start_paused = true)]
    async fn two_hundred_guessers_keep_an_honest_client_from_its_login() {
        let of_one: fn(u8) -> [u8; 4] = |_| [192, 0, 2, 1];
        let of_a_network: fn(u8) -> [u8; 4] = |n| [192, 0, 2, n];
        for address in [of_one, of_a_network] {
            let server = server().guard(Guard::off());
            let permits = all_permits(&server).await;
            let processors = permits.len();
            let answered = Arc::new(AtomicUsize::new(0));
            let mut guessers = task::JoinSet::new();
            for n in 0..200 {
                let mut client = greeted_from(&server, address(n)).await;
                let answered = answered.clone();
                guessers.spawn(async move {
                    client.auth_plain("alice", "guess").await.unwrap();
                    answered.fetch_add(1, Ordering::Relaxed);
                    client
                });
            }
            let own = server.own_permits();
            let waiting = |ip: [u8; 4]| own.waiting(IpAddr::from(ip).into());
            while (0..=255).map(|n| waiting([192, 0, 2, n])).sum::<usize>() < 200 {
                task::yield_now().await;
            }
            let mut honest = greeted_from(&server, [198, 51, 100, 77]).await;
            let login = task::spawn(async move { honest.auth_plain("alice", "pencil").await });
            while waiting([198, 51, 100, 77]) == 0 {
                task::yield_now().await;
            }
            drop(permits);
            login.await.unwrap().unwrap().expect_code(235).unwrap();
            // It has the second turn; others may be answered while its keys are derived.
            let before = answered.load(Ordering::Relaxed);
            assert!(before <= 4 * processors, "after {before} guesses");
            guessers.shutdown().await;
        }
    }

    #[tokio::test]
    async fn a_client_that_leaves_waits_no_more() {
        let server = server();
        let permits = all_permits(&server).await;
        let own = server.own_permits();
        let waiting = || own.waiting(IpAddr::from([198, 51, 100, 77]).into());
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client = Client::from_peer(&server, ([198, 51, 100, 77], 4711));
            client.greeting().await.unwrap();
            client.ehlo("client.test").await.unwrap();
            client
                .raw("AUTH PLAIN AGFsaWNlAHBlbmNpbA==\r\n")
                .await
                .unwrap();
            clients.push(client);
        }
        for _ in 0..1000 {
            task::yield_now().await;
        }
        assert_eq!(waiting(), 3);
        drop(clients);
        for _ in 0..1000 {
            task::yield_now().await;
        }
        assert_eq!(waiting(), 0);
        drop(permits);
    }
}
