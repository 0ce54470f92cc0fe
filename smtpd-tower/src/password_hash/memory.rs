//! The memory for Argon2.

use std::sync::{Mutex, MutexGuard, PoisonError};

use argon2::Block;
use zeroize::Zeroize;

/// Memory of finished comparisons, for later ones: as many areas as run at once, up to a limit. If it were allocated for each, in
/// a thread with an arena of its own, the allocator would keep far more of it.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<Vec<Vec<Block>>>);

impl Memory {
    /// How much is kept in total, in blocks: 64 MiB. Larger areas go back to the system when they are freed.
    const MOST_KEPT: usize = (64 << 20) / Block::SIZE;

    /// Runs `work` with that many blocks, and wipes them. Returns `None` if there is not enough memory.
    pub(super) fn lend<T>(&self, blocks: usize, work: impl FnOnce(&mut [Block]) -> T) -> Option<T> {
        let mut area = self.take(blocks)?;
        let used = area.get_mut(..blocks)?;
        let result = work(used);
        // With one pass, the first blocks alone would allow trying passwords without the cost of the rest.
        used.iter_mut().for_each(|block| block.as_mut().zeroize());
        let mut kept = self.lock();
        let all: usize = kept.iter().map(Vec::len).sum();
        if all + area.len() <= Self::MOST_KEPT {
            kept.push(area);
        }
        Some(result)
    }

    fn take(&self, blocks: usize) -> Option<Vec<Block>> {
        let kept = self.lock().pop();
        match kept.filter(|area| area.len() >= blocks) {
            Some(area) => Some(area),
            None => {
                let mut area = Vec::new();
                area.try_reserve_exact(blocks).ok()?;
                area.resize_with(blocks, Block::default);
                Some(area)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<Block>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_and_grows_with_need() {
        let memory = Memory::default();
        let place = |blocks| {
            memory
                .lend(blocks, |area| (area.as_ptr(), area.len()))
                .unwrap()
        };
        let first = place(8);
        assert_eq!((place(8), place(4).0), (first, first.0));
        assert_eq!(place(16).1, 16);
        assert_eq!(memory.lock().len(), 1, "the smaller area is dropped");
        memory.lend(8, |_| assert_eq!(place(8).1, 8)).unwrap();
        assert_eq!(memory.lock().len(), 2, "one for each at once");
    }

    /// An attacker who reads the memory of the process could try passwords at the speed of a plain hash.
    #[test]
    fn what_is_kept_tells_nothing_of_the_passwords() {
        let memory = Memory::default();
        let fill = |area: &mut [Block]| area.iter_mut().for_each(|block| block.as_mut().fill(7));
        memory.lend(8, fill).unwrap();
        memory.lend(4, fill).unwrap();
        let kept = memory.lock();
        let words = kept.iter().flatten().flat_map(AsRef::<[u64]>::as_ref);
        assert!(words.clone().count() > 0 && words.copied().all(|word| word == 0));
    }

    /// A server with many processors would keep gigabytes after one minute of guesses.
    #[test]
    fn what_is_kept_is_bounded_however_many_run_at_once() {
        fn lend(memory: &Memory, blocks: usize, depth: usize) {
            memory
                .lend(blocks, |_| {
                    if depth > 1 {
                        lend(memory, blocks, depth - 1);
                    }
                })
                .unwrap();
        }
        let memory = Memory::default();
        lend(&memory, Memory::MOST_KEPT / 4, 6);
        assert_eq!(memory.lock().len(), 4);
        lend(&memory, Memory::MOST_KEPT / 2, 1);
        assert_eq!(
            memory.lock().len(),
            3,
            "an area that is too small is dropped"
        );
    }

    #[test]
    fn without_memory_the_work_is_not_done() {
        let most = usize::MAX / Block::SIZE;
        assert!(Memory::default().lend(most, |_| ()).is_none());
    }
}
