use std::{
    fmt,
    ops::Deref,
    str::{self, Utf8Error},
    sync::Arc,
};

use arrayvec::ArrayString;

/// The immutable text of an address. A short one, as most are, is stored inline: it is not allocated, and a clone is a copy. A
/// longer one is shared.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Text {
    Short(ArrayString<SHORT>),
    Long(Arc<str>),
}

/// With this length, a `Mailbox` has 48 bytes, and is moved with three instructions.
const SHORT: usize = 32;

impl Text {
    pub(super) fn from_utf8(bytes: &[u8]) -> Result<Self, Utf8Error> {
        let mut padded = Padded::default();
        let Some(front) = padded.0.get_mut(..bytes.len()) else {
            return str::from_utf8(bytes).map(Self::from);
        };
        front.copy_from_slice(bytes);
        let mut text = ArrayString::from_byte_string(&padded.0)?;
        text.truncate(bytes.len());
        Ok(Self::Short(text))
    }
}

/// A short text with zeros behind it. With this length and alignment, UTF-8 is checked many bytes at a time; otherwise, the check
/// takes as long as the rest of the parser.
#[derive(Default)]
#[repr(align(8))]
struct Padded([u8; SHORT]);

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        ArrayString::from(text).map_or_else(|_| Self::Long(text.into()), Self::Short)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Short(text) => text,
            Self::Long(text) => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mailbox_is_as_small_as_is_said() {
        assert_eq!(size_of::<super::super::Mailbox>(), 48);
    }

    #[test]
    fn text_is_the_same_however_long_it_is() {
        for len in [0, 1, SHORT - 1, SHORT, SHORT + 1, 300] {
            let text = "x".repeat(len);
            let stored = Text::from_utf8(text.as_bytes()).unwrap();
            assert_eq!((&*stored, &*stored.clone()), (&*text, &*text));
            assert_eq!(matches!(stored, Text::Short(_)), len <= SHORT);
        }
        assert!(Text::from_utf8(b"\xff").is_err());
    }

    #[test]
    fn a_character_that_is_cut_off_is_an_error_however_long_the_text_is() {
        for len in [0, 1, SHORT - 2, SHORT - 1, SHORT, SHORT + 1, 300] {
            let text = "x".repeat(len) + "\u{e9}";
            let whole = Text::from_utf8(text.as_bytes()).unwrap();
            assert_eq!((&*whole, whole.len()), (&*text, len + 2));
            assert!(
                Text::from_utf8(&text.as_bytes()[..len + 1]).is_err(),
                "{len}"
            );
        }
    }
}
