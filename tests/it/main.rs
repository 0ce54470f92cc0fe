//! Whole sessions, and what the documentation says of the repository: one test binary, which links faster than one for each
//! file. A test that needs a process of its own has a binary beside this one, whose first lines say why.

mod accept;
mod architecture;
mod body_errors;
mod data_service;
mod docs;
mod durations;
mod engine;
mod examples;
mod extensions;
mod layers;
mod packages;
mod pages;
mod profiles;
mod proxy;
mod rfc_page;
mod router;
mod server;
mod sessions;
mod tls;
mod tls_certificates;
mod tls_clients;
mod tls_scram;
mod tower_matrix;
