use bytes::Bytes;

/// A message that is gathered in one piece. It takes its own length in memory and, until it is complete, a sixteenth more, or 64
/// KiB if that is more: a buffer that grew by doubling would take up to three times the length. Allocators extend large buffers
/// in place where they can.
#[derive(Debug, Default)]
pub(crate) struct Gathered(Vec<u8>);

impl Gathered {
    const STEP: usize = 64 * 1024;

    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn push(&mut self, chunk: &[u8]) {
        let len = self.0.len();
        if chunk.len() > self.0.capacity() - len {
            let step = len.min(Self::STEP).max(len / 16);
            self.0.reserve_exact(step.max(chunk.len()));
        }
        self.0.extend_from_slice(chunk);
    }

    /// Returns the bytes, without room for more.
    pub(crate) fn into_bytes(mut self) -> Bytes {
        self.0.shrink_to_fit();
        self.0.into()
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
                let mut whole = Gathered::default();
                let (mut growths, mut before) = (0, 0);
                for chunk in message.chunks(size) {
                    whole.push(chunk);
                    let allocated = whole.0.capacity();
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
                // Nothing is behind its end.
                assert_eq!(whole.try_into_mut().unwrap().capacity(), len);
            }
        }
        assert!(Gathered::default().into_bytes().is_empty());
    }
}
