/// SipHash-2-4 with a key of 128 bits. Unlike the hashers of `std`, it is the same in every version of Rust and on every machine,
/// so a hash can be kept in a file.
#[derive(Clone)]
pub(super) struct SipHasher {
    v: [u64; 4],
    /// The bytes since the last whole word, the first in the lowest bits.
    word: u64,
    length: u64,
}

impl SipHasher {
    pub(super) fn new(key: [u8; 16]) -> Self {
        let key = u128::from_le_bytes(key);
        let (k0, k1) = (key as u64, (key >> 64) as u64);
        Self {
            v: [
                k0 ^ 0x736f_6d65_7073_6575,
                k1 ^ 0x646f_7261_6e64_6f6d,
                k0 ^ 0x6c79_6765_6e65_7261,
                k1 ^ 0x7465_6462_7974_6573,
            ],
            word: 0,
            length: 0,
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> &mut Self {
        let (words, rest) = bytes.as_chunks();
        for word in words {
            self.push(u64::from_le_bytes(*word), 8);
        }
        for byte in rest {
            self.push(u64::from(*byte), 1);
        }
        self
    }

    /// Adds as many bytes, one or eight, behind those that wait for their word to be complete.
    fn push(&mut self, bytes: u64, count: u64) {
        let waiting = self.length % 8;
        self.length = self.length.wrapping_add(count);
        self.word |= bytes << (8 * waiting);
        if waiting + count < 8 {
            return;
        }
        self.absorb(self.word);
        // What did not fit into the word. A shift by all bits would overflow: then everything did.
        self.word = bytes.checked_shr(64 - 8 * waiting as u32).unwrap_or(0);
    }

    /// Writes a text and its length, so that two texts in a row are not the same as two others.
    pub(super) fn write_text(&mut self, text: &str) {
        self.write(&(text.len() as u64).to_le_bytes());
        self.write(text.as_bytes());
    }

    pub(super) fn finish(mut self) -> u64 {
        self.absorb(self.word | (self.length << 56));
        self.v[2] ^= 0xff;
        self.rounds(4);
        self.v[0] ^ self.v[1] ^ self.v[2] ^ self.v[3]
    }

    fn absorb(&mut self, word: u64) {
        self.v[3] ^= word;
        self.rounds(2);
        self.v[0] ^= word;
    }

    fn rounds(&mut self, count: usize) {
        let [mut a, mut b, mut c, mut d] = self.v;
        for _ in 0..count {
            a = a.wrapping_add(b);
            b = b.rotate_left(13) ^ a;
            a = a.rotate_left(32);
            c = c.wrapping_add(d);
            d = d.rotate_left(16) ^ c;
            a = a.wrapping_add(d);
            d = d.rotate_left(21) ^ a;
            c = c.wrapping_add(b);
            b = b.rotate_left(17) ^ c;
            c = c.rotate_left(32);
        }
        self.v = [a, b, c, d];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the reference implementation: the key is 00 to 0f, the inputs are 00, 01, 02, and so on.
    #[test]
    fn a_hash_that_is_not_siphash() {
        let bytes: [u8; 64] = std::array::from_fn(|at| at as u8);
        let hasher = SipHasher::new(*bytes.first_chunk().unwrap());
        for (length, expected) in [
            (0, 0x726f_db47_dd0e_0e31),
            (1, 0x74f8_39c5_93dc_67fd),
            (8, 0x93f5_f579_9a93_2462),
            (15, 0xa129_ca61_49be_45e5),
            (63, 0x958a_324c_eb06_4572),
        ] {
            for first in 0..=length {
                for second in first..=length {
                    let mut hasher = hasher.clone();
                    hasher.write(&bytes[..first]);
                    hasher.write(&bytes[first..second]);
                    hasher.write(&bytes[second..length]);
                    assert_eq!(hasher.finish(), expected, "{first}, {second}, {length}");
                }
            }
        }
    }
}
