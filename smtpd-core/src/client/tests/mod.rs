//! Dialogs with scripted servers.

mod faults;
mod messages;
mod opening;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;

use super::*;
use crate::{
    address::ReversePath,
    envelope::{Envelope, Recipient},
    sasl::{ChannelBinding, ChannelBindings},
};

/// A message to be sent, and what a caller does with its body.
#[derive(Clone)]
pub(super) struct Mail {
    envelope: Envelope,
    size: Option<u64>,
    body: Body,
}

#[derive(Clone)]
pub(super) enum Body {
    Whole(Vec<u8>),
    /// These bytes, and then nothing more.
    Part(Vec<u8>),
    /// These bytes, and then it is aborted.
    Aborted(Vec<u8>),
}

pub(super) fn mail(recipients: &[&str]) -> Mail {
    mail_with("a@b", "", recipients)
}

pub(super) fn mail_with(sender: &str, parameters: &str, recipients: &[&str]) -> Mail {
    let sender: ReversePath = sender.parse().unwrap();
    let envelope = Envelope::new(sender).with_parameters(parameters.parse().unwrap());
    let envelope = recipients.iter().fold(envelope, |mut envelope, recipient| {
        let (path, parameters) = recipient.split_once(' ').unwrap_or((recipient, ""));
        let (path, parameters) = (path.parse().unwrap(), parameters.parse().unwrap());
        envelope.push(Recipient::new(path, parameters));
        envelope
    });
    Mail {
        envelope,
        size: None,
        body: Body::Whole(b"hi\r\n".to_vec()),
    }
}

impl Mail {
    pub(super) fn body(self, body: &[u8]) -> Self {
        let body = Body::Whole(body.to_vec());
        Self { body, ..self }
    }

    pub(super) fn part(self, body: &[u8]) -> Self {
        let body = Body::Part(body.to_vec());
        Self { body, ..self }
    }

    pub(super) fn aborted(self, body: &[u8]) -> Self {
        let body = Body::Aborted(body.to_vec());
        Self { body, ..self }
    }

    pub(super) fn size(self, size: u64) -> Self {
        let size = Some(size);
        Self { size, ..self }
    }
}

pub(super) fn config() -> ClientConfig {
    ClientConfig::new("me.example".parse().unwrap())
}

/// What a dialog has led to: the outcomes of all messages, and how the session ended; `waits` if it did not.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) outcomes: Vec<String>,
    pub(super) reason: String,
}

/// Plays a dialog: lines of the client begin with `C: `, those of the server with `S: `, and other events with `! `. Before each
/// line that is not the client's, the client must have sent exactly the lines before it. `\r`, `\n` and `\0` are escapes.
///
/// It is played at once, byte by byte and in pieces of three bytes, with the same result.
pub(super) fn play(config: ClientConfig, mails: &[Mail], dialog: &str) -> Ended {
    let config = Arc::new(config);
    let start = |step| Player::new(config.clone(), mails, step).play(dialog);
    let ended = start(usize::MAX);
    for step in [1, 3] {
        assert_eq!(start(step), ended, "in pieces of {step}");
    }
    ended
}

/// Plays a dialog at once, in which it matters what arrives together.
pub(super) fn play_at_once(config: ClientConfig, mails: &[Mail], dialog: &str) -> Ended {
    Player::new(Arc::new(config), mails, usize::MAX).play(dialog)
}

#[track_caller]
pub(super) fn expect(
    config: ClientConfig,
    mails: &[Mail],
    dialog: &str,
    outcomes: &[&str],
    reason: &str,
) {
    let ended = play(config, mails, dialog);
    assert_eq!(ended.outcomes, outcomes, "{dialog}");
    assert_eq!(ended.reason, reason, "{dialog}");
}

struct Player {
    client: Client,
    mails: VecDeque<Mail>,
    body: Option<Body>,
    step: usize,
    input: BytesMut,
    sent: Vec<u8>,
    now: Instant,
    until: Option<Instant>,
    stays: bool,
    outcomes: Vec<String>,
}

impl Player {
    fn new(config: Arc<ClientConfig>, mails: &[Mail], step: usize) -> Self {
        Self {
            client: Client::new(config),
            mails: mails.iter().cloned().collect(),
            body: None,
            step,
            input: BytesMut::new(),
            sent: Vec::new(),
            now: Instant::now(),
            until: None,
            stays: false,
            outcomes: Vec::new(),
        }
    }

    fn play(mut self, dialog: &str) -> Ended {
        let lines: Vec<_> = dialog
            .lines()
            .map(str::trim_start)
            .filter(|line| !line.is_empty())
            .collect();
        let mut expected = Vec::new();
        let mut reason = None;
        for (number, line) in lines.iter().enumerate() {
            let (kind, text) = line.split_at_checked(3).unwrap_or((line, ""));
            if kind == "C: " {
                expected.extend_from_slice(&unescape(text));
                expected.extend_from_slice(b"\r\n");
                continue;
            }
            if kind == "C| " {
                expected.extend_from_slice(&unescape(text));
                continue;
            }
            let before = number > 0 && lines[number - 1].starts_with('C');
            self.stays = !before;
            reason = self.run();
            assert_eq!(
                self.sent.escape_ascii().to_string(),
                expected.escape_ascii().to_string(),
                "before {line:?}"
            );
            match kind {
                "S: " => self.feed(&[&unescape(text)[..], b"\r\n"].concat()),
                "S| " => self.feed(&unescape(text)),
                _ => self.happen(line.strip_prefix("! ").expect(line)),
            }
        }
        self.stays = lines.last().is_none_or(|line| !line.starts_with('C'));
        reason = self.run().or(reason);
        assert_eq!(
            self.sent.escape_ascii().to_string(),
            expected.escape_ascii().to_string(),
            "at the end"
        );
        Ended {
            outcomes: self.outcomes,
            reason: reason.unwrap_or_else(|| "waits".into()),
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(self.step.min(bytes.len().max(1))) {
            self.input.extend_from_slice(part);
            if self.step != usize::MAX {
                // Not more than one poll: what is next is for the next line to find out.
                self.stays = true;
                self.run();
            }
        }
    }

    fn happen(&mut self, event: &str) {
        match event {
            "lost" => self.client.handle_lost(),
            "quit" => self.client.quit(),
            "abort" => self.client.abort(),
            "timeout" => self.now = self.until.unwrap(),
            "noop" | "xclient" | "vrfy" => {
                let Step::Ready(ready) = self.client.poll(self.now, &mut self.input) else {
                    panic!("not ready");
                };
                match event {
                    "noop" => ready.noop(),
                    "xclient" => ready.command("XCLIENT ADDR=192.0.2.1").unwrap(),
                    _ => ready.command("VRFY postmaster").unwrap(),
                }
            }
            "early" => self.now = self.until.unwrap() - Duration::from_millis(1),
            "tls" | "tls failed" => {
                let exported = ChannelBindings::none().with(ChannelBinding::TlsExporter, [7; 32]);
                let Step::Handshake(wait) = self.client.poll(self.now, &mut self.input) else {
                    panic!("no handshake");
                };
                match event {
                    "tls" => wait.done(
                        &mut self.input,
                        TlsFacts {
                            bindings: exported,
                            verified: true,
                        },
                    ),
                    _ => wait.failed(),
                }
            }
            other => panic!("unknown event {other}"),
        }
    }

    /// Goes on until the client waits for the server. Returns how the session ended.
    fn run(&mut self) -> Option<String> {
        for _ in 0..100_000 {
            match self.client.poll(self.now, &mut self.input) {
                Step::Write(mut writing) => {
                    let len = writing.bytes().len().min(self.step);
                    self.sent.extend_from_slice(&writing.bytes()[..len]);
                    writing.wrote(len, self.now);
                }
                Step::Read(wait) => {
                    let until = wait.until();
                    return self.wait(until);
                }
                Step::Handshake(wait) => {
                    let until = wait.until();
                    return self.wait(until);
                }
                Step::Ready(ready) => match self.mails.pop_front() {
                    Some(mail) => {
                        let transaction = Transaction::new(Arc::new(mail.envelope));
                        let transaction = match mail.size {
                            Some(size) => transaction.size(size),
                            None => transaction,
                        };
                        ready.send(transaction);
                        self.body = Some(mail.body);
                    }
                    None if self.stays => {
                        let until = ready.until();
                        return self.wait(until);
                    }
                    None => ready.quit(),
                },
                Step::Body(mut sending) => {
                    let (bytes, body) = match self.body.take() {
                        None => {
                            let until = sending.until();
                            return self.wait(until);
                        }
                        Some(Body::Whole(bytes)) => (bytes, Some(true)),
                        Some(Body::Part(bytes)) => (bytes, None),
                        Some(Body::Aborted(bytes)) => (bytes, Some(false)),
                    };
                    for part in bytes.chunks(self.step.min(bytes.len().max(1))) {
                        sending.send(part.to_vec());
                    }
                    match body {
                        Some(true) => sending.end(),
                        Some(false) => sending.abort(),
                        None => {}
                    }
                }
                Step::Done(report) => {
                    self.body = None;
                    assert_eq!(
                        report.outcomes().len(),
                        report.envelope().recipients().len()
                    );
                    self.outcomes.extend(report.outcomes().iter().map(shown));
                }
                Step::Replied(reply) => self.outcomes.push(format!("replied: {reply}")),
                Step::Closed(CloseReason::Quit) => return Some("quit".into()),
                Step::Closed(CloseReason::Fault(fault)) => return Some(fault.to_string()),
            }
        }
        panic!("it spins");
    }

    fn wait(&mut self, until: Instant) -> Option<String> {
        assert!(until > self.now, "a wait without a deadline");
        self.until = Some(until);
        None
    }
}

fn shown(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Accepted(reply) => format!("accepted: {reply}"),
        Outcome::Refused { stage, reply } => format!("refused at {stage}: {reply}"),
        Outcome::Unsupported(reason) => format!("unsupported: {reason}"),
        Outcome::Failed(fault) => format!("failed: {fault}"),
        Outcome::Unknown(fault) => format!("unknown: {fault}"),
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let text = text.replace("\\r", "\r").replace("\\n", "\n");
    text.replace("\\0", "\0").into_bytes()
}
