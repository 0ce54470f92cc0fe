//! Whole sessions with every kind of driver: each question is answered once and in order, nothing grows, and all end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smtpd_core_fuzz::check_drivers;

fuzz_target!(|input: &[u8]| check_drivers(input));
