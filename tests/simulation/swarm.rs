//! Which features and faults a run has. Each seed turns a random part of them on, so that each is seen alone and in company
//! (Groce et al., "Swarm Testing", 2012).

use std::time::Duration;

use crate::{
    delivery::{Place, Style},
    dice::Dice,
    script::Kind,
    services::Fault,
};

/// The features of one run.
#[derive(Debug)]
pub struct Swarm {
    /// Serves a listener; else each connection is served by `serve_connection`, in a task of the simulation.
    pub listener: bool,
    pub listener_errors: bool,
    pub lmtp: bool,
    pub router: Option<usize>,
    pub no_service: [bool; 4],
    pub clients: Vec<Kind>,
    /// The capacity of what is between client and server, up and down.
    pub capacity: (usize, usize),
    pub weights: [usize; 3],
    pub spurious_polls: bool,
    /// A client never pauses.
    pub endless: bool,
    /// In how many of 100 calls a service does something of `faults`.
    pub fault_rate: usize,
    pub faults: Vec<Fault>,
    /// Services take long between storing a message and the answer.
    pub slow_delivery: bool,
    pub styles: Vec<Style>,
    pub places: Vec<Place>,
    pub times: Times,
    pub limits: Limits,
    pub cuts: usize,
    pub stalls: bool,
    pub early_shutdown: bool,
    pub grace: Duration,
    /// The shutdown at the end does not wait for the sessions to end by themselves.
    pub impatient: bool,
    pub aborts: bool,
    pub hooks: Vec<HookFault>,
    pub hook_rate: usize,
    pub subscriber: bool,
    pub per_ip: Option<usize>,
    pub permits: Option<usize>,
    pub max_sessions: usize,
    pub flood: bool,
    pub tls: Option<Tls>,
    /// Each client is a proxy, whose header is awaited for so long.
    pub proxy: Option<Duration>,
    /// XCLIENT and XFORWARD are known, and whether the clients may use them.
    pub trusts: Option<bool>,
    /// The certificate is read again now and then.
    pub renews: bool,
}

/// How clients come to TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// By STARTTLS, if they want to.
    Started,
    /// At once.
    First,
}

/// The time limits of the server, in milliseconds; `None` for no limit.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub command: Option<u64>,
    pub line: Option<u64>,
    pub data: Option<u64>,
    pub transfer: Option<u64>,
    pub write: Option<u64>,
    pub session: Option<u64>,
    pub ready: Option<u64>,
    pub call: Option<u64>,
    pub data_start: Option<u64>,
    pub handshake: Option<u64>,
    pub delivery: Option<u64>,
}

/// The limits of the server on what a client does.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub message_size: Option<u64>,
    pub recipients: u32,
    pub errors: u32,
    pub idle_commands: u32,
    pub drain: u64,
}

/// A hook that panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookFault {
    Wire,
    Error,
    Reset,
    Close,
}

impl Swarm {
    pub fn new(dice: &Dice) -> Self {
        let clients = Self::choose_clients(dice);
        let endless = clients.contains(&Kind::Endless);
        let rare = clients.iter().any(|kind| Kind::RARE.contains(kind));
        let router = dice.chance(30);
        // Routes that read in tasks of their own, of which some are slow.
        let parted = router && dice.chance(25);
        let hook_rate = if dice.chance(10) { 20 } else { 0 };
        let hooks = [
            HookFault::Wire,
            HookFault::Error,
            HookFault::Reset,
            HookFault::Close,
        ];
        let mut swarm = Self {
            listener: dice.chance(25),
            listener_errors: dice.chance(30),
            lmtp: dice.chance(12),
            router: router.then(|| dice.pick(&[1, 500, 128 << 10])),
            no_service: [0; 4].map(|_| dice.chance(15)),
            capacity: match rare {
                true => (65_536, dice.pick(&[4096, 65_536])),
                false => (
                    dice.pick(&[1, 64, 700, 4096, 65_536, 65_536]),
                    dice.pick(&[1, 40, 300, 4096, 65_536]),
                ),
            },
            weights: [0; 3].map(|_| dice.pick(&[1, 4, 16])),
            spurious_polls: dice.chance(20),
            endless,
            fault_rate: if endless {
                0
            } else {
                dice.pick(&[0, 0, 3, 10, 30])
            },
            faults: dice.some_of(&Fault::ALL),
            slow_delivery: dice.chance(15),
            styles: match parted {
                true => vec![Style::Abandoning, Style::Chunks],
                false => dice.some_of(&Style::ALL),
            },
            places: match parted {
                true => vec![Place::Task],
                false => Self::choose_places(dice),
            },
            times: Times::new(dice, endless),
            limits: Limits::new(dice),
            cuts: dice.pick(&[0, 0, 20, 60]),
            stalls: dice.chance(20),
            early_shutdown: dice.chance(25),
            grace: Duration::from_millis(dice.pick(&[0, 0, 1000, 5000, 30_000])),
            impatient: dice.chance(60),
            aborts: dice.chance(8),
            hooks: dice.some_of(&hooks),
            hook_rate,
            subscriber: dice.chance(4),
            per_ip: dice.chance(10).then(|| dice.between(1, 3)),
            permits: dice.chance(20).then(|| dice.between(1, 3)),
            max_sessions: if dice.chance(10) { 1 } else { 100 },
            flood: dice.one_in(200),
            tls: Self::choose_tls(dice, rare),
            proxy: Self::choose_proxy(dice, rare),
            trusts: dice.chance(15).then(|| dice.chance(75)),
            renews: dice.chance(40),
            clients,
        };
        if swarm.lmtp {
            // No profile has both.
            swarm.tls = swarm.tls.map(|_| Tls::Started);
        }
        if swarm.tls.is_some() && dice.chance(75) {
            swarm.widen(dice);
        }
        match rare {
            true => swarm.calmed(),
            false => swarm,
        }
    }

    fn choose_proxy(dice: &Dice, rare: bool) -> Option<Duration> {
        let limit = Duration::from_millis(dice.pick(&[500, 5000]));
        (dice.chance(8) && !rare).then_some(limit)
    }

    /// Handshakes are long, and few would come to their end where everything is slow and fails.
    fn widen(&mut self, dice: &Dice) {
        let capacity = dice.pick(&[700, 4096, 65_536]);
        self.capacity = (self.capacity.0.max(capacity), self.capacity.1.max(capacity));
        self.cuts = self.cuts.min(20);
        self.fault_rate = self.fault_rate.min(3);
        for kind in &mut self.clients {
            if matches!(kind, Kind::Silent | Kind::Dripping | Kind::Soup) {
                *kind = dice.pick(&[Kind::Mail, Kind::Pipelined, Kind::Chunks, Kind::Auth]);
            }
        }
    }

    /// Handshakes take time, so most runs have none.
    fn choose_tls(dice: &Dice, rare: bool) -> Option<Tls> {
        let tls = dice.pick(&[Tls::Started, Tls::Started, Tls::First]);
        (dice.chance(12) && !rare).then_some(tls)
    }

    /// Nothing else keeps a client from what it does in large numbers.
    fn calmed(mut self) -> Self {
        let reads = |style: &Style| matches!(style, Style::Whole | Style::Chunks | Style::Paused);
        self.styles.retain(reads);
        self.styles.push(Style::Chunks);
        self.fault_rate = 0;
        self.hook_rate = 0;
        self.limits.message_size = Some(1 << 20);
        self.cuts = 0;
        self.aborts = false;
        self.subscriber = false;
        self
    }

    /// How long a connection may wait to be accepted, since others fail.
    pub fn late_accept(&self) -> Duration {
        let fails = self.listener && self.listener_errors;
        Duration::from_secs(if fails { 1 } else { 0 })
    }

    /// At how many bytes a client cuts the connection at the latest.
    pub fn most_cut(&self) -> usize {
        match self.tls {
            Some(_) => 1200,
            None => 400,
        }
    }

    fn choose_clients(dice: &Dice) -> Vec<Kind> {
        if dice.one_in(40) {
            return vec![dice.pick(&Kind::RARE)];
        }
        let kinds = dice.some_of(&Kind::COMMON);
        let count = dice.pick(&[1, 1, 1, 2, 3]);
        (0..count).map(|_| dice.pick(&kinds)).collect()
    }

    fn choose_places(dice: &Dice) -> Vec<Place> {
        let mut places = dice.some_of(&[Place::Here, Place::Task]);
        if dice.chance(10) {
            places.push(Place::Beside);
        }
        places
    }

    pub fn has(&self, kind: crate::journal::Kind) -> bool {
        use crate::journal::Kind as K;
        match kind {
            K::Connect => !self.no_service[0],
            K::Helo => !self.no_service[1],
            K::Mail => !self.no_service[2],
            K::Command => !self.no_service[3],
            K::Auth | K::Rcpt | K::Data => true,
        }
    }
}

impl Times {
    fn new(dice: &Dice, endless: bool) -> Self {
        if endless {
            return Self::all(2000);
        }
        match dice.below(10) {
            0..4 => Self::DEFAULT,
            4 => Self::DEFAULT.without(dice),
            _ => Self::all(0).mixed(dice),
        }
    }

    const DEFAULT: Self = Self {
        command: Some(300_000),
        line: Some(60_000),
        data: Some(300_000),
        transfer: Some(900_000),
        write: Some(300_000),
        session: Some(3_600_000),
        ready: Some(30_000),
        call: Some(240_000),
        data_start: Some(85_000),
        handshake: Some(30_000),
        delivery: Some(540_000),
    };

    const fn all(time: u64) -> Self {
        let time = Some(time);
        Self {
            command: time,
            line: time,
            data: time,
            transfer: time,
            write: time,
            session: time,
            ready: time,
            call: time,
            data_start: time,
            handshake: time,
            delivery: time,
        }
    }

    fn each(mut self, change: impl Fn(&mut Option<u64>)) -> Self {
        let times = [
            &mut self.command,
            &mut self.line,
            &mut self.data,
            &mut self.transfer,
            &mut self.write,
            &mut self.session,
            &mut self.ready,
            &mut self.call,
            &mut self.data_start,
            &mut self.handshake,
            &mut self.delivery,
        ];
        times.into_iter().for_each(change);
        self
    }

    fn mixed(self, dice: &Dice) -> Self {
        self.each(|time| *time = Some(dice.pick(&[1000, 5000, 30_000, 200_000])))
    }

    /// Some of them without a limit.
    fn without(self, dice: &Dice) -> Self {
        self.each(|time| {
            if dice.chance(30) {
                *time = None;
            }
        })
    }

    pub fn list(&self) -> Vec<Option<u64>> {
        let list = std::cell::RefCell::new(Vec::new());
        self.each(|time| list.borrow_mut().push(*time));
        list.into_inner()
    }

    /// The shortest of them.
    pub fn least(&self) -> Duration {
        let least = self.list().into_iter().flatten().min();
        least.map_or(Duration::MAX, Duration::from_millis)
    }

    /// All of them together; `None` where one is without a limit.
    pub fn sum(&self) -> Option<Duration> {
        let sum: Option<u64> = self.list().into_iter().sum();
        sum.map(Duration::from_millis)
    }
}

impl Limits {
    fn new(dice: &Dice) -> Self {
        Self {
            message_size: dice.pick(&[None, Some(1 << 20), Some(1 << 20), Some(2000)]),
            recipients: dice.pick(&[100, 100, 3]),
            errors: dice.pick(&[20, 20, 4]),
            idle_commands: dice.pick(&[1000, 1000, 12]),
            drain: dice.pick(&[64 << 20, 64 << 20, 500]),
        }
    }
}
