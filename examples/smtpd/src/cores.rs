//! How several cores are used: one runtime with several threads, or several runtimes with one thread each.

use std::{future::pending, io, num::NonZeroUsize, thread};

use tokio::runtime::{Builder, Handle, Runtime};

use crate::{options::Options, values::RuntimeKind};

/// Where listeners and their sessions run.
pub(crate) struct Cores(Vec<Handle>);

/// The runtime of the main thread, which builds the server and serves Unix sockets.
pub(crate) fn main_runtime(options: &Options) -> io::Result<Runtime> {
    match (options.runtime.unwrap_or_default(), threads(options)) {
        // A single thread has nothing to share, and the main thread already is one.
        (RuntimeKind::Threads, 1) | (RuntimeKind::PerCore, _) => {
            Builder::new_current_thread().enable_all().build()
        }
        (RuntimeKind::Threads, threads) => Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build(),
    }
}

impl Cores {
    /// Returns the current runtime, or starts one for each of the threads that the options set.
    pub(crate) fn start(options: &Options) -> io::Result<Self> {
        match options.runtime.unwrap_or_default() {
            RuntimeKind::Threads => Ok(Self(vec![Handle::current()])),
            RuntimeKind::PerCore => (0..threads(options)).map(|_| start_thread()).collect(),
        }
    }

    /// The runtimes, at least one.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Handle> {
        self.0.iter()
    }
}

impl FromIterator<Handle> for Cores {
    fn from_iter<I: IntoIterator<Item = Handle>>(handles: I) -> Self {
        Self(handles.into_iter().collect())
    }
}

/// A thread that runs whatever is spawned on its runtime, until the program ends.
fn start_thread() -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new()
        .name("core".to_owned())
        .spawn(move || runtime.block_on(pending::<()>()))?;
    Ok(handle)
}

fn threads(options: &Options) -> usize {
    let cores = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
    options
        .threads
        .map_or_else(cores, |threads| threads.get() as usize)
}
