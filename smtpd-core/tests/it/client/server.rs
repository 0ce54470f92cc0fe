//! A server that does what a case says.

use std::time::Instant;

use smtpd_core::{
    Connection, DataReply, Reply, Step, bytes::BytesMut, connection::TlsFacts, sasl::Secret,
};

use super::{
    Case,
    network::{Moved, Pipe, bindings},
};

/// A message that the server has accepted for somebody.
#[derive(Debug)]
pub(super) struct Delivered {
    pub(super) number: usize,
    pub(super) body: Vec<u8>,
    /// The recipients for whom it is accepted.
    pub(super) accepted: Vec<usize>,
}

pub(super) struct Server {
    case: Case,
    connection: Connection,
    input: BytesMut,
    body: Vec<u8>,
    /// The number of the message, and its accepted recipients.
    number: usize,
    recipients: Vec<usize>,
    pub(super) delivered: Vec<Delivered>,
    pub(super) is_closed: bool,
    pub(super) wants_tls: bool,
}

impl Server {
    pub(super) fn new(case: &Case) -> Self {
        Self {
            case: case.clone(),
            connection: Connection::new(case.server()),
            input: BytesMut::new(),
            body: Vec::new(),
            number: usize::MAX,
            recipients: Vec::new(),
            delivered: Vec::new(),
            is_closed: false,
            wants_tls: false,
        }
    }

    /// Does one step. Returns whether anything has happened.
    pub(super) fn step(
        &mut self,
        now: Instant,
        from: &mut Pipe,
        to: &mut Pipe,
        encrypts: bool,
    ) -> Moved {
        let (case, number) = (&self.case, self.number);
        match self.connection.poll(now, &mut self.input) {
            Step::Write(mut writing) => {
                let len = to.push(writing.bytes());
                writing.wrote(len, now);
                return Moved::of(len > 0);
            }
            Step::Read(reading) => {
                assert!(reading.until() > now, "a wait without a deadline");
                match from.pull(&mut self.input) {
                    None => reading.into_connection().handle_eof(),
                    Some(len) => return Moved::of(len > 0),
                }
            }
            Step::Handshake(wait) => {
                self.wants_tls = true;
                if !encrypts {
                    if from.is_over() {
                        wait.failed();
                        return Moved::Yes;
                    }
                    return Moved::No;
                }
                self.wants_tls = false;
                let mut facts = TlsFacts::default();
                facts.bindings = bindings();
                wait.done(&mut self.input, facts);
            }
            Step::Closed(_) => {
                let is_new = !std::mem::replace(&mut self.is_closed, true);
                to.close();
                return Moved::of(is_new);
            }
            Step::Connect(ask) => ask.accept(),
            Step::Helo(_, ask) => ask.accept(),
            Step::Auth(_, ask) => ask.verify(Secret::password("secret")),
            Step::StartTls(ask) => ask.accept(),
            Step::Mail(mail, ask) => {
                let (number, _) = mail.sender().as_str().split_once('@').unwrap();
                self.number = number.parse().unwrap();
                self.recipients.clear();
                match case.messages[self.number].accepts_mail {
                    true => ask.accept(),
                    false => ask.refuse(Reply::sender_refused()),
                }
            }
            Step::Rcpt(rcpt, ask) => {
                let path = rcpt.recipient().to_string();
                let (_, recipient) = path.split_once('.').unwrap();
                let (recipient, _) = recipient.split_once('@').unwrap();
                let recipient: usize = recipient.parse().unwrap();
                match case.messages[number].recipients[recipient] {
                    (true, _) => {
                        self.recipients.push(recipient);
                        ask.accept();
                    }
                    (false, _) => ask.refuse(Reply::no_such_user()),
                }
            }
            Step::Data(ask) => {
                self.body.clear();
                ask.receive();
            }
            Step::Chunk(bytes, _) => self.body.extend_from_slice(&bytes),
            Step::ChunkEnd(ask) => ask.accept(),
            Step::Message(Err(error), _) => panic!("{error:?}"),
            Step::Message(Ok(()), ask) => {
                let accepts = |recipient: usize| case.messages[number].recipients[recipient].1;
                let replies = self
                    .recipients
                    .iter()
                    .map(|&recipient| match accepts(recipient) {
                        true => Reply::queued(recipient),
                        false => Reply::mailbox_full(),
                    });
                let accepted = self.recipients.iter().copied().filter(|&one| accepts(one));
                self.delivered.push(Delivered {
                    number,
                    body: std::mem::take(&mut self.body),
                    accepted: accepted.collect(),
                });
                ask.reply(DataReply::each(replies));
            }
            _ => {}
        }
        Moved::Yes
    }
}
