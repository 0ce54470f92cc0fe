//! A case from its seed.

use smtpd_tower::phase::PhaseKind;

use crate::{
    dice::Dice,
    plan::{Condition, Core, Function, Kind, Plan, Settings, Spec, Stack, Step},
    session_plan::{Act, End, Message, Origin, Pace, SessionPlan},
};

/// The domains of recipients, of which the last has no route and is not ours.
pub const DOMAINS: [&str; 4] = ["a.example", "b.example", "c.example", "elsewhere.example"];

struct Author {
    dice: Dice,
    slots: usize,
    lmtp: bool,
    focus: Option<PhaseKind>,
}

pub fn plan(seed: u64) -> Plan {
    let mut dice = Dice::new(seed);
    let lmtp = dice.chance(35);
    let focus = dice.pick(&[
        None,
        None,
        Some(PhaseKind::Connect),
        Some(PhaseKind::Helo),
        Some(PhaseKind::Auth),
        Some(PhaseKind::Mail),
        Some(PhaseKind::Rcpt),
        Some(PhaseKind::Data),
        Some(PhaseKind::Data),
        Some(PhaseKind::Data),
    ]);
    let settings = Settings {
        focus,
        call: dice.pick(&[20, 240, 240]),
        delivery: 540,
        faults: dice.pick(&[0, 5, 20, 50]),
        keeps_sessions: dice.chance(30),
        xclient: dice.chance(20),
        proxy: dice.chance(10),
        starttls: dice.chance(3),
    };
    let mut author = Author {
        dice,
        slots: 0,
        lmtp,
        focus,
    };
    let steps = author.steps();
    let sessions = (1..=author.dice.pick(&[1, 1, 2, 3, 4]))
        .map(|number| author.session(number, &settings))
        .collect();
    Plan {
        seed,
        lmtp,
        settings,
        steps,
        sessions,
    }
}

impl Author {
    const fn slot(&mut self) -> usize {
        self.slots += 1;
        self.slots
    }

    /// The setters of a pipeline in any order, with layers before, between and after them.
    fn steps(&mut self) -> Vec<Step> {
        use PhaseKind::{Auth, Command, Connect, Data, Helo, Mail, Rcpt};
        let mut phases = vec![Rcpt, Data];
        for phase in [Connect, Helo, Auth, Mail, Command] {
            if self.dice.chance(75) {
                phases.push(phase);
            }
        }
        let mut steps = Vec::new();
        while !phases.is_empty() {
            let phase = phases.swap_remove(self.dice.below(phases.len()));
            let stack = self.stack(phase, 0);
            steps.push(Step::Set(phase, stack));
        }
        for _ in 0..self.dice.pick(&[0, 0, 1, 1, 2, 3]) {
            let layer = loop {
                let kind = self.kind(Mail, 1);
                if kind.fits_every_phase() {
                    break self.spec(kind);
                }
            };
            let at = self.dice.below(steps.len() + 1);
            let step = match self.dice.chance(30) {
                true => Step::LayerOn(vec![Mail, Rcpt, Data], layer),
                false => Step::Layer(layer),
            };
            steps.insert(at, step);
        }
        steps
    }

    fn spec(&mut self, kind: Kind) -> Spec {
        let slot = self.slot();
        Spec { slot, kind }
    }

    fn stack(&mut self, phase: PhaseKind, depth: usize) -> Stack {
        let layers = match self.focus {
            Some(focus) if focus != phase => self.harmless(),
            _ => {
                let count = self.dice.pick(&[0, 1, 1, 2, 2, 3, 5]);
                self.layers(phase, count, depth)
            }
        };
        let core = self.core(phase, depth);
        let slot = self.slot();
        Stack { layers, core, slot }
    }

    /// Layers that refuse nothing.
    fn harmless(&mut self) -> Vec<Spec> {
        let kinds = [
            Kind::Trace,
            Kind::Metrics,
            Kind::CatchPanic,
            Kind::MapReply,
            Kind::MapRequest,
            Kind::LoadShed,
        ];
        let kind = kinds[self.dice.below(kinds.len())].clone();
        let count = self.dice.below(2);
        (0..count).map(|_| self.spec(kind.clone())).collect()
    }

    fn layers(&mut self, phase: PhaseKind, count: usize, depth: usize) -> Vec<Spec> {
        (0..count)
            .map(|_| {
                let kind = self.kind(phase, depth);
                self.spec(kind)
            })
            .collect()
    }

    fn core(&mut self, phase: PhaseKind, depth: usize) -> Core {
        let routed = matches!(phase, PhaseKind::Rcpt | PhaseKind::Data);
        let chance = if self.focus == Some(phase) { 60 } else { 30 };
        if !routed || depth > 1 || !self.dice.chance(chance) {
            return Core::Leaf;
        }
        let domains = DOMAINS.iter().take(self.dice.between(1, 3));
        let routes = domains
            .map(|domain| (*domain, self.stack(phase, depth + 1)))
            .collect();
        let otherwise = self.dice.chance(40);
        Core::Router {
            routes,
            otherwise: otherwise.then(|| Box::new(self.stack(phase, depth + 1))),
        }
    }

    fn kind(&mut self, phase: PhaseKind, depth: usize) -> Kind {
        match self.dice.below(100) {
            0..45 => self.any_phase(phase, depth),
            45..70 => self.own_phase(phase, depth),
            _ => self.of_tower(phase),
        }
    }

    fn any_phase(&mut self, phase: PhaseKind, depth: usize) -> Kind {
        match self.dice.below(19) {
            0 => Kind::RequireAuth,
            1 => Kind::RequireTls,
            2 => Kind::AllowClients(&[
                "192.0.2.0/24",
                "127.0.0.1",
                "2001:db8::/32",
                "203.0.113.0/24",
            ]),
            3 => Kind::DenyClients(&["198.51.100.0/24", "203.0.113.9"]),
            4 | 5 => Kind::CatchPanic,
            6 if depth < 2 => {
                let condition = self.dice.pick(&[
                    Condition::Always,
                    Condition::Never,
                    Condition::Stranger,
                    Condition::InTheClear,
                    Condition::FromLoopback,
                ]);
                let count = self.dice.between(1, 2);
                Kind::Cond(condition, self.layers(phase, count, depth + 1))
            }
            7 => Kind::FromFn(self.function()),
            8 => Kind::FromFnWith(self.function()),
            9 => Kind::MapReply,
            10 => Kind::Trace,
            11 => Kind::Gate,
            12 => Kind::ConcurrencyPerIp(self.dice.pick(&[0, 1, 1, 2])),
            13 => Kind::ConcurrencyPerIdentity(self.dice.pick(&[0, 1, 1, 2])),
            14 => Kind::RatePerIp(self.dice.pick(&[1, 2, 5])),
            15 => Kind::RatePerIdentity(self.dice.pick(&[1, 2, 5])),
            16 => Kind::Score(self.dice.pick(&[1, 3])),
            17 => Kind::ScoreGate(self.dice.pick(&[1, 4, 8])),
            _ => Kind::Tarpit(self.dice.pick(&[1, 5, 200])),
        }
    }

    fn own_phase(&mut self, phase: PhaseKind, depth: usize) -> Kind {
        let n = self.dice.below(12);
        match (phase, n) {
            (PhaseKind::Connect, 0..3) => Kind::ReverseDns,
            (PhaseKind::Connect, _) => Kind::SessionsPerIp(self.dice.pick(&[1, 1, 2])),
            (PhaseKind::Helo, _) => Kind::HeloCheck,
            (PhaseKind::Mail, 0..3) => Kind::HeloCheck,
            (PhaseKind::Mail, 3..6) => Kind::OwnSender,
            (PhaseKind::Mail, 6) => Kind::DenySenders,
            (PhaseKind::Mail, 7..9) => Kind::SizeLimit(1000),
            (PhaseKind::Mail, 9) => Kind::FreeSpace,
            (PhaseKind::Rcpt, 0..3) => Kind::DomainFilter,
            (PhaseKind::Rcpt, 3) => Kind::Recipients,
            (PhaseKind::Rcpt, 4..6) => Kind::Greylist,
            (PhaseKind::Rcpt, 6..9) => Kind::MaxRecipients(self.dice.pick(&[0, 1, 2])),
            (PhaseKind::Data, 0..2) => Kind::SizeLimit(self.dice.pick(&[10, 1000, 100_000])),
            (PhaseKind::Data, 2) => Kind::HopLimit(self.dice.pick(&[1, 100])),
            (PhaseKind::Data, 3..5) => Kind::Received,
            (PhaseKind::Data, 5..7) => Kind::SubmissionFields,
            (PhaseKind::Data, 7..9) => Kind::Spool(1 << 20),
            (PhaseKind::Data, 9) => Kind::MapBody,
            (PhaseKind::Data, 10) => Kind::Tee,
            (PhaseKind::Data, 11) => self.rare(),
            _ => self.any_phase(phase, depth),
        }
    }

    fn rare(&mut self) -> Kind {
        match self.dice.below(3) {
            0 => Kind::GreylistData,
            1 => Kind::DistinctRecipients,
            _ => Kind::FreeSpace,
        }
    }

    fn of_tower(&mut self, phase: PhaseKind) -> Kind {
        match self.dice.below(15) {
            0 | 1 => Kind::Timeout(self.dice.pick(&[3, 30, 1000])),
            2 => Kind::ConcurrencyLimit(self.dice.pick(&[1, 2])),
            3 => Kind::GlobalLimit(self.dice.pick(&[1, 2])),
            4 | 5 => Kind::LoadShed,
            6 => Kind::Buffer(self.dice.pick(&[1, 8])),
            7 => Kind::MapResponse,
            8 => Kind::MapRequest,
            9 => Kind::MapErr,
            10 => Kind::Filter,
            11 => Kind::FilterAsync,
            12 if phase != PhaseKind::Data => Kind::Retry(self.dice.between(1, 2)),
            13 => Kind::Then,
            14 => Kind::AndThen,
            _ => Kind::Chaos,
        }
    }

    fn function(&mut self) -> Function {
        self.dice.pick(&[
            Function::Pass,
            Function::Pass,
            Function::Defer,
            Function::Reject,
            Function::ThrowDefer,
            Function::ThrowReject,
            Function::Fail,
            Function::Panic,
            Function::Throws,
            Function::Throws,
            Function::Delay(2),
        ])
    }
}

impl Author {
    fn session(&mut self, number: usize, settings: &Settings) -> SessionPlan {
        let from = self.dice.pick(&[
            Origin::V4,
            Origin::V4,
            Origin::OtherV4,
            Origin::V6,
            Origin::Mapped,
            Origin::Loopback,
            Origin::Unix,
            Origin::Proxied,
        ]);
        let from = match from {
            Origin::Proxied if !settings.proxy => Origin::V4,
            // A trusted peer has to name its client.
            Origin::V4 | Origin::Mapped if settings.proxy => Origin::Proxied,
            from => from,
        };
        let within_tls = !settings.starttls && self.dice.chance(30);
        let mut acts = Vec::new();
        self.hello(&mut acts);
        if settings.starttls && self.dice.chance(80) {
            acts.push(Act::StartTls);
            self.hello(&mut acts);
        }
        if settings.xclient && self.dice.chance(50) {
            self.xclient(&mut acts);
        }
        if self.dice.chance(40) {
            acts.push(Act::Auth(self.dice.pick(&["alice", "bob", "wrong"])));
        }
        for message in 0..self.dice.pick(&[1, 1, 2, 3]) {
            self.transaction(number, message, &mut acts);
        }
        SessionPlan {
            number,
            from,
            within_tls,
            after: self.dice.pick(&[0, 0, 1, 1500, 70_000]),
            pace: self.dice.pick(&[
                Pace::Lockstep,
                Pace::Pipelined,
                Pace::Pipelined,
                Pace::ByteByByte,
            ]),
            acts,
            end: self
                .dice
                .pick(&[End::Quit, End::Quit, End::Quit, End::Close, End::Cut]),
        }
    }

    fn hello(&mut self, acts: &mut Vec<Act>) {
        let verb = match self.lmtp {
            true => "LHLO",
            false if self.dice.chance(10) => "HELO",
            false => "EHLO",
        };
        let name = self
            .dice
            .pick(&["client.example", "mx.test", "localhost", "[192.0.2.1]"]);
        acts.push(Act::Say(format!("{verb} {name}")));
    }

    fn xclient(&mut self, acts: &mut Vec<Act>) {
        let address = self.dice.pick(&[
            "203.0.113.9",
            "192.0.2.77",
            "IPV6:2001:db8::9",
            "[UNAVAILABLE]",
        ]);
        let login = self.dice.pick(&["", " LOGIN=alice"]);
        acts.push(Act::Say(format!("XCLIENT ADDR={address}{login}")));
        self.hello(acts);
    }

    fn transaction(&mut self, number: usize, message: usize, acts: &mut Vec<Act>) {
        if self.dice.chance(10) {
            let other = ["XPING", "VRFY alice", "NOOP", "HELP", "XNOTHING here"];
            acts.push(Act::Say(self.dice.pick(&other).to_owned()));
        }
        if self.dice.chance(10) {
            self.hello(acts);
        }
        let sender = self
            .dice
            .pick(&["", "alice@example.org", "carol@example.net"]);
        let parameter = self.dice.pick(&["", "", " SIZE=500", " SIZE=200000"]);
        let utf8 = if self.dice.chance(10) {
            " SMTPUTF8"
        } else {
            ""
        };
        acts.push(Act::Say(format!("MAIL FROM:<{sender}>{parameter}{utf8}")));
        for recipient in 0..self.dice.pick(&[0, 1, 1, 2, 2, 3, 5]) {
            if self.dice.chance(5) {
                acts.push(Act::Wait(self.dice.pick(&[100, 61_000])));
            }
            let domain = self.dice.pick(&DOMAINS);
            let to = match self.dice.below(12) {
                0 => "Postmaster".to_owned(),
                1 if !utf8.is_empty() => format!("jürgen{recipient}@{domain}"),
                _ => format!("s{number}m{message}r{recipient}@{domain}"),
            };
            acts.push(Act::Say(format!("RCPT TO:<{to}>")));
        }
        if self.dice.chance(8) {
            return acts.push(Act::Say("RSET".to_owned()));
        }
        let message = self.message();
        acts.push(match self.dice.chance(20) {
            true => Act::Bdat(message),
            false => Act::Data(message),
        });
    }

    fn message(&mut self) -> Message {
        match self.dice.below(100) {
            0..80 => Message::Small,
            80..88 => Message::WithoutHeader,
            88..91 => Message::Looping,
            91..94 => Message::LargeHeader,
            94..97 => Message::Large(200),
            _ => Message::Large(self.dice.pick(&[64, 600])),
        }
    }
}
