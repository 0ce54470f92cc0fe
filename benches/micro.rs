//! What the parts cost that every message goes through, with the allocations of each. `cargo bench --bench micro`.

#[allow(dead_code, reason = "each benchmark uses a part of it")]
mod support;

use std::{sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use divan::{
    AllocProfiler, Bencher, black_box,
    counter::{BytesCount, ItemsCount},
};
use smtpd_core::{
    Code, Config, Connection, ForwardPath, Reply, Status, Step, address::PathOptions,
    config::DriverConfig,
};
use smtpd_tower::net::PeerAddr;
use support::{Client, commands, dotted, server};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// A path as RCPT has it.
#[divan::bench]
fn parse_path() {
    let path = black_box(b"<recipient.name@mail.example.org>");
    black_box(ForwardPath::parse(path, PathOptions::default())).unwrap();
}

/// One command that calls no service, with its reply.
#[divan::bench]
fn noop(bencher: Bencher<'_, '_>) {
    let mut session = Played::greeted();
    bencher.bench_local(|| session.say(b"NOOP\r\n"));
}

/// MAIL, RCPT and RSET with their replies, the services left out.
#[divan::bench]
fn mail_rcpt_rset(bencher: Bencher<'_, '_>) {
    let mut session = Played::greeted();
    let group = b"MAIL FROM:<a@example.com> SIZE=1024\r\nRCPT TO:<b@example.org>\r\nRSET\r\n";
    bencher.bench_local(|| session.say(group));
}

/// A reply of three lines, written.
#[divan::bench]
fn reply_of_three_lines(bencher: Bencher<'_, '_>) {
    let mut session = Played::greeted();
    let lines = ["Commands:", "EHLO MAIL RCPT DATA", "See RFC 5321"];
    session.answer = Reply::multiline(Code::HELP, Status::UNDEFINED, lines);
    bencher.bench_local(|| session.say(b"HELP\r\n"));
}

/// Commands from their line to their reply, through the engine and a pipeline: a session with 1,000 recipients in one group.
#[divan::bench]
fn recipients_through_the_pipeline(bencher: Bencher<'_, '_>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let (server, group) = (server(), Bytes::from(commands(1000).concat()));
    let counted = bencher.counter(ItemsCount::new(1000_usize));
    counted.bench_local(|| {
        let client = Client::new([group.clone(), dotted(0)]);
        runtime.block_on(server.serve_connection(client, PeerAddr::Unknown));
    });
}

/// What a layer adds to a recipient: each of them alone around a handler, called as the engine does it. `none` is the
/// handler by itself.
mod a_recipient_through {
    use std::time::Duration;

    use smtpd_tower::{
        Rcpt, Reply, Request, Session, handler_fn,
        layer::{ConcurrencyLayer, Counted, DomainFilterLayer, RateLimitLayer, TraceLayer},
        limiter::Rate,
        service::PhaseService,
    };
    use tower::{
        Layer, Service, layer::util::Identity, limit::ConcurrencyLimitLayer, timeout::TimeoutLayer,
    };

    use super::{Bencher, black_box};

    #[divan::bench]
    fn none(bencher: Bencher<'_, '_>) {
        run(bencher, Identity::new());
    }

    #[divan::bench]
    fn domain_filter(bencher: Bencher<'_, '_>) {
        run(bencher, DomainFilterLayer::parse(["example.org"]).unwrap());
    }

    fn unlimited() -> Rate {
        Rate::per_second(u32::MAX).unwrap()
    }

    #[divan::bench]
    fn rate_limit(bencher: Bencher<'_, '_>) {
        run(bencher, RateLimitLayer::per_ip(unlimited()));
    }

    /// Counts the client and its /48.
    #[divan::bench]
    fn rate_limit_of_ipv6(bencher: Bencher<'_, '_>) {
        let session = Session::from_peer(([0x2001, 0xdb8, 1, 2, 3, 4, 5, 6], 4711));
        run_for(session, bencher, RateLimitLayer::per_ip(unlimited()));
    }

    /// Reserves an event, and counts it when the recipient is accepted.
    #[divan::bench]
    fn rate_limit_of_accepted(bencher: Bencher<'_, '_>) {
        let layer = RateLimitLayer::per_ip(unlimited());
        run(bencher, layer.count(Counted::Accepted));
    }

    #[divan::bench]
    fn strict_rate_limit(bencher: Bencher<'_, '_>) {
        run(bencher, RateLimitLayer::per_ip(unlimited().strict()));
    }

    #[divan::bench]
    fn concurrency(bencher: Bencher<'_, '_>) {
        run(bencher, ConcurrencyLayer::per_ip(64));
    }

    /// With a subscriber that writes every event of level INFO to nowhere.
    #[divan::bench]
    fn trace_at_info(bencher: Bencher<'_, '_>) {
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .with_writer(std::io::sink)
            .finish();
        tracing::subscriber::with_default(subscriber, || run(bencher, TraceLayer::new()));
    }

    #[divan::bench]
    fn tower_timeout(bencher: Bencher<'_, '_>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        let _context = runtime.as_ref().map(tokio::runtime::Runtime::enter);
        run(bencher, TimeoutLayer::new(Duration::from_secs(5)));
    }

    #[divan::bench]
    fn tower_concurrency_limit(bencher: Bencher<'_, '_>) {
        run(bencher, ConcurrencyLimitLayer::new(64));
    }

    fn run<L>(bencher: Bencher<'_, '_>, layer: L)
    where
        L: Layer<Handler>,
        L::Service: PhaseService<Rcpt>,
    {
        run_for(Session::local(), bencher, layer);
    }

    fn run_for<L>(session: Session, bencher: Bencher<'_, '_>, layer: L)
    where
        L: Layer<Handler>,
        L::Service: PhaseService<Rcpt>,
    {
        let service = layer.layer(handler_fn(taken as _));
        let recipient: smtpd_tower::address::ForwardPath = "b@example.org".parse().unwrap();
        let mut task = tokio_test::task::spawn(());
        bencher.bench_local(|| {
            let request = Request::new(session.clone(), Rcpt::new(recipient.clone()));
            let mut service = service.clone();
            task.enter(|cx, _| {
                assert!(service.poll_ready(cx).is_ready());
                let mut answer = black_box(Box::pin(service.call(request)));
                assert!(answer.as_mut().poll(cx).is_ready());
            });
        });
    }

    type Handler = smtpd_tower::service::HandlerFn<fn(Request<Rcpt>) -> std::future::Ready<Reply>>;

    fn taken(_: Request<Rcpt>) -> std::future::Ready<Reply> {
        std::future::ready(Reply::OK)
    }
}

/// The text of a message as DATA has it, in reads of 64 KiB: finds its end, undoes the dots, refuses bare CR and LF.
#[divan::bench]
fn data(bencher: Bencher<'_, '_>) {
    let text = text();
    let mut session = Played::in_data();
    let counted = bencher.counter(BytesCount::of_slice(&text));
    counted.bench_local(|| session.receive(&text));
}

/// The baseline of [`data`]: the same bytes are copied, and nothing else.
#[divan::bench]
fn copy(bencher: Bencher<'_, '_>) {
    let text = text();
    let mut input = BytesMut::with_capacity(text.len());
    bencher
        .counter(BytesCount::of_slice(&text))
        .bench_local(|| {
            input.clear();
            input.extend_from_slice(black_box(&text));
            black_box(&input);
        });
}

fn text() -> Vec<u8> {
    b"The quick brown fox jumps over the lazy dog, and goes on with it for so long.\r\n".repeat(820)
}

/// A connection whose questions are all answered the same.
struct Played {
    connection: Connection,
    answer: Reply,
    input: BytesMut,
    now: Instant,
}

impl Played {
    fn greeted() -> Self {
        let config = Config::new("mx.example.org").limits(|limits| {
            limits.idle_commands = u32::MAX;
            limits.message_size = None;
        });
        let config = DriverConfig::new(config).custom_commands(true);
        let mut session = Self {
            connection: Connection::new(Arc::new(config)),
            answer: Reply::OK,
            input: BytesMut::new(),
            now: Instant::now(),
        };
        session.say(b"EHLO client.example\r\n");
        session
    }

    fn in_data() -> Self {
        let mut session = Self::greeted();
        session.say(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n");
        session
    }

    /// Plays until the client has to go on, and all replies are written.
    fn say(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(black_box(bytes));
        let mut written = 0;
        loop {
            let answer = || self.answer.clone();
            match self.connection.poll(self.now, &mut self.input) {
                Step::Write(mut writing) => {
                    written += writing.bytes().len();
                    writing.wrote(writing.bytes().len(), self.now);
                }
                Step::Read(_) => break assert!(written > 0),
                Step::Connect(ask) => ask.accept(),
                Step::Helo(_, ask) => ask.reply(answer()),
                Step::Mail(_, ask) => ask.reply(answer()),
                Step::Rcpt(_, ask) => ask.reply(answer()),
                Step::Command(_, ask) => ask.reply(answer()),
                Step::Data(ask) => ask.receive(),
                Step::Reset(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(black_box(bytes));
        loop {
            match self.connection.poll(self.now, &mut self.input) {
                Step::Chunk(bytes, _) => drop(black_box(bytes)),
                Step::Read(_) => break,
                other => panic!("{other:?}"),
            }
        }
    }
}
