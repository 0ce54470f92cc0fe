//! Clients that say who they are, or for whom they speak.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    acts::{Op, Scram},
    script::{Author, Kind},
};

impl Author<'_> {
    pub(super) fn claims(&mut self, kind: Kind) {
        for _ in 0..self.dice.between(1, 3) {
            self.claim();
        }
        if self.dice.chance(80) {
            self.hello(kind);
        }
        if self.dice.chance(40) {
            self.claim();
        }
    }

    fn scram(&mut self) {
        let scram = Scram {
            user: format!("u{}", self.number()),
            plus: self.dice.chance(50),
            wrong: self.dice.chance(10),
            initial: self.dice.chance(60),
        };
        self.ops.push_back(Op::Scram(scram));
        self.await_replies();
        if self.dice.chance(10) {
            self.say(self.dice.pick(&["*\r\n", "!!!\r\n", "bm9uc2Vuc2U=\r\n"]));
        }
        self.ops.push_back(Op::Proof(self.dice.chance(80)));
        self.await_replies();
        self.ops.push_back(Op::Proved);
        self.await_replies();
    }

    pub(super) fn auth(&mut self) {
        if self.dice.chance(40) {
            return self.scram();
        }
        let password = self.dice.pick(&["right", "wrong"]);
        let user = format!("u{}", self.number());
        let plain = STANDARD.encode(format!("\0{user}\0{password}"));
        let user = STANDARD.encode(user);
        let password = STANDARD.encode(password);
        match self.dice.below(6) {
            0 => self.say(format!("AUTH PLAIN {plain}\r\n")),
            1 => self.dialog(&["AUTH PLAIN", &plain]),
            2 => self.dialog(&["AUTH LOGIN", &user, &password]),
            3 => self.dialog(&["AUTH LOGIN", &user, "*"]),
            4 => self.dialog(&["AUTH PLAIN", "!!!"]),
            _ => self.say(format!(
                "AUTH LOGIN {user}\r\n{password}\r\nAUTH NONSENSE\r\n"
            )),
        }
        self.await_replies();
    }

    fn dialog(&mut self, lines: &[&str]) {
        let waits = self.dice.chance(70);
        for line in lines {
            self.say(format!("{line}\r\n"));
            if waits {
                self.await_replies();
            }
        }
    }
}
