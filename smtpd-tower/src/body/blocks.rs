use bytes::Bytes;

/// Bytes that are gathered, in blocks, so that what is there is not copied as more comes: they take their own length and at most
/// one block in memory.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    full: Vec<Bytes>,
    last: Vec<u8>,
    len: usize,
}

impl Blocks {
    /// The length of all blocks but the last one.
    pub(super) const SIZE: usize = 64 * 1024;

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push(&mut self, mut chunk: &[u8]) {
        self.len += chunk.len();
        while !chunk.is_empty() {
            let (now, later) = chunk.split_at(chunk.len().min(Self::SIZE - self.last.len()));
            self.make_room(now.len());
            self.last.extend_from_slice(now);
            if self.last.len() == Self::SIZE {
                self.full.push(std::mem::take(&mut self.last).into());
            }
            chunk = later;
        }
    }

    /// Makes room in the last block. The first one grows by doubling, because most messages fit into it.
    fn make_room(&mut self, bytes: usize) {
        let needed = self.last.len() + bytes;
        if needed > self.last.capacity() {
            let capacity = match self.full.is_empty() {
                true => needed.max(2 * self.last.len()).min(Self::SIZE),
                false => Self::SIZE,
            };
            self.last.reserve_exact(capacity - self.last.len());
        }
    }

    /// Returns the blocks in order. None is empty.
    pub(super) fn into_blocks(mut self) -> Vec<Bytes> {
        if !self.last.is_empty() {
            self.last.shrink_to_fit();
            self.full.push(self.last.into());
        }
        self.full
    }

    /// Returns the bytes if there is one block at most.
    pub(super) fn into_one(mut self) -> Result<Bytes, Self> {
        if !self.full.is_empty() {
            return Err(self);
        }
        self.last.shrink_to_fit();
        Ok(self.last.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = Blocks::SIZE;

    fn message(len: usize) -> Vec<u8> {
        (0..len).map(|byte| (byte % 251) as u8).collect()
    }

    fn gathered(message: &[u8], size: usize) -> Blocks {
        let mut blocks = Blocks::default();
        for chunk in message.chunks(size) {
            blocks.push(chunk);
            // What is allocated exceeds what is there by less than a block, at any time.
            let full: usize = blocks.full.iter().map(Bytes::len).sum();
            let allocated = full + blocks.last.capacity();
            assert!(allocated < blocks.len() + SIZE, "{allocated}");
            if blocks.full.is_empty() {
                assert!(allocated <= 2 * blocks.len(), "{allocated}");
            }
        }
        blocks
    }

    #[test]
    fn no_more_is_kept_than_the_message_and_one_block() {
        for len in [0, 1, 100, SIZE - 1, SIZE, SIZE + 1, 5 * SIZE, 20 * SIZE + 7] {
            let message = message(len);
            for size in [(len / 5000).max(1), SIZE - 1, SIZE, 3 * SIZE + 1] {
                let blocks = gathered(&message, size).into_blocks();
                assert!(blocks.iter().all(|block| !block.is_empty()));
                assert!(blocks.concat() == message);
            }
        }
    }
}
