//! tower's own layers around every phase: what they compile to, what the client receives, and where they surprise.
//!
//! These tests check the page `tower_with_smtp` of the guide.

mod matrix;
mod page;
mod station;
mod traps;
