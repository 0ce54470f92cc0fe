//! The guard: limits on what each client may do, over all of its sessions.
//!
//! Every [`Server`](crate::server::Server) has a [`Guard`]. [The guide](crate::guide::security#the-guard) says what it counts and
//! why, and what to change for which server.
//!
//! | item | what it is |
//! |---|---|
//! | [`Guard`] | the limits, and what was counted |
//! | [`GuardReason`] | why a client is refused |
//! | [`GuardEvent`], [`GuardStage`] | a client is being refused, or not any more |
//! | [`GuardUsage`] | what one client has used of its limits |
//! | [`GuardStats`] | how often something was refused, for metrics |

mod handshakes;
mod login;
mod outbox;
mod reason;
mod report;
mod settings;
mod table;
mod usage;
mod visit;

use std::{fmt, net::IpAddr, num::NonZeroUsize, sync::Arc};

pub(crate) use self::{login::LoginPermit, visit::Visit};
use self::{
    outbox::Outbox,
    reason::Counters,
    report::{Listeners, Reports},
    settings::{Counted, Settings},
    table::{Known, Table},
};
pub use self::{
    reason::{GuardReason, GuardStats},
    report::{GuardEvent, GuardStage},
    usage::GuardUsage,
};
use crate::{
    limiter::{ClientKey, Rate},
    net::{CidrSet, PeerAddr},
    reload::Reloadable,
};

/// Limits what each client may do, over all of its sessions. It is on by default; [`Server::guard`](crate::server::Server::guard)
/// sets another.
///
/// A client is an IPv4 address or an IPv6 /64, as a [`ClientKey`]. Behind a proxy it is the client that the proxy names, by a
/// PROXY header or XCLIENT, and the proxy itself is not counted. Clients without an IP address, such as those on a Unix socket,
/// are never counted, nor are those that are [exempt](Self::exempt). The limits within one session, which are in
/// [`Limits`](smtpd_core::Limits), apply to everybody.
///
/// | what is counted | default | the client receives |
/// |---|---|---|
/// | [`sessions`](Self::sessions) at a time | 50 | 421 4.7.0 instead of the greeting |
/// | [`new_sessions`](Self::new_sessions) | 1,000 a minute | the same |
/// | [`handshakes`](Self::handshakes) at a time | 20 | 454 4.7.0 to STARTTLS; where TLS comes first, the connection is closed |
/// | [`all_handshakes`](Self::all_handshakes) at a time, of all clients | 256 | the same, or nothing: a client that has more gives one up |
/// | [`failed_logins`](Self::failed_logins) | 10 in ten minutes, with those in progress | 454 4.7.0 to AUTH, after 5 seconds and before the AUTH service is called |
/// | [`rejected_recipients`](Self::rejected_recipients) | 200 in ten minutes | 421 4.7.0, in its sessions and instead of the greeting |
/// | [`errors`](Self::errors) | 200 in ten minutes | the same |
/// | [`idle_sessions`](Self::idle_sessions), which lead to no message and no login | 100 in ten minutes | 421 4.7.0 instead of the greeting |
///
/// Where TLS comes first, a connection is closed instead of 421. What is counted over time is a [`Rate`]: a client that has spent
/// it regains one event after another.
///
/// Sessions of LMTP are not counted: their client is a server that delivers the mail of others, and it checked them.
///
/// # Memory is bounded
///
/// A guard remembers up to [`capacity`](Self::with_capacity) clients (50,000 by default, about 200 bytes each), in the same way
/// as a [limiter](crate::limiter#memory-is-bounded): a flood of addresses replaces those first that would be free again soonest,
/// so who is refused is forgotten last. The sessions and handshakes in progress are counted apart from that, and never forgotten.
///
/// # Sharing
///
/// Cloning is cheap. Clones count together, so give one to every server of a process, and keep one to [look](Self::top) at. A
/// setter changes the limits of the clone that it returns, and of clones of that; [`reload`](Self::reload) changes the limits
/// while servers run.
///
/// ```
/// use std::time::Duration;
///
/// use smtpd_tower::{
///     Pipeline, Server, guard::Guard, limiter::Rate, net::CidrSet,
/// };
///
/// let guard = Guard::new()
///     .sessions(20)
///     .failed_logins(Rate::new(5, Duration::from_secs(3600))?)
///     .exempt(CidrSet::parse(["127.0.0.0/8", "::1", "192.0.2.0/24"])?)
///     .on_event(|event| println!("{} {}", event.client(), event.reason()));
/// let server =
///     Server::new("mx.example.org", Pipeline::new()).guard(guard.clone());
///
/// // Later, for example when a signal arrives:
/// guard.reload(&Guard::new().sessions(10));
/// for client in guard.top(10) {
///     println!("{}: refused {} times", client.client(), client.refused());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Guard {
    settings: Reloadable<Settings>,
    listeners: Listeners,
    shared: Arc<Shared>,
}

struct Shared {
    table: Table,
    counters: Counters,
    reports: Reports,
    outbox: Arc<Outbox>,
}

impl Guard {
    /// The capacity of [`new`](Self::new), in clients: 50,000.
    pub const DEFAULT_CAPACITY: NonZeroUsize = match NonZeroUsize::new(50_000) {
        Some(clients) => clients,
        None => NonZeroUsize::MIN,
    };

    /// Creates a guard with the default limits.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(Self::DEFAULT_CAPACITY)
    }

    /// Creates a guard with the default limits that remembers up to `capacity` clients. Memory is allocated as they come.
    #[must_use]
    pub fn with_capacity(capacity: NonZeroUsize) -> Self {
        Self {
            settings: Reloadable::new(Settings::default()),
            listeners: Listeners::default(),
            shared: Arc::new(Shared {
                table: Table::new(capacity),
                counters: Counters::default(),
                reports: Reports::default(),
                outbox: Arc::default(),
            }),
        }
    }

    /// Creates a guard that counts and refuses nothing. The limits within one session still apply.
    #[must_use]
    pub fn off() -> Self {
        Self::new().set(|settings| settings.is_on = false)
    }

    /// Sets how many sessions a client may have at a time. With 0, every client that is not exempt is refused. Default: 50, as
    /// `smtpd_client_connection_count_limit` of Postfix. A large provider opens up to 20 connections from one address.
    #[must_use]
    pub fn sessions(self, n: u32) -> Self {
        self.set(|settings| settings.sessions = n)
    }

    /// Sets how many sessions a client may begin. `None` means no limit. Default: 1,000 a minute. That is more than mail needs,
    /// and costs the server little: a session without mail takes less than 0.1 ms of a processor.
    #[must_use]
    pub fn new_sessions(self, rate: impl Into<Option<Rate>>) -> Self {
        self.set_rate(Counted::NewSession, rate.into())
    }

    /// Sets how many TLS handshakes a client may have in progress at a time. Default: 20, because a handshake is over after two
    /// round trips, and takes a hundred times as much of a processor as a command.
    #[must_use]
    pub fn handshakes(self, n: u32) -> Self {
        self.set(|settings| settings.handshakes = n)
    }

    /// Sets how many TLS handshakes all clients together may have in progress at a time. Default: 256. At 0.5 ms each, they take
    /// a processor for an eighth of a second.
    ///
    /// A client can begin a handshake and then do nothing until [`Timeouts::handshake`](smtpd_core::Timeouts::handshake) is over,
    /// or stop in the middle of it, so a few clients could use this limit up. That does not keep the others out: when it is
    /// reached, the client with the most handshakes in progress gives up its oldest one for a client that has fewer. If it would
    /// then have as many as that client, it does so only if the oldest has taken more than a quarter of a second, because a
    /// handshake is over after two round trips. So it takes more than 1,024 new clients a second to keep others out, or four times
    /// as many as this limit. The connection of a handshake that is given up is closed, and counts as refused to its client, but
    /// not as a session that [led to nothing](Self::idle_sessions).
    #[must_use]
    pub fn all_handshakes(self, n: u32) -> Self {
        self.set(|settings| settings.all_handshakes = n)
    }

    /// Sets how often a client may fail to authenticate, over all of its sessions and by any mechanism. `None` means no limit.
    /// Default: 10 in ten minutes. fail2ban bans after 5 in ten minutes, but a client here may be an office whose users share an
    /// address.
    ///
    /// After that, AUTH receives 454 4.7.0 (RFC 4954 section 6: the password may well be right), 5 seconds later, or after half of
    /// [`Timeouts::ready`](smtpd_core::Timeouts::ready) if that is less. The AUTH service is not called, so no password is compared.
    ///
    /// A login in progress counts as if it had failed, until it has ended: otherwise, all sessions of a client could try a password
    /// at the same time. A client with more logins at a time than may still fail, such as an office whose programs all connect in
    /// the morning, waits until one of them has succeeded, and receives 454 only if that takes longer than the time above.
    ///
    /// Only rejections are counted: 5yz of the AUTH service or of the mechanism that compares the password. A fault or a timeout of
    /// the service, its 4yz, and an exchange that the client cancels before its result are no failures.
    #[must_use]
    pub fn failed_logins(self, rate: impl Into<Option<Rate>>) -> Self {
        self.set_rate(Counted::FailedLogin, rate.into())
    }

    /// Sets how many recipients of a client may be rejected with 5yz. `None` means no limit. Default: 200 in ten minutes: RFC
    /// 5321 section 7.3 names RCPT as a way to find addresses out. Twenty sessions reach it that stay below the number from which
    /// replies are [held back](smtpd_core::Limits::prompt_refusals).
    #[must_use]
    pub fn rejected_recipients(self, rate: impl Into<Option<Rate>>) -> Self {
        self.set_rate(Counted::RejectedRecipient, rate.into())
    }

    /// Sets how many errors a client may make, such as unknown commands. `None` means no limit. Default: 200 in ten minutes, as
    /// many as ten sessions may make that end because of [`Limits::errors`](smtpd_core::Limits::errors). What is refused for now, or
    /// because of a fault on this side, is no error of the client.
    ///
    /// If a limit on errors or recipients is exceeded, the session ends although the client may have sent more commands already. A
    /// message that is being received is finished first.
    #[must_use]
    pub fn errors(self, rate: impl Into<Option<Rate>>) -> Self {
        self.set_rate(Counted::Error, rate.into())
    }

    /// Sets how many sessions of a client may end without an accepted message and without a login. `None` means no limit.
    /// Default: 100 in ten minutes. An accepted message forgives those before it.
    ///
    /// Mail is what a mail server is for: who connects without end and delivers nothing measures, guesses or is broken. A check
    /// that connects every six seconds at most is within the default; [exempt](Self::exempt) those that do so more often.
    #[must_use]
    pub fn idle_sessions(self, rate: impl Into<Option<Rate>>) -> Self {
        self.set_rate(Counted::IdleSession, rate.into())
    }

    /// Sets the networks whose clients are not counted, in place of the default. Default: loopback, 127.0.0.0/8 and ::1. To count
    /// those too, set an empty set.
    #[must_use]
    pub fn exempt(self, networks: CidrSet) -> Self {
        self.set(|settings| settings.exempt = Arc::new(networks))
    }

    /// Adds a function that is called when a client begins to be refused, once a minute while it goes on, and when nothing was
    /// refused to it for a minute. The same is [logged](crate::guide::logs_and_metrics). If more than 1,000 clients are being
    /// refused at a time, the others are only [counted](Self::stats).
    ///
    /// What has changed is noticed with the next connection or refusal. The functions are then called in a blocking thread of the
    /// runtime, one event after the other, so they may block, for example to change the rules of a firewall: neither sessions nor
    /// new connections wait for them. They must return some day, because a runtime that is dropped waits for them. Up to 4,096
    /// events wait for a function that is slow. The others are lost, which is logged and [counted](GuardStats::lost_events): a
    /// function that keeps a list should then compare it with [`usage`](Self::usage).
    #[must_use]
    pub fn on_event(mut self, function: impl Fn(&GuardEvent) + Send + Sync + 'static) -> Self {
        self.listeners.add(function);
        self
    }

    /// Applies the limits and the exempt networks of `other` from now on, to this guard and its clones, and to sessions that are
    /// open. What was counted stays.
    ///
    /// - A lower number of sessions ends none: the client gets no other until enough have ended. The same goes for handshakes.
    /// - A lower rate applies to what the client has done already, so it may end the client's sessions.
    /// - A login that waits for others is tried again when one of them ends, and before it is refused.
    /// - A client that is exempt from now on, or every client if `other` is [off](Self::off), is no longer counted or refused. A
    ///   session, handshake or login that was counted when it began stays counted among those of its client until it ends, so
    ///   that the number is right should the limit apply again.
    /// - A client that is no longer exempt is counted by what it does from now on. The sessions that it has open are not counted
    ///   among those at a time, nor are its handshakes and logins in progress.
    ///
    /// ```
    /// use smtpd_tower::guard::Guard;
    ///
    /// let guard = Guard::new();
    /// guard.reload(&Guard::off());
    /// assert!(!guard.is_on());
    /// ```
    pub fn reload(&self, other: &Self) {
        self.settings.set(Settings::clone(&other.settings.get()));
    }

    /// Returns whether it counts anything: it was not made by [`off`](Self::off).
    pub fn is_on(&self) -> bool {
        self.settings.with(|settings| settings.is_on)
    }

    fn set_rate(self, counted: Counted, rate: Option<Rate>) -> Self {
        self.set(|settings| settings.set_rate(counted, rate))
    }

    fn set(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::clone(&self.settings.get());
        change(&mut settings);
        self.settings = Reloadable::new(settings);
        self
    }
}

/// What was counted.
impl Guard {
    /// Returns the `n` clients that were refused most often, of those that are remembered.
    pub fn top(&self, n: usize) -> Vec<GuardUsage> {
        let top = self.shared.table.top(n).into_iter();
        top.map(GuardUsage::new).collect()
    }

    /// Returns what a client has used of its limits.
    pub fn usage(&self, client: impl Into<ClientKey>) -> GuardUsage {
        let table = &self.shared.table;
        GuardUsage::new(table.facts(table.find(client.into())))
    }

    /// Forgets what a client has done. Its sessions stay counted.
    pub fn reset(&self, client: impl Into<ClientKey>) {
        let table = &self.shared.table;
        table.reset(table.find(client.into()));
    }

    /// Returns how often something was refused.
    pub fn stats(&self) -> GuardStats {
        let lost = self.shared.outbox.lost();
        self.shared.counters.stats(lost)
    }

    /// Returns how many clients are remembered now, for metrics. This includes clients that are not limited.
    pub fn tracked(&self) -> usize {
        self.shared.table.tracked()
    }

    /// Returns the number of sessions that are counted now. Those of exempt clients are not.
    pub fn counted_sessions(&self) -> u32 {
        self.shared.table.live().sessions
    }

    /// Returns the number of TLS handshakes that are counted now. Those of exempt clients are not.
    pub fn counted_handshakes(&self) -> u32 {
        self.shared.table.handshakes.len()
    }

    /// Returns the number of logins in progress that are counted now. Those of exempt clients are not.
    pub fn counted_logins(&self) -> u32 {
        self.shared.table.live().logins
    }
}

/// For the engine.
impl Guard {
    /// Begins a session of that client. Returns `None` if the client has no address to count it by, and why it is refused if it
    /// is.
    pub(crate) fn enter(&self, client: &PeerAddr) -> Result<Option<Visit>, GuardReason> {
        let Some(ip) = client.ip().filter(|ip| !ip.is_unspecified()) else {
            return Ok(None);
        };
        let table = &self.shared.table;
        let known = table.find(ClientKey::new(ip));
        let entered = self.limits(ip, |table, settings| table.enter(known, settings));
        match entered {
            Some(Err(reason)) => Err(self.refused(known, reason)),
            counted => {
                self.report();
                Ok(Some(Visit::new(self.clone(), ip, known, counted.is_some())))
            }
        }
    }

    /// Returns the result of `f` for the current limits, if they apply to that client.
    fn limits<R>(&self, ip: IpAddr, f: impl FnOnce(&Table, &Settings) -> R) -> Option<R> {
        self.settings.with(|settings| {
            let applies = settings.is_on && !settings.exempt.contains(ip);
            applies.then(|| f(&self.shared.table, settings))
        })
    }

    /// Tells of what has changed for clients that were refused.
    fn report(&self) {
        let Shared {
            table,
            reports,
            outbox,
            ..
        } = &*self.shared;
        outbox.send(&self.listeners, reports.due(table.now()));
    }

    /// Notes a refusal. Returns the reason.
    fn refused(&self, known: Known, reason: GuardReason) -> GuardReason {
        let Shared {
            table,
            counters,
            reports,
            outbox,
        } = &*self.shared;
        counters.count(reason);
        table.refused(known);
        let event = reports.refused(known.client, reason, table.now());
        outbox.send(&self.listeners, event);
        self.report();
        reason
    }
}

impl Default for Guard {
    fn default() -> Self {
        Self::new()
    }
}

// By hand: the table may be large, and its keys are clients.
impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("settings", &self.settings)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        task::{Context, Waker},
        time::Duration,
    };

    use tokio::time::advance;

    use super::*;

    fn peer(ip: &str) -> PeerAddr {
        let ip: IpAddr = ip.parse().unwrap();
        (ip, 4711).into()
    }

    fn key(ip: &str) -> ClientKey {
        ClientKey::new(ip.parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn exempt_clients_are_counted_and_others_are_not() {
        let guard = Guard::new();
        let table = [
            ("127.0.0.1", false),
            ("127.9.9.9", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("0.0.0.0", false),
            ("::", false),
            ("192.0.2.1", true),
            ("2001:db8::1", true),
        ];
        for (ip, is_counted) in table {
            let visit = guard.enter(&peer(ip)).unwrap();
            let counted = visit.as_ref().is_some_and(Visit::is_counted);
            assert_eq!(counted, is_counted, "{ip}");
            assert_eq!(guard.counted_sessions(), u32::from(is_counted), "{ip}");
        }
        for peer in [PeerAddr::Unix(None), PeerAddr::Unknown] {
            assert!(guard.enter(&peer).unwrap().is_none());
        }
        let strict = guard.clone().exempt(CidrSet::parse::<&str>([]).unwrap());
        let visit = strict.enter(&peer("127.0.0.1")).unwrap();
        assert!(visit.unwrap().is_counted());
        let visit = Guard::off().enter(&peer("192.0.2.1")).unwrap();
        assert!(!visit.unwrap().is_counted());
        assert_eq!(guard.counted_sessions(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_of_addresses_has_the_sessions_of_many_clients() {
        let guard = Guard::new().sessions(2);
        let _first = guard.enter(&peer("2001:db8::1")).unwrap();
        let _second = guard.enter(&peer("2001:db8::2")).unwrap();
        let third = guard.enter(&peer("2001:db8::3"));
        assert_eq!(third.err(), Some(GuardReason::Sessions));
        assert!(guard.enter(&peer("2001:db8:0:1::1")).is_ok());
        let _v4 = [(); 2].map(|()| guard.enter(&peer("192.0.2.1")).unwrap());
        let mapped = guard.enter(&peer("::ffff:192.0.2.1"));
        assert_eq!(mapped.err(), Some(GuardReason::Sessions));
        assert_eq!(guard.usage(key("192.0.2.1")).sessions(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_begin_as_fast_as_a_client_can_connect() {
        let guard = Guard::new();
        let client = peer("192.0.2.1");
        for _ in 0..1000 {
            // What leads to no message is another limit.
            guard.reset(key("192.0.2.1"));
            drop(guard.enter(&client).unwrap());
        }
        let guard = Guard::new().idle_sessions(None);
        for _ in 0..1000 {
            drop(guard.enter(&client).unwrap());
        }
        let refused = guard.enter(&client);
        assert_eq!(refused.err(), Some(GuardReason::NewSessions));
        advance(Duration::from_millis(60)).await;
        assert!(guard.enter(&client).is_ok());
        assert!(guard.enter(&client).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_connects_without_end_and_delivers_nothing() {
        let guard = Guard::new();
        let client = peer("192.0.2.1");
        for _ in 0..100 {
            drop(guard.enter(&client).unwrap());
        }
        let refused = guard.enter(&client);
        assert_eq!(refused.err(), Some(GuardReason::IdleSessions));
        assert_eq!(guard.usage(key("192.0.2.1")).idle_sessions(), 100);
        advance(Duration::from_secs(6)).await;
        assert!(guard.enter(&client).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_counted_is_lost_when_the_limits_change() {
        let guard = Guard::new();
        let visit = guard.enter(&peer("192.0.2.1")).unwrap();
        guard.reload(&Guard::new().sessions(1));
        let refused = guard.enter(&peer("192.0.2.1"));
        assert_eq!(refused.err(), Some(GuardReason::Sessions));
        guard.reload(&Guard::off());
        let uncounted = guard.enter(&peer("192.0.2.1")).unwrap();
        assert_eq!(guard.counted_sessions(), 1);
        drop((visit, uncounted));
        assert_eq!(guard.counted_sessions(), 0);
        let top = guard.top(10);
        assert_eq!(top.len(), 1);
        assert_eq!((top[0].client(), top[0].refused()), (key("192.0.2.1"), 1));
        assert_eq!(guard.stats().refused(GuardReason::Sessions), 1);
        guard.reset(key("192.0.2.1"));
        assert!(guard.top(10).is_empty());
    }

    /// Returns a visit of that client, which wants a handshake, and whether that may begin.
    fn handshake(guard: &Guard, ip: &str) -> (Visit, Result<(), GuardReason>) {
        let mut visit = guard.enter(&peer(ip)).unwrap().unwrap();
        let begun = visit.begin_handshake();
        (visit, begun)
    }

    fn is_given_up(visit: &Visit) -> bool {
        let cx = Context::from_waker(Waker::noop());
        visit.poll_handshake_given_up(&cx).is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn one_client_takes_all_handshakes() {
        let guard = Guard::new().handshakes(2).all_handshakes(3);
        let (one, all) = (GuardReason::Handshakes, GuardReason::AllHandshakes);
        let (mut first, begun) = handshake(&guard, "192.0.2.1");
        assert_eq!(begun, Ok(()));
        let (second, begun) = handshake(&guard, "192.0.2.1");
        assert_eq!(begun, Ok(()));
        assert_eq!(handshake(&guard, "192.0.2.1").1, Err(one));
        let (third, begun) = handshake(&guard, "192.0.2.2");
        assert_eq!(begun, Ok(()));
        // It would have as many as the one that has the most.
        let (fourth, begun) = handshake(&guard, "192.0.2.3");
        assert_eq!(begun, Ok(()));
        assert!(is_given_up(&first) && !is_given_up(&second) && !is_given_up(&third));
        let usage = |ip| guard.usage(key(ip));
        assert_eq!(usage("192.0.2.1").handshakes(), 1);
        assert_eq!(usage("192.0.2.1").refused(), 2);
        assert_eq!(handshake(&guard, "192.0.2.4").1, Err(all));
        first.end_handshake();
        first.end_handshake();
        assert_eq!(guard.counted_handshakes(), 3, "it was not counted any more");
        drop((first, second, third, fourth));
        assert_eq!(guard.counted_handshakes(), 0);
        assert_eq!(handshake(&guard, "192.0.2.3").1, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lower_limit_ends_handshakes_that_are_in_progress() {
        let guard = Guard::new().all_handshakes(4);
        let open = [1, 1, 1, 2].map(|n| handshake(&guard, &format!("192.0.2.{n}")).0);
        guard.reload(&Guard::new().all_handshakes(2));
        let (_, begun) = handshake(&guard, "192.0.2.3");
        assert_eq!(begun, Err(GuardReason::AllHandshakes));
        assert!(!open.iter().any(is_given_up));
        assert_eq!(guard.counted_handshakes(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_charged_for_the_load_of_others() {
        let guard = Guard::new()
            .all_handshakes(1)
            .idle_sessions(Rate::per_hour(1).unwrap());
        let silent = handshake(&guard, "192.0.2.1").0;
        for _ in 0..3 {
            let (refused, begun) = handshake(&guard, "192.0.2.2");
            assert_eq!(begun, Err(GuardReason::AllHandshakes));
            drop(refused);
        }
        advance(Duration::from_millis(250)).await;
        let (second, begun) = handshake(&guard, "192.0.2.3");
        assert_eq!(begun, Ok(()));
        assert!(is_given_up(&silent));
        drop((silent, second));
        // The one that has led to nothing by itself is charged.
        assert!(guard.enter(&peer("192.0.2.1")).is_ok());
        assert!(guard.enter(&peer("192.0.2.2")).is_ok());
        let reason = guard.enter(&peer("192.0.2.3")).err();
        assert_eq!(reason, Some(GuardReason::IdleSessions));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_told_of_refusals_while_nobody_connects() {
        let (sender, events) = std::sync::mpsc::channel();
        let guard = Guard::new().all_handshakes(0).on_event(move |event| {
            let _ = sender.send((event.stage(), event.refused()));
        });
        let (mut visit, _) = handshake(&guard, "192.0.2.1");
        for _ in 0..2 {
            advance(Duration::from_secs(30)).await;
            assert!(visit.begin_handshake().is_err());
        }
        let next = || events.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(next(), (GuardStage::Began, 1));
        assert_eq!(next(), (GuardStage::Continued, 2));
    }

    /// A thousand new clients a second begin a handshake and do nothing; others take a tenth of a second for theirs.
    #[tokio::test(start_paused = true)]
    async fn a_flood_of_new_clients_keeps_others_from_tls() {
        let guard = Guard::new();
        let mut flood = std::collections::VecDeque::new();
        let mut honest = std::collections::VecDeque::new();
        let (mut begun, mut done) = (0, 0);
        for tick in 0..3000_u32 {
            advance(Duration::from_millis(1)).await;
            let [_, a, b, c] = tick.to_be_bytes();
            flood.push_back(handshake(&guard, &format!("10.{a}.{b}.{c}")).0);
            while flood.len() > 1000 || flood.front().is_some_and(is_given_up) {
                flood.pop_front();
            }
            if tick % 50 == 0 {
                begun += 1;
                let (visit, may) = handshake(&guard, &format!("11.{a}.{b}.{c}"));
                honest.extend(may.is_ok().then_some((tick + 100, visit)));
            }
            while honest.front().is_some_and(|(end, _)| *end <= tick) {
                let ended = honest.pop_front();
                done += u32::from(ended.is_some_and(|(_, visit)| !is_given_up(&visit)));
            }
            assert!(guard.counted_handshakes() <= 256);
        }
        assert!(done * 10 >= begun * 9, "{done} of {begun}");
        drop((flood, honest));
        assert_eq!(guard.counted_handshakes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_clients_as_there_are_permits_keep_a_handshake_for_half_a_minute() {
        let guard = Guard::new().all_handshakes(3);
        let silent: Vec<_> = (1..4)
            .map(|n| handshake(&guard, &format!("192.0.2.{n}")).0)
            .collect();
        advance(Duration::from_millis(249)).await;
        let (_, begun) = handshake(&guard, "198.51.100.1");
        assert_eq!(begun, Err(GuardReason::AllHandshakes));
        assert!(!silent.iter().any(is_given_up));
        advance(Duration::from_millis(1)).await;
        let (_honest, begun) = handshake(&guard, "198.51.100.1");
        assert_eq!(begun, Ok(()));
        let given_up: Vec<_> = silent.iter().map(is_given_up).collect();
        assert_eq!(given_up, [true, false, false]);
        // It has one, so nobody has more.
        let (_, begun) = handshake(&guard, "198.51.100.1");
        assert_eq!(begun, Err(GuardReason::AllHandshakes));
        let none = guard.clone();
        none.reload(&Guard::new().all_handshakes(0));
        assert!(handshake(&none, "198.51.100.2").1.is_err());
    }

    /// Whatever the settings are when a session begins and ends, what was counted is given back.
    #[tokio::test(start_paused = true)]
    async fn a_change_of_the_limits_loses_a_permit() {
        fn on() -> Guard {
            let logins = Rate::per_hour(2).unwrap();
            Guard::new().sessions(2).handshakes(2).failed_logins(logins)
        }
        let begin = |guard: &Guard| {
            let (mut visit, begun) = handshake(guard, "192.0.2.1");
            let login = visit.begin_login();
            (visit, begun.and(login))
        };
        let exempt = || Guard::new().exempt(CidrSet::parse(["192.0.2.0/24"]).unwrap());
        let settings: [fn() -> Guard; 3] = [on, Guard::off, exempt];
        for order in 0..settings.len().pow(4) {
            let guard = on();
            let at = |step: u32| settings[order / settings.len().pow(step) % settings.len()]();
            guard.reload(&at(0));
            let (first, begun) = begin(&guard);
            assert_eq!(begun, Ok(()));
            guard.reload(&at(1));
            let (second, begun) = begin(&guard);
            assert_eq!(begun, Ok(()));
            guard.reload(&at(2));
            drop(first);
            guard.reload(&at(3));
            drop(second);
            assert_eq!(guard.counted_sessions(), 0, "{order}");
            assert_eq!(guard.counted_handshakes(), 0, "{order}");
            assert_eq!(guard.counted_logins(), 0, "{order}");
            guard.reload(&on());
            let mut again = [(); 2].map(|()| begin(&guard));
            assert!(again.iter().all(|(_, begun)| begun.is_ok()), "{order}");
            assert!(again[0].0.begin_login().is_err(), "{order}");
            assert!(guard.enter(&peer("192.0.2.1")).is_err(), "{order}");
        }
    }
}
