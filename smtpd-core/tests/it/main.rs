//! Tests of smtpd-core's public API, in one binary, which links faster than one for each file.
#![allow(clippy::unwrap_used, reason = "all of it is a test")]

mod answered;
mod client;
mod corpus;
mod misuse;
mod model;
mod properties;
mod sasl_clients;
mod support;
mod survival;
mod timeouts;
mod transcripts;
