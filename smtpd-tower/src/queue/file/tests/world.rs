use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use super::super::disk::{Disk, DiskFile};
use crate::body::ReadAt;

/// What happens to an operation of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It fails, and the next ones do not.
    Once(io::ErrorKind),
    /// It fails, and so do all later ones that would need space.
    Full,
    /// Everything fails from now on.
    Stop,
}

/// What a crash leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crash {
    Nothing,
    /// Only the process has ended.
    Everything,
    /// Some blocks, some names, chosen by a seed.
    Some(u64),
}

#[derive(Clone, Default)]
pub(super) struct World(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    files: Vec<Content>,
    names: BTreeMap<u64, usize>,
    durable_names: BTreeMap<u64, usize>,
    aside: BTreeSet<(u64, u64)>,
    ops: usize,
    fault: Option<(usize, Fault)>,
    /// Handles of an earlier life work no more.
    life: usize,
    begun: Vec<Fault>,
    /// Called when the next sync begins.
    on_sync: Option<Box<dyn FnOnce() + Send>>,
}

#[derive(Clone, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// A sync has failed: what was not durable is never going to be, whatever later syncs say.
    lost: bool,
}

/// A step of a sequence that looks random.
pub(super) fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Space,
    Nothing,
}

impl World {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Lets the operation of that number fail, counted from now.
    pub(super) fn plan(&self, after: usize, fault: Fault) {
        let mut state = self.lock();
        state.fault = Some((state.ops + after, fault));
    }

    /// Returns how many operations there were, and whether the fault has occurred.
    pub(super) fn ops(&self) -> usize {
        self.lock().ops
    }

    pub(super) fn has_failed(&self) -> bool {
        !self.lock().begun.is_empty()
    }

    /// Calls a function in the thread of the writer when it syncs next.
    pub(super) fn on_sync(&self, function: impl FnOnce() + Send + 'static) {
        self.lock().on_sync = Some(Box::new(function));
    }

    /// Mends the disk.
    pub(super) fn mend(&self) {
        let mut state = self.lock();
        state.fault = None;
        state.begun.clear();
    }

    /// Ends everything that has the disk, and returns what the next ones find.
    pub(super) fn crash(&self, crash: Crash) {
        let mut state = self.lock();
        state.life += 1;
        state.fault = None;
        state.begun.clear();
        let (names, durable) = (state.names.clone(), state.durable_names.clone());
        let mut seed = match crash {
            Crash::Some(seed) => seed,
            _ => 0,
        };
        let mut flip = |now: bool| match crash {
            Crash::Everything => now,
            Crash::Nothing => !now,
            Crash::Some(_) => next(&mut seed).is_multiple_of(2),
        };
        let all: BTreeSet<_> = names.keys().chain(durable.keys()).copied().collect();
        let mut left = BTreeMap::new();
        for number in all {
            let chosen = match flip(true) {
                true => names.get(&number),
                false => durable.get(&number),
            };
            left.extend(chosen.map(|file| (number, *file)));
        }
        for content in &mut state.files {
            content.crash(&mut flip);
        }
        state.names = left.clone();
        state.durable_names = left;
    }

    /// Returns the bytes of each segment.
    pub(super) fn segments(&self) -> BTreeMap<u64, Vec<u8>> {
        let state = self.lock();
        let names = state.names.iter();
        names
            .map(|(number, file)| (*number, state.files[*file].now.clone()))
            .collect()
    }

    /// Replaces the bytes of a segment.
    pub(super) fn set(&self, number: u64, bytes: &[u8]) {
        let mut state = self.lock();
        let file = state.names.get(&number).copied().unwrap_or_else(|| {
            state.files.push(Content::default());
            state.files.len() - 1
        });
        state.files[file] = Content {
            now: bytes.to_vec(),
            durable: bytes.to_vec(),
            lost: false,
        };
        state.names.insert(number, file);
        state.durable_names.insert(number, file);
    }

    pub(super) fn aside(&self) -> usize {
        self.lock().aside.len()
    }

    pub(super) fn disk(&self) -> Box<dyn Disk> {
        let life = self.lock().life;
        Box::new(FakeDisk {
            world: self.clone(),
            life,
        })
    }
}

impl Content {
    fn crash(&mut self, flip: &mut impl FnMut(bool) -> bool) {
        const BLOCK: usize = 16;
        let len = match flip(true) {
            true => self.now.len(),
            false => self.durable.len(),
        };
        let mut left = vec![0; len];
        for (number, block) in left.chunks_mut(BLOCK).enumerate() {
            let source = match flip(true) {
                true => &self.now,
                false => &self.durable,
            };
            let at = (number * BLOCK).min(source.len());
            let bytes = &source[at..(at + block.len()).min(source.len())];
            block[..bytes.len()].copy_from_slice(bytes);
        }
        self.now = left.clone();
        self.durable = left;
        self.lost = false;
    }
}

impl State {
    /// Counts an operation, and fails it if that is planned.
    fn step(&mut self, life: usize, needs: Needs) -> io::Result<()> {
        if life != self.life {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.ops += 1;
        if let Some((at, fault)) = self.fault
            && at < self.ops
        {
            self.begun.push(fault);
            self.fault = None;
            if let Fault::Once(kind) = fault {
                return Err(kind.into());
            }
        }
        if self.begun.contains(&Fault::Stop) {
            return Err(io::Error::other("stopped"));
        }
        match self.begun.contains(&Fault::Full) && needs == Needs::Space {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

struct FakeDisk {
    world: World,
    life: usize,
}

struct FakeFile {
    world: World,
    life: usize,
    file: usize,
}

impl FakeDisk {
    fn step(&self, needs: Needs) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.world.lock();
        state.step(self.life, needs)?;
        Ok(state)
    }

    fn file(&self, file: usize) -> Arc<dyn DiskFile> {
        Arc::new(FakeFile {
            world: self.world.clone(),
            life: self.life,
            file,
        })
    }
}

impl Disk for FakeDisk {
    fn segments(&self) -> io::Result<Vec<u64>> {
        let state = self.step(Needs::Nothing)?;
        Ok(state.names.keys().rev().copied().collect())
    }

    fn open(&self, number: u64) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.step(Needs::Nothing)?;
        let file = state.names.get(&number).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(*file))
    }

    fn create(&self, number: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.step(Needs::Space)?;
        assert!(!state.names.contains_key(&number));
        let file = state.files.len();
        state.files.push(Content::default());
        state.names.insert(number, file);
        Ok(self.file(file))
    }

    fn remove(&self, number: u64) -> io::Result<()> {
        let mut state = self.step(Needs::Nothing)?;
        state.names.remove(&number).ok_or(io::ErrorKind::NotFound)?;
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.step(Needs::Nothing)?;
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn set_aside(&self, number: u64, at: u64) -> io::Result<Option<Arc<dyn DiskFile>>> {
        let mut state = self.step(Needs::Space)?;
        if !state.aside.insert((number, at)) {
            return Ok(None);
        }
        let file = state.files.len();
        state.files.push(Content::default());
        Ok(Some(self.file(file)))
    }
}

impl ReadAt for FakeFile {
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut state = self.world.lock();
        state.step(self.life, Needs::Nothing)?;
        let at = at as usize;
        let bytes = state.files[self.file].now.get(at..at + buffer.len());
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl DiskFile for FakeFile {
    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.world.lock();
        let done = state.step(self.life, Needs::Space);
        if done.is_err() && self.life != state.life {
            return done;
        }
        // One that fails has written a part.
        let part = if done.is_err() {
            bytes.len() / 2
        } else {
            bytes.len()
        };
        let (at, now) = (at as usize, &mut state.files[self.file].now);
        now.resize(now.len().max(at + part), 0);
        now[at..at + part].copy_from_slice(&bytes[..part]);
        done
    }

    fn sync(&self) -> io::Result<()> {
        let hook = self.world.lock().on_sync.take();
        if let Some(hook) = hook {
            hook();
        }
        let mut state = self.world.lock();
        let done = state.step(self.life, Needs::Nothing);
        if self.life == state.life {
            let content = &mut state.files[self.file];
            content.lost |= done.is_err();
            if !content.lost {
                content.durable = content.now.clone();
            }
        }
        done
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.world.lock();
        state.step(self.life, Needs::Nothing)?;
        state.files[self.file].now.resize(len as usize, 0);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.world.lock();
        state.step(self.life, Needs::Nothing)?;
        Ok(state.files[self.file].now.len() as u64)
    }
}
