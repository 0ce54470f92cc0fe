//! Layers that decide who may do what.

mod clients;
mod deny_senders;
mod domain_filter;
mod greylist;
mod helo_check;
mod own_sender;
mod recipients;
mod require_auth;
mod require_tls;
mod reverse_dns;
mod score;

pub use self::{
    clients::{AllowClientsLayer, DenyClientsLayer},
    deny_senders::DenySendersLayer,
    domain_filter::DomainFilterLayer,
    greylist::{
        Greylist, GreylistClient, GreylistData, GreylistDataLayer, GreylistFileError,
        GreylistFileErrorKind, GreylistFuture, GreylistKey, GreylistLayer, GreylistPolicy,
        GreylistStore, GreylistVerdict, MemoryGreylist,
    },
    helo_check::HeloCheckLayer,
    own_sender::{ByFunction, ByName, OwnSenderLayer},
    recipients::RecipientsLayer,
    require_auth::RequireAuthLayer,
    require_tls::RequireTlsLayer,
    reverse_dns::{ReverseDns, ReverseDnsFuture, ReverseDnsLayer},
    score::{ScoreGate, ScoreGateLayer, ScoreLayer, Scored},
};
