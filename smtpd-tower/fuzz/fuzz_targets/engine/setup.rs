//! The server, set up as the first bytes of an input say.

use std::time::Duration;

use smtpd_tower::{
    Pipeline, Profile, Server,
    config::{Limits, Timeouts},
};
use smtpd_tower_fuzz::Choices;

use crate::services::{Actor, Shared};

/// How the server is set up, and how the client ends.
#[derive(Debug)]
pub struct Setup<'a> {
    lmtp: bool,
    small_limits: bool,
    short_times: bool,
    has_connect: bool,
    has_others: bool,
    pub slow_client: bool,
    /// How the client comes to its end.
    pub end: u8,
    pub piece: usize,
    pub capacity: usize,
    pub commands: &'a [u8],
    pub data: &'a [u8],
}

impl<'a> Setup<'a> {
    pub fn read(choices: &mut Choices<'a>) -> Self {
        let (flags, sizes) = (choices.byte(), choices.byte());
        const PIECES: [usize; 4] = [usize::MAX, 1, 7, 100];
        const CAPACITIES: [usize; 4] = [1 << 20, 1, 40, 600];
        Self {
            lmtp: flags & 1 != 0,
            small_limits: flags & 2 != 0,
            short_times: flags & 4 != 0,
            has_connect: flags & 8 != 0,
            has_others: flags & 16 != 0,
            slow_client: flags & 32 != 0,
            end: flags >> 6,
            piece: PIECES[usize::from(sizes & 3)],
            capacity: CAPACITIES[usize::from(sizes >> 2 & 3)],
            commands: choices.cuts(),
            data: choices.cuts(),
        }
    }

    pub fn server(&self, shared: &Shared) -> Server {
        let (times, limits) = (self.timeouts(), self.limits());
        let closed = shared.clone();
        let server = Server::new("mx.example", self.pipeline(shared))
            .on_close(move |_, end| closed.lock().ends.push(*end));
        let server = match self.lmtp {
            true => server.profile(Profile::Lmtp),
            false => server,
        };
        server.configure(|config| {
            config
                .timeouts(|own| *own = times)
                .limits(|own| *own = limits)
                .allow_insecure_auth(true)
                .entropy(no_entropy)
        })
    }

    fn pipeline(&self, shared: &Shared) -> Pipeline {
        let actor = || Actor::new(shared);
        let mut pipeline = Pipeline::new().rcpt(actor()).data(actor());
        if self.has_connect {
            pipeline = pipeline.connect(actor());
        }
        if self.has_others {
            pipeline = pipeline
                .helo(actor())
                .auth(actor())
                .mail(actor())
                .command(actor());
        }
        pipeline
    }

    fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        if self.small_limits {
            limits.message_size = Some(64);
            limits.recipients = 2;
            limits.command_line = 512;
            limits.errors = 3;
            limits.auth_failures = 2;
            limits.idle_commands = 12;
            limits.messages = 4;
            limits.drain = 256;
        }
        limits
    }

    pub fn timeouts(&self) -> Timeouts {
        let mut times = Timeouts::default();
        if self.short_times {
            times.command = Duration::from_secs(3);
            times.line = Duration::from_secs(1);
            times.data = Duration::from_secs(2);
            times.transfer = Duration::from_secs(5);
            times.write = Duration::from_secs(2);
            times.session = Duration::from_secs(9);
            times.without_message = Duration::from_secs(7);
            times.ready = Duration::from_secs(1);
            times.call = Duration::from_secs(2);
            times.data_start = Duration::from_secs(2);
            times.delivery = Duration::from_secs(4);
            times.linger = Duration::from_millis(300);
        }
        times
    }
}

/// Chance would make two runs of an input differ.
fn no_entropy(bytes: &mut [u8]) -> bool {
    bytes.fill(7);
    true
}
