use std::time::Duration;

/// How one cell is to be run.
///
/// ```
/// use std::time::Duration;
/// use sessile::interpreter::ExecuteOptions;
///
/// let options = ExecuteOptions::new().timeout(Duration::from_secs(5)).max_output(64 * 1024);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecuteOptions {
    pub(super) timeout: Option<Duration>,
    pub(super) max_output: usize,
}

impl ExecuteOptions {
    /// No time limit, 1 MiB of output.
    #[must_use]
    pub const fn new() -> Self {
        Self { timeout: None, max_output: 1 << 20 }
    }

    /// How long the cell may run before it is interrupted.
    ///
    /// Default: no limit. An interrupted cell ends with `KeyboardInterrupt` and
    /// [`timed_out`](super::Execution::timed_out); the state survives. Only a cell that will not
    /// stop costs the session.
    #[must_use]
    pub const fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// How many bytes of text the cell may put out, all streams together; and how long the value
    /// and the traceback may be, each.
    ///
    /// Default: 1 MiB. What goes beyond is read and thrown away, the cell runs on, and
    /// [`truncated`](super::Execution::truncated) is set. Data of other MIME types that does not
    /// fit is left out whole.
    #[must_use]
    pub const fn max_output(mut self, bytes: usize) -> Self {
        self.max_output = bytes;
        self
    }
}

impl Default for ExecuteOptions {
    fn default() -> Self {
        Self::new()
    }
}
