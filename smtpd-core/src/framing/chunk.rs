use bytes::{Bytes, BytesMut};

/// Passes on exactly as many bytes as a BDAT command announced, whatever they are (RFC 3030 section 2).
#[derive(Debug)]
pub(crate) struct ChunkReader {
    left: u64,
}

impl ChunkReader {
    pub(crate) fn new(size: u64) -> Self {
        Self { left: size }
    }

    /// Returns whether the chunk is complete.
    pub(crate) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Returns the next bytes of the chunk, or `None` if more input is needed or nothing is left.
    pub(crate) fn poll(&mut self, input: &mut BytesMut) -> Option<Bytes> {
        let len = usize::try_from(self.left).map_or(input.len(), |left| left.min(input.len()));
        if len == 0 {
            return None;
        }
        self.left -= len as u64;
        Some(input.split_to(len).freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_announced_bytes_are_passed_on() {
        for step in 1..12 {
            let (mut reader, mut buffer, mut got) =
                (ChunkReader::new(7), BytesMut::new(), Vec::new());
            for part in b".\r\n.\r\nQUIT\r\n".chunks(step) {
                buffer.extend_from_slice(part);
                while let Some(bytes) = reader.poll(&mut buffer) {
                    got.extend_from_slice(&bytes);
                }
            }
            assert!(reader.is_done());
            assert_eq!(
                (&got[..], &buffer[..]),
                (&b".\r\n.\r\nQ"[..], &b"UIT\r\n"[..]),
                "steps of {step}"
            );
        }
    }

    #[test]
    fn a_size_of_64_bits_is_counted_in_full() {
        let mut reader = ChunkReader::new(u64::MAX);
        assert_eq!(
            reader.poll(&mut BytesMut::from(&b"abc"[..])).as_deref(),
            Some(&b"abc"[..])
        );
        assert_eq!(reader.left, u64::MAX - 3);
    }
}
