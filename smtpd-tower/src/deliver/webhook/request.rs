//! The requests of messages.

use std::{
    io,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use hyper::{
    Method, Request, Uri,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde_json::{Map, Value};
use smtpd_core::{envelope::Envelope, reply::Reply};

use super::{
    outgoing::Outgoing,
    payload::{self, WebhookFormat},
    secret::WebhookSecret,
};
use crate::{
    memory::{MemoryBudget, Reservation},
    session::{QueueId, Session},
};

/// Fields that cannot be set.
const RESERVED: [&str; 9] = [
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "idempotency-key",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// A message that is known but for its content.
pub(super) struct Subject {
    pub(super) session: Session,
    pub(super) envelope: Arc<Envelope>,
    pub(super) id: QueueId,
}

impl Subject {
    /// Returns the fields for a message, without a signature.
    pub(super) fn fields(&self, format: WebhookFormat, own: &HeaderMap) -> HeaderMap {
        let mut fields = own.clone();
        let content_type = match format {
            WebhookFormat::Raw => "message/rfc822",
            _ => "application/json",
        };
        fields.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        for name in ["webhook-id", "idempotency-key"] {
            set(&mut fields, name, self.id.as_str());
        }
        if format == WebhookFormat::Raw {
            payload::describe(&mut fields, &self.session, &self.envelope);
        }
        fields
    }

    /// Returns the body for a message that is not streamed. It counts against the budget.
    pub(super) fn body(
        &self,
        format: WebhookFormat,
        message: Bytes,
        budget: &MemoryBudget,
    ) -> Result<Bytes, Reply> {
        if format == WebhookFormat::Raw {
            return Ok(message);
        }
        // What the object holds: the message in base64, or its parts as text and in base64.
        let mut reserved = budget.reserve(2 * message.len() as u64)?;
        let mut object = payload::object(&self.session, &self.envelope, &self.id);
        match format {
            #[cfg(feature = "mime")]
            WebhookFormat::ParsedJson => {
                let parsed = crate::mime::Parsed::new(message);
                super::parsed::add(&mut object, &parsed).map_err(|error| error.reply())?;
            }
            _ => payload::add_raw(&mut object, &message),
        }
        let json = written(&object, &mut reserved)?;
        drop(object);
        reserved.shrink_to(json.len() as u64);
        Ok(reserved.attach_to(json.into()))
    }
}

/// Returns the text of an object, for which more memory is reserved as it grows.
fn written(object: &Map<String, Value>, reserved: &mut Reservation) -> Result<Vec<u8>, Reply> {
    struct Counted<'a> {
        bytes: Vec<u8>,
        reserved: &'a mut Reservation,
        refused: Option<Reply>,
    }
    impl io::Write for Counted<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Err(reply) = self.reserved.grow(bytes.len() as u64) {
                self.refused = Some(reply);
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            self.bytes.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counted = Counted {
        bytes: Vec::new(),
        reserved,
        refused: None,
    };
    match serde_json::to_writer(&mut counted, object) {
        Ok(()) => Ok(counted.bytes),
        Err(_) => Err(counted.refused.unwrap_or_else(Reply::storage_full)),
    }
}

/// Adds the time and a signature for each secret (Standard Webhooks).
pub(super) fn sign(fields: &mut HeaderMap, id: &QueueId, body: &[u8], secrets: &[WebhookSecret]) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let timestamp = now.map_or(0, |now| now.as_secs()).to_string();
    let signatures = secrets
        .iter()
        .filter_map(|secret| secret.sign(id.as_str(), &timestamp, body));
    let signatures: Vec<_> = signatures.collect();
    set(fields, "webhook-timestamp", &timestamp);
    set(fields, "webhook-signature", &signatures.join(" "));
}

/// Returns the name of a field that a user may set.
pub(super) fn field_name(name: &str) -> Option<HeaderName> {
    HeaderName::try_from(name).ok().filter(|name| {
        let name = name.as_str();
        !RESERVED.contains(&name) && !name.starts_with("smtp-") && !name.starts_with("webhook-")
    })
}

pub(super) fn post(uri: &Uri, fields: HeaderMap, body: Outgoing) -> Request<Outgoing> {
    let mut post = Request::new(body);
    *post.method_mut() = Method::POST;
    *post.uri_mut() = uri.clone();
    *post.headers_mut() = fields;
    post
}

fn set(fields: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        fields.insert(HeaderName::from_static(name), value);
    }
}
