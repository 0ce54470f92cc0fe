//! Splits the bytes of a session into lines, a message that ends with a dot, or counted chunks.
//!
//! Every reader takes bytes from the front of a buffer that its caller owns, keeps only a few bytes of state, and gives the same
//! result however the input was split.

mod chunk;
mod dot;
#[cfg(feature = "client")]
mod dot_writer;
mod header;
mod line;
mod newline;
mod nul_byte;
mod scan;
mod text;

pub(crate) use chunk::ChunkReader;
pub(crate) use dot::{DotReader, Piece};
#[cfg(feature = "client")]
pub(crate) use dot_writer::DotWriter;
pub(crate) use header::HeaderMeter;
pub(crate) use line::{Line, LineReader, is_auth, wipe_front};
pub use newline::BareNewline;
pub use nul_byte::NulByte;
pub(crate) use scan::Flaws;
pub(crate) use text::TextFilter;
