//! Deliveries to a Maildir against the disk's own limit: the same calls in a plain loop of as many threads.
//!
//! `cargo bench --bench maildir [DIR [MESSAGES]]` works in a directory within DIR, which is to be on the disk that is meant
//! (the default lies in `target`; a `tmpfs` would measure nothing), and prints messages a second and the share of the
//! limit, medians of the rounds. The three ways take turns, so that a disk that drifts hits all alike.

#[allow(dead_code, reason = "each benchmark uses a part of it")]
mod support;

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
    thread,
    time::Instant,
};

use bytes::Bytes;
use smtpd_tower::{Body, Data, Envelope, Request, Session, deliver::Maildir, net::PeerAddr};
use support::{Client, commands, dotted, server_into, text};
use tokio::{runtime::Runtime, task::JoinSet};
use tower::ServiceExt as _;

const ROUNDS: usize = 9;
const AT_ONCE: usize = 64;
const BYTES: usize = 4096;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|a| !a.starts_with("--"));
    let parent = arguments
        .next()
        .unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").to_owned());
    let messages = arguments
        .next()
        .map_or(6400, |number| number.parse().expect("MESSAGES is a number"));
    let runtime = Runtime::new().unwrap();
    // Nothing is deleted before the end: ext4 is slow to create files just after many were deleted.
    let dir = tempfile::tempdir_in(&parent).unwrap();
    let mut rates: [Vec<f64>; 3] = Default::default();
    for round in 0..ROUNDS {
        for (way, rates) in rates.iter_mut().enumerate() {
            let mail = dir.path().join(format!("{round}.{way}"));
            let each = messages / AT_ONCE;
            runtime.block_on(Maildir::new(&mail).create()).unwrap();
            let begun = Instant::now();
            match way {
                0 => plain_calls(&mail, each),
                1 => runtime.block_on(calls(&mail, each)),
                _ => runtime.block_on(sessions(&mail, each)),
            }
            rates.push((each * AT_ONCE) as f64 / begun.elapsed().as_secs_f64());
            let delivered = fs::read_dir(mail.join("new")).unwrap().count();
            assert_eq!(delivered, each * AT_ONCE);
        }
    }
    println!("{AT_ONCE} at once, {BYTES} bytes each, in {parent}");
    let limit = rates[0].clone();
    for (name, mut rates) in ["plain calls", "service", "sessions"]
        .into_iter()
        .zip(rates)
    {
        let mut ratios: Vec<_> = rates.iter().zip(&limit).map(|(a, b)| a / b).collect();
        let (rate, ratio) = (median(&mut rates), median(&mut ratios));
        let (least, most) = (rates[0], rates[ROUNDS - 1]);
        println!(
            "{name:>12} {rate:>8.0} a second ({least:.0} to {most:.0}), {ratio:.2} of the limit in the same round"
        );
    }
}

fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// What a delivery is made of, and nothing else.
fn plain_calls(mail: &Path, each: usize) {
    let message = text(BYTES);
    let deliver = |name: &str| -> io::Result<()> {
        let (tmp, new) = (mail.join("tmp").join(name), mail.join("new").join(name));
        let mut file = File::create_new(&tmp)?;
        file.write_all(message.as_bytes())?;
        file.sync_all()?;
        fs::rename(tmp, new)?;
        File::open(mail.join("new"))?.sync_all()
    };
    thread::scope(|scope| {
        for sender in 0..AT_ONCE {
            scope.spawn(move || {
                (0..each).for_each(|n| deliver(&format!("{sender}.{n}")).unwrap());
            });
        }
    });
}

/// The service alone.
async fn calls(mail: &Path, each: usize) {
    let maildir = Maildir::new(mail);
    let message = Bytes::from(text(BYTES));
    let envelope = Envelope::new("sender@example.com".parse().unwrap())
        .with_recipient("recipient@example.org".parse().unwrap());
    let mut senders = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (maildir, message, envelope) = (maildir.clone(), message.clone(), envelope.clone());
        senders.spawn(async move {
            for _ in 0..each {
                let data = Data::new(envelope.clone(), Body::from(message.clone()));
                let request = Request::new(Session::local(), data);
                let reply = maildir.clone().oneshot(request).await.unwrap();
                assert!(reply.is_positive(), "{reply}");
            }
        });
    }
    while let Some(ended) = senders.join_next().await {
        ended.unwrap();
    }
}

/// The service behind sessions over streams in memory.
async fn sessions(mail: &Path, each: usize) {
    let server = server_into(Maildir::new(mail));
    let message: Vec<Bytes> = vec![commands(1).concat().into(), dotted(BYTES)];
    let mut sessions = JoinSet::new();
    for _ in 0..AT_ONCE {
        let client = Client::new((0..each).flat_map(|_| message.clone()));
        let peer = PeerAddr::from(([192, 0, 2, 1], 4000));
        sessions.spawn(server.serve_connection(client, peer));
    }
    while let Some(ended) = sessions.join_next().await {
        ended.unwrap();
    }
}
