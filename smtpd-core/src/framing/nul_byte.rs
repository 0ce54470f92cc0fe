use bytes::Bytes;

/// What to do with NUL bytes in the text of a message.
///
/// NUL is not allowed in text, whatever its encoding (RFC 2045 sections 2.7 and 2.8, RFC 5322 section 4). Programs that end a
/// string at a NUL see less of such a message than others do: for example, a filter may see less than the reader. This is why it
/// is rejected by default.
///
/// The policy does not apply to a message declared with `BODY=BINARYMIME` (RFC 3030 section 3).
///
/// ```
/// use smtpd_core::{Config, config::NulByte};
///
/// let config = Config::new("mx.example.org").nul_byte(NulByte::Strip);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NulByte {
    /// Reject the message with 554 5.6.1 once its end is reached.
    #[default]
    Reject,
    /// Remove them. A CR and an LF with a NUL between them then become a line end, unless [`BareNewline`](super::BareNewline)
    /// rejects or normalizes the message, as it does by default. With
    /// [`BareNewline::PassThrough`](super::BareNewline::PassThrough), a message can thus contain what looks like its end.
    Strip,
    /// Pass them on unchanged.
    PassThrough,
}

/// Returns the text without its NUL bytes.
pub(super) fn strip(text: Bytes) -> Bytes {
    let kept: Vec<u8> = text.iter().copied().filter(|&byte| byte != 0).collect();
    kept.into()
}
