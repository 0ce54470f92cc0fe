//! How the model sees what the server writes, also through TLS, and what must hold for TLS itself.

use std::time::Duration;

use crate::{
    invariants::{LINGER, SLACK},
    journal::Pages,
    network::Wires,
    shared::Shared,
    site::Site,
    tls::Meaning,
};

impl Site {
    /// Passes to the model what client and server have sent. Returns what is wrong with their TLS.
    pub fn read_replies(&mut self, shared: &Shared) -> Option<String> {
        let mut wires = self.link.lock();
        let written = std::mem::take(&mut wires.written);
        let said = std::mem::take(&mut wires.said);
        let read = wires.up.read;
        drop(wires);
        if let Some((header, end)) = &self.client.header
            && self.model.awaits_header()
            && header.sound
            && *end <= read
        {
            self.model.header_read(header.peer.clone());
        }
        if !said.is_empty() {
            self.client.passage.add(said.len(), &Meaning::Same);
            self.model.sent(&said);
        }
        for (event, bytes) in written {
            self.written += bytes.len() as u64;
            if let Err(fault) = self.read_reply(shared, event, &bytes) {
                return Some(fault);
            }
        }
        None
    }

    fn read_reply(&mut self, shared: &Shared, event: u64, bytes: &[u8]) -> Result<(), String> {
        if self.model.handshake.is_none() {
            let plain = self.model.received(event, bytes);
            if self.model.handshake.is_none() || plain == bytes.len() {
                return Ok(());
            }
            return self.read_tls(shared, event, &bytes[plain..]);
        }
        self.read_tls(shared, event, bytes)
    }

    fn read_tls(&mut self, shared: &Shared, event: u64, bytes: &[u8]) -> Result<(), String> {
        let Some(tls) = self.client.tls.as_mut() else {
            // The client has not begun TLS, so all that it may receive is an alert.
            return self.alerts.check(bytes);
        };
        let before = tls.is_settled();
        let text = tls.receive(self.written, bytes);
        let text = text.map_err(|error| format!("what the server writes is no TLS: {error}"))?;
        let binds = !text.is_empty() && tls.exporter().is_some();
        if !before && tls.is_settled() {
            self.check_certificate(shared)?;
        }
        if !text.is_empty() {
            self.model.secured(binds);
            self.model.received(event, &text);
        }
        Ok(())
    }

    fn check_certificate(&mut self, shared: &Shared) -> Result<(), String> {
        let (Some(tls), Some(handshake)) = (&self.client.tls, &self.model.handshake) else {
            return Ok(());
        };
        let Some(mut certificates) = shared.certificates() else {
            return Ok(());
        };
        certificates.check(handshake.generation, &tls.shown())
    }

    /// Whether a handshake has begun, and the server is not through it.
    pub fn shakes(&self, wires: &Wires) -> bool {
        let through = self.client.is_shaken(wires) && !self.client.is_spoilt();
        self.model.handshake.is_some() && !through
    }

    /// The server waits for a header as long as its limit allows, but not during a shutdown.
    pub fn waits_for_header(&self, shuts_down: bool) -> Option<String> {
        if self.written > 0 {
            // It is refused.
            let age = self.model.started.elapsed();
            let late = self.model.awaits_header() && age > LINGER + self.model.late_accept();
            return late.then(|| format!("it takes {age:?} to turn it away"));
        }
        if shuts_down && self.model.awaits_header() {
            return Some("the server shuts down, and a header is awaited".to_owned());
        }
        let age = self.model.waits_too_long_for_header()?;
        Some(format!("a header is awaited for {age:?}"))
    }

    /// A session without a header ends without a reply, but only if no header can arrive any more.
    pub fn ends_header_for_no_reason(&self, shuts_down: bool, full: bool) -> Option<String> {
        let wires = self.link.lock();
        let lost = wires.reset || wires.closed || wires.up.is_ended();
        drop(wires);
        let reasons = [
            !self.model.awaits_header(),
            self.client.has_no_header(),
            self.model.is_late_for_header(),
            lost || shuts_down || full || self.aborted,
        ];
        (!reasons.contains(&true)).then(|| "a header was not waited for".to_owned())
    }

    /// A handshake ends within its time, and at once during a shutdown.
    pub fn shakes_for_too_long(&self, shuts_down: bool) -> Option<String> {
        let handshake = self.model.handshake.as_ref()?;
        let wires = self.link.lock();
        if !self.shakes(&wires) || wires.reset {
            return None;
        }
        if wires.shut.is_some() {
            // It closes.
            return None;
        }
        if shuts_down && wires.unwritten.is_none() {
            return Some("the server shuts down, and a handshake goes on".to_owned());
        }
        let limit = handshake.limit?;
        let age = handshake.since.elapsed();
        (age > limit + handshake.late + SLACK).then(|| format!("a handshake lasts for {age:?}"))
    }

    /// A handshake that fails ends the session without a reply, but only if there is something wrong.
    pub fn ends_handshake_for_no_reason(
        &self,
        shuts_down: bool,
        full: bool,
        pages: &Pages,
    ) -> Option<String> {
        let handshake = self.model.handshake.as_ref()?;
        let wires = self.link.lock();
        let late = |limit: Duration| handshake.since.elapsed() + SLACK >= limit;
        let reasons = [
            !self.shakes(&wires),
            handshake.spoilt || self.client.is_spoilt(),
            handshake.limit.is_some_and(late),
            wires.reset || wires.closed || self.client.has_ended(&wires),
            shuts_down || self.aborted,
            // A full server sends nothing in plaintext.
            full && !pages.closes.contains_key(&self.link.id),
            pages.panics.contains_key(&self.link.id),
        ];
        (!reasons.contains(&true)).then(|| "a handshake has failed for no reason".to_owned())
    }

    /// TLS ends with close_notify, so that nobody can cut off what the server has sent (RFC 8446 section 6.1).
    pub fn ends_tls_badly(&self) -> Option<String> {
        self.model.handshake.as_ref()?;
        let tls = self.client.tls.as_ref()?;
        let wires = self.link.lock();
        let gone = wires.reset || wires.closed || wires.up.is_ended() && !self.client.finished;
        let excused = gone || wires.unwritten.is_some() || self.aborted || tls.spoilt;
        let well = self.shakes(&wires) || (tls.finished && tls.is_whole());
        (!well && !excused).then(|| "TLS was closed without an end".to_owned())
    }
}
