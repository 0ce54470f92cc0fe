//! The destinations: how many deliveries each has, how often they may begin, and which of them cannot be reached.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use smtpd_core::reply::Reply;
use tokio::time::Instant;

use super::settings::Limits;
use crate::{queue::schedule::jittered, session::QueueId};

/// How many destinations are remembered that have nothing to do.
const MOST_IDLE: usize = 10_000;
/// How long a message is put off at most because its destination has enough to do.
const LONGEST_LINE: Duration = Duration::from_secs(60);

/// How long it is put off at least.
const SHORTEST_LINE: Duration = Duration::from_millis(10);

/// The recipients of a message at one destination.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) id: QueueId,
    pub(super) site: String,
    /// The positions of the recipients.
    pub(super) recipients: Vec<usize>,
}

pub(super) struct Sites {
    limits: Limits,
    all: HashMap<String, Site>,
    /// Those that have units which wait, once each.
    line: VecDeque<String>,
    waiting: usize,
}

#[derive(Debug)]
struct Site {
    running: usize,
    waiting: VecDeque<Unit>,
    /// The connection faults in a row.
    faults: u32,
    blocked: Option<Blocked>,
    /// When the next attempt may begin, and how far the rate is behind.
    owed_until: Instant,
    /// When the last of those that were put off is to come back.
    line_end: Instant,
    /// How long a delivery takes, on average.
    mean: Duration,
    /// When a delivery has ended last, or has begun after nothing ran.
    progress: Instant,
}

#[derive(Clone, Debug)]
struct Blocked {
    until: Instant,
    wait: Duration,
    reply: Reply,
}

/// Why a destination takes no other unit.
pub(super) enum Admission {
    /// It has enough to do for so long.
    Busy(Duration),
    /// It cannot be reached, and is to be tried after this time.
    Blocked(Duration, Reply),
}

impl Site {
    fn new(now: Instant) -> Self {
        Self {
            running: 0,
            waiting: VecDeque::new(),
            faults: 0,
            blocked: None,
            owed_until: now,
            line_end: now,
            mean: Duration::from_millis(1),
            progress: now,
        }
    }

    fn is_idle(&self) -> bool {
        self.running == 0 && self.waiting.is_empty()
    }

    /// After a fault, one delivery finds out whether the destination is back.
    const fn most(&self, limits: &Limits) -> usize {
        match self.blocked {
            Some(_) => 1,
            None => limits.concurrency,
        }
    }

    /// Returns when the rate allows the next delivery.
    fn allowed(&self, limits: &Limits) -> Option<Instant> {
        let rate = limits.rate?;
        let interval = rate.period() / rate.events();
        self.owed_until
            .checked_sub(interval.saturating_mul(rate.burst().saturating_sub(1)))
    }

    fn spend(&mut self, limits: &Limits, now: Instant) {
        if let Some(rate) = limits.rate {
            let interval = rate.period() / rate.events();
            self.owed_until = self.owed_until.max(now) + interval;
        }
    }

    /// Returns after which time a unit that does not fit should come back: when those before it are likely to be done.
    fn line_up(&mut self, limits: &Limits, now: Instant) -> Duration {
        // One that hangs has no end that the average could know.
        let each = self.mean.max(now - self.progress);
        let each = each / u32::try_from(limits.concurrency).unwrap_or(u32::MAX);
        let each = match limits.rate {
            Some(rate) => each.max(rate.period() / rate.events()),
            None => each,
        };
        let ahead = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        let soonest = now + each.saturating_mul(ahead).min(LONGEST_LINE);
        let turn = self.line_end.max(soonest).min(now + LONGEST_LINE);
        self.line_end = turn + each;
        (turn - now).max(SHORTEST_LINE)
    }
}

impl Sites {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            all: HashMap::new(),
            line: VecDeque::new(),
            waiting: 0,
        }
    }

    /// Adds a unit, unless its destination cannot take it. One destination may have as many units that wait as it may have
    /// deliveries, twice, or half of `room`, but no more: otherwise the others would wait for it.
    pub(super) fn admit(&mut self, unit: Unit, room: usize, now: Instant) -> Result<(), Admission> {
        self.forget_idle(now);
        let site = self.all.entry(unit.site.clone());
        let site = site.or_insert_with(|| Site::new(now));
        if let Some(blocked) = &site.blocked
            && (blocked.until > now || site.running + site.waiting.len() > 0)
        {
            let left = blocked.until.saturating_duration_since(now);
            let left = left.max(blocked.wait / 10);
            let spread = jittered(left, &unit.id).max(left);
            return Err(Admission::Blocked(spread, blocked.reply.clone()));
        }
        let own = 2 * self.limits.concurrency;
        if site.waiting.len() >= own && (site.waiting.len() >= room / 2 || self.waiting >= room) {
            return Err(Admission::Busy(site.line_up(&self.limits, now)));
        }
        if site.waiting.is_empty() {
            self.line.push_back(unit.site.clone());
        }
        site.waiting.push_back(unit);
        self.waiting += 1;
        Ok(())
    }

    /// Returns the next unit whose delivery may begin. The destinations take turns.
    pub(super) fn next(&mut self, now: Instant) -> Option<Unit> {
        for _ in 0..self.line.len() {
            let name = self.line.pop_front()?;
            let Some(site) = self.all.get_mut(&name) else {
                continue;
            };
            let is_free = site.running < site.most(&self.limits)
                && site.allowed(&self.limits).is_none_or(|at| at <= now);
            let unit = if is_free {
                site.waiting.pop_front()
            } else {
                None
            };
            if !site.waiting.is_empty() {
                self.line.push_back(name);
            }
            if unit.is_some() {
                if site.running == 0 {
                    site.progress = now;
                }
                site.running += 1;
                site.spend(&self.limits, now);
                self.waiting -= 1;
                return unit;
            }
        }
        None
    }

    /// Returns when the rate of a destination allows another delivery.
    pub(super) fn wakes(&self) -> Option<Instant> {
        self.limits.rate?;
        let sites = self.line.iter().filter_map(|name| self.all.get(name));
        let free = sites.filter(|site| site.running < site.most(&self.limits));
        free.filter_map(|site| site.allowed(&self.limits)).min()
    }

    /// Notes the end of a delivery: what the destination has replied if it could not be reached. Returns what waits for it then.
    pub(super) fn done(
        &mut self,
        name: &str,
        took: Duration,
        fault: Option<Reply>,
        now: Instant,
    ) -> Vec<Unit> {
        let limits = self.limits.clone();
        let Some(site) = self.all.get_mut(name) else {
            return Vec::new();
        };
        site.running = site.running.saturating_sub(1);
        site.mean = (site.mean * 7 + took) / 8;
        site.progress = now;
        let Some(reply) = fault else {
            (site.faults, site.blocked) = (0, None);
            return Vec::new();
        };
        // One that had begun before says nothing new.
        if site.blocked.as_ref().is_some_and(|one| one.until > now) {
            return Vec::new();
        }
        site.faults = site.faults.saturating_add(1);
        if site.faults < limits.faults {
            return Vec::new();
        }
        let doublings = (site.faults - limits.faults).min(31);
        let wait = limits.backoff.saturating_mul(1 << doublings);
        let wait = jittered(wait.min(limits.longest_backoff.max(limits.backoff)), name);
        let until = now + wait;
        site.blocked = Some(Blocked { until, wait, reply });
        let waiting: Vec<_> = site.waiting.drain(..).collect();
        self.waiting -= waiting.len();
        self.line.retain(|one| one != name);
        waiting
    }

    /// A delivery has ended of which nothing is known.
    pub(super) fn give_up(&mut self, name: &str) {
        if let Some(site) = self.all.get_mut(name) {
            site.running = site.running.saturating_sub(1);
        }
    }

    /// Returns all that waits.
    pub(super) fn drain(&mut self) -> Vec<Unit> {
        self.line.clear();
        self.waiting = 0;
        let sites = self.all.values_mut();
        sites.flat_map(|site| site.waiting.drain(..)).collect()
    }

    fn forget_idle(&mut self, now: Instant) {
        if self.all.len() < MOST_IDLE {
            return;
        }
        // First those of which nothing is to be remembered.
        self.all
            .retain(|_, site| !site.is_idle() || site.blocked.is_some() || site.line_end > now);
        if self.all.len() >= MOST_IDLE {
            self.all.retain(|_, site| !site.is_idle());
        }
    }
}
