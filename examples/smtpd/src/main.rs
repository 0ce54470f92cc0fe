//! The reference server: SMTP, SMTP over TLS and LMTP into a Maildir.
//!
//! It is also a tour of the framework: every server has a pipeline of services, one for each phase of a session, and a
//! server around it.
//!
//! | file | what it shows |
//! |---|---|
//! | `pipeline.rs` | the services, and the layers around them |
//! | `guard.rs` | what each client may do over all of its sessions |
//! | `clients.rs` | layers that limit, delay and defer clients |
//! | `server.rs` | the server around the pipeline, and whole sessions as tests |
//! | `served.rs`, `reload.rs` | everything that is read from files, and how it is replaced while the server runs |
//! | `message_log.rs` | a custom layer, which logs what becomes of each message |
//! | `users.rs`, `users_file.rs` | authentication, by passwords, by their hashes, or by a certificate |
//! | `recipients.rs` | a list of recipients, from a file |
//! | `config.rs`, `limits.rs`, `timeouts.rs`, `extensions.rs` | limits, timeouts, what is required, extensions |
//! | `mode.rs` | listeners for servers, for users, or for both |
//! | `secrets.rs` | who else may read the files that hold passwords |
//! | `tls.rs` | certificates, and new ones while the server runs |
//! | `listen.rs`, `sockets.rs` | several listeners, on TCP and Unix sockets, and those of systemd |
//! | `privileges.rs` | the user that the server becomes, once it listens |
//! | `supervisor.rs` | what systemd is told |
//! | `http.rs`, `metrics.rs` | health checks and metrics |
//! | `disk.rs` | what the disk and the process can still take |
//! | `cores.rs` | one runtime with several threads, or one for each core |
//! | `log/` | hooks, and a log that mail never waits for |
//! | `options.rs`, `facts.rs`, `values.rs`, `amounts.rs`, `mechanisms.rs` | the options, what follows from them, and their values |
//! | `arguments.rs`, `file.rs`, `trial.rs`, `partial.rs`, `faults.rs`, `mistakes.rs`, `check.rs` | the command line and the file of options, what is wrong with them, and `--check` |

mod amounts;
mod arguments;
mod check;
mod clients;
mod config;
mod cores;
mod disk;
mod extensions;
mod facts;
mod faults;
mod file;
mod guard;
mod http;
mod limits;
mod listen;
mod log;
mod mechanisms;
mod message_log;
mod metrics;
mod mistakes;
mod mode;
mod options;
mod partial;
mod pipeline;
mod privileges;
mod recipients;
mod reload;
mod secrets;
mod served;
mod server;
mod signals;
mod sockets;
mod supervisor;
mod timeouts;
mod tls;
mod trial;
mod users;
mod users_file;
mod values;

use std::{
    env,
    error::Error,
    fmt,
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use smtpd_tower::{BoxError, server::Handle};
use tokio::{runtime::Builder, task::JoinSet};

use crate::{
    cores::Cores,
    http::Health,
    listen::Bound,
    log::Log,
    mistakes::Mistakes,
    options::Options,
    privileges::Account,
    reload::Reloader,
    served::{Purpose, Served, Servers},
    signals::Signals,
    sockets::Passed,
};

/// How long sessions may continue during a shutdown, unless the options say so.
const GRACE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let args: Vec<_> = env::args_os().collect();
    let (options, mistakes) = match Options::read_partly(&args) {
        Ok(read) => read,
        Err(error) => {
            error.print();
            return error.exit_code().into();
        }
    };
    // Nothing is served with options that are wrong, so this is all that is left to do.
    if options.check || !mistakes.is_empty() {
        return match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(check::run(options, mistakes)),
            Err(error) => failed(&error),
        };
    }
    // Before there are other threads.
    let passed = match sockets::take(options.passed.names()) {
        Ok(passed) => passed,
        Err(error) => return failed(&error),
    };
    let started = cores::main_runtime(&options);
    let started = started.and_then(|runtime| Ok((runtime, Log::start(&options)?)));
    let (runtime, log) = match started {
        Ok(started) => started,
        Err(error) => return failed(&error),
    };
    let ended = runtime.block_on(run(options, passed, &log));
    // Do not wait for calls that are still blocked, for instance by a disk that hangs: no client has received a reply to
    // them. Others are about to end, and remove their temporary files.
    runtime.shutdown_timeout(Duration::from_millis(500));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&log, &*error),
    }
}

/// Reports what went wrong before there was a log.
fn failed(error: &dyn fmt::Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "smtpd: {error}");
    ExitCode::FAILURE
}

async fn run(options: Options, passed: Vec<Passed>, log: &Log) -> Result<(), BoxError> {
    let signals = Signals::catch()?;
    let hangup = signals::hangup()?;
    let account = Account::new(&options)?;
    let recorded = options.has_http().then(metrics::record).transpose()?;
    // What only root may read and bind comes first, and what belongs to the user of the server after that.
    let served = Served::read(options, None, Purpose::Start).await?;
    let servers = Servers::new(&served);
    let (clients, options) = (served.clients.clone(), served.options.clone());
    let cores = Cores::start(&options)?;
    let bound = listen::bind(&options, passed, &cores).await?;
    match account {
        Some(account) => served.become_user(account).await?,
        None if bound.iter().any(Bound::is_public) => privileges::warn(),
        None => {}
    }
    clients::restore(&clients, &options).await;
    let reloader = Reloader::new(env::args_os().collect(), served, servers.clone());
    let handle = servers.handle();
    let health = recorded.map(|recorded| Health::new(recorded, handle.clone()));
    let serving = listen::serve(bound, &servers, health.as_ref(), &cores, log.lines())?;
    let reloading = tokio::spawn(reloader.run(hangup));
    supervisor::ready();
    supervisor::keep_alive();

    let ended = until_stopped(signals, serving, handle, health, &options).await;
    reloading.abort();
    clients::keep(&clients, &options).await;
    ended
}

/// Serves until a signal asks for the end, or a listener fails.
async fn until_stopped(
    mut signals: Signals,
    mut serving: JoinSet<io::Result<()>>,
    handle: Handle,
    health: Option<Health>,
    options: &Options,
) -> Result<(), BoxError> {
    tokio::select! {
        () = signals.next() => {
            let grace = amounts::shown(options.grace.unwrap_or(GRACE));
            tracing::info!("shutting down: open transactions may continue for up to {grace}");
        }
        // A listener ends by itself only if it fails.
        Some(ended) = serving.join_next() => ended??,
    }
    if let Some(health) = &health {
        health.stop();
    }
    tokio::select! {
        () = handle.shutdown(options.grace.unwrap_or(GRACE)) => {}
        () = supervisor::stopping() => {}
        () = signals.next() => handle.shutdown(Duration::ZERO).await,
    }
    while let Some(ended) = serving.join_next().await {
        ended??;
    }
    Ok(())
}

/// Logs why the server has not started, or has ended: each mistake in a line.
fn report(log: &Log, error: &(dyn Error + 'static)) -> ExitCode {
    match error.downcast_ref::<Mistakes>() {
        Some(mistakes) => {
            for mistake in mistakes.iter() {
                log.say(&format!("smtpd: {mistake}"));
            }
            mistakes.exit_code().into()
        }
        None => {
            log.say(&format!("smtpd: {}", with_causes(error)));
            ExitCode::FAILURE
        }
    }
}

/// Formats an error in one line, with its causes.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
