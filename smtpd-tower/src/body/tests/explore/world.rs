use std::{
    collections::VecDeque,
    sync::{Arc, Weak, atomic::Ordering::SeqCst},
    task::{Context, Poll},
};

use super::{
    kind::{BEFORE, Kind, bodies},
    reader::{Mode, PLACES, Place, Reader},
    task::{Alarm, Ledger, Piece, Task, cost},
};
use crate::body::{BodyError, Feed, Pieces, incoming};

pub(super) const MESSAGE: [&str; 4] = ["A: 1\r\n", "\r\n", "bo", "dy\r\n"];
/// How the wakers behave, and how much is handed over at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    pub(super) kind: Kind,
    /// Each poll has a waker that does not equal the previous one.
    pub(super) new_wakers: bool,
    /// Everything that has arrived is handed over at once.
    pub(super) batches: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// An executor may poll a task at any time.
    Poll(usize),
    /// The client sends a chunk, or the end.
    Input,
    Mode(usize, Mode),
    Move(usize, Place),
    /// Like `Move`, without polling the reader.
    QuietMove(usize, Place),
    Drop(usize),
    DropFeed,
}

pub(super) struct World {
    pub(super) setting: Setting,
    pub(super) ledger: Arc<Ledger>,
    pub(super) feed: Option<Feed>,
    pub(super) cut: bool,
    /// What the client has yet to send, and what the engine has yet to hand over. The last item is the end.
    pub(super) to_come: VecDeque<Option<&'static str>>,
    pub(super) come: VecDeque<Option<&'static str>>,
    /// The engine knows that the service wants a chunk.
    pub(super) wanted: bool,
    pub(super) tasks: [Task; 2],
    pub(super) readers: Vec<Reader>,
    pub(super) dropped: Vec<usize>,
    pub(super) trace: Vec<Event>,
}

impl World {
    pub(super) fn new(setting: Setting, choose: &mut dyn FnMut(usize) -> usize) -> Self {
        let ledger = Arc::<Ledger>::default();
        let (feed, body) = incoming();
        ledger
            .probes
            .lock()
            .unwrap()
            .push(Box::new(feed.lock_probe()));
        let mut tasks = [(); 2].map(|()| Task::new(&ledger, setting.new_wakers));
        let parent = tasks[0].waker();
        let mut reader = |body| {
            let mut own = Task::new(&ledger, setting.new_wakers);
            own.parent = Some(parent.clone());
            Reader {
                body: Some(body),
                place: PLACES[choose(PLACES.len())],
                mode: Mode::Reads,
                own,
                pieces: 0,
                seen: String::new(),
                end: None,
            }
        };
        let bodies = bodies(setting.kind, body, &ledger);
        let readers = bodies.into_iter().map(&mut reader).collect();
        Self {
            setting,
            feed: Some(feed),
            cut: false,
            to_come: MESSAGE.map(Some).into_iter().chain([None]).collect(),
            come: VecDeque::new(),
            wanted: false,
            tasks,
            readers,
            dropped: Vec::new(),
            trace: Vec::new(),
            ledger,
        }
    }

    pub(super) fn events(&self) -> Vec<Event> {
        let mut events = vec![Event::Poll(0), Event::Poll(1)];
        if !self.to_come.is_empty() {
            events.push(Event::Input);
        }
        if self.feed.is_some() {
            events.push(Event::DropFeed);
        }
        for (number, reader) in self.readers.iter().enumerate() {
            if !reader.is_live() {
                continue;
            }
            let modes = [Mode::Reads, Mode::LooksOnce, Mode::Idles].into_iter();
            let modes = modes.filter(|mode| *mode != reader.mode);
            events.extend(modes.map(|mode| Event::Mode(number, mode)));
            for place in PLACES.into_iter().filter(|place| *place != reader.place) {
                events.push(Event::Move(number, place));
                if place.has_waker_of_session() && reader.place.has_waker_of_session() {
                    events.push(Event::QuietMove(number, place));
                }
            }
            events.push(Event::Drop(number));
        }
        events
    }

    pub(super) fn apply(&mut self, event: Event) {
        self.trace.push(event);
        match event {
            Event::Poll(task) => self.poll(task),
            Event::Input => {
                self.come.extend(self.to_come.pop_front());
                // If the engine does not wait for input, nothing wakes it.
                if self.wanted {
                    self.tasks[0].rung.store(true, SeqCst);
                }
            }
            Event::Mode(number, mode) => {
                self.readers[number].mode = mode;
                if mode != Mode::Idles {
                    self.visit(number);
                }
            }
            Event::Move(number, place) => {
                self.readers[number].place = place;
                self.visit(number);
            }
            Event::QuietMove(number, place) => self.readers[number].place = place,
            Event::Drop(number) => {
                self.readers[number].body = None;
                self.dropped.push(number);
            }
            Event::DropFeed => {
                self.cut |= self.to_come.len() + self.come.len() > 0;
                self.feed = None;
            }
        }
        self.check();
    }

    /// Marks a reader and its task as woken by something other than the body.
    pub(super) fn visit(&mut self, number: usize) {
        let reader = &mut self.readers[number];
        reader.own.rung.store(true, SeqCst);
        self.tasks[reader.place.task()].rung.store(true, SeqCst);
    }

    pub(super) fn poll(&mut self, task: usize) {
        self.tasks[task].rung.store(false, SeqCst);
        let waker = self.tasks[task].waker();
        for reader in &mut self.readers {
            reader.own.parent = Some(waker.clone());
        }
        let cx = &mut Context::from_waker(&waker);
        if task == 1 {
            return self.poll_at(&[Place::Elsewhere], cx);
        }
        self.poll_at(&[Place::Before], cx);
        self.poll_engine(cx);
        self.poll_at(&[Place::After], cx);
    }

    pub(super) fn poll_at(&mut self, places: &[Place], cx: &mut Context<'_>) {
        for reader in &mut self.readers {
            if places.contains(&reader.place) {
                reader.poll(cx);
            }
        }
    }

    /// Does what the engine's transfer does.
    pub(super) fn poll_engine(&mut self, cx: &mut Context<'_>) {
        const WITHIN: &[Place] = &[Place::Within, Place::WithinOwn];
        let Some(feed) = self.feed.take() else {
            return self.poll_at(WITHIN, cx);
        };
        loop {
            if self.wanted {
                if self.come.is_empty() {
                    self.poll_at(WITHIN, cx);
                    break;
                }
                self.hand_over(&feed, cx);
                self.wanted = false;
            }
            let served = feed.poll_service(cx, |cx| {
                self.poll_at(WITHIN, cx);
                Poll::<()>::Pending
            });
            if served.is_pending() {
                break;
            }
            self.wanted = true;
        }
        self.feed = Some(feed);
    }

    pub(super) fn hand_over(&mut self, feed: &Feed, cx: &Context<'_>) {
        let mut pieces = Pieces::default();
        let mut end = None;
        while let Some(input) = self.come.pop_front() {
            match input {
                Some(text) => pieces.push(Piece::bytes(text, &self.ledger)),
                None => end = Some(Ok(())),
            }
            if !self.setting.batches {
                break;
            }
        }
        feed.hand_over(pieces, end, cx);
    }

    /// Runs the executor until there is nothing to do.
    pub(super) fn run(&mut self) {
        let mut polls = 0;
        loop {
            if let Some(task) = (0..2).find(|task| self.tasks[*task].rung.load(SeqCst)) {
                self.apply(Event::Poll(task));
                polls += 1;
                assert!(polls < 1000, "two tasks wake each other without end");
            } else if self.to_come.is_empty() {
                break;
            } else {
                self.apply(Event::Input);
            }
        }
    }

    /// Checks what must hold after every event.
    pub(super) fn check(&self) {
        assert!(
            !self.ledger.locked.load(SeqCst),
            "foreign code under a lock"
        );
        for (number, reader) in self.readers.iter().enumerate() {
            let expected = self.expected();
            assert!(expected.starts_with(&reader.seen), "{}", reader.seen);
            match &reader.end {
                // A copy ends however the message ends.
                Some(Ok(())) if !(self.setting.kind == Kind::Tee && number == 1) => {
                    assert_eq!(reader.seen, expected);
                }
                Some(Err(BodyError::Incomplete)) => assert!(self.cut),
                Some(Err(error)) => panic!("{error:?}"),
                _ => {}
            }
        }
        if !self.setting.batches {
            let ahead = match self.setting.kind {
                Kind::Broadcast { ahead, .. } => ahead,
                _ => 0,
            };
            // One chunk on its way to the readers, and one above the limit.
            let most = ahead + 2 * MESSAGE.iter().map(|text| cost(text)).max().unwrap();
            assert!(self.ledger.live.load(SeqCst) <= most, "memory");
        }
    }

    pub(super) fn expected(&self) -> String {
        let before = match self.setting.kind {
            Kind::PrependByHead | Kind::PrependHeader => BEFORE,
            _ => "",
        };
        format!("{before}{}", MESSAGE.concat())
    }

    /// Checks that no reader that wants the message waits, unless it waits for another one that idles.
    pub(super) fn check_readers(&self) {
        for reader in &self.readers {
            let waits = reader.is_live() && reader.mode == Mode::Reads;
            assert!(!waits || self.is_held_up(reader), "a reader waits forever");
        }
    }

    pub(super) fn is_held_up(&self, reader: &Reader) -> bool {
        let mut idle = self.readers.iter();
        let idle = idle.find(|other| other.is_live() && other.mode == Mode::Idles);
        match (self.setting.kind, idle) {
            (Kind::Tee, Some(_)) => true,
            (Kind::Broadcast { ahead, .. }, Some(_)) => {
                let live = self.readers.iter().filter(|other| other.is_live());
                let slowest = live.map(|other| other.pieces).min().unwrap();
                let between = MESSAGE[slowest..reader.pieces].iter();
                slowest < reader.pieces && between.map(|text| cost(text)).sum::<usize>() >= ahead
            }
            _ => false,
        }
    }

    pub(super) fn end(mut self, choose: &mut dyn FnMut(usize) -> usize) {
        self.run();
        self.check_readers();
        for number in 0..self.readers.len() {
            if self.readers[number].is_live() && self.readers[number].mode == Mode::Idles {
                if choose(2) == 0 {
                    self.apply(Event::Drop(number));
                } else {
                    self.apply(Event::Mode(number, Mode::Reads));
                }
                self.run();
                self.check_readers();
            }
        }
        assert!(!self.readers.iter().any(Reader::is_live));
        // Readers that are still alive keep a body that has ended, but neither memory nor tasks through it.
        self.feed = None;
        let probes = std::mem::take(&mut *self.ledger.probes.lock().unwrap());
        drop(probes);
        let given = self.forget_tasks();
        assert!(
            given.iter().all(|alarm| alarm.upgrade().is_none()),
            "a waker is kept"
        );
        assert_eq!(self.ledger.live.load(SeqCst), 0, "memory");
        self.check();
    }

    pub(super) fn forget_tasks(&mut self) -> Vec<Weak<Alarm>> {
        let mut given = Vec::new();
        for reader in &mut self.readers {
            reader.own.alarm = None;
            reader.own.parent = None;
            given.append(&mut reader.own.given);
            if self.setting.kind == Kind::Tee {
                // The duplex stream of tokio keeps the wakers of its other end.
                reader.body = None;
            }
        }
        for task in &mut self.tasks {
            task.alarm = None;
            given.append(&mut task.given);
        }
        given
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let places: Vec<_> = self.readers.iter().map(|reader| reader.place).collect();
            eprintln!("{:?}: {:?}, at last {places:?}", self.setting, self.trace);
        }
    }
}
