//! The code that both examples share: options, policy, TLS, and the delivery of messages. It is not part of a driver.

pub(crate) mod delivery;
pub(crate) mod options;
pub(crate) mod stream;

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use smtpd_core::{
    Connection, Reply, Step,
    bytes::BytesMut,
    connection::{AuthOutcome, AuthRequest, RcptCommand},
    sasl,
};
use zeroize::Zeroize;

pub(crate) use self::{delivery::Delivery, options::Options, stream::Stream};

/// How long sessions may continue after the signal to shut down.
const GRACE: Duration = Duration::from_secs(5);

/// The progress of the server's shutdown. It never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Running,
    /// Sessions end as soon as they are between two messages.
    Draining,
    /// Sessions end at once.
    Ending,
}

static STAGE: AtomicU8 = AtomicU8::new(Stage::Running as u8);

impl Stage {
    pub(crate) fn now() -> Self {
        match STAGE.load(Ordering::Relaxed) {
            0 => Self::Running,
            1 => Self::Draining,
            _ => Self::Ending,
        }
    }

    /// Brings a session to the current stage.
    pub(crate) fn apply(connection: &mut Connection) {
        match Self::now() {
            Self::Running => {}
            Self::Draining => connection.drain(),
            Self::Ending => connection.shut_down(),
        }
    }

    /// Shuts the server down at SIGTERM or SIGINT. `notify` is called at each stage.
    pub(crate) fn follow_signals(notify: impl Fn() + Send + 'static) -> io::Result<()> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
        std::thread::spawn(move || {
            let enter = |stage: Self| {
                STAGE.store(stage as u8, Ordering::Relaxed);
                notify();
            };
            signals.forever().next();
            enter(Self::Draining);
            std::thread::sleep(GRACE);
            enter(Self::Ending);
        });
        Ok(())
    }
}

/// Appends what was read to the input of a session, and wipes the read buffer: it may hold a password.
pub(crate) fn append(input: &mut BytesMut, read: &mut [u8]) {
    if input.capacity() - input.len() < read.len() {
        // If the buffer grew by itself, it would leave the old bytes behind.
        let mut larger = BytesMut::with_capacity(2 * (input.len() + read.len()));
        larger.extend_from_slice(input);
        input.zeroize();
        *input = larger;
    }
    input.extend_from_slice(read);
    read.zeroize();
}

/// Answers the questions that take no time to answer, and handles the notifications.
pub(crate) fn decide(
    step: Step<'_>,
    options: &Options,
    peer: SocketAddr,
    delivery: &mut Option<Delivery>,
) {
    match step {
        Step::Connect(ask) => ask.accept(),
        Step::Helo(_, ask) => ask.accept(),
        Step::StartTls(ask) => ask.accept(),
        Step::Mail(_, ask) => ask.accept(),
        Step::Rcpt(rcpt, ask) => ask.reply(recipient(options, &rcpt)),
        Step::Data(ask) => match Delivery::begin(options, ask.connection(), peer) {
            Ok(begun) => {
                *delivery = Some(begun);
                ask.receive();
            }
            Err(_) => ask.refuse(no_room()),
        },
        Step::Chunk(bytes, receiving) => {
            let written = delivery.as_mut().map(|delivery| delivery.write(&bytes));
            if let Some(Err(_)) = written {
                *delivery = None;
                receiving.refuse(no_room());
            }
        }
        Step::ChunkEnd(ask) => ask.accept(),
        Step::Message(Err(error), ask) => {
            *delivery = None;
            ask.refuse(error);
        }
        Step::Reset(_) => *delivery = None,
        // No proxy is trusted, custom commands are off, and nothing is logged.
        Step::XClient(..) | Step::Command(..) => {}
        Step::Authenticated(_)
        | Step::XForward(_)
        | Step::Overdue(_)
        | Step::Line(_)
        | Step::Answered(_) => {}
        // The driver handles the waits, and the questions that can take long.
        Step::Write(_) | Step::Read(_) | Step::Handshake(_) | Step::Answer(_) => {}
        Step::Closed(_) | Step::Auth(..) | Step::Message(Ok(()), _) => {}
    }
}

pub(crate) fn no_room() -> Reply {
    Reply::try_again("No room for messages")
}

/// Accepts mail for one domain, and for the postmaster (RFC 5321 section 4.5.1).
fn recipient(options: &Options, rcpt: &RcptCommand) -> Reply {
    match rcpt.recipient().mailbox() {
        Some(mailbox) if !mailbox.domain().eq_ignore_case(&options.domain) => Reply::relay_denied(),
        _ => Reply::OK,
    }
}

/// Looks up a user.
pub(crate) fn login(options: &Options, request: &AuthRequest) -> AuthOutcome {
    let credentials = request.credentials();
    if credentials.acts_as_other() {
        return Reply::auth_failed().into();
    }
    let name = credentials.username();
    if let Some(token) = credentials.bearer_token() {
        let owner = options.tokens.iter().find(|(_, known)| known == token);
        return match owner {
            Some((owner, _)) if name.is_empty() || owner == name => {
                sasl::Identity::new(owner).into()
            }
            _ => Reply::auth_failed().into(),
        };
    }
    match options.users.iter().find(|(user, _)| user == name) {
        Some((_, password)) => sasl::Secret::password(password).into(),
        None => Reply::auth_failed().into(),
    }
}
