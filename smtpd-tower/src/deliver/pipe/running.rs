use std::{io, os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use tokio::process::Command;

use super::{
    error::Problem,
    group::{Group, Progress},
    output::Output,
};
use crate::{
    body::{Body, BodyError},
    deliver::{
        gate::Place,
        newline::Lines,
        patience::{Exhausted, Patience},
    },
};

/// How many bytes are written at a time, if there are so many.
const BUFFER: usize = 64 * 1024;

/// A command that is under way.
#[derive(Debug)]
pub(super) struct Running {
    group: Group,
    output: Output,
    patience: Patience,
}

/// Why a message has not gone through a command.
#[derive(Debug)]
pub(super) enum Failure {
    Body(BodyError),
    Command(Problem),
}

impl Running {
    /// Starts a command, which may take so long in all, not counting the time in which nothing arrives for it.
    pub(super) fn start(
        command: Command,
        limit: Duration,
        max_output: usize,
        place: Place,
    ) -> Result<Self, Failure> {
        let started = || {
            let (reader, writer) = io::pipe()?;
            Ok(Self {
                output: Output::new(reader, max_output)?,
                group: Group::start(command, writer, place)?,
                patience: Patience::new(limit),
            })
        };
        started().map_err(|error| Failure::Command(Problem::Start(error)))
    }

    /// Writes the message, and returns the exit status of the command.
    pub(super) async fn feed(&mut self, mut body: Body, mut lines: Lines) -> Result<i32, Failure> {
        let mut bytes = Vec::new();
        loop {
            let chunk = tokio::select! {
                biased;
                chunk = body.chunk() => chunk,
                status = self.group.wait(&mut self.output) => return ended_early(status, body).await,
            };
            let Some(chunk) = chunk else { break };
            lines.append(&chunk.map_err(Failure::Body)?, &mut bytes);
            if bytes.len() >= BUFFER {
                if let Some(status) = self.write(&bytes).await? {
                    return ended_early(status, body).await;
                }
                bytes.clear();
            }
        }
        lines.finish(&mut bytes);
        if let Some(status) = self.write(&bytes).await? {
            return exit_status(status);
        }
        self.group.close();
        let ended = self.patience.within(self.group.wait(&mut self.output));
        exit_status(ended.await?)
    }

    /// Returns what the command wrote.
    pub(super) fn into_output(self) -> Vec<u8> {
        self.output.finish()
    }

    /// Writes to the command. Returns how it has ended, if it has.
    async fn write(&mut self, bytes: &[u8]) -> Result<Option<io::Result<ExitStatus>>, Failure> {
        let written = self.group.write(bytes, &mut self.output);
        match self.patience.within(written).await? {
            Progress::Written => Ok(None),
            Progress::Ended(status) => Ok(Some(status)),
            Progress::Failed(error) => Err(Failure::Command(Problem::Write(error))),
        }
    }
}

impl From<Exhausted> for Failure {
    fn from(Exhausted(limit): Exhausted) -> Self {
        Self::Command(Problem::TimedOut(limit))
    }
}

/// Returns the exit status of a command that has ended before the message. If it is content, the message has to arrive whole
/// nevertheless.
async fn ended_early(status: io::Result<ExitStatus>, body: Body) -> Result<i32, Failure> {
    let status = exit_status(status)?;
    if status == 0 {
        body.discard().await.map_err(Failure::Body)?;
    }
    Ok(status)
}

fn exit_status(status: io::Result<ExitStatus>) -> Result<i32, Failure> {
    let problem = match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => return Ok(code),
            (None, signal) => Problem::Killed(signal.unwrap_or_default()),
        },
        Err(error) => Problem::Wait(error),
    };
    Err(Failure::Command(problem))
}
