//! What must hold of messages and their replies when a session is over.

use smtpd_tower::session::{EndReason, Summary};

use crate::{replies::Replies, services::Delivery};

/// Every positive reply is that of one service that has taken its message.
pub fn check_taken(replies: &Replies, deliveries: &[Delivery], end: &Summary) {
    let taken = |number: &usize| {
        deliveries
            .get(*number)
            .is_some_and(|delivery| delivery.taken)
    };
    assert!(replies.taken.iter().all(taken), "{replies:?}");
    let ordered = replies.taken.is_sorted_by(|one, next| one < next);
    assert!(ordered, "a message is answered twice: {replies:?}");
    let answers = replies.taken.len();
    assert!(answers <= end.messages as usize, "{end:?}: {replies:?}");
}

/// A client that reads on and does not go away gets every reply, and a last one.
pub fn check_nothing_is_lost(replies: &Replies, deliveries: &[Delivery], end: &Summary) {
    assert_eq!(replies.taken.len(), end.messages as usize, "{replies:?}");
    assert!(!replies.breaks_off, "half a reply");
    // Where it cannot be told any more what is a command, the refusal is the last reply.
    let closes = matches!(replies.last_code, Some(221 | 400..600));
    let is_lost = end.reason == EndReason::Lost;
    assert!(closes || is_lost, "no last reply: {replies:?}, {end:?}");
    for (number, delivery) in deliveries.iter().enumerate() {
        let owed = delivery.complete && delivery.taken;
        let answered = replies.taken.contains(&number);
        assert!(!owed || answered, "lost: {number} of {replies:?}");
    }
}

/// A message is what was sent, as far as this can be told without reading the commands.
pub fn check_delivery(delivery: &Delivery, sent: &[u8]) {
    let mut rest = sent.iter();
    let mut body = delivery.body.iter();
    assert!(
        body.all(|byte| rest.any(|sent| sent == byte)),
        "{delivery:?} was not sent"
    );
    let has_chunks = sent
        .windows(4)
        .any(|word| word.eq_ignore_ascii_case(b"bdat"));
    if !delivery.complete || has_chunks {
        return;
    }
    let message = [&delivery.body[..], b"\r\n"].concat();
    assert!(
        contains(&without_dots(sent), &message),
        "{delivery:?} was not sent so"
    );
}

/// The lines without the dots that they begin with (RFC 5321 section 4.5.2). The line that ends a message is empty then.
fn without_dots(sent: &[u8]) -> Vec<u8> {
    let mut text: Vec<u8> = Vec::with_capacity(sent.len());
    for (at, byte) in sent.iter().enumerate() {
        if *byte != b'.' || !sent[..at].ends_with(b"\r\n") {
            text.push(*byte);
        }
    }
    text
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
