//! What a server offers.

use super::raw_reply::RawReply;
use crate::helo::Greeting;

/// What the server offers in its reply to EHLO or LHLO (RFC 5321 section 4.1.1.1). After HELO, it is nothing.
///
/// What was offered in plaintext is forgotten when TLS begins (RFC 3207 section 4.2).
///
/// ```
/// use smtpd_core::client::Capabilities;
///
/// let offers: Capabilities =
///     "PIPELINING\r\nSIZE 1048576\r\nAUTH PLAIN LOGIN".parse()?;
/// assert!(offers.has("pipelining") && !offers.has("CHUNKING"));
/// assert_eq!(offers.size_limit(), Some(1_048_576));
/// assert!(offers.mechanisms().eq(["PLAIN", "LOGIN"]));
/// # Ok::<(), std::convert::Infallible>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    greeting: Option<Greeting>,
    /// In upper case, with what follows each of them.
    keywords: Vec<(String, String)>,
}

impl Capabilities {
    pub(super) fn of(greeting: Greeting, reply: &RawReply) -> Self {
        // The first line has the name of the server. RFC 5321 section 4.1.1.1: the reply to HELO has no keywords.
        let lines = reply.lines().skip(1).filter(|_| greeting != Greeting::Helo);
        let lines = lines.filter_map(|line| std::str::from_utf8(line).ok());
        Self {
            greeting: Some(greeting),
            keywords: lines.filter_map(keyword).collect(),
        }
    }

    /// Returns by which command the client introduced itself, or `None` before the reply to it.
    pub const fn greeting(&self) -> Option<Greeting> {
        self.greeting
    }

    /// Returns whether the server offers an extension, by its keyword in any letter case.
    pub fn has(&self, keyword: &str) -> bool {
        self.argument(keyword).is_some()
    }

    /// Returns what follows a keyword, or `None` if the server does not offer it.
    pub fn argument(&self, keyword: &str) -> Option<&str> {
        let mut all = self.keywords.iter();
        let found = all.find(|(known, _)| known.eq_ignore_ascii_case(keyword));
        found.map(|(_, argument)| argument.as_str())
    }

    /// Returns the keywords, in upper case, and what follows each of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.keywords
            .iter()
            .map(|(keyword, argument)| (keyword.as_str(), argument.as_str()))
    }

    /// Returns the maximum size of a message in bytes that the server announces by SIZE. `None` if it announces none (RFC 1870
    /// section 4).
    pub fn size_limit(&self) -> Option<u64> {
        let limit: u64 = self.argument("SIZE")?.parse().ok()?;
        (limit > 0).then_some(limit)
    }

    /// Returns the maximum number of recipients of a message that the server announces by LIMITS (RFC 9422 section 4.2).
    pub fn recipient_limit(&self) -> Option<u32> {
        let mut limits = self.argument("LIMITS")?.split(' ');
        limits.find_map(|limit| limit.strip_prefix("RCPTMAX=")?.parse().ok())
    }

    /// Returns the mechanisms that the server offers by AUTH.
    pub fn mechanisms(&self) -> impl Iterator<Item = &str> {
        let names = self.argument("AUTH").unwrap_or_default().split(' ');
        names.filter(|name| !name.is_empty())
    }
}

/// Parses the keywords as the lines of a reply show them, without codes.
impl std::str::FromStr for Capabilities {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self {
            greeting: Some(Greeting::Ehlo),
            keywords: text.lines().filter_map(keyword).collect(),
        })
    }
}

/// RFC 5321 section 4.1.1.1: `ehlo-line = ehlo-keyword *( SP ehlo-param )`. Whatever else a server sends is no keyword.
fn keyword(line: &str) -> Option<(String, String)> {
    let (keyword, argument) = line.split_once(' ').unwrap_or((line, ""));
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let is_keyword = !keyword.is_empty() && keyword.bytes().all(is_word);
    let is_clean = argument.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let found = (keyword.to_ascii_uppercase(), argument.trim().to_owned());
    (is_keyword && is_clean).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_no_keywords_are_ignored() {
        let text = "8bitmime\nsize 10\nAUTH=PLAIN LOGIN\n\n HELP\nX\u{e9}\nLIMITS MAILMAX=2 RCPTMAX=7\nA\tB";
        let offers: Capabilities = text.parse().unwrap();
        let keywords: Vec<_> = offers.iter().map(|(keyword, _)| keyword).collect();
        assert_eq!(keywords, ["8BITMIME", "SIZE", "LIMITS"]);
        assert_eq!(
            (offers.size_limit(), offers.recipient_limit()),
            (Some(10), Some(7))
        );
        assert_eq!(offers.mechanisms().count(), 0);
    }

    #[test]
    fn a_size_of_nothing_is_no_limit() {
        for text in ["SIZE", "SIZE 0", "SIZE many", "SIZE 99999999999999999999"] {
            let offers: Capabilities = text.parse().unwrap();
            assert_eq!(offers.size_limit(), None, "{text}");
            assert!(offers.has("Size"));
        }
    }
}
