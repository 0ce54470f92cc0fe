use std::fmt;

/// What a message in a [`Store`](super::Store) outlives, and with it what 250 promises. A greater one outlives more.
///
/// ```
/// use smtpd_tower::queue::Durability;
///
/// let synced = Durability::Machine { synced: true };
/// assert!(synced > Durability::Machine { synced: false });
/// assert!(Durability::Machines(3) > synced);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// Nothing: the message is lost with the process.
    Process,
    /// The end of the process. If `synced`, also that of the machine, such as a power cut.
    Machine {
        /// Whether the message is synced to the disk before the client receives 250.
        synced: bool,
    },
    /// The loss of all machines but one, of so many.
    Machines(u8),
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process => f.write_str("in the process"),
            Self::Machine { synced: false } => f.write_str("on the machine, not synced"),
            Self::Machine { synced: true } => f.write_str("on the machine, synced"),
            Self::Machines(number) => write!(f, "on {number} machines"),
        }
    }
}
