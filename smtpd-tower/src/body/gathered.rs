use bytes::Bytes;

use super::BodyError;
use crate::memory::{MemoryBudget, Reservation};

/// A message that is gathered in one piece. It takes its own length in memory and, until it is complete, a sixteenth more, or 64
/// KiB if that is more: a buffer that grew by doubling would take up to three times the length. Allocators extend large buffers
/// in place where they can.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    bytes: Vec<u8>,
    reserved: Reservation,
}

impl Gathered {
    const STEP: usize = 64 * 1024;

    pub(crate) const fn new(budget: MemoryBudget) -> Self {
        Self {
            bytes: Vec::new(),
            reserved: Reservation::empty(budget),
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// # Errors
    ///
    /// Returns an error, for which the client receives 452, if there is no memory for it.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> Result<(), BodyError> {
        let len = self.bytes.len();
        if chunk.len() > self.bytes.capacity() - len {
            let step = len.min(Self::STEP).max(len / 16).max(chunk.len());
            let capacity = (len + step) as u64;
            self.reserved.grow(capacity - self.reserved.bytes())?;
            self.bytes.reserve_exact(step);
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    /// Returns the bytes, without room for more. Their last clone gives the memory back.
    pub(crate) fn into_bytes(mut self) -> Bytes {
        self.bytes.shrink_to_fit();
        self.reserved.shrink_to(self.bytes.len() as u64);
        self.reserved.attach_to(self.bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: usize = Gathered::STEP;

    #[test]
    fn no_more_is_kept_than_the_message_and_a_sixteenth() {
        for len in [1, 100, STEP - 1, STEP, STEP + 1, 5 * STEP, 40 * STEP + 7] {
            let message: Vec<_> = (0..len).map(|byte| (byte % 251) as u8).collect();
            for size in [(len / 5000).max(1), STEP - 1, STEP, 3 * STEP + 1] {
                let budget = MemoryBudget::new(u64::MAX);
                let mut whole = Gathered::new(budget.clone());
                let (mut growths, mut before) = (0, 0);
                for chunk in message.chunks(size) {
                    whole.push(chunk).unwrap();
                    let allocated = whole.bytes.capacity();
                    assert_eq!(budget.used(), allocated as u64);
                    let spare = allocated - whole.len();
                    assert!(spare <= STEP.max(whole.len() / 16), "{spare}");
                    assert!(allocated <= 2 * whole.len(), "{allocated}");
                    growths += usize::from(allocated > before);
                    before = allocated;
                }
                // Few enough, also for chunks of a few bytes.
                assert!(growths < 80, "{growths}");
                assert_eq!(whole.len(), len);
                let whole = whole.into_bytes();
                assert!(whole == message);
                assert_eq!(budget.used(), len as u64);
                drop(whole);
                assert_eq!(budget.used(), 0);
            }
        }
        assert!(Gathered::default().into_bytes().is_empty());
    }

    #[test]
    fn a_message_that_takes_more_memory_than_there_is_is_gathered_all_the_same() {
        let budget = MemoryBudget::new(10);
        let mut whole = Gathered::new(budget.clone());
        whole.push(b"12345").unwrap();
        assert_eq!(
            whole.push(b"678901").unwrap_err().reply().code().as_u16(),
            452
        );
        assert_eq!((whole.len(), budget.used()), (5, 5));
        drop(whole);
        assert_eq!(budget.used(), 0);
    }
}
