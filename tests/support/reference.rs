//! The reference server as a process of its own.
#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

pub struct Reference {
    pub process: Child,
    pub dir: tempfile::TempDir,
    addresses: Vec<(String, SocketAddr)>,
}

impl Reference {
    /// Starts it with these options beside its Maildir, and waits until that many listeners are ready.
    pub fn start(listeners: usize, options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut process = Command::new(binary())
            .arg("--maildir")
            .arg(dir.path().join("mail"))
            .args(["--hostname", "mx.test", "--log-level", "error"])
            .args(options)
            .stdout(Stdio::piped())
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

    pub fn address(&self, kind: &str) -> SocketAddr {
        self.addresses
            .iter()
            .find(|(name, _)| name == kind)
            .unwrap()
            .1
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
