mod arguments;
mod error;
mod facts;
mod group;
mod output;
mod running;
mod status;
#[cfg(test)]
mod tests;

use std::{
    convert::Infallible,
    ffi::OsString,
    fmt,
    num::NonZeroUsize,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use smtpd_core::{
    envelope::Envelope,
    reply::{DataReply, Reply},
};
use tokio::process::Command;
use tower_service::Service;

pub use self::{
    arguments::{PipeArgument, PipeCommandError},
    error::PipeError,
};
use self::{
    error::Problem,
    facts::Facts,
    running::{Failure, Running},
    status::Meaning,
};
use super::{
    gate::{Gate, Place},
    header::HeaderLines,
    newline::{Lines, Newline},
    shown,
};
use crate::{
    body::Body,
    fault::quietly,
    phase::{Data, Request},
    phase_kind::PhaseKind,
    session::{QueueId, Session},
};

/// Where programs are looked for, unless `PATH` is set.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Gives each message to a command, on its standard input, and replies as its exit status says.
///
/// The command is started before the client receives 354, and reads the message while it arrives. Its input ends only if the
/// message is whole, and it has accepted the message only if it has then exited with status 0: a command that stores messages
/// must sync what it has written before it exits, and must not act before the end of its input. If the message breaks off, if
/// nobody wants it any more (the client has gone, a timeout), or if the command takes too long, the command is killed with
/// everything that it has started, first by SIGTERM and two seconds later by SIGKILL, while its input is still open.
///
/// There is no shell. The program is started with the arguments as they are; [`FromStr`](std::str::FromStr) parses a command line
/// from a configuration.
///
/// ```
/// use smtpd_tower::{Body, Data, Envelope, Request, Session, deliver::Pipe};
/// use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pipe: Pipe = r#"sh -c 'grep -q Hello || exit 67'"#.parse()?;
/// for (message, code) in [("Hello\r\n", 250), ("Bye\r\n", 550)] {
///     let data = Data::new(Envelope::default(), Body::from(message));
///     let request = Request::new(Session::local(), data);
///     let reply = pipe.clone().oneshot(request).await?;
///     assert_eq!(reply.code().as_u16(), code);
/// }
/// # Ok(()) }
/// ```
///
/// # Exit statuses
///
/// They are those of `sysexits.h`, which Postfix and Exim read, too.
///
/// | status | reply |
/// |---|---|
/// | 0 | 250 2.0.0 |
/// | 65 `EX_DATAERR` | 554 5.6.0 |
/// | 67 `EX_NOUSER` | 550 5.1.1 |
/// | 68 `EX_NOHOST` | 550 5.1.2 |
/// | 69 `EX_UNAVAILABLE`, 76 `EX_PROTOCOL` | 554 5.3.0 |
/// | 75 `EX_TEMPFAIL` | 451 4.3.0 |
/// | 77 `EX_NOPERM` | 550 5.7.1 |
/// | 64 `EX_USAGE`, 66 `EX_NOINPUT`, 72 `EX_OSFILE`, 78 `EX_CONFIG`, and 126 and 127 of a shell | 451 4.3.5, a fault |
/// | any other status | 451 4.3.0, a fault |
/// | killed by a signal | 451 4.3.0, a fault |
/// | not ended within the [time limit](Self::time_limit) | 451 4.3.0, a fault |
/// | cannot be started: no such program, or no permission | 451 4.3.5, a fault |
/// | cannot be started for another reason | 451 4.3.0, a fault |
/// | no [place](Self::concurrency) for it in time | 451 4.3.2 |
///
/// A fault is reported as a [`PipeError`] to the log and to [`Server::on_error`](crate::server::Server::on_error). Postfix
/// rejects messages for good for statuses that are faults here; a server whose command is broken should not lose mail.
///
/// A command that exits before it has read everything decides in the same way: with status 0, the rest of the message is read
/// and dropped before the client receives 250, and with any other the client receives the reply at once.
///
/// # Values of the message
///
/// The command finds them in variables of its environment:
///
/// | variable | holds |
/// |---|---|
/// | `SENDER` | the sender, empty if it is null |
/// | `RECIPIENT` | the recipients, one on each line |
/// | `ORIGINAL_RECIPIENT` | the address of ORCPT (RFC 3461), if there is one recipient and the client has sent it |
/// | `QUEUE_ID` | the [`QueueId`] of the message |
/// | `SESSION_ID` | the number of the session |
/// | `CLIENT_ADDRESS` | the IP address of the client, empty if it has none |
/// | `CLIENT_HOSTNAME` | its confirmed [name](crate::session::ReverseName), if it is known |
/// | `CLIENT_HELO` | its name in HELO or EHLO, if it has sent one |
/// | `SASL_USERNAME` | the name by which it has authenticated, if it has |
///
/// Nothing else is there but `PATH`, which is `/usr/local/bin:/usr/bin:/bin`, and what [`env`](Self::env) and
/// [`inherit_env`](Self::inherit_env) add.
///
/// A [`PipeArgument`] passes a value as an argument. The client chooses these values, and a sender such as
/// `-oQ/tmp@example.org` is valid. So place `--` before them, if the program knows it; without a `--` before it, a value that
/// begins with `-` costs the message a 553 5.1.3. So does an address with a control character. A shell script must quote what it
/// uses (`"$SENDER"`), and never evaluate it.
///
/// # Limits
///
/// | what | default |
/// |---|---|
/// | commands [at a time](Self::concurrency) | 20 |
/// | [wait](Self::max_wait) for a place | 30 seconds |
/// | [time](Self::time_limit) for a command | 2 minutes |
/// | [output](Self::max_output) that is kept | 4 KiB |
/// | recipients of a message | 100 KiB in all, then 452 4.5.3 |
///
/// Clones share the places. A command has its place from before the message begins, so a slow client keeps others waiting: put a
/// `SpoolLayer` (feature `spool`) in front if clients are not trusted.
///
/// The umask is that of the server. A command that leaves its process group, as daemons do, is not
/// killed with it; one that goes on after the command has exited is left alone, its output is not read, and nobody waits for it.
#[derive(Clone, Debug)]
pub struct Pipe {
    settings: Arc<Settings>,
    gate: Gate,
}

#[derive(Clone, Debug)]
struct Settings {
    program: PathBuf,
    arguments: Vec<PipeArgument>,
    environment: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    user: Option<(u32, u32)>,
    lines: HeaderLines,
    newline: Newline,
    each_recipient: bool,
    shows_output: bool,
    time_limit: Duration,
    max_output: usize,
}

impl Pipe {
    /// Creates a service that runs a program without arguments. A name without a slash is looked for in `PATH`.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let settings = Settings {
            program: program.into(),
            arguments: Vec::new(),
            environment: vec![("PATH".into(), PATH.into())],
            directory: None,
            user: None,
            lines: HeaderLines {
                return_path: false,
                delivered_to: false,
            },
            newline: Newline::default(),
            each_recipient: false,
            shows_output: false,
            time_limit: Duration::from_secs(120),
            max_output: 4096,
        };
        Self {
            settings: Arc::new(settings),
            gate: Gate::new(20),
        }
    }

    /// Adds an argument.
    ///
    /// ```
    /// use smtpd_tower::deliver::{Pipe, PipeArgument};
    ///
    /// let sendmail = Pipe::new("/usr/sbin/sendmail")
    ///     .arg("-i")
    ///     .arg("-f")
    ///     .arg(PipeArgument::Sender)
    ///     .arg("--")
    ///     .arg(PipeArgument::Recipient);
    /// ```
    #[must_use]
    pub fn arg(self, argument: impl Into<PipeArgument>) -> Self {
        self.with(|settings| settings.arguments.push(argument.into()))
    }

    /// Sets a variable of the command's environment. The variables with [values of the message](Self#values-of-the-message)
    /// replace one of the same name.
    #[must_use]
    pub fn env(self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.with(|settings| settings.environment.push((name.into(), value.into())))
    }

    /// Passes a variable of the server's environment on, as it is now, if it is set.
    #[must_use]
    pub fn inherit_env(self, name: impl Into<OsString>) -> Self {
        let name = name.into();
        match std::env::var_os(&name) {
            Some(value) => self.env(name, value),
            None => self,
        }
    }

    /// Sets the working directory of the command. Default: that of the server.
    #[must_use]
    pub fn directory(self, path: impl Into<PathBuf>) -> Self {
        self.with(|settings| settings.directory = Some(path.into()))
    }

    /// Sets the numbers of the user and the group that the command runs as, without further groups. Default: those of the server.
    ///
    /// The server must run as root then: otherwise no command can be started.
    #[must_use]
    pub fn user(self, user: u32, group: u32) -> Self {
        self.with(|settings| settings.user = Some((user, group)))
    }

    /// Sets whether a `Return-Path` line is added before each message, as final delivery must (RFC 5321 section 4.4). Default:
    /// false.
    #[must_use]
    pub fn return_path(self, on: bool) -> Self {
        self.with(|settings| settings.lines.return_path = on)
    }

    /// Sets whether a `Delivered-To` line for each recipient is added before the message. Default: false.
    #[must_use]
    pub fn delivered_to(self, on: bool) -> Self {
        self.with(|settings| settings.lines.delivered_to = on)
    }

    /// Sets how lines end in what the command reads. Default: [`Newline::CrLf`], as they are sent. Most programs on Unix expect
    /// [`Newline::Lf`].
    ///
    /// A message that is declared as BINARYMIME is passed on as it is.
    #[must_use]
    pub fn newline(self, newline: Newline) -> Self {
        self.with(|settings| settings.newline = newline)
    }

    /// Sets whether the command runs once for each recipient, one after the other, instead of once for each message. Default:
    /// false.
    ///
    /// Each recipient has a reply then: see [there](crate::guide::responsibility#several-recipients) what that means in SMTP. The
    /// message is [collected](Body::collect) in memory first.
    #[must_use]
    pub fn each_recipient(self, on: bool) -> Self {
        self.with(|settings| settings.each_recipient = on)
    }

    /// Sets whether the first line that the command writes becomes the text of its reply, unless that is a fault. Default: false.
    ///
    /// The text has at most 200 characters, and what is not printable ASCII becomes `?`.
    #[must_use]
    pub fn output_as_reply(self, on: bool) -> Self {
        self.with(|settings| settings.shows_output = on)
    }

    /// Sets how long a command may keep the server waiting: while it does not read, and until it has ended. The time in which the
    /// client sends nothing does not count. Default: 2 minutes.
    #[must_use]
    pub fn time_limit(self, limit: Duration) -> Self {
        self.with(|settings| settings.time_limit = limit)
    }

    /// Sets how many bytes of what a command writes, to its standard output and its standard error, are kept for the log and for
    /// [`output_as_reply`](Self::output_as_reply). The rest is read and dropped. Default: 4 KiB.
    #[must_use]
    pub fn max_output(self, bytes: usize) -> Self {
        self.with(|settings| settings.max_output = bytes)
    }

    /// Sets how many commands run at a time. A command counts until it has ended, also if it had to be killed. Default: 20.
    #[must_use]
    pub fn concurrency(mut self, commands: NonZeroUsize) -> Self {
        self.gate.set_places(commands);
        self
    }

    /// Sets how long a message waits until it may start a command. Default: 30 seconds.
    #[must_use]
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.gate.set_wait(wait);
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(Arc::make_mut(&mut self.settings));
        self
    }

    async fn deliver(self, request: Request<Data>) -> DataReply {
        let id = request.session().transaction().get::<QueueId>();
        let id = id.unwrap_or_else(QueueId::unique);
        let (session, data) = request.into_parts();
        let (envelope, body) = data.into_parts();
        if !self.settings.each_recipient {
            return self.run(&session, &envelope, &id, body).await.into();
        }
        let message = match body.collect().await {
            Ok(message) => message,
            Err(error) => return session.reply_to(error).into(),
        };
        let mut replies = Vec::new();
        for recipient in envelope.recipients() {
            let envelope = envelope.subset(|other| std::ptr::eq(other, recipient));
            let body = message.clone().into();
            replies.push(self.run(&session, &envelope, &id, body).await);
        }
        DataReply::each(replies)
    }

    /// Runs the command once.
    async fn run(&self, session: &Session, envelope: &Envelope, id: &QueueId, body: Body) -> Reply {
        let place = match self.gate.enter().await {
            Ok(place) => place,
            Err(reply) => return reply,
        };
        let command = match self.settings.command(&Facts::new(session, envelope, id)) {
            Ok(command) => command,
            Err(reply) => return reply,
        };
        let settings = &self.settings;
        let lines = Lines::of(envelope, settings.newline);
        let body = body.prepend_header(settings.lines.encode(envelope));
        let (result, output) = settings.run(command, body, lines, place).await;
        settings.reply(session, id, result, &output)
    }
}

impl Settings {
    fn command(&self, facts: &Facts) -> Result<Command, Reply> {
        facts.check()?;
        let arguments = arguments::expand(&self.arguments, facts);
        let mut command = Command::new(&self.program);
        command.args(arguments.ok_or_else(facts::unsafe_address)?);
        command.env_clear();
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        facts.export(&mut command);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        Ok(command)
    }

    async fn run(
        &self,
        command: Command,
        body: Body,
        lines: Lines,
        place: Place,
    ) -> (Result<i32, Failure>, Vec<u8>) {
        let started = Running::start(command, self.time_limit, self.max_output, place);
        let mut running = match started {
            Ok(running) => running,
            Err(failure) => return (Err(failure), Vec::new()),
        };
        let result = running.feed(body, lines).await;
        (result, running.into_output())
    }

    /// Returns the reply to a message, and reports what is a fault.
    fn reply(
        &self,
        session: &Session,
        id: &QueueId,
        result: Result<i32, Failure>,
        output: &[u8],
    ) -> Reply {
        let (reply, problem) = match result {
            Err(Failure::Body(error)) => return session.reply_to(error),
            Err(Failure::Command(problem)) => (status::of_problem(&problem), problem),
            Ok(status) => match Meaning::of(status) {
                Meaning::Fault(reply) => (reply, Problem::Exited(status)),
                Meaning::Decision(reply) => {
                    let reply = match status {
                        0 => Reply::queued(id),
                        _ => reply,
                    };
                    return self.decided(session, reply, status, output);
                }
            },
        };
        let error = PipeError::new(&self.program, problem, shown::in_log(output));
        session.report_fault(PhaseKind::Data, error);
        reply
    }

    fn decided(&self, session: &Session, reply: Reply, status: i32, output: &[u8]) -> Reply {
        quietly(|| {
            let (session, program) = (session.id(), self.program.display());
            let output = shown::in_log(output);
            tracing::debug!(session, %program, status, %output, "a command has ended");
        });
        match shown::in_reply(output).filter(|_| self.shows_output) {
            Some(text) => reply.with_text(text),
            None => reply,
        }
    }
}

impl Service<Request<Data>> for Pipe {
    type Response = DataReply;
    type Error = Infallible;
    type Future = PipeFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Data>) -> PipeFuture {
        PipeFuture(Some(Box::pin(self.clone().deliver(request))))
    }
}

/// The future of [`Pipe`].
pub struct PipeFuture(Option<Pin<Box<dyn Future<Output = DataReply> + Send>>>);

impl Future for PipeFuture {
    type Output = Result<DataReply, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Polled after completion, it stays pending like a fused future.
        let Some(delivering) = &mut self.0 else {
            return Poll::Pending;
        };
        let reply = ready!(delivering.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(Ok(reply))
    }
}

impl fmt::Debug for PipeFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipeFuture").finish_non_exhaustive()
    }
}
