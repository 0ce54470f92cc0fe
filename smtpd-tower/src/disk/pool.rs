//! A pool of permits, of which no user can have all.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// A user may have this many times as many permits as are free: alone, it has three quarters of them, and what is left is divided
/// in the same way (the dynamic thresholds of Choudhury and Hahne, for buffers that queues share).
const PER_FREE: usize = 3;

/// Permits that users share. Those that wait take turns.
#[derive(Debug)]
pub(super) struct Pool(Mutex<State>);

/// Who uses permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct User(pub(super) u64);

#[derive(Debug)]
struct State {
    free: usize,
    /// Those that have permits or wait.
    users: HashMap<User, Share>,
    /// Those that wait, the next one first.
    order: VecDeque<User>,
    next: u64,
}

#[derive(Debug, Default)]
struct Share {
    held: usize,
    /// The oldest first.
    waiting: BTreeMap<u64, oneshot::Sender<Permit>>,
}

/// One of the permits, until it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    pool: Arc<Pool>,
    user: User,
    /// It was given back already.
    is_over: bool,
}

/// A job that waits for its permit, until it is dropped.
pub(super) struct Waiting {
    pool: Arc<Pool>,
    user: User,
    number: u64,
    granted: oneshot::Receiver<Permit>,
}

impl Pool {
    pub(super) fn new(permits: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            free: permits,
            users: HashMap::new(),
            order: VecDeque::new(),
            next: 0,
        })))
    }

    pub(super) fn free(&self) -> usize {
        self.lock().free
    }

    /// Returns a permit for the user, or waits for one.
    pub(super) fn acquire(self: &Arc<Self>, user: User) -> Result<Permit, Waiting> {
        let mut state = self.lock();
        let (free, share) = (state.free, state.users.entry(user).or_default());
        if share.waiting.is_empty() && share.may_take(free) {
            share.held += 1;
            state.free -= 1;
            return Ok(Permit::new(self, user));
        }
        let (sender, granted) = oneshot::channel();
        let is_first = share.waiting.is_empty();
        let number = state.next;
        state.next += 1;
        if let Some(share) = state.users.get_mut(&user) {
            share.waiting.insert(number, sender);
        }
        if is_first {
            state.order.push_back(user);
        }
        Err(Waiting {
            pool: self.clone(),
            user,
            number,
            granted,
        })
    }

    /// Gives a permit back, and passes on what is free now.
    fn release(self: &Arc<Self>, user: User) {
        let mut user = Some(user);
        loop {
            let next = {
                let mut state = self.lock();
                if let Some(user) = user.take() {
                    state.give_back(user);
                }
                state.next_in_turn()
            };
            // The lock is not held: this wakes a task, which may run code that wants a permit itself.
            let Some((next, sender)) = next else { return };
            if let Err(mut refused) = sender.send(Permit::new(self, next)) {
                refused.is_over = true;
                user = Some(next);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn users(&self) -> usize {
        let state = self.lock();
        assert!(state.order.len() <= state.users.len());
        state.users.len()
    }
}

impl State {
    fn give_back(&mut self, user: User) {
        self.free += 1;
        if let Some(share) = self.users.get_mut(&user) {
            share.held -= 1;
        }
        self.tidy(user);
    }

    /// Takes the oldest job of the first user that may have another permit now. The user goes to the end.
    fn next_in_turn(&mut self) -> Option<(User, oneshot::Sender<Permit>)> {
        let may_take = |user: &User| {
            let share = self.users.get(user);
            share.is_some_and(|share| share.may_take(self.free))
        };
        let user = self.order.remove(self.order.iter().position(may_take)?)?;
        let share = self.users.get_mut(&user)?;
        let (_, sender) = share.waiting.pop_first()?;
        share.held += 1;
        self.free -= 1;
        if !share.waiting.is_empty() {
            self.order.push_back(user);
        }
        Some((user, sender))
    }

    /// Forgets a user that has nothing and waits for nothing.
    fn tidy(&mut self, user: User) {
        let share = self.users.get(&user);
        if share.is_some_and(|share| share.held == 0 && share.waiting.is_empty()) {
            self.users.remove(&user);
        }
    }
}

impl Share {
    /// Returns whether it may have another permit, if so many are free.
    const fn may_take(&self, free: usize) -> bool {
        self.held < PER_FREE.saturating_mul(free)
    }
}

impl Permit {
    fn new(pool: &Arc<Pool>, user: User) -> Self {
        Self {
            pool: pool.clone(),
            user,
            is_over: false,
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.is_over {
            self.pool.release(self.user);
        }
    }
}

impl Waiting {
    /// Waits. The pool never closes the channel of a job that waits.
    pub(super) async fn granted(mut self) -> Option<Permit> {
        (&mut self.granted).await.ok()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        let Some(share) = state.users.get_mut(&self.user) else {
            return;
        };
        let waits = share.waiting.remove(&self.number).is_some();
        if waits && share.waiting.is_empty() {
            let user = self.user;
            state.order.retain(|other| *other != user);
            state.tidy(user);
        }
        // If a permit was granted that nobody has received, it is dropped with the channel, after the lock.
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{
        assert_pending, assert_ready,
        task::{Spawn, spawn},
    };

    use super::*;

    const SLOW: User = User(1);
    const OTHER: User = User(2);

    fn wait(pool: &Arc<Pool>, user: User) -> Spawn<impl Future<Output = Option<Permit>> + use<>> {
        let pool = pool.clone();
        spawn(async move {
            match pool.acquire(user) {
                Ok(permit) => Some(permit),
                Err(waiting) => waiting.granted().await,
            }
        })
    }

    #[test]
    fn one_user_has_all_permits() {
        let pool = Pool::new(64);
        let held: Vec<_> = std::iter::from_fn(|| pool.acquire(SLOW).ok()).collect();
        assert_eq!(held.len(), 48);
        let others: Vec<_> = std::iter::from_fn(|| pool.acquire(OTHER).ok()).collect();
        assert_eq!(others.len(), 12);
        // However many hang, there is one for the next, as long as there are more permits than users.
        let mut all = Vec::new();
        for number in 3..7 {
            all.push(pool.acquire(User(number)).ok().unwrap());
        }
        assert_eq!(pool.free(), 0);
        drop((held, others, all));
        assert_eq!((pool.free(), pool.users()), (64, 0));
    }

    #[test]
    fn the_jobs_of_one_user_keep_those_of_another_waiting() {
        let pool = Pool::new(1);
        let held = assert_ready!(wait(&pool, SLOW).poll());
        let mut waiting: Vec<_> = (0..100).map(|_| wait(&pool, SLOW)).collect();
        waiting
            .iter_mut()
            .for_each(|job| assert_pending!(job.poll()));
        let mut other = wait(&pool, OTHER);
        assert_pending!(other.poll());
        drop(held);
        let first = assert_ready!(waiting[0].poll());
        assert_pending!(other.poll());
        drop(first);
        let second = assert_ready!(other.poll());
        assert!(!waiting[1].is_woken());
        drop(second);
        assert!(waiting[1].is_woken());
        // One that is given up although it was granted its permit passes it on.
        drop(waiting.remove(1));
        assert!(waiting[1].is_woken());
        drop(waiting);
        assert_eq!((pool.free(), pool.users()), (1, 0));
    }

    #[test]
    fn jobs_that_are_given_up_stay_behind_while_a_disk_hangs() {
        let pool = Pool::new(1);
        let held = assert_ready!(wait(&pool, SLOW).poll());
        for _ in 0..1000 {
            let mut job = wait(&pool, SLOW);
            assert_pending!(job.poll());
        }
        let state = pool.lock();
        assert_eq!(
            (state.users[&SLOW].waiting.len(), state.order.len()),
            (0, 0)
        );
        drop(state);
        drop(held);
        assert_eq!((pool.free(), pool.users()), (1, 0));
    }

    /// Random users take, wait, give up, and release: no permit is lost, none is made, and whoever may have one does not wait.
    #[test]
    fn permits_are_neither_lost_nor_made() {
        for seed in 0..50 {
            let mut dice = seed * 2 + 1_u64;
            let mut roll = |sides: u64| {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (dice >> 33) % sides
            };
            let pool = Pool::new(5);
            let (mut held, mut waits) = (Vec::new(), Vec::new());
            for _ in 0..400 {
                match roll(3) {
                    0 => waits.push(wait(&pool, User(roll(4)))),
                    1 if !held.is_empty() => {
                        held.swap_remove(roll(held.len() as u64) as usize);
                    }
                    _ if !waits.is_empty() => {
                        drop(waits.swap_remove(roll(waits.len() as u64) as usize));
                    }
                    _ => {}
                }
                let mut left = Vec::new();
                for mut wait in waits {
                    match wait.poll() {
                        std::task::Poll::Ready(permit) => held.push(permit.unwrap()),
                        std::task::Poll::Pending => left.push(wait),
                    }
                }
                waits = left;
                let state = pool.lock();
                assert_eq!(held.len() + state.free, 5);
                for share in state.users.values() {
                    assert!(share.waiting.is_empty() || !share.may_take(state.free));
                }
            }
            drop((held, waits));
            assert_eq!((pool.free(), pool.users()), (5, 0));
        }
    }
}
