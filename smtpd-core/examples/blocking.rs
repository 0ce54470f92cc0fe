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
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use shared::{
    Delivery, Options, Stage, Stream,
    options::{Kind, Listener},
};
use smtpd_core::{Connection, Reply, Step, bytes::BytesMut};

/// A thread that waits for its client looks this often whether the server shuts down.
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
            thread::sleep(TICK); // Perhaps there are too many open files.
            continue;
        };
        let (config, options) = (listener.config.clone(), options.clone());
        let connection = match listener.kind {
            Kind::Smtps => Connection::with_tls(config),
            Kind::Smtp | Kind::Lmtp => Connection::new(config),
        };
        SESSIONS.fetch_add(1, Ordering::Relaxed);
        let thread = thread::Builder::new().spawn(move || {
            // An error here is one of the socket, which is closed with it.
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
        match Stage::now() {
            Stage::Running => {}
            Stage::Draining => connection.drain(),
            Stage::Ending => connection.shut_down(),
        }
        match connection.poll(Instant::now(), &mut input) {
            Step::Write(mut writing) => {
                stream
                    .socket()
                    .set_write_timeout(Some(tick(writing.until())))?;
                match stream.write(writing.bytes()) {
                    Ok(written) => writing.wrote(written, Instant::now()),
                    Err(error) if is_timeout(&error) => {}
                    Err(_) => writing.into_connection().handle_lost(),
                }
            }
            Step::Read(reading) => {
                stream
                    .socket()
                    .set_read_timeout(Some(tick(reading.until())))?;
                match stream.read(&mut buffer) {
                    Ok(0) => reading.into_connection().handle_eof(),
                    Ok(read) => {
                        input.extend_from_slice(&buffer[..read]);
                        buffer[..read].fill(0); // It may be a password.
                    }
                    Err(error) if is_timeout(&error) => {}
                    Err(_) => reading.into_connection().handle_lost(),
                }
            }
            Step::Handshake(handshake) => {
                let timeout = Some(tick(handshake.until()));
                stream.socket().set_read_timeout(timeout)?;
                stream.socket().set_write_timeout(timeout)?;
                match stream.handshake(&options.tls) {
                    Ok(Some(facts)) => handshake.done(&mut input, facts),
                    Ok(None) => {}
                    Err(error) if is_timeout(&error) => {}
                    Err(_) => handshake.failed(),
                }
            }
            Step::Closed(_) => break,

            Step::Connect(ask) => ask.accept(),
            Step::Helo(_, ask) => ask.accept(),
            Step::StartTls(ask) => ask.accept(),
            Step::Auth(request, ask) => ask.answer(shared::login(options, &request)),
            Step::Mail(_, ask) => ask.accept(),
            Step::Rcpt(rcpt, ask) => ask.reply(shared::recipient(options, &rcpt)),
            Step::Data(ask) => match Delivery::begin(options, ask.connection(), peer) {
                Ok(begun) => {
                    delivery = Some(begun);
                    ask.receive();
                }
                Err(_) => ask.refuse(Reply::try_again("No room for messages")),
            },
            Step::Chunk(bytes, receiving) => {
                if delivery
                    .as_mut()
                    .is_some_and(|delivery| delivery.write(&bytes).is_err())
                {
                    delivery = None;
                    receiving.refuse(Reply::try_again("No room for messages"));
                }
            }
            Step::ChunkEnd(ask) => ask.taken(),
            Step::Message(Ok(()), ask) => match delivery.take().map(Delivery::commit) {
                Some(Ok(name)) => ask.reply(Reply::queued(name)),
                _ => ask.refuse(Reply::try_again("No room for messages")),
            },
            Step::Message(Err(error), ask) => {
                delivery = None;
                ask.refuse(error);
            }
            Step::Reset(_) => delivery = None,
            // Nothing is deferred, no proxy is trusted, no other command is asked about, and nothing is logged.
            Step::Answer(_) | Step::XClient(..) | Step::Command(..) => {}
            Step::Authenticated(_) | Step::XForward(_) | Step::Overdue(_) | Step::Line(_) => {}
        }
    }
    drop(delivery);
    close(stream, connection.config().timeouts_ref().linger)
}

/// How long to block: until the deadline, or for a tick.
fn tick(until: Instant) -> Duration {
    // A timeout of zero would be none.
    let left = until.saturating_duration_since(Instant::now());
    left.clamp(Duration::from_millis(1), TICK)
}

fn is_timeout(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

/// Closes without a reset, which could cost the client the last reply: what it still sends is read off first.
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
