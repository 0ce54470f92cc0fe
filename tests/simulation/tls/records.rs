//! The records of TLS, as far as they can be read without keys (RFC 8446 section 5.1).

/// Looks whether what the server writes is records, and nothing else.
#[derive(Debug, Default)]
pub struct Records {
    header: Vec<u8>,
    /// How much of the present record is left.
    left: usize,
}

impl Records {
    pub fn check(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            let taken = self.left.min(bytes.len());
            self.left -= taken;
            bytes = &bytes[taken..];
            if self.left > 0 || bytes.is_empty() {
                continue;
            }
            self.header.push(bytes[0]);
            bytes = &bytes[1..];
            if let [kind, major, minor, high, low] = self.header[..] {
                let len = usize::from(high) << 8 | usize::from(low);
                let known = (20..=23).contains(&kind) && major == 3 && (1..=3).contains(&minor);
                if !known || len == 0 || len > (16 << 10) + 256 {
                    return Err(format!("no record of TLS: {:?}", self.header));
                }
                self.header.clear();
                self.left = len;
            }
        }
        Ok(())
    }

    /// Whether nothing is left of the last record.
    pub fn are_whole(&self) -> bool {
        self.left == 0 && self.header.is_empty()
    }
}
