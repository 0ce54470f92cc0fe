//! How the sources of the crates are arranged: in layers, each of which uses only those below it.

mod layers;
mod source;
