//! The reference server as a process of its own.
#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

pub struct Reference {
    pub process: Child,
    pub dir: tempfile::TempDir,
    addresses: Vec<(String, SocketAddr)>,
}

impl Reference {
    /// Starts it with these options beside its Maildir, and waits until that many listeners are ready.
    pub fn start(listeners: usize, options: &[&str]) -> Self {
        let options = [&["--log-level", "error"], options].concat();
        Self::start_logging_to(Stdio::inherit(), listeners, &options)
    }

    /// The same with another standard error, and the log level of the options.
    pub fn start_logging_to(log: Stdio, listeners: usize, options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut process = Self::command(&dir, options)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the example `smtpd` is built with the tests");
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let addresses = lines
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
        Self {
            process,
            dir,
            addresses,
        }
    }

    /// The command that starts it with these options, beside its Maildir.
    pub fn command(dir: &tempfile::TempDir, options: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .arg("--maildir")
            .arg(dir.path().join("mail"))
            .args(["--hostname", "mx.test"])
            .args(options);
        command
    }

    /// A process that was started by such a command.
    pub fn of(process: Child, dir: tempfile::TempDir) -> Self {
        Self {
            process,
            dir,
            addresses: Vec::new(),
        }
    }

    pub fn address(&self, kind: &str) -> SocketAddr {
        self.addresses
            .iter()
            .find(|(name, _)| name == kind)
            .unwrap()
            .1
    }

    /// Sends a signal, by its name.
    pub fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Its exit status. It has much more time to end than it may take.
    pub async fn ended(&mut self) -> ExitStatus {
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
    pub fn delivered(&self) -> Vec<Vec<u8>> {
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
    }
}

/// Examples lie beside the directory of the tests.
fn binary() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("examples/smtpd")
}
