//! AUTH, and the responses within it (RFC 4954).

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{Mode, Model, State, commands::Line, expect};
use crate::journal::Kind;

/// How far an exchange has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sasl {
    /// PLAIN or LOGIN, with the responses so far.
    Password { login: bool, lines: Vec<String> },
    /// SCRAM, before the client's first message.
    First,
    /// SCRAM: the proof of that user is awaited. The codes are those of the end, where it is not good.
    Final { user: String, codes: Vec<u16> },
    /// SCRAM: the client has to take note of the server's signature.
    Proved { user: String },
}

impl Model {
    pub(super) fn auth(&mut self, event: u64, code: u16, line: &Line) -> Result<(), String> {
        if self.state != State::Ready {
            return expect(code, &[503]);
        }
        let mut words = line.argument().split_ascii_whitespace();
        let mechanism = words.next().unwrap_or_default().to_ascii_uppercase();
        if mechanism.is_empty() {
            return expect(code, &[501]);
        }
        if self.facts.identity.is_some() {
            return expect(code, &[503]);
        }
        let initial = words.next().map(str::to_owned);
        match mechanism.as_str() {
            "PLAIN" | "LOGIN" => {
                let login = mechanism == "LOGIN";
                self.password(event, code, login, initial.into_iter().collect())
            }
            "SCRAM-SHA-256-PLUS" if !self.facts.tls => expect(code, &[538]),
            "SCRAM-SHA-256-PLUS" if !self.binds => expect(code, &[504]),
            "SCRAM-SHA-256" | "SCRAM-SHA-256-PLUS" => match initial {
                Some(initial) => self.scram_first(event, code, &initial),
                None => self.challenged(code, Sasl::First),
            },
            _ => expect(code, &[504]),
        }
    }

    pub(super) fn sasl(&mut self, event: u64, code: u16, sasl: Sasl) -> Result<(), String> {
        let Some(line) = self.stream.line(u64::MAX) else {
            return Err("there is no response that it answers".to_owned());
        };
        let line = self.stream.advance(line);
        self.mode = Mode::Commands;
        let text = String::from_utf8_lossy(&line[..line.len() - 2]).into_owned();
        if text == "*" {
            return expect(code, &[501]);
        }
        match sasl {
            Sasl::Password { login, mut lines } => {
                lines.push(text);
                self.password(event, code, login, lines)
            }
            Sasl::First => self.scram_first(event, code, &text),
            Sasl::Final { user, codes } => self.scram_final(code, user, &codes, &text),
            Sasl::Proved { user } if text.is_empty() => {
                self.facts.identity = Some(user);
                expect(code, &[235])
            }
            Sasl::Proved { .. } => expect(code, &[501]),
        }
    }

    fn challenged(&mut self, code: u16, next: Sasl) -> Result<(), String> {
        self.mode = Mode::Sasl(next);
        expect(code, &[334])
    }

    fn password(
        &mut self,
        event: u64,
        code: u16,
        login: bool,
        lines: Vec<String>,
    ) -> Result<(), String> {
        let decoded: Option<Vec<String>> = lines.iter().map(|line| decode(line)).collect();
        let Some(decoded) = decoded else {
            return expect(code, &[501, 535]);
        };
        if decoded.len() < if login { 2 } else { 1 } {
            return self.challenged(code, Sasl::Password { login, lines });
        }
        let user = match login {
            true => Some(decoded[0].as_str()),
            false => decoded[0].split('\0').nth(1),
        };
        let Some(user) = user.filter(|user| self.is_asked(Kind::Auth, user)) else {
            let faulty = if self.may_be_unasked() { 454 } else { 535 };
            return expect(code, &[501, 535, faulty]);
        };
        let user = user.to_owned();
        let codes = self.answers(Kind::Auth, &user, event)?;
        if code == 235 {
            self.facts.identity = Some(user);
        }
        self.count_refused_auth(code);
        expect(code, &codes)
    }

    /// The first message. Whatever the service says of the user, the exchange goes on, so that nobody learns of it.
    fn scram_first(&mut self, event: u64, code: u16, text: &str) -> Result<(), String> {
        let Some(message) = decode(text) else {
            return expect(code, &[501]);
        };
        let Some((flag, user)) = message.split_once(",,n=") else {
            return expect(code, &[501]);
        };
        let fits = match flag {
            "n" | "p=tls-exporter" => true,
            // The client could have bound, and did not see that it can.
            "y" => !self.binds,
            _ => false,
        };
        if !fits {
            self.counts.auth_failures += 1;
            return expect(code, &[535]);
        }
        let user = user.split(',').next().unwrap_or_default().to_owned();
        let codes = match self.is_asked(Kind::Auth, &user) {
            true => self.answers(Kind::Auth, &user, event)?,
            false if self.may_be_unasked() => vec![454],
            false => return Err(format!("Auth was not asked about {user:?}")),
        };
        self.challenged(code, Sasl::Final { user, codes })
    }

    fn scram_final(
        &mut self,
        code: u16,
        user: String,
        codes: &[u16],
        text: &str,
    ) -> Result<(), String> {
        if !decode(text).is_some_and(|message| message.contains(",p=")) {
            return expect(code, &[501]);
        }
        // The service has given what the proof is compared with.
        let genuine = codes == [334];
        if genuine && self.proves {
            return self.challenged(code, Sasl::Proved { user });
        }
        self.count_refused_auth(code);
        expect(code, if genuine { &[535] } else { codes })
    }

    /// A refusal for good is a failed authentication, and one for now an error; those for good are errors anyway.
    fn count_refused_auth(&mut self, code: u16) {
        self.counts.auth_failures += u32::from(code >= 500);
        self.counts.errors += u32::from((400..500).contains(&code));
    }

    /// The challenge that a proof is awaited for, in base64.
    pub fn challenge(&self) -> Option<&str> {
        let awaited = matches!(self.mode, Mode::Sasl(Sasl::Final { .. }));
        self.last_line.strip_prefix("334 ").filter(|_| awaited)
    }

    /// Whether the client has only to take note that the server has proved itself.
    pub fn is_proved(&self) -> bool {
        matches!(self.mode, Mode::Sasl(Sasl::Proved { .. }))
    }

    /// Notes whether the proof that the client is about to send is right.
    pub fn will_prove(&mut self, right: bool) {
        self.proves = right;
    }
}

fn decode(text: &str) -> Option<String> {
    let bytes = STANDARD.decode(text).ok()?;
    String::from_utf8(bytes).ok()
}
