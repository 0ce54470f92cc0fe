//! Faults and panics, each of which must be reported to `on_error` once.

use std::collections::{BTreeMap, BTreeSet};

/// All faults of a run. Each has a number, which is in its text.
#[derive(Debug, Default)]
pub struct Faults {
    made: usize,
    reported: BTreeMap<usize, usize>,
    /// Those that nothing has answered for.
    surfaced: BTreeSet<usize>,
}

const MARK: &str = "sim: fault#";

impl Faults {
    pub fn make(&mut self) -> String {
        self.made += 1;
        format!("{MARK}{}!", self.made)
    }

    /// `on_error` was called with this text.
    pub fn reported(&mut self, text: &str) {
        for number in numbers(text) {
            *self.reported.entry(number).or_default() += 1;
        }
    }

    /// An error or a panic with this text has come so far that it must be reported.
    pub fn surfaced(&mut self, text: &str) {
        self.surfaced.extend(numbers(text));
    }

    /// What is wrong at the end.
    pub fn check(&self) -> Vec<String> {
        let twice = self.reported.iter().filter(|(_, times)| **times > 1);
        let twice = twice
            .map(|(number, times)| format!("on_error is called {times} times for fault#{number}"));
        let silent = self.surfaced.iter();
        let silent = silent.filter(|number| !self.reported.contains_key(number));
        let silent = silent.map(|number| format!("on_error is not called for fault#{number}"));
        twice.chain(silent).collect()
    }
}

fn numbers(text: &str) -> BTreeSet<usize> {
    let parts = text.split(MARK).skip(1);
    parts
        .filter_map(|part| part.split('!').next()?.parse().ok())
        .collect()
}
