//! Random messages, services, faults of the store and ends of the process. A seed determines the whole run.

use std::collections::{BTreeMap, BTreeSet};

use smtpd_core::parameter::EnvelopeId;

use super::*;
use crate::queue::{RecipientStatus, Schedule, terms::notify_of};

/// A step of a sequence that looks random.
pub(super) fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// What the services see, over all lives of the process.
#[derive(Default)]
struct Seen {
    seed: u64,
    /// Message and recipient of each delivery that runs.
    running: BTreeSet<(QueueId, String)>,
    /// How often each was delivered.
    delivered: BTreeMap<(QueueId, String), usize>,
    by_domain: BTreeMap<String, usize>,
}

struct Delivery {
    seen: Arc<Mutex<Seen>>,
    id: QueueId,
    paths: Vec<String>,
    domain: String,
}

impl Delivery {
    fn begin(seen: &Arc<Mutex<Seen>>, request: &Request<Data>) -> Self {
        let id = request.session().transaction().get::<QueueId>().unwrap();
        let recipients = request.envelope().recipients().iter();
        let paths: Vec<_> = recipients
            .map(|one| one.path().as_str().to_owned())
            .collect();
        let domain = paths[0].split_once('@').unwrap().1.to_owned();
        let mut locked = seen.lock().unwrap();
        for path in &paths {
            assert!(path.ends_with(&domain));
            let is_new = locked.running.insert((id.clone(), path.clone()));
            assert!(is_new, "two deliveries of {path} at the same time");
        }
        let count = locked.by_domain.entry(domain.clone()).or_default();
        *count += 1;
        assert!(*count <= 2, "too many deliveries to {domain}");
        assert!(locked.by_domain.values().sum::<usize>() <= 5);
        drop(locked);
        Self {
            seen: seen.clone(),
            id,
            paths,
            domain,
        }
    }

    fn replies(&self) -> DataReply {
        let mut seen = self.seen.lock().unwrap();
        let mut replies = Vec::new();
        for path in &self.paths {
            replies.push(match next(&mut seen.seed) % 6 {
                0 => Reply::no_such_user(),
                1 => Reply::mailbox_full(),
                2 if self.domain != "sender.example" => unreachable(),
                _ => {
                    let key = (self.id.clone(), path.clone());
                    *seen.delivered.entry(key).or_default() += 1;
                    Reply::OK
                }
            });
        }
        DataReply::each(replies)
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let mut seen = self.seen.lock().unwrap();
        for path in &self.paths {
            seen.running.remove(&(self.id.clone(), path.clone()));
        }
        *seen.by_domain.get_mut(&self.domain).unwrap() -= 1;
    }
}

fn service(
    seen: Arc<Mutex<Seen>>,
) -> impl Service<
    Request<Data>,
    Response = DataReply,
    Error = BoxError,
    Future = impl Future<Output = Result<DataReply, BoxError>> + Send,
> + Clone
+ Send {
    service_fn(move |request: Request<Data>| {
        let delivery = Delivery::begin(&seen, &request);
        async move {
            let random = next(&mut delivery.seen.lock().unwrap().seed);
            sleep(Duration::from_millis(random % 30_000)).await;
            match random % 13 {
                0 => panic!("on purpose"),
                1 => Err("broken".into()),
                2 => std::future::pending().await,
                _ => Ok(delivery.replies()),
            }
        }
    })
}

fn worker(store: &Memory, clock: &Clock, seen: &Arc<Mutex<Seen>>) -> super::super::RunWorker {
    let schedule = Schedule::default().lifetime(6 * HOUR).warn_after(HOUR);
    Worker::new(store.clone(), service(seen.clone()))
        .clock(clock.clone())
        .concurrency(5)
        .destination_concurrency(2)
        .delivery_timeout(60 * SECOND)
        .lease(120 * SECOND)
        .schedule(schedule)
        .run()
}

fn random_envelope(seed: &mut u64, number: usize) -> Envelope {
    let count = 1 + next(seed) % 5;
    let recipients = (0..count).map(|number| {
        let notify = [
            "",
            " NOTIFY=NEVER",
            " NOTIFY=SUCCESS,FAILURE",
            " NOTIFY=DELAY",
        ];
        let notify = notify[(next(seed) % 4) as usize];
        format!("r{number}@{}.example{notify}", next(seed) % 4)
    });
    let recipients: Vec<_> = recipients.collect();
    let sender = ["s@sender.example", ""][usize::from(next(seed).is_multiple_of(4))];
    let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
    let id = format!("ENVID=message{number}").parse().unwrap();
    envelope(sender, &recipients).with_parameters(id)
}

async fn play(seed: u64) {
    println!("seed {seed}");
    let (store, clock) = (Memory::default(), clock());
    let seen = Arc::new(Mutex::new(Seen {
        seed,
        ..Seen::default()
    }));
    let mut seed = seed;
    let mut accepted = BTreeMap::new();
    for _ in 0..4 {
        for _ in 0..8 {
            let envelope = random_envelope(&mut seed, accepted.len());
            let id = put(&store, clock(), envelope.clone()).await;
            accepted.insert(id, envelope);
        }
        store.state().faults = [None, Some(3), Some(10)][(next(&mut seed) % 3) as usize];
        let running = tokio::spawn(worker(&store, &clock, &seen));
        // Somewhere between two awaits.
        let yields = next(&mut seed) % 50;
        sleep(Duration::from_millis(next(&mut seed) % 600_000)).await;
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
        running.abort();
        assert!(running.await.unwrap_err().is_cancelled());
        assert!(
            seen.lock().unwrap().running.is_empty(),
            "a delivery has outlived its worker"
        );
        store.state().faults = None;
        store.crash();
    }
    let running = tokio::spawn(worker(&store, &clock, &seen));
    for _ in 0..200 {
        sleep(HOUR / 10).await;
        if store.len() == 0 {
            break;
        }
    }
    running.abort();
    assert_eq!(
        store.len(),
        0,
        "something is neither delivered nor given up"
    );
    let delivered = seen.lock().unwrap().delivered.clone();
    check(&store, &accepted, &delivered).await;
}

async fn check(
    store: &Memory,
    accepted: &BTreeMap<QueueId, Envelope>,
    delivered: &BTreeMap<(QueueId, String), usize>,
) {
    let told = store.all_notifications().await;
    let ends = store.state().ends.clone();
    let mut counts = [0; 3];
    for (id, envelope) in accepted {
        for (number, recipient) in envelope.recipients().iter().enumerate() {
            let path = recipient.path().as_str();
            let delivered = delivered.contains_key(&(id.clone(), path.to_owned()));
            let action = match ends.get(&(id.clone(), number)) {
                Some(RecipientStatus::Delivered) => {
                    assert!(delivered, "{path} has nothing");
                    "delivered"
                }
                Some(RecipientStatus::Failed) => "failed",
                other => panic!("{path} has no end: {other:?}"),
            };
            let notify = notify_of(recipient.parameters());
            let wanted = match action {
                "failed" => notify.has_failure(),
                _ => notify.has_success(),
            };
            let message: EnvelopeId = envelope.parameters().get().unwrap();
            let message = format!("Original-Envelope-Id: {}\r\n", message.as_str());
            let what = format!("Final-Recipient: rfc822; {path}\r\nAction: {action}\r\n");
            let mut told = told.iter();
            let is_told = told.any(|text| text.contains(&message) && text.contains(&what));
            let wanted = wanted && !envelope.sender().is_null();
            assert!(is_told || !wanted, "nobody was told: {what}");
            counts[0] += usize::from(is_told);
            counts[1] += usize::from(!wanted);
            counts[2] += usize::from(action == "failed");
        }
    }
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn random_faults_and_ends_of_the_process_lose_no_recipient() {
    for seed in 0..40 {
        play(seed).await;
    }
}
