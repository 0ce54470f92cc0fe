//! What must hold: after each step, whenever nothing moves, and at the end.

use std::time::Duration;

use smtpd_tower::{Connect, Reply, Request, Session};
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn};

use crate::{
    bounds::is_given_up,
    journal::{Call, Kind, Outcome, Pages},
    network::{LONGEST_POLL, Wires},
    site::{Site, Stage},
    swarm::Swarm,
    world::World,
};

/// How long a session lingers after its last reply, and how exact timers are.
pub const LINGER: Duration = LINGER_TIME.saturating_add(SLACK);

const LINGER_TIME: Duration = Duration::from_secs(1);

/// How exact timers are.
pub const SLACK: Duration = Duration::from_millis(50);

/// How long a data service may clean up after nobody waits for its message any more.
pub const CLEAN_UP: Duration = Duration::from_millis(10_000 + 50);

const NO_REPLY: &str = "the connection was closed without a last reply";

impl World {
    /// What must hold after each step.
    pub fn check_step(&mut self) {
        crate::panics::check(&self.shared.trace);
        for number in 0..self.sites.len() {
            let site = &mut self.sites[number];
            if site.stage != Stage::Open {
                continue;
            }
            let fault = site.read_replies(&self.shared);
            let fault = fault.or_else(|| site.keeps_too_much(&self.shared));
            let is_gone = site.link.lock().gone;
            let fault = fault.or_else(|| is_gone.then(|| self.close(number)).flatten());
            if let Some(fault) = fault {
                let conn = self.sites[number].link.id;
                self.shared
                    .trace
                    .violate(format!("session {conn}: {fault}"));
            }
        }
        self.check_shutdown();
        self.check_lifetimes();
    }

    /// Checks a connection that the server has closed, and returns what is wrong.
    fn close(&mut self, number: usize) -> Option<String> {
        let site = &self.sites[number];
        let pages = self.shared.journal.lock();
        let conn = site.link.id;
        let closes = pages.closes.get(&conn).copied().unwrap_or(0);
        let began = pages.by_conn.contains_key(&conn) || site.model.has_begun();
        if closes > 1 || (began && closes == 0) {
            return Some(format!("on_close was called {closes} times"));
        }
        let shuts_down = self.shutdown.is_some();
        let full = self.shared.swarm.max_sessions < 100;
        let fault = site
            .ends_handshake_for_no_reason(shuts_down, full, &pages)
            .or_else(|| site.ends_header_for_no_reason(shuts_down, full))
            .or_else(|| site.ends_tls_badly());
        let refused = self.shared.swarm.listener && shuts_down && !began;
        let excused = refused || site.aborted || site.model.may_end();
        let excused = excused || self.may_lose_reply(site, &pages, closes == 0);
        let fault = fault.or_else(|| (!excused).then(|| NO_REPLY.to_owned()));
        drop(pages);
        self.sites[number].stage = Stage::Over;
        fault
    }

    /// Whether the last reply need not arrive: the client is lost or reads nothing, or there is no session yet.
    fn may_lose_reply(&self, site: &Site, pages: &Pages, turned_away: bool) -> bool {
        let wires = site.link.lock();
        let lost = wires.reset || wires.closed || site.client.has_ended(&wires);
        let shutdown = self.shutdown.as_ref();
        let over = shutdown.map(|shutdown| shutdown.began + self.shared.swarm.grace);
        let told = turned_away.then_some(site.model.started);
        // The reply to a refused client has one second, and so have replies that remain when the grace period is over, or the time
        // after a greeting of 5yz.
        let refused = site.refused_until(pages);
        let cut_off = [over, told, refused].into_iter().flatten().any(|since| {
            Instant::now() + SLACK >= since + LINGER_TIME && wires.unwritten.is_some()
        });
        let early = site.shakes(&wires) || site.model.awaits_header();
        lost || cut_off || early || is_given_up(&wires, &self.shared.swarm)
    }

    fn check_shutdown(&mut self) {
        let Some(shutdown) = &self.shutdown else {
            return;
        };
        let swarm = &self.shared.swarm;
        // Where time passes within the polls of a session, one may be going on when the grace ends, two may come before the
        // shutdown is polled, and one goes on when the session has lingered for its time.
        let late = if swarm.endless {
            LONGEST_POLL * 4
        } else {
            Duration::ZERO
        };
        let limit = swarm.grace + LINGER + late;
        if let Some(ended) = shutdown.ended
            && ended - shutdown.began > limit
        {
            let took = ended - shutdown.began;
            self.shared.trace.violate(format!(
                "a shutdown with {:?} of grace took {took:?}",
                self.shared.swarm.grace
            ));
        }
        if shutdown.ended.is_some() && self.handle.sessions() > 0 {
            self.shared
                .trace
                .violate("a shutdown has ended before its sessions");
        }
    }

    /// What must hold when nothing moves until time passes.
    pub fn check_stillness(&mut self) {
        let pages = self.shared.journal.lock();
        let mut faults = Vec::new();
        for site in self.sites.iter().filter(|site| site.stage == Stage::Open) {
            let stalled = site.is_stalled();
            let shutdown = self.shutdown.as_ref().map(|shutdown| shutdown.began);
            let found = [
                site.has_idle_reader(&pages, self.shared.swarm.router),
                site.is_owed_a_reply(&pages, &self.shared.swarm),
                site.is_not_told(&pages, self.shutdown.is_some()),
                site.shakes_for_too_long(self.shutdown.is_some()),
                site.waits_for_header(self.shutdown.is_some()),
                site.waits_to_write(&pages, &self.shared.swarm, shutdown),
                site.lingers(),
            ];
            let found = found.into_iter().flatten().filter(|_| !stalled);
            faults.extend(found.map(|fault| format!("session {}: {fault}", site.link.id)));
        }
        drop(pages);
        for fault in faults {
            self.shared.trace.violate(fault);
        }
        self.check_ages();
    }

    /// Every session ends within its limits.
    fn check_ages(&mut self) {
        let swarm = self.shared.swarm.clone();
        if swarm.endless {
            return self.check_lifetimes();
        }
        let Some(sum) = swarm.times.sum() else {
            return;
        };
        let each = [swarm.times.ready, swarm.times.call].into_iter().flatten();
        let each = Duration::from_millis(each.sum());
        let now = Instant::now();
        let mut faults = Vec::new();
        for site in self
            .sites
            .iter_mut()
            .filter(|site| site.stage == Stage::Open)
        {
            if !site.client.is_passive() {
                continue;
            }
            let owed = site.model.owed();
            let (since, owed) = *site.passive_since.get_or_insert((now, owed));
            // A service whose client is lost has ten seconds to clean up.
            let limit = sum + each * owed + Duration::from_secs(15);
            if now - since > limit && !site.trickles() {
                let conn = site.link.id;
                faults.push(format!(
                    "session {conn}: the client does nothing, and the session lives for {:?}",
                    now - since
                ));
            }
        }
        for fault in faults {
            self.shared.trace.violate(fault);
        }
    }

    /// A client that never pauses does not live longer than others.
    fn check_lifetimes(&self) {
        let swarm = &self.shared.swarm;
        let Some(sum) = swarm.times.sum().filter(|_| swarm.endless) else {
            return;
        };
        let now = Instant::now();
        for site in self.sites.iter().filter(|site| site.stage == Stage::Open) {
            let age = now - site.opens_at;
            if age > sum + Duration::from_secs(15) {
                let conn = site.link.id;
                self.shared
                    .trace
                    .violate(format!("session {conn} lives for {age:?}"));
            }
        }
    }

    /// What must hold when all sessions have ended and all tasks are dropped.
    pub fn check_end(&mut self) {
        crate::panics::check(&self.shared.trace);
        let trace = &self.shared.trace;
        if self.handle.sessions() > 0 {
            trace.violate(format!("{} sessions are left", self.handle.sessions()));
        }
        let pages = self.shared.journal.lock();
        for site in &self.sites {
            if let Some(fault) = site.check_deliveries(&pages) {
                trace.violate(format!("session {}: {fault}", site.link.id));
            }
        }
        if pages.unready > 0 {
            trace.violate(format!("{} services are kept", pages.unready));
        }
        let working = pages
            .calls
            .iter()
            .filter(|call| call.outcome == Outcome::Working);
        if working.count() > 0 {
            trace.violate("calls are kept");
        }
        drop(pages);
        let used = self.built.memory.used();
        if used > 0 {
            trace.violate(format!("{used} bytes of messages are left"));
        }
        self.check_permits();
    }

    fn check_permits(&self) {
        let trace = &self.shared.trace;
        if let Some((permits, all)) = &self.built.permits
            && permits.available_permits() != *all
        {
            let left = permits.available_permits();
            trace.violate(format!("{left} of {all} permits are given back"));
        }
        let guard = &self.built.guard;
        let logins = guard.counted_logins();
        let counted = (guard.counted_sessions(), guard.counted_handshakes(), logins);
        if counted != (0, 0, 0) {
            trace.violate(format!("the guard still counts {counted:?}"));
        }
        let Some(layer) = &self.built.per_ip else {
            return;
        };
        let accept = service_fn(async |_: Request<Connect>| Ok::<_, Reply>(Reply::OK));
        let session = Session::from_peer(([192, 0, 2, 1], 9));
        let request = Request::new(session, Connect::new());
        let asked = layer.layer(accept).oneshot(request);
        let reply = tokio_test::task::spawn(asked).poll();
        if !matches!(reply, std::task::Poll::Ready(Ok(reply)) if reply.is_positive()) {
            trace.violate("the address of the clients is still counted");
        }
    }
}

impl Site {
    /// How much of what the client has sent the server can have seen.
    fn seen(&self, wires: &Wires) -> u64 {
        let there = wires.up.read + wires.up.arrived() as u64;
        self.client.passage.said(there)
    }

    /// A complete command has arrived, no service is running, there is room for the reply, and nothing happens.
    fn is_owed_a_reply(&self, pages: &Pages, swarm: &Swarm) -> Option<String> {
        // It may wait to be accepted, or may have ended.
        if (swarm.listener && !self.model.has_begun()) || self.model.may_end() {
            return None;
        }
        let wires = self.link.lock();
        if self.shakes(&wires) {
            return None;
        }
        let idle = !pages.is_busy(self.link.id) && pages.unready == 0 && swarm.permits.is_none();
        let seen = self.seen(&wires);
        let able = wires.down.room() > 0 && !wires.reset && !wires.closed;
        let able = able && !is_given_up(&wires, swarm);
        let owed = self.model.is_owed(seen);
        (idle && able && owed).then(|| "nothing moves, and a reply is owed".to_owned())
    }

    /// A session between two messages ends at once when the server shuts down, unless the last reply has closed it, or a
    /// service that replied before the end of its message still has to clean up.
    fn is_not_told(&self, pages: &Pages, shuts_down: bool) -> Option<String> {
        let answered = self.model.answered_at;
        let excuse = match (self.model.may_end(), pages.is_delivering(self.link.id)) {
            (false, false) => Duration::ZERO,
            (false, true) => CLEAN_UP,
            (true, _) => CLEAN_UP + LINGER,
        };
        if answered.is_some_and(|at| at.elapsed() < excuse) {
            return None;
        }
        let wires = self.link.lock();
        let quiet = wires.up.is_empty() && wires.down.is_empty();
        let quiet = quiet && !self.client.has_ended(&wires);
        let idle = shuts_down && quiet && !wires.reset && self.model.is_idle();
        idle.then(|| "it is idle, and is not told that the server shuts down".to_owned())
    }

    /// A service waits for more of a message, and it is there.
    fn has_idle_reader(&self, pages: &Pages, router: Option<usize>) -> Option<String> {
        let wires = self.link.lock();
        if wires.down.room() == 0 || wires.reset || wires.closed {
            return None;
        }
        let seen = self.seen(&wires);
        let reads = |call: &&Call| call.outcome == Outcome::Working || call.keeps;
        let data = pages
            .calls_of(self.link.id)
            .filter(|call| call.kind == Kind::Data);
        let readers: Vec<&Call> = data.filter(reads).collect();
        // A route that is not ready yet has a reader, too.
        let unready = (pages.unready > 0).then_some(0);
        let positions = readers.iter().map(|call| position(call));
        let slowest = positions.chain(unready).min()?;
        let stalls = |call: &&&Call| {
            let Some((len, whole)) = self.model.available(&call.subject, seen) else {
                return false;
            };
            let reader = call.reader.unwrap_or_default();
            let due = whole || (!reader.collects && len > reader.position);
            // A reader that is ahead of others has to wait for them. The smallest chunk counts as 33 bytes.
            let position = if reader.collects {
                len
            } else {
                reader.position
            };
            let ahead = position.saturating_sub(slowest) * 33 + 64;
            reader.waits && due && (position == slowest || router.is_none_or(|most| ahead < most))
        };
        let stalled = readers.iter().find(stalls)?;
        Some(format!(
            "route {} waits for more of a message at {}, and it is there",
            stalled.route,
            position(stalled)
        ))
    }

    /// Whether slow bytes explain a long time.
    fn trickles(&self) -> bool {
        self.client.listens() && !self.client.reads_promptly()
    }

    /// Without a 250 a message is stored at most once by each service, and if so it is whole.
    fn check_deliveries(&self, pages: &Pages) -> Option<String> {
        let own = |number: usize| pages.calls[number].conn == self.link.id;
        for commit in pages.commits.iter().filter(|commit| own(commit.call)) {
            let call = &pages.calls[commit.call];
            let same = |other: usize| {
                let other = &pages.calls[other];
                other.conn == call.conn
                    && other.subject == call.subject
                    && other.route == call.route
            };
            if pages
                .commits
                .iter()
                .filter(|other| same(other.call))
                .count()
                > 1
            {
                return Some(format!("{} was stored twice", call.subject));
            }
            if !self.model.knows(commit.call, &call.subject, commit.digest) {
                return Some(format!("half of {} was stored", call.subject));
            }
        }
        None
    }
}

fn position(call: &Call) -> usize {
    call.reader.unwrap_or_default().position
}
