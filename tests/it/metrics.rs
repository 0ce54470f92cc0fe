//! What a server records by the facade `metrics`, and the page that lists it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, LocalRecorderGuard, Metadata, Recorder,
    SharedString, Unit, set_default_local_recorder,
};
use smtpd_tower::{
    BoxError, Data, DataReply, Pipeline, Rcpt, Reply, Request, Server, handler_fn,
    layer::{CatchPanicLayer, DomainFilterLayer, MetricsLayer},
    phase::Auth,
    sasl::Secret,
};
use support::*;
use tokio::net::TcpListener;
use tower::{ServiceBuilder, service_fn};

/// A recorder that keeps what is described and registered.
#[derive(Default)]
pub(crate) struct Recorded {
    /// The type and the unit of each name.
    described: Mutex<BTreeMap<String, (&'static str, &'static str)>>,
    values: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    /// The names of the labels of each name.
    labels: Mutex<BTreeMap<String, BTreeSet<String>>>,
}

/// How many values a histogram has.
struct Count(Arc<AtomicU64>);

impl HistogramFn for Count {
    fn record(&self, _: f64) {
        self.0.fetch_add(1, Relaxed);
    }
}

impl Recorded {
    /// Records what happens on this thread until the guard is dropped. The recorder of a test lasts as long as the process.
    pub(crate) fn listen() -> (&'static Self, LocalRecorderGuard<'static>) {
        let recorded = &*Box::leak(Box::<Self>::default());
        (recorded, set_default_local_recorder(recorded))
    }

    fn describe(&self, key: &KeyName, kind: &'static str, unit: Option<Unit>) {
        let unit = match unit {
            Some(Unit::Count) | None => "",
            Some(unit) => unit.as_str(),
        };
        let mut described = self.described.lock().unwrap();
        described.insert(key.as_str().to_owned(), (kind, unit));
    }

    fn register(&self, key: &Key) -> Arc<AtomicU64> {
        let labels = key.labels().map(|label| label.key().to_owned());
        let mut all = self.labels.lock().unwrap();
        all.entry(key.name().to_owned()).or_default().extend(labels);
        let shown = key
            .labels()
            .map(|label| format!(" {}={}", label.key(), label.value()));
        let name = format!("{}{}", key.name(), shown.collect::<String>());
        self.values.lock().unwrap().entry(name).or_default().clone()
    }

    pub(crate) fn value(&self, name: &str) -> u64 {
        let values = self.values.lock().unwrap();
        values.get(name).map_or(0, |value| value.load(Relaxed))
    }

    fn gauge(&self, name: &str) -> f64 {
        f64::from_bits(self.value(name))
    }

    /// The metrics that have a value and begin so.
    pub(crate) fn with_values(&self, start: &str) -> Vec<String> {
        let values = self.values.lock().unwrap();
        let all = values.iter().filter(|(name, _)| name.starts_with(start));
        let all = all.filter(|(_, value)| value.load(Relaxed) > 0);
        all.map(|(name, value)| format!("{name}: {}", value.load(Relaxed)))
            .collect()
    }
}

impl Recorder for Recorded {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(&key, "counter", unit);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(&key, "gauge", unit);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(&key, "histogram", unit);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.register(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.register(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(Count(self.register(key))))
    }
}

fn measured() -> Server {
    let rcpt = ServiceBuilder::new()
        .layer(DomainFilterLayer::parse(["b"]).unwrap())
        .service(handler_fn(async |_: Request<Rcpt>| {}));
    let pipeline = Pipeline::new()
        .auth(handler_fn(async |_: Request<Auth>| {
            Secret::password("secret")
        }))
        .rcpt(rcpt)
        .data(handler_fn(async |request: Request<Data>| {
            let message = request.into_body().collect().await?;
            match message.starts_with(b"bad") {
                true => Ok(Reply::rejected("No")),
                false => Ok::<_, smtpd_tower::BodyError>(Reply::OK),
            }
        }))
        .layer(MetricsLayer::new());
    server(pipeline)
        .configure(|config| config.allow_insecure_auth(true))
        .metrics()
}

/// Two messages, of which one is refused, and other refusals.
async fn talk(server: &Server) {
    let mut client = Client::greeted(server).await;
    client.cmd("EHLO client.example", "250").await;
    client.cmd("AUTH PLAIN AGFsaWNlAHdyb25n", "535").await;
    client.cmd("AUTH PLAIN AGFsaWNlAHNlY3JldA==", "235").await;
    for (message, code) in [("good", "250"), ("bad", "554")] {
        client.cmd("MAIL FROM:<a@b>", "250").await;
        client.cmd("RCPT TO:<a@b>", "250").await;
        client.cmd("RCPT TO:<a@c>", "550").await;
        client.cmd("DATA", "354").await;
        client.send(format!("{message}\r\n.\r\n")).await;
        client.expect(code).await;
    }
    client.cmd("FOO", "500").await;
    client.cmd("QUIT", "221").await;
    client.take_session().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_happens_in_a_session_is_not_counted() {
    let (recorded, _guard) = Recorded::listen();
    let server = measured();
    talk(&server).await;
    assert_eq!(
        recorded.with_values("smtp.server.a"),
        [
            "smtp.server.auth mechanism=PLAIN outcome=accepted: 1",
            "smtp.server.auth mechanism=PLAIN outcome=failed: 1",
        ]
    );
    assert_eq!(
        recorded.with_values("smtp.server.messages"),
        [
            "smtp.server.messages outcome=accepted: 1",
            "smtp.server.messages outcome=rejected: 1",
        ]
    );
    assert_eq!(
        recorded.with_values("smtp.server.recipients"),
        [
            "smtp.server.recipients outcome=accepted: 2",
            "smtp.server.recipients outcome=rejected: 2",
        ]
    );
    assert_eq!(
        recorded.with_values("smtp.server.ref"),
        [
            "smtp.server.refusals origin=DomainFilterLayer phase=rcpt status=5.7.1: 2",
            "smtp.server.refusals origin=protocol phase=auth status=5.7.8: 1",
            "smtp.server.refusals origin=protocol phase=command status=5.5.1: 1",
            "smtp.server.refusals origin=service phase=data status=5.7.1: 1",
        ]
    );
    assert_eq!(
        recorded.with_values("smtp.server.request.duration phase=auth"),
        ["smtp.server.request.duration phase=auth outcome=undecided: 2"]
    );
    assert_eq!(recorded.value("smtp.server.message.size"), 2);
    assert_eq!(recorded.value("smtp.server.session.duration end=quit"), 1);
    assert!(recorded.value("smtp.server.bytes direction=received") > 100);
    assert_eq!(recorded.with_values("smtp.server.faults"), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_dropped_stays_active() {
    let (recorded, _guard) = Recorded::listen();
    let server = measured();
    let active = || recorded.gauge("smtp.server.sessions.active profile=none");
    let mut client = Client::greeted(&server).await;
    let other = Client::greeted(&server).await;
    assert_eq!(active(), 2.0);
    let session = client.take_session();
    session.abort();
    assert!(session.await.unwrap_err().is_cancelled());
    assert_eq!(active(), 1.0);
    drop(other);
    settle().await;
    server.handle().shutdown(Duration::from_secs(1)).await;
    assert_eq!(active(), 0.0);
    assert_eq!(
        recorded.value("smtp.server.session.duration end=aborted"),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_connection_over_the_limit_is_not_counted() {
    let (recorded, _guard) = Recorded::listen();
    let server = measured().max_sessions(1);
    let _first = Client::greeted(&server).await;
    let mut second = Client::connect(&server);
    second.expect("421").await;
    let refused = recorded.value("smtp.server.connections.refused limit=max_sessions");
    assert_eq!(refused, 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_recorded_unless_it_is_wanted() {
    let (recorded, _guard) = Recorded::listen();
    let mut client = Client::greeted(&server(accept_rcpt())).await;
    client.cmd("FOO", "500").await;
    client.cmd("QUIT", "221").await;
    assert!(recorded.labels.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_page_lists_every_metric_and_no_other() {
    let (recorded, _guard) = Recorded::listen();
    let server = measured();
    talk(&server).await;
    let mut overdue = Client::greeted(&server.clone().max_sessions(1)).await;
    Client::connect(&server.clone().max_sessions(1))
        .expect("421")
        .await;
    overdue.cmd("QUIT", "221").await;

    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("smtpd-tower/docs/metrics.md");
    let page = fs::read_to_string(page).unwrap();
    let described = recorded.described.lock().unwrap();
    let labels = recorded.labels.lock().unwrap();
    let mut listed = BTreeSet::new();
    for row in page
        .lines()
        .filter(|line| line.starts_with("| `smtp.server."))
    {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let name = cells[1].trim_matches('`');
        let (kind, unit) = described[name];
        assert_eq!((cells[2], cells[3]), (kind, unit), "{name}");
        let named = cells[4].split(", ").map(|l| l.trim_matches('`').to_owned());
        let named: BTreeSet<_> = named.filter(|l| !l.is_empty()).collect();
        assert_eq!(Some(&named), labels.get(name), "{name}");
        listed.insert(name.to_owned());
    }
    let described: BTreeSet<_> = described.keys().cloned().collect();
    assert_eq!(listed, described);
    let registered: BTreeSet<_> = labels.keys().cloned().collect();
    assert_eq!(registered, described);
}

#[cfg(unix)]
#[tokio::test]
async fn the_page_lists_every_metric_of_a_queue_and_no_other() {
    use smtpd_tower::{
        Body, Envelope, Session,
        queue::{FileStore, Job, Store, Worker},
        session::SessionFacts,
    };
    let (recorded, _guard) = Recorded::listen();
    let dir = tempfile::tempdir().unwrap();
    let store = FileStore::open(dir.path().join("queue")).await.unwrap();
    let store = store.metrics();
    let service = service_fn(async |_: Request<Data>| Ok::<_, BoxError>(Reply::no_such_user()));
    let running = tokio::spawn(Worker::new(store.clone(), service).metrics().run());
    let before = recorded.value("smtp.queue.commit.duration");
    let envelope = Envelope::default().with_recipient("b@example.org".parse().unwrap());
    let job = Job::new(SessionFacts::from(&Session::local()), envelope);
    let message = Body::from("Hello\r\n").spool(99).await.unwrap();
    store.put(job, message).await.unwrap();
    while recorded.value("smtp.queue.recipients outcome=bounced") == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    running.abort();
    store.close().await;
    assert!(recorded.value("smtp.queue.commit.duration") > before);
    assert_eq!(recorded.value("smtp.queue.attempts outcome=rejected"), 1);
    assert_eq!(recorded.value("smtp.queue.age"), 1);
    assert_eq!(recorded.gauge("smtp.queue.messages"), 0.0);

    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("smtpd-tower/docs/metrics.md");
    let page = fs::read_to_string(page).unwrap();
    let rows = page.lines().filter(|row| row.starts_with("| `smtp.queue."));
    let (described, labels) = (
        recorded.described.lock().unwrap(),
        recorded.labels.lock().unwrap(),
    );
    let mut listed = BTreeSet::new();
    for row in rows {
        let cells: Vec<_> = row
            .split('|')
            .map(|cell| cell.trim().replace('`', ""))
            .collect();
        let name = &cells[1];
        let (kind, unit) = described[name];
        assert_eq!((&*cells[2], &*cells[3]), (kind, unit), "{name}");
        let own: Vec<_> = labels[name].iter().cloned().collect();
        assert_eq!(own.join(", "), cells[4], "{name}");
        listed.insert(name.clone());
    }
    let all: BTreeSet<_> = described.keys().cloned().collect();
    assert_eq!(listed, all);
}

/// A dashboard cannot tell what has not happened from what does not exist.
#[tokio::test]
async fn a_metric_appears_with_its_first_event() {
    let (recorded, _guard) = Recorded::listen();
    let server = measured();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let handle = server.handle();
    let serving = tokio::spawn(async move { server.serve(listener).await });
    settle().await;
    let described: Vec<_> = recorded.described.lock().unwrap().keys().cloned().collect();
    for name in described {
        assert!(
            recorded.labels.lock().unwrap().contains_key(&name),
            "{name}"
        );
    }
    let before: BTreeSet<_> = recorded.values.lock().unwrap().keys().cloned().collect();
    for name in [
        "smtp.server.auth mechanism=LOGIN outcome=failed",
        "smtp.server.connections.refused limit=all_handshakes",
        "smtp.server.connections.refused limit=idle_sessions",
        "smtp.server.connections.refused limit=max_sessions",
        "smtp.server.connections.refused limit=memory_budget",
        "smtp.server.disk.waiting",
        "smtp.server.faults kind=panic",
        "smtp.server.messages outcome=deferred",
        "smtp.server.passwords.waiting",
        "smtp.server.recipients outcome=cancelled",
        "smtp.server.request.duration phase=auth outcome=undecided",
        "smtp.server.request.duration phase=data outcome=failed",
        "smtp.server.session.duration end=proxy failed",
        "smtp.server.sessions.active profile=none",
        "smtp.server.tls.handshake.duration version=none outcome=failed",
    ] {
        assert!(before.contains(name), "{name}");
        assert_eq!(recorded.value(name), 0, "{name}");
    }
    talk(&measured()).await;
    let after: BTreeSet<_> = recorded.values.lock().unwrap().keys().cloned().collect();
    // A layer has a name of its own.
    let new: Vec<_> = after.difference(&before).collect();
    assert_eq!(
        new,
        [
            "smtp.server.refusals origin=DomainFilterLayer phase=rcpt status=5.7.1",
            "smtp.server.refusals origin=service phase=data status=5.7.1",
        ]
    );
    handle.shutdown(Duration::ZERO).await;
    serving.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_writes_the_name_of_a_mechanism_in_a_thousand_ways() {
    let (recorded, _guard) = Recorded::listen();
    let mut client = Client::greeted(&measured()).await;
    client.cmd("EHLO client.example", "250").await;
    for mechanism in ["plain", "pLaIn"] {
        client
            .cmd(&format!("AUTH {mechanism} AGFsaWNlAHdyb25n"), "535")
            .await;
    }
    client.cmd("AUTH Plain AGFsaWNlAHNlY3JldA==", "235").await;
    assert_eq!(
        recorded.with_values("smtp.server.auth"),
        [
            "smtp.server.auth mechanism=PLAIN outcome=accepted: 1",
            "smtp.server.auth mechanism=PLAIN outcome=failed: 2",
        ]
    );
}

/// A service of each way to end. What it does is the local part, or the first word of the message.
async fn behave(how: &str) -> Result<Reply, BoxError> {
    match how {
        "error" => Err("the database is down".into()),
        "panic" => panic!("on purpose"),
        "later" => {
            tokio::task::yield_now().await;
            panic!("on purpose")
        }
        "hang" => std::future::pending().await,
        "reject" => Ok(Reply::no_such_user()),
        "defer" => Err(Reply::busy().into()),
        _ => Ok(Reply::OK),
    }
}

fn behaving(pipeline: impl FnOnce(Pipeline) -> Pipeline) -> Server {
    let inner = Pipeline::new()
        .rcpt(service_fn(async |request: Request<Rcpt>| {
            let how = request
                .recipient()
                .mailbox()
                .map(|m| m.local_part().to_string());
            behave(&how.unwrap_or_default()).await
        }))
        .data(service_fn(async |request: Request<Data>| {
            let message = request.into_body().collect().await?;
            let how = String::from_utf8_lossy(&message).trim().to_owned();
            behave(&how).await.map(DataReply::from)
        }));
    server(pipeline(inner).layer(MetricsLayer::new()))
        .configure(|config| config.timeouts(|timeouts| timeouts.call = SECOND))
        .metrics()
}

/// What the metrics of this name have counted of recipients, messages and requests.
fn outcomes(recorded: &Recorded, phase: &str, outcome: &str) -> [u64; 2] {
    let count = match phase {
        "rcpt" => "recipients",
        _ => "messages",
    };
    [
        recorded.value(&format!("smtp.server.{count} outcome={outcome}")),
        recorded.value(&format!(
            "smtp.server.request.duration phase={phase} outcome={outcome}"
        )),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_looks_cancelled_or_deferred() {
    for is_caught in [false, true] {
        for (how, outcome) in [
            ("error", "failed"),
            ("panic", "failed"),
            ("later", "failed"),
            ("reject", "rejected"),
            ("defer", "deferred"),
            ("accept", "accepted"),
        ] {
            let (recorded, _guard) = Recorded::listen();
            let server = behaving(|pipeline| match is_caught {
                true => pipeline.layer(CatchPanicLayer::new()),
                false => pipeline,
            });
            let mut client = Client::greeted(&server).await;
            client.cmd("HELO client.example", "250").await;
            client.cmd("MAIL FROM:<a@b>", "250").await;
            client.cmd(&format!("RCPT TO:<{how}@b>"), "").await;
            settle().await;
            assert_eq!(
                outcomes(recorded, "rcpt", outcome),
                [1, 1],
                "{how} {is_caught}"
            );

            let mut client = Client::greeted(&server).await;
            client.cmd("HELO client.example", "250").await;
            client.cmd("MAIL FROM:<a@b>", "250").await;
            client.cmd("RCPT TO:<accept@b>", "250").await;
            client.cmd("DATA", "354").await;
            client.cmd(&format!("{how}\r\n."), "").await;
            settle().await;
            assert_eq!(
                outcomes(recorded, "data", outcome),
                [1, 1],
                "{how} {is_caught}"
            );
            assert_eq!(recorded.with_values("smtp.server.messages").len(), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_any_more_is_not_counted() {
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum End {
        Timeout,
        Lost,
        Aborted,
        Shutdown,
    }
    for end in [End::Timeout, End::Lost, End::Aborted, End::Shutdown] {
        for phase in ["rcpt", "data"] {
            let (recorded, _guard) = Recorded::listen();
            let server = behaving(|pipeline| pipeline)
                .configure(|config| config.timeouts(|timeouts| timeouts.delivery = SECOND));
            let mut client = Client::greeted(&server).await;
            client.cmd("HELO client.example", "250").await;
            client.cmd("MAIL FROM:<a@b>", "250").await;
            if phase == "rcpt" {
                client.send("RCPT TO:<hang@b>\r\n").await;
            } else {
                client.cmd("RCPT TO:<accept@b>", "250").await;
                client.cmd("DATA", "354").await;
                client.send("hang\r\n.\r\n").await;
            }
            settle().await;
            let session = client.take_session();
            match end {
                End::Timeout => drop(client.expect("451").await),
                End::Lost => drop(client),
                End::Aborted => session.abort(),
                End::Shutdown => server.handle().shutdown(Duration::ZERO).await,
            }
            tokio::time::sleep(Duration::from_secs(60)).await;
            let expected = [1, 1];
            assert_eq!(
                outcomes(recorded, phase, "cancelled"),
                expected,
                "{end:?} {phase}"
            );
        }
    }
}
