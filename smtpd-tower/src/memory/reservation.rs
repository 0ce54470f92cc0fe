//! The bytes that one message holds.

use bytes::Bytes;
use smtpd_core::reply::Reply;

use super::{Excess, MemoryBudget};
#[cfg(feature = "spool")]
use std::sync::atomic::Ordering::Relaxed;

/// Bytes of a message in memory, which are given back when this is dropped; see [`MemoryBudget::reserve`].
#[derive(Debug, Default)]
pub struct Reservation {
    budget: MemoryBudget,
    bytes: u64,
}

impl Reservation {
    pub(crate) const fn empty(budget: MemoryBudget) -> Self {
        Self { budget, bytes: 0 }
    }

    #[cfg(feature = "spool")]
    pub(crate) const fn budget(&self) -> &MemoryBudget {
        &self.budget
    }

    /// Returns how many bytes are reserved.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reserves more.
    ///
    /// # Errors
    ///
    /// Returns the reply 452 4.3.1, and changes nothing, if that exceeds the limit.
    pub fn grow(&mut self, bytes: u64) -> Result<(), Reply> {
        self.add(bytes).map_err(|excess| self.budget.defer(excess))
    }

    /// Reserves more if there is room. Returns whether there was.
    #[cfg(feature = "spool")]
    pub(crate) fn try_grow(&mut self, bytes: u64) -> bool {
        self.add(bytes).is_ok()
    }

    fn add(&mut self, bytes: u64) -> Result<(), Excess> {
        if bytes > 0 {
            self.budget.try_add(bytes)?;
            self.bytes += bytes;
        }
        Ok(())
    }

    /// Makes sure that at least so many bytes are counted, which are in memory in any case.
    pub(crate) fn cover(&mut self, bytes: u64) {
        if bytes > self.bytes {
            self.budget.add(bytes - self.bytes);
            self.bytes = bytes;
        }
    }

    /// Gives back what exceeds `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        if bytes < self.bytes {
            self.budget.sub(self.bytes - bytes);
            self.bytes = bytes;
        }
    }

    /// Takes all of it, and leaves an empty one.
    #[cfg(feature = "spool")]
    pub(crate) fn take(&mut self) -> Self {
        let empty = Self::empty(self.budget.clone());
        std::mem::replace(self, empty)
    }

    /// Returns these bytes, which keep the reservation until the last clone of them is dropped.
    pub(crate) fn attach_to(self, bytes: Bytes) -> Bytes {
        match self.bytes {
            0 => bytes,
            _ => Bytes::from_owner(Attached {
                bytes,
                _reservation: self,
            }),
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

struct Attached {
    bytes: Bytes,
    _reservation: Reservation,
}

impl AsRef<[u8]> for Attached {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Bytes of a message in a temporary file, which are given back when this is dropped.
#[cfg(feature = "spool")]
#[derive(Debug, Default)]
pub(crate) struct InFile {
    budget: MemoryBudget,
    bytes: u64,
}

#[cfg(feature = "spool")]
impl InFile {
    pub(crate) const fn empty(budget: MemoryBudget) -> Self {
        Self { budget, bytes: 0 }
    }

    pub(crate) const fn budget(&self) -> &MemoryBudget {
        &self.budget
    }

    pub(crate) fn grow(&mut self, bytes: u64) {
        self.budget.account().in_files.fetch_add(bytes, Relaxed);
        self.bytes += bytes;
    }

    /// Takes all of it, and leaves an empty one.
    pub(crate) fn take(&mut self) -> Self {
        let empty = Self::empty(self.budget.clone());
        std::mem::replace(self, empty)
    }
}

#[cfg(feature = "spool")]
impl Drop for InFile {
    fn drop(&mut self) {
        let account = self.budget.account();
        account.in_files.fetch_sub(self.bytes, Relaxed);
    }
}
