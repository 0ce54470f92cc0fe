use std::{
    fmt,
    fs::File,
    future::{Ready, ready},
    io::{self, BufRead, BufReader, Write},
    num::NonZeroUsize,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use tokio::time::Instant;
use tower::BoxError;

use super::{
    GreylistKey, GreylistPolicy, GreylistStore, GreylistVerdict,
    file::{self, Clocks, GreylistFileError},
    save,
    table::{Moment, Nanos, Table},
};

/// A store in memory: messages that wait, messages that have passed, and clients that are trusted.
///
/// It holds at most [`capacity`](Self::capacity) entries of about 70 bytes each: a hash with a secret seed stands for the key.
/// Each new entry inspects the next 8 entries in turn and drops those that are too old. If there is still no room, it replaces
/// the oldest of the next 8 that still waits, or, if none waits, the oldest that has passed.
///
/// So a flood of made-up senders (RFC 6647 section 8.2) never grows memory, and pushes out first attempts before messages that
/// have passed. A `RateLimitLayer` outside of greylisting keeps such a flood small.
///
/// # In a file
///
/// Without a file, everything is forgotten when the server ends: after the next start, every client is deferred once more.
/// [`save`](Self::save) keeps the entries, [`load`](Self::load) reads them again. Save now and then, for example each ten
/// minutes, and when the server has shut down. Both calls block, so call them in [`spawn_blocking`] while a server runs:
///
/// ```
/// use std::{io, path::PathBuf, time::Duration};
///
/// use smtpd_tower::{Pipeline, Server, layer::GreylistLayer};
/// use tokio::task::spawn_blocking;
///
/// async fn save(greylist: &GreylistLayer, path: &PathBuf) -> io::Result<()> {
///     // A clone of the layer shares its store.
///     let (greylist, path) = (greylist.clone(), path.clone());
///     spawn_blocking(move || greylist.store().save(path)).await?
/// }
///
/// async fn save_now_and_then(greylist: GreylistLayer, path: PathBuf) {
///     loop {
///         tokio::time::sleep(Duration::from_secs(600)).await;
///         if let Err(error) = save(&greylist, &path).await {
///             eprintln!("cannot save {}: {error}", path.display());
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("greylist");
/// let greylist = GreylistLayer::new();
/// match greylist.store().load(&path) {
///     Err(error) if error.is_not_found() => {} // the first start
///     loaded => loaded?,
/// }
/// let saving = tokio::spawn(save_now_and_then(greylist.clone(), path.clone()));
/// // With `greylist` at RCPT.
/// let server = Server::new("mx.example.org", Pipeline::new());
/// # server.handle().shutdown(Duration::ZERO).await;
/// server.listen_and_serve("127.0.0.1:0").await?; // until it is shut down
/// saving.abort();
/// save(&greylist, &path).await?;
/// # assert!(path.exists());
/// # Ok(()) }
/// ```
///
/// The file contains the seed and hashes instead of addresses. Still, keep it private: whoever reads it can test whether a
/// message that they guess is in it. [`save`](Self::save) creates a file that only its owner may read.
///
/// Ages survive a restart: they are those of the monotonic clock while the server runs, and the system's clock counts only what
/// lies between saving and loading. If it has been set back in between, no time has passed.
///
/// [`spawn_blocking`]: tokio::task::spawn_blocking
///
/// ```
/// use std::num::NonZeroUsize;
///
/// use smtpd_tower::layer::{GreylistLayer, MemoryGreylist};
///
/// let capacity = NonZeroUsize::new(1_000_000).ok_or("no room")?;
/// let layer = GreylistLayer::with_store(MemoryGreylist::with_capacity(capacity));
/// assert_eq!(layer.store().tracked(), 0);
/// # Ok::<(), &str>(())
/// ```
pub struct MemoryGreylist {
    capacity: NonZeroUsize,
    epoch: Instant,
    table: Mutex<Table>,
}

impl MemoryGreylist {
    /// The capacity of [`new`](Self::new), in entries: 100,000.
    pub const DEFAULT_CAPACITY: NonZeroUsize = match NonZeroUsize::new(100_000) {
        Some(entries) => entries,
        None => NonZeroUsize::MIN,
    };

    /// Creates an empty store with a capacity of [`DEFAULT_CAPACITY`](Self::DEFAULT_CAPACITY) entries.
    pub fn new() -> Self {
        Self::with_capacity(Self::DEFAULT_CAPACITY)
    }

    /// Creates an empty store that remembers up to `entries` entries. Memory is allocated as they come.
    pub fn with_capacity(entries: NonZeroUsize) -> Self {
        Self {
            capacity: entries,
            epoch: Instant::now(),
            table: Mutex::new(Table::new()),
        }
    }

    /// Returns how many entries are remembered at most.
    pub const fn capacity(&self) -> NonZeroUsize {
        self.capacity
    }

    /// Returns how many entries are remembered now, for metrics. Some of them may be too old to count.
    pub fn tracked(&self) -> usize {
        self.lock().entries().len()
    }

    /// Writes all entries to a file, which replaces the one at `path` as a whole, or not at all if this fails.
    ///
    /// Blocks until the file is on the disk. Checks wait only while the entries are copied.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be created beside `path`, written, or renamed.
    pub fn save(&self, path: impl AsRef<Path>) -> io::Result<()> {
        save::replace(path.as_ref(), |out| self.write_to(out))
    }

    /// Replaces all entries by those of a file that [`save`](Self::save) has written.
    ///
    /// Blocks while it reads. In a server that runs, the attempts since its start are forgotten. If the file has more entries
    /// than the [`capacity`](Self::capacity), the less valuable are dropped.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read, or is not whole and correct to the byte. It names the line, and the entries
    /// stay as they were.
    pub fn load(&self, path: impl AsRef<Path>) -> Result<(), GreylistFileError> {
        let file = File::open(path).map_err(GreylistFileError::not_opened)?;
        self.read_from(BufReader::new(file))
    }

    /// Writes all entries as [`save`](Self::save) does, for example to a pipe. Wrap a file into a [`BufWriter`](io::BufWriter).
    ///
    /// # Errors
    ///
    /// Returns the error of `out`.
    pub fn write_to(&self, mut out: impl Write) -> io::Result<()> {
        self.write_at(SystemTime::now(), &mut out)
    }

    /// Replaces all entries as [`load`](Self::load) does. Memory is bounded by the [`capacity`](Self::capacity), whatever comes.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn read_from(&self, mut input: impl BufRead) -> Result<(), GreylistFileError> {
        self.read_at(SystemTime::now(), &mut input)
    }

    fn write_at(&self, wall: SystemTime, out: &mut dyn Write) -> io::Result<()> {
        let (seed, entries, now) = {
            let table = self.lock();
            (table.seed, table.entries().to_vec(), self.now())
        };
        file::write(seed, &entries, Clocks { now, wall }, out)
    }

    fn read_at(&self, wall: SystemTime, input: &mut dyn BufRead) -> Result<(), GreylistFileError> {
        let now = self.now();
        let table = file::read(input, self.capacity.get(), Clocks { now, wall })?;
        // The old table is dropped after the lock.
        let _old = std::mem::replace(&mut *self.lock(), table);
        Ok(())
    }

    fn now(&self) -> Nanos {
        self.epoch
            .elapsed()
            .as_nanos()
            .try_into()
            .unwrap_or(Nanos::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GreylistStore for MemoryGreylist {
    type Check = Ready<Result<GreylistVerdict, BoxError>>;

    fn check(&self, key: GreylistKey, policy: GreylistPolicy) -> Self::Check {
        let mut table = self.lock();
        let mut moment = Moment {
            table: &mut table,
            capacity: self.capacity.get(),
            policy,
            // Under the lock, so that times never go back.
            now: self.now(),
        };
        ready(Ok(moment.check(&key)))
    }
}

impl Default for MemoryGreylist {
    /// See [`new`](Self::new).
    fn default() -> Self {
        Self::new()
    }
}

// By hand: the table may be large, and its seed is secret.
impl fmt::Debug for MemoryGreylist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryGreylist")
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, time::Duration};

    use smtpd_core::address::{ForwardPath, ReversePath};
    use tokio::time::advance;

    use super::{file::GreylistFileErrorKind as Kind, *};
    use crate::limiter::ClientKey;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Outcome {
        Pass,
        Wait,
    }
    use Outcome::{Pass, Wait};

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(24 * 3600);
    const NANO: Duration = Duration::from_nanos(1);

    fn key(client: &str, sender: &str) -> GreylistKey {
        to(client, sender, "b@example.org")
    }

    fn to(client: &str, sender: &str, recipient: &str) -> GreylistKey {
        let client = ClientKey::new(client.parse().unwrap());
        let sender: ReversePath = sender.parse().unwrap();
        let recipient: ForwardPath = recipient.parse().unwrap();
        GreylistKey::new(client, sender, recipient)
    }

    fn without_trust() -> GreylistPolicy {
        GreylistPolicy::new().with_trust_after(None)
    }

    impl MemoryGreylist {
        fn ask(&self, key: &GreylistKey, policy: GreylistPolicy) -> Outcome {
            match self.check(key.clone(), policy).into_inner().unwrap() {
                GreylistVerdict::Pass => Pass,
                GreylistVerdict::Wait { retry_after } => {
                    assert!(retry_after > Duration::ZERO && retry_after <= policy.delay());
                    Wait
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_passes_within_its_time() {
        let table = [
            (Duration::ZERO, Wait),
            (MINUTE - NANO, Wait),
            (MINUTE, Pass),
            (DAY, Pass),
            (DAY + NANO, Wait),
        ];
        for policy in [GreylistPolicy::new(), without_trust()] {
            for (after, expected) in table {
                let (store, key) = (MemoryGreylist::new(), key("192.0.2.1", "a@example.com"));
                assert_eq!(store.ask(&key, policy), Wait);
                advance(after).await;
                assert_eq!(store.ask(&key, policy), expected, "{after:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_too_early_does_not_start_the_delay_anew() {
        let (store, key) = (MemoryGreylist::new(), key("192.0.2.1", "a@example.com"));
        for second in 0..60 {
            assert_eq!(store.ask(&key, without_trust()), Wait, "{second}");
            advance(Duration::from_secs(1)).await;
        }
        assert_eq!(store.ask(&key, without_trust()), Pass);
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_too_late_counts_as_the_first() {
        let (store, key) = (MemoryGreylist::new(), key("192.0.2.1", "a@example.com"));
        assert_eq!(store.ask(&key, without_trust()), Wait);
        advance(DAY * 2).await;
        assert_eq!(store.ask(&key, without_trust()), Wait);
        advance(MINUTE).await;
        assert_eq!(store.ask(&key, without_trust()), Pass);
        assert_eq!(store.tracked(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_writes_now_and_then_stays_known() {
        let other = key("192.0.2.1", "other@example.com");
        for (policy, key) in [
            (without_trust(), key("192.0.2.1", "a@example.com")),
            (GreylistPolicy::new(), other),
        ] {
            let (store, first) = (
                MemoryGreylist::new(),
                self::key("192.0.2.1", "a@example.com"),
            );
            assert_eq!(store.ask(&first, policy), Wait);
            advance(MINUTE).await;
            assert_eq!(store.ask(&first, policy), Pass);
            for _ in 0..3 {
                advance(DAY * 36).await;
                assert_eq!(store.ask(&key, policy), Pass);
            }
            advance(DAY * 36 + NANO).await;
            assert_eq!(store.ask(&key, policy), Wait);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_trusted_after_so_many_messages() {
        for (trust_after, passes_at) in [(1, Some(1)), (3, Some(3)), (0, None)] {
            let policy = GreylistPolicy::new().with_trust_after(NonZeroU32::new(trust_after));
            let store = MemoryGreylist::new();
            let mut trusted_at = None;
            for n in 0..5 {
                let key = key("192.0.2.1", &format!("{n}@example.com"));
                if store.ask(&key, policy) == Pass {
                    trusted_at = trusted_at.or(Some(n));
                }
                advance(HOUR).await;
                // The second message is known already, and does not count again.
                assert_eq!(store.ask(&key, policy), Pass);
                advance(HOUR).await;
                assert_eq!(store.ask(&key, policy), Pass);
            }
            assert_eq!(trusted_at, passes_at, "{trust_after}");
            let stranger = key("192.0.2.2", "0@example.com");
            assert_eq!(store.ask(&stranger, policy), Wait);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn flood_of_senders_grows_memory_or_pushes_out_what_has_passed() {
        let store = MemoryGreylist::with_capacity(NonZeroUsize::new(100).unwrap());
        let known = key("192.0.2.1", "a@example.com");
        assert_eq!(store.ask(&known, without_trust()), Wait);
        advance(MINUTE).await;
        assert_eq!(store.ask(&known, without_trust()), Pass);
        for n in 0..10_000 {
            let stranger = key("192.0.2.2", &format!("{n}@example.com"));
            assert_eq!(store.ask(&stranger, without_trust()), Wait);
            assert!(store.tracked() <= store.capacity().get());
            advance(Duration::from_millis(1)).await;
        }
        assert_eq!(store.tracked(), 100);
        assert_eq!(store.ask(&known, without_trust()), Pass);
        store.lock().check();
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_old_is_dropped_as_new_comes() {
        let store = MemoryGreylist::new();
        for n in 0..1000 {
            store.ask(
                &key("192.0.2.1", &format!("{n}@example.com")),
                without_trust(),
            );
        }
        advance(DAY + NANO).await;
        for n in 0..200 {
            store.ask(
                &key("192.0.2.2", &format!("{n}@example.com")),
                without_trust(),
            );
        }
        assert_eq!(store.tracked(), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn the_least_capacity_has_room_for_one() {
        let store = MemoryGreylist::with_capacity(NonZeroUsize::MIN);
        let key = key("192.0.2.1", "a@example.com");
        assert_eq!(store.ask(&key, without_trust()), Wait);
        advance(MINUTE).await;
        assert_eq!(store.ask(&key, without_trust()), Pass);
        assert_eq!((store.capacity().get(), store.tracked()), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_window_of_a_retry_is_that_of_the_policy() {
        let hour = Duration::from_secs(3600);
        let policy = without_trust().with_window(hour);
        assert_eq!(policy.window(), hour);
        for (after, expected) in [(hour, Pass), (hour + NANO, Wait)] {
            let (store, key) = (MemoryGreylist::new(), key("192.0.2.1", "a@example.com"));
            assert_eq!(store.ask(&key, policy), Wait);
            advance(after).await;
            assert_eq!(store.ask(&key, policy), expected, "{after:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_message_to_three_recipients_is_three_messages() {
        let policy = GreylistPolicy::new().with_trust_after(NonZeroU32::new(3));
        let store = MemoryGreylist::new();
        let recipients = ["a@example.org", "b@example.org", "c@example.org"]
            .map(|recipient| to("192.0.2.1", "a@example.com", recipient));
        for expected in [Wait, Pass] {
            for key in &recipients {
                assert_eq!(store.ask(key, policy), expected, "{key}");
            }
            advance(MINUTE).await;
        }
        assert_eq!(
            store.ask(&key("192.0.2.1", "other@example.com"), policy),
            Wait
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_earns_its_trust_within_minutes() {
        let policy = GreylistPolicy::new().with_trust_after(NonZeroU32::new(2));
        for (interval, policy) in [
            (HOUR, policy),
            (MINUTE * 10, policy.with_trust_interval(MINUTE * 10)),
        ] {
            assert_eq!(policy.trust_interval(), interval);
            for (between, expected) in [(interval - NANO, Wait), (interval, Pass)] {
                let store = MemoryGreylist::new();
                let messages = ["1@example.com", "2@example.com"];
                let messages = messages.map(|sender| key("192.0.2.1", sender));
                for key in &messages {
                    assert_eq!(store.ask(key, policy), Wait);
                }
                advance(MINUTE).await;
                assert_eq!(store.ask(&messages[0], policy), Pass);
                advance(between).await;
                assert_eq!(store.ask(&messages[1], policy), Pass);
                let next = key("192.0.2.1", "3@example.com");
                assert_eq!(store.ask(&next, policy), expected, "{between:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_that_remains_is_the_whole_delay() {
        let store = MemoryGreylist::new();
        let key = key("192.0.2.1", "a@example.com");
        for seconds in [0, 20, 39] {
            advance(Duration::from_secs(seconds)).await;
            store.ask(&key, without_trust());
        }
        let verdict = store.check(key, without_trust()).into_inner().unwrap();
        let retry_after = Duration::from_secs(1);
        assert_eq!(verdict, GreylistVerdict::Wait { retry_after });
    }

    /// A moment of the system's clock.
    fn wall(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_523_200 + seconds)
    }

    fn saved(store: &MemoryGreylist, at: SystemTime) -> Vec<u8> {
        let mut file = Vec::new();
        store.write_at(at, &mut file).unwrap();
        file
    }

    fn loaded(mut file: &[u8], at: SystemTime) -> MemoryGreylist {
        let store = MemoryGreylist::new();
        store.read_at(at, &mut file).unwrap();
        store.lock().check();
        store
    }

    /// A store with a message that waits, one that has passed and its client, and the keys of the messages.
    async fn filled(policy: GreylistPolicy) -> (MemoryGreylist, GreylistKey, GreylistKey) {
        let store = MemoryGreylist::new();
        let (waits, passed) = (
            key("192.0.2.1", "waits@example.com"),
            key("192.0.2.2", "passed@example.com"),
        );
        store.ask(&passed, policy);
        advance(MINUTE).await;
        assert_eq!(store.ask(&passed, policy), Pass);
        assert_eq!(store.ask(&waits, policy), Wait);
        (store, waits, passed)
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_defers_every_client_once_more() {
        let policy = GreylistPolicy::new();
        let (store, waits, passed) = filled(policy).await;
        advance(MINUTE / 2).await;
        let file = saved(&store, wall(0));
        let text = String::from_utf8(file.clone()).unwrap();
        assert_eq!(text.lines().count(), 8, "{text}");
        assert!(
            !text.contains("example") && !text.contains("192.0"),
            "{text}"
        );
        // Half of the delay was before the restart.
        for (down, expected) in [(0, Wait), (29, Wait), (30, Pass), (DAY.as_secs(), Wait)] {
            let store = loaded(&file, wall(down));
            assert_eq!(store.ask(&waits, policy), expected, "{down}");
            assert_eq!(store.ask(&passed, policy), Pass);
            let trusted = key("192.0.2.2", "new@example.com");
            assert_eq!(store.ask(&trusted, policy), Pass);
            assert_eq!(
                store.ask(&key("192.0.2.3", "new@example.com"), policy),
                Wait
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ages_end_at_a_restart_or_when_the_clock_is_set() {
        let policy = without_trust();
        let (store, waits, passed) = filled(policy).await;
        let file = saved(&store, wall(0));
        let lifetime = policy.lifetime().as_secs();
        // Set back to 1970: no time has passed.
        for (at, of_waiting, of_passed) in [
            (SystemTime::UNIX_EPOCH, Wait, Pass),
            (wall(DAY.as_secs()), Pass, Pass),
            (wall(DAY.as_secs() + 1), Wait, Pass),
            (wall(lifetime), Wait, Pass),
            (wall(lifetime + 1), Wait, Wait),
            (wall(u64::from(u32::MAX)), Wait, Wait),
        ] {
            let store = loaded(&file, at);
            assert_eq!(store.ask(&waits, policy), of_waiting, "{at:?}");
            assert_eq!(store.ask(&passed, policy), of_passed, "{at:?}");
        }
        // Saved and loaded again and again, each time after ten days.
        let mut store = loaded(&file, wall(0));
        for days in (10..=30).step_by(10) {
            let then = wall(DAY.as_secs() * (days - 10));
            store = loaded(&saved(&store, then), wall(DAY.as_secs() * days));
        }
        assert_eq!(store.ask(&waits, policy), Wait);
        let file = saved(&store, wall(0));
        assert_eq!(
            loaded(&file, wall(DAY.as_secs() * 6)).ask(&passed, policy),
            Pass
        );
        assert_eq!(
            loaded(&file, wall(DAY.as_secs() * 7)).ask(&passed, policy),
            Wait
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_in_use_mixes_two_seeds() {
        let policy = without_trust();
        let (store, _, passed) = filled(policy).await;
        let file = saved(&store, wall(0));
        let running = MemoryGreylist::new();
        let since = key("192.0.2.9", "since@example.com");
        assert_eq!(running.ask(&since, policy), Wait);
        running.read_at(wall(0), &mut &*file).unwrap();
        assert_eq!(running.ask(&passed, policy), Pass);
        advance(MINUTE).await;
        assert_eq!(running.ask(&since, policy), Wait, "forgotten");
        advance(MINUTE).await;
        assert_eq!(running.ask(&since, policy), Pass);
        running.lock().check();
        assert_ne!(
            saved(&MemoryGreylist::new(), wall(0)),
            saved(&MemoryGreylist::new(), wall(0))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_larger_than_the_table_grows_memory_or_pushes_out_what_has_passed() {
        let policy = without_trust();
        let (store, _, passed) = filled(policy).await;
        for n in 0..1000 {
            store.ask(&key("192.0.2.3", &format!("{n}@example.com")), policy);
        }
        let file = saved(&store, wall(0));
        let small = MemoryGreylist::with_capacity(NonZeroUsize::new(10).unwrap());
        small.read_at(wall(0), &mut &*file).unwrap();
        small.lock().check();
        assert_eq!(small.tracked(), 10);
        assert_eq!(small.ask(&passed, policy), Pass);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_not_whole_is_loaded() {
        let (store, ..) = filled(GreylistPolicy::new()).await;
        let file = saved(&store, wall(0));
        let before = saved(&store, wall(0));
        let load = |file: &[u8]| {
            let result = store.read_at(wall(0), &mut &*file);
            let error = result.expect_err(&String::from_utf8_lossy(file));
            assert!(
                error.to_string().contains(&error.line().to_string()),
                "{error}"
            );
            error
        };
        for end in 0..file.len() {
            let line = file[..end].iter().filter(|&&byte| byte == b'\n').count() + 1;
            let error = load(&file[..end]);
            assert_eq!(error.line(), line as u64, "{end} bytes");
            assert!(matches!(error.kind(), Kind::Truncated), "{error}");
        }
        for at in 0..file.len() {
            for flipped in [1, 2, 16, 128] {
                let mut file = file.clone();
                file[at] ^= flipped;
                load(&file);
            }
        }
        load(&[&*file, b"x"].concat());
        load(&[&*file, &*file].concat());
        assert_eq!(
            saved(&store, wall(0)),
            before,
            "what failed has changed the entries"
        );
    }

    #[test]
    fn a_hostile_file_is_an_error_without_a_line() {
        let seed = format!("seed {}\n", "0".repeat(32));
        let head = format!("smtpd-greylist 1\n{seed}saved 5\n");
        let id = "0".repeat(16);
        let table = [
            (String::new(), 1, "Truncated"),
            ("smtpd-greylist 2\n".into(), 1, "Version"),
            ("\u{fe}\n".into(), 1, "Version"),
            ("x".repeat(1 << 20), 1, "Version"),
            (format!("smtpd-greylist 1\r\n{seed}"), 1, "Version"),
            ("smtpd-greylist 1\nseed 00\n".into(), 2, "Malformed"),
            (
                format!("smtpd-greylist 1\nseed {}\n", "G".repeat(32)),
                2,
                "Malformed",
            ),
            (
                format!("smtpd-greylist 1\nseed +{}\n", "0".repeat(31)),
                2,
                "Malformed",
            ),
            (
                format!("smtpd-greylist 1\n{seed}saved -1\n"),
                3,
                "Malformed",
            ),
            (
                format!("smtpd-greylist 1\n{seed}saved +1\n"),
                3,
                "Malformed",
            ),
            (format!("smtpd-greylist 1\n{seed}saved \n"), 3, "Malformed"),
            (
                format!("{head}entries 18446744073709551616\n"),
                4,
                "Malformed",
            ),
            (
                format!("{head}entries 18446744073709551615\n"),
                5,
                "Truncated",
            ),
            (
                format!("{head}entries 1\n{}", "9".repeat(1 << 20)),
                5,
                "Malformed",
            ),
            (format!("{head}entries 1\nwaiting {id}\n"), 5, "Malformed"),
            (
                format!("{head}entries 1\nwaiting {id} 1 2\n"),
                5,
                "Malformed",
            ),
            (
                format!("{head}entries 1\nclient {id} 1 4294967296 1\n"),
                5,
                "Malformed",
            ),
            (format!("{head}entries 1\nother {id} 1\n"), 5, "Malformed"),
            (format!("{head}entries 1\n\u{e9}\n"), 5, "Malformed"),
            (format!("{head}entries 0\nwaiting {id} 1\n"), 5, "Malformed"),
            (format!("{head}entries 0\nend {id}\n"), 5, "Checksum"),
        ];
        for (file, line, kind) in table {
            let error = MemoryGreylist::new()
                .read_from(file.as_bytes())
                .unwrap_err();
            let start: String = file.chars().take(100).collect();
            assert_eq!(error.line(), line, "{start:?}: {error}");
            assert!(
                format!("{:?}", error.kind()).starts_with(kind),
                "{start:?}: {error}"
            );
        }
    }

    /// The largest ages, with a checksum that fits.
    #[tokio::test(start_paused = true)]
    async fn an_age_without_end_panics() {
        let (store, waits, passed) = filled(without_trust()).await;
        let file = String::from_utf8(saved(&store, wall(0))).unwrap();
        for age in [u64::MAX, i64::MAX as u64, i64::MAX as u64 / 1_000_000_000] {
            let mut lines: Vec<_> = file.lines().map(str::to_owned).collect();
            for line in &mut lines[4..6] {
                let (start, _) = line.rsplit_once(' ').unwrap();
                *line = format!("{start} {age}");
            }
            let aged = file::with_checksum(&lines);
            let store = loaded(aged.as_bytes(), wall(0));
            let again = loaded(&saved(&store, wall(0)), wall(u64::MAX >> 2));
            for store in [store, again] {
                assert_eq!(store.ask(&waits, without_trust()), Wait);
                assert_eq!(store.ask(&passed, without_trust()), Wait);
            }
        }
    }

    /// Files that are changed at random: they are errors, or tables that hold together.
    #[tokio::test(start_paused = true)]
    async fn a_changed_file_panics_or_grows_memory() {
        let (store, ..) = filled(GreylistPolicy::new()).await;
        for n in 0..20 {
            store.ask(
                &key("192.0.2.3", &format!("{n}@example.com")),
                without_trust(),
            );
        }
        let file = saved(&store, wall(0));
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random % below as u64) as usize
        };
        let mut whole = 0;
        for _ in 0..5_000 {
            let mut changed = file.clone();
            for _ in 0..=next(3) {
                let at = next(changed.len().max(1));
                match next(4) {
                    0 => changed[at] = b" \n0123456789abcdefxyz\xff"[next(22)],
                    1 => changed.truncate(at + 1),
                    2 if changed.len() > 1 => drop(changed.remove(at)),
                    _ => {
                        let copied = changed[at..].to_vec();
                        changed.splice(at..at, copied[..next(copied.len().min(200))].to_vec());
                    }
                }
            }
            // Half of them with a checksum that fits.
            if next(2) == 0
                && let Ok(text) = str::from_utf8(&changed)
            {
                let lines: Vec<_> = text.lines().map(str::to_owned).collect();
                changed = file::with_checksum(&lines).into_bytes();
            }
            let store = MemoryGreylist::with_capacity(NonZeroUsize::new(10).unwrap());
            if store.read_from(&*changed).is_ok() {
                whole += 1;
                store.lock().check();
                assert!(store.tracked() <= 10);
                assert_eq!(
                    loaded(&saved(&store, wall(0)), wall(0)).tracked(),
                    store.tracked()
                );
            } else {
                assert_eq!(store.tracked(), 0);
            }
        }
        assert!((50..4_900).contains(&whole), "{whole}");
    }

    #[test]
    fn a_file_that_is_not_there_is_an_empty_greylist() {
        let dir = tempfile::tempdir().unwrap();
        let store = MemoryGreylist::new();
        let path = dir.path().join("greylist");
        let error = store.load(&path).unwrap_err();
        assert!(error.is_not_found(), "{error}");
        store.save(&path).unwrap();
        store.load(&path).unwrap();
        let error = store.load(dir.path()).unwrap_err();
        assert!(
            !error.is_not_found() && matches!(error.kind(), Kind::Io(_)),
            "{error}"
        );
    }
}
