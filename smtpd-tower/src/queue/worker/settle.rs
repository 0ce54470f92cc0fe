//! How results are recorded: first the sender is told, then the lease is settled, so that a crash may double what he is told, but
//! never loses it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use super::{
    conclude::{Conclusion, Judge, Verdict},
    settings::{Settings, path_of},
};
use crate::{
    body::Body,
    fault::quietly,
    net::PeerAddr,
    queue::{Job, Leased, Outcome, QueueError, QueueEvent, Store, dsn::Report, job::millis},
    session::{QueueId, SessionFacts},
};

/// The latest lease of a message. It changes if one has ended and the store leases the message again.
pub(super) type Lease = Arc<Mutex<Leased>>;

/// The longest wait before the store is asked again after it has failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Records what a message's deliveries have led to, however long that takes.
pub(super) async fn settle<T: Store>(
    store: T,
    settings: Settings,
    lease: Lease,
    verdicts: Vec<(usize, Verdict)>,
    now: SystemTime,
) {
    let leased = current(&lease);
    let judge = Judge::new(leased.job(), &settings.schedule, now);
    let conclusion = judge.conclude(verdicts);
    let mut pause = Duration::from_secs(1);
    while !conclusion.notices.is_empty() {
        match tell(&store, &settings, &leased, &conclusion, now).await {
            Ok(()) => break,
            Err(error) => wait(&mut pause, leased.job().id(), &error).await,
        }
    }
    while !record(&store, &lease, &conclusion, &mut pause).await {}
    #[cfg(feature = "metrics")]
    count(&settings, leased.job(), &conclusion, now);
    report(&settings, leased.job(), conclusion);
}

fn current(lease: &Lease) -> Leased {
    let leased = lease.lock().unwrap_or_else(PoisonError::into_inner);
    leased.clone()
}

async fn wait(pause: &mut Duration, id: &QueueId, error: &QueueError) {
    quietly(|| tracing::error!(%id, %error, "the results of a delivery cannot be recorded yet"));
    tokio::time::sleep(*pause).await;
    *pause = (*pause * 2).min(LONGEST_PAUSE);
}

/// Settles the lease. Returns whether that is done, or not to be done.
async fn record<T: Store>(
    store: &T,
    lease: &Lease,
    conclusion: &Conclusion,
    pause: &mut Duration,
) -> bool {
    let leased = current(lease);
    let (id, token) = (leased.job().id().clone(), leased.token());
    match store.settle(leased, conclusion.outcomes.clone()).await {
        Ok(()) | Err(QueueError::NotFound(_) | QueueError::Closed) => true,
        // It may have been leased again meanwhile, by the same worker.
        Err(QueueError::LeaseLost(_)) => current(lease).token() == token,
        Err(error) => {
            wait(pause, &id, &error).await;
            false
        }
    }
}

/// Puts a notification into the store.
async fn tell<T: Store>(
    store: &T,
    settings: &Settings,
    leased: &Leased,
    conclusion: &Conclusion,
    now: SystemTime,
) -> Result<(), QueueError> {
    let (job, id) = (leased.job(), QueueId::unique());
    let hostname = settings.hostname.as_deref();
    let report = Report {
        job,
        notices: &conclusion.notices,
        now,
        id: &id,
        hostname: hostname.unwrap_or(&job.facts().hostname),
        return_limit: settings.return_limit,
    };
    let Some((envelope, bytes)) = report.write(leased.message()).await else {
        return Ok(());
    };
    let facts = SessionFacts::new(0, PeerAddr::Unknown, PeerAddr::Unknown, report.hostname);
    let limit = bytes.len();
    let spooled = Body::from(bytes).spool(limit).await;
    let message = spooled.map_err(|error| QueueError::io("keep a report", error.into()))?;
    let mut notification = Job::new(facts, envelope).with_id(id).with_due(now);
    notification.created = millis(now);
    let id = store.put(notification, message).await?;
    let about = job.id().clone();
    settings.events.tell(&QueueEvent::Queued { id, about });
    Ok(())
}

/// Counts what has become of each recipient.
#[cfg(feature = "metrics")]
fn count(settings: &Settings, job: &Job, conclusion: &Conclusion, now: SystemTime) {
    for (number, outcome) in &conclusion.outcomes {
        let (word, is_end) = match outcome {
            Outcome::Delivered(_) => ("delivered", true),
            Outcome::Failed(_) if conclusion.expired.contains(number) => ("expired", true),
            Outcome::Failed(_) => ("bounced", true),
            Outcome::Deferred { .. } => ("deferred", false),
            Outcome::Postponed { .. } => continue,
        };
        let age = now.duration_since(job.created()).unwrap_or_default();
        settings.meters.recipient(word, is_end.then_some(age));
    }
}

/// Tells what has become of each recipient.
fn report(settings: &Settings, job: &Job, conclusion: Conclusion) {
    let Conclusion {
        outcomes, expired, ..
    } = conclusion;
    for (number, outcome) in outcomes {
        let Some(recipient) = path_of(job.envelope().recipients(), number) else {
            continue;
        };
        let id = job.id().clone();
        let event = match outcome {
            Outcome::Delivered(reply) => QueueEvent::Delivered {
                id,
                recipient,
                reply,
            },
            Outcome::Deferred { reply, until, .. } => QueueEvent::Deferred {
                id,
                recipient,
                reply,
                until,
            },
            Outcome::Failed(reply) if expired.contains(&number) => QueueEvent::Expired {
                id,
                recipient,
                reply,
            },
            Outcome::Failed(reply) => QueueEvent::Bounced {
                id,
                recipient,
                reply,
            },
            Outcome::Postponed { .. } => continue,
        };
        settings.events.tell(&event);
    }
}
