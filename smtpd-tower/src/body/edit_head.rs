use std::ops::Range;

use bytes::Bytes;

use super::{Head, HeaderField};
use crate::header::{FieldNameError, field};

/// # Changing fields
///
/// Only the fields that are named change; all other bytes of the head stay as they arrived, which is what a DKIM signature covers.
///
/// Names are compared without regard to case, and the fields of one name are counted from 0, the topmost first. Values may come
/// from anywhere: line ends in them become folding (RFC 5322 section 2.2.3), other control characters become `?`, and lines of
/// more than 78 characters are folded. A value that begins with white space keeps it; otherwise one space follows the colon.
///
/// ```
/// use smtpd_tower::{Body, BodyError};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let message = "From: a@example.com\r\nSubject: hi\r\n\r\nHello\r\n";
/// let (mut head, body) = Body::from(message).head(1000).await?;
/// head.insert(0, "X-Spam-Score", "7.2")?;
/// head.replace("subject", 0, "[spam] hi");
/// head.remove("From", 0);
/// let changed = head.into_body(body).collect().await?;
/// assert_eq!(
///     changed,
///     "X-Spam-Score: 7.2\r\nsubject: [spam] hi\r\n\r\nHello\r\n"
/// );
/// # Ok(()) }
/// ```
impl Head {
    /// Inserts a field, so that it becomes the field with that index, or the last one if there are fewer. A message that begins
    /// with text instead of a header section receives one, which consists of this field.
    ///
    /// # Errors
    ///
    /// Returns an error if the name cannot be that of a field.
    pub fn insert(
        &mut self,
        index: usize,
        name: &str,
        value: impl AsRef<[u8]>,
    ) -> Result<(), FieldNameError> {
        let field = field(name, value.as_ref())?;
        let spans: Vec<_> = self.spans().map(|(span, _)| span).collect();
        let bytes = self.as_bytes();
        let (at, pieces): (usize, &[&[u8]]) = match (spans.get(index), spans.last()) {
            (Some(span), _) => (span.start, &[&field]),
            (None, Some(last)) if bytes[..last.end].ends_with(b"\r\n") => (last.end, &[&field]),
            (None, Some(last)) => (last.end, &[b"\r\n", &field]),
            (None, None) if bytes.is_empty() || bytes.starts_with(b"\r\n") => (0, &[&field]),
            (None, None) => (0, &[&field, b"\r\n"]),
        };
        self.splice(at..at, pieces);
        Ok(())
    }

    /// Replaces the field with this name and index. Returns whether there is one.
    pub fn replace(&mut self, name: &str, index: usize, value: impl AsRef<[u8]>) -> bool {
        // A name that cannot be that of a field is not found.
        let Ok(field) = field(name, value.as_ref()) else {
            return false;
        };
        self.change(name, index, &field)
    }

    /// Removes the field with this name and index. Returns whether there is one.
    pub fn remove(&mut self, name: &str, index: usize) -> bool {
        self.change(name, index, b"")
    }

    /// Removes the fields for which `keep` returns false. Calls `keep` once for each field, from top to bottom.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use smtpd_tower::body::Head;
    ///
    /// let mut head = Head::from(Bytes::from("A: 1\r\nB: 2\r\nA: 3\r\n\r\n"));
    /// head.retain(|field| !field.is("a"));
    /// assert_eq!(head.as_bytes(), b"B: 2\r\n\r\n");
    /// ```
    pub fn retain(&mut self, mut keep: impl FnMut(HeaderField<'_>) -> bool) {
        let dropped: Vec<_> = self
            .spans()
            .filter(|(_, field)| !keep(*field))
            .map(|(span, _)| span)
            .collect();
        for span in dropped.into_iter().rev() {
            self.splice(span, &[]);
        }
    }

    fn change(&mut self, name: &str, index: usize, field: &[u8]) -> bool {
        let found = {
            let mut named = self.spans().filter(|(_, field)| field.is(name));
            named.nth(index).map(|(span, _)| span)
        };
        let Some(span) = found else { return false };
        self.splice(span, &[field]);
        true
    }

    /// The fields, and where each is.
    fn spans(&self) -> impl Iterator<Item = (Range<usize>, HeaderField<'_>)> {
        let len = self.as_bytes().len();
        let mut fields = self.fields();
        std::iter::from_fn(move || {
            let field = fields.next()?;
            let end = len - fields.rest().len();
            Some((end - field.raw().len()..end, field))
        })
    }

    fn splice(&mut self, span: Range<usize>, pieces: &[&[u8]]) {
        let bytes = self.as_bytes();
        let (before, after) = (&bytes[..span.start], &bytes[span.end..]);
        let changed: Vec<&[u8]> = [&[before], pieces, &[after]].concat();
        *self = Self::from(Bytes::from(changed.concat()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &'static str) -> Head {
        Head::from(Bytes::from(text))
    }

    #[track_caller]
    fn check(head: Head, expected: &str) {
        assert_eq!(
            head.as_bytes().escape_ascii().to_string(),
            expected.as_bytes().escape_ascii().to_string()
        );
    }

    #[test]
    fn a_field_is_inserted_where_it_is_told() {
        let table = [
            ("A: 1\r\nB: 2\r\n\r\n", 0, "X: 9\r\nA: 1\r\nB: 2\r\n\r\n"),
            ("A: 1\r\nB: 2\r\n\r\n", 1, "A: 1\r\nX: 9\r\nB: 2\r\n\r\n"),
            ("A: 1\r\nB: 2\r\n\r\n", 2, "A: 1\r\nB: 2\r\nX: 9\r\n\r\n"),
            (
                "A: 1\r\nB: 2\r\n\r\n",
                usize::MAX,
                "A: 1\r\nB: 2\r\nX: 9\r\n\r\n",
            ),
            (
                "A: 1\r\n 2\r\nB: 2\r\n\r\n",
                1,
                "A: 1\r\n 2\r\nX: 9\r\nB: 2\r\n\r\n",
            ),
            ("", 0, "X: 9\r\n"),
            ("\r\n", 3, "X: 9\r\n\r\n"),
            ("A: 1", 1, "A: 1\r\nX: 9\r\n"),
            ("A: 1\r\n", 1, "A: 1\r\nX: 9\r\n"),
        ];
        for (before, index, after) in table {
            let mut head = head(before);
            head.insert(index, "X", "9").unwrap();
            check(head, after);
        }
    }

    #[test]
    fn text_without_a_header_does_not_become_one_by_an_insertion() {
        for index in [0, 1, 9] {
            let mut head = head("Hello world: it is\r\n x\r\n\r\n");
            head.insert(index, "X", "9").unwrap();
            check(head, "X: 9\r\n\r\nHello world: it is\r\n x\r\n\r\n");
        }
    }

    #[test]
    fn lines_that_are_no_field_stay_where_they_are() {
        let mut head = head("From x\r\nA: 1\r\njunk\r\n more\r\nB: 2\r\nend\r\n\r\n");
        head.insert(0, "X", "9").unwrap();
        head.insert(9, "Y", "9").unwrap();
        assert!(head.remove("a", 0));
        check(
            head,
            "From x\r\nX: 9\r\njunk\r\n more\r\nB: 2\r\nY: 9\r\nend\r\n\r\n",
        );
    }

    #[test]
    fn the_nth_field_of_a_name_is_changed_and_no_other() {
        let text = "A: 1\r\nB: 2\r\na: 3\r\n\t3\r\nA : 4\r\n\r\n";
        let table = [
            (
                0,
                "A: x\r\nB: 2\r\na: 3\r\n\t3\r\nA : 4\r\n\r\n",
                "B: 2\r\na: 3\r\n\t3\r\nA : 4\r\n\r\n",
            ),
            (
                1,
                "A: 1\r\nB: 2\r\nA: x\r\nA : 4\r\n\r\n",
                "A: 1\r\nB: 2\r\nA : 4\r\n\r\n",
            ),
            (
                2,
                "A: 1\r\nB: 2\r\na: 3\r\n\t3\r\nA: x\r\n\r\n",
                "A: 1\r\nB: 2\r\na: 3\r\n\t3\r\n\r\n",
            ),
        ];
        for (index, replaced, removed) in table {
            let mut changed = head(text);
            assert!(changed.replace("A", index, "x"));
            check(changed, replaced);
            let mut changed = head(text);
            assert!(changed.remove("A", index));
            check(changed, removed);
        }
        for (name, index) in [("A", 3), ("C", 0), ("A:", 0), ("", 0)] {
            let mut same = head(text);
            assert!(!same.replace(name, index, "x") && !same.remove(name, index));
            check(same, text);
        }
    }

    #[test]
    fn a_value_from_a_filter_cannot_add_a_field_or_end_the_header() {
        let mut head = head("A: 1\r\n\r\n");
        head.insert(0, "X", "9\r\nBcc: evil\r\n\r\nbody").unwrap();
        assert!(head.replace("A", 0, "1\nB: 2\0"));
        assert!(head.insert(0, "X:\r\nY", "9").is_err());
        check(
            head,
            "X: 9\r\n Bcc: evil\r\n body\r\nA: 1\r\n B: 2?\r\n\r\n",
        );
    }
}
