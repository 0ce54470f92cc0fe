//! What a client receives, compared with what the outermost layer has said.

use smtpd_tower::phase::PhaseKind;

use crate::{
    scene::{Outcome, Scene, State},
    session_plan::Message,
    station::Said,
};

/// The state of a session, as its lines show it.
#[derive(Default)]
pub struct Wire {
    /// The last line of the client, none before the first.
    line: Option<String>,
    /// The calls of outermost layers since.
    calls: Vec<usize>,
    /// The lines of the reply that is being written.
    reply: Vec<String>,
    /// How many replies there were to the last line, 354 aside.
    replies: usize,
    /// The message may come.
    goes_ahead: bool,
    /// The recipients that were accepted, and those that have the message.
    accepted: Vec<String>,
    delivered: Vec<String>,
    /// What the client sends.
    sending: Option<Message>,
    /// The first call that is about the client of the session.
    pub anew: usize,
    /// tower's timeout has given up the service.
    pub elapsed: bool,
    /// The client has gone, on purpose.
    pub gone: bool,
    /// The session is over.
    pub ended: bool,
}

impl Wire {
    pub fn called(&mut self, call: usize) {
        self.calls.push(call);
    }

    pub const fn send(&mut self, message: Message) {
        self.sending = Some(message);
    }

    pub const fn sending(&self) -> Option<Message> {
        self.sending
    }

    /// A service stores the message for a recipient, for whom it must have been accepted. Returns what was sent.
    pub fn deliver(&mut self, recipient: &str) -> Result<Message, String> {
        let count = |all: &[String]| all.iter().filter(|one| *one == recipient).count();
        if count(&self.delivered) >= count(&self.accepted) {
            return Err(format!("{recipient} gets a message of {:?}", self.accepted));
        }
        self.delivered.push(recipient.to_owned());
        self.sending
            .ok_or_else(|| "a message that nobody sends".to_owned())
    }

    fn is(&self, verb: &str) -> bool {
        let line = self.line.as_deref().unwrap_or_default();
        line.get(..verb.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(verb))
    }

    fn ends_transaction(&mut self) {
        self.accepted.clear();
        self.delivered.clear();
    }
}

/// A line of the client.
pub fn received(scene: &Scene, session: usize, line: &str) {
    let mut state = scene.lock();
    state.note(session, format_args!("C: {line}"));
    let is_response = state.wire(session).is("AUTH") && state.wire(session).replies == 0;
    if line.starts_with("[message") || is_response {
        return;
    }
    let begun = state.calls.len();
    let wire = state.wire(session);
    if !wire.reply.is_empty() {
        state.violate(format!("session {session}: a reply without its last line"));
    }
    let wire = state.wire(session);
    wire.line = Some(line.to_owned());
    wire.calls.clear();
    wire.replies = 0;
    wire.goes_ahead = false;
    wire.elapsed = false;
    if wire.is("XCLIENT") {
        wire.anew = begun;
    }
}

/// A line of the server.
pub fn sent(scene: &Scene, session: usize, line: &str) {
    let mut state = scene.lock();
    state.note(session, format_args!("S: {line}"));
    if let Err(wrong) = take(scene, &mut state, session, line) {
        state.violate(format!("session {session}: {wrong}"));
    }
}

fn take(scene: &Scene, state: &mut State, session: usize, line: &str) -> Result<(), String> {
    let (code, is_last) = shape(line)?;
    let wire = state.wire(session);
    if let Some(first) = wire.reply.first()
        && first.get(..3) != line.get(..3)
    {
        return Err(format!("{line:?} goes on after {first:?}"));
    }
    wire.reply.push(line.to_owned());
    if !is_last {
        return Ok(());
    }
    let lines = std::mem::take(&mut wire.reply);
    let first = lines.first().map(String::as_str).unwrap_or_default();
    let checked = replied(scene, state, session, code, first);
    let wire = state.wire(session);
    if code != 354 && code != 334 {
        wire.replies += 1;
    }
    checked
}

/// The form of a line (RFC 5321 section 4.2, RFC 2034 section 4).
fn shape(line: &str) -> Result<(u16, bool), String> {
    let wrong = || format!("a malformed reply: {line:?}");
    let code: u16 = line
        .get(..3)
        .and_then(|code| code.parse().ok())
        .ok_or_else(wrong)?;
    let is_last = match line.get(3..4) {
        Some(" ") => true,
        Some("-") => false,
        _ => return Err(wrong()),
    };
    let text = line.get(4..).unwrap_or_default();
    let status = text.split(' ').next().unwrap_or_default();
    let parts: Vec<_> = status.split('.').collect();
    let is_status = parts.len() == 3 && parts.iter().all(|part| part.parse::<u16>().is_ok());
    let class = parts[0].parse() == Ok(code / 100);
    let escaped = ["\\r", "\\n", "\\x00"].iter().any(|end| line.contains(end));
    let fine = (200..600).contains(&code) && line.len() <= 510 && !escaped && (!is_status || class);
    fine.then_some((code, is_last)).ok_or_else(wrong)
}

/// A reply is complete.
fn replied(
    scene: &Scene,
    state: &mut State,
    session: usize,
    code: u16,
    line: &str,
) -> Result<(), String> {
    let lmtp = scene.plan.lmtp;
    let wire = &state.wires[&session];
    let outer = wire.calls.last().map(|call| &state.calls[*call]);
    let checked = match outer {
        None => unasked(scene, wire, code),
        Some(_) if code == 354 => Ok(()),
        Some(call) => {
            let is_message = call.place.0 == PhaseKind::Data;
            // A message that is refused before it is sent has one reply.
            let each = lmtp && is_message && (wire.goes_ahead || wire.is("BDAT"));
            let number = each.then_some(wire.replies);
            let expected = Expected {
                phase: call.place.0,
                outcome: &call.outcome,
                number,
                recipients: call.facts.recipients.len(),
            };
            let more = !each && wire.replies > 0;
            match more {
                // The session ends, besides.
                true if code == 421 => Ok(()),
                true => Err(format!("another reply: {line:?}")),
                false => expected.check(code, line),
            }
            .and_then(|()| stored(wire, &call.outcome, is_message, number, code))
        }
    };
    let (rcpt, data) = (wire.is("RCPT"), wire.is("DATA") || wire.is("BDAT"));
    let ends = [
        "RSET", "EHLO", "LHLO", "HELO", "MAIL", "STARTTLS", "XCLIENT",
    ];
    let ends = code / 100 == 2 && ends.iter().any(|verb| wire.is(verb));
    let recipient = outer.and_then(|call| call.facts.recipient.clone());
    let replies = if lmtp && (wire.goes_ahead || wire.is("BDAT")) {
        wire.accepted.len()
    } else {
        1
    };
    let is_last = data && code != 354 && wire.replies + 1 >= replies;
    let wire = state.wire(session);
    match code {
        354 => wire.goes_ahead = true,
        250..=251 if rcpt => wire.accepted.extend(recipient),
        _ => {}
    }
    if ends || is_last {
        wire.ends_transaction();
    }
    checked
}

/// Nothing is accepted that no layer was asked about.
fn unasked(scene: &Scene, wire: &Wire, code: u16) -> Result<(), String> {
    let phase = match () {
        () if wire.line.is_none() => PhaseKind::Connect,
        () if wire.is("MAIL") => PhaseKind::Mail,
        () if wire.is("RCPT") => PhaseKind::Rcpt,
        () if wire.is("DATA") => PhaseKind::Data,
        () if wire.is("EHLO") || wire.is("LHLO") || wire.is("HELO") => PhaseKind::Helo,
        () => return Ok(()),
    };
    let has_layers = scene.topology.nodes.keys().any(|(kind, _)| *kind == phase);
    match has_layers && code < 400 {
        true => Err(format!(
            "{phase} is accepted by {code}, and no layer was asked"
        )),
        false => Ok(()),
    }
}

struct Expected<'a> {
    phase: PhaseKind,
    outcome: &'a Outcome,
    /// Which recipient the reply is for, if each has its own.
    number: Option<usize>,
    recipients: usize,
}

impl Expected<'_> {
    fn check(&self, code: u16, line: &str) -> Result<(), String> {
        let is_auth = self.phase == PhaseKind::Auth;
        if is_auth && code == 451 {
            return Err("451 to AUTH, where 454 is right (RFC 4954 section 6)".to_owned());
        }
        let fine = match self.outcome {
            Outcome::Said(all) => match (self.phase, self.number) {
                (PhaseKind::Data, None) => merges(all, code),
                (_, number) => {
                    self.carries(&all[number.unwrap_or(0).min(all.len() - 1)], code, line)
                }
            },
            Outcome::Failed(_) => [451, 454, 421].contains(&code),
            Outcome::Panicked(_) => code == 421,
            // The engine has run out of patience.
            Outcome::Dropped => code / 100 == 4,
            Outcome::Open => code / 100 == 4 || code == 334,
        };
        let surplus = self.number.is_some_and(|number| number >= self.recipients);
        (fine && !surplus).then_some(()).ok_or_else(|| {
            format!(
                "{line:?} where the layers of {} say {:?}",
                self.phase, self.outcome
            )
        })
    }

    /// Whether the client receives what was said.
    fn carries(&self, said: &Said, code: u16, line: &str) -> bool {
        let status = format!("{}.{} ", code / 100, said.status);
        let text = said.text.split('\n').next().unwrap_or_default();
        let text = text.as_bytes().escape_ascii().to_string();
        let same = line.contains(&text) && (said.status == "0.0" || line.contains(&status));
        match (self.phase, said.class()) {
            (PhaseKind::Connect, 2) => code == 220,
            (PhaseKind::Helo, 2) => code == 250,
            (PhaseKind::Auth, 2) => code == 235,
            // RFC 5321 section 3.8.
            (PhaseKind::Connect, 4) => code == 421 && line.contains(&text),
            // RFC 4954 section 6.
            (PhaseKind::Auth, 4) => code == said.code || code == 454,
            _ => code == said.code && same,
        }
    }
}

/// SMTP has one reply for all: positive only if all are.
fn merges(all: &[Said], code: u16) -> bool {
    let class = code / 100;
    match all.iter().all(|said| said.class() == 2) {
        true => class == 2,
        false => class > 2 && all.iter().any(|said| said.class() == class),
    }
}

/// The client receives no refusal for a recipient that has the message.
fn stored(
    wire: &Wire,
    outcome: &Outcome,
    is_message: bool,
    number: Option<usize>,
    code: u16,
) -> Result<(), String> {
    if !is_message || code < 300 || wire.elapsed {
        return Ok(());
    }
    let has = |recipient: &&String| wire.delivered.contains(recipient);
    let lost = match (number, outcome) {
        (Some(number), _) => wire.accepted.get(number).filter(has),
        // Another recipient was refused.
        (None, Outcome::Said(all)) if all.len() > 1 => None,
        (None, _) => wire.accepted.iter().find(has),
    };
    match lost {
        Some(lost) => Err(format!(
            "{lost} has the message, and the client receives {code}"
        )),
        None => Ok(()),
    }
}
