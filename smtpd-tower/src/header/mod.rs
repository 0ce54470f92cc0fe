//! What this server writes into header fields: names and addresses of strangers, in which nothing can end a field, and dates.

pub(crate) mod address;
pub(crate) mod clean;
mod date;

pub(crate) use date::Date;
