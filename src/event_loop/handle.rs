//! Everybody else's handle to a loop.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::local::LocalHandle;
use super::mailbox::{Job, Posted, Refused};
use super::reach::Reach;
use super::timers::after;
use crate::exclusive::Exclusive;
use crate::task::{JoinHandle, Ran, Runner, task};

/// Sends work to a loop from any thread, and always wakes it.
///
/// It keeps the loop's mailbox alive, not the loop: when that is closed, every post is refused.
///
/// It has no `call_soon`, which would not wake; the owner's [`LocalHandle`] has:
///
/// ```compile_fail,E0599
/// let event_loop = sessile::EventLoop::new();
/// event_loop.handle().call_soon(|| ());
/// ```
///
/// ```
/// let event_loop = sessile::EventLoop::new();
/// event_loop.handle().call_soon_threadsafe(|| ());
/// ```
#[derive(Clone)]
pub struct Handle {
    pub(super) reach: Arc<Reach>,
}

/// Why a queue did not take work; the work comes back with it.
///
/// A queue that is full may take it later; one that is closed never will. The error is
/// `Send + Sync + 'static`, so `?` carries it into any other.
///
/// ```
/// let event_loop = sessile::EventLoop::new();
/// let handle = event_loop.handle();
/// drop(event_loop);
///
/// let refused = handle.call(|| 7).unwrap_err();
/// assert!(refused.is_closed() && !refused.is_full());
/// assert_eq!(refused.to_string(), "the owner takes no more work");
/// let work = refused.into_inner();
/// assert_eq!(work(), 7);
/// ```
pub struct PostError<F> {
    refusal: Refusal,
    work: Exclusive<F>,
}

/// Why a queue refuses.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Whose queue, and how much waits in it at most, where that has to be said.
    Full(Option<(Whose, usize)>),
    /// There is no thread, and the system has none to give.
    NoThread,
    Closed,
}

/// Whose queue is full.
#[derive(Debug)]
pub(crate) enum Whose {
    Everybody,
    Worker(usize),
    Key(String),
}

impl<F> PostError<F> {
    pub(crate) fn new(refusal: Refusal, work: F) -> Self {
        Self { refusal, work: Exclusive::new(work) }
    }

    /// Hands back the work.
    ///
    /// ```
    /// let event_loop = sessile::EventLoop::new();
    /// let handle = event_loop.handle();
    /// drop(event_loop);
    /// let refused = handle.call_soon_threadsafe(|| println!("hello")).unwrap_err();
    /// refused.into_inner()(); // the callback is not lost
    /// ```
    pub fn into_inner(self) -> F {
        self.work.into_inner()
    }

    /// Says whether the queue is full now, so that a later try may succeed.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(1).queue_capacity(1).build()?;
    /// let (hold, held) = std::sync::mpsc::channel::<()>();
    /// let running = workers.submit(move |_| drop(held.recv()))?;
    /// while workers.status().running == 0 {
    ///     std::thread::yield_now();
    /// }
    /// let waits = workers.submit(|_| ())?;
    /// assert!(workers.try_submit(|_| ()).unwrap_err().is_full());
    /// drop(hold);
    /// running.join()?;
    /// waits.join()?;
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self.refusal, Refusal::Full(_) | Refusal::NoThread)
    }

    /// Says whether it is the queue of one key of [`Workers`](crate::Workers) that is full, so that
    /// work for other keys may be taken.
    #[must_use]
    pub fn is_key_full(&self) -> bool {
        matches!(self.refusal, Refusal::Full(Some((Whose::Key(_), _))))
    }

    /// Says whether the owner takes no more work, so that no later try can succeed.
    ///
    /// ```
    /// let event_loop = sessile::EventLoop::new();
    /// let handle = event_loop.handle();
    /// drop(event_loop);
    /// assert!(handle.call_soon_threadsafe(|| ()).unwrap_err().is_closed());
    /// ```
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.refusal, Refusal::Closed)
    }

    pub(crate) fn map<G>(self, map: impl FnOnce(F) -> G) -> PostError<G> {
        PostError::new(self.refusal, map(self.work.into_inner()))
    }
}

impl<F> From<Refused<F>> for PostError<F> {
    fn from(refused: Refused<F>) -> Self {
        match refused {
            Refused::Full(work) => Self::new(Refusal::Full(None), work),
            Refused::Closed(work) => Self::new(Refusal::Closed, work),
        }
    }
}

impl<F> fmt::Debug for PostError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PostError::")?;
        match &self.refusal {
            Refusal::Full(Some((whose, _))) => write!(f, "Full({whose:?}, ..)"),
            Refusal::Full(None) => f.write_str("Full(..)"),
            Refusal::NoThread => f.write_str("NoThread(..)"),
            Refusal::Closed => f.write_str("Closed(..)"),
        }
    }
}

impl<F> fmt::Display for PostError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.refusal {
            Refusal::Full(Some((Whose::Key(key), most))) => {
                write!(f, "the queue of key `{key}` is full: it takes {most} and no more")
            }
            Refusal::Full(Some((Whose::Worker(number), most))) => {
                write!(f, "the queue of worker {number} is full: it takes {most} and no more")
            }
            Refusal::Full(Some((Whose::Everybody, most))) => {
                write!(f, "the queue is full: it takes {most} and no more")
            }
            Refusal::Full(None) => f.write_str("the queue is full"),
            Refusal::NoThread => f.write_str("there is no thread, and none can be started"),
            Refusal::Closed => f.write_str("the owner takes no more work"),
        }
    }
}

impl<F> Error for PostError<F> {}

/// What [`Handle::call`] was given, as it comes back if it never ran.
///
/// ```
/// use sessile::event_loop::Call;
///
/// let event_loop = sessile::EventLoop::new();
/// let handle = event_loop.handle();
/// event_loop.close();
/// let work: Call<u32> = handle.call(|| 7).unwrap_err().into_inner();
/// assert_eq!(work(), 7);
/// ```
pub type Call<R> = Box<dyn FnOnce() -> R + Send>;

struct Soon<F>(F);

impl<F: FnOnce() + Send + 'static> Job for Soon<F> {
    fn run(self) {
        (self.0)();
    }
}

struct Later<F> {
    at: Instant,
    callback: F,
}

impl<F: FnOnce() + Send + 'static> Job for Later<F> {
    fn run(self) {
        let local = LocalHandle::current().expect("letters are opened by their loop");
        drop(local.call_at(self.at, self.callback));
    }
}

struct Called<R>(Runner<R, Call<R>>);

impl<R: Send + 'static> Job for Called<R> {
    fn run(self) {
        let ran = self.0.run(|body| body());
        // The handle carries the panic; the loop only counts it.
        debug_assert!(matches!(ran, Ran::Returned | Ran::Panicked | Ran::Cancelled));
    }
}

impl Handle {
    /// Has the loop call `callback` in its next turn, and wakes it. In the order of posting.
    ///
    /// To be able to cancel it, use [`call`](Self::call).
    ///
    /// ```
    /// let event_loop = sessile::EventLoop::new();
    /// let handle = event_loop.handle();
    /// std::thread::spawn(move || handle.call_soon_threadsafe(|| println!("on the loop's thread")));
    /// event_loop.run_once(None)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the mailbox is full or the loop closed; the callback comes back.
    pub fn call_soon_threadsafe<F>(&self, callback: F) -> Result<(), PostError<F>>
    where
        F: FnOnce() + Send + 'static,
    {
        match self.reach.post(Soon(callback)) {
            Ok(_) => Ok(()),
            Err(refused) => Err(PostError::from(refused).map(|soon| soon.0)),
        }
    }

    /// Has the loop call `callback` after `delay`, which begins now.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use sessile::event_loop::LocalHandle;
    ///
    /// let event_loop = sessile::EventLoop::new();
    /// let stop = || LocalHandle::current().expect("within a loop").stop();
    /// event_loop.handle().call_later_threadsafe(Duration::from_millis(1), stop)?;
    /// event_loop.run()?;
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`call_soon_threadsafe`](Self::call_soon_threadsafe).
    pub fn call_later_threadsafe<F>(&self, delay: Duration, callback: F) -> Result<(), PostError<F>>
    where
        F: FnOnce() + Send + 'static,
    {
        let at = after(delay);
        match self.reach.post(Later { at, callback }) {
            Ok(_) => Ok(()),
            Err(refused) => Err(PostError::from(refused).map(|later| later.callback)),
        }
    }

    /// Runs `body` on the loop's thread, and gives the answer to the handle: to be joined, awaited, or
    /// cancelled.
    ///
    /// Joined on the loop's own thread, the handle says at once that this would be a deadlock. If the
    /// loop closes before the body runs, the handle resolves as cancelled, with the body.
    ///
    /// ```
    /// let event_loop = sessile::EventLoop::new();
    /// let (handle, stop) = (event_loop.handle(), event_loop.handle());
    /// let asks = std::thread::spawn(move || {
    ///     let answer = handle.call(|| 6 * 7).unwrap().join();
    ///     stop.stop();
    ///     answer
    /// });
    /// event_loop.run()?;
    /// assert_eq!(asks.join().unwrap()?, 42);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`call_soon_threadsafe`](Self::call_soon_threadsafe).
    pub fn call<R, F>(&self, body: F) -> Result<JoinHandle<R>, PostError<Call<R>>>
    where
        R: Send + 'static,
        F: FnOnce() -> R + Send + 'static,
    {
        let body: Call<R> = Box::new(body);
        let (runner, mut handle) = task(body, self.reach.runs_on);
        handle.set_loop(self.reach.address());
        match self.reach.post(Called(runner)) {
            Ok(Posted::Seen) => Ok(handle),
            Ok(Posted::Wake) => {
                handle.expect_to_wait();
                Ok(handle)
            }
            Err(refused) => Err(PostError::from(refused).map(|called| {
                let body = handle.cancel().expect("not posted, so it cannot have begun");
                drop(called);
                body
            })),
        }
    }

    /// Posts a job, and says whether the owner had to be woken for it.
    pub(crate) fn post<J: Job>(&self, job: J) -> Result<Posted, PostError<J>> {
        self.reach.post(job).map_err(PostError::from)
    }

    /// Has the loop end its run after the turn it is in, or after its next, and wakes it.
    ///
    /// ```
    /// let event_loop = sessile::EventLoop::new();
    /// let handle = event_loop.handle();
    /// std::thread::spawn(move || handle.stop());
    /// event_loop.run()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn stop(&self) {
        self.reach.stop();
    }

    /// Says whether the loop takes no more work.
    ///
    /// ```
    /// let event_loop = sessile::EventLoop::new();
    /// let handle = event_loop.handle();
    /// assert!(!handle.is_closed());
    /// drop(event_loop);
    /// assert!(handle.is_closed());
    /// ```
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.reach.mailbox.is_closed()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("thread", &self.reach.thread.as_ref().and_then(|thread| thread.name()))
            .field("is_closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}
