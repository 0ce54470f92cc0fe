//! Whole sessions, and what the documentation says about the repository: one test binary, which links faster than one for each
//! file. A test that needs its own process has a separate binary, whose first lines say why.

mod accept;
mod admission;
mod architecture;
mod body_errors;
mod channels;
mod data_service;
mod docs;
mod durations;
mod engine;
mod examples;
mod extensions;
mod greylist;
mod guard;
mod identities;
mod layers;
mod logins;
mod metrics;
mod on_reply;
mod packages;
mod pages;
mod panicking_log;
mod profiles;
mod proxy;
mod replies;
mod rfc_page;
mod router;
mod server;
mod sessions;
mod smuggling;
mod tls;
mod tls_certificates;
mod tls_clients;
mod tls_scram;
mod tower_matrix;
mod transcripts;
