//! A process that is killed.

use std::{
    collections::BTreeSet,
    env,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::SystemTime,
};

use super::{super::FileStore, delivered, job, message};
use crate::queue::Store;

const DIRECTORY: &str = "SMTPD_TEST_QUEUE";

/// Not a test of its own: the program that is killed. It says what it was told.
#[tokio::test]
#[ignore = "the test below runs it"]
async fn program() {
    let Ok(path) = env::var(DIRECTORY) else {
        return;
    };
    let store = FileStore::open(path).await.unwrap();
    let writers = (0..4).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            loop {
                let id = store.put(job(1), message("Hello\r\n").await).await.unwrap();
                println!("\nput {id}");
            }
        })
    });
    let _writers: Vec<_> = writers.collect();
    loop {
        let now = SystemTime::now();
        let until = now + std::time::Duration::from_secs(600);
        for leased in store.lease(now, 1, until).await.unwrap() {
            let id = leased.job().id().clone();
            println!("\nsettling {id}");
            let outcomes = delivered(&leased);
            store.settle(leased, outcomes).await.unwrap();
            println!("\nsettled {id}");
        }
        tokio::task::yield_now().await;
    }
}

/// Runs the program until it has said so many words, and returns all it has said.
fn run(path: &std::path::Path, words: usize) -> Vec<(String, String)> {
    let name = "queue::file::tests::killed::program";
    let mut program = Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
        .env(DIRECTORY, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(program.stdout.take().unwrap()).lines();
    let mut said = Vec::new();
    for line in lines {
        let line = line.unwrap();
        let known = ["put", "settling", "settled"];
        if let Some((what, id)) = line.split_once(' ')
            && known.contains(&what)
            && id.len() == 16
        {
            said.push((what.to_owned(), id.to_owned()));
        }
        if said.len() == words {
            program.kill().unwrap(); // SIGKILL. What it has said before comes nevertheless.
        }
    }
    program.wait().unwrap();
    said
}

#[tokio::test]
async fn a_process_that_is_killed_loses_nothing_and_delivers_nothing_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("queue");
    let (mut put, mut settling, mut settled) = <(BTreeSet<_>, BTreeSet<_>, BTreeSet<_>)>::default();
    for words in [1, 2, 3, 5, 8, 13, 40, 100, 300] {
        for (what, id) in run(&path, words) {
            match &*what {
                "put" => put.insert(id),
                "settling" => settling.insert(id),
                _ => settled.insert(id),
            };
        }
        let store = FileStore::open(&path).await.unwrap();
        assert_eq!(store.stats().damaged, 0);
        let there = store.list(None, usize::MAX).into_iter();
        let there: BTreeSet<_> = there.map(|one| one.id.to_string()).collect();
        let lost: Vec<_> = put.difference(&there).collect();
        assert!(lost.iter().all(|id| settling.contains(*id)), "{lost:?}");
        let back: Vec<_> = there.intersection(&settled).collect();
        assert!(back.is_empty(), "{back:?}");
        store.close().await;
    }
    assert!(settled.len() > 20, "{}", settled.len());
}
