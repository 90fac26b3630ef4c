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
    /// It is not known how the cell went on, nor whether the engine lives.
    Unreachable { what: String },
    /// The engine was out of reach for so long that it was given up.
    #[cfg_attr(not(feature = "jupyter"), allow(dead_code))]
    GivenUp { what: String, limit: Duration },
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

    /// Makes the error of an engine that is elsewhere and cannot be reached: `what` is wrong with the
    /// way to it. Nothing is known of its session, which is kept; the next call tries again.
    ///
    /// ```
    /// use sessile::interpreter::InterpreterError;
    ///
    /// let error = InterpreterError::unreachable("the gateway does not answer");
    /// assert!(error.is_unreachable() && !error.is_dead() && !error.state_lost());
    /// ```
    pub fn unreachable(what: impl Into<String>) -> Self {
        Self::new(Kind::Unreachable { what: what.into() })
    }

    #[cfg(feature = "jupyter")]
    pub(super) fn given_up(what: impl Into<String>, limit: Duration) -> Self {
        Self::new(Kind::GivenUp { what: what.into(), limit })
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
        !self.is_refused() && !self.is_unreachable()
    }

    /// What came of the cell is not known: the engine could not be reached, or what it answered was lost
    /// on the way. Its session may be whole, and is kept: call again later.
    ///
    /// The cell may have run, may run still, or may never have begun. Only engines that are elsewhere
    /// can be out of reach.
    ///
    /// ```
    /// # use sessile::interpreter::InterpreterError;
    /// fn advice(error: &InterpreterError) -> &str {
    ///     if error.is_unreachable() {
    ///         "the variables may all be there: try again in a minute"
    ///     } else if error.state_lost() {
    ///         "every variable is gone: begin again"
    ///     } else {
    ///         "the session is as it was"
    ///     }
    /// }
    /// assert!(advice(&InterpreterError::unreachable("it does not answer")).contains("try again"));
    /// ```
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self.0.kind, Kind::Unreachable { .. })
    }

    /// The session was out of reach for longer than its owner's limit, and was given up by that: it may
    /// have been whole. [`is_dead`](Self::is_dead) and [`state_lost`](Self::state_lost) hold, too.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        matches!(self.0.kind, Kind::GivenUp { .. })
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
            Kind::Unreachable { what } => write!(
                f,
                "there is no answer to the cell ({what}): its session is kept, and the next call tries \
                 again"
            ),
            Kind::GivenUp { what, limit } => write!(
                f,
                "the session was out of reach for longer than the limit of {limit:?} ({what}): it is \
                 given up by that limit, and its state with it"
            ),
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
