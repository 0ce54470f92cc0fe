//! A worker over a store in memory, with a clock that only moves when all wait.

mod deliveries;
mod sites;
mod store;
mod world;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use smtpd_core::{
    address::ForwardPath,
    envelope::{Envelope, Recipient},
    reply::{DataReply, Reply},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tower::{BoxError, Service, service_fn};

use self::store::Memory;
use super::{Clock, Worker};
use crate::{
    body::Body,
    phase::{Data, Request},
    queue::{Job, QueueError, QueueEvent, Store},
    session::{QueueId, Session, SessionFacts},
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// A clock that agrees with the timers.
fn clock() -> Clock {
    let (system, start) = (SystemTime::now(), Instant::now());
    Arc::new(move || system + start.elapsed())
}

fn envelope(sender: &str, recipients: &[&str]) -> Envelope {
    let mut envelope = match sender {
        "" => Envelope::default(),
        sender => Envelope::new(sender.parse().unwrap()),
    };
    for recipient in recipients {
        let (path, parameters) = recipient.split_once(' ').unwrap_or((recipient, ""));
        let path: ForwardPath = path.parse().unwrap();
        envelope.push(Recipient::new(path, parameters.parse().unwrap()));
    }
    envelope
}

async fn put(store: &Memory, now: SystemTime, envelope: Envelope) -> QueueId {
    let message = Body::from("Subject: hi\r\n\r\nHello\r\n")
        .spool(1000)
        .await
        .unwrap();
    let mut job = Job::new(SessionFacts::from(&Session::local()), envelope);
    job.created = crate::queue::job::millis(now);
    let released = crate::queue::terms::Terms::of(&job).released;
    store.put(job.with_due(released), message).await.unwrap()
}

/// A service that replies what a function says, and how often it was called.
fn replies(
    reply: impl Fn(&Envelope) -> DataReply + Clone + Send + 'static,
) -> impl Service<
    Request<Data>,
    Response = DataReply,
    Error = BoxError,
    Future = impl Future<Output = Result<DataReply, BoxError>> + Send,
> + Clone
+ Send {
    service_fn(move |request: Request<Data>| {
        let reply = reply(request.envelope());
        async move {
            sleep(Duration::from_millis(10)).await;
            Ok(reply)
        }
    })
}

fn unreachable() -> Reply {
    "451 4.4.1 Connection refused".parse().unwrap()
}

/// What a worker tells, in one word each.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<QueueEvent>>>);

impl Events {
    fn hook(&self) -> impl Fn(&QueueEvent) + Send + Sync + 'static {
        let events = self.clone();
        move |event| events.0.lock().unwrap().push(event.clone())
    }

    fn words(&self) -> Vec<String> {
        let events = self.0.lock().unwrap();
        let word = |event: &QueueEvent| match event {
            QueueEvent::Queued { .. } => Some("queued".to_owned()),
            QueueEvent::Attempted { destination, .. } => Some(format!("to {destination}")),
            QueueEvent::Delivered { recipient, .. } => Some(format!("delivered {recipient}")),
            QueueEvent::Deferred { recipient, .. } => Some(format!("deferred {recipient}")),
            QueueEvent::Bounced { recipient, .. } => Some(format!("bounced {recipient}")),
            QueueEvent::Expired { recipient, .. } => Some(format!("expired {recipient}")),
        };
        events.iter().filter_map(word).collect()
    }

    fn count(&self, word: &str) -> usize {
        let words = self.words();
        words.iter().filter(|one| one.starts_with(word)).count()
    }
}

type RunningWorker = JoinHandle<Result<(), QueueError>>;

fn start<S>(worker: Worker<Memory, S>) -> RunningWorker
where
    S: Service<Request<Data>, Response = DataReply, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    tokio::spawn(worker.run())
}
