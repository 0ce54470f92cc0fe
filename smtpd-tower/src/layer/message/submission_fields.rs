use std::{
    task::{Context, Poll},
    time::SystemTime,
};

use tower_layer::Layer;
use tower_service::Service;

use crate::{
    body::{Body, Head},
    header::{Date, clean},
    phase::{Data, Request},
    session::QueueId,
};

/// Adds the `Date:` and the `Message-ID:` field to a message from a user if they are missing (RFC 6409 sections 8.2 and 8.3).
///
/// It fits DATA only, and refuses nothing. It is for submission: messages from other servers must not be changed. A message that
/// lacks nothing passes byte for byte. If a message has no header at all, an empty line ends the fields: see
/// [`Body::prepend_header`]. The fields go before the message, so put [`ReceivedLayer`](crate::layer::ReceivedLayer) inside of
/// this one to keep the trace header on top.
///
/// The header section is buffered until its end, or up to 64 KiB; the rest streams. If it is longer, nothing is added, because a
/// message must not have a second `Date` or `Message-ID` (RFC 5322 section 3.6).
///
/// ```
/// use std::time::{Duration, SystemTime};
///
/// use smtpd_tower::{
///     Body, Data, Envelope, Request, Session, deliver::Inbox,
///     layer::SubmissionFieldsLayer,
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let inbox = Inbox::new();
/// let layer = SubmissionFieldsLayer::new()
///     .clock(|| SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_377_600));
/// let data = ServiceBuilder::new().layer(layer).service(inbox.clone());
///
/// let message = Data::new(
///     Envelope::default(),
///     Body::from("Message-ID: <1@a.test>\r\n\r\nHello\r\n"),
/// );
/// data.oneshot(Request::new(Session::local(), message)).await?;
/// assert_eq!(
///     inbox.next().await.message(),
///     "Date: Sun, 22 Nov 2026 20:00:00 +0000\r\n\
///      Message-ID: <1@a.test>\r\n\r\nHello\r\n"
/// );
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SubmissionFieldsLayer {
    clock: fn() -> SystemTime,
}

impl SubmissionFieldsLayer {
    /// Adds the missing fields, with the time at which the header ended, and the name of the server in the id.
    pub fn new() -> Self {
        Self {
            clock: SystemTime::now,
        }
    }

    /// Sets the clock, for tests. Default: [`SystemTime::now`].
    #[must_use]
    pub fn clock(self, clock: fn() -> SystemTime) -> Self {
        Self { clock }
    }
}

impl Default for SubmissionFieldsLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for SubmissionFieldsLayer {
    type Service = SubmissionFields<S>;

    fn layer(&self, inner: S) -> SubmissionFields<S> {
        SubmissionFields {
            inner,
            clock: self.clock,
        }
    }
}

/// The service of [`SubmissionFieldsLayer`].
#[derive(Clone, Debug)]
pub struct SubmissionFields<S> {
    inner: S,
    clock: fn() -> SystemTime,
}

/// The bytes of a header section that are inspected.
const LIMIT: usize = 64 << 10;

impl<S> Service<Request<Data>> for SubmissionFields<S>
where
    S: Service<Request<Data>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Data>) -> S::Future {
        let clock = self.clock;
        let host = request.session().hostname().to_owned();
        let complete = |body: Body| {
            body.prepend_by_head(LIMIT, move |head| missing_fields(head, clock(), &host))
        };
        self.inner.call(request.map_body(complete))
    }
}

fn missing_fields(head: &Head, time: SystemTime, host: &str) -> String {
    let mut fields = String::new();
    if head.field("Date").is_none() {
        fields += &format!("Date: {}\r\n", Date(time));
    }
    if head.field("Message-ID").is_none() {
        // RFC 5322 section 3.6.4: after the at sign there is a domain, or a literal in brackets.
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
        let host = match clean::is_literal(host) {
            true => host.to_owned(),
            false => host.replace(|c| !is_allowed(c), "-"),
        };
        fields += &format!("Message-ID: <{}@{host}>\r\n", QueueId::at(time));
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_added() {
        for (head, date, id) in [
            ("Subject: hi\r\n\r\n", true, true),
            ("dAtE: x\r\n\r\n", false, true),
            ("MESSAGE-ID: x\r\n\r\n", true, false),
            ("Date:\r\nMessage-Id:\r\n\r\n", false, false),
            ("Resent-Date: x\r\nX-Message-ID: y\r\n\r\n", true, true),
        ] {
            let of = Head::from(bytes::Bytes::from(head));
            let fields = missing_fields(&of, SystemTime::UNIX_EPOCH, "mx.test");
            let added = Head::from(bytes::Bytes::from(fields));
            let has = |name| added.field(name).is_some();
            assert_eq!((has("Date"), has("Message-ID")), (date, id), "{head}");
        }
    }

    #[tokio::test]
    async fn no_second_date_is_added_if_the_header_is_too_long_to_inspect() {
        let fields = "Date: x\r\nMessage-ID: <1@a.test>\r\n\r\nHello\r\n";
        for (len, is_known) in [(LIMIT - 200, true), (LIMIT + 9, false), (3 * LIMIT, false)] {
            for fields in [fields, "\r\nHello\r\n"] {
                let filling = "X: 1234\r\n".repeat(len / 9);
                let message = format!("{filling}{fields}");
                // In one chunk, the end of the header is there, but beyond the limit.
                for size in [1000, LIMIT, usize::MAX] {
                    let inbox = crate::deliver::Inbox::new();
                    let service = SubmissionFieldsLayer::new().layer(inbox.clone());
                    let chunks = message.as_bytes().chunks(size);
                    let body = crate::body::in_pieces(chunks, Ok(()));
                    let data = Data::new(smtpd_core::envelope::Envelope::default(), body);
                    let request = Request::new(crate::session::Session::local(), data);
                    tower::ServiceExt::oneshot(service, request).await.unwrap();
                    let mail = inbox.next().await;
                    let is_added = mail.message().len() > message.len();
                    let is_missing = fields.starts_with('\r');
                    assert_eq!(is_added, is_known && is_missing, "{len} {size}");
                    assert!(mail.message().ends_with(message.as_bytes()));
                }
            }
        }
    }

    #[test]
    fn a_host_of_any_name_makes_an_id() {
        let head = Head::default();
        for (host, end) in [
            ("mx.test", "@mx.test>\r\n"),
            ("[192.0.2.1]", "@[192.0.2.1]>\r\n"),
            ("[192.0.2.1", "@-192.0.2.1>\r\n"),
            ("a:b[c]", "@a-b-c->\r\n"),
            ("a>b(c)\u{fc}", "@a-b-c-->\r\n"),
        ] {
            let fields = missing_fields(&head, SystemTime::now(), host);
            assert!(fields.ends_with(end), "{fields}");
        }
    }
}
