//! Clients that begin with TLS, or come to it by STARTTLS.

use crate::{
    acts::Op,
    script::{Author, Kind},
    tls::Flaw,
};

impl Author<'_> {
    pub(super) fn tls_first(&mut self) {
        if self.dice.chance(10) {
            // One that does not know that the port is for TLS.
            return;
        }
        let flaw = self.flaw();
        self.handshake(false, flaw);
    }

    pub(super) fn starttls(&mut self, kind: Kind) {
        self.say(match self.dice.below(12) {
            0 => "STARTTLS\r\nNOOP\r\nMAIL FROM:<evil@sender.example>\r\n",
            1 => "STARTTLS\r\nEHLO evil.example\r\n",
            2 => "STARTTLS now\r\nSTARTTLS\r\n",
            _ => "STARTTLS\r\n",
        });
        let blind = self.dice.chance(15);
        if !blind {
            self.await_replies();
        }
        let flaw = self.flaw();
        self.handshake(blind, flaw);
        if self.dice.chance(90) {
            self.hello(kind);
        }
        if self.dice.chance(5) {
            self.say("STARTTLS\r\n");
            self.await_replies();
        }
    }

    fn flaw(&mut self) -> Flaw {
        match self.dice.below(16) {
            0 => Flaw::Rubbish(self.dice.below(500)),
            1 => Flaw::Rubbish(self.dice.below(10)),
            2 => Flaw::Plaintext,
            3 => Flaw::Silence,
            _ => Flaw::None,
        }
    }

    fn handshake(&mut self, blind: bool, flaw: Flaw) {
        self.ops.push_back(Op::Secure(blind, flaw));
        if self.dice.chance(5) {
            self.pause();
        }
        let limit = self.dice.pick(&[3000, 2_000_000, 2_000_000]);
        self.ops.push_back(Op::Secured(limit));
    }
}
