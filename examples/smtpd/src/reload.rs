//! What a server that runs reads again at SIGHUP, and does from time to time.
//!
//! Everything is read and checked first. Then the servers of all listeners are replaced: new sessions are served by the new
//! ones, and sessions that have begun end as they began. If anything is wrong, nothing changes.

use std::{ffi::OsString, time::Duration};

use smtpd_tower::deliver::Maildir;
use tokio::{
    signal::unix::Signal,
    task,
    time::{self, Instant, MissedTickBehavior},
};

use crate::{
    arguments::Unreadable,
    clients,
    mistakes::Mistakes,
    options::Options,
    privileges,
    served::{Purpose, Served, Servers},
    supervisor,
    tls::Certificates,
    with_causes,
};

const MINUTE: Duration = Duration::from_secs(60);

/// A file in `tmp` of the Maildir that is older belongs to a delivery that has crashed.
const STALE: Duration = Duration::from_secs(36 * 3600);

/// What runs now, and how it is read again.
pub(crate) struct Reloader {
    args: Vec<OsString>,
    served: Served,
    servers: Servers,
    certificates: Certificates,
}

impl Reloader {
    /// Logs what is odd about what is served and about its disk, and follows its certificates.
    pub(crate) fn new(args: Vec<OsString>, served: Served, servers: Servers) -> Self {
        warn(&served);
        served.space.measure();
        let certificates = Certificates::default();
        if let Some(tls) = &served.parts.tls {
            certificates.follow(tls);
        }
        Self {
            args,
            served,
            servers,
            certificates,
        }
    }

    /// Reads everything again at each signal, and does what there is to do from time to time.
    pub(crate) async fn run(mut self, mut hangup: Signal) {
        let mut minutes = every(MINUTE);
        let mut save = every(10 * MINUTE);
        let mut clean = every(60 * MINUTE);
        loop {
            tokio::select! {
                Some(()) = hangup.recv() => self.reload().await,
                _ = minutes.tick() => self.certificates.warn(self.served.parts.tls.as_ref()),
                _ = save.tick() => clients::keep(&self.served.clients, &self.served.options).await,
                _ = clean.tick() => clean_tmp(self.served.maildir.as_ref()).await,
            }
        }
    }

    async fn reload(&mut self) {
        supervisor::reloading();
        match self.read().await {
            Ok(new) => self.replace(new),
            Err(mistakes) => {
                for mistake in mistakes.iter() {
                    let why = privileges::explanation(mistake);
                    tracing::error!("nothing was reloaded, the old settings stay: {mistake}{why}");
                }
            }
        }
        supervisor::ready();
    }

    async fn read(&self) -> Result<Served, Mistakes> {
        let (args, running) = (self.args.clone(), self.served.options.clone());
        let read = task::spawn_blocking(move || running.read_again(&args));
        match read.await {
            Ok(Ok(options)) => {
                let waiting = waiting(&options);
                let read = Served::read(options, Some(&self.served), Purpose::Reload).await;
                read.map_err(|mut mistakes| {
                    // With them, what is wrong now may be right.
                    mistakes.extend(
                        waiting.map(|waiting| format!("it takes a restart to change {waiting}")),
                    );
                    mistakes
                })
            }
            Ok(Err(Unreadable::Mistakes(mistakes))) => Err(mistakes),
            Ok(Err(Unreadable::CommandLine(error))) => Err(Mistakes::one(&*error)),
            Err(error) => Err(Mistakes::one(&error)),
        }
    }

    fn replace(&mut self, new: Served) {
        let changes = self.served.changes(&new);
        self.servers.replace(&new);
        self.served = new;
        self.served.space.measure();
        if let Some(tls) = &self.served.parts.tls {
            self.certificates.follow(tls);
        }
        let changed = match &*changes {
            [] => "nothing".to_owned(),
            changes => changes.join(","),
        };
        tracing::info!(
            changed,
            users = self.served.parts.users.as_ref().map(|users| users.count()),
            recipients = self.served.parts.recipients.as_ref().map(|list| list.count),
            "the settings have been read again; new sessions use them"
        );
        if let Some(waiting) = waiting(&self.served.options) {
            tracing::warn!("these options take effect at the next start: {waiting}");
        }
        warn(&self.served);
    }
}

/// The options that a running server does not change, if the file sets them to something else.
fn waiting(options: &Options) -> Option<String> {
    let waiting: Vec<_> = options.given.waiting().collect();
    (!waiting.is_empty()).then(|| waiting.join(","))
}

fn warn(served: &Served) {
    for warning in &served.warnings {
        tracing::warn!("{warning}");
    }
}

/// The first tick is after the period, not at once.
fn every(period: Duration) -> time::Interval {
    let mut ticks = time::interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Removes what crashes have left in the Maildir.
pub(crate) async fn clean_tmp(maildir: Option<&Maildir>) {
    let Some(maildir) = maildir else {
        return;
    };
    match maildir.clean_tmp(STALE).await {
        Ok(0) => {}
        Ok(files) => tracing::info!(
            files,
            "temporary files that a crash had left in the Maildir were removed"
        ),
        Err(error) => tracing::warn!("{}", with_causes(&error)),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        time::SystemTime,
    };

    use super::*;
    use crate::signals;

    #[tokio::test(start_paused = true)]
    async fn what_a_crash_has_left_stays_until_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let (mail, greylist) = (dir.path().join("mail"), dir.path().join("greylist"));
        let args = [
            "smtpd".to_owned(),
            format!("--maildir={}", mail.display()),
            "--greylist=5m".to_owned(),
            format!("--greylist-file={}", greylist.display()),
        ]
        .map(OsString::from);
        let options = Options::read(args.clone()).unwrap();
        let served = Served::read(options, None, Purpose::Start).await.unwrap();
        let servers = Servers::new(&served);
        let reloader = Reloader::new(args.into(), served, servers);
        tokio::spawn(reloader.run(signals::hangup().unwrap()));
        let leave = |name: &str, hours: u64| {
            let file = File::create(mail.join("tmp").join(name)).unwrap();
            let written = SystemTime::now() - Duration::from_secs(hours * 3600);
            file.set_modified(written).unwrap();
        };
        for (name, hours) in [("old", 37), ("young", 35)] {
            leave(name, hours);
        }
        time::sleep(11 * MINUTE).await;
        assert!(greylist.exists(), "it is written from time to time");
        assert!(mail.join("tmp/old").exists());
        time::sleep(60 * MINUTE).await;
        let left: Vec<_> = fs::read_dir(mail.join("tmp"))
            .unwrap()
            .map(|file| file.unwrap().file_name())
            .collect();
        assert_eq!(left, ["young"]);
    }

    #[tokio::test]
    async fn a_maildir_that_is_new_is_made_when_mail_comes() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("smtpd.toml");
        let store = |maildir: &str| fs::write(&config, format!("maildir = '{maildir}'\n")).unwrap();
        let args = ["smtpd".into(), format!("--config={}", config.display())];
        let args = args.map(OsString::from);
        store("first");
        let options = Options::read(args.clone()).unwrap();
        let first = Served::read(options, None, Purpose::Start).await.unwrap();
        let again = async || {
            let options = first.options.read_again(&args).unwrap();
            Served::read(options, Some(&first), Purpose::Reload).await
        };
        store("smtpd.toml/mail");
        let mistakes = again().await.map(drop).unwrap_err().to_string();
        assert!(mistakes.contains("smtpd.toml:1: maildir: "), "{mistakes}");
        store("other/mail");
        let second = again().await.unwrap();
        assert!(dir.path().join("other/mail/new").is_dir());
        assert_eq!(first.changes(&second), ["maildir"]);
    }
}
