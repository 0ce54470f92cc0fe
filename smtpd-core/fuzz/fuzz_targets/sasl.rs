//! SASL exchanges, alone and within a session: nobody is authenticated without the password.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smtpd_core::sasl::{
    Anonymous, CramMd5, Derivation, Exchange, ExchangeContext, External, Mechanisms, OAuthBearer,
    Scram, Secret, Step, XOAuth2, prepare_name,
};
use smtpd_core_fuzz::check_session;

fuzz_target!(|input: &[u8]| {
    check_session(input, "EHLO x\r\nLHLO x\r\nAUTH ", "");
    let mechanisms = Mechanisms::default()
        .with(CramMd5)
        .with(Scram::sha256())
        .with(OAuthBearer::new())
        .with(XOAuth2::new())
        .with(External)
        .with(Anonymous);
    for factory in mechanisms.iter() {
        let nonce = [0; 24];
        let exchange =
            Exchange::new(factory.start(&ExchangeContext::new("mx.example.org", &nonce)));
        play(exchange, input);
    }
});

fn play(mut exchange: Exchange, input: &[u8]) {
    let secret = Secret::password("secret");
    let mut lines = input.split(|&byte| byte == b'\n');
    let mut step = exchange.handle_initial(lines.next().filter(|line| !line.is_empty()));
    loop {
        step = match step {
            Ok(Step::Challenge(_)) => match lines.next() {
                Some(line) => exchange.handle_line(line),
                None => return,
            },
            Ok(Step::Ask(credentials)) => {
                let derivation = credentials.derivation(&secret);
                let derived = derivation.map_or_else(|| secret.clone(), Derivation::run);
                let step = exchange.handle_secret(&derived);
                let is_right = credentials.verify(&secret)
                    && !credentials.acts_as_other()
                    && !credentials.username().is_empty();
                assert_eq!(matches!(step, Ok(Step::Done(_))), is_right);
                let is_secret =
                    |password| prepare_name(password).is_some_and(|text| text == "secret");
                assert!(
                    credentials
                        .password()
                        .is_none_or(|password| is_secret(password) == credentials.verify(&secret))
                );
                let name = credentials.username();
                assert!(name.is_empty() || prepare_name(name).is_some_and(|n| n == name));
                step
            }
            _ => return assert!(exchange.handle_line(b"").is_err(), "it is over"),
        };
    }
}
