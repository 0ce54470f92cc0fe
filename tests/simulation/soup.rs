//! Commands without a plan.

use crate::script::Author;

impl Author<'_> {
    /// A command, or what looks like one.
    pub(super) fn ingredient(&mut self) -> Vec<u8> {
        let n = self.number();
        let line = match self.dice.below(26) {
            0..3 => format!("EHLO soup{n}.example"),
            3 => format!("HELO soup{n}.example"),
            4..6 => format!("LHLO soup{n}.example"),
            6..9 => format!("MAIL FROM:<{}>", self.sender()),
            9..12 => format!("RCPT TO:<{}>", self.recipient()),
            12 => "DATA".to_owned(),
            13 => "BDAT 3 LAST\r\nabc".to_owned(),
            14 => return b"BDAT 5\r\nab\r\nc".to_vec(),
            15 => "RSET".to_owned(),
            16 => "NOOP".to_owned(),
            17 => format!("VRFY someone{n}"),
            18 => format!("HELP {n}"),
            19 => format!("XOK {n}"),
            20 => format!("EXPN list{n}"),
            21 => format!(". {n}"),
            22 => self.odd_line(),
            23 => "MAIL FROM:<evil@sender.example>".to_owned(),
            24 if self.dice.chance(30) => "QUIT".to_owned(),
            _ => format!("STARTTLS {n}"),
        };
        [line.as_bytes(), b"\r\n"].concat()
    }

    fn odd_line(&mut self) -> String {
        match self.dice.below(10) {
            0 => "x".repeat(20_000),
            1 if self.dice.chance(20) => "\x16\x03\x01".to_owned(),
            1 => "NO\x01OP".to_owned(),
            2 => String::new(),
            3 => "MAIL FROM:nobody".to_owned(),
            4 => "RCPT TO:<>".to_owned(),
            5 => "EHLO".to_owned(),
            6 => "RSET now".to_owned(),
            7 => "NOOP\nQUIT".to_owned(),
            8 if self.dice.chance(50) => "BDAT x".to_owned(),
            9 if self.dice.chance(50) => "GET / HTTP/1.1".to_owned(),
            _ => "DATA now".to_owned(),
        }
    }
}
