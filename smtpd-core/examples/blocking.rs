//! A server with a thread for each session and blocking sockets.
//!
//! ```sh
//! cargo run -p smtpd-core --example blocking -- --listen 127.0.0.1:2525 --tls
//! ```

mod shared;

use std::{
    error::Error,
    io,
    net::{Shutdown, TcpStream},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use shared::{
    Delivery, Options, Stage, Stream,
    options::{Kind, Listener},
};
use smtpd_core::{
    Ask, Connection, Reply, Step,
    bytes::BytesMut,
    connection::{AuthOutcome, AuthRequest, Handshaking, Reading, Writing, ask_kind},
};

/// How often a thread that waits for its client checks whether the server is shutting down.
const TICK: Duration = Duration::from_millis(100);

static SESSIONS: AtomicUsize = AtomicUsize::new(0);

fn main() -> Result<(), Box<dyn Error>> {
    let options = Arc::new(Options::parse()?);
    let main = thread::current();
    Stage::follow_signals(move || main.unpark())?;
    for listener in options.bind()? {
        let options = options.clone();
        thread::spawn(move || accept(&listener, &options));
    }
    while Stage::now() == Stage::Running {
        thread::park();
    }
    while SESSIONS.load(Ordering::Relaxed) > 0 {
        thread::sleep(TICK);
    }
    Ok(())
}

fn accept(listener: &Listener, options: &Arc<Options>) {
    for socket in listener.socket.incoming() {
        if Stage::now() != Stage::Running {
            return;
        }
        let Ok(socket) = socket else {
            thread::sleep(TICK); // There may be too many open files.
            continue;
        };
        let (config, options) = (listener.config.clone(), options.clone());
        let connection = match listener.kind {
            Kind::Smtps => Connection::with_tls(config),
            Kind::Smtp | Kind::Lmtp => Connection::new(config),
        };
        SESSIONS.fetch_add(1, Ordering::Relaxed);
        let thread = thread::Builder::new().spawn(move || {
            // An error here comes from the socket, which is closed with it.
            let _ = serve(connection, socket, &options);
            SESSIONS.fetch_sub(1, Ordering::Relaxed);
        });
        if thread.is_err() {
            SESSIONS.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Runs one session.
fn serve(mut connection: Connection, socket: TcpStream, options: &Options) -> io::Result<()> {
    let peer = socket.peer_addr()?;
    socket.set_nodelay(true)?;
    let mut stream = Stream::new(socket);
    let (mut input, mut buffer) = (BytesMut::new(), vec![0; 16 << 10]);
    let mut delivery = None;
    loop {
        Stage::apply(&mut connection);
        match connection.poll(Instant::now(), &mut input) {
            Step::Write(writing) => write(&mut stream, writing)?,
            Step::Read(reading) => read(&mut stream, reading, &mut input, &mut buffer)?,
            Step::Handshake(wait) => handshake(&mut stream, wait, &mut input, options)?,
            // Nothing is deferred, but a reply may be held back. A shutdown does not wait for it.
            Step::Answer(wait) => {
                let left = wait.until().saturating_duration_since(Instant::now());
                thread::sleep(left.min(Duration::from_millis(100)));
            }
            Step::Closed(_) => break,

            Step::Auth(request, ask) => compare(&request, shared::login(options, &request), ask),
            Step::Message(Ok(()), ask) => match delivery.take().map(Delivery::commit) {
                Some(Ok(name)) => ask.reply(Reply::queued(name)),
                _ => ask.refuse(shared::no_room()),
            },
            other => shared::decide(other, options, peer, &mut delivery),
        }
    }
    drop(delivery);
    close(
        stream,
        connection.config().get_config().get_timeouts().linger,
    )
}

/// Also derives the keys of SCRAM, because a thread waits only for its own client. Only one thread does so at a time: clients
/// that guess passwords request as many derivations as they can. A client that has waited too long may try again. A public server
/// should also serve clients in rotation.
fn compare(request: &AuthRequest, outcome: AuthOutcome, ask: Ask<'_, ask_kind::Auth>) {
    const MAX_WAIT: Duration = Duration::from_secs(10);
    static IS_DERIVING: Mutex<bool> = Mutex::new(false);
    static IS_DONE: Condvar = Condvar::new();

    let is_slow = match &outcome {
        AuthOutcome::Verify(secret) => request.credentials().derivation(secret).is_some(),
        _ => false,
    };
    if !is_slow {
        return ask.answer(outcome);
    }
    let guard = IS_DERIVING.lock().unwrap_or_else(PoisonError::into_inner);
    let waited = IS_DONE.wait_timeout_while(guard, MAX_WAIT, |is_deriving| *is_deriving);
    let (mut is_deriving, _) = waited.unwrap_or_else(PoisonError::into_inner);
    if std::mem::replace(&mut *is_deriving, true) {
        return ask.refuse(Reply::auth_unavailable());
    }
    drop(is_deriving);
    ask.answer(outcome);
    *IS_DERIVING.lock().unwrap_or_else(PoisonError::into_inner) = false;
    IS_DONE.notify_one();
}

/// Writes until the deadline.
fn write(stream: &mut Stream<TcpStream>, mut writing: Writing<'_>) -> io::Result<()> {
    let timeout = Some(tick(writing.until()));
    stream.socket().set_write_timeout(timeout)?;
    match stream.write(writing.bytes()) {
        Ok(written) => writing.wrote(written, Instant::now()),
        Err(error) if is_timeout(&error) => {}
        Err(_) => writing.into_connection().handle_lost(),
    }
    Ok(())
}

/// Reads until the deadline.
fn read(
    stream: &mut Stream<TcpStream>,
    reading: Reading<'_>,
    input: &mut BytesMut,
    buffer: &mut [u8],
) -> io::Result<()> {
    let timeout = Some(tick(reading.until()));
    stream.socket().set_read_timeout(timeout)?;
    match stream.read(buffer) {
        Ok(0) => reading.into_connection().handle_eof(),
        Ok(read) => shared::append(input, &mut buffer[..read]),
        Err(error) if is_timeout(&error) => {}
        Err(_) => reading.into_connection().handle_lost(),
    }
    Ok(())
}

/// Continues the TLS handshake until the deadline.
fn handshake(
    stream: &mut Stream<TcpStream>,
    handshake: Handshaking<'_>,
    input: &mut BytesMut,
    options: &Options,
) -> io::Result<()> {
    let timeout = Some(tick(handshake.until()));
    stream.socket().set_read_timeout(timeout)?;
    stream.socket().set_write_timeout(timeout)?;
    match stream.handshake(&options.tls) {
        Ok(Some(facts)) => handshake.done(input, facts),
        Ok(None) => {}
        Err(error) if is_timeout(&error) => {}
        Err(_) => handshake.failed(),
    }
    Ok(())
}

/// Returns how long to block: until the deadline, but at most for a tick.
fn tick(until: Instant) -> Duration {
    // A timeout of zero would mean none.
    let left = until.saturating_duration_since(Instant::now());
    left.clamp(Duration::from_millis(1), TICK)
}

fn is_timeout(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

/// Closes without a reset, which could cost the client the last reply: reads and drops what it still sends first.
fn close(mut stream: Stream<TcpStream>, linger: Duration) -> io::Result<()> {
    stream.close();
    let socket = stream.socket();
    socket.shutdown(Shutdown::Write)?;
    let until = Instant::now() + linger;
    while Instant::now() < until {
        socket.set_read_timeout(Some(tick(until)))?;
        match io::Read::read(socket, &mut [0; 4096]) {
            Ok(0) => break,
            Err(error) if !is_timeout(&error) => break,
            _ => {}
        }
    }
    Ok(())
}
