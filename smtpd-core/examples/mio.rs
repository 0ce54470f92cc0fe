//! A server with one thread for all sessions and sockets that never block, on mio.
//!
//! ```sh
//! cargo run -p smtpd-core --example mio -- --listen 127.0.0.1:2525 --tls
//! ```

mod shared;

use std::{
    collections::{BTreeSet, HashMap},
    error::Error,
    io,
    net::{Shutdown, SocketAddr},
    num::NonZero,
    sync::{
        Arc, Mutex,
        mpsc::{self, TrySendError},
    },
    thread,
    time::{Duration, Instant},
};

use mio::{
    Events, Interest, Poll, Registry, Token, Waker,
    net::{TcpListener, TcpStream},
};
use shared::{
    Delivery, Options, Stage, Stream,
    options::{Kind, Listener},
};
use smtpd_core::{
    Ask, Connection, Reply, Step,
    bytes::BytesMut,
    connection::{AuthOutcome, AuthRequest, Deferred, ask_kind},
    sasl::Derivation,
};

const WAKER: Token = Token(usize::MAX);
/// A session that always has more input is interrupted after this many reads, so that the others make progress too.
const MOST_READS: u32 = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse()?;
    let poll = Poll::new()?;
    let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
    let (sender, done) = mpsc::channel();
    let at_signal = waker.clone();
    Stage::follow_signals(move || drop(at_signal.wake()))?;
    let mut server = Server {
        listeners: Vec::new(),
        sessions: HashMap::new(),
        deadlines: BTreeSet::new(),
        next: 0,
        common: Common {
            options,
            buffer: vec![0; 16 << 10],
            workers: Workers::new(Home { sender, waker }),
        },
        done,
    };
    for listener in server.common.options.bind()? {
        listener.socket.set_nonblocking(true)?;
        let mut socket = TcpListener::from_std(listener.socket.try_clone()?);
        let token = server.token();
        poll.registry()
            .register(&mut socket, token, Interest::READABLE)?;
        server.listeners.push((token, socket, listener));
    }
    server.run(poll)
}

struct Server {
    common: Common,
    listeners: Vec<(Token, TcpListener, Listener)>,
    sessions: HashMap<Token, Session>,
    /// When each session must be polled, even if nothing happens at its socket.
    deadlines: BTreeSet<(Instant, Token)>,
    next: usize,
    done: mpsc::Receiver<Done>,
}

/// What every session needs.
struct Common {
    options: Options,
    buffer: Vec<u8>,
    workers: Workers,
}

/// Does the work in other threads that would keep all sessions waiting: the disk may block, and keys take long to derive.
struct Workers {
    home: Home,
    /// For one thread on each processor: clients that guess passwords request as many derivations as they can. A client that
    /// finds the queue full or has waited too long may try again. A public server should also serve clients in rotation, and drop
    /// the requests of clients that disconnect.
    derivations: mpsc::SyncSender<Task>,
}

/// Keys to derive.
struct Task {
    session: Token,
    question: Deferred<ask_kind::Auth>,
    derivation: Derivation,
    /// When to give up.
    until: Instant,
}

/// Where answers are sent.
#[derive(Clone)]
struct Home {
    sender: mpsc::Sender<Done>,
    waker: Arc<Waker>,
}

/// Finished work, and the question that it answers.
struct Done {
    session: Token,
    answer: Answer,
}

enum Answer {
    Delivered(Deferred<ask_kind::Message>, io::Result<String>),
    Compared(Deferred<ask_kind::Auth>, AuthOutcome),
}

impl Server {
    fn run(&mut self, mut poll: Poll) -> Result<(), Box<dyn Error>> {
        let (mut events, mut stage) = (Events::with_capacity(1024), Stage::Running);
        while stage == Stage::Running || !self.sessions.is_empty() {
            let until = self.deadlines.first().map(|(until, _)| *until);
            let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
            match poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(error.into());
                }
                _ => {}
            }
            for token in events.iter().map(|event| event.token()) {
                self.accept(poll.registry(), token)?;
                self.advance(token);
            }
            while let Ok(done) = self.done.try_recv() {
                self.answer(done);
            }
            let now = Instant::now();
            while let Some(&(until, token)) =
                self.deadlines.first().filter(|(until, _)| *until <= now)
            {
                self.deadlines.remove(&(until, token));
                self.accept(poll.registry(), token)?;
                self.advance(token);
            }
            if Stage::now() != stage {
                stage = Stage::now();
                self.listeners.clear();
                for token in self.sessions.keys().copied().collect::<Vec<_>>() {
                    self.advance(token);
                }
            }
        }
        Ok(())
    }

    fn token(&mut self) -> Token {
        self.next += 1;
        Token(self.next)
    }

    /// Accepts all waiting clients, if the token is that of a listener.
    fn accept(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let Some(at) = self.listeners.iter().position(|(of, ..)| *of == token) else {
            return Ok(());
        };
        loop {
            let (_, socket, listener) = &self.listeners[at];
            let (mut socket, peer) = match socket.accept() {
                Ok(accepted) => accepted,
                Err(error) if is_blocked(&error) => return Ok(()),
                Err(_) => {
                    // There may be too many open files, and no further event for the clients that wait.
                    let soon = Instant::now() + Duration::from_millis(100);
                    self.deadlines.insert((soon, token));
                    return Ok(());
                }
            };
            let config = listener.config.clone();
            let connection = match listener.kind {
                Kind::Smtps => Connection::with_tls(config),
                Kind::Smtp | Kind::Lmtp => Connection::new(config),
            };
            let token = self.token();
            let _ = socket.set_nodelay(true);
            registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
            self.sessions
                .insert(token, Session::new(token, connection, socket, peer));
            self.advance(token);
        }
    }

    /// Answers a message, unless its session is over.
    fn answer(&mut self, done: Done) {
        let Some(session) = self.sessions.get_mut(&done.session) else {
            return;
        };
        match done.answer {
            Answer::Delivered(question, name) => {
                match (session.connection.resume(question), name) {
                    (Some(ask), Ok(name)) => ask.reply(Reply::queued(name)),
                    (Some(ask), Err(_)) => ask.refuse(shared::no_room()),
                    (None, _) => {}
                }
            }
            Answer::Compared(question, outcome) => {
                if let Some(ask) = session.connection.resume(question) {
                    ask.answer(outcome);
                }
            }
        }
        self.advance(done.session);
    }

    /// Runs a session as far as possible, and notes when to poll it again.
    fn advance(&mut self, token: Token) {
        let Some(session) = self.sessions.get_mut(&token) else {
            return;
        };
        self.deadlines.remove(&(session.until, token));
        match session.advance(&mut self.common) {
            Some(until) => {
                session.until = until;
                self.deadlines.insert((until, token));
            }
            None => drop(self.sessions.remove(&token)),
        }
    }
}

impl Workers {
    const MAX_WAITING: usize = 1024;
    const MAX_WAIT: Duration = Duration::from_secs(10);

    fn new(home: Home) -> Self {
        let (derivations, tasks) = mpsc::sync_channel::<Task>(Self::MAX_WAITING);
        let tasks = Arc::new(Mutex::new(tasks));
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            let (tasks, home) = (tasks.clone(), home.clone());
            let next = move || tasks.lock().ok()?.recv().ok();
            thread::spawn(move || {
                while let Some(task) = next() {
                    let outcome = if Instant::now() < task.until {
                        AuthOutcome::Verify(task.derivation.run())
                    } else {
                        Reply::auth_unavailable().into()
                    };
                    home.send(task.session, Answer::Compared(task.question, outcome));
                }
            });
        }
        Self { home, derivations }
    }

    fn deliver(&self, session: Token, delivery: Delivery, question: Deferred<ask_kind::Message>) {
        let home = self.home.clone();
        let work = move || home.send(session, Answer::Delivered(question, delivery.commit()));
        // If no thread is available, nobody answers, and the session itself replies after its timeout.
        let _ = thread::Builder::new().spawn(work);
    }

    /// Answers at once if that takes no time.
    fn compare(
        &self,
        session: Token,
        request: &AuthRequest,
        outcome: AuthOutcome,
        ask: Ask<'_, ask_kind::Auth>,
    ) {
        let derivation = match &outcome {
            AuthOutcome::Verify(secret) => request.credentials().derivation(secret),
            _ => None,
        };
        let Some(derivation) = derivation else {
            return ask.answer(outcome);
        };
        let task = Task {
            session,
            question: ask.defer(),
            derivation,
            until: Instant::now() + Self::MAX_WAIT,
        };
        if let Err(TrySendError::Full(task) | TrySendError::Disconnected(task)) =
            self.derivations.try_send(task)
        {
            let outcome = Reply::auth_unavailable().into();
            self.home
                .send(session, Answer::Compared(task.question, outcome));
        }
    }
}

impl Home {
    fn send(&self, session: Token, answer: Answer) {
        if self.sender.send(Done { session, answer }).is_ok() {
            let _ = self.waker.wake();
        }
    }
}

struct Session {
    token: Token,
    connection: Connection,
    stream: Stream<TcpStream>,
    peer: SocketAddr,
    input: BytesMut,
    delivery: Option<Delivery>,
    /// When it must be polled.
    until: Instant,
    /// Until when further input is read and dropped after the session is over.
    lingers: Option<Instant>,
}

impl Session {
    fn new(token: Token, connection: Connection, socket: TcpStream, peer: SocketAddr) -> Self {
        Self {
            token,
            connection,
            stream: Stream::new(socket),
            peer,
            input: BytesMut::new(),
            delivery: None,
            until: Instant::now(),
            lingers: None,
        }
    }

    /// Runs until the socket would block. Returns until when to wait then; `None` once everything is over.
    ///
    /// mio reports each change only once, so everything that can be done now must be done.
    fn advance(&mut self, common: &mut Common) -> Option<Instant> {
        let options = &common.options;
        Stage::apply(&mut self.connection);
        let mut reads = 0;
        loop {
            match self.connection.poll(Instant::now(), &mut self.input) {
                Step::Write(mut writing) => match self.stream.write(writing.bytes()) {
                    Ok(written) => writing.wrote(written, Instant::now()),
                    Err(error) if is_blocked(&error) => return Some(writing.until()),
                    Err(_) => writing.into_connection().handle_lost(),
                },
                Step::Read(_) if reads == MOST_READS => return Some(Instant::now()),
                Step::Read(reading) => {
                    reads += 1;
                    match self.stream.read(&mut common.buffer) {
                        Ok(0) => reading.into_connection().handle_eof(),
                        Ok(read) => shared::append(&mut self.input, &mut common.buffer[..read]),
                        Err(error) if is_blocked(&error) => return Some(reading.until()),
                        Err(_) => reading.into_connection().handle_lost(),
                    }
                }
                Step::Handshake(handshake) => match self.stream.handshake(&options.tls) {
                    Ok(Some(facts)) => handshake.done(&mut self.input, facts),
                    Ok(None) => {}
                    Err(error) if is_blocked(&error) => return Some(handshake.until()),
                    Err(_) => handshake.failed(),
                },
                Step::Answer(answering) => return Some(answering.until()),
                Step::Closed(_) => break,

                Step::Auth(request, ask) => {
                    let outcome = shared::login(options, &request);
                    common.workers.compare(self.token, &request, outcome, ask);
                }
                Step::Message(Ok(()), ask) => match self.delivery.take() {
                    Some(delivery) => common.workers.deliver(self.token, delivery, ask.defer()),
                    None => ask.refuse(shared::no_room()),
                },
                other => shared::decide(other, options, self.peer, &mut self.delivery),
            }
        }
        self.close(&mut common.buffer)
    }

    /// Closes without a reset, which could cost the client the last reply: reads and drops what it still sends first.
    fn close(&mut self, buffer: &mut [u8]) -> Option<Instant> {
        self.delivery = None;
        let now = Instant::now();
        let until = *self.lingers.get_or_insert_with(|| {
            self.stream.close();
            let _ = self.stream.socket().shutdown(Shutdown::Write);
            let linger = self.connection.config().get_config().get_timeouts().linger;
            now + linger.min(Duration::from_secs(60))
        });
        for _ in 0..MOST_READS {
            match io::Read::read(self.stream.socket(), buffer) {
                Ok(1..) if now < until => {}
                Err(error) if is_blocked(&error) && now < until => return Some(until),
                _ => return None,
            }
        }
        Some(now)
    }
}

fn is_blocked(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}
