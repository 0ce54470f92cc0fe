use std::fmt::Write as _;

use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value, json};
use smtpd_core::{
    envelope::{Envelope, Recipient},
    parameter::OriginalRecipient,
};

use crate::session::{QueueId, ReverseName, Session};

/// What the body of a [`Webhook`](super::Webhook)'s request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WebhookFormat {
    /// The message as it was received, with the type `message/rfc822`; the envelope is in fields of the header. It is streamed,
    /// unless requests are [signed](super::Webhook::secret).
    #[default]
    Raw,
    /// JSON with the envelope, facts of the session, and the message in base64.
    Json,
    /// JSON with the envelope, facts of the session, and the parsed message.
    #[cfg(feature = "mime")]
    ParsedJson,
}

/// Sets the fields with the envelope and the session, for [`WebhookFormat::Raw`].
pub(super) fn describe(fields: &mut HeaderMap, session: &Session, envelope: &Envelope) {
    let mut add = |name: &'static str, text: &str| {
        if let Ok(value) = HeaderValue::from_str(&encoded(text)) {
            fields.append(HeaderName::from_static(name), value);
        }
    };
    add("smtp-sender", envelope.sender().as_str());
    for recipient in envelope.recipients() {
        add("smtp-recipient", recipient.path().as_str());
    }
    add("smtp-session", &session.id().to_string());
    if let Some(ip) = session.client_addr().ip() {
        add("smtp-client-address", &ip.to_string());
    }
    if let Some(helo) = session.helo() {
        add("smtp-helo", helo.as_str());
    }
    if let Some(user) = session.identity() {
        add("smtp-user", user.as_str());
    }
}

/// Returns a text with `%` and two digits for each byte that is not printable ASCII, and for `%` (RFC 3986 section 2.1).
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'%' | 0..=0x1f | 0x7f.. => {
                let _ = write!(encoded, "%{byte:02X}");
            }
            _ => encoded.push(char::from(byte)),
        }
    }
    encoded
}

/// Returns the object with everything but the message.
pub(super) fn object(session: &Session, envelope: &Envelope, id: &QueueId) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("id".to_owned(), json!(id.as_str()));
    object.insert("envelope".to_owned(), of_envelope(envelope));
    object.insert("session".to_owned(), of_session(session));
    object
}

fn of_envelope(envelope: &Envelope) -> Value {
    let of_recipient = |recipient: &Recipient| {
        let original = recipient.parameters().get::<OriginalRecipient>();
        json!({
            "address": recipient.path().as_str(),
            "original": original.map(|original| original.address().to_owned()),
        })
    };
    let recipients = envelope.recipients().iter().map(of_recipient);
    json!({
        "sender": envelope.sender().as_str(),
        "recipients": recipients.collect::<Vec<_>>(),
    })
}

fn of_session(session: &Session) -> Value {
    let name = session
        .get::<ReverseName>()
        .filter(ReverseName::is_confirmed);
    let tls = session
        .tls()
        .map(|tls| json!({ "version": tls.version().as_str(), "cipher": tls.cipher() }));
    json!({
        // Numbers in JSON have 53 bits.
        "id": session.id().to_string(),
        "client_address": session.client_addr().ip().map(|ip| ip.to_string()),
        "client_name": name.map(|name| name.as_str().to_owned()),
        "helo": session.helo().map(|helo| helo.as_str()),
        "user": session.identity().map(|user| user.as_str()),
        "tls": tls,
        "hostname": session.hostname(),
    })
}

/// Adds the message as it is.
pub(super) fn add_raw(object: &mut Map<String, Value>, message: &[u8]) {
    object.insert("message".to_owned(), json!(STANDARD.encode(message)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_break_out_of_its_field() {
        assert_eq!(encoded("a@example.org"), "a@example.org");
        assert_eq!(
            encoded("\"a b%\"@x\r\nset-cookie: é\0"),
            "\"a b%25\"@x%0D%0Aset-cookie: %C3%A9%00"
        );
    }
}
