//! A queue in which networks, and the clients within them, take turns.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
};

use crate::net::{Cidr, Prefixes};

/// Waiting items, by the networks of the clients that they belong to. Providers assign whole networks, so a client with many
/// addresses often has them all in one. Networks take turns, then the smaller networks within each, then their clients. If an
/// item has to be dropped, it is taken from the network with the most items, chosen in the same steps.
///
/// A new network goes before those that have had a turn, one before each of them (as in FQ-CoDel, RFC 8290 section 4.1): when a
/// flood from many networks waits, a client that asks only now and then would give up before all of these had their turn. A
/// network keeps its place until its turn comes, whether anything waits there or not, so none becomes new by leaving for a
/// moment.
#[derive(Debug)]
pub(super) struct Turns<T> {
    networks: Networks<Networks<Networks<VecDeque<T>, 32, 64>, 24, 48>, 16, 32>,
    dice: Dice,
}

impl<T> Turns<T> {
    pub(super) fn new() -> Self {
        // A client that could predict which item is dropped would make sure that it is another one's.
        Self::with_seed(RandomState::new().hash_one(0))
    }

    pub(super) fn with_seed(seed: u64) -> Self {
        Self {
            networks: Networks::default(),
            dice: Dice(seed),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.networks.len()
    }

    pub(super) fn push(&mut self, client: Option<Cidr>, item: T) {
        self.networks.push(client, item);
    }

    /// Takes out the next item. Those before it for which `is_over` returns true are moved to `taken`: they use up no turn.
    pub(super) fn next(&mut self, is_over: impl Fn(&T) -> bool, taken: &mut Vec<T>) -> Option<T> {
        self.networks.next(&is_over, taken)
    }

    /// Takes out the item that has to be dropped: the newest one of the client with the most items. Chance decides between
    /// equals, including newcomers, so that clients that are already waiting cannot keep others out.
    pub(super) fn give_way(&mut self) -> Option<T> {
        self.networks.give_way(&mut self.dice)
    }

    /// Moves the items for which `is_over` returns true to `taken`.
    pub(super) fn take_out(&mut self, is_over: impl Fn(&T) -> bool, taken: &mut Vec<T>) {
        self.networks.take_out(&is_over, taken);
    }

    #[cfg(all(test, feature = "test"))]
    pub(super) fn count_of(&self, client: Option<Cidr>, counts: impl Fn(&T) -> bool) -> usize {
        self.networks.count_of(client, &counts)
    }
}

/// A part of the queue.
trait Part<T>: Default {
    fn len(&self) -> usize;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    fn push(&mut self, client: Option<Cidr>, item: T);
    fn next(&mut self, is_over: &impl Fn(&T) -> bool, taken: &mut Vec<T>) -> Option<T>;
    fn give_way(&mut self, dice: &mut Dice) -> Option<T>;
    fn take_out(&mut self, is_over: &impl Fn(&T) -> bool, taken: &mut Vec<T>);
    #[cfg(all(test, feature = "test"))]
    fn count_of(&self, client: Option<Cidr>, counts: &impl Fn(&T) -> bool) -> usize;
}

/// Networks of that many bits. Clients without an IP address are a network of their own.
#[derive(Debug)]
struct Networks<P, const V4_BITS: u8, const V6_BITS: u8> {
    /// The number of items in all of them.
    len: usize,
    /// The first one is next. At most about half of them are empty.
    places: VecDeque<Place<P>>,
}

/// The place of a network.
#[derive(Debug)]
struct Place<P> {
    network: Option<Cidr>,
    part: P,
    /// Whether the network has not had a turn yet.
    is_new: bool,
}

/// How many empty places are kept, however few are not empty.
const SPARE: usize = 16;

impl<P> Place<P> {
    /// Keeps only the place of an empty network.
    fn clear_if_empty<T>(&mut self)
    where
        P: Part<T>,
    {
        if self.part.is_empty() {
            self.part = P::default();
        }
    }
}

impl<P, const V4_BITS: u8, const V6_BITS: u8> Networks<P, V4_BITS, V6_BITS> {
    /// Evaluated by the compiler, which rejects prefixes that are too long.
    const PREFIXES: Prefixes = match Prefixes::new(V4_BITS, V6_BITS) {
        Ok(prefixes) => prefixes,
        Err(_) => panic!("a prefix is longer than the address"),
    };

    fn prefix(client: Option<Cidr>) -> Option<Cidr> {
        client.map(|client| client.within(Self::PREFIXES))
    }

    /// Returns where a new network starts to wait: behind the other new ones, each of which lets one network that is not new go
    /// first.
    fn entrance(&self) -> usize {
        let last = self.places.iter().rposition(|place| place.is_new);
        let entrance = last.map_or(1, |last| last + 2);
        entrance.min(self.places.len())
    }

    /// Drops empty places if there are too many.
    fn tidy<T>(&mut self)
    where
        P: Part<T>,
    {
        if self.places.len() > 2 * self.len + SPARE {
            self.places.retain(|place| !place.part.is_empty());
        }
    }
}

// By hand: a derived `Default` would require `P: Default`.
impl<P, const V4_BITS: u8, const V6_BITS: u8> Default for Networks<P, V4_BITS, V6_BITS> {
    fn default() -> Self {
        Self {
            len: 0,
            places: VecDeque::new(),
        }
    }
}

impl<T, P: Part<T>, const V4_BITS: u8, const V6_BITS: u8> Part<T>
    for Networks<P, V4_BITS, V6_BITS>
{
    fn len(&self) -> usize {
        self.len
    }

    fn push(&mut self, client: Option<Cidr>, item: T) {
        let network = Self::prefix(client);
        self.len += 1;
        let mut places = self.places.iter_mut();
        if let Some(place) = places.find(|place| place.network == network) {
            return place.part.push(client, item);
        }
        let mut part = P::default();
        part.push(client, item);
        let place = Place {
            network,
            part,
            is_new: true,
        };
        let entrance = self.entrance();
        self.places.insert(entrance, place);
        self.tidy::<T>();
    }

    fn next(&mut self, is_over: &impl Fn(&T) -> bool, taken: &mut Vec<T>) -> Option<T> {
        while let Some(mut place) = self.places.pop_front() {
            let before = place.part.len();
            let next = place.part.next(is_over, taken);
            self.len -= before - place.part.len();
            if next.is_some() {
                place.is_new = false;
                place.clear_if_empty::<T>();
                self.places.push_back(place);
                self.tidy::<T>();
                return next;
            }
        }
        None
    }

    fn give_way(&mut self, dice: &mut Dice) -> Option<T> {
        let lens = || self.places.iter().map(|place| place.part.len());
        let most = lens().max()?;
        let equals = || lens().enumerate().filter(|&(_, len)| len == most);
        let (chosen, _) = equals().nth(dice.roll(equals().count()))?;
        let place = self.places.get_mut(chosen)?;
        let gone = place.part.give_way(dice);
        place.clear_if_empty::<T>();
        self.len -= usize::from(gone.is_some());
        self.tidy::<T>();
        gone
    }

    fn take_out(&mut self, is_over: &impl Fn(&T) -> bool, taken: &mut Vec<T>) {
        for place in &mut self.places {
            place.part.take_out(is_over, taken);
            place.clear_if_empty::<T>();
        }
        self.len = self.places.iter().map(|place| place.part.len()).sum();
        self.tidy::<T>();
    }

    #[cfg(all(test, feature = "test"))]
    fn count_of(&self, client: Option<Cidr>, counts: &impl Fn(&T) -> bool) -> usize {
        let prefix = Self::prefix(client);
        let mut places = self.places.iter();
        let place = places.find(|place| place.network == prefix);
        place.map_or(0, |place| place.part.count_of(client, counts))
    }
}

/// The items of one client, the oldest first.
impl<T> Part<T> for VecDeque<T> {
    fn len(&self) -> usize {
        self.len()
    }

    fn push(&mut self, _client: Option<Cidr>, item: T) {
        self.push_back(item);
    }

    fn next(&mut self, is_over: &impl Fn(&T) -> bool, taken: &mut Vec<T>) -> Option<T> {
        while let Some(item) = self.pop_front() {
            if !is_over(&item) {
                return Some(item);
            }
            taken.push(item);
        }
        None
    }

    fn give_way(&mut self, _dice: &mut Dice) -> Option<T> {
        self.pop_back()
    }

    fn take_out(&mut self, is_over: &impl Fn(&T) -> bool, taken: &mut Vec<T>) {
        let (over, waiting): (Self, Self) = self.drain(..).partition(is_over);
        *self = waiting;
        taken.extend(over);
    }

    #[cfg(all(test, feature = "test"))]
    fn count_of(&self, _client: Option<Cidr>, counts: &impl Fn(&T) -> bool) -> usize {
        self.iter().filter(|item| counts(item)).count()
    }
}

/// Random numbers by SplitMix64.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    /// Returns a number from 0 to `sides` - 1, for at least one side.
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % sides.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::*;

    const MAX: usize = 1024;

    fn client(ip: impl Into<IpAddr>) -> Option<Cidr> {
        let ip = ip.into();
        Some(Cidr::around(ip, Prefixes::CLIENT.bits_of(ip)))
    }

    fn named(ip: &str) -> Option<Cidr> {
        client(ip.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn networks_take_turns_then_those_within_them() {
        let mut turns = Turns::new();
        for ip in [
            "198.51.100.1",
            "198.51.100.1",
            "198.51.100.2",
            "198.51.7.1",
            "203.0.113.1",
            "2001:db8:1:1::1",
            "2001:db8:1:2::1",
            "2001:db8:2:1::1",
        ] {
            turns.push(named(ip), ip);
        }
        turns.push(None, "local");
        let order: Vec<_> = std::iter::from_fn(|| turns.next(|_| false, &mut Vec::new())).collect();
        assert_eq!(
            order,
            [
                "198.51.100.1",
                "203.0.113.1",
                "2001:db8:1:1::1",
                "local",
                "198.51.7.1",
                "2001:db8:2:1::1",
                "198.51.100.2",
                "2001:db8:1:2::1",
                "198.51.100.1",
            ]
        );
        assert!(turns.networks.is_empty());
    }

    #[test]
    fn the_network_that_waits_for_most_gives_way_and_in_it_the_newest_client() {
        let mut turns = Turns::new();
        // One client that waits twice, and as many in one /48 as in one /24 and its neighbor.
        for (at, ip) in [
            "203.0.113.1",
            "2001:db8:1:1::1",
            "2001:db8:1:2::1",
            "198.51.100.1",
            "198.51.100.1",
            "198.51.7.1",
            "198.51.100.2",
            "203.0.113.1",
        ]
        .into_iter()
        .enumerate()
        {
            turns.push(named(ip), at);
        }
        assert_eq!(turns.give_way(), Some(4));
        assert_eq!(turns.len(), 7);
        turns.push(named("2001:db8:1:2::1"), 8);
        turns.push(named("2001:db8:1:2::1"), 9);
        assert_eq!(turns.give_way(), Some(9));
        assert_eq!(turns.len(), 8);
    }

    #[test]
    fn chance_decides_between_equals() {
        let mut gone: Vec<_> = (0..100)
            .filter_map(|seed| {
                let mut turns = Turns::with_seed(seed);
                for number in 0..4 {
                    turns.push(client([10, number, 0, 1]), number);
                }
                turns.give_way()
            })
            .collect();
        gone.sort_unstable();
        assert!(gone[..5] == [0; 5] && gone[95..] == [3; 5], "{gone:?}");
        gone.dedup();
        assert_eq!(gone, [0, 1, 2, 3]);
    }

    #[test]
    fn whatever_comes_in_goes_out_once() {
        for seed in 0..50 {
            let (mut dice, mut turns) = (Dice(seed), Turns::with_seed(seed));
            let (mut out, mut taken) = (Vec::new(), Vec::new());
            let mut arrived = 0;
            for _ in 0..500 {
                match dice.roll(8) {
                    0 => out.extend(turns.next(|_| false, &mut Vec::new())),
                    1 => out.extend(turns.give_way()),
                    2 => turns.take_out(|item| item % 16 == 0, &mut taken),
                    _ => {
                        let [a, b, c] = [2, 3, 4].map(|sides| dice.roll(sides) as u8);
                        turns.push(client([10, a, b, c]), arrived);
                        arrived += 1;
                    }
                }
                assert_eq!(turns.len() + out.len() + taken.len(), arrived);
            }
            out.extend(std::iter::from_fn(|| {
                turns.next(|_| false, &mut Vec::new())
            }));
            assert!(turns.networks.is_empty());
            out.append(&mut taken);
            out.sort_unstable();
            assert_eq!(out, Vec::from_iter(0..arrived));
        }
    }

    fn of_16(name: &str) -> (Option<Cidr>, &str) {
        let add = |sum: u16, byte: u8| sum.wrapping_mul(31).wrapping_add(byte.into());
        let number = name.bytes().fold(0, add);
        let [a, b] = number.to_be_bytes();
        (client([a, b, 0, 1]), name)
    }

    fn wait<'a>(turns: &mut Turns<&'a str>, names: &[&'a str]) {
        for name in names {
            let (client, name) = of_16(name);
            turns.push(client, name);
        }
    }

    fn take(turns: &mut Turns<&str>, count: usize) -> String {
        let next = std::iter::from_fn(|| turns.next(|_| false, &mut Vec::new()));
        next.take(count).collect()
    }

    #[test]
    fn a_network_that_is_new_does_not_wait_for_a_flood_from_many_to_have_its_turn() {
        let mut turns = Turns::new();
        for number in 0..1000_u16 {
            let [a, b] = (number % 250).to_be_bytes();
            turns.push(client([10 + a, b, 0, 1]), "flood");
        }
        take(&mut turns, 250);
        turns.push(client([192, 0, 2, 1]), HONEST);
        turns.push(client([198, 51, 100, 1]), HONEST);
        let order = take(&mut turns, 4);
        assert_eq!(order, ["flood", HONEST, "flood", HONEST].concat());
    }

    #[test]
    fn no_network_becomes_new_by_going_away() {
        let mut turns = Turns::new();
        wait(&mut turns, &["a", "b", "c", "a", "b", "c", "x"]);
        assert_eq!(take(&mut turns, 4), "abcx");
        wait(&mut turns, &["x"]);
        turns.take_out(|who| *who == "x", &mut Vec::new());
        wait(&mut turns, &["x", "y"]);
        assert_eq!(take(&mut turns, 5), "aybcx");
    }

    #[test]
    fn a_client_that_gives_up_and_returns_keeps_the_place_of_its_network() {
        let mut turns = Turns::new();
        wait(&mut turns, &["a", "x", "b"]);
        turns.take_out(|who| *who == "x", &mut Vec::new());
        wait(&mut turns, &["y", "x"]);
        assert_eq!(take(&mut turns, 4), "axby");
    }

    #[test]
    fn networks_that_are_new_all_the_time_leave_half_of_the_turns_to_the_others() {
        let mut turns = Turns::new();
        let names = |of| (0..40).map(move |n| format!("{of}{n:02}"));
        let (old, new): (Vec<_>, Vec<_>) = (names("old").collect(), names("new").collect());
        for name in old.iter().chain(&old) {
            wait(&mut turns, &[name]);
        }
        take(&mut turns, old.len());
        let mut order = String::new();
        for two in new.chunks(2) {
            wait(&mut turns, &[&two[0], &two[1]]);
            order += &take(&mut turns, 1);
        }
        assert_eq!(order.matches("old").count(), 10, "{order}");
    }

    #[test]
    fn places_that_nobody_waits_in_do_not_pile_up() {
        let mut turns = Turns::new();
        turns.push(None, 0);
        for number in 1..5000_u32 {
            let [_, a, b, c] = number.wrapping_mul(40_503).to_be_bytes();
            turns.push(client([a, b, c, 1]), number);
            turns.take_out(|item| *item > 0, &mut Vec::new());
            assert!(turns.networks.places.len() <= 2 + SPARE);
        }
    }

    const HONEST: &str = "honest";

    /// Adds one, and returns which item is dropped for it.
    fn enter(
        turns: &mut Turns<&'static str>,
        client: Option<Cidr>,
        who: &'static str,
    ) -> Option<&'static str> {
        turns.push(client, who);
        (turns.len() > MAX).then(|| turns.give_way()).flatten()
    }

    /// Returns how many turns it takes until an honest client has one, and how often it is refused before. This many others
    /// arrive between two turns, at a queue that is already full.
    fn turns_of_honest(
        seed: u64,
        honest: &str,
        flood_per_turn: usize,
        flood: impl Fn(u32) -> Option<Cidr>,
    ) -> (usize, usize) {
        let mut turns = Turns::with_seed(seed);
        let mut all = (0..).map(flood);
        for client in all.by_ref().take(MAX) {
            assert_eq!(enter(&mut turns, client, "flood"), None);
        }
        let (mut waits, mut turned_away) = (false, 0);
        for turn in 1..=20 * MAX {
            for client in all.by_ref().take(flood_per_turn) {
                if enter(&mut turns, client, "flood") == Some(HONEST) {
                    (waits, turned_away) = (false, turned_away + 1);
                }
            }
            if !waits {
                waits = enter(&mut turns, named(honest), HONEST) != Some(HONEST);
                turned_away += usize::from(!waits);
            }
            if turns.next(|_| false, &mut Vec::new()) == Some(HONEST) {
                return (turn, turned_away);
            }
            assert!(turns.len() <= MAX);
        }
        panic!("the honest client is not served at all");
    }

    #[test]
    fn a_flood_from_one_network_takes_no_more_turns_than_one_client() {
        let of_48 = |n: u32| client(Ipv6Addr::new(0x2001, 0xdb8, 1, n as u16, 0, 0, 0, 1));
        let of_32 = |n: u32| {
            let (subnet, network) = (n as u16, (n >> 16) as u16);
            client(Ipv6Addr::new(0x2001, 0xdb8, subnet, network, 0, 0, 0, 1))
        };
        let of_24 = |n: u32| client([198, 51, 100, n as u8]);
        let of_16 = |n: u32| client([198, 51, (n >> 8) as u8, n as u8]);
        for seed in 0..2 {
            for flood_per_turn in [1, 100] {
                let turns = [
                    // From elsewhere, from the same provider, and with the other version of IP.
                    turns_of_honest(seed, "2001:db9::1", flood_per_turn, of_48),
                    turns_of_honest(seed, "2001:db8:2::1", flood_per_turn, of_48),
                    turns_of_honest(seed, "192.0.2.1", flood_per_turn, of_48),
                    turns_of_honest(seed, "2001:db9::1", flood_per_turn, of_32),
                    turns_of_honest(seed, "192.0.2.1", flood_per_turn, of_24),
                    turns_of_honest(seed, "198.51.7.1", flood_per_turn, of_24),
                    turns_of_honest(seed, "2001:db9::1", flood_per_turn, of_24),
                    turns_of_honest(seed, "192.0.2.1", flood_per_turn, of_16),
                ];
                assert_eq!(turns, [(2, 0); 8], "{flood_per_turn} others each turn");
            }
        }
    }

    #[test]
    fn a_flood_from_everywhere_does_not_shut_anybody_out() {
        // No two within 65,536 are in the same /16.
        let scattered = |n: u32| client(Ipv4Addr::from_bits((n.wrapping_mul(40_503) << 16) | 1));
        for seed in 0..4 {
            let (turns, turned_away) = turns_of_honest(seed, "192.0.2.1", 1, scattered);
            assert!(
                turns <= MAX + 2 && turned_away <= 1,
                "{turns}, {turned_away}"
            );
            // If twice as many arrive as are served, each attempt has a fair chance.
            let (turns, _) = turns_of_honest(seed, "192.0.2.1", 2, scattered);
            assert!(turns <= 12 * MAX, "{turns}");
        }
    }
}
