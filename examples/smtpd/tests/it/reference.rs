//! The reference server as a separate process.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

pub(crate) struct Reference {
    pub(crate) process: Child,
    pub(crate) dir: tempfile::TempDir,
    addresses: Vec<(String, SocketAddr)>,
}

impl Reference {
    /// Starts it with these options beside its Maildir, and waits until that many listeners are ready.
    pub(crate) fn start(listeners: usize, options: &[&str]) -> Self {
        let options = [&["--log-level", "error"], options].concat();
        Self::start_logging_to(Stdio::inherit(), listeners, &options)
    }

    /// The same with another standard error, and the log level of the options.
    pub(crate) fn start_logging_to(log: Stdio, listeners: usize, options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut process = Self::command(&dir, options)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        // From here on it ends with this value.
        let mut reference = Self::of(process, dir);
        reference.addresses = lines
            .take(listeners)
            .map(|line| {
                let line = line.unwrap();
                let (kind, address) = line
                    .strip_prefix("listening ")
                    .and_then(|l| l.split_once(' '))
                    .expect(&line);
                (kind.to_owned(), address.parse().unwrap())
            })
            .collect();
        reference
    }

    /// The command that starts it with these options, beside its Maildir and as mx.test where they say nothing else.
    pub(crate) fn command(dir: &tempfile::TempDir, options: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_smtpd"));
        let is_given = |name: &str| options.iter().any(|option| option.starts_with(name));
        if !is_given("--maildir=") {
            command.arg("--maildir").arg(dir.path().join("mail"));
        }
        if !is_given("--hostname=") {
            command.args(["--hostname", "mx.test"]);
        }
        command.args(options);
        command
    }

    /// A process that was started by such a command.
    pub(crate) fn of(process: Child, dir: tempfile::TempDir) -> Self {
        support::watch();
        support::CHILDREN.lock().unwrap().push(process.id());
        Self {
            process,
            dir,
            addresses: Vec::new(),
        }
    }

    pub(crate) fn address(&self, kind: &str) -> SocketAddr {
        self.addresses
            .iter()
            .find(|(name, _)| name == kind)
            .unwrap()
            .1
    }

    /// Sends a signal, by its name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Its exit status. It has much more time to end than it may take.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let ended = async {
            loop {
                match self.process.try_wait().unwrap() {
                    Some(status) => break status,
                    None => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        let most = Duration::from_secs(60);
        let ended = tokio::time::timeout(most, ended).await;
        ended.expect("the server ends")
    }

    /// Every file that has been delivered.
    pub(crate) fn delivered(&self) -> Vec<Vec<u8>> {
        let new = self.dir.path().join("mail/new");
        std::fs::read_dir(new).map_or_else(
            |_| Vec::new(),
            |files| {
                files
                    .map(|file| std::fs::read(file.unwrap().path()).unwrap())
                    .collect()
            },
        )
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let id = self.process.id();
        if let Ok(mut children) = support::CHILDREN.lock() {
            children.retain(|child| *child != id);
        }
    }
}
