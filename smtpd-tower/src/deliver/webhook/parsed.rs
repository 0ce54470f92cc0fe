use base64::{Engine, engine::general_purpose::STANDARD};
use mail_parser::{Address, Message, MessagePart, MimeHeaders};
use serde_json::{Map, Value, json};

use crate::mime::{MimeError, Parsed};

/// Adds the parsed message.
pub(super) fn add(object: &mut Map<String, Value>, parsed: &Parsed) -> Result<(), MimeError> {
    let message = parsed.message()?;
    let fields = message
        .headers_raw()
        .map(|(name, value)| json!({ "name": name.trim(), "value": unfolded(value) }));
    let attachments = message.attachments().map(attachment);
    let values = [
        ("headers", fields.collect()),
        ("from", addresses(message.from())),
        ("to", addresses(message.to())),
        ("cc", addresses(message.cc())),
        ("reply_to", addresses(message.reply_to())),
        ("subject", json!(message.subject())),
        ("date", json!(message.date().map(|date| date.to_rfc3339()))),
        ("message_id", json!(message.message_id())),
        ("text", json!(text(&message))),
        ("html", json!(html(&message))),
        ("attachments", attachments.collect()),
    ];
    for (name, value) in values {
        object.insert(name.to_owned(), value);
    }
    Ok(())
}

/// Returns the first text that was sent as such. HTML is not converted.
fn text<'a>(message: &'a Message<'_>) -> Option<&'a str> {
    let id = *message.text_body.first()?;
    let part = message.parts.get(usize::try_from(id).ok()?)?;
    (!part.is_text_html())
        .then(|| part.text_contents())
        .flatten()
}

fn html<'a>(message: &'a Message<'_>) -> Option<&'a str> {
    let id = *message.html_body.first()?;
    let part = message.parts.get(usize::try_from(id).ok()?)?;
    part.is_text_html().then(|| part.text_contents()).flatten()
}

fn addresses(address: Option<&Address<'_>>) -> Value {
    let all = address.into_iter().flat_map(Address::iter);
    let one = |address: &mail_parser::Addr<'_>| json!({ "name": address.name(), "address": address.address() });
    all.map(one).collect()
}

fn attachment(part: &MessagePart<'_>) -> Value {
    let kind = part.content_type().map(|kind| match kind.subtype() {
        Some(subtype) => format!("{}/{subtype}", kind.ctype()),
        None => kind.ctype().to_owned(),
    });
    let bytes = part.contents();
    json!({
        "filename": part.attachment_name(),
        "content_type": kind,
        "content_id": part.content_id(),
        "size": bytes.len(),
        "content": STANDARD.encode(bytes),
    })
}

/// Returns the value of a field in one line (RFC 5322 section 2.2.3).
fn unfolded(value: &str) -> String {
    value.trim().replace(['\r', '\n'], "")
}
