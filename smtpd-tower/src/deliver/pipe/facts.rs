use std::borrow::Cow;

use smtpd_core::{
    envelope::{Envelope, Recipient},
    parameter::OriginalRecipient,
    reply::{Code, Reply, Status},
};
use tokio::process::Command;

use crate::session::{QueueId, ReverseName, Session};

/// The most bytes that the recipients may have in one variable: Linux starts no program with a variable of 128 KiB.
const MAX_RECIPIENTS: usize = 100 * 1024;

/// What a command learns of a message.
#[derive(Debug)]
#[cfg_attr(test, derive(Default))]
pub(super) struct Facts {
    pub(super) sender: String,
    pub(super) recipients: Vec<String>,
    pub(super) original_recipient: Option<String>,
    pub(super) queue_id: String,
    pub(super) session: u64,
    pub(super) client_address: String,
    pub(super) client_name: Option<String>,
    pub(super) helo: Option<String>,
    pub(super) user: Option<String>,
}

impl Facts {
    pub(super) fn new(session: &Session, envelope: &Envelope, id: &QueueId) -> Self {
        let recipients = envelope.recipients();
        let original = match recipients {
            [only] => only.parameters().get::<OriginalRecipient>(),
            _ => None,
        };
        let ip = session.client_addr().ip();
        let name = session
            .get::<ReverseName>()
            .filter(ReverseName::is_confirmed);
        let path = |recipient: &Recipient| recipient.path().as_str().to_owned();
        Self {
            sender: envelope.sender().as_str().to_owned(),
            recipients: recipients.iter().map(path).collect(),
            original_recipient: original.map(|original| clean(original.address())),
            queue_id: id.to_string(),
            session: session.id(),
            client_address: ip.map(|ip| ip.to_string()).unwrap_or_default(),
            client_name: name.map(|name| name.as_str().to_owned()),
            helo: session.helo().map(|helo| clean(helo.as_str())),
            user: session.identity().map(|user| clean(user.as_str())),
        }
    }

    /// Refuses addresses that no argument or variable can hold unchanged.
    pub(super) fn check(&self) -> Result<(), Reply> {
        let mut addresses = self.recipients.iter().chain([&self.sender]);
        if addresses.any(|address| address.contains(char::is_control)) {
            return Err(unsafe_address());
        }
        let bytes = self.recipients.iter().map(|recipient| recipient.len() + 1);
        match bytes.sum::<usize>() > MAX_RECIPIENTS {
            true => Err(Reply::too_many_recipients()),
            false => Ok(()),
        }
    }

    /// Sets the variables.
    pub(super) fn export(&self, command: &mut Command) {
        let variables: [(&str, Option<Cow<'_, str>>); 9] = [
            ("SENDER", Some((&self.sender).into())),
            ("RECIPIENT", Some(self.recipients.join("\n").into())),
            (
                "ORIGINAL_RECIPIENT",
                self.original_recipient.as_deref().map(Cow::from),
            ),
            ("QUEUE_ID", Some((&self.queue_id).into())),
            ("SESSION_ID", Some(self.session.to_string().into())),
            ("CLIENT_ADDRESS", Some((&self.client_address).into())),
            (
                "CLIENT_HOSTNAME",
                self.client_name.as_deref().map(Cow::from),
            ),
            ("CLIENT_HELO", self.helo.as_deref().map(Cow::from)),
            ("SASL_USERNAME", self.user.as_deref().map(Cow::from)),
        ];
        for (name, value) in variables {
            if let Some(value) = value {
                command.env(name, &*value);
            }
        }
    }
}

/// Returns the reply if an address cannot be given to the command.
pub(super) fn unsafe_address() -> Reply {
    Reply::new(
        Code::MAILBOX_NAME,
        Status::BAD_MAILBOX_SYNTAX,
        "Address not allowed here",
    )
}

/// Replaces control characters.
fn clean(text: &str) -> String {
    text.replace(char::is_control, "?")
}
