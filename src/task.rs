//! Work that was sent to another thread, and the handle to what comes of it.
//!
//! A task is in one of four states and only ever moves down this list: queued, running, finished or
//! cancelled. Whoever moves it does so under its lock, so a cancel and a start never both succeed,
//! and the body is never lost: it runs, or it comes back.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::ThreadId;
use std::time::Duration;

use crate::contain::{contain, panic_message};
use crate::deadline::Deadline;
use crate::error::{Kind, PoolError};
use crate::exclusive::Exclusive;
use crate::sync::thread::{self, Thread};
use crate::sync::{AtomicBool, Mutex, MutexGuard, Ordering, look_out};

/// Waits for work that runs on another thread; or cancels it; or awaits it, on any runtime.
///
/// Dropping it lets the work run on its own. `B` is what the work was: it comes back, unrun, from
/// [`cancel`](Self::cancel) and [`JoinError::into_body`].
#[must_use = "dropped, it lets the work run on its own; say so with `drop` or `detach`"]
pub struct JoinHandle<R, B = Box<dyn FnOnce() -> R + Send>> {
    task: Arc<Task<R, B>>,
    /// Who is to run it had to be woken: longer than one looks out for an answer.
    sleeps_at_once: bool,
    /// If a loop is to run it: the loop's address, never followed.
    of_loop: Option<usize>,
}

/// The side of a task that runs it. Dropped without having run, it cancels.
pub(crate) struct Runner<R, B> {
    task: Arc<Task<R, B>>,
}

struct Task<R, B> {
    /// The thread that it is to run on, if that is settled: waiting there would be for ever.
    runs_on: Option<ThreadId>,
    /// Told of a cancel: there is something to be dropped where the work would have run.
    on_cancel: Option<Waker>,
    /// Whether `state` is at its end. For waiting without the lock.
    ended: AtomicBool,
    state: Mutex<State<R, B>>,
}

enum State<R, B> {
    Queued(B, Waiter),
    Running(Waiter),
    Finished(std::thread::Result<R>),
    /// It never ran; the body, unless somebody has had it back.
    Cancelled(Option<B>),
    /// It could not run, for want of an instance.
    NoInstance(B, PoolError),
    /// The handle has taken what there was.
    Collected,
}

#[derive(Default)]
enum Waiter {
    #[default]
    Nobody,
    Thread(Thread),
    /// Of whoever awaits the handle; of loops that run until the task ends.
    Tasks(Vec<Waker>),
}

impl Waiter {
    fn wake(self) {
        match self {
            Self::Nobody => {}
            Self::Thread(thread) => thread.unpark(),
            Self::Tasks(wakers) => wakers.into_iter().for_each(Waker::wake),
        }
    }
}

/// A task and its handle. `runs_on` is the thread that will run it, if that is settled.
pub(crate) fn task<R, B>(body: B, runs_on: Option<ThreadId>) -> (Runner<R, B>, JoinHandle<R, B>) {
    task_with(body, runs_on, None)
}

/// [`task`], with somebody who is to know of a cancel.
pub(crate) fn task_with<R, B>(
    body: B,
    runs_on: Option<ThreadId>,
    on_cancel: Option<Waker>,
) -> (Runner<R, B>, JoinHandle<R, B>) {
    let task = Arc::new(Task {
        runs_on,
        on_cancel,
        ended: AtomicBool::new(false),
        state: Mutex::new(State::Queued(body, Waiter::Nobody)),
    });
    (Runner { task: Arc::clone(&task) }, JoinHandle { task, sleeps_at_once: false, of_loop: None })
}

impl<R, B> Task<R, B> {
    fn state(&self) -> MutexGuard<'_, State<R, B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, end: State<R, B>) {
        let mut state = self.state();
        let waiter = match mem::replace(&mut *state, end) {
            State::Queued(_, waiter) | State::Running(waiter) => waiter,
            _ => unreachable!("a task ends once"),
        };
        self.ended.store(true, Ordering::Release);
        drop(state);
        waiter.wake(); // foreign code, if it is a runtime's: after the lock
    }

    /// Has this waiter woken at the end, and no other. `false` if that has come.
    fn register(&self, mut new: Waiter) -> bool {
        // What was there, or `new` if it comes too late, is foreign code to be dropped: after the lock.
        let mut state = self.state();
        let registered = match &mut *state {
            State::Queued(_, waiter) | State::Running(waiter) => {
                mem::swap(waiter, &mut new);
                true
            }
            _ => false,
        };
        drop(state);
        registered
    }
}

impl<R, B> Runner<R, B> {
    /// Begins to run, unless cancelled: hands out the body.
    fn start(&self) -> Option<B> {
        let mut state = self.task.state();
        match mem::replace(&mut *state, State::Collected) {
            State::Queued(body, waiter) => {
                *state = State::Running(waiter);
                Some(body)
            }
            other => {
                *state = other;
                None
            }
        }
    }

    /// Runs the body by `call`, unless cancelled. A panic in it goes to the handle; says whether
    /// there was one.
    pub(crate) fn run(self, call: impl FnOnce(B) -> R) -> Ran {
        let Some(body) = self.start() else { return Ran::Cancelled };
        let result = catch_unwind(AssertUnwindSafe(|| call(body)));
        let ran = if result.is_ok() { Ran::Returned } else { Ran::Panicked };
        self.task.end(State::Finished(result));
        ran
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        matches!(*self.task.state(), State::Cancelled(_) | State::Collected)
    }

    /// As [`run`](Self::run), with an instance that may fail to be had: then the body comes back to
    /// the handle, with the reason.
    ///
    /// The instance is asked for only once the work has begun, so that what was cancelled costs none.
    pub(crate) fn run_with<I>(
        self,
        instance: impl FnOnce() -> Result<I, PoolError>,
        call: impl FnOnce(I, B) -> R,
    ) {
        let Some(body) = self.start() else { return };
        // A manager that panics has not run the body: that comes back, as after an error.
        let end = match contain(instance).map_err(|panic| Kind::CreateFailed(panic).into()) {
            Ok(Ok(instance)) => {
                State::Finished(catch_unwind(AssertUnwindSafe(|| call(instance, body))))
            }
            Ok(Err(error)) | Err(error) => State::NoInstance(body, error),
        };
        self.task.end(end);
    }
}

/// How a run went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ran {
    Returned,
    Panicked,
    Cancelled,
}

impl<R, B> Drop for Runner<R, B> {
    fn drop(&mut self) {
        let mut state = self.task.state();
        match mem::replace(&mut *state, State::Collected) {
            // The work will never run: whoever waits is told, and may have it back.
            State::Queued(body, waiter) => {
                *state = State::Cancelled(Some(body));
                self.task.ended.store(true, Ordering::Release);
                drop(state);
                waiter.wake();
            }
            other => *state = other,
        }
    }
}

impl<R, B> JoinHandle<R, B> {
    /// Whether the work has run, or will never.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.task.ended.load(Ordering::Acquire)
    }

    /// Waits for the work and returns what it returned.
    ///
    /// # Errors
    ///
    /// If the work panicked or was cancelled, or if it is this very thread that would have to run it
    /// (it will run nevertheless, later, on its own).
    pub fn join(self) -> Result<R, JoinError<B>> {
        match self.wait(Deadline::NEVER) {
            Ok(()) => self.collect(),
            Err(NotYet::WouldDeadlock | NotYet::TimedOut) => Err(ErrorKind::WouldDeadlock.into()),
        }
    }

    /// [`join`](Self::join), for no longer than this; after that the handle comes back.
    ///
    /// # Errors
    ///
    /// The outer one hands the handle back: the time is over, or it is this very thread that would
    /// have to run the work. The inner one is as in [`join`](Self::join).
    pub fn join_timeout(self, wait: Duration) -> Result<Result<R, JoinError<B>>, Self> {
        match self.wait(Deadline::after(wait)) {
            Ok(()) => Ok(self.collect()),
            Err(NotYet::WouldDeadlock | NotYet::TimedOut) => Err(self),
        }
    }

    /// Keeps the work from running, if it has not started: then it comes back. It is `None` if it
    /// runs, has run, or was cancelled before.
    pub fn cancel(&self) -> Option<B> {
        let mut state = self.task.state();
        match mem::replace(&mut *state, State::Collected) {
            State::Queued(body, waiter) => {
                *state = State::Cancelled(None);
                self.task.ended.store(true, Ordering::Release);
                drop(state);
                waiter.wake();
                if let Some(waker) = &self.task.on_cancel {
                    waker.wake_by_ref();
                }
                Some(body)
            }
            other => {
                *state = other;
                None
            }
        }
    }

    /// Who is to run the work has to be woken for it: that takes longer than one looks out for an
    /// answer.
    pub(crate) fn expect_to_wait(&mut self) {
        self.sleeps_at_once = true;
    }

    /// Lets the work run on its own.
    pub fn detach(self) {}

    fn wait(&self, deadline: Deadline) -> Result<(), NotYet> {
        if self.is_finished() {
            return Ok(());
        }
        if self.task.runs_on == Some(std::thread::current().id()) {
            return Err(NotYet::WouldDeadlock);
        }
        if !self.sleeps_at_once && look_out(|| self.is_finished()) {
            return Ok(());
        }
        let mut registered = false;
        while !self.is_finished() {
            if !registered {
                if !self.task.register(Waiter::Thread(thread::current())) {
                    return Ok(());
                }
                registered = true;
            }
            match deadline.remaining() {
                None => thread::park(),
                Some(left) if left.is_zero() => return Err(NotYet::TimedOut),
                Some(left) => thread::park_timeout(left),
            }
        }
        Ok(())
    }

    fn collect(&self) -> Result<R, JoinError<B>> {
        match mem::replace(&mut *self.task.state(), State::Collected) {
            State::Finished(Ok(result)) => Ok(result),
            State::Finished(Err(payload)) => Err(ErrorKind::panicked(payload).into()),
            State::Cancelled(body) => Err(ErrorKind::Cancelled(Exclusive::new(body)).into()),
            State::NoInstance(body, error) => {
                Err(ErrorKind::NoInstance(Exclusive::new(body), error).into())
            }
            State::Collected => panic!("the handle was polled, or joined, after it was ready"),
            State::Queued(..) | State::Running(_) => unreachable!("collected at the end"),
        }
    }

    /// Has `waker` woken at the end, besides whoever else waits, until it is [forgotten](Self::forget):
    /// a handle that is only lent may be lent to several. `false` if the end has come.
    pub(crate) fn wake_at_end(&self, waker: &Waker) -> bool {
        let new = waker.clone(); // before the lock: if it is not needed, it goes after it
        let mut state = self.task.state();
        let (State::Queued(_, waiter) | State::Running(waiter)) = &mut *state else { return false };
        match waiter {
            Waiter::Tasks(wakers) => wakers.push(new),
            // A thread that waits has the handle to itself: this one has given up.
            Waiter::Nobody | Waiter::Thread(_) => *waiter = Waiter::Tasks(vec![new]),
        }
        true
    }

    /// Has `waker` not woken any more, once for each [`wake_at_end`](Self::wake_at_end).
    pub(crate) fn forget(&self, waker: &Waker) {
        let mut state = self.task.state();
        let (State::Queued(_, waiter) | State::Running(waiter)) = &mut *state else { return };
        let Waiter::Tasks(wakers) = waiter else { return };
        // Not by `will_wake`, which may say no of a waker's own clone.
        let at = wakers.iter().position(|one| one.data() == waker.data());
        let forgotten = at.map(|at| wakers.swap_remove(at));
        drop(state);
        drop(forgotten); // foreign code: after the lock
    }

    /// It is a loop that is to run the work: its address.
    pub(crate) fn set_loop(&mut self, address: usize) {
        self.of_loop = Some(address);
    }

    /// Whether the work is this thread's to run, and not the business of this loop: while that runs here,
    /// nobody else does.
    pub(crate) fn waits_for_this_thread(&self, in_loop: usize) -> bool {
        !self.is_finished()
            && self.task.runs_on == Some(std::thread::current().id())
            && self.of_loop != Some(in_loop)
    }
}

enum NotYet {
    TimedOut,
    WouldDeadlock,
}

/// Polled after it was ready, it panics, as futures do.
impl<R, B> Future for JoinHandle<R, B> {
    type Output = Result<R, JoinError<B>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if !self.is_finished() && self.task.register(Waiter::Tasks(vec![cx.waker().clone()])) {
            return Poll::Pending;
        }
        Poll::Ready(self.collect())
    }
}

impl<R, B> fmt::Debug for JoinHandle<R, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("is_finished", &self.is_finished())
            .finish_non_exhaustive()
    }
}

/// Why there is no result.
///
/// `Display` says what happened, with a panic's message. The error is `Send + Sync + 'static`, so `?`
/// carries it into any other.
///
/// ```
/// # use sessile::{Pool, Workers, from_fn};
/// # let pool = Pool::builder(from_fn(|_| 0_u8));
/// let workers = Workers::builder(pool).threads(1).build()?;
/// let error = workers.submit(|_| panic!("no such table: sales"))?.join().unwrap_err();
/// assert!(error.is_panic());
/// assert_eq!(error.to_string(), "the work panicked: no such table: sales");
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
pub struct JoinError<B = ()>(ErrorKind<B>);

enum ErrorKind<B> {
    /// With the message, if it has one.
    Panicked(Option<String>, Exclusive<Box<dyn Any + Send>>),
    Cancelled(Exclusive<Option<B>>),
    NoInstance(Exclusive<B>, PoolError),
    WouldDeadlock,
}

impl<B> ErrorKind<B> {
    fn panicked(payload: Box<dyn Any + Send>) -> Self {
        Self::Panicked(panic_message(&*payload).map(str::to_owned), Exclusive::new(payload))
    }
}

impl<B> From<ErrorKind<B>> for JoinError<B> {
    fn from(kind: ErrorKind<B>) -> Self {
        Self(kind)
    }
}

impl<B> JoinError<B> {
    /// Says whether the work panicked.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        matches!(self.0, ErrorKind::Panicked(..))
    }

    /// Says whether the work never ran, and never will.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(self.0, ErrorKind::Cancelled(_))
    }

    /// Says whether the worker had no instance to run the work with. [`source`](Error::source) is the
    /// [`PoolError`] that says why.
    #[must_use]
    pub fn is_no_instance(&self) -> bool {
        matches!(self.0, ErrorKind::NoInstance(..))
    }

    /// Says whether the thread that waits is the one that would have to run the work.
    #[must_use]
    pub fn is_deadlock(&self) -> bool {
        matches!(self.0, ErrorKind::WouldDeadlock)
    }

    /// Hands out what the panic carried, as from [`std::thread::JoinHandle::join`].
    ///
    /// # Errors
    ///
    /// Itself, if the work did not panic.
    pub fn try_into_panic(self) -> Result<Box<dyn Any + Send>, Self> {
        match self.0 {
            ErrorKind::Panicked(_, payload) => Ok(payload.into_inner()),
            other => Err(Self(other)),
        }
    }

    /// Hands back the work, if it never ran, and nobody has had it back before.
    #[must_use]
    pub fn into_body(self) -> Option<B> {
        match self.0 {
            ErrorKind::Cancelled(body) => body.into_inner(),
            ErrorKind::NoInstance(body, _) => Some(body.into_inner()),
            ErrorKind::Panicked(..) | ErrorKind::WouldDeadlock => None,
        }
    }

    /// Goes on with the panic on this thread, if the work panicked; otherwise hands itself back.
    pub fn resume_panic(self) -> Self {
        match self.0 {
            ErrorKind::Panicked(_, payload) => resume_unwind(payload.into_inner()),
            other => Self(other),
        }
    }
}

impl<B> fmt::Debug for JoinError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            ErrorKind::Panicked(Some(message), _) => write!(f, "JoinError::Panicked({message:?})"),
            ErrorKind::Panicked(None, _) => f.write_str("JoinError::Panicked(..)"),
            ErrorKind::Cancelled(_) => f.write_str("JoinError::Cancelled(..)"),
            ErrorKind::NoInstance(_, error) => {
                f.debug_tuple("JoinError::NoInstance").field(error).finish()
            }
            ErrorKind::WouldDeadlock => f.write_str("JoinError::WouldDeadlock"),
        }
    }
}

impl<B> fmt::Display for JoinError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            ErrorKind::Panicked(Some(message), _) => {
                return write!(f, "the work panicked: {message}");
            }
            ErrorKind::Panicked(None, _) => "the work panicked",
            ErrorKind::Cancelled(_) => "the work was cancelled before it ran",
            ErrorKind::NoInstance(..) => "the worker had no instance to run the work with",
            ErrorKind::WouldDeadlock => "this thread would wait for work that it has to run itself",
        })
    }
}

impl<B> Error for JoinError<B> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            ErrorKind::NoInstance(_, error) => Some(error),
            ErrorKind::Panicked(..) | ErrorKind::Cancelled(_) | ErrorKind::WouldDeadlock => None,
        }
    }
}

#[cfg(all(test, sessile_loom))]
mod models;
