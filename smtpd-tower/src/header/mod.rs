//! Header fields that this server writes: untrusted names and addresses, in which nothing can end a field, and dates.

pub(crate) mod address;
pub(crate) mod clean;
mod date;

pub(crate) use date::Date;
