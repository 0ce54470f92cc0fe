//! How many bytes of messages the process holds: [`MemoryBudget`].

mod client;
mod reservation;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use smtpd_core::reply::Reply;

pub(crate) use self::client::ClientMemory;
use self::client::{Claim, Clients};
#[cfg(feature = "spool")]
pub(crate) use self::reservation::InFile;
pub use self::reservation::Reservation;
use crate::fault::quietly;

/// A limit on the bytes of messages in memory, for all sessions together. Clones share it.
///
/// What counts is what the server and this crate keep of messages: the chunks that a service has not read yet,
/// [`Body::collect`](crate::body::Body::collect), a header section that came in several chunks, what is spooled in memory, and
/// the messages of an [`Inbox`](crate::deliver::Inbox). A service that keeps chunks itself calls [`reserve`](Self::reserve).
/// Connections, their buffers for commands and everything else are not messages: `max_sessions` limits those.
///
/// A message that is too much is deferred, not lost, and so that honest clients lose little time, it is deferred early:
///
/// | the bytes in memory | what happens |
/// |---|---|
/// | three quarters of the limit | MAIL, DATA and the first BDAT receive 452 4.3.1, until half of the limit is free |
/// | seven eighths | new clients receive 421 4.3.2 in place of the greeting |
/// | all of it | a message that would take more receives 452 4.3.1 at its end; what is spooled goes to a file |
///
/// Each byte is given back when the memory is freed, however its session ends. The server logs a warning when it begins to defer
/// messages, and one line when that is over.
///
/// # The share of a client
///
/// The messages of one client, over all of its sessions, may take a quarter of what is free. A client that is alone has a fifth
/// of the limit. The more clients want memory, the less each of them may take: eight that take all they can leave a third of the
/// limit to others. A message that is the only one of its client may take up to half of the limit, so a large message gets
/// through although the share is smaller. A message that would take more receives 452 4.3.1 at its end, or is spooled to a file,
/// and a client that has three quarters of its share receives that for further messages at DATA and the first BDAT. Neither
/// defers the messages of others. Thus, one client that opens many sessions and sends its messages slowly does not keep others
/// from delivering mail.
///
/// A client is what the [`Guard`](crate::guard::Guard) counts: an IPv4 address or an IPv6 /64. The clients that it does not count
/// have no share: those on this machine and in other [exempt](crate::guard::Guard::exempt) networks, those of LMTP, and everybody
/// if it is [off](crate::guard::Guard::off). Exempt the proxies that do not name their clients.
///
/// What a service keeps of a message after the reply, such as an inbox, counts against the share until the session begins another
/// message or ends. What a service [reserves](Self::reserve) itself counts only against the limit.
///
/// The default is [`shared`](Self::shared), with 512 MiB for the process. It does not depend on the machine, because the memory
/// of a machine is not what a process in a container or beside others may use. Set about half of what the process may use.
///
/// ```
/// use smtpd_tower::{Pipeline, Server, memory::MemoryBudget};
///
/// let memory = MemoryBudget::new(2 << 30);
/// let server = Server::new("mx.example.org", Pipeline::new())
///     .memory_budget(memory.clone());
/// assert_eq!((memory.used(), memory.limit()), (0, 2 << 30));
/// ```
#[derive(Clone)]
pub struct MemoryBudget {
    /// `None` is the one that the process shares, of which a clone costs nothing. One pointer, since every request with a message
    /// carries it.
    part: Option<Arc<Part>>,
}

/// What a handle counts for.
#[derive(Debug)]
struct Part {
    /// `None` is the one that the process shares.
    account: Option<Arc<Account>>,
    /// The message of a client that the guard counts.
    claim: Option<Claim>,
}

/// Why a message may not take more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Excess {
    /// There is no memory.
    OfAll,
    /// Its client has its share.
    OfClient,
}

#[derive(Debug)]
struct Account {
    limit: u64,
    used: AtomicU64,
    peak: AtomicU64,
    in_files: AtomicU64,
    deferred: AtomicU64,
    refused: AtomicU64,
    /// Messages are deferred until there is room again.
    short: AtomicBool,
    clients: Clients,
}

static SHARED: Account = Account::new(MemoryBudget::DEFAULT_LIMIT);

impl MemoryBudget {
    /// The limit of [`shared`](Self::shared): 512 MiB.
    pub const DEFAULT_LIMIT: u64 = 512 << 20;

    /// Creates a budget of `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self::counting(Some(Arc::new(Account::new(limit))), None)
    }

    /// Returns the budget that all servers of this process share by default.
    pub const fn shared() -> Self {
        Self { part: None }
    }

    fn counting(account: Option<Arc<Account>>, claim: Option<Claim>) -> Self {
        let part = Part { account, claim };
        Self {
            part: Some(Arc::new(part)),
        }
    }

    fn account(&self) -> &Account {
        let part = self.part.as_ref();
        let own = part.and_then(|part| part.account.as_deref());
        own.unwrap_or(&SHARED)
    }

    fn claim(&self) -> Option<&Claim> {
        self.part.as_ref()?.claim.as_ref()
    }

    /// Returns the limit in bytes.
    pub fn limit(&self) -> u64 {
        self.account().limit
    }

    /// Returns how many bytes of messages are in memory.
    pub fn used(&self) -> u64 {
        self.account().used.load(Relaxed)
    }

    /// Returns the largest number of bytes that were in memory at a time.
    pub fn peak(&self) -> u64 {
        self.account().peak.load(Relaxed)
    }

    /// Returns how many bytes of messages are in temporary files. They do not count against the limit.
    pub fn in_files(&self) -> u64 {
        self.account().in_files.load(Relaxed)
    }

    /// Returns how many times a client was told with 452 that there is no room for its message, or that it has its share.
    pub fn deferred(&self) -> u64 {
        self.account().deferred.load(Relaxed)
    }

    /// Returns how many clients were refused with 421 in place of the greeting.
    pub fn refused(&self) -> u64 {
        self.account().refused.load(Relaxed)
    }

    /// Reserves `bytes` for a message that a service keeps itself, until the reservation is dropped.
    ///
    /// ```
    /// use smtpd_tower::{Reply, memory::MemoryBudget};
    ///
    /// let memory = MemoryBudget::new(1000);
    /// let mut reserved = memory.reserve(600)?;
    /// assert_eq!(reserved.grow(500), Err(Reply::storage_full()));
    /// assert_eq!(memory.used(), 600);
    /// drop(reserved);
    /// assert_eq!((memory.used(), memory.peak()), (0, 600));
    /// # Ok::<(), Reply>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the reply 452 4.3.1 if that exceeds the limit.
    pub fn reserve(&self, bytes: u64) -> Result<Reservation, Reply> {
        let mut reservation = Reservation::empty(self.clone());
        reservation.grow(bytes)?;
        Ok(reservation)
    }

    /// Returns whether a new message may come.
    ///
    /// # Errors
    ///
    /// Returns the reply 452 4.3.1.
    #[inline]
    pub(crate) fn admit_message(&self) -> Result<(), Reply> {
        let account = self.account();
        let used = account.used.load(Relaxed);
        if used > account.limit / 2 || account.short.load(Relaxed) {
            self.admit_late_message(used)?;
        }
        match self.claim() {
            Some(claim) if !claim.admits(account) => Err(self.defer(Excess::OfClient)),
            _ => Ok(()),
        }
    }

    /// Returns whether a new message may come although half of the limit is in use, or was short.
    #[cold]
    fn admit_late_message(&self, used: u64) -> Result<(), Reply> {
        let account = self.account();
        let limit = account.limit;
        match account.short.load(Relaxed) {
            false if used < limit - limit / 4 => Ok(()),
            true if used <= limit / 2 => {
                if account.short.swap(false, Relaxed) {
                    quietly(|| tracing::info!(used, limit, "messages are accepted again"));
                }
                Ok(())
            }
            _ => Err(self.defer(Excess::OfAll)),
        }
    }

    /// Counts a message that is deferred. Returns the reply.
    #[cold]
    fn defer(&self, excess: Excess) -> Reply {
        let account = self.account();
        account.deferred.fetch_add(1, Relaxed);
        match excess {
            Excess::OfAll => {
                account.ran_short(account.used.load(Relaxed));
                storage_full()
            }
            Excess::OfClient => storage_full()
                .with_text("Too many bytes of your messages at a time, try again later"),
        }
    }

    /// Adds bytes that are in memory in any case.
    fn add(&self, bytes: u64) {
        self.account().add(bytes);
        if let Some(claim) = self.claim() {
            claim.add(bytes);
        }
    }

    /// Adds bytes unless they exceed the limit, or the share of the client.
    fn try_add(&self, bytes: u64) -> Result<(), Excess> {
        let (account, claim) = (self.account(), self.claim());
        if claim.is_some_and(|claim| !claim.try_add(bytes, account)) {
            return Err(Excess::OfClient);
        }
        if account.try_add(bytes) {
            return Ok(());
        }
        if let Some(claim) = claim {
            claim.sub(bytes);
        }
        Err(Excess::OfAll)
    }

    fn sub(&self, bytes: u64) {
        self.account().used.fetch_sub(bytes, Relaxed);
        if let Some(claim) = self.claim() {
            claim.sub(bytes);
        }
    }

    /// Returns whether a new session may begin.
    pub(crate) fn admits_session(&self) -> bool {
        let account = self.account();
        let used = account.used.load(Relaxed);
        let admits = used < account.limit - account.limit / 8;
        if !admits {
            account.refused.fetch_add(1, Relaxed);
            account.ran_short(used);
        }
        admits
    }
}

/// Returns the reply to a message that there is no memory for. Its origin tells it from that of a disk that is full.
fn storage_full() -> Reply {
    Reply::storage_full().with_origin("MemoryBudget")
}

impl Account {
    const fn new(limit: u64) -> Self {
        Self {
            limit,
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            in_files: AtomicU64::new(0),
            deferred: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            short: AtomicBool::new(false),
            clients: Clients::new(),
        }
    }

    /// Adds bytes that are in memory in any case.
    fn add(&self, bytes: u64) {
        let used = self.used.fetch_add(bytes, Relaxed).saturating_add(bytes);
        if used > self.peak.load(Relaxed) {
            self.peak.fetch_max(used, Relaxed);
        }
    }

    /// Adds bytes unless they exceed the limit. Returns whether it has.
    fn try_add(&self, bytes: u64) -> bool {
        let added = self.used.fetch_update(Relaxed, Relaxed, |used| {
            used.checked_add(bytes).filter(|&sum| sum <= self.limit)
        });
        if let Ok(before) = added {
            self.peak.fetch_max(before + bytes, Relaxed);
        }
        added.is_ok()
    }

    /// Returns how many bytes a client may hold now.
    fn share(&self) -> u64 {
        self.limit.saturating_sub(self.used.load(Relaxed)) / 4
    }

    fn ran_short(&self, used: u64) {
        if !self.short.swap(true, Relaxed) {
            let limit = self.limit;
            quietly(|| {
                tracing::warn!(
                    used,
                    limit,
                    "no memory for more messages, they are deferred"
                );
            });
        }
    }
}

impl Default for MemoryBudget {
    /// Calls [`shared`](Self::shared).
    fn default() -> Self {
        Self::shared()
    }
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBudget")
            .field("limit", &self.limit())
            .field("used", &self.used())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use smtpd_core::reply::Origin;

    use super::*;

    fn figures(budget: &MemoryBudget) -> [u64; 4] {
        [
            budget.used(),
            budget.peak(),
            budget.deferred(),
            budget.refused(),
        ]
    }

    #[test]
    fn a_budget_defers_messages_before_it_refuses_clients_and_both_before_it_is_full() {
        let budget = MemoryBudget::new(800);
        let mut held = budget.reserve(599).unwrap();
        assert!(budget.admit_message().is_ok());
        held.grow(1).unwrap();
        let refused = budget.admit_message().unwrap_err();
        assert_eq!(refused, Reply::storage_full());
        assert_eq!(refused.origin(), Some(Origin::Layer("MemoryBudget")));
        assert!(budget.admits_session());
        held.grow(100).unwrap();
        assert!(!budget.admits_session());
        held.grow(100).unwrap();
        assert_eq!(held.grow(1), Err(Reply::storage_full()));
        assert_eq!(figures(&budget), [800, 800, 2, 1]);

        // Not one message at a time, as soon as there is room for one.
        held.shrink_to(401);
        assert!(budget.admits_session());
        assert!(budget.admit_message().is_err());
        held.shrink_to(400);
        assert!(budget.admit_message().is_ok());
        held.grow(150).unwrap();
        assert!(budget.admit_message().is_ok());
        drop(held);
        assert_eq!(figures(&budget), [0, 800, 3, 1]);
    }

    #[test]
    fn the_last_clone_of_the_bytes_gives_the_reservation_back() {
        let budget = MemoryBudget::new(100);
        let bytes = budget.reserve(5).unwrap().attach_to("Hello".into());
        let part = bytes.slice(1..3);
        drop(bytes);
        assert_eq!((&part[..], budget.used()), (&b"el"[..], 5));
        drop(part);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_is_there_in_any_case_counts_beyond_the_limit() {
        let budget = MemoryBudget::new(10);
        let mut held = Reservation::empty(budget.clone());
        held.cover(20);
        held.cover(15);
        assert_eq!((held.bytes(), budget.used()), (20, 20));
        assert!(held.grow(u64::MAX).is_err());
        drop(held);
        assert_eq!(figures(&budget), [0, 20, 1, 0]);
    }

    #[test]
    fn threads_that_reserve_at_once_exceed_no_limit_and_lose_nothing() {
        let budget = MemoryBudget::new(1000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let held = budget.reserve(300);
                        assert!(budget.used() <= 1000);
                        drop(held);
                    }
                });
            }
        });
        assert_eq!(budget.used(), 0);
        assert!(budget.peak() <= 1000);
    }
}
