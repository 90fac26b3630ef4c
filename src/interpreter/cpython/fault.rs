//! Why a child's reply does not come.

/// What ends the wait for a reply.
pub(super) enum Fault {
    /// The deadline has passed.
    Late,
    /// The child has ended, or is about to.
    Ended,
    /// It has no memory left, and ends for that.
    OutOfMemory,
    /// What it said cannot be.
    Protocol(&'static str),
    /// Its directory holds more than it may.
    #[cfg(all(feature = "confine", target_os = "linux"))]
    Overfull(String),
}
