//! A thread with a loop and a state, which anybody may reach.
//!
//! The state is made on the thread, by a closure, and stays there; so it need not be `Send`. Other
//! threads hold a [`StateHandle`], and send closures that get `&mut` to the state. What runs on the
//! thread holds a [`LocalState`], which watches sockets, sets timers and runs futures.
//!
//! ```
//! use std::time::Duration;
//!
//! use sessile::loop_thread::{LocalState, LoopThread};
//!
//! struct Ticks {
//!     count: u32,
//! }
//!
//! fn tick(local: LocalState<Ticks>) {
//!     let again = local.clone();
//!     local.call_later(Duration::from_millis(1), move |ticks| {
//!         ticks.count += 1;
//!         tick(again);
//!     });
//! }
//!
//! let ticks = LoopThread::spawn("ticks", |local| {
//!     tick(local.clone());
//!     Ok(Ticks { count: 0 })
//! })?;
//! ticks.handle().post(|ticks| ticks.count += 1000)?;
//! let count = ticks.handle().call(|ticks| ticks.count)?.join()?;
//! assert!(count >= 1000);
//! assert!(ticks.close(Duration::from_secs(1)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Workers`](crate::Workers) with one thread differ in what the thread does between two pieces of
//! work: a worker blocks, a `LoopThread` watches.
//!
//! # How the state is found again
//!
//! A closure that comes from another thread cannot carry a pointer to the state, which is not `Send`.
//! So the thread keeps its state in a thread-local, and the closure looks it up there. The loop calls
//! one closure at a time, and nothing in a closure's reach runs the loop once more: so the state is
//! borrowed by one of them at a time.
//!
//! # How it ends
//!
//! By [`LoopThread::close`], by dropping the `LoopThread`, by its registry, or by
//! [`LocalState::stop`]. What was posted before the order still runs. Then, if there is one, the
//! [`on_close`](LoopThreadBuilder::on_close) closure runs, which may take its time and calls
//! [`LocalState::stop`] when it is through; when the time is over, it is stopped. The state is dropped
//! on the thread; what is still queued resolves as cancelled, and later posts are refused.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::contain::contain;
use crate::deadline::Deadline;
use crate::event_loop::mailbox::{Job, Posted, Refused};
use crate::event_loop::{
    AsSource, EventLoop, Handle, Interest, LocalHandle, PostError, Readiness, Scheduled, Source,
};
use crate::manager::from_fn;
use crate::pool::{Pool, RefMut};
use crate::registry::Registry;
use crate::task::{JoinHandle, Runner, RunsOn, task};

thread_local! {
    /// The state of this thread, a `RefCell<S>`, while it is there.
    static STATE: RefCell<Option<Rc<dyn Any>>> = const { RefCell::new(None) };
}

/// Calls `act` with this thread's state. `None`: it has none yet, or none any more.
fn with_state<S: 'static, R>(act: impl FnOnce(&mut S) -> R) -> Option<R> {
    STATE.with(|kept| {
        let kept = kept.borrow();
        let state = kept.as_ref()?.downcast_ref::<RefCell<S>>()?;
        Some(act(&mut state.borrow_mut()))
    })
}

/// A thread with a loop and a state of type `S`. Dropped, it closes.
///
/// See the [module's page](self) for an example. The [`Registry`] lists it as an instance that its
/// thread uses, and closes it with all else.
///
/// ```
/// use std::time::Duration;
///
/// use sessile::LoopThread;
///
/// let counter = LoopThread::spawn("counter", |_| Ok(0))?;
/// counter.handle().post(|count| *count += 1)?;
/// assert_eq!(counter.handle().call(|count| *count)?.join()?, 1);
/// assert!(counter.close(Duration::from_secs(1)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct LoopThread<S: 'static> {
    handle: StateHandle<S>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
    over: Arc<Over>,
    close_timeout: Duration,
}

/// Tells that the thread is about to end.
#[derive(Default)]
struct Over {
    is_over: Mutex<bool>,
    tell: Condvar,
}

impl Over {
    fn wait(&self, deadline: Deadline) -> bool {
        let mut is_over = self.is_over.lock().unwrap_or_else(PoisonError::into_inner);
        while !*is_over {
            match deadline.wait(&self.tell, is_over) {
                Ok(woken) => is_over = woken,
                Err(_) => return false,
            }
        }
        true
    }
}

/// Whatever ends the thread, this tells of it.
struct TellsOver {
    over: Arc<Over>,
    when_over: Option<Box<dyn FnOnce() + Send>>,
}

impl Drop for TellsOver {
    fn drop(&mut self) {
        *self.over.is_over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.over.tell.notify_all();
        if let Some(tell) = self.when_over.take() {
            let _ = contain(tell);
        }
    }
}

type OnClose<S> = Box<dyn FnOnce(&mut S, &LocalState<S>, Duration) + Send>;

/// Sets up a [`LoopThread`].
///
/// ```
/// use std::time::Duration;
///
/// use sessile::loop_thread::LoopThread;
///
/// let log = LoopThread::builder("log")
///     .close_timeout(Duration::from_secs(2))
///     .on_close(|lines: &mut Vec<String>, local, _within| {
///         lines.push("closed".to_owned());
///         local.stop();
///     })
///     .spawn(|_| Ok(Vec::new()))?;
/// log.handle().post(|lines| lines.push("begun".to_owned()))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a builder does nothing until `spawn` is called"]
pub struct LoopThreadBuilder<S: 'static> {
    name: String,
    registry: Registry,
    close_timeout: Duration,
    on_close: Option<OnClose<S>>,
    when_over: Option<Box<dyn FnOnce() + Send>>,
}

/// What the registry lists: the thread uses it until it has ended.
struct Running;

impl<S: 'static> LoopThreadBuilder<S> {
    /// Sets the registry that lists the thread. Ordered closed there, it closes as when it is dropped.
    ///
    /// Default: [`Registry::global`].
    ///
    /// ```
    /// use sessile::{LoopThread, Registry};
    ///
    /// let registry = Registry::new();
    /// let counter = LoopThread::builder("counter").registry(&registry).spawn(|_| Ok(0))?;
    /// assert_eq!(registry.snapshot().instances.len(), 1);
    /// # drop(counter);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn registry(mut self, registry: &Registry) -> Self {
        self.registry = registry.clone();
        self
    }

    /// Sets how long closing may take when the thread is dropped, or closed by its registry.
    ///
    /// Default: 1 s.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use sessile::LoopThread;
    ///
    /// let within = Duration::from_secs(1);
    /// let counter = LoopThread::builder("counter").close_timeout(within).spawn(|_| Ok(0))?;
    /// drop(counter); // waits for no longer than that
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close_timeout(mut self, within: Duration) -> Self {
        self.close_timeout = within;
        self
    }

    /// Has `begin` called, once, when the thread is ordered closed, with the time that there is. It
    /// calls [`LocalState::stop`], then or later; after that time the thread stops in any case.
    ///
    /// Default: it stops at once.
    pub fn on_close(
        mut self,
        begin: impl FnOnce(&mut S, &LocalState<S>, Duration) + Send + 'static,
    ) -> Self {
        self.on_close = Some(Box::new(begin));
        self
    }

    /// Has `tell` called on the thread, as the last thing there, the state being dropped. Where there is
    /// no thread to be had, `tell` is dropped.
    #[cfg(all(feature = "duplex", unix))]
    pub(crate) fn when_over(mut self, tell: impl FnOnce() + Send + 'static) -> Self {
        self.when_over = Some(Box::new(tell));
        self
    }

    /// Starts the thread, has it make its state by `make`, and waits for that.
    ///
    /// ```
    /// use sessile::LoopThread;
    ///
    /// let counter = LoopThread::builder("counter").spawn(|_| Ok(0))?;
    /// # drop(counter);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If there is no thread to be had, or `make` fails or panics.
    pub fn spawn(
        self,
        make: impl FnOnce(&LocalState<S>) -> anyhow::Result<S> + Send + 'static,
    ) -> anyhow::Result<LoopThread<S>> {
        let Self { name, registry, close_timeout, on_close, when_over } = self;
        let listed = Pool::builder_local(from_fn(|_| Running));
        let listed = listed.name(&*name).registry(&registry).build()?;
        let over = Arc::new(Over::default());
        let tells_over = TellsOver { over: Arc::clone(&over), when_over };
        let (tell, told) = mpsc::sync_channel(1);
        let main = move || {
            let (_over, listed) = (tells_over, listed); // dropped at the very end
            // In use until all has ended: so it is this thread that closes it, and not before.
            let running = match listed.get() {
                Ok(running) => running,
                Err(error) => return drop(tell.send(Err(error.into()))),
            };
            let event_loop = EventLoop::new();
            let local = LocalState { local: event_loop.local(), state: PhantomData };
            match contain(|| make(&local)).and_then(|made| made) {
                Ok(state) => STATE.set(Some(Rc::new(RefCell::new(state)))),
                Err(error) => return drop(tell.send(Err(error))),
            }
            ON_CLOSE.set(on_close.map(|begin| Box::new(begin) as Box<dyn Any>));
            let _ = tell.send(Ok(local.handle()));
            let is_asked = Cell::new(false);
            // An error is the end as well: of the poller.
            let _ = event_loop.run_while(|| {
                if RefMut::is_ordered_closed(&running) && !is_asked.replace(true) {
                    // By post, and so behind what was said before the order.
                    let handle = local.local.handle();
                    let _ = handle.call_soon_threadsafe(move || begin_close::<S>(close_timeout));
                }
                true
            });
            let _ = contain(|| drop(STATE.take()));
            let _ = contain(|| drop(ON_CLOSE.take()));
        };
        let thread = thread::Builder::new().name(name).spawn(main)?;
        match told.recv() {
            Ok(Ok(handle)) => {
                Ok(LoopThread { handle, thread: Mutex::new(Some(thread)), over, close_timeout })
            }
            Ok(Err(error)) => {
                let _ = thread.join();
                Err(error)
            }
            Err(_) => {
                let _ = thread.join();
                Err(anyhow::anyhow!("the thread panicked before its state was made"))
            }
        }
    }
}

thread_local! {
    /// What to do when this thread is ordered closed, an `OnClose<S>`, until that is done.
    static ON_CLOSE: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
    static IS_CLOSING: Cell<bool> = const { Cell::new(false) };
}

/// This thread is ordered closed: on it. A later order can only bring the end nearer.
fn begin_close<S: 'static>(within: Duration) {
    let Some(local) = LocalHandle::current() else { return };
    let local = LocalState::<S> { local, state: PhantomData };
    let begin = ON_CLOSE.take().and_then(|begin| begin.downcast::<OnClose<S>>().ok());
    let is_first = !IS_CLOSING.replace(true);
    match begin {
        // A panic in it goes to the loop, which is then to end all the same: the timer is there.
        Some(begin) => {
            local.stop_after(within);
            with_state(|state: &mut S| begin(state, &local, within));
        }
        None if is_first => local.stop(),
        None => local.stop_after(within),
    }
}

impl<S: 'static> fmt::Debug for LoopThreadBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopThreadBuilder")
            .field("name", &self.name)
            .field("close_timeout", &self.close_timeout)
            .finish_non_exhaustive()
    }
}

impl<S: 'static> LoopThread<S> {
    /// Starts a thread of this name, has it make its state by `make`, and waits for that.
    ///
    /// ```
    /// use sessile::loop_thread::LoopThread;
    ///
    /// // An `Rc` never leaves the thread.
    /// let counter = LoopThread::spawn("counter", |_| Ok(std::rc::Rc::new(1)))?;
    /// assert_eq!(counter.handle().call(|counter| **counter)?.join()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If there is no thread to be had, or `make` fails or panics.
    pub fn spawn(
        name: impl Into<String>,
        make: impl FnOnce(&LocalState<S>) -> anyhow::Result<S> + Send + 'static,
    ) -> anyhow::Result<Self> {
        Self::builder(name).spawn(make)
    }

    /// Sets up a thread of this name.
    ///
    /// ```
    /// use sessile::LoopThread;
    ///
    /// let counter = LoopThread::builder("counter").spawn(|_| Ok(0))?;
    /// assert_eq!(counter.handle().call(|count| *count)?.join()?, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder(name: impl Into<String>) -> LoopThreadBuilder<S> {
        LoopThreadBuilder {
            name: name.into(),
            registry: Registry::global().clone(),
            close_timeout: Duration::from_secs(1),
            on_close: None,
            when_over: None,
        }
    }

    /// Everybody's handle to the state.
    ///
    /// ```
    /// use sessile::LoopThread;
    ///
    /// let counter = LoopThread::spawn("counter", |_| Ok(0))?;
    /// let handle = counter.handle(); // `Send + Sync + Clone`
    /// std::thread::spawn(move || handle.post(|count| *count += 1).is_ok()).join().unwrap();
    /// assert_eq!(counter.handle().call(|count| *count)?.join()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn handle(&self) -> StateHandle<S> {
        self.handle.clone()
    }

    /// Has the thread end, waits for that within this time, and says whether it has ended.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use sessile::loop_thread::LoopThread;
    /// let thread = LoopThread::spawn("short", |_| Ok(()))?;
    /// assert!(thread.close(Duration::from_secs(5)));
    /// assert!(thread.handle().post(|_| ()).unwrap_err().is_closed());
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Threads
    ///
    /// Any. On the thread itself it does not wait. In a forked child, which has no such thread, it says
    /// at once that it has ended.
    pub fn close(&self, within: Duration) -> bool {
        if self.handle.is_inherited() {
            return true;
        }
        self.begin_close(within);
        // After the time for closing the thread has a moment to drop what it has.
        self.wait_closed(within.saturating_add(Duration::from_millis(500)))
    }

    /// Has the thread end within this time, and does not wait for that.
    pub(crate) fn begin_close(&self, within: Duration) {
        // Refused, it is closed already.
        let _ = self.handle.handle.call_soon_threadsafe(move || begin_close::<S>(within));
    }

    /// Waits until the thread has ended, no longer than this, and says whether it has.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use sessile::LoopThread;
    ///
    /// let once = LoopThread::spawn("once", |local| {
    ///     let stops = local.clone();
    ///     local.call_soon(move |_| stops.stop());
    ///     Ok(())
    /// })?;
    /// assert!(once.wait_closed(Duration::from_secs(5)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Threads
    ///
    /// Any. On the thread itself it does not wait.
    #[must_use]
    pub fn wait_closed(&self, within: Duration) -> bool {
        if self.handle.is_inherited() {
            return true;
        }
        if self.handle.is_own_thread() || !self.over.wait(Deadline::after(within)) {
            return false;
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        thread.is_none_or(|thread| thread.join().is_ok())
    }
}

impl<S: 'static> Drop for LoopThread<S> {
    fn drop(&mut self) {
        if self.handle.is_inherited() {
            // The handle of a thread that is not there, in a lock that may be held for ever.
            std::mem::forget(std::mem::take(&mut self.thread));
        } else {
            self.close(self.close_timeout);
        }
    }
}

impl<S: 'static> fmt::Debug for LoopThread<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopThread").field("handle", &self.handle).finish_non_exhaustive()
    }
}

/// What [`StateHandle::call`] was given.
pub type StateCall<S, R> = Box<dyn FnOnce(&mut S) -> R + Send>;
/// The handle to what [`StateHandle::call`] was given.
pub type StateJoinHandle<S, R> = JoinHandle<R, StateCall<S, R>>;

struct Post<S, F> {
    act: F,
    state: PhantomData<fn(&mut S)>,
}

impl<S: 'static, F: FnOnce(&mut S) + Send + 'static> Job for Post<S, F> {
    fn run(self) {
        with_state(self.act);
    }
}

struct Called<S, R>(Runner<R, StateCall<S, R>>);

impl<S: 'static, R: Send + 'static> Job for Called<S, R> {
    fn run(self) {
        self.0.run(|act| with_state(act).expect("the loop runs only while the state is there"));
    }
}

/// Everybody's handle to the state of a [`LoopThread`]: `Send + Sync + Clone`, whatever `S` is.
///
/// It keeps no thread alive: when that has ended, every post is refused.
///
/// ```
/// use sessile::loop_thread::LoopThread;
///
/// let names = LoopThread::spawn("names", |_| Ok(Vec::<String>::new()))?;
/// let handle = names.handle();
/// std::thread::spawn(move || handle.post(|names| names.push("Ada".to_owned()))).join().unwrap()?;
/// assert_eq!(names.handle().call(|names| names.len())?.join()?, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct StateHandle<S> {
    handle: Handle,
    thread: thread::ThreadId,
    /// The process that the thread is in.
    generation: u32,
    /// It is reached by way of the thread only: no `S` is in here.
    state: PhantomData<fn(&mut S)>,
}

impl<S> Clone for StateHandle<S> {
    fn clone(&self) -> Self {
        Self { handle: self.handle.clone(), state: PhantomData, ..*self }
    }
}

impl<S: 'static> StateHandle<S> {
    /// Has the thread call `act` with its state, and wakes it. In the order of posting.
    ///
    /// ```
    /// use sessile::LoopThread;
    ///
    /// let list = LoopThread::spawn("list", |_| Ok(Vec::new()))?;
    /// list.handle().post(|list| list.push(1))?;
    /// assert_eq!(list.handle().call(|list| list.len())?.join()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the thread takes no more work, or this is a forked child, which has no such thread; `act` comes
    /// back.
    pub fn post<F>(&self, act: F) -> Result<(), PostError<F>>
    where
        F: FnOnce(&mut S) + Send + 'static,
    {
        let posted = self.send(Post { act, state: PhantomData });
        posted.map(|_| ()).map_err(|refused| refused.map(|post| post.act))
    }

    /// Has the thread call `act` with its state, and gives what it returns to the handle: to be joined,
    /// awaited or cancelled.
    ///
    /// ```
    /// use sessile::LoopThread;
    ///
    /// let counter = LoopThread::spawn("counter", |_| Ok(41))?;
    /// let answer = counter.handle().call(|count| {
    ///     *count += 1;
    ///     *count
    /// })?;
    /// assert_eq!(answer.join()?, 42);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`post`](Self::post).
    pub fn call<R, F>(&self, act: F) -> Result<StateJoinHandle<S, R>, PostError<StateCall<S, R>>>
    where
        R: Send + 'static,
        F: FnOnce(&mut S) -> R + Send + 'static,
    {
        let (runner, mut handle) =
            task(Box::new(act) as StateCall<S, R>, RunsOn::Thread(self.thread));
        match self.send(Called(runner)) {
            Ok(Posted::Seen) => Ok(handle),
            Ok(Posted::Wake) => {
                handle.expect_to_wait();
                Ok(handle)
            }
            Err(refused) => Err(refused.map(|called| {
                let act = handle.cancel().expect("not posted, so it cannot have begun");
                drop(called);
                act
            })),
        }
    }

    fn send<J: Job>(&self, job: J) -> Result<Posted, PostError<J>> {
        if self.is_inherited() { Err(Refused::Closed(job).into()) } else { self.handle.post(job) }
    }

    /// Whether the thread takes no more work.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use sessile::LoopThread;
    ///
    /// let counter = LoopThread::spawn("counter", |_| Ok(0))?;
    /// let handle = counter.handle();
    /// assert!(counter.close(Duration::from_secs(1)));
    /// assert!(handle.is_closed() && handle.post(|_| ()).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.is_inherited() || self.handle.is_closed()
    }

    /// Whether this is a forked child, which has no such thread.
    pub(crate) fn is_inherited(&self) -> bool {
        self.generation != crate::fork::generation()
    }

    /// Whether this is the thread itself, which must not wait for its own work.
    ///
    /// ```
    /// use sessile::LoopThread;
    ///
    /// let counter = LoopThread::spawn("counter", |_| Ok(0))?;
    /// let handle = counter.handle();
    /// assert!(!handle.is_own_thread());
    /// assert!(counter.handle().call(move |_| handle.is_own_thread())?.join()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn is_own_thread(&self) -> bool {
        thread::current().id() == self.thread
    }
}

impl<S> fmt::Debug for StateHandle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StateHandle").field(&self.handle).finish()
    }
}

/// The state's own handle to its thread's loop. `!Send`. Callbacks get `&mut` to the state.
///
/// What is scheduled before the state is made runs after that.
///
/// ```
/// use std::time::Duration;
///
/// use sessile::loop_thread::LoopThread;
///
/// let counter = LoopThread::spawn("counter", |local| {
///     local.call_later(Duration::ZERO, |count: &mut u32| *count += 1);
///     let later = local.clone();
///     local.spawn_local(async move { later.with(|count| *count += 10) }).detach();
///     Ok(100)
/// })?;
/// # let mut count = 0;
/// # while count != 111 {
/// #     count = counter.handle().call(|count| *count)?.join()?;
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct LocalState<S> {
    local: LocalHandle,
    state: PhantomData<fn(&mut S)>,
}

impl<S> Clone for LocalState<S> {
    fn clone(&self) -> Self {
        Self { local: self.local.clone(), state: PhantomData }
    }
}

impl<S: 'static> LocalState<S> {
    /// Has the loop call `act` in its next turn, after what is queued already.
    ///
    /// ```
    /// use sessile::LoopThread;
    ///
    /// let counter = LoopThread::spawn("counter", |local| {
    ///     local.call_soon(|count| *count += 1);
    ///     Ok(0)
    /// })?;
    /// assert_eq!(counter.handle().call(|count| *count)?.join()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call_soon(&self, act: impl FnOnce(&mut S) + 'static) -> Scheduled {
        self.local.call_soon(|| with_state(act).unwrap_or_default())
    }

    /// Has the loop call `act` after `delay`.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use sessile::LoopThread;
    ///
    /// let (tell, told) = std::sync::mpsc::channel();
    /// let counter = LoopThread::spawn("counter", move |local| {
    ///     local.call_later(Duration::from_millis(1), move |count| drop(tell.send(*count)));
    ///     Ok(7)
    /// })?;
    /// assert_eq!(told.recv()?, 7);
    /// # drop(counter);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call_later(&self, delay: Duration, act: impl FnOnce(&mut S) + 'static) -> Scheduled {
        self.local.call_later(delay, || with_state(act).unwrap_or_default())
    }

    /// Has the loop call `act` at `when`, or in its next turn if that has passed.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use sessile::LoopThread;
    ///
    /// let (tell, told) = std::sync::mpsc::channel();
    /// let at = std::time::Instant::now() + Duration::from_millis(1);
    /// let counter = LoopThread::spawn("counter", move |local| {
    ///     local.call_at(at, move |count| drop(tell.send(*count)));
    ///     Ok(7)
    /// })?;
    /// assert_eq!(told.recv()?, 7);
    /// # drop(counter);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call_at(&self, when: Instant, act: impl FnOnce(&mut S) + 'static) -> Scheduled {
        self.local.call_at(when, || with_state(act).unwrap_or_default())
    }

    /// Takes `source` in, a socket or a pipe in non-blocking mode, and has `act` called whenever it is
    /// ready for what `interest` names, for as long as it is.
    ///
    /// # Errors
    ///
    /// As [`LocalHandle::add`].
    pub fn add<T: AsSource + 'static>(
        &self,
        source: T,
        interest: Interest,
        mut act: impl FnMut(&mut S, &T, Readiness) + 'static,
    ) -> io::Result<Source<T>> {
        self.local.add(source, interest, move |source, ready| {
            with_state(|state| act(state, source, ready));
        })
    }

    /// Runs a future on the loop, which finds the state by [`with`](Self::with).
    ///
    /// ```
    /// use sessile::LoopThread;
    ///
    /// let (tell, told) = std::sync::mpsc::channel();
    /// let counter = LoopThread::spawn("counter", move |local| {
    ///     let within = local.clone();
    ///     local.spawn_local(async move { drop(tell.send(within.with(|count| *count))) }).detach();
    ///     Ok(7)
    /// })?;
    /// assert_eq!(told.recv()?, 7);
    /// # drop(counter);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn spawn_local<F>(&self, future: F) -> JoinHandle<F::Output, ()>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        self.local.spawn_local(future)
    }

    /// Calls `act` with the state: for futures, which are not lent it.
    ///
    /// ```
    /// use sessile::LoopThread;
    ///
    /// let (tell, told) = std::sync::mpsc::channel();
    /// let counter = LoopThread::spawn("counter", move |local| {
    ///     let within = local.clone();
    ///     local.spawn_local(async move { drop(tell.send(within.with(|count: &mut i32| *count + 1))) }).detach();
    ///     Ok(41)
    /// })?;
    /// assert_eq!(told.recv()?, 42);
    /// # drop(counter);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    ///
    /// Inside of a callback, which has the state already; and where there is none: while it is made, or
    /// dropped.
    pub fn with<R>(&self, act: impl FnOnce(&mut S) -> R) -> R {
        with_state(act).expect("the state is not there yet, or not any more")
    }

    /// Everybody else's handle to the state.
    ///
    /// ```
    /// use sessile::LoopThread;
    ///
    /// let counter = LoopThread::spawn("counter", |local| {
    ///     let handle = local.handle(); // for other threads
    ///     std::thread::spawn(move || handle.post(|count| *count += 1).is_ok());
    ///     Ok(0)
    /// })?;
    /// # drop(counter);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn handle(&self) -> StateHandle<S> {
        let thread = thread::current().id(); // the loop's: this is not `Send`
        let generation = crate::fork::generation();
        StateHandle { handle: self.local.handle(), thread, generation, state: PhantomData }
    }

    /// The loop's own handle, whose callbacks do without the state.
    ///
    /// ```
    /// use sessile::LoopThread;
    ///
    /// let counter = LoopThread::spawn("counter", |local| {
    ///     local.local().call_soon(|| println!("on the loop, without the state"));
    ///     Ok(0)
    /// })?;
    /// # drop(counter);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn local(&self) -> &LocalHandle {
        &self.local
    }

    /// Has the thread end after this turn.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use sessile::LoopThread;
    ///
    /// let once = LoopThread::spawn("once", |local| {
    ///     let stops = local.clone();
    ///     local.call_soon(move |_| stops.stop());
    ///     Ok(())
    /// })?;
    /// assert!(once.wait_closed(Duration::from_secs(5)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stop(&self) {
        self.local.stop();
    }

    fn stop_after(&self, within: Duration) {
        let local = self.local.clone();
        self.local.call_later(within, move || local.stop());
    }
}

impl<S> fmt::Debug for LocalState<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LocalState").field(&self.local).finish()
    }
}
