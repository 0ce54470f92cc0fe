//! How a client writes.

use tokio::time::Instant;

use super::Client;
use crate::{model::Model, tls::Meaning};

impl Client {
    /// Sends something, within TLS if that has begun.
    pub(super) fn say(&mut self, bytes: Vec<u8>) {
        let Some(tls) = self.tls.as_mut().filter(|_| self.speaks_tls) else {
            return self.out.push(bytes, Meaning::Same);
        };
        let dice = &self.shared.dice;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let size = match dice.below(6) {
                0 => dice.between(1, rest.len()),
                1 => 1,
                _ => rest.len(),
            };
            let (text, left) = rest.split_at(size.min(16 << 10));
            self.out
                .push(tls.record(text), Meaning::Whole(text.to_vec()));
            rest = left;
        }
    }

    pub(super) fn write(&mut self, model: &mut Model) {
        let most = self.how_much(self.out.next().len());
        let mut wires = self.link.lock();
        if wires.gone {
            drop(wires);
            self.shared
                .trace
                .event("refused", self.link.id, String::new);
            return self.close();
        }
        let before = wires.up.sent;
        let most = match self.cut {
            Some((at, _)) => most.min(at.saturating_sub(before) as usize),
            None => most,
        };
        let count = wires.up.put(&self.out.next()[..most]);
        drop(wires);
        self.wrote(count, model);
        self.cut_if_due(before + count as u64);
    }

    /// How much is written at once.
    fn how_much(&mut self, all: usize) -> usize {
        if let Some(pause) = self.drip {
            self.next_write = Some(Instant::now() + pause);
            return 1;
        }
        match self.shared.dice.below(6) {
            0 => self.shared.dice.between(1, all),
            1 => 1,
            _ => all,
        }
    }

    fn wrote(&mut self, count: usize, model: &mut Model) {
        let (bytes, meaning) = self.out.wrote(count);
        self.shared.trace.event("client>", self.link.id, || {
            let text = match &meaning {
                Meaning::Same => &bytes[..],
                Meaning::Nothing => b"(nothing yet)",
                Meaning::Whole(text) => text,
            };
            format!("{count}: {}", text[..text.len().min(1200)].escape_ascii())
        });
        self.passage.add(count, &meaning);
        if !self.speaks_tls {
            self.shaken_at += count as u64;
        }
        match meaning {
            Meaning::Same => model.sent(&bytes),
            Meaning::Nothing => model.hurries(),
            Meaning::Whole(text) => model.sent(&text),
        }
    }

    fn cut_if_due(&mut self, sent: u64) {
        if let Some((at, cut)) = self.cut
            && sent >= at
        {
            self.cut = None;
            self.perform_cut(cut);
        }
    }
}
