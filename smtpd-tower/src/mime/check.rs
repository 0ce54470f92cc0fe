use std::borrow::Cow;

use mail_parser::{
    ContentType, GetHeader, Header, HeaderName, HeaderValue, MessageParser, parsers::MessageStream,
};

use super::MimeError;

/// The limits on a message's structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) nesting: usize,
    pub(super) parts: usize,
}

/// Walks through a message as mail-parser does, but keeps nothing of it, and stops at the first limit that it exceeds. That takes
/// about as long as parsing it.
///
/// `MessageParser::parse` recurses only into messages in base64 and quoted-printable, at most three levels deep. However, its
/// result is dropped, cloned and shown by recursion through all nested messages. Their depth cannot be determined from the text
/// without mail-parser's rules, for example which boundary ends what. So those rules are followed here, with the functions that
/// mail-parser itself uses to read headers and bodies.
pub(super) fn check(message: &[u8], limits: Limits) -> Result<(), MimeError> {
    let mut budget = Budget {
        parts: limits.parts,
        header: MOST_HEADER,
        parameters: MOST_PARAMETERS,
        searched: MOST_SEARCHED.saturating_add(message.len().saturating_mul(4)),
        copied: MOST_COPIED.saturating_add(message.len().saturating_mul(4)),
    };
    Walk {
        stream: MessageStream::new(message),
        len: message.len(),
        headers: Vec::new(),
        state: State::MESSAGE,
        outer: Vec::new(),
        nesting: limits.nesting,
        encoded: MOST_ENCODED,
        budget: &mut budget,
    }
    .run()
}

/// How many levels of encoded messages mail-parser decodes.
const MOST_ENCODED: usize = 3;

/// The bytes of all header sections, and of one: a field of 3 bytes takes some 100 bytes of memory.
const MOST_HEADER: usize = 4 << 20;
const MOST_OF_A_SECTION: usize = 1 << 20;

/// The semicolons of all header sections, and of one: mail-parser compares each parameter of a field with all others.
const MOST_PARAMETERS: usize = 100_000;
const MOST_PARAMETERS_OF_A_SECTION: usize = 3_000;

/// How many bytes may be searched for the first boundary of a multipart without finding it, in addition to four times the
/// message.
const MOST_SEARCHED: usize = 64 << 20;

/// The bytes that may be copied for messages within an encoded one, each of which gets all of that, in addition to four times the
/// message.
const MOST_COPIED: usize = 16 << 20;

/// The rest of each limit.
struct Budget {
    parts: usize,
    header: usize,
    parameters: usize,
    searched: usize,
    copied: usize,
}

/// The walk through a message, or through one that was encoded in it.
struct Walk<'x, 'b> {
    stream: MessageStream<'x>,
    len: usize,
    headers: Vec<Header<'x>>,
    state: State,
    outer: Vec<State>,
    /// The number of levels that are left.
    nesting: usize,
    /// The number of levels of encoded messages that are left.
    encoded: usize,
    budget: &'b mut Budget,
}

/// What contains the parts that follow.
struct State {
    kind: Kind,
    boundary: Option<Vec<u8>>,
    /// Whether this contains a message, not a multipart.
    has_message: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Message,
    Digest,
    Other,
}

enum Encoding {
    Base64,
    QuotedPrintable,
    None,
}

impl State {
    const MESSAGE: Self = Self::new(Kind::Message, None);

    const fn new(kind: Kind, boundary: Option<Vec<u8>>) -> Self {
        Self {
            kind,
            boundary,
            has_message: false,
        }
    }
}

impl<'x> Walk<'x, '_> {
    fn run(&mut self) -> Result<(), MimeError> {
        while self.parse_headers()? {
            let part = Part::new(&self.headers, self.state.kind);
            let ends = if self.enters(&part)? {
                false
            } else {
                self.skip(&part)?;
                !self.leave()
            };
            if ends {
                break;
            }
        }
        Ok(())
    }

    fn parse_headers(&mut self) -> Result<bool, MimeError> {
        let rest = self.stream.bytes(self.stream.offset()..self.len);
        self.budget.take_header(rest)?;
        self.headers.clear();
        if !self
            .stream
            .parse_headers(&MessageParser::new(), &mut self.headers)
        {
            return Ok(false);
        }
        take(&mut self.budget.parts, 1, MimeError::TooManyParts)?;
        Ok(true)
    }

    /// Enters a multipart, or a message that is not encoded.
    fn enters(&mut self, part: &Part) -> Result<bool, MimeError> {
        if let Some(boundary) = &part.boundary {
            let searched = self.stream.remaining();
            if self.stream.seek_next_part(boundary) {
                self.stream.skip_crlf();
                let boundary = Some(boundary.clone());
                self.nest(State::new(part.kind, boundary), false)?;
                return Ok(true);
            }
            take(&mut self.budget.searched, searched, MimeError::TooComplex)?;
        } else if part.is_message() && matches!(part.encoding, Encoding::None) {
            if self.encoded < MOST_ENCODED {
                take(&mut self.budget.copied, self.len, MimeError::TooComplex)?;
            }
            let boundary = self.state.boundary.take();
            self.nest(State::new(Kind::Message, boundary), true)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn nest(&mut self, within: State, has_message: bool) -> Result<(), MimeError> {
        let mut outer = std::mem::replace(&mut self.state, within);
        outer.has_message = has_message;
        self.outer.push(outer);
        if self.outer.len() > self.nesting {
            return Err(MimeError::TooDeep);
        }
        Ok(())
    }

    /// Skips a part without parts, or walks through the message that is encoded in it.
    fn skip(&mut self, part: &Part) -> Result<(), MimeError> {
        let boundary = self.state.boundary.as_deref().unwrap_or_default();
        let (end, body) = match part.encoding {
            Encoding::Base64 => self.stream.decode_base64_mime(boundary),
            Encoding::QuotedPrintable => self.stream.decode_quoted_printable_mime(boundary),
            Encoding::None => self.stream.mime_part(boundary),
        };
        if end == usize::MAX {
            // It is not encoded as it claims, or has no end.
            let (_, has_end) = self.stream.seek_part_end(self.state.boundary.as_deref());
            if !has_end {
                self.state.boundary = None;
            }
        } else if part.is_message() && self.encoded > 0 {
            self.check_encoded(body)?;
        }
        Ok(())
    }

    fn check_encoded(&mut self, message: Cow<'x, [u8]>) -> Result<(), MimeError> {
        let depth = self.outer.len() + 1;
        let mut walk = Walk {
            stream: MessageStream::new(&message),
            len: message.len(),
            headers: Vec::new(),
            state: State::MESSAGE,
            outer: Vec::new(),
            nesting: self.nesting.checked_sub(depth).ok_or(MimeError::TooDeep)?,
            encoded: self.encoded - 1,
            budget: self.budget,
        };
        walk.run()
    }

    /// Leaves the multiparts and messages that end here. Returns `false` at the end of all.
    fn leave(&mut self) -> bool {
        if self.state.boundary.is_none() {
            return self.stream.offset() < self.len;
        }
        loop {
            if self.state.kind == Kind::Message {
                match self.outer.pop() {
                    Some(mut outer) if outer.has_message => {
                        outer.boundary = self.state.boundary.take();
                        self.state = outer;
                    }
                    _ => return false,
                }
            }
            if !self.stream.is_multipart_end() {
                return true;
            }
            let Some(outer) = self.outer.pop() else {
                return false;
            };
            self.state = outer;
            let boundary = self.state.boundary.as_deref();
            let next = boundary.and_then(|boundary| self.stream.seek_next_part_offset(boundary));
            if next.is_none() {
                return false;
            }
        }
    }
}

/// What the header of a part says about its body.
struct Part {
    kind: Kind,
    /// The boundary of a multipart.
    boundary: Option<Vec<u8>>,
    encoding: Encoding,
}

impl Part {
    fn new(headers: &Vec<Header<'_>>, within: Kind) -> Self {
        let value = |name| headers.header_value(&name);
        let content_type = value(HeaderName::ContentType).and_then(HeaderValue::as_content_type);
        let encoding = match value(HeaderName::ContentTransferEncoding) {
            Some(HeaderValue::Text(text)) if text.eq_ignore_ascii_case("base64") => {
                Encoding::Base64
            }
            Some(HeaderValue::Text(text)) if text.eq_ignore_ascii_case("quoted-printable") => {
                Encoding::QuotedPrintable
            }
            _ => Encoding::None,
        };
        let boundary = content_type
            .filter(|content_type| content_type.ctype() == "multipart")
            .and_then(|content_type| content_type.attribute("boundary"));
        Self {
            kind: kind(content_type, within),
            boundary: boundary.map(|boundary| boundary.as_bytes().to_vec()),
            encoding,
        }
    }

    fn is_message(&self) -> bool {
        self.kind == Kind::Message
    }
}

fn kind(content_type: Option<&ContentType<'_>>, within: Kind) -> Kind {
    match content_type.map(|content_type| (content_type.ctype(), content_type.subtype())) {
        Some(("message", Some("rfc822" | "global"))) => Kind::Message,
        Some(("multipart", Some("digest"))) => Kind::Digest,
        // RFC 2046 section 5.1.5.
        None if within == Kind::Digest => Kind::Message,
        _ => Kind::Other,
    }
}

impl Budget {
    /// Reads the header section at the beginning of `text`, at most as far as mail-parser reads it.
    fn take_header(&mut self, text: &[u8]) -> Result<(), MimeError> {
        let (mut header, mut parameters) = (MOST_OF_A_SECTION, MOST_PARAMETERS_OF_A_SECTION);
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            let semicolons = line.iter().filter(|&&byte| byte == b';').count();
            for (left, n) in [
                (&mut header, line.len()),
                (&mut self.header, line.len()),
                (&mut parameters, semicolons),
                (&mut self.parameters, semicolons),
            ] {
                take(left, n, MimeError::TooComplex)?;
            }
            if matches!(line, b"\n" | b"\r\n") {
                break;
            }
        }
        Ok(())
    }
}

fn take(left: &mut usize, n: usize, error: MimeError) -> Result<(), MimeError> {
    *left = left.checked_sub(n).ok_or(error)?;
    Ok(())
}
