use std::time::Duration;
use std::{error, fmt, io};

use super::Output;

/// The engine failed, as opposed to the code it ran.
///
/// Opaque; the predicates are named for what the caller does next.
///
/// ```
/// # use sessile::interpreter::{Execution, ExecuteOptions, Interpreter, InterpreterError};
/// fn patient(engine: &mut impl Interpreter, code: &str) -> Result<Execution, InterpreterError> {
///     let outcome = engine.execute(code, &ExecuteOptions::new());
///     if let Err(error) = &outcome
///         && error.state_lost()
///     {
///         engine.reset()?; // and tell whoever relied on earlier cells
///     }
///     outcome
/// }
/// ```
pub struct InterpreterError(Box<Inner>);

const _: () = assert!(size_of::<InterpreterError>() == size_of::<usize>());

struct Inner {
    kind: Kind,
    outputs: Vec<Output>,
}

enum Kind {
    /// The engine could not be started.
    Start { what: String, source: Option<io::Error> },
    /// The engine ended while it ran a cell, or just before.
    Died { how: String },
    /// The cell would not stop at its limit, so the engine was killed.
    Killed { limit: Duration },
    /// The engine was dead before the call.
    Dead,
    /// The engine said something that cannot be understood.
    Protocol { what: String },
    /// The input cannot be sent to this engine.
    Refused { what: String },
}

impl InterpreterError {
    fn new(kind: Kind) -> Self {
        Self(Box::new(Inner { kind, outputs: Vec::new() }))
    }

    /// Makes the error of an engine that did not start: `what` is wrong, and why, if the system said.
    ///
    /// For engines of one's own, and for their doubles in tests.
    ///
    /// ```
    /// use std::io;
    ///
    /// use sessile::interpreter::InterpreterError;
    ///
    /// let source = io::Error::from(io::ErrorKind::NotFound);
    /// let error = InterpreterError::start("`python3` is not installed", Some(source));
    /// assert!(error.is_start() && error.is_dead() && !error.state_lost());
    /// ```
    pub fn start(what: impl Into<String>, source: Option<io::Error>) -> Self {
        Self::new(Kind::Start { what: what.into(), source })
    }

    /// Makes the error of an engine that ended while it ran a cell, or just before: `how` it did.
    ///
    /// ```
    /// let error = sessile::interpreter::InterpreterError::died("exit code 3");
    /// assert!(error.is_dead() && error.state_lost());
    /// ```
    pub fn died(how: impl Into<String>) -> Self {
        Self::new(Kind::Died { how: how.into() })
    }

    pub(super) fn killed(limit: Duration) -> Self {
        Self::new(Kind::Killed { limit })
    }

    pub(super) fn dead() -> Self {
        Self::new(Kind::Dead)
    }

    pub(super) fn protocol(what: impl Into<String>) -> Self {
        Self::new(Kind::Protocol { what: what.into() })
    }

    /// Makes the error of an engine that cannot take an input: `what` it cannot take. Its session is
    /// as it was.
    ///
    /// ```
    /// let error = sessile::interpreter::InterpreterError::refused("it is 3 GiB long");
    /// assert!(error.is_refused() && !error.is_dead());
    /// ```
    pub fn refused(what: impl Into<String>) -> Self {
        Self::new(Kind::Refused { what: what.into() })
    }

    /// Adds what the cell had put out before the engine failed; [`outputs`](Self::outputs) has it.
    ///
    /// ```
    /// use sessile::interpreter::{InterpreterError, Output};
    ///
    /// let said = Output::Stdout { text: "half".to_owned() };
    /// let error = InterpreterError::died("exit code 3").with_outputs(vec![said.clone()]);
    /// assert_eq!(error.outputs(), [said]);
    /// ```
    #[must_use]
    pub fn with_outputs(mut self, outputs: Vec<Output>) -> Self {
        self.0.outputs = outputs;
        self
    }

    /// The engine is gone: [`reset`](super::Interpreter::reset) it, or let the pool replace it.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        !self.is_refused()
    }

    /// Every variable of the session is gone; cells that rely on earlier ones must not go on.
    ///
    /// True whenever [`is_dead`](Self::is_dead) is, but for an engine that never started: that had
    /// no state to lose.
    #[must_use]
    pub fn state_lost(&self) -> bool {
        self.is_dead() && !self.is_start()
    }

    /// The cell did not stop at its time limit, nor when interrupted, and the engine was killed.
    ///
    /// A cell that *did* stop is no error: see [`timed_out`](super::Execution::timed_out).
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self.0.kind, Kind::Killed { .. })
    }

    /// The engine could not be started: look at how it is installed.
    #[must_use]
    pub fn is_start(&self) -> bool {
        matches!(self.0.kind, Kind::Start { .. })
    }

    /// The input was refused before anything ran; the session is as it was.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self.0.kind, Kind::Refused { .. })
    }

    /// What the cell had put out before the engine failed.
    #[must_use]
    pub fn outputs(&self) -> &[Output] {
        &self.0.outputs
    }
}

impl fmt::Display for InterpreterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.kind {
            Kind::Start { what, source: _ } => write!(f, "the interpreter did not start: {what}"),
            Kind::Died { how } => {
                write!(f, "the interpreter died ({how}): its state is lost")
            }
            Kind::Killed { limit } => write!(
                f,
                "the cell did not stop at its limit of {limit:?}: the interpreter was killed, its \
                 state is lost"
            ),
            Kind::Dead => f.write_str("the interpreter is dead: its state is lost"),
            Kind::Protocol { what } => {
                write!(f, "the interpreter broke its protocol ({what}): its state is lost")
            }
            Kind::Refused { what } => write!(f, "the cell was refused: {what}"),
        }
    }
}

impl fmt::Debug for InterpreterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind: _, outputs } = &*self.0;
        f.debug_struct("InterpreterError")
            .field("message", &format_args!("{self}"))
            .field("outputs", &outputs.len())
            .finish()
    }
}

impl error::Error for InterpreterError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match &self.0.kind {
            Kind::Start { source: Some(source), .. } => Some(source),
            _ => None,
        }
    }
}
