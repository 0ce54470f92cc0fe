//! A greylist in a file: it is an error that names a line, or is written again and read as the same. Checksums are not compared
//! where cargo-fuzz compiles.
#![no_main]

use std::num::NonZeroUsize;

use libfuzzer_sys::fuzz_target;
use smtpd_tower::layer::MemoryGreylist;

const CAPACITY: usize = 4;

fuzz_target!(|input: &[u8]| {
    let store = store();
    if let Err(error) = store.read_from(input) {
        let lines = input.iter().filter(|byte| **byte == b'\n').count();
        assert!((1..=lines as u64 + 1).contains(&error.line()), "{error}");
        assert_eq!(store.tracked(), 0);
        return;
    }
    assert!(store.tracked() <= CAPACITY);
    let mut written = Vec::new();
    store.write_to(&mut written).expect("a vector");
    let again = self::store();
    again.read_from(&*written).expect("what was written");
    assert_eq!(again.tracked(), store.tracked());
});

fn store() -> MemoryGreylist {
    MemoryGreylist::with_capacity(NonZeroUsize::new(CAPACITY).expect("more than none"))
}
