use std::{
    io,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::{
    io::AsyncWriteExt,
    process::{Child, ChildStdin, Command},
    runtime::Handle,
    time::{Instant, sleep},
};

use super::output::Output;
use crate::deliver::gate::Place;

/// How long a command may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(2);

/// How often a command is looked at that was asked to end.
const LOOK: Duration = Duration::from_millis(20);

/// A command with all processes that it has started, in a process group of its own.
///
/// If this is dropped before the command has ended, all of them are asked to end, and killed after a moment. Until then the input
/// of the command stays open, so that it does not take what it has read for a whole message, and the command keeps its place.
#[derive(Debug)]
pub(super) struct Group(Option<Members>);

/// If this is dropped before the command has ended, all processes are killed, and tokio waits for the command.
#[derive(Debug)]
struct Members {
    /// The number of the group, until it might belong to others: the command has ended, and was waited for.
    id: Option<Pid>,
    child: Child,
    stdin: Option<ChildStdin>,
    _place: Place,
}

/// What came first.
pub(super) enum Progress {
    /// All bytes are written, or the command has closed its input.
    Written,
    Failed(io::Error),
    Ended(io::Result<ExitStatus>),
}

impl Group {
    /// Starts a command whose output goes to a pipe.
    pub(super) fn start(
        mut command: Command,
        output: io::PipeWriter,
        place: Place,
    ) -> io::Result<Self> {
        command
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Ok(Self(Some(Members {
            id: id.and_then(Pid::from_raw),
            stdin: child.stdin.take(),
            child,
            _place: place,
        })))
    }

    /// Writes to the command while its output is read.
    pub(super) async fn write(&mut self, bytes: &[u8], output: &mut Output) -> Progress {
        let Some(Members {
            id, child, stdin, ..
        }) = &mut self.0
        else {
            return Progress::Written;
        };
        let Some(open) = stdin else {
            return Progress::Written;
        };
        let written = tokio::select! {
            biased;
            written = open.write_all(bytes) => written,
            ended = child.wait() => {
                *id = None;
                return Progress::Ended(ended);
            }
            never = output.read() => never,
        };
        match written {
            Ok(()) => Progress::Written,
            // Its exit status decides.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                *stdin = None;
                Progress::Written
            }
            Err(error) => Progress::Failed(error),
        }
    }

    /// Ends the input of the command: the message is whole.
    pub(super) fn close(&mut self) {
        if let Some(members) = &mut self.0 {
            members.stdin = None;
        }
    }

    /// Waits until the command has ended by itself, while its output is read. What it has started may go on.
    pub(super) async fn wait(&mut self, output: &mut Output) -> io::Result<ExitStatus> {
        let Some(members) = &mut self.0 else {
            return std::future::pending().await;
        };
        let status = tokio::select! {
            biased;
            status = members.child.wait() => status,
            never = output.read() => never,
        };
        members.id = None;
        status
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let Some(members) = self.0.take().filter(|members| members.id.is_some()) else {
            return;
        };
        // Without a runtime, they are killed at once.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(members.end());
        }
    }
}

impl Members {
    /// Asks all processes to end, and kills what has not.
    async fn end(mut self) {
        self.signal(Signal::TERM);
        let until = Instant::now() + GRACE;
        while Instant::now() < until && !self.has_ended() {
            sleep(LOOK).await;
        }
        // Also if the command has ended, for the sake of the others. It was not waited for, so the group is still its own.
        self.signal(Signal::KILL);
        let _ = self.child.wait().await;
        self.id = None;
    }

    /// Returns whether the command has ended, and leaves it to be waited for.
    fn has_ended(&self) -> bool {
        let Some(id) = self.id else { return true };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(waitid(WaitId::Pid(id), options), Ok(None))
    }

    fn signal(&self, signal: Signal) {
        if let Some(id) = self.id {
            // It fails if all of them have ended.
            let _ = kill_process_group(id, signal);
        }
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}
