//! What clients say: scripts of all commands, in and out of order.

use std::collections::VecDeque;

use crate::{
    acts::{Cut, Op, Reading},
    content::{content, stuffed},
    dice::Dice,
    swarm::{Swarm, Tls},
};

/// What kind of client it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sends messages, and waits for each reply.
    Mail,
    /// Sends messages in groups of commands.
    Pipelined,
    /// Does not even wait for 354.
    Blind,
    /// Sends messages by BDAT.
    Chunks,
    /// Sends commands without a plan.
    Soup,
    /// Sends a byte at a time.
    Dripping,
    /// Sends nothing, or not a whole line.
    Silent,
    Auth,
    /// Leaves in the middle of a message.
    Half,
    /// Sends empty chunks in large numbers.
    EmptyChunks,
    /// Sends chunks of a byte in large numbers.
    TinyChunks,
    /// Never pauses.
    Endless,
}

impl Kind {
    pub const COMMON: [Self; 9] = [
        Self::Mail,
        Self::Pipelined,
        Self::Blind,
        Self::Chunks,
        Self::Soup,
        Self::Dripping,
        Self::Silent,
        Self::Auth,
        Self::Half,
    ];
    pub const RARE: [Self; 4] = [
        Self::EmptyChunks,
        Self::TinyChunks,
        Self::TinyChunks,
        Self::Endless,
    ];
}

/// Writes the script of one client.
pub struct Author<'a> {
    pub(super) dice: &'a Dice,
    pub(super) swarm: &'a Swarm,
    conn: u64,
    pub(super) ops: VecDeque<Op>,
    numbers: usize,
}

impl<'a> Author<'a> {
    pub fn new(dice: &'a Dice, swarm: &'a Swarm, conn: u64) -> Self {
        Self {
            dice,
            swarm,
            conn,
            ops: VecDeque::new(),
            numbers: 0,
        }
    }

    pub fn write(mut self, kind: Kind) -> VecDeque<Op> {
        let read = match self.dice.below(12) {
            0 => Reading::Slowly(
                self.dice.pick(&[1, 30, 400]),
                self.dice.pick(&[1, 300, 3000]),
            ),
            1 if self.dice.chance(50) => Reading::Never,
            _ => Reading::All,
        };
        if read != Reading::All && !Kind::RARE.contains(&kind) {
            self.ops.push_back(Op::Read(read));
        }
        if self.swarm.proxy.is_some() {
            self.header();
        }
        if self.swarm.tls == Some(Tls::First) {
            self.tls_first();
        }
        if self.dice.chance(60) {
            self.await_replies();
        }
        self.body(kind);
        self.end(kind);
        self.ops
    }

    fn body(&mut self, kind: Kind) {
        match kind {
            Kind::Soup => return self.soup(),
            Kind::Silent => return self.silent(),
            Kind::EmptyChunks | Kind::TinyChunks => return self.many_chunks(kind),
            Kind::Endless => return self.endless(),
            _ => {}
        }
        if kind == Kind::Dripping {
            let gap = self.dice.pick(&[1, 30, 700, 2500]);
            self.ops.push_back(Op::Drip(gap));
        }
        self.hello(kind);
        if self.swarm.tls == Some(Tls::Started) && self.dice.chance(70) {
            self.starttls(kind);
        }
        if self.swarm.trusts.is_some() && self.dice.chance(60) {
            self.claims(kind);
        }
        if kind == Kind::Auth || self.dice.chance(10) {
            self.auth();
        }
        for _ in 0..self.dice.pick(&[1, 1, 2, 4]) {
            self.transaction(kind);
        }
    }

    pub(super) fn hello(&mut self, kind: Kind) {
        let verb = match self.swarm.lmtp {
            true => "LHLO",
            false if self.dice.chance(10) => "HELO",
            false => "EHLO",
        };
        let n = self.number();
        self.say(format!("{verb} c{}n{n}.example\r\n", self.conn));
        if !matches!(kind, Kind::Blind) {
            self.await_replies();
        }
    }

    fn transaction(&mut self, kind: Kind) {
        let pipelined = matches!(kind, Kind::Pipelined | Kind::Blind) || self.dice.chance(20);
        let sender = self.sender();
        let mut group = format!("MAIL FROM:<{sender}>\r\n");
        for _ in 0..self.dice.pick(&[1, 1, 2, 3, 5]) {
            if !pipelined {
                self.say(std::mem::take(&mut group));
                self.await_replies();
            }
            group += &format!("RCPT TO:<{}>\r\n", self.recipient());
        }
        self.say(group);
        if !pipelined {
            self.await_replies();
        }
        match kind {
            Kind::Chunks => self.message_in_chunks(true),
            Kind::Half => self.half_a_message(),
            _ if self.dice.chance(15) => self.message_in_chunks(true),
            Kind::Blind => self.message_at_once(),
            _ => self.message(),
        }
        if self.dice.chance(70) || !pipelined {
            self.await_replies();
        }
        if self.dice.chance(10) {
            self.say("RSET\r\n");
        }
    }

    /// A new number, so that no two commands are about the same.
    pub(super) fn number(&mut self) -> usize {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn sender(&mut self) -> String {
        let number = self.number();
        format!("m{}x{number}@sender.example", self.conn)
    }

    /// A recipient of one of the routes.
    pub(super) fn recipient(&mut self) -> String {
        let domain = self.dice.pick(&["a.example", "b.example", "b.example"]);
        format!("r{}@{domain}", self.number())
    }

    fn message(&mut self) {
        self.say("DATA\r\n");
        self.await_replies();
        let content = stuffed(&content(self.dice, self.swarm));
        self.ops.push_back(Op::Body(content));
    }

    fn message_at_once(&mut self) {
        let content = stuffed(&content(self.dice, self.swarm));
        self.say([b"DATA\r\n", &content[..]].concat());
    }

    fn half_a_message(&mut self) {
        if self.dice.chance(40) {
            return self.message_in_chunks(false);
        }
        self.say("DATA\r\n");
        self.await_replies();
        let mut content = stuffed(&content(self.dice, self.swarm));
        content.truncate(self.dice.below(content.len() - 1));
        self.ops.push_back(Op::Body(content));
        let pause = self.dice.pick(&[0, 1, 3000]);
        self.ops.push_back(Op::Pause(pause));
        let cut = self.dice.pick(&Cut::ALL);
        self.ops.push_back(Op::Cut(cut));
    }

    fn message_in_chunks(&mut self, whole: bool) {
        let (waits, most) = (
            self.dice.chance(40),
            self.dice.pick(&[1, 10, 1000, 100_000]),
        );
        let mut content = content(self.dice, self.swarm);
        content.truncate(most * 200);
        let mut rest = &content[..];
        while self.dice.chance(5) || !rest.is_empty() {
            let size = if self.dice.chance(10) {
                0
            } else {
                rest.len().min(self.dice.between(1, most))
            };
            let (chunk, left) = rest.split_at(size);
            rest = left;
            let last = rest.is_empty() && self.dice.chance(50);
            self.chunk(chunk, last && whole);
            if last && whole {
                return;
            }
            if waits {
                self.await_replies();
            }
            self.interlude();
        }
        if whole {
            self.say("BDAT 0 LAST\r\n");
        }
    }

    fn chunk(&mut self, chunk: &[u8], last: bool) {
        let last = if last { " LAST" } else { "" };
        self.say([format!("BDAT {}{last}\r\n", chunk.len()).as_bytes(), chunk].concat());
    }

    /// A command that has no place between two chunks, or does no harm there.
    fn interlude(&mut self) {
        if self.dice.chance(4) {
            let n = self.number();
            let command = match self.dice.below(6) {
                0 => "NOOP".to_owned(),
                1 => format!("VRFY {n}"),
                2 => format!("XOK {n}"),
                3 => format!("HELP {n}"),
                4 => "RSET".to_owned(),
                _ => format!("EHLO again{n}.example"),
            };
            self.say(format!("{command}\r\n"));
        }
    }

    fn soup(&mut self) {
        let size = self.dice.pick(&[1, 3, 12]);
        for _ in 0..self.dice.between(1, 40) {
            let group: Vec<u8> = (0..self.dice.between(1, size))
                .flat_map(|_| self.ingredient())
                .collect();
            self.say(group);
            match self.dice.below(4) {
                0 => self.pause(),
                1 => {}
                _ => self.await_replies(),
            }
        }
    }

    fn silent(&mut self) {
        let text = self
            .dice
            .pick(&["", "N", "NOOP\r\nNOO", "EHLO c.example\r\nMAIL FROM:<"]);
        self.say(text);
    }

    fn many_chunks(&mut self, kind: Kind) {
        let sender = self.sender();
        let verb = if self.swarm.lmtp { "LHLO" } else { "EHLO" };
        self.say(format!(
            "{verb} c.example\r\nMAIL FROM:<{sender}>\r\nRCPT TO:<r@a.example>\r\n"
        ));
        self.await_replies();
        let (chunk, count) = match kind {
            Kind::EmptyChunks => ("BDAT 0\r\n", self.dice.pick(&[300, 3000, 70_000])),
            _ => ("BDAT 1\r\nx", self.dice.pick(&[300, 3000, 3000, 6000])),
        };
        if count > 10_000 || self.dice.chance(60) {
            let read = self
                .dice
                .pick(&[Reading::Never, Reading::Never, Reading::All]);
            self.ops.push_back(Op::Read(read));
        }
        self.ops.push_back(Op::Repeat(chunk.into(), count));
        if self.dice.chance(80) {
            self.say("BDAT 0 LAST\r\n");
        }
        if self.dice.chance(50) {
            self.pause();
            self.ops.push_back(Op::Read(Reading::All));
            self.await_replies();
        }
    }

    fn endless(&mut self) {
        let sender = self.sender();
        self.say(format!("EHLO c.example\r\nMAIL FROM:<{sender}>\r\n"));
        self.await_replies();
        let line = self.dice.pick(&[
            "RCPT TO:<evil@a.example>\r\n",
            "NOOP\r\n",
            "RSET\r\nMAIL FROM:<evil@b>\r\n",
        ]);
        self.ops.push_back(Op::Endless(line.into()));
    }

    fn end(&mut self, kind: Kind) {
        if kind == Kind::Endless {
            return;
        }
        if self.dice.chance(50) {
            self.say("QUIT\r\n");
            self.await_replies();
        }
        if self.dice.chance(30) {
            self.pause();
        }
        if self.swarm.tls.is_some() && self.dice.chance(60) {
            self.ops.push_back(Op::Finish);
        }
        let cut = self.dice.pick(&Cut::ALL);
        self.ops.push_back(Op::Cut(cut));
    }

    pub(super) fn say(&mut self, text: impl Into<Vec<u8>>) {
        let text = text.into();
        if !text.is_empty() {
            self.ops.push_back(Op::Say(text));
        }
    }

    pub(super) fn await_replies(&mut self) {
        let limit = self.dice.pick(&[5000, 2_000_000, 2_000_000]);
        self.ops.push_back(Op::Await(limit));
    }

    pub(super) fn pause(&mut self) {
        let time = self.dice.pick(&[0, 1, 200, 4000, 100_000]);
        self.ops.push_back(Op::Pause(time));
    }
}
