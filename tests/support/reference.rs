//! The reference server as a process of its own.
#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::{
    fs,
    io::{self, BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use super::support;

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
    pub fn command(dir: &tempfile::TempDir, options: &[&str]) -> Command {
        let mut command = Command::new(example("smtpd"));
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
    pub fn of(process: Child, dir: tempfile::TempDir) -> Self {
        support::watch();
        support::CHILDREN.lock().unwrap().push(process.id());
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
        let id = self.process.id();
        if let Ok(mut children) = support::CHILDREN.lock() {
            children.retain(|child| *child != id);
        }
    }
}

/// The program of an example, which lies beside the directory of the tests. A test alone does not build it.
pub fn example(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    let path = path.join("examples").join(name);
    if let Err(fault) = check_up_to_date(&path) {
        panic!("{name}: {fault}; `cargo build --example {name}` first");
    }
    path
}

/// Panics if the example is older than its sources, or was built from another directory: the test would not test this tree.
fn check_up_to_date(example: &Path) -> io::Result<()> {
    let built = example.metadata()?.modified()?;
    let sources = fs::read_to_string(example.with_extension("d"))?;
    let (_, sources) = sources.split_once(": ").unwrap_or_default();
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut is_own = false;
    for source in names(sources) {
        is_own |= source.starts_with(&own);
        if fs::metadata(&source)?.modified()? > built {
            let newer = format!("{} is newer", source.display());
            return Err(io::Error::other(newer));
        }
    }
    match is_own {
        true => Ok(()),
        false => Err(io::Error::other("it was built in another directory")),
    }
}

/// The names in a list of the kind that Make reads: a blank within a name has a backslash before it.
pub fn names(list: &str) -> Vec<PathBuf> {
    let mut names = vec![String::new()];
    let mut chars = list.chars().peekable();
    while let (Some(c), Some(name)) = (chars.next(), names.last_mut()) {
        match c {
            '\\' if chars.next_if_eq(&' ').is_some() => name.push(' '),
            c if c.is_whitespace() => names.push(String::new()),
            c => name.push(c),
        }
    }
    names.retain(|name| !name.is_empty());
    names.into_iter().map(PathBuf::from).collect()
}
