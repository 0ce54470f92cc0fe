//! The router at DATA: each service is asked once, for its own recipients and the whole message, and each recipient gets its
//! own reply, also if the services of others hang or panic.
#![no_main]

use std::{
    future::{pending, poll_fn},
    panic,
    sync::{Arc, Mutex, Once},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use smtpd_tower::{
    Body, BodyError, BoxError, Data, DataReply, Envelope, Reply, Request,
    address::ReversePath,
    config::Protocol,
    fuzzing,
    net::PeerAddr,
    reply::{Code, Status},
    router::Router,
};
use smtpd_tower_fuzz::{Choices, block_on, body, drive, reply};
use tower::{ServiceExt, service_fn};

const MOST_ROUTES: usize = 5;

fuzz_target!(|input: &[u8]| {
    expect_panics();
    let mut choices = Choices(input);
    let flags = choices.byte();
    let plans: Vec<_> = (0..1 + choices.below(MOST_ROUTES))
        .map(|_| Plan::read(&mut choices))
        .collect();
    let ahead = usize::from(choices.byte());
    let cuts = choices.cuts();
    let recipients: Vec<_> = (0..choices.below(12))
        .map(|_| choices.below(plans.len() + 1))
        .collect();
    let case = Case {
        protocol: if flags & 1 != 0 {
            Protocol::Smtp
        } else {
            Protocol::Lmtp
        },
        end: if flags & 2 != 0 {
            Ok(())
        } else {
            Err(BodyError::Incomplete)
        },
        otherwise: (flags & 4 != 0).then(|| reply(flags >> 3)),
        message: choices.0,
        plans,
        recipients,
    };
    case.check(cuts, ahead);
});

/// What one service does with its message.
#[derive(Clone, Debug)]
struct Plan {
    /// How many pieces it waits for its own sake before each.
    waits: usize,
    /// How many pieces it reads; `None` for all.
    pieces: Option<usize>,
    /// What it answers: one reply for all, one for each, or an error.
    answer: Vec<u8>,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Answers,
    Fails,
    Hangs,
    Panics,
}

/// The message of the panics that are part of a plan.
const ON_PURPOSE: &str = "on purpose";

/// libFuzzer's hook aborts at any panic, also at those that are caught.
fn expect_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let aborting = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if info.payload_as_str() != Some(ON_PURPOSE) {
                aborting(info);
            }
        }));
    });
}

impl Plan {
    fn read(choices: &mut Choices<'_>) -> Self {
        let (flags, pieces) = (choices.byte(), choices.below(9));
        Self {
            waits: usize::from(flags & 3),
            pieces: (flags & 4 != 0).then_some(pieces),
            answer: choices.cuts().to_vec(),
            end: match flags >> 3 & 3 {
                0 => End::Answers,
                1 => End::Fails,
                2 => End::Hangs,
                _ => End::Panics,
            },
        }
    }

    /// The reply for its recipient of that number.
    fn reply(&self, number: usize) -> Reply {
        let local_error = || Reply::try_again("Local error in processing");
        match (self.end, &self.answer[..]) {
            (End::Panics, _) | (End::Fails, []) => local_error(),
            (End::Fails, [first, ..]) => reply(*first),
            (End::Hangs, _) => Reply::new(
                Code::LOCAL_ERROR,
                Status::MAIL_SYSTEM,
                "Timed out, try again later",
            ),
            (End::Answers, []) => Reply::try_again("No answer"),
            (End::Answers, answer) => reply(answer[number.min(answer.len() - 1)]),
        }
    }

    async fn result(&self) -> Result<DataReply, BoxError> {
        match (self.end, self.answer.first()) {
            (End::Answers, _) => Ok(DataReply::each(self.answer.iter().copied().map(reply))),
            (End::Fails, Some(first)) => Err(reply(*first).into()),
            (End::Fails, None) => Err("a fault".into()),
            (End::Hangs, _) => pending().await,
            (End::Panics, _) => panic!("{ON_PURPOSE}"),
        }
    }
}

/// What a service was asked.
#[derive(Debug)]
struct Asked {
    envelope: Arc<Envelope>,
    read: Bytes,
    end: Option<Result<(), BodyError>>,
}

type Log = Arc<Mutex<Vec<Asked>>>;

#[derive(Debug)]
struct Case<'a> {
    protocol: Protocol,
    end: Result<(), BodyError>,
    otherwise: Option<Reply>,
    message: &'a [u8],
    plans: Vec<Plan>,
    /// The number of a plan for each, or a greater one for a recipient that no route matches.
    recipients: Vec<usize>,
}

impl Case<'_> {
    fn check(&self, cuts: &[u8], ahead: usize) {
        let logs: Vec<_> = self.plans.iter().map(|_| Log::default()).collect();
        let call = self.router(&logs, ahead).oneshot(self.request(cuts));
        let hangs = self.plans.iter().any(|plan| plan.end == End::Hangs);
        // Without one that hangs, no time passes: a wake that is lost is noticed.
        let answer = block_on(async { if hangs { call.await } else { drive(call) } });
        let otherwise = self.otherwise.clone();
        let otherwise = otherwise.unwrap_or_else(|| Reply::try_again("No delivery is set up"));
        let is_lost = |number: &usize| *number >= self.plans.len();
        let refused = self.recipients.iter().any(is_lost) && !otherwise.is_positive();
        if refused && self.protocol == Protocol::Smtp || self.recipients.iter().all(is_lost) {
            // Nobody delivers what is refused for another.
            assert!(
                logs.iter().all(|log| log.lock().unwrap().is_empty()),
                "{self:?}"
            );
            return assert_eq!(answer.expect("an answer"), otherwise, "{self:?}");
        }
        let mut told = vec![0; self.plans.len()];
        let expected: Vec<_> = self
            .recipients
            .iter()
            .map(|&number| match self.plans.get(number) {
                Some(plan) => {
                    told[number] += 1;
                    plan.reply(told[number] - 1)
                }
                None => otherwise.clone(),
            })
            .collect();
        match answer {
            Ok(answer) => self.check_answer(&answer, &expected),
            // The error of a single service is that of the router.
            Err(_) => assert!(
                told.iter().filter(|&&told| told > 0).count() == 1,
                "{self:?}"
            ),
        }
        for (number, log) in logs.iter().enumerate() {
            self.check_asked(number, &log.lock().unwrap());
        }
    }

    fn check_answer(&self, answer: &DataReply, expected: &[Reply]) {
        for (number, expected) in expected.iter().enumerate() {
            assert_eq!(
                answer.for_recipient(number),
                expected,
                "{number} of {self:?}"
            );
        }
        // A service that has more replies than recipients, and all of these, is not corrected.
        if answer.replies().len() > expected.len() {
            return;
        }
        // Over SMTP there is one reply: positive only if all are, and transient if one is.
        let merged = answer.merged();
        assert_eq!(
            merged.is_positive(),
            expected.iter().all(Reply::is_positive),
            "{self:?}"
        );
        let is_transient = expected.iter().any(|reply| reply.code().is_transient());
        assert_eq!(merged.code().is_transient(), is_transient, "{self:?}");
    }

    fn check_asked(&self, number: usize, asked: &[Asked]) {
        let own: Vec<_> = (0..self.recipients.len())
            .filter(|&at| self.recipients[at] == number)
            .map(|at| address(at, number))
            .collect();
        assert_eq!(asked.len(), usize::from(!own.is_empty()), "{self:?}");
        let Some(asked) = asked.first() else { return };
        let paths = asked.envelope.recipients().iter();
        let paths: Vec<_> = paths
            .map(|recipient| recipient.path().to_string())
            .collect();
        assert_eq!(paths, own, "{self:?}");
        assert!(self.message.starts_with(&asked.read), "{self:?}");
        match &asked.end {
            Some(Ok(())) => assert!(self.end.is_ok() && asked.read == self.message, "{self:?}"),
            Some(Err(_)) => assert!(self.end.is_err() && asked.read == self.message, "{self:?}"),
            None => assert!(self.plans[number].pieces.is_some(), "{self:?}"),
        }
    }

    fn router(&self, logs: &[Log], ahead: usize) -> Router<Data> {
        // Set, it holds for a route with all recipients too, which otherwise has the server's timeout.
        let limit = Duration::from_secs(405);
        let mut router = Router::new().read_ahead(ahead).route_timeout(limit);
        for (number, (plan, log)) in self.plans.iter().zip(logs).enumerate() {
            let (plan, log) = (plan.clone(), log.clone());
            let service = service_fn(move |request| deliver(plan.clone(), log.clone(), request));
            let domain = domain(number).parse().expect("a domain");
            router = router.domain(domain, service);
        }
        match &self.otherwise {
            Some(reply) => router.otherwise_reply(reply.clone()),
            None => router,
        }
    }

    fn request(&self, cuts: &[u8]) -> Request<Data> {
        let envelope = Envelope::new(ReversePath::Null);
        let addresses = self.recipients.iter().enumerate();
        let envelope = addresses.fold(envelope, |envelope, (at, &number)| {
            let path = address(at, number).parse().expect("an address");
            envelope.with_recipient(path)
        });
        let session = fuzzing::session("mx", "smtpd", PeerAddr::Unknown, self.protocol);
        let body = body(self.message, cuts, self.end.clone());
        Request::new(session, Data::new(envelope, body))
    }
}

async fn deliver(plan: Plan, log: Log, request: Request<Data>) -> Result<DataReply, BoxError> {
    let envelope = request.envelope().clone();
    let mut body = request.into_body();
    let (read, end) = read(&plan, &mut body).await;
    log.lock().unwrap().push(Asked {
        envelope,
        read,
        end,
    });
    plan.result().await
}

async fn read(plan: &Plan, body: &mut Body) -> (Bytes, Option<Result<(), BodyError>>) {
    let mut whole = Vec::new();
    for _ in 0..plan.pieces.unwrap_or(usize::MAX) {
        for _ in 0..plan.waits {
            wait().await;
        }
        match body.chunk().await {
            Some(Ok(piece)) => whole.extend_from_slice(&piece),
            Some(Err(error)) => return (whole.into(), Some(Err(error))),
            None => return (whole.into(), Some(Ok(()))),
        }
    }
    (whole.into(), None)
}

/// Lets others go first.
async fn wait() {
    let mut waited = false;
    poll_fn(|cx| {
        if waited {
            return Poll::Ready(());
        }
        waited = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn domain(number: usize) -> String {
    format!("{number}.example")
}

fn address(at: usize, number: usize) -> String {
    format!("{at}@{}", domain(number))
}
