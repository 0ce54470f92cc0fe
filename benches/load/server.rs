//! The reference server as a process.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::attack::Attack;

/// alice's password is `secret`, hashed as OWASP recommends: 19 MiB, two passes.
const USERS: &str = "alice:$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$fTTXM7e3iTx/veQKZK106LdvBj581I9AB/3fq3acr8I\n";

pub(crate) struct Server {
    process: Child,
    pub(crate) addresses: Addresses,
    _dir: tempfile::TempDir,
}

/// Where it listens.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    pub(crate) plain: SocketAddr,
    pub(crate) tls: SocketAddr,
}

/// Builds the reference server, which lies in the directory above the benchmarks.
pub(crate) fn build() -> PathBuf {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--quiet", "-p", "smtpd-server"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(built.unwrap().success());
    let own = env::current_exe().unwrap();
    let profile = own.parent().and_then(Path::parent).unwrap();
    profile.join("smtpd")
}

impl Server {
    pub(crate) fn start(program: &Path, attack: Attack) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut command = Command::new(program);
        command
            .args([
                "--discard",
                "--quiet",
                "--tls-self-signed",
                "--domain=example.org",
            ])
            .args(["--listen=127.0.0.1:0", "--listen-tls=127.0.0.1:0"])
            // The defaults of a public server, but for its addresses: those of this machine would be exempt.
            .args(["--max-sessions=12000", "--guard-exempt=none"])
            .stdout(Stdio::piped());
        if attack == Attack::Logins {
            let users = dir.path().join("users");
            fs::write(&users, USERS).unwrap();
            command
                .arg("--users")
                .arg(users)
                .arg("--allow-plaintext-auth");
        }
        let mut process = command.spawn().expect("the server starts");
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut address = || {
            let mut line = String::new();
            output.read_line(&mut line).unwrap();
            let text = line.trim_end().rsplit(' ').next().unwrap();
            text.parse().expect("an address")
        };
        Self {
            addresses: Addresses {
                plain: address(),
                tls: address(),
            },
            process,
            _dir: dir,
        }
    }

    /// The memory that it occupies, in bytes.
    pub(crate) fn resident(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
        let kib = line.split_whitespace().nth(1).unwrap();
        kib.parse::<usize>().unwrap() * 1024
    }

    /// The time that its threads have run.
    pub(crate) fn cpu(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let ran = tasks.map(|task| {
            let stat = fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
            stat.split(' ').next().unwrap().parse::<u64>().unwrap()
        });
        Duration::from_nanos(ran.sum())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
