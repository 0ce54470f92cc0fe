//! Searches for an order of events in which a reader of a body waits forever, or a lock is held at the wrong time.
//!
//! The system is a small copy of the engine, with a data service that it polls, and the readers of one message. A reader may be
//! polled within the service, in the task of the session beside it, or in a task of its own; it may move from one to another,
//! cancel its poll and come back for the next chunk later or never, or be dropped, and so may the engine. A path is a list of
//! such events. After each path only woken tasks are polled, as an executor does, and every reader that still wants the message
//! must get it: each byte once and in order, then its end.
//!
//! Code that must not run under a lock checks whether one is held: wakers when they wake and when they are dropped, and chunks
//! when they are dropped. (A safe waker cannot check that it is cloned without a lock.)

mod kind;
mod reader;
mod task;
mod world;

use self::{
    kind::Kind,
    world::{Setting, World},
};

/// Walks one path of `events` events.
fn walk(setting: Setting, events: usize, choose: &mut dyn FnMut(usize) -> usize) {
    let mut world = World::new(setting, choose);
    for _ in 0..events {
        let possible = world.events();
        world.apply(possible[choose(possible.len())]);
    }
    world.end(choose);
}

/// Walks every path of `events` events.
fn walk_all(setting: Setting, events: usize) -> usize {
    // Each decision of the path, and the number of choices.
    let mut path: Vec<(usize, usize)> = Vec::new();
    let mut paths = 0;
    loop {
        let mut at = 0;
        walk(setting, events, &mut |among| {
            if at == path.len() {
                path.push((0, among));
            }
            at += 1;
            path[at - 1].0
        });
        paths += 1;
        while let Some((chosen, among)) = path.pop() {
            if chosen + 1 < among {
                path.push((chosen + 1, among));
                break;
            }
        }
        if path.is_empty() {
            return paths;
        }
    }
}

fn walk_some(setting: Setting, events: usize, seeds: u32) {
    for seed in 0..seeds {
        let mut random = seed;
        walk(setting, events, &mut |among| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 16) as usize % among
        });
    }
}

/// Walks every short path, and as many longer ones as `SMTPD_PATHS` says.
fn explore(kind: Kind, depth: usize) {
    let paths = std::env::var("SMTPD_PATHS").map_or(100, |paths| paths.parse().expect("a number"));
    for (new_wakers, batches) in [(false, false), (true, false), (false, true)] {
        let setting = Setting {
            kind,
            new_wakers,
            batches,
        };
        walk_all(setting, depth);
        for events in [6, 12, 40] {
            walk_some(setting, events, paths);
        }
    }
}

#[test]
fn no_reader_of_the_incoming_body_waits_forever() {
    explore(Kind::Incoming, 3);
}

#[test]
fn no_reader_of_a_broadcast_waits_forever() {
    for (readers, ahead, depth) in [(2, 1, 1), (2, 60, 2), (2, 1000, 1), (3, 60, 1)] {
        explore(Kind::Broadcast { readers, ahead }, depth);
    }
}

#[test]
fn no_reader_of_a_wrapped_body_waits_forever() {
    for kind in [
        Kind::Inspect,
        Kind::PrependByHead,
        Kind::PrependHeader,
        Kind::Head,
        Kind::BodyReader,
    ] {
        explore(kind, 2);
    }
    #[cfg(feature = "spool")]
    explore(Kind::Spool, 2);
}

#[test]
fn neither_a_body_nor_its_copy_waits_forever() {
    // The time limit of the sink needs timers, of which none fires.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let _context = runtime.enter();
    explore(Kind::Tee, 1);
}
