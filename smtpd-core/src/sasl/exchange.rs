use super::{Credentials, Identity, Mechanism, SaslError, Secret, Step, base64};

/// The maximum number of octets of a response line, without its CRLF (RFC 4954 section 4).
pub const MAX_RESPONSE_LINE: usize = 12_288;

/// Drives one [`Mechanism`] with the lines of the client and the answers of the application.
///
/// ```text
///  handle_initial ──▶ Challenge ──▶ send challenge_line, then call handle_line
///                     Ask ────────▶ handle_secret, handle_accepted, handle_refused
///                     Done, Failed, Err ──▶ over
/// ```
/// Each of these methods returns the next step in the same way. A call out of sequence returns [`SaslError::OutOfSequence`], and
/// the exchange is over.
#[derive(Debug)]
pub struct Exchange {
    mechanism: Box<dyn Mechanism>,
    state: State,
    /// The application has refused the client, which nothing can turn into success or another question.
    refused: bool,
    /// The name of the user whose secret the application gave.
    user: Option<Identity>,
}

#[derive(Debug)]
enum State {
    Start,
    Responding,
    Asking(Credentials),
    Over,
}

impl Exchange {
    /// Creates an exchange that has not begun.
    pub fn new(mechanism: Box<dyn Mechanism>) -> Self {
        Self {
            mechanism,
            state: State::Start,
            refused: false,
            user: None,
        }
    }

    /// Begins the exchange with the initial response of the AUTH command (`None` or empty: there was none).
    ///
    /// # Errors
    /// [`SaslError::Base64`], [`SaslError::TooLong`], and those of [`Mechanism::step`].
    pub fn handle_initial(&mut self, response: Option<&[u8]>) -> Result<Step, SaslError> {
        let State::Start = self.leave() else {
            return Err(SaslError::OutOfSequence);
        };
        match response {
            None | Some([]) => self.enter(|mechanism| mechanism.step(None)),
            Some(b"=") => self.enter(|mechanism| mechanism.step(Some(&[]))), // RFC 4954 section 4: an empty response
            Some(encoded) => self.respond(encoded),
        }
    }

    /// Processes the line that answers a challenge, without its CRLF.
    ///
    /// # Errors
    /// [`SaslError::Cancelled`], [`SaslError::Base64`], [`SaslError::TooLong`], and those of [`Mechanism::step`].
    pub fn handle_line(&mut self, line: &[u8]) -> Result<Step, SaslError> {
        let State::Responding = self.leave() else {
            return Err(SaslError::OutOfSequence);
        };
        if line == b"*" {
            return Err(SaslError::Cancelled); // RFC 4954 section 4
        }
        self.respond(line)
    }

    /// Continues after the application answered [`Step::Ask`] with the stored secret of the user. If the secret
    /// [names its user](Secret::with_user), the client is authenticated under that name, and may ask to act as it.
    ///
    /// # Errors
    /// Those of [`Mechanism::secret`].
    pub fn handle_secret(&mut self, secret: &Secret) -> Result<Step, SaslError> {
        let State::Asking(credentials) = self.leave() else {
            return Err(SaslError::OutOfSequence);
        };
        let credentials = match secret.user() {
            Some(user) => credentials.of_user(user),
            None => credentials,
        };
        self.user = secret.user().cloned();
        self.enter(|mechanism| mechanism.secret(&credentials, secret))
    }

    /// Continues after the application answered [`Step::Ask`] by accepting the client as `identity`.
    ///
    /// # Errors
    /// Those of [`Mechanism::accepted`].
    pub fn handle_accepted(&mut self, identity: Identity) -> Result<Step, SaslError> {
        let State::Asking(_) = self.leave() else {
            return Err(SaslError::OutOfSequence);
        };
        self.enter(|mechanism| mechanism.accepted(identity))
    }

    /// Continues after the application answered [`Step::Ask`] by refusing the client.
    ///
    /// Send the application's reply at [`Step::Failed`]; a mechanism may require the client to answer a challenge before. A
    /// mechanism that asks again, or accepts the client, fails, because the application has refused it.
    ///
    /// # Errors
    /// Those of [`Mechanism::refused`].
    pub fn handle_refused(&mut self) -> Result<Step, SaslError> {
        let State::Asking(_) = self.leave() else {
            return Err(SaslError::OutOfSequence);
        };
        self.refused = true;
        self.enter(|mechanism| mechanism.refused())
    }

    /// Returns whether the client already knows that it has failed, although the exchange continues.
    pub fn has_reported_failure(&self) -> bool {
        self.mechanism.has_reported_failure()
    }

    fn respond(&mut self, encoded: &[u8]) -> Result<Step, SaslError> {
        if encoded.len() > MAX_RESPONSE_LINE {
            return Err(SaslError::TooLong); // RFC 4954 section 4
        }
        let response = base64::decode(encoded)?;
        self.enter(|mechanism| mechanism.step(Some(&response)))
    }

    /// Takes the state, so that every early return leaves the exchange over.
    fn leave(&mut self) -> State {
        std::mem::replace(&mut self.state, State::Over)
    }

    fn enter(
        &mut self,
        advance: impl FnOnce(&mut dyn Mechanism) -> Result<Step, SaslError>,
    ) -> Result<Step, SaslError> {
        let step = match advance(&mut *self.mechanism)? {
            Step::Ask(_) | Step::Done(_) if self.refused => Step::Failed,
            Step::Done(typed) => Step::Done(self.user.take().unwrap_or(typed)),
            step => step,
        };
        self.state = match &step {
            Step::Challenge(_) => State::Responding,
            Step::Ask(credentials) => State::Asking(credentials.clone()),
            // RFC 4954 section 4: an empty authorization identity fails.
            Step::Done(identity) if identity.as_str().is_empty() => return Ok(Step::Failed),
            Step::Done(_) | Step::Failed => State::Over,
        };
        Ok(step)
    }
}

/// Returns the reply that carries a challenge: `334 ` and its base64 (RFC 4954 section 4), with CRLF.
///
/// ```
/// use smtpd_core::sasl::challenge_line;
///
/// assert_eq!(challenge_line(b""), b"334 \r\n");
/// assert_eq!(challenge_line(b"Username:"), b"334 VXNlcm5hbWU6\r\n");
/// ```
pub fn challenge_line(challenge: &[u8]) -> Vec<u8> {
    // RFC 4954 section 4: the space stays if there is no text.
    let mut line = b"334 ".to_vec();
    base64::encode_into(challenge, &mut line);
    line.extend_from_slice(b"\r\n");
    line
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::reply::Status;

    use super::{
        super::{ExchangeContext, Mechanisms, cram_md5::CramMd5},
        *,
    };

    const NONCE: [u8; 24] = *b"\x00\x0f\xf0\xff0123456789abcdefghij";

    fn start(mechanism: &str) -> Exchange {
        let mechanisms = Mechanisms::default().with(CramMd5);
        let factory = mechanisms.find(mechanism.as_bytes()).unwrap();
        Exchange::new(factory.start(&ExchangeContext::new("mx.example.org", &NONCE)))
    }

    fn encode(response: &str) -> String {
        let mut encoded = Vec::new();
        base64::encode_into(response.as_bytes(), &mut encoded);
        String::from_utf8(encoded).unwrap()
    }

    /// Returns the outcome of a step in a word.
    fn outcome(step: &Result<Step, SaslError>) -> String {
        match step {
            Ok(Step::Challenge(challenge)) => format!("334 {}", String::from_utf8_lossy(challenge)),
            Ok(Step::Ask(credentials)) => format!("ask {}", credentials.username()),
            Ok(Step::Done(identity)) => format!("done {identity}"),
            Ok(Step::Failed) => "failed".to_owned(),
            Err(error) => format!("{} {error:?}", error.reply().code()),
        }
    }

    /// Plays the lines of a client, the first one the initial response ("-": none), against the secret "secret". Returns the
    /// outcome of the last line; those before it must be answered by challenges.
    fn play(mechanism: &str, lines: &[&str]) -> String {
        let mut exchange = start(mechanism);
        let (initial, lines) = lines.split_first().unwrap();
        let mut step =
            exchange.handle_initial(Some(initial.as_bytes()).filter(|initial| *initial != b"-"));
        for line in lines {
            assert!(
                matches!(step, Ok(Step::Challenge(_))),
                "{step:?} before {line}"
            );
            step = exchange.handle_line(line.as_bytes());
        }
        match step {
            Ok(Step::Ask(_)) => outcome(&exchange.handle_secret(&Secret::password("secret"))),
            step => outcome(&step),
        }
    }

    #[test]
    fn plain_messages() {
        for (message, want) in [
            ("\0alice\0secret", "done alice"),
            ("alice\0alice\0secret", "done alice"),
            ("\0ålice\0secret", "done ålice"),
            ("\0a b\0secret", "done a b"),
            ("\0alice\0wrong", "failed"),
            ("\0alice\0Secret", "failed"),
            ("\0alice\0secretsecret", "failed"),
            ("bob\0alice\0secret", "failed"),
            ("\0alice\0", "535 Empty"),
            ("\0\0secret", "535 Empty"),
            ("\0\0", "535 Empty"),
            ("alice", "501 Malformed"),
            ("alice\0secret", "501 Malformed"),
            ("\0alice\0secret\0", "501 Malformed"),
            ("\0\0alice\0secret", "501 Malformed"),
            ("\0\0\0", "501 Malformed"),
            ("\0al\r\nice\0secret", "501 Malformed"),
            ("\0al\x7fice\0secret", "501 Malformed"),
            ("b\nob\0alice\0secret", "501 Malformed"),
        ] {
            let encoded = encode(message);
            assert_eq!(play("PLAIN", &[&encoded]), want, "{message:?}");
            assert_eq!(play("PLAIN", &["-", &encoded]), want, "{message:?}");
        }
    }

    /// Returns the outcome of credentials of `Alice` that request to act as `authzid`, for a secret that is known as `alice`'s.
    fn known_as_alice(mechanism: &str, responses: &[&str]) -> String {
        let mut exchange = start(mechanism);
        let (last, before) = responses.split_last().unwrap();
        let mut step = exchange.handle_initial(None);
        for response in before.iter().chain([last]) {
            assert!(matches!(step, Ok(Step::Challenge(_))), "{step:?}");
            step = exchange.handle_line(encode(response).as_bytes());
        }
        assert!(matches!(step, Ok(Step::Ask(_))), "{step:?}");
        outcome(&exchange.handle_secret(&Secret::password("secret").with_user("alice")))
    }

    #[test]
    fn a_client_that_writes_its_name_in_another_case_is_another_identity() {
        for (mechanism, responses, want) in [
            ("PLAIN", &["\0ALICE\0secret"][..], "done alice"),
            ("PLAIN", &["ALICE\0ALICE\0secret"], "done alice"),
            ("PLAIN", &["alice\0ALICE\0secret"], "done alice"),
            ("PLAIN", &["bob\0ALICE\0secret"], "failed"),
            ("PLAIN", &["\0ALICE\0guess"], "failed"),
            ("LOGIN", &["Alice", "secret"], "done alice"),
            ("LOGIN", &["Alice", "guess"], "failed"),
        ] {
            assert_eq!(known_as_alice(mechanism, responses), want, "{responses:?}");
        }
    }

    #[test]
    fn responses_that_are_not_utf8_are_malformed() {
        assert_eq!(play("PLAIN", &["AP8Ac2VjcmV0"]), "501 Malformed");
        assert_eq!(play("LOGIN", &["/w=="]), "501 Malformed");
        assert_eq!(play("CRAM-MD5", &["-", "/w=="]), "501 Malformed");
    }

    #[test]
    fn login_in_two_steps() {
        let (alice, secret) = (encode("alice"), encode("secret"));
        for lines in [vec!["-"], vec![""]] {
            assert_eq!(play("LOGIN", &lines), "334 Username:");
        }
        assert_eq!(play("LOGIN", &[&alice]), "334 Password:");
        assert_eq!(play("LOGIN", &["-", &alice]), "334 Password:");
        for (username, password, want) in [
            ("alice", "secret", "done alice"),
            ("alice", "wrong", "failed"),
            ("alice", "", "535 Empty"),
            ("alice", "sec\0ret", "501 Malformed"),
        ] {
            let (username, password) = (encode(username), encode(password));
            assert_eq!(play("LOGIN", &["-", &username, &password]), want);
            assert_eq!(play("LOGIN", &[&username, &password]), want);
        }
        assert_eq!(play("LOGIN", &["-", ""]), "535 Empty");
        assert_eq!(play("LOGIN", &["-", &encode("al\nice")]), "501 Malformed");
        assert_eq!(play("LOGIN", &["-", &alice, &secret]), "done alice");
    }

    #[test]
    fn cram_md5_challenges_first() {
        let challenge = "334 <000ff0ff303132333435363738396162636465666768696a@mx.example.org>";
        assert_eq!(play("CRAM-MD5", &["-"]), challenge);
        for initial in ["=", "YWxpY2UgMDA="] {
            assert_eq!(play("CRAM-MD5", &[initial]), "501 UnexpectedInitial");
        }
        assert_eq!(
            SaslError::UnexpectedInitial.reply().status(),
            Status::POLICY
        );
    }

    #[test]
    fn malformed_base64_is_refused_at_every_step() {
        for bad in [
            "!!!!",
            "=AAA",
            "AAA=BBB",
            "AGFsaWNl*",
            "AGFsaWNlAHNlY3JldA",
            " ",
            "AA= =",
        ] {
            for lines in [&[bad][..], &["-", bad], &["YWxpY2U=", bad]] {
                assert_eq!(play("LOGIN", lines), "501 Base64", "{lines:?}");
            }
            assert_eq!(play("PLAIN", &[bad]), "501 Base64");
            assert_eq!(play("CRAM-MD5", &["-", bad]), "501 Base64");
        }
    }

    #[test]
    fn an_equals_sign_is_an_empty_response_in_the_command_only() {
        assert_eq!(play("PLAIN", &["="]), "501 Malformed");
        assert_eq!(play("LOGIN", &["="]), "535 Empty");
        assert_eq!(play("PLAIN", &["-", "="]), "501 Base64");
        assert_eq!(play("PLAIN", &["-", ""]), "501 Malformed");
    }

    #[test]
    fn a_star_cancels_at_every_step() {
        let sent: [(&str, &[&str]); 4] = [
            ("PLAIN", &["-", "*"]),
            ("LOGIN", &["-", "*"]),
            ("LOGIN", &["YQ==", "*"]),
            ("CRAM-MD5", &["-", "*"]),
        ];
        for (mechanism, lines) in sent {
            assert_eq!(play(mechanism, lines), "501 Cancelled");
        }
        assert_eq!(
            play("PLAIN", &["*"]),
            "501 Base64",
            "as initial response it is no line of its own"
        );
    }

    #[test]
    fn lines_up_to_the_limit_are_parsed_and_longer_ones_rejected() {
        let message = |bytes: usize| encode(&format!("\0alice\0{}", "p".repeat(bytes - 7)));
        let fits = message(MAX_RESPONSE_LINE / 4 * 3);
        assert_eq!(fits.len(), MAX_RESPONSE_LINE);
        let long = message(MAX_RESPONSE_LINE / 4 * 3 + 1);
        assert_eq!(play("PLAIN", &[&fits]), "failed");
        assert_eq!(play("PLAIN", &["-", &fits]), "failed");
        assert_eq!(play("PLAIN", &[&long]), "500 TooLong");
        assert_eq!(play("PLAIN", &["-", &long]), "500 TooLong");
    }

    #[test]
    fn the_application_may_accept_another_authzid_or_refuse() {
        let encoded = encode("bob\0alice\0secret");
        let mut exchange = start("PLAIN");
        let Ok(Step::Ask(credentials)) = exchange.handle_initial(Some(encoded.as_bytes())) else {
            panic!()
        };
        let seen = (
            credentials.authzid(),
            credentials.username(),
            credentials.password(),
        );
        assert_eq!(seen, (Some("bob"), "alice", Some("secret")));
        assert_eq!(
            outcome(&exchange.handle_accepted(Identity::new("bob"))),
            "done bob"
        );

        let mut exchange = start("PLAIN");
        exchange.handle_initial(Some(encoded.as_bytes())).unwrap();
        assert_eq!(outcome(&exchange.handle_refused()), "failed");
    }

    #[test]
    fn an_empty_identity_is_never_authenticated() {
        let mut exchange = start("PLAIN");
        exchange
            .handle_initial(Some(encode("\0alice\0secret").as_bytes()))
            .unwrap();
        assert_eq!(
            outcome(&exchange.handle_accepted(Identity::new(""))),
            "failed"
        );
    }

    #[test]
    fn out_of_turn_nothing_authenticates() {
        let alice = encode("\0alice\0secret");
        let secret = Secret::password("secret");
        let out_of_turn = "503 OutOfSequence";
        assert_eq!(
            outcome(&start("PLAIN").handle_line(alice.as_bytes())),
            out_of_turn
        );
        assert_eq!(outcome(&start("PLAIN").handle_secret(&secret)), out_of_turn);
        assert_eq!(
            outcome(&start("PLAIN").handle_accepted(Identity::new("alice"))),
            out_of_turn
        );
        assert_eq!(outcome(&start("PLAIN").handle_refused()), out_of_turn);

        let mut asking = start("PLAIN");
        asking.handle_initial(Some(alice.as_bytes())).unwrap();
        assert_eq!(outcome(&asking.handle_line(alice.as_bytes())), out_of_turn);
        assert_eq!(
            outcome(&asking.handle_secret(&secret)),
            out_of_turn,
            "over after a fault"
        );

        for last in ["*", "!!!!"] {
            let mut over = start("PLAIN");
            over.handle_initial(None).unwrap();
            over.handle_line(last.as_bytes()).unwrap_err();
            assert_eq!(outcome(&over.handle_line(alice.as_bytes())), out_of_turn);
            assert_eq!(
                outcome(&over.handle_initial(Some(alice.as_bytes()))),
                out_of_turn
            );
        }
    }

    /// Stands for mechanisms that ask for the stored secret before the client has proved anything (SCRAM), and continue with a
    /// challenge whatever the answer is.
    #[derive(Debug)]
    struct ProvesLater(Option<bool>);

    impl Mechanism for ProvesLater {
        fn step(&mut self, response: Option<&[u8]>) -> Result<Step, SaslError> {
            match (self.0, response) {
                (None, Some(_)) => Ok(Step::Ask(Credentials::lookup("alice")?)),
                (Some(true), Some(b"proof")) => Ok(Step::Done(Identity::new("alice"))),
                _ => Ok(Step::Failed),
            }
        }

        fn secret(&mut self, _: &Credentials, _: &Secret) -> Result<Step, SaslError> {
            self.0 = Some(true);
            Ok(Step::Challenge(b"salt".to_vec()))
        }

        fn accepted(&mut self, _: Identity) -> Result<Step, SaslError> {
            Ok(Step::Failed)
        }

        fn refused(&mut self) -> Result<Step, SaslError> {
            self.0 = Some(false);
            Ok(Step::Challenge(b"salt".to_vec()))
        }
    }

    #[test]
    fn a_mechanism_may_go_on_after_the_answer_of_the_application() {
        type Answer = fn(&mut Exchange) -> Result<Step, SaslError>;
        let known: Answer = |exchange| exchange.handle_secret(&Secret::password("secret"));
        let unknown: Answer = Exchange::handle_refused;
        for (answer, proof, want) in [
            (known, "proof", "done alice"),
            (known, "wrong", "failed"),
            (unknown, "proof", "failed"),
        ] {
            let mut exchange = Exchange::new(Box::new(ProvesLater(None)));
            assert_eq!(outcome(&exchange.handle_initial(Some(b"="))), "ask alice");
            assert_eq!(outcome(&answer(&mut exchange)), "334 salt");
            assert_eq!(
                outcome(&exchange.handle_line(encode(proof).as_bytes())),
                want
            );
        }
        let mut exchange = Exchange::new(Box::new(ProvesLater(None)));
        exchange.handle_initial(Some(b"=")).unwrap();
        assert_eq!(
            outcome(&exchange.handle_accepted(Identity::new("alice"))),
            "failed"
        );
    }

    #[test]
    fn debug_shows_no_secret_at_any_step() {
        let mut exchange = start("LOGIN");
        let mut shown = vec![format!("{exchange:?}")];
        for line in [encode("alice"), encode("hunter2")] {
            let step = match shown.len() {
                1 => exchange.handle_initial(Some(line.as_bytes())),
                _ => exchange.handle_line(line.as_bytes()),
            };
            shown.push(format!("{exchange:?} {step:?}"));
        }
        let bytes = format!("{:?}", b"hunter2");
        let last = shown.last().unwrap();
        assert!(
            last.contains("Ask") && last.contains("alice") && last.contains("[redacted]"),
            "{last}"
        );
        for text in shown {
            assert!(
                !text.contains("hunter2") && !text.contains(bytes.trim_matches(['[', ']'])),
                "{text}"
            );
        }
    }

    #[test]
    fn challenge_lines() {
        for (challenge, want) in [
            ("", "334 \r\n"),
            ("Password:", "334 UGFzc3dvcmQ6\r\n"),
            ("a", "334 YQ==\r\n"),
        ] {
            assert_eq!(challenge_line(challenge.as_bytes()), want.as_bytes());
        }
        let long = challenge_line(&[b'x'; 3000]);
        assert_eq!(
            long.iter().filter(|&&byte| byte == b'\n').count(),
            1,
            "a challenge is one line"
        );
    }

    proptest! {
        #[test]
        fn whatever_is_sent_only_the_secret_authenticates(
            mechanism in prop::sample::select(vec!["PLAIN", "LOGIN", "CRAM-MD5"]),
            lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..4),
            encoded in any::<bool>(),
        ) {
            let mut exchange = start(mechanism);
            let _ = exchange.handle_initial(None);
            for line in lines {
                let mut sent = line.clone();
                if encoded {
                    sent.clear();
                    base64::encode_into(&line, &mut sent);
                }
                if let Ok(Step::Ask(credentials)) = exchange.handle_line(&sent) {
                    prop_assert!(!credentials.username().contains(char::is_control));
                    let step = exchange.handle_secret(&Secret::password("not among the strings made here, as it is long"));
                    prop_assert!(matches!(step, Ok(Step::Failed)));
                }
            }
        }
    }

    /// Whatever the mechanism does: a refusal that led to another question, or to success, would not be one.
    #[test]
    fn a_refused_client_is_not_asked_about_again() {
        #[derive(Debug)]
        struct Stubborn(fn() -> Step, bool);
        impl Mechanism for Stubborn {
            fn step(&mut self, response: Option<&[u8]>) -> Result<Step, SaslError> {
                match response {
                    None => Ok(Step::Ask(Credentials::plain("alice", "secret")?)),
                    Some(_) => Ok(self.0()),
                }
            }
            fn refused(&mut self) -> Result<Step, SaslError> {
                Ok(if self.1 {
                    Step::Challenge(Vec::new())
                } else {
                    self.0()
                })
            }
        }
        let asks = || Step::Ask(Credentials::plain("bob", "secret").unwrap());
        let accepts = || Step::Done(Identity::new("alice"));
        for stubborn in [asks as fn() -> Step, accepts] {
            let mut exchange = Exchange::new(Box::new(Stubborn(stubborn, false)));
            assert_eq!(outcome(&exchange.handle_initial(None)), "ask alice");
            assert_eq!(outcome(&exchange.handle_refused()), "failed");
            let mut exchange = Exchange::new(Box::new(Stubborn(stubborn, true)));
            assert_eq!(outcome(&exchange.handle_initial(None)), "ask alice");
            assert_eq!(outcome(&exchange.handle_refused()), "334 ");
            assert_eq!(outcome(&exchange.handle_line(b"")), "failed");
        }
    }
}
