//! How a job is written: fields of a tag, a length and a value. Unknown tags are skipped, so that a field can be added.

use std::{net::SocketAddr, str, sync::Arc};

use smtpd_core::{
    address::{Charset, ClientName, ForwardPath, Leniency, PathOptions, ReversePath},
    config::Protocol,
    connection::Greeting,
    envelope::{Envelope, Recipient},
    parameter::Parameters,
    reply::Reply,
};

use super::job::{Job, RecipientState, RecipientStatus};
use crate::{
    net::PeerAddr,
    session::{Profile, QueueId, SessionFacts, TlsInfo, TlsVersion},
};

const CREATED: u8 = 1;
const SESSION: u8 = 2;
const CLIENT: u8 = 3;
const LOCAL: u8 = 4;
const HOSTNAME: u8 = 5;
const PROTOCOL: u8 = 6;
const PROFILE: u8 = 7;
const HELO: u8 = 8;
const TLS: u8 = 9;
const IDENTITY: u8 = 10;
const SENDER: u8 = 11;
const SENDER_PARAMETERS: u8 = 12;
const RECIPIENT: u8 = 13;
/// Of the recipient before it.
const RECIPIENT_PARAMETERS: u8 = 14;
/// One for each recipient.
const STATE: u8 = 15;
const SNI: u8 = 16;

/// Appends a field.
fn put(tag: u8, value: &[u8], out: &mut Vec<u8>) {
    let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
    out.push(tag);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(value.get(..len as usize).unwrap_or(value));
}

/// Takes the next field. `None` if it is cut.
fn next<'a>(bytes: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (len, rest) = rest.split_first_chunk()?;
    let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    *bytes = rest;
    Some((*tag, value))
}

fn number(value: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(value.try_into().ok()?))
}

fn text(value: &[u8]) -> Option<&str> {
    str::from_utf8(value).ok()
}

/// Writes a job without its id.
pub(super) fn encode(job: &Job) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    put(CREATED, &job.created.to_le_bytes(), &mut out);
    encode_facts(&job.facts, &mut out);
    let envelope = &job.envelope;
    let sender = format!("<{}>", envelope.sender().raw());
    put(SENDER, sender.as_bytes(), &mut out);
    encode_parameters(SENDER_PARAMETERS, envelope.parameters(), &mut out);
    for recipient in envelope.recipients() {
        let path = format!("<{}>", recipient.path().raw());
        put(RECIPIENT, path.as_bytes(), &mut out);
        encode_parameters(RECIPIENT_PARAMETERS, recipient.parameters(), &mut out);
    }
    out.extend_from_slice(&encode_states(&job.states));
    out
}

fn encode_facts(facts: &SessionFacts, out: &mut Vec<u8>) {
    put(SESSION, &facts.id.to_le_bytes(), out);
    put(CLIENT, &encode_peer(&facts.client), out);
    put(LOCAL, &encode_peer(&facts.local), out);
    put(HOSTNAME, facts.hostname.as_bytes(), out);
    if facts.protocol == Protocol::Lmtp {
        put(PROTOCOL, b"lmtp", out);
    }
    if let Some(profile) = facts.profile {
        put(PROFILE, profile.as_str().as_bytes(), out);
    }
    if let Some((name, greeting)) = &facts.helo {
        let greeting = match greeting {
            Greeting::Helo => "HELO",
            Greeting::Lhlo => "LHLO",
            _ => "EHLO",
        };
        put(HELO, format!("{greeting} {name}").as_bytes(), out);
    }
    if let Some(tls) = &facts.tls {
        let resumed = if tls.is_resumed() { "resumed" } else { "full" };
        let tls_text = format!("{} {resumed} {}", tls.version(), tls.cipher());
        put(TLS, tls_text.as_bytes(), out);
        if let Some(name) = tls.sni() {
            put(SNI, name.as_bytes(), out);
        }
    }
    if let Some(identity) = &facts.identity {
        put(IDENTITY, identity.as_str().as_bytes(), out);
    }
}

/// A path that is no UTF-8 loses what is not.
fn encode_peer(peer: &PeerAddr) -> Vec<u8> {
    match peer {
        PeerAddr::Inet(addr) => format!("inet {addr}").into_bytes(),
        PeerAddr::Unix(Some(path)) => format!("unix {}", path.display()).into_bytes(),
        PeerAddr::Unix(None) => b"unix".to_vec(),
        PeerAddr::Unknown => b"unknown".to_vec(),
    }
}

fn encode_parameters(tag: u8, parameters: &Parameters, out: &mut Vec<u8>) {
    if parameters.is_empty() {
        return;
    }
    let words = parameters.iter().map(|(keyword, value)| match value {
        Some(value) => format!("{keyword}={value}"),
        None => keyword.to_owned(),
    });
    let words: Vec<_> = words.collect();
    put(tag, words.join(" ").as_bytes(), out);
}

/// Writes how far the deliveries are.
pub(super) fn encode_states(states: &[RecipientState]) -> Vec<u8> {
    let mut out = Vec::with_capacity(states.len() * 18);
    for state in states {
        let status = match state.status {
            RecipientStatus::Pending if state.told => 3,
            RecipientStatus::Pending => 0,
            RecipientStatus::Delivered => 1,
            RecipientStatus::Failed => 2,
        };
        let mut value = vec![status];
        value.extend_from_slice(&state.tries.to_le_bytes());
        value.extend_from_slice(&state.due.to_le_bytes());
        if let Some(reply) = &state.reply {
            value.extend_from_slice(encode_reply(reply).as_bytes());
        }
        put(STATE, &value, &mut out);
    }
    out
}

/// As it would be sent.
fn encode_reply(reply: &Reply) -> String {
    let (code, status) = (reply.code(), reply.status());
    let class = code.as_u16() / 100;
    let lines: Vec<_> = reply.lines().collect();
    let last = lines.len().saturating_sub(1);
    let lines = lines.iter().enumerate().map(|(number, line)| {
        let mark = if number == last { ' ' } else { '-' };
        format!("{code}{mark}{class}.{status} {line}")
    });
    lines.collect::<Vec<_>>().join("\r\n")
}

/// What is read, field by field.
struct Decoded {
    created: Option<u64>,
    facts: SessionFacts,
    local: PeerAddr,
    tls: Option<TlsInfo>,
    sender: Option<ReversePath>,
    parameters: Parameters,
    recipients: Vec<(ForwardPath, Parameters)>,
    states: Vec<RecipientState>,
}

/// Reads a job. `None` if it is malformed.
pub(super) fn decode(id: QueueId, mut bytes: &[u8]) -> Option<Job> {
    let mut decoded = Decoded {
        created: None,
        facts: SessionFacts::new(0, PeerAddr::Unknown, PeerAddr::Unknown, ""),
        local: PeerAddr::Unknown,
        tls: None,
        sender: None,
        parameters: Parameters::default(),
        recipients: Vec::new(),
        states: Vec::new(),
    };
    while !bytes.is_empty() {
        let (tag, value) = next(&mut bytes)?;
        decoded.field(tag, value)?;
    }
    decoded.finish(id)
}

impl Decoded {
    fn field(&mut self, tag: u8, value: &[u8]) -> Option<()> {
        match tag {
            CREATED => self.created = Some(number(value)?),
            SENDER => {
                let (path, rest) = ReversePath::parse(value, any_path()).ok()?;
                self.sender = rest.is_empty().then_some(path);
            }
            SENDER_PARAMETERS => self.parameters = text(value)?.parse().ok()?,
            RECIPIENT => {
                let (path, rest) = ForwardPath::parse(value, any_path()).ok()?;
                rest.is_empty().then_some(())?;
                self.recipients.push((path, Parameters::default()));
            }
            RECIPIENT_PARAMETERS => {
                self.recipients.last_mut()?.1 = text(value)?.parse().ok()?;
            }
            STATE => self.states.push(decode_state(value)?),
            _ => self.fact(tag, value)?,
        }
        Some(())
    }

    fn fact(&mut self, tag: u8, value: &[u8]) -> Option<()> {
        let facts = &mut self.facts;
        match tag {
            SESSION => facts.id = number(value)?,
            CLIENT => facts.client = decode_peer(text(value)?)?,
            LOCAL => self.local = decode_peer(text(value)?)?,
            HOSTNAME => text(value)?.clone_into(&mut facts.hostname),
            PROTOCOL => facts.protocol = Protocol::Lmtp,
            PROFILE => facts.profile = Some(decode_profile(text(value)?)?),
            HELO => facts.helo = Some(decode_helo(text(value)?)?),
            TLS => self.tls = Some(decode_tls(text(value)?)?),
            SNI => self.tls = Some(self.tls.take()?.with_sni(text(value)?)),
            IDENTITY => facts.identity = Some(text(value)?.into()),
            _ => {}
        }
        Some(())
    }

    fn finish(self, id: QueueId) -> Option<Job> {
        let mut envelope = Envelope::new(self.sender?).with_parameters(self.parameters);
        let count = self.recipients.len();
        for (path, parameters) in self.recipients {
            envelope.push(Recipient::new(path, parameters));
        }
        (self.states.len() == count).then_some(())?;
        let facts = SessionFacts {
            local: self.local,
            tls: self.tls,
            ..self.facts
        };
        Some(Job {
            id,
            created: self.created?,
            facts,
            envelope: Arc::new(envelope),
            states: self.states,
            held: false,
        })
    }
}

/// Whatever a server may have accepted.
const fn any_path() -> PathOptions {
    let leniency = Leniency::COMMON
        .allow_underscore_in_domain(true)
        .allow_trailing_dot_in_domain(true);
    PathOptions::new(leniency, Charset::Utf8)
}

fn decode_peer(text: &str) -> Option<PeerAddr> {
    Some(match text.split_once(' ') {
        Some(("inet", addr)) => addr.parse::<SocketAddr>().ok()?.into(),
        Some(("unix", path)) => PeerAddr::unix(Some(path)),
        None if text == "unix" => PeerAddr::unix(None::<&str>),
        None if text == "unknown" => PeerAddr::Unknown,
        _ => return None,
    })
}

fn decode_profile(text: &str) -> Option<Profile> {
    let all = [
        Profile::Mx,
        Profile::Submission,
        Profile::Submissions,
        Profile::Lmtp,
    ];
    all.into_iter().find(|profile| profile.as_str() == text)
}

fn decode_helo(text: &str) -> Option<(ClientName, Greeting)> {
    let (verb, name) = text.split_once(' ')?;
    let greeting = match verb {
        "HELO" => Greeting::Helo,
        "EHLO" => Greeting::Ehlo,
        "LHLO" => Greeting::Lhlo,
        _ => return None,
    };
    Some((name.parse().ok()?, greeting))
}

fn decode_tls(text: &str) -> Option<TlsInfo> {
    let (version, rest) = text.split_once(' ')?;
    let (handshake, cipher) = rest.split_once(' ')?;
    let all = [TlsVersion::Tls12, TlsVersion::Tls13];
    let version = all.into_iter().find(|one| one.as_str() == version)?;
    Some(TlsInfo::new(version, cipher.to_owned()).with_resumed(handshake == "resumed"))
}

fn decode_state(value: &[u8]) -> Option<RecipientState> {
    let (status, rest) = value.split_first()?;
    let (tries, rest) = rest.split_first_chunk()?;
    let (due, reply) = rest.split_first_chunk()?;
    let told = *status == 3;
    let status = match status {
        0 | 3 => RecipientStatus::Pending,
        1 => RecipientStatus::Delivered,
        2 => RecipientStatus::Failed,
        _ => return None,
    };
    let reply = match reply {
        [] => None,
        reply => Some(text(reply)?.parse().ok()?),
    };
    Some(RecipientState {
        status,
        tries: u32::from_le_bytes(*tries),
        due: u64::from_le_bytes(*due),
        reply,
        told,
    })
}

/// Reads what [`encode_states`] has written. `None` if it is malformed.
pub(super) fn decode_states(mut bytes: &[u8]) -> Option<Vec<RecipientState>> {
    let mut states = Vec::new();
    while !bytes.is_empty() {
        match next(&mut bytes)? {
            (STATE, value) => states.push(decode_state(value)?),
            _ => return None,
        }
    }
    Some(states)
}

#[cfg(test)]
mod tests {
    use smtpd_core::reply::{Code, Status};

    use super::*;
    use crate::{queue::Outcome, session::Session};

    fn full() -> Job {
        let session = Session::from_peer(([192, 0, 2, 1], 25))
            .with_helo("mx.example.com".parse().unwrap(), Greeting::Ehlo)
            .with_tls(
                TlsInfo::new(TlsVersion::Tls13, "TLS_AES_128_GCM_SHA256")
                    .with_sni("a.example")
                    .with_resumed(true),
            )
            .with_profile(Profile::Submission)
            .with_identity("álice");
        let path = |text: &str| ForwardPath::parse(text.as_bytes(), any_path()).unwrap().0;
        let mut envelope = Envelope::new("a@example.com".parse().unwrap())
            .with_parameters("SIZE=10 BODY=8BITMIME SMTPUTF8".parse().unwrap())
            .with_recipient(path("<Postmaster>"))
            .with_recipient(path("<.x..y.@under_score.example.>"))
            .with_recipient(path(&format!("<{}@example.org>", "l".repeat(100))))
            .with_recipient(path("<@relay.example:\"q > \\\"u\"@example.org>"))
            .with_recipient(path("<ö@ü.example>"));
        let parameters = "NOTIFY=NEVER ORCPT=rfc822;x".parse().unwrap();
        envelope.push(Recipient::new(path("<z@[192.0.2.1]>"), parameters));
        let mut job = Job::new(SessionFacts::from(&session), envelope);
        let later = Outcome::Deferred {
            reply: Reply::multiline(Code::LOCAL_ERROR, Status::MAIL_SYSTEM, ["one", "two"]),
            until: crate::queue::job::time(1_900_000_000_123),
            told: true,
        };
        let failed = Outcome::Failed(Reply::no_such_user());
        let done = Outcome::Delivered(Reply::OK);
        job.states = job.after(&[(0, done), (1, later), (2, failed)]);
        job
    }

    #[test]
    fn a_job_reads_as_it_was_written() {
        let job = full();
        assert_eq!(decode(job.id.clone(), &encode(&job)), Some(job.clone()));
        let states = encode_states(&job.states);
        assert_eq!(decode_states(&states), Some(job.states));
        for (client, local) in [
            (PeerAddr::Unknown, PeerAddr::unix(Some("/run/a b"))),
            (PeerAddr::unix(None::<&str>), PeerAddr::Unknown),
        ] {
            let mut facts = SessionFacts::new(u64::MAX, client, local, "h");
            facts.protocol = Protocol::Lmtp;
            facts.helo = Some(("l".parse().unwrap(), Greeting::Lhlo));
            let job = Job::new(facts, Envelope::default());
            assert_eq!(decode(job.id.clone(), &encode(&job)), Some(job));
        }
    }

    #[test]
    fn a_job_that_is_cut_or_changed_is_no_panic_and_no_other_job() {
        let job = full();
        let bytes = encode(&job);
        for end in 0..bytes.len() {
            assert_ne!(decode(job.id.clone(), &bytes[..end]), Some(job.clone()));
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x80;
            let _ = decode(job.id.clone(), &changed);
            let _ = decode_states(&changed);
        }
    }

    #[test]
    fn a_field_of_a_later_version_is_skipped() {
        let job = full();
        let mut bytes = encode(&job);
        put(200, b"news", &mut bytes);
        assert_eq!(decode(job.id.clone(), &bytes), Some(job));
    }
}
