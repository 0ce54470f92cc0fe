//! Tasks, polled one at a time in an order chosen by the dice.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
};

pub type BoxFuture<T = ()> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Wakes the loop of the world when something has happened outside of its own steps: in a task of tokio, or by a timer.
#[derive(Clone, Default)]
pub struct Alarm(Arc<Mutex<Bell>>);

#[derive(Default)]
struct Bell {
    rung: bool,
    waker: Option<Waker>,
}

impl Alarm {
    pub fn ring(&self) {
        let mut bell = self.lock();
        bell.rung = true;
        let waker = bell.waker.take();
        drop(bell);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Returns when it has been rung since the last time.
    pub async fn rung(&self) {
        std::future::poll_fn(|cx| {
            let mut bell = self.lock();
            if std::mem::take(&mut bell.rung) {
                return Poll::Ready(());
            }
            bell.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn lock(&self) -> MutexGuard<'_, Bell> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Collects tasks of services and clients; the world starts them after its current step.
#[derive(Clone)]
pub struct Spawner {
    new: Arc<Mutex<Vec<BoxFuture>>>,
    alarm: Alarm,
}

impl Spawner {
    pub fn new(alarm: Alarm) -> Self {
        Self {
            new: Arc::default(),
            alarm,
        }
    }

    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.lock().push(Box::pin(future));
        self.alarm.ring();
    }

    pub fn take(&self) -> Vec<BoxFuture> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<BoxFuture>> {
        self.new.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All tasks of a world that do not run on tokio.
pub struct Executor {
    tasks: Vec<Option<BoxFuture>>,
    woken: Arc<Woken>,
}

struct Woken {
    tasks: Mutex<Vec<usize>>,
    alarm: Alarm,
}

struct TaskWaker {
    task: usize,
    woken: Arc<Woken>,
}

/// The outcome of a poll.
pub enum Polled {
    Pending,
    Done,
    Panicked,
}

impl Executor {
    pub fn new(alarm: Alarm) -> Self {
        let tasks = Mutex::default();
        Self {
            tasks: Vec::new(),
            woken: Arc::new(Woken { tasks, alarm }),
        }
    }

    pub fn spawn(&mut self, future: BoxFuture) -> usize {
        self.tasks.push(Some(future));
        let task = self.tasks.len() - 1;
        self.woken.add(task);
        task
    }

    /// The tasks that have been woken, in the order in which they were.
    pub fn woken(&self) -> Vec<usize> {
        self.woken.lock().clone()
    }

    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    pub fn is_alive(&self, task: usize) -> bool {
        self.tasks[task].is_some()
    }

    pub fn poll(&mut self, task: usize) -> Polled {
        self.woken.lock().retain(|woken| *woken != task);
        let Some(future) = &mut self.tasks[task] else {
            return Polled::Done;
        };
        let woken = self.woken.clone();
        let waker = Waker::from(Arc::new(TaskWaker { task, woken }));
        let mut cx = Context::from_waker(&waker);
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut cx))) {
            Ok(Poll::Pending) => Polled::Pending,
            Ok(Poll::Ready(())) => {
                self.abort(task);
                Polled::Done
            }
            Err(_) => {
                self.abort(task);
                Polled::Panicked
            }
        }
    }

    /// Drops a task in its current state.
    pub fn abort(&mut self, task: usize) {
        let future = self.tasks[task].take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(future)));
        self.woken.lock().retain(|woken| *woken != task);
    }

    pub fn abort_all(&mut self) {
        for task in 0..self.tasks.len() {
            self.abort(task);
        }
    }
}

impl Woken {
    fn add(&self, task: usize) {
        let mut tasks = self.lock();
        if !tasks.contains(&task) {
            tasks.push(task);
        }
        drop(tasks);
        self.alarm.ring();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<usize>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.woken.add(self.task);
    }
}

/// Several futures in one task, as `join!` has them: each is polled whenever any is woken. It ends with the first of them,
/// and the others that are done by then.
pub struct Together {
    pub first: Option<BoxFuture>,
    pub others: Vec<BoxFuture>,
    /// Polls the others before the first.
    pub others_first: bool,
}

impl Future for Together {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.others_first {
            self.poll_others(cx);
        }
        if let Some(first) = &mut self.first
            && first.as_mut().poll(cx).is_ready()
        {
            self.first = None;
        }
        if !self.others_first {
            self.poll_others(cx);
        }
        match self.first {
            None => Poll::Ready(()),
            Some(_) => Poll::Pending,
        }
    }
}

impl Together {
    fn poll_others(&mut self, cx: &mut Context<'_>) {
        self.others
            .retain_mut(|other| other.as_mut().poll(cx).is_pending());
    }
}
