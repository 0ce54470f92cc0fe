//! PHC strings: what is taken costs no more than is allowed, and a cheap one verifies as the argon2 crate does by itself.
#![no_main]

use argon2::{
    Argon2, Params,
    password_hash::{PasswordVerifier as _, phc},
};
use libfuzzer_sys::fuzz_target;
use smtpd_tower::{
    Auth, Request, Session,
    password_hash::{PasswordHash, PasswordHashError, PasswordVerifier},
    phase::AuthOutcome,
    sasl::{Credentials, MechanismName},
};
use smtpd_tower_fuzz::block_on;

/// In KiB, as the documentation has it.
const MOST_MEMORY: u64 = 1 << 20;
const MOST_COST: u64 = 1 << 24;
/// Above that an execution would take too long.
const CHEAP: u64 = 64;

fuzz_target!(|input: &[u8]| {
    // The password is on the first line.
    let text = String::from_utf8_lossy(input);
    let (password, text) = text.split_once('\n').unwrap_or(("secret", &text));
    let parsed = text.parse::<PasswordHash>();
    let other = phc::PasswordHash::new(text);
    match (&parsed, &other) {
        (Ok(hash), Ok(other)) => {
            assert_eq!(format!("{hash:?}"), "PasswordHash([redacted])");
            check(hash, other, password);
        }
        (Ok(_), Err(error)) => panic!("{text:?} is no PHC string: {error}"),
        (Err(error), Ok(other)) => check_refusal(*error, other),
        (Err(error), Err(_)) => assert_eq!(*error, PasswordHashError::Malformed),
    }
});

fn check(hash: &PasswordHash, other: &phc::PasswordHash, password: &str) {
    assert!(["argon2id", "argon2i", "argon2d"].contains(&other.algorithm.as_str()));
    let params = Params::try_from(other).expect("its parameters");
    assert!(params.keyid().is_empty());
    let (memory, passes) = (u64::from(params.m_cost()), u64::from(params.t_cost()));
    assert!(
        memory <= MOST_MEMORY && memory * passes <= MOST_COST,
        "{params:?}"
    );
    assert!(u64::from(params.p_cost()) * 8 <= memory);
    assert!(other.salt.is_some_and(|salt| salt.len() >= 8) && other.hash.is_some());
    if memory * passes > CHEAP {
        return;
    }
    // As in the reference implementation, a hash without a version is of the first; the crate takes it for the last.
    let mut other = other.clone();
    other.version = other.version.or(Some(0x10));
    let expected = Argon2::default().verify_password(password.as_bytes(), &other);
    if let Ok(credentials) = Credentials::plain("alice", password) {
        assert_eq!(is_accepted(hash, credentials), expected.is_ok());
    }
}

fn is_accepted(hash: &PasswordHash, credentials: Credentials) -> bool {
    const PLAIN: MechanismName = MechanismName::from_static("PLAIN");
    thread_local! {
        static VERIFIER: PasswordVerifier = PasswordVerifier::new();
    }
    let verifier = VERIFIER.with(Clone::clone);
    let request = Request::new(Session::local(), Auth::new(PLAIN, credentials));
    match block_on(verifier.verify(&request, Some(("alice", hash)))) {
        AuthOutcome::Accept(identity) => identity.as_str() == "alice",
        AuthOutcome::Refuse(reply) => {
            assert_eq!(reply.code().as_u16(), 535, "{reply}");
            false
        }
        other => panic!("{other:?}"),
    }
}

/// A refusal has its reason.
fn check_refusal(error: PasswordHashError, other: &phc::PasswordHash) {
    let is_argon2 = ["argon2id", "argon2i", "argon2d"].contains(&other.algorithm.as_str());
    match error {
        PasswordHashError::Malformed => assert!(other.salt.is_none() || other.hash.is_none()),
        PasswordHashError::Algorithm => assert!(!is_argon2),
        PasswordHashError::Parameters => {
            let version = other
                .version
                .is_none_or(|version| matches!(version, 0x10 | 0x13));
            let salt = other.salt.is_none_or(|salt| salt.len() >= 8);
            let names: Vec<_> = other
                .params
                .iter()
                .map(|(name, _)| name.to_string())
                .collect();
            let repeats = (1..names.len()).any(|at| names[..at].contains(&names[at]));
            let keyed = names.iter().any(|name| name == "keyid");
            let faulty = Params::try_from(other).is_err();
            assert!(faulty || !version || !salt || repeats || keyed);
        }
        PasswordHashError::Cost => {
            let params = Params::try_from(other).expect("its parameters");
            let cost = u64::from(params.m_cost()) * u64::from(params.t_cost());
            assert!(u64::from(params.m_cost()) > MOST_MEMORY || cost > MOST_COST);
        }
        other => panic!("{other:?}"),
    }
}
