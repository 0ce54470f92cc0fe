//! Layers that decide who may do what.

mod clients;
mod domain_filter;
mod greylist;
mod helo_check;
mod own_sender;
mod require_auth;
mod require_tls;
mod reverse_dns;
mod score;

pub use self::{
    clients::{AllowClientsLayer, DenyClientsLayer},
    domain_filter::DomainFilterLayer,
    greylist::{
        Greylist, GreylistFuture, GreylistKey, GreylistLayer, GreylistPolicy, GreylistStore,
        GreylistVerdict, MemoryGreylist,
    },
    helo_check::HeloCheckLayer,
    own_sender::OwnSenderLayer,
    require_auth::RequireAuthLayer,
    require_tls::RequireTlsLayer,
    reverse_dns::{ReverseDns, ReverseDnsFuture, ReverseDnsLayer},
    score::{ScoreGateLayer, ScoreLayer, Scored},
};
