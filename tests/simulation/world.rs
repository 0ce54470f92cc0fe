//! One run: the server, its clients and the network between them, moved one step at a time.

use std::{future::pending, io, time::Duration};

use smtpd_tower::{net::PeerAddr, server::Handle};
use tokio::{
    sync::mpsc,
    task::yield_now,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    client::Act,
    executor::{BoxFuture, Executor, Polled, Together},
    model::Model,
    network::{Backlog, port},
    server::{Built, build},
    shared::Shared,
    site::{Site, Stage},
};

/// A shutdown that has begun.
pub struct Shutdown {
    pub began: Instant,
    pub ended: Option<Instant>,
    task: usize,
}

/// Everything there is in a run.
pub struct World {
    pub shared: Shared,
    pub sites: Vec<Site>,
    pub handle: Handle,
    pub shutdown: Option<Shutdown>,
    pub built: Built,
    pub executor: Executor,
    backlog: Option<Backlog>,
    steps: usize,
    moved: (Instant, usize),
}

/// What can happen next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Poll(usize),
    Up(usize),
    Down(usize),
    Act(usize, Act),
    Open(usize),
}

/// Beyond all time limits.
const FOREVER: Duration = Duration::from_secs(400 * 24 * 3600);

/// So many steps without time passing are a loop that does not end.
const MOST_STEPS: usize = 1_000_000;

impl World {
    pub fn new(shared: Shared) -> Self {
        let built = build(&shared);
        let mut executor = Executor::new(shared.alarm.clone());
        let handle = built.server.handle();
        let backlog = shared.swarm.listener.then(|| {
            let (backlog, port) = port();
            let serving = built.server.serve(port);
            executor.spawn(Box::pin(async move { drop(serving.await) }));
            backlog
        });
        let sites = (1..=shared.swarm.clients.len())
            .map(|number| Site::new(&shared, number as u64))
            .collect();
        Self {
            sites,
            handle,
            shutdown: None,
            built,
            executor,
            backlog,
            steps: 0,
            moved: (Instant::now(), 0),
            shared,
        }
    }

    /// Runs until everything has come to its end, or something is wrong.
    pub async fn run(mut self) -> usize {
        if self.shared.swarm.flood {
            self.flood();
        }
        while self.shared.trace.is_clean() {
            match self.choose() {
                Some(step) => {
                    self.perform(step);
                    self.settle_step().await;
                }
                None if self.is_still().await && self.steps().is_empty() => {
                    self.check_stillness();
                    if !self.go_on().await {
                        break;
                    }
                }
                None => {}
            }
            self.check_step();
        }
        self.finish();
        self.steps
    }

    async fn settle_step(&mut self) {
        self.steps += 1;
        yield_now().await;
        for future in self.shared.spawner.take() {
            self.executor.spawn(future);
        }
        self.disturb();
        if self.moved.0 != Instant::now() {
            self.moved = (Instant::now(), self.steps);
        } else if self.steps - self.moved.1 > MOST_STEPS {
            self.shared
                .trace
                .violate("steps without end, and no time passes");
        }
    }

    /// Chooses what happens next among all that can.
    fn choose(&mut self) -> Option<Step> {
        let steps = self.steps();
        let total = steps.iter().map(|(weight, _)| weight).sum();
        let mut chosen = self.shared.dice.below(total);
        steps.into_iter().find_map(|(weight, step)| {
            let found = chosen < weight;
            chosen = chosen.saturating_sub(weight);
            found.then_some(step)
        })
    }

    /// All that can happen next, with its weight.
    fn steps(&self) -> Vec<(usize, Step)> {
        let [polls, arrivals, acts] = self.shared.swarm.weights;
        let mut steps: Vec<(usize, Step)> = Vec::new();
        let woken = self.executor.woken();
        if self.shared.swarm.endless {
            // Time passes in a session that is always ready: nothing may wait for longer than it would in a runtime.
            if let Some(task) = woken.first().filter(|_| self.steps.is_multiple_of(2)) {
                return vec![(1, Step::Poll(*task))];
            }
        }
        steps.extend(woken.into_iter().map(|task| (polls, Step::Poll(task))));
        let now = Instant::now();
        for (number, site) in self.sites.iter().enumerate() {
            if site.stage == Stage::Waiting {
                if site.opens_at <= now {
                    steps.push((acts, Step::Open(number)));
                }
                continue;
            }
            let (up, down) = site.in_flight(now);
            steps.extend(up.then_some((arrivals, Step::Up(number))));
            steps.extend(down.then_some((arrivals, Step::Down(number))));
            let own = site.client.acts(&site.model);
            steps.extend(own.into_iter().map(|act| (acts, Step::Act(number, act))));
        }
        steps
    }

    fn perform(&mut self, step: Step) {
        match step {
            Step::Poll(task) => self.poll(task),
            Step::Up(number) => self.arrive(number, true),
            Step::Down(number) => self.arrive(number, false),
            Step::Act(number, act) => {
                let site = &mut self.sites[number];
                site.client.act(act, &mut site.model);
            }
            Step::Open(number) => self.open(number),
        }
    }

    fn poll(&mut self, task: usize) {
        self.shared.trace.event("poll", task as u64, String::new);
        let polled = self.executor.poll(task);
        if matches!(polled, Polled::Panicked) {
            self.shared.trace.event("escaped", task as u64, || {
                "a panic has ended a task".to_owned()
            });
        }
        if let Some(shutdown) = &mut self.shutdown
            && shutdown.task == task
            && !matches!(polled, Polled::Pending)
        {
            shutdown.ended.get_or_insert_with(Instant::now);
        }
    }

    fn arrive(&mut self, number: usize, up: bool) {
        let dice = &self.shared.dice;
        let most = match dice.below(8) {
            0 => 1,
            1 => dice.between(1, 100),
            _ => usize::MAX / 2,
        };
        let link = &self.sites[number].link;
        let what = if up { "arrives^" } else { "arrives_" };
        self.shared.trace.event(what, link.id, String::new);
        let mut wires = link.lock();
        let waker = match up {
            true => wires.up.arrive(most),
            false => wires.down.arrive(most),
        };
        drop(wires);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn open(&mut self, number: usize) {
        let site = &mut self.sites[number];
        site.stage = Stage::Open;
        site.model = Model::new(&self.shared, site.link.id);
        let conn = site.link.id;
        self.shared.trace.event("opens", conn, String::new);
        if self.shutdown.is_some() {
            site.model.shut_down();
        }
        let end = site
            .link
            .server_end(&self.shared.dice, &self.shared.trace, &self.shared.alarm);
        let peer = PeerAddr::from(([192, 0, 2, 1], conn as u16));
        match &self.backlog {
            Some(backlog) => {
                if self.shared.swarm.listener_errors {
                    self.fail_accept(backlog);
                }
                // A port that is closed drops the connection.
                backlog.push(Ok((end, peer)));
            }
            None => {
                let session = Box::pin(self.built.server.serve_connection(end, peer));
                let task = session_task(&self.shared, conn, session);
                self.sites[number].task = Some(self.executor.spawn(task));
            }
        }
    }

    fn fail_accept(&self, backlog: &Backlog) {
        for _ in 0..self.shared.dice.below(4) {
            let error = self.shared.dice.pick(&[
                io::ErrorKind::ConnectionReset,
                io::ErrorKind::OutOfMemory,
                io::ErrorKind::ConnectionAborted,
            ]);
            backlog.push(Err(error.into()));
        }
    }

    /// What happens from outside, now and then.
    fn disturb(&mut self) {
        let (dice, swarm) = (&self.shared.dice, &self.shared.swarm);
        if swarm.early_shutdown && self.shutdown.is_none() && dice.one_in(60) {
            return self.shut_down();
        }
        if swarm.spurious_polls && dice.one_in(10) {
            let task = dice.below(self.executor.len());
            if self.executor.is_alive(task) {
                return self.poll(task);
            }
        }
        if swarm.stalls && dice.one_in(40) {
            let time = Duration::from_millis(dice.pick(&[5, 3000, 400_000]));
            let site = &self.sites[dice.below(self.sites.len())];
            site.link.lock().stalled = Some(Instant::now() + time);
        }
        if swarm.renews && dice.one_in(30) {
            self.renew();
        }
        let (dice, swarm) = (&self.shared.dice, &self.shared.swarm);
        if swarm.aborts && dice.one_in(50) {
            self.abort(dice.below(self.sites.len()));
        }
    }

    /// Gives the server another certificate while it runs.
    fn renew(&mut self) {
        // A handshake that has just begun has the old one.
        self.check_step();
        let Some(mut certificates) = self.shared.certificates() else {
            return;
        };
        self.shared.trace.event("renews", 0, String::new);
        if let Some(fault) = certificates.renew(&self.shared.dice) {
            self.shared.trace.violate(fault);
        }
    }

    fn abort(&mut self, number: usize) {
        let site = &mut self.sites[number];
        if let Some(task) = site.task.take() {
            self.shared.trace.event("abort", site.link.id, String::new);
            site.aborted = self.executor.is_alive(task);
            self.executor.abort(task);
        }
    }

    fn shut_down(&mut self) {
        let grace = self.shared.swarm.grace;
        self.shared
            .trace
            .event("shutdown", 0, || format!("{grace:?}"));
        let handle = self.handle.clone();
        let task = Box::pin(async move { handle.shutdown(grace).await });
        self.shutdown = Some(Shutdown {
            began: Instant::now(),
            ended: None,
            task: self.executor.spawn(task),
        });
        for site in &mut self.sites {
            site.model.shut_down();
        }
    }

    /// Returns whether nothing moves until time passes. Time passes only when no task of tokio can run either.
    async fn is_still(&self) -> bool {
        tokio::select! {
            biased;
            () = self.shared.alarm.rung() => false,
            () = sleep(Duration::from_millis(1)) => true,
        }
    }

    /// Lets time pass to the next thing that is to happen. Returns whether there is any.
    async fn go_on(&mut self) -> bool {
        let over = self.sites.iter().all(Site::is_over);
        let passive = self.sites.iter().all(Site::is_passive);
        match &self.shutdown {
            Some(shutdown) if shutdown.ended.is_some() && passive && over => return false,
            None if passive && (over || self.shared.swarm.impatient) => {
                self.shut_down();
                return true;
            }
            _ => {}
        }
        let next = self.sites.iter().filter_map(Site::wakes_at).min();
        let until = next.unwrap_or_else(|| Instant::now() + FOREVER);
        tokio::select! {
            biased;
            () = self.shared.alarm.rung() => {}
            () = sleep_until(until) => if next.is_none() {
                self.is_stuck();
            },
        }
        true
    }

    /// Nothing is to happen any more, and there are still sessions.
    fn is_stuck(&mut self) {
        let endless = self.shared.swarm.times.sum().is_none();
        if endless && self.shutdown.is_none() {
            return self.shut_down();
        }
        let open = self.sites.iter().filter(|site| !site.is_over());
        let open: Vec<u64> = open.map(|site| site.link.id).collect();
        let shutting = self.shutdown.as_ref().is_some_and(|s| s.ended.is_none());
        let what = match shutting {
            true => "the shutdown never ends",
            false => "no timer is armed and nothing moves any more",
        };
        for site in &self.sites {
            self.shared
                .trace
                .event("stuck", site.link.id, || site.client.show());
        }
        self.shared
            .trace
            .violate(format!("{what}: sessions {open:?} are left"));
    }

    fn finish(&mut self) {
        let calls = std::mem::take(&mut self.shared.journal.lock().kept);
        drop(calls);
        for future in self.shared.spawner.take() {
            self.executor.spawn(future);
        }
        self.executor.abort_all();
        if self.shared.trace.is_clean() {
            self.check_end();
        }
    }
}

/// The task of a session, with a helper beside it that runs what services hand to it.
fn session_task(shared: &Shared, conn: u64, session: BoxFuture) -> BoxFuture {
    if !shared
        .swarm
        .places
        .contains(&crate::delivery::Place::Beside)
    {
        return session;
    }
    let (jobs, mut inbox) = mpsc::unbounded_channel::<BoxFuture>();
    shared.set_helper(conn, jobs);
    let helper = Box::pin(async move {
        while let Some(job) = inbox.recv().await {
            job.await;
        }
        pending().await
    });
    Box::pin(Together {
        first: Some(session),
        others: vec![helper],
        others_first: shared.dice.chance(50),
    })
}
