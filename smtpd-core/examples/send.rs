//! Sends a message over a blocking socket, with deadlines and without TLS.
//!
//! ```sh
//! printf 'Subject: Hello\r\n\r\nHi!\r\n' | cargo run -p smtpd-core --features client --example send -- \
//!     127.0.0.1:2525 alice@example.com bob@example.org carol@example.org
//! ```

use std::{
    env,
    error::Error,
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

use smtpd_core::{
    Envelope,
    bytes::BytesMut,
    client::{Client, ClientConfig, CloseReason, Reading, Report, StartTls, Step, Transaction},
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = env::args().skip(1);
    let usage = "usage: send HOST:PORT SENDER RECIPIENT...";
    let (Some(server), Some(sender)) = (words.next(), words.next()) else {
        return Err(usage.into());
    };
    let mut envelope = Envelope::new(sender.parse()?);
    for recipient in words {
        envelope = envelope.with_recipient(recipient.parse()?);
    }
    let socket = TcpStream::connect(server)?;
    socket.set_nodelay(true)?;
    let config = ClientConfig::new("[127.0.0.1]".parse()?).start_tls(StartTls::Never);
    let client = Client::new(Arc::new(config));
    let transaction = Transaction::new(Arc::new(envelope));
    let (report, reason) = send(client, &socket, transaction, io::stdin());
    if let Some(report) = report {
        for (recipient, outcome) in report.iter() {
            println!("{}: {}", recipient.path(), outcome.reply());
        }
    }
    match reason {
        CloseReason::Fault(fault) => Err(fault.into()),
        _ => Ok(()),
    }
}

/// Sends one message. Returns its report, unless the session ended before it could begin.
fn send(
    mut client: Client,
    mut socket: &TcpStream,
    transaction: Transaction,
    mut message: impl Read,
) -> (Option<Box<Report>>, CloseReason) {
    let (mut input, mut buffer) = (BytesMut::new(), vec![0; 16 << 10]);
    let (mut transaction, mut outcome) = (Some(transaction), None);
    loop {
        match client.poll(Instant::now(), &mut input) {
            Step::Write(mut writing) => {
                let limit = socket.set_write_timeout(Some(left(writing.until())));
                match limit.and_then(|()| socket.write(writing.bytes())) {
                    Ok(0) => writing.into_client().handle_lost(),
                    Ok(written) => writing.wrote(written, Instant::now()),
                    Err(error) if is_temporary(&error) => {}
                    Err(_) => {
                        // The server may have said why.
                        let limit = socket.set_read_timeout(Some(Duration::from_millis(1)));
                        let read = limit.and_then(|()| socket.read(&mut buffer)).unwrap_or(0);
                        input.extend_from_slice(&buffer[..read]);
                        writing.into_client().handle_lost();
                    }
                }
            }
            Step::Read(reading) => read(socket, reading, &mut input, &mut buffer),
            Step::Handshake(wait) => wait.failed(), // STARTTLS is never used.
            Step::Ready(ready) => match transaction.take() {
                Some(transaction) => ready.send(transaction),
                None => ready.quit(),
            },
            Step::Body(mut sending) => match message.read(&mut buffer) {
                Ok(0) => sending.end(),
                Ok(read) => sending.send(buffer[..read].to_vec()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Half a message must not arrive as a whole one.
                Err(_) => sending.abort(),
            },
            Step::Done(report) => outcome = Some(report),
            Step::Replied(_) => {} // No other command is sent.
            Step::Closed(reason) => return (outcome, reason),
        }
    }
}

fn read(mut socket: &TcpStream, reading: Reading<'_>, input: &mut BytesMut, buffer: &mut [u8]) {
    let limit = socket.set_read_timeout(Some(left(reading.until())));
    match limit.and_then(|()| socket.read(buffer)) {
        Ok(0) => reading.into_client().handle_lost(),
        Ok(read) => input.extend_from_slice(&buffer[..read]),
        Err(error) if is_temporary(&error) => {}
        Err(_) => reading.into_client().handle_lost(),
    }
}

/// The time left until then, which must not be zero.
fn left(until: Instant) -> Duration {
    let left = until.saturating_duration_since(Instant::now());
    left.max(Duration::from_millis(1))
}

/// Whether to poll again, which acts on deadlines that have passed.
fn is_temporary(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}
