use crate::body::{Body, BodyError};

const NAME: &[u8] = b"received:";

/// Counts the Received fields at the beginning of a message, up to a limit.
pub(super) async fn received_fields(mut body: Body, limit: usize) -> Result<usize, BodyError> {
    let mut lines = Lines::default();
    while let Some(chunk) = body.chunk().await {
        for &byte in &*chunk? {
            lines.take(byte);
            if lines.is_over || lines.received >= limit {
                return Ok(lines.received);
            }
        }
    }
    Ok(lines.received)
}

/// The lines of a header section, byte by byte.
#[derive(Default)]
struct Lines {
    received: usize,
    /// The length of the line.
    len: usize,
    /// Whether all of it is the beginning of the name.
    is_name: bool,
    is_over: bool,
}

impl Lines {
    fn take(&mut self, byte: u8) {
        match byte {
            b'\n' => {
                self.is_over = self.len == 0;
                self.len = 0;
            }
            b'\r' => {}
            byte => {
                let before = self.len == 0 || self.is_name;
                let expected = NAME.get(self.len);
                self.is_name = before && expected == Some(&byte.to_ascii_lowercase());
                self.len += 1;
                self.received += usize::from(self.is_name && self.len == NAME.len());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_fields_of_the_header_section_count() {
        for (message, expected) in [
            ("", 0),
            ("Received: a\r\n b\r\nRECEIVED: c\r\n\r\nReceived: d\r\n", 2),
            (
                "Receive: a\r\nX-Received: b\r\nReceived-SPF: c\r\n Received: d\r\nReceived:",
                1,
            ),
            ("\r\nReceived: a\r\n", 0),
        ] {
            let counted = received_fields(Body::from(message), 100).await.unwrap();
            assert_eq!(counted, expected, "{message:?}");
        }
        let many = Body::from("Received: x\r\n".repeat(200).into_bytes());
        assert_eq!(received_fields(many, 100).await.unwrap(), 100);
    }
}
