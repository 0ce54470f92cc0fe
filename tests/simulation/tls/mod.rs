//! TLS: the certificates of the server, and both ends of it.
//!
//! The random bytes of rustls come from the seed. Those of ring, for keys and the nonces of tickets, do not, but always have the
//! same length, as certificates and the signatures of Ed25519 do. So all that the simulation observes of TLS is the same in each
//! run of a seed: lengths, never contents.

mod certificates;
mod passage;
mod records;
mod secure;

use std::{cell::Cell, sync::Arc};

use support::pki::Anybody;
use tokio_rustls::rustls::{
    ClientConfig, SignatureScheme, SupportedProtocolVersion,
    client::Resumption,
    crypto::{CryptoProvider, GetRandomFailed, SecureRandom, ring},
    version::{TLS12, TLS13},
};

pub use self::{
    certificates::{Certificates, Shown},
    passage::{Meaning, Outbox, Passage},
    records::Records,
    secure::{Flaw, Secure},
};
use crate::dice::Dice;

thread_local! {
    /// The dice of the run on this thread.
    static DICE: Cell<Option<Dice>> = const { Cell::new(None) };
}

/// Lets TLS on this thread take its chance from a seed.
pub fn begin(seed: u64) {
    DICE.set(Some(Dice::new(seed ^ 0x715)));
}

#[derive(Debug)]
struct Seeded;

impl SecureRandom for Seeded {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        let dice = DICE.take().ok_or(GetRandomFailed)?;
        bytes.fill_with(|| dice.below(256) as u8);
        DICE.set(Some(dice));
        Ok(())
    }
}

fn provider() -> CryptoProvider {
    CryptoProvider {
        secure_random: &Seeded,
        ..ring::default_provider()
    }
}

/// How the clients of a run do TLS. They keep tickets, and so may resume each other's sessions.
pub fn clients(dice: &Dice) -> Arc<ClientConfig> {
    const VERSIONS: [&[&SupportedProtocolVersion]; 3] = [&[&TLS13], &[&TLS12], &[&TLS12, &TLS13]];
    let trusting = Anybody::signing_by(&[SignatureScheme::ED25519]);
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(dice.pick(&VERSIONS))
        .unwrap()
        .dangerous()
        // Which certificate was shown is looked at elsewhere; verifying it would only take time.
        .with_custom_certificate_verifier(Arc::new(trusting))
        .with_no_client_auth();
    if dice.chance(40) {
        config.resumption = Resumption::disabled();
    }
    Arc::new(config)
}
