//! A disk in memory that fails when it is told to, and a model of what must be on it.

mod delivering;
mod faults;
mod files;
mod killed;
mod world;

use std::time::{Duration, SystemTime};

use smtpd_core::envelope::Envelope;

use super::FileStore;
use crate::{
    body::{Body, Spooled},
    queue::{Job, Leased, Outcome, Store},
    session::{Session, SessionFacts},
};

fn job(recipients: usize) -> Job {
    let mut envelope = Envelope::new("a@example.com".parse().unwrap());
    for number in 0..recipients {
        let recipient = format!("r{number}@example.org").parse().unwrap();
        envelope = envelope.with_recipient(recipient);
    }
    Job::new(SessionFacts::from(&Session::local()), envelope)
}

async fn message(body: &str) -> Spooled {
    let body = Body::from(body.to_owned().into_bytes());
    body.spool(1 << 20).await.unwrap()
}

async fn lease_all(store: &FileStore) -> Vec<Leased> {
    let now = SystemTime::now() + Duration::from_secs(60);
    let until = now + Duration::from_secs(600);
    store.lease(now, 1000, until).await.unwrap()
}

fn delivered(leased: &Leased) -> Vec<(usize, Outcome)> {
    let pending = leased.job().pending();
    let done = |number| (number, Outcome::Delivered(smtpd_core::reply::Reply::OK));
    pending.map(|(number, ..)| done(number)).collect()
}
