//! Whole sessions: the same events and replies, however the input is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smtpd_core_fuzz::check_session;

fuzz_target!(|input: &[u8]| check_session(input, "", ""));
