use bytes::Bytes;

/// What to do with NUL bytes in the text of a message.
///
/// NUL is not allowed in text, whatever its encoding (RFC 2045 sections 2.7 and 2.8, RFC 5322 section 4). Programs that end a string at
/// a NUL see less of such a message than others do, a filter for instance less than the reader: that is why it is rejected by
/// default.
///
/// The policy does not apply to a message declared with `BODY=BINARYMIME` (RFC 3030 section 3).
///
/// ```
/// use smtpd_core::{Config, NulByte};
///
/// let config = Config::new("mx.example.org").nul_byte(NulByte::Strip);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NulByte {
    /// Reject the message with 554 5.6.1 when its end has come.
    #[default]
    Reject,
    /// Leave each out. A CR and an LF that one stood between become a line end then, unless
    /// [`BareNewline`](super::BareNewline) rejects the message or repairs it, as it does by default. With
    /// [`BareNewline::PassThrough`](super::BareNewline::PassThrough), a message can thus hold what looks like its end.
    Strip,
    /// Hand them on as they are.
    PassThrough,
}

/// The text without its NUL bytes.
pub(super) fn strip(text: Bytes) -> Bytes {
    let kept: Vec<u8> = text.iter().copied().filter(|&byte| byte != 0).collect();
    kept.into()
}
