//! How a client identifies itself: by a PROXY header, and by SCRAM.

use super::Client;
use crate::{acts::Scram, model::Model, proxy::Header, scram::Opening, tls::Meaning};

impl Client {
    pub(super) fn say_header(&mut self, header: Header) {
        let end = self.link.lock().up.sent + header.bytes.len() as u64;
        self.out.push(header.bytes.clone(), Meaning::Nothing);
        self.header = Some((header, end));
    }

    /// Whether what it has sent is no PROXY header, and will not become one.
    pub fn has_no_header(&self) -> bool {
        match &self.header {
            Some((header, _)) => !header.sound,
            None => self.link.lock().up.sent > 0,
        }
    }

    pub(super) fn begin_scram(&mut self, scram: Scram) {
        let exporter = self.tls.as_ref().filter(|_| self.speaks_tls);
        let exporter = exporter.and_then(|tls| tls.exporter());
        let plus = scram.plus && exporter.is_some();
        let opening = Opening {
            header: match (plus, scram.wrong) {
                (true, false) => "p=tls-exporter,,",
                (true, true) => "p=tls-unique,,",
                (false, false) => "n,,",
                (false, true) => "y,,",
            },
            user: scram.user,
            bound: exporter.filter(|_| plus).unwrap_or_default(),
        };
        let mechanism = if plus {
            "SCRAM-SHA-256-PLUS"
        } else {
            "SCRAM-SHA-256"
        };
        let first = opening.message();
        let line = match scram.initial {
            true => format!("AUTH {mechanism} {first}\r\n"),
            false => format!("AUTH {mechanism}\r\n{first}\r\n"),
        };
        self.opening = Some(opening);
        self.say(line.into_bytes());
    }

    /// Responds to a challenge, if there is one.
    pub(super) fn prove(&mut self, model: &mut Model, right: bool) {
        let (Some(opening), Some(challenge)) = (&self.opening, model.challenge()) else {
            return;
        };
        let proof = opening.proof(challenge, right);
        model.will_prove(right);
        self.say(format!("{proof}\r\n").into_bytes());
    }
}
