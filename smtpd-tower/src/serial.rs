//! Numbers that are unique in this process, and do not tell how many there were.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
};

/// Half of the bits of a number.
const HALF: u32 = 15;

const MASK: u32 = (1 << HALF) - 1;

/// Appends a number below 2^30 that none of the 2^30 calls before has appended, as six digits and capital letters. Without the
/// key of this process, nothing can be told from it, in particular not how many messages the server has received.
pub(crate) fn push_next(text: &mut String) {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = scramble(&*KEY, NEXT.fetch_add(1, Ordering::Relaxed));
    push_base36(text, number.into(), 6);
}

/// Permutes the numbers below 2^30: a Feistel network with a keyed hash, which Luby and Rackoff have shown to look like chance
/// after four rounds.
fn scramble(key: &impl BuildHasher, number: u32) -> u32 {
    let (mut left, mut right) = ((number >> HALF) & MASK, number & MASK);
    for round in 0..4_u32 {
        let hash = key.hash_one((round, right)) as u32;
        (left, right) = (right, left ^ (hash & MASK));
    }
    (left << HALF) | right
}

/// Appends a number in digits and capital letters, with zeros before it if it has fewer digits than `width`.
pub(crate) fn push_base36(text: &mut String, mut number: u64, width: usize) {
    // As many as `u64::MAX` has.
    let mut digits = ['0'; 13];
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        if number == 0 && used >= width {
            break;
        }
        let value = char::from_digit((number % 36) as u32, 36).unwrap_or_default();
        *digit = value.to_ascii_uppercase();
        number /= 36;
        used += 1;
    }
    text.extend(digits.iter().skip(digits.len() - used));
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, hash::BuildHasherDefault, hash::DefaultHasher};

    use super::*;

    /// The same key in each run.
    type Key = BuildHasherDefault<DefaultHasher>;

    #[test]
    fn no_number_comes_twice() {
        let key = Key::default();
        let numbers = (0..1 << 16).chain((1 << 30) - (1 << 16)..1 << 30);
        let scrambled: HashSet<_> = numbers.map(|number| scramble(&key, number)).collect();
        assert_eq!(scrambled.len(), 1 << 17);
        assert!(scrambled.iter().all(|&number| number < 1 << 30));
        assert_eq!(scramble(&key, 7), scramble(&key, 7 | 1 << 30));
    }

    #[test]
    fn numbers_do_not_tell_how_many_came_between() {
        let key = Key::default();
        let numbers: Vec<_> = (0..1000).map(|number| scramble(&key, number)).collect();
        // Those of a counter only grow; by chance, about half do.
        let grows = numbers.windows(2).filter(|pair| pair[0] < pair[1]).count();
        assert!((400..600).contains(&grows), "{grows}");
        // Nor do their distances have anything to do with those of the counts.
        let near = numbers
            .windows(2)
            .filter(|pair| pair[0].abs_diff(pair[1]) < 1 << 20);
        assert!(near.count() < 20);
        let other = scramble(&RandomState::new(), 0);
        let others = (0..8).map(|_| scramble(&RandomState::new(), 0));
        assert!(others.into_iter().any(|number| number != other), "no key");
    }

    #[test]
    fn each_has_six_digits() {
        for _ in 0..100 {
            let mut number = String::new();
            push_next(&mut number);
            assert_eq!(number.len(), 6, "{number}");
            let is_digit = |b: u8| b.is_ascii_digit() || b.is_ascii_uppercase();
            assert!(number.bytes().all(is_digit));
        }
        for (number, width, text) in [
            (0, 0, ""),
            (0, 1, "0"),
            (35, 1, "Z"),
            (36, 1, "10"),
            (36, 6, "000010"),
            ((1 << 30) - 1, 6, "HRA0HR"),
            (u64::MAX, 6, "3W5E11264SGSF"),
        ] {
            let mut written = String::new();
            push_base36(&mut written, number, width);
            assert_eq!(written, text);
        }
    }
}
