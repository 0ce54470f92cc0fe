//! tower's own layers around every phase: what they compile to, what the client hears, and where they surprise.
//!
//! The page `tower_with_smtp` of the guide says the same in words; these tests hold it to that.

mod matrix;
mod page;
mod station;
mod traps;
