//! Everything that serves sessions, read from the options and their files: at the start, at SIGHUP, and for `--check`.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _, path::PathBuf, sync::Arc};

use smtpd_tower::{
    BoxError, Server,
    address::Domain,
    deliver::{Maildir, Newline},
    server::{Handle, ReloadableServer},
    system_hostname,
    tls::TlsConfig,
};
use tokio::task;

use crate::{
    clients::{self, Clients},
    config,
    disk::Space,
    file::Pipes,
    guard,
    listen::Kind,
    mechanisms,
    mistakes::Mistakes,
    options::Options,
    pipeline,
    privileges::Account,
    recipients::Recipients,
    secrets, server,
    tls::{self, SelfSigned},
    users::Users,
    values, with_causes,
};

/// What the files are read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Start,
    Reload,
    /// Nothing is created.
    Check,
}

impl Purpose {
    /// A pipe can be read once.
    pub(crate) fn pipes(self) -> Pipes {
        match self {
            Self::Reload => Pipes::Refused,
            Self::Start | Self::Check => Pipes::Allowed,
        }
    }
}

/// The servers of some options, and what they were made from.
pub(crate) struct Served {
    pub(crate) options: Options,
    pub(crate) hostname: String,
    pub(crate) parts: Parts,
    pub(crate) clients: Clients,
    pub(crate) maildir: Option<Maildir>,
    pub(crate) space: Space,
    pub(crate) warnings: Vec<String>,
    server: Server,
    /// The states of the files before they were read.
    stamps: Stamps,
}

/// What is read from files.
#[derive(Clone, Default)]
pub(crate) struct Parts {
    pub(crate) users: Option<Users>,
    pub(crate) recipients: Option<Recipients>,
    pub(crate) tls: Option<TlsConfig>,
    pub(crate) self_signed: Option<Arc<SelfSigned>>,
}

type Stamps = BTreeMap<PathBuf, Option<(i64, i64, u64, u64)>>;

impl Served {
    /// Reads all files, and makes the servers. What must outlast a change comes from those that run.
    ///
    /// # Errors
    /// Fails with everything that is wrong with the options and the files.
    pub(crate) async fn read(
        options: Options,
        running: Option<&Self>,
        purpose: Purpose,
    ) -> Result<Self, Mistakes> {
        let mut mistakes = Mistakes::default();
        mistakes.of_options(options.faults());
        let account = Account::new(&options).map_err(|error| error.to_string());
        let account = mistakes.unless(account).flatten();
        let stamps = stamps(&options);
        let hostname = mistakes.unless(hostname(&options));
        let kept = running.and_then(|running| running.parts.self_signed.clone());
        let parts = parts(&options, account, hostname.as_deref(), kept, purpose).await;
        let parts = mistakes.unless(parts).unwrap_or_default();
        let maildir = maildir(&options, running);
        // One that is in use has shown that it works.
        let in_use = running.and_then(|running| running.maildir.as_ref());
        if let Some(maildir) = &maildir
            && in_use.is_none_or(|in_use| in_use.path() != maildir.path())
            // Or else when the server has become the user that it belongs to.
            && (purpose != Purpose::Start || options.user_id.is_none())
        {
            mistakes.unless(pipeline::prepare(maildir, &options, purpose).await);
        }
        mistakes.unless(clients::check(&options));
        let clients = match running {
            Some(running) => running.clients.next(&options),
            None => Clients::new(&options).next(&options),
        };
        let keep = options.limits.min_free_space();
        let before = running.map(|running| &running.space);
        let space = Space::new(maildir.as_ref(), keep, before);
        let pipeline = pipeline::new(&options, &parts, &clients, maildir.clone(), space.layer());
        let hostname = hostname.unwrap_or_default();
        let server = server::new(&options, &hostname, pipeline, &clients, parts.tls.clone());
        // Otherwise this follows from what was found already.
        if mistakes.is_empty() && options.given.is_whole() {
            mistakes.extend(unservable(&options, &server));
        }
        let warnings = warnings(&options, &parts);
        mistakes.or(Some(Self {
            options,
            hostname,
            parts,
            clients,
            maildir,
            space,
            warnings,
            server,
            stamps,
        }))
    }

    /// Becomes the user of the options, and makes sure that this user can store messages.
    ///
    /// # Errors
    /// Fails if the process may not become that user, or the user may not store anything.
    pub(crate) async fn become_user(&self, account: Account) -> Result<(), BoxError> {
        account.assume()?;
        match &self.maildir {
            Some(maildir) => pipeline::prepare(maildir, &self.options, Purpose::Start)
                .await
                .map_err(|fault| Mistakes::one(&*BoxError::from(fault)).into()),
            None => Ok(()),
        }
    }

    /// Returns the server for a kind of listeners.
    pub(crate) fn server(&self, kind: Kind) -> Server {
        config::at(&self.options, &self.server, kind.profile(&self.options))
    }

    /// Returns what differs: options by name, and files.
    pub(crate) fn changes(&self, new: &Self) -> Vec<String> {
        let options = self.options.given.changed(&new.options.given);
        let options = options.into_iter().map(str::to_owned);
        let files = new.stamps.iter().filter(|(path, stamp)| {
            let old = self.stamps.get(*path);
            old.is_some_and(|old| old != *stamp) && Some(*path) != new.options.config.as_ref()
        });
        options
            .chain(files.map(|(path, _)| path.display().to_string()))
            .collect()
    }
}

/// The servers of all kinds of listeners. Each session is served by one of them, from its beginning to its end.
#[derive(Clone)]
pub(crate) struct Servers {
    all: Vec<(Kind, ReloadableServer)>,
    handle: Handle,
}

impl Servers {
    pub(crate) fn new(served: &Served) -> Self {
        served.clients.set_guard();
        let all = Kind::ALL.map(|kind| (kind, ReloadableServer::new(served.server(kind))));
        Self {
            all: all.into(),
            handle: served.server.handle(),
        }
    }

    pub(crate) fn replace(&self, served: &Served) {
        // Made first, so that nothing comes between the first one and the last.
        let new: Vec<_> = Kind::ALL.map(|kind| served.server(kind)).into();
        for ((_, server), new) in self.all.iter().zip(new) {
            server.replace(new);
        }
        served.clients.set_guard();
    }

    /// Returns the handle of all sessions, before and after any change.
    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    pub(crate) fn of(&self, kind: Kind) -> Option<&ReloadableServer> {
        let found = self.all.iter().find(|(one, _)| *one == kind);
        found.map(|(_, server)| server)
    }
}

/// The name of this host, U-labels as A-labels (RFC 5890 section 2.3.2.1).
fn hostname(options: &Options) -> Result<String, Mistakes> {
    let (place, name) = match &options.hostname {
        Some(name) => (options.given.place("hostname"), name.clone()),
        None => (
            "--hostname, the name of this machine".to_owned(),
            system_hostname(),
        ),
    };
    match name.parse::<Domain>() {
        Ok(_) if name.is_ascii() => Ok(name),
        Ok(domain) => Ok(domain.canonical().into_owned()),
        Err(_) => {
            let mut mistakes = Mistakes::default();
            mistakes.of_options(vec![format!(
                "{place}: \"{}\" is neither a domain, such as mx.example.org, nor an address literal, such as [192.0.2.1]",
                name.escape_debug()
            )]);
            Err(mistakes)
        }
    }
}

/// Reads the files in another thread, because disks can be slow.
async fn parts(
    options: &Options,
    account: Option<Account>,
    hostname: Option<&str>,
    kept: Option<Arc<SelfSigned>>,
    purpose: Purpose,
) -> Result<Parts, Mistakes> {
    let options = options.clone();
    let hostname = hostname.unwrap_or("localhost").to_owned();
    let read = task::spawn_blocking(move || {
        let mut mistakes = Mistakes::default();
        let users = mistakes.unless(Users::read(&options, purpose.pipes()));
        let recipients = mistakes.unless(Recipients::read(&options, purpose.pipes()));
        let tls = tls::config(&options, account, &hostname, kept, purpose);
        let (tls, self_signed) = mistakes.unless(tls).unwrap_or_default();
        mistakes.or(Some(Parts {
            users: users.flatten(),
            recipients: recipients.flatten(),
            tls,
            self_signed,
        }))
    });
    read.await.unwrap_or_else(|error| {
        let mut mistakes = Mistakes::default();
        mistakes.add(format!("the files were not read: {error}"));
        Err(mistakes)
    })
}

/// Where messages are stored. Deliveries before and after a change share their work on one Maildir.
fn maildir(options: &Options, running: Option<&Served>) -> Option<Maildir> {
    if options.discard == Some(true) {
        return None;
    }
    let same = running
        .and_then(|running| running.maildir.clone())
        .filter(|maildir| maildir.path() == options.maildir());
    let maildir = same.unwrap_or_else(|| Maildir::new(options.maildir()));
    Some(maildir.newline(match options.maildir_newline {
        Some(values::Newline::Lf) => Newline::Lf,
        _ => Newline::CrLf,
    }))
}

/// Returns what is wrong for the listeners that there are.
fn unservable(options: &Options, server: &Server) -> Vec<String> {
    let kinds = Kind::ALL.into_iter();
    let kinds = kinds.filter(|kind| kind.is_served(options));
    let faults = kinds.filter_map(|kind| {
        let error = config::at(options, server, kind.profile(options)).check();
        error.err().map(|error| with_causes(&error))
    });
    let mut faults: Vec<_> = faults.collect();
    faults.dedup();
    faults
}

fn warnings(options: &Options, parts: &Parts) -> Vec<String> {
    let mut warnings = secrets::warnings(options);
    warnings.extend(guard::warning(options));
    warnings.extend(options.socket_warning().map(str::to_owned));
    if let Some(users) = &parts.users {
        warnings.extend(users.warnings(&mechanisms::offered(options)));
    }
    match &parts.recipients {
        Some(recipients) => warnings.extend(recipients.warnings.iter().cloned()),
        None if options.domain.is_empty() => {}
        None => warnings.push(
            "every address in --domain is accepted: without --recipients, anybody can fill the disk"
                .to_owned(),
        ),
    }
    warnings
}

/// The state of each file, to tell later which have changed.
fn stamps(options: &Options) -> Stamps {
    let stamp = |path: &PathBuf| {
        let file = fs::metadata(path).ok()?;
        Some((file.mtime(), file.mtime_nsec(), file.size(), file.ino()))
    };
    options
        .files()
        .map(|(_, path)| (path.clone(), stamp(path)))
        .collect()
}
