//! Header fields that this server writes: untrusted names, addresses and values, in which nothing can end a field, and dates.

pub(crate) mod address;
pub(crate) mod clean;
mod date;
mod field;

pub(crate) use date::Date;
pub use field::FieldNameError;
pub(crate) use field::field;
