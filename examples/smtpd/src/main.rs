//! The reference server: SMTP, SMTP over TLS and LMTP into a Maildir.
//!
//! It is also a tour of the framework: every server has a pipeline of services, one for each phase of a session, and a
//! server around it.
//!
//! | file | what it shows |
//! |---|---|
//! | `pipeline.rs` | the services, and the layers around them |
//! | `server.rs` | the server around the pipeline, and whole sessions as tests |
//! | `message_log.rs` | a custom layer, which logs what becomes of each message |
//! | `users.rs`, `users_file.rs` | authentication, by passwords, by their hashes, or by a certificate |
//! | `config.rs`, `extensions.rs` | limits, timeouts, what is required, extensions |
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
//! | `options.rs`, `values.rs`, `mechanisms.rs`, `file.rs`, `faults.rs` | the command line and the file of options, and which of them cannot work together |

mod config;
mod cores;
mod disk;
mod extensions;
mod faults;
mod file;
mod http;
mod listen;
mod log;
mod mechanisms;
mod message_log;
mod metrics;
mod mode;
mod options;
mod pipeline;
mod privileges;
mod secrets;
mod server;
mod signals;
mod sockets;
mod supervisor;
mod tls;
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

use smtpd_tower::BoxError;

use crate::{
    cores::Cores, http::Health, listen::Bound, log::Log, options::Options, privileges::Account,
    server::Settings, signals::Signals, sockets::Passed, values::Grace,
};

fn main() -> ExitCode {
    let options = Options::read(env::args_os()).unwrap_or_else(|error| error.exit());
    // Before there are other threads.
    let passed = match sockets::take(&options.passed) {
        Ok(passed) => passed,
        Err(error) => return failed(&error),
    };
    let log = match Log::start(&options) {
        Ok(log) => log,
        Err(error) => return failed(&error),
    };
    let runtime = cores::main_runtime(&options).map_err(BoxError::from);
    let ended = runtime.and_then(|runtime| {
        let ended = runtime.block_on(run(&options, passed, &log));
        // Do not wait for calls that are still blocked, for instance by a disk that hangs: no client has received a reply to
        // them. Others are about to end, and remove their temporary files.
        runtime.shutdown_timeout(Duration::from_millis(500));
        ended
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.say(&format!("smtpd: {}", with_causes(&*error)));
            ExitCode::FAILURE
        }
    }
}

/// Reports what went wrong before there was a log.
fn failed(error: &dyn fmt::Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "smtpd: {error}");
    ExitCode::FAILURE
}

async fn run(options: &Options, passed: Vec<Passed>, log: &Log) -> Result<(), BoxError> {
    let mut signals = Signals::catch()?;
    let account = Account::new(options)?;
    secrets::warn(options);
    // What only root may read and bind comes first, and what belongs to the user of the server after that.
    let settings = Settings::read(options, account)?;
    let cores = Cores::start(options)?;
    let bound = listen::bind(options, passed, &cores).await?;
    match account {
        Some(account) => account.assume()?,
        None if bound.iter().any(Bound::is_public) => privileges::warn(),
        None => {}
    }
    let pipeline = pipeline::new(options, settings.users).await?;
    let server = server::new(options, settings.hostname, settings.tls, pipeline)?;
    tls::keep_fresh(&server, signals::hangup()?);
    let handle = server.handle();
    let health = Health::new(options, &handle)?;
    let health = health.as_ref();
    let mut serving = listen::serve(bound, options, &server, health, &cores, log.lines())?;
    supervisor::ready();
    supervisor::keep_alive();

    tokio::select! {
        () = signals.next() => tracing::info!("shutting down"),
        // A listener ends by itself only if it fails.
        Some(ended) = serving.join_next() => ended??,
    }
    health.inspect(|health| health.stop());
    let Grace(grace) = options.grace.unwrap_or_default();
    tokio::select! {
        () = handle.shutdown(grace) => {}
        () = supervisor::stopping() => {}
        () = signals.next() => handle.shutdown(Duration::ZERO).await,
    }
    while let Some(ended) = serving.join_next().await {
        ended??;
    }
    Ok(())
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
