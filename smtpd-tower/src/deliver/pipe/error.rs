use std::{
    error::Error,
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// A fault of a command that a [`Pipe`](super::Pipe) runs. Its text names the program and what that wrote: it is for the log
/// only.
#[derive(Debug)]
pub struct PipeError {
    program: PathBuf,
    problem: Problem,
    output: String,
}

#[derive(Debug)]
pub(super) enum Problem {
    Start(io::Error),
    Write(io::Error),
    Wait(io::Error),
    Exited(i32),
    Killed(i32),
    TimedOut(Duration),
}

impl PipeError {
    pub(super) fn new(program: &Path, problem: Problem, output: String) -> Self {
        Self {
            program: program.to_owned(),
            problem,
            output,
        }
    }

    /// Returns the program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Returns the beginning of what the command wrote, escaped.
    pub fn output(&self) -> &str {
        &self.output
    }

    /// Returns whether the command did not end within its time limit, and was killed.
    pub const fn is_timeout(&self) -> bool {
        matches!(self.problem, Problem::TimedOut(_))
    }

    /// Returns the exit status, if the command has exited by itself.
    pub const fn exit_status(&self) -> Option<i32> {
        match self.problem {
            Problem::Exited(status) => Some(status),
            _ => None,
        }
    }
}

impl fmt::Display for PipeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = self.program.display();
        match &self.problem {
            Problem::Start(_) => write!(f, "cannot start {program}"),
            Problem::Write(_) => write!(f, "cannot write to {program}"),
            Problem::Wait(_) => write!(f, "cannot wait for {program}"),
            Problem::Exited(status) => write!(f, "{program} exited with status {status}"),
            Problem::Killed(signal) => write!(f, "{program} was killed by signal {signal}"),
            Problem::TimedOut(limit) => write!(f, "{program} took longer than {limit:?}"),
        }?;
        match self.output.is_empty() {
            true => Ok(()),
            false => write!(f, ": {}", self.output),
        }
    }
}

impl Error for PipeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.problem {
            Problem::Start(error) | Problem::Write(error) | Problem::Wait(error) => Some(error),
            _ => None,
        }
    }
}
