use std::time::Duration;

/// How one cell is to be run.
///
/// ```
/// use std::time::Duration;
/// use sessile::interpreter::{ExecuteOptions, Keep};
///
/// let options = ExecuteOptions::new()
///     .timeout(Duration::from_secs(5))
///     .max_output(64 * 1024)
///     .keep(Keep::Tail);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecuteOptions {
    pub(super) timeout: Option<Duration>,
    pub(super) max_output: usize,
    pub(super) max_data: usize,
    pub(super) keep: Keep,
}

/// Which part of output that is too long is kept.
///
/// ```
/// use sessile::interpreter::{ExecuteOptions, Keep};
///
/// // A build's errors stand at its end.
/// let options = ExecuteOptions::new().max_output(4_000).keep(Keep::Tail);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Keep {
    /// The beginning.
    Head,
    /// The end.
    Tail,
    /// Half of the room for the beginning, half for the end.
    #[default]
    Both,
}

impl ExecuteOptions {
    /// No time limit, 1 MiB of text, 16 MiB of other data; of text that is too long both ends.
    ///
    /// ```
    /// use sessile::interpreter::ExecuteOptions;
    ///
    /// assert_eq!(ExecuteOptions::new(), ExecuteOptions::new().max_output(1 << 20).max_data(16 << 20));
    /// ```
    #[must_use]
    pub const fn new() -> Self {
        Self { timeout: None, max_output: 1 << 20, max_data: 16 << 20, keep: Keep::Both }
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

    /// How many bytes of text the cell may put out, all streams and the `text/plain` of what it
    /// displays together; and how long the value's text and the traceback may be, each.
    ///
    /// Default: 1 MiB. What goes beyond is read and thrown away, the cell runs on, and
    /// [`truncated`](super::Execution::truncated) is set. [`keep`](Self::keep) says which part
    /// stays. Of a traceback the last line, with the exception's name and message, always does.
    #[must_use]
    pub const fn max_output(mut self, bytes: usize) -> Self {
        self.max_output = bytes;
        self
    }

    /// How many bytes of other data than text the cell may show, such as images and HTML: each
    /// piece, and all that it displays together. Images are counted as base64.
    ///
    /// Default: 16 MiB. A piece that does not fit is left out whole, and named in
    /// [`omitted`](super::Execution::omitted).
    ///
    /// ```
    /// use sessile::interpreter::ExecuteOptions;
    ///
    /// // Little text, and one figure of an ordinary size.
    /// let options = ExecuteOptions::new().max_output(20_000).max_data(1 << 20);
    /// ```
    #[must_use]
    pub const fn max_data(mut self, bytes: usize) -> Self {
        self.max_data = bytes;
        self
    }

    /// Which part is kept of output that is longer than [`max_output`](Self::max_output).
    ///
    /// Default: [`Keep::Both`]. [`cut`](super::Execution::cut) says where something is missing, and
    /// how much. The end of an output is known when the cell has ended, so
    /// [`execute_with`](super::Interpreter::execute_with) shows it only then.
    #[must_use]
    pub const fn keep(mut self, which: Keep) -> Self {
        self.keep = which;
        self
    }
}

impl Default for ExecuteOptions {
    fn default() -> Self {
        Self::new()
    }
}
