//! The subset of DER (X.690) that certificates need.

/// `SEQUENCE`, and `SEQUENCE OF`.
pub(super) const SEQUENCE: u8 = 0x30;
/// `SET OF`.
pub(super) const SET: u8 = 0x31;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const GENERALIZED_TIME: u8 = 0x18;

/// Returns the tag of a context-specific, constructed element.
pub(super) const fn context(number: u8) -> u8 {
    0xA0 | number
}

/// Reads one element after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

/// A tag, its value, and the whole element as encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element<'a> {
    pub(super) tag: u8,
    pub(super) value: &'a [u8],
    pub(super) whole: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(der: &'a [u8]) -> Self {
        Self(der)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the value of the next element, which must have the given tag.
    pub(super) fn read(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next()
            .filter(|element| element.tag == tag)
            .map(|element| element.value)
    }

    /// Like `read`, with a reader of the content.
    pub(super) fn enter(&mut self, tag: u8) -> Option<Self> {
        self.read(tag).map(Self)
    }

    /// Returns the contents of all elements up to the end, which must have the given tag. An element that is damaged, or has
    /// another tag, is the last and `None`.
    pub(super) fn each(mut self, tag: u8) -> impl Iterator<Item = Option<Self>> {
        let mut damaged = false;
        std::iter::from_fn(move || {
            if damaged || self.is_empty() {
                return None;
            }
            let element = self.enter(tag);
            damaged = element.is_none();
            Some(element)
        })
    }

    /// Reads the next element if it has the given tag.
    pub(super) fn optional(&mut self, tag: u8) -> Option<&'a [u8]> {
        let mut ahead = *self;
        let value = ahead.read(tag)?;
        *self = ahead;
        Some(value)
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Element<'a>;

    /// Returns `None` at the end, and if what follows is not an element.
    fn next(&mut self) -> Option<Element<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        // X.690 section 8.1.2.4: no certificate has a tag of several bytes.
        if tag & 0x1F == 0x1F {
            return None;
        }
        let (length, rest) = length(rest)?;
        let (value, rest) = rest.split_at_checked(length)?;
        let whole = self.0.get(..self.0.len() - rest.len())?;
        self.0 = rest;
        Some(Element { tag, value, whole })
    }
}

/// Reads the length before a value (X.690 section 8.1.3), and returns it with what follows it.
fn length(der: &[u8]) -> Option<(usize, &[u8])> {
    let (&first, rest) = der.split_first()?;
    if first < 0x80 {
        return Some((first.into(), rest));
    }
    let (bytes, rest) = rest.split_at_checked((first & 0x7F).into())?;
    // 0 is the indefinite form, which DER does not have; nothing here is longer than four bytes can express.
    if bytes.is_empty() || bytes.len() > 4 {
        return None;
    }
    let length = bytes
        .iter()
        .fold(0_usize, |length, &byte| length << 8 | usize::from(byte));
    Some((length, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_one_by_one() {
        let mut long = vec![0x04, 0x82, 0x01, 0x00];
        long.extend([7; 256]);
        long.extend([0x05, 0x00]);
        let mut reader = Reader::new(&long);
        assert_eq!(reader.optional(SEQUENCE), None);
        let first = reader.next().unwrap();
        assert_eq!((first.tag, first.value.len()), (OCTET_STRING, 256));
        assert_eq!(first.whole.len(), 260);
        assert_eq!(reader.optional(0x05), Some(&[][..]));
        assert_eq!(reader.next(), None);
    }

    #[test]
    fn no_damaged_element_of_a_list_is_passed_over() {
        let each = |der| {
            Reader::new(der)
                .each(SET)
                .map(|set| set.map(|set| set.0.len()))
        };
        for (der, lengths) in [
            (&[][..], &[][..]),
            (&[0x31, 0x00, 0x31, 0x01, 0x05], &[Some(0), Some(1)]),
            (&[0x31, 0x00, 0x12, 0x00, 0x31, 0x00], &[Some(0), None]),
            (&[0x31, 0x00, 0x31, 0x01], &[Some(0), None]),
            (&[0x31], &[None]),
        ] {
            assert!(each(der).eq(lengths.iter().copied()), "{der:?}");
        }
    }

    #[test]
    fn what_is_no_element_ends_it() {
        for der in [
            &[][..],
            &[0x30],
            &[0x30, 0x01],
            &[0x30, 0x80, 0x00, 0x00],
            &[0x30, 0x81],
            &[0x30, 0x85, 0, 0, 0, 0, 1, 9],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 1],
            &[0x1f, 0x01, 0x00],
        ] {
            assert_eq!(Reader::new(der).next(), None, "{der:?}");
        }
    }
}
