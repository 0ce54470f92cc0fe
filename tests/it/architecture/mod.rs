//! How the sources of the crates are arranged: in layers, each of which uses only those below it, and in structs that keep
//! what is theirs.

mod layers;
mod machines;
mod source;
