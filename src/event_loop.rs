//! A thread that can be reached: a mailbox, timers and readiness, and a loop that always wakes.
//!
//! The contract is asyncio's, with its rule of thumb made a type. On the loop's own thread one holds a
//! [`LocalHandle`], whose `call_soon` queues and has no need to wake. Every other thread holds a
//! [`Handle`], whose `call_soon_threadsafe` queues *and wakes*. Neither has the other's verb, and the
//! first cannot leave its thread.
//!
//! ```
//! use std::thread;
//!
//! use sessile::EventLoop;
//!
//! let event_loop = EventLoop::new();
//! let handle = event_loop.handle();
//! thread::spawn(move || handle.call_soon_threadsafe(|| {
//!     sessile::event_loop::LocalHandle::current().unwrap().stop();
//! }));
//! event_loop.run()?; // sleeps until the post wakes it
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # A turn
//!
//! A loop calls what comes from five sources. In each turn it takes, from one source after the other
//! and in the order of its coming, what waits there, but no more than a share of
//! [`batch`](EventLoopBuilder::batch) from each:
//!
//! 1. callbacks of [`call_soon`](LocalHandle::call_soon), and first polls of futures;
//! 2. posts of other threads;
//! 3. watched sockets and pipes that are ready;
//! 4. futures that were woken;
//! 5. timers that are due.
//!
//! Then it calls all that it has taken, in this order. If there is nothing to take, it sleeps before
//! step 2 until something comes. What a callback schedules runs in a later turn.
//!
//! So nobody starves, whatever the others do: the *n*th in the queue of its source runs in the
//! *n* / `batch`th turn from then, rounded up, and a turn calls at most five times `batch`. For sockets
//! and pipes it is one turn more: while there is something to do, the loop looks at them every other
//! turn.
//!
//! # When the loop closes
//!
//! [`close`](EventLoop::close), or dropping the loop, drops what is queued without calling it: handles
//! of [`Handle::call`] resolve as cancelled, with the work; futures are dropped. Every later post is an
//! error that hands the work back.

mod awaited;
mod handle;
mod local;
pub(crate) mod mailbox;
#[cfg(all(test, sessile_loom))]
mod models;
#[cfg(unix)]
mod outside;
mod queue;
mod reach;
mod readiness;
mod spawn;
mod state;
mod timers;

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

pub use self::awaited::{Elapsed, Sleep};
pub use self::handle::{Call, Handle, PostError};
pub(crate) use self::handle::{Refusal, Whose};
pub use self::local::{LocalHandle, Scheduled};
#[cfg(unix)]
use self::outside::may_run_inside_another;
use self::queue::{Callback, Entry, Ready};
use self::reach::Reach;
pub(crate) use self::readiness::AsSource;
use self::readiness::Sources;
pub use self::readiness::{Interest, Readiness, Source};
use self::state::Local;
use self::timers::Timers;
use crate::contain::{contain, drop_each};
use crate::deadline::Deadline;
use crate::sync::{AtomicBool, Ordering};
use crate::task::JoinHandle;

type ExceptionHandler = Box<dyn Fn(Box<dyn Any + Send>)>;
type SlowHandler = Box<dyn Fn(Duration)>;

/// A loop that calls what is due on the thread that made it. `!Send`.
///
/// ```
/// use std::time::Duration;
///
/// use sessile::EventLoop;
///
/// let event_loop = EventLoop::new();
/// let local = event_loop.local();
/// let stops = local.clone();
/// local.call_later(Duration::from_millis(1), move || stops.stop());
/// event_loop.run()?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct EventLoop {
    local: LocalHandle,
    options: EventLoopBuilder,
    /// The last turn has looked at the sources.
    has_looked: Cell<bool>,
    /// Set if it is run inside another.
    #[cfg(unix)]
    outside: OnceCell<outside::Outside>,
}

/// Sets up an [`EventLoop`]: made by [`EventLoop::builder`].
///
/// ```
/// let event_loop = sessile::EventLoop::builder().capacity(100).batch(64).build();
/// # drop(event_loop);
/// ```
#[must_use = "a builder does nothing until `build` is called"]
pub struct EventLoopBuilder {
    capacity: Option<usize>,
    batch: usize,
    exception: Option<ExceptionHandler>,
    slow: Option<(Duration, SlowHandler)>,
}

impl EventLoopBuilder {
    /// Sets how many posts from other threads may wait at once. Beyond, a post is refused as
    /// [full](PostError::is_full).
    ///
    /// Default: any number. With zero every post is refused.
    ///
    /// ```
    /// let event_loop = sessile::EventLoop::builder().capacity(1).build();
    /// let handle = event_loop.handle();
    /// handle.call_soon_threadsafe(|| ())?;
    /// assert!(handle.call_soon_threadsafe(|| ()).is_err_and(|error| error.is_full()));
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn capacity(mut self, posts: impl Into<Option<usize>>) -> Self {
        self.capacity = posts.into();
        self
    }

    /// Sets how many callbacks of each source run in one turn at most: so many that were asked for on
    /// this thread, so many posts, timers, watchers and woken tasks. See [a turn](self#a-turn).
    ///
    /// Default: 1024. Zero counts as one.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let event_loop = sessile::EventLoop::builder().batch(2).build();
    /// for _ in 0..3 {
    ///     event_loop.local().call_soon(|| ());
    /// }
    /// assert!(event_loop.run_once(Duration::ZERO)?); // two of them
    /// assert_eq!(event_loop.local().queued(), 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn batch(mut self, callbacks: usize) -> Self {
        self.batch = callbacks.max(1);
        self
    }

    /// Sets who is told of a panic in a callback, with what the panic carried. The loop goes on.
    ///
    /// Default: nobody; the panic hook has printed its message. A panic in [`Handle::call`]'s work
    /// goes to its handle, not here.
    ///
    /// ```
    /// use std::cell::Cell;
    /// use std::rc::Rc;
    ///
    /// let panics = Rc::new(Cell::new(0));
    /// let counts = Rc::clone(&panics);
    /// let builder = sessile::EventLoop::builder();
    /// let event_loop = builder.exception_handler(move |_| counts.set(counts.get() + 1)).build();
    /// event_loop.local().call_soon(|| panic!("in a callback"));
    /// event_loop.run_once(None)?;
    /// assert_eq!(panics.get(), 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Threads
    ///
    /// The handler runs on the loop's thread, right after the callback.
    pub fn exception_handler(mut self, handler: impl Fn(Box<dyn Any + Send>) + 'static) -> Self {
        self.exception = Some(Box::new(handler));
        self
    }

    /// Sets who is told of a callback that took longer than `duration`, with the time it took.
    ///
    /// Default: nobody, and no clock is read.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let slow = |took| eprintln!("a callback took {took:?}: nothing else ran meanwhile");
    /// let event_loop = sessile::EventLoop::builder().slow_callback(Duration::from_millis(100), slow).build();
    /// # drop(event_loop);
    /// ```
    ///
    /// # Threads
    ///
    /// The handler runs on the loop's thread, right after the callback.
    pub fn slow_callback(
        mut self,
        duration: Duration,
        handler: impl Fn(Duration) + 'static,
    ) -> Self {
        self.slow = Some((duration, Box::new(handler)));
        self
    }

    /// Makes the loop, of this thread.
    ///
    /// ```
    /// let event_loop = sessile::EventLoop::builder().build();
    /// # drop(event_loop);
    /// ```
    #[must_use]
    pub fn build(self) -> EventLoop {
        crate::fork::watch(crate::thread::forget_all); // a child knows that it is one
        let (reach, inbox) = Reach::new(self.capacity);
        let local = Local {
            reach,
            inbox,
            ready: RefCell::new(Ready::default()),
            soon: RefCell::new(VecDeque::new()),
            woken: RefCell::new(VecDeque::new()),
            timers: RefCell::new(Timers::default()),
            sources: RefCell::new(Sources::default()),
            tasks: RefCell::new(HashMap::new()),
            next_task: Cell::new(0),
            closed: Cell::new(false),
            running: Cell::new(0),
            on_loan: OnceCell::new(),
        };
        let local = LocalHandle { local: Rc::new(local) };
        EventLoop {
            local,
            options: self,
            has_looked: Cell::new(false),
            #[cfg(unix)]
            outside: OnceCell::new(),
        }
    }
}

impl fmt::Debug for EventLoopBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { capacity, batch, exception, slow } = self;
        f.debug_struct("EventLoopBuilder")
            .field("capacity", capacity)
            .field("batch", batch)
            .field("exception_handler", &exception.as_ref().map(|_| "<handler>"))
            .field("slow_callback", &slow.as_ref().map(|(duration, _)| duration))
            .finish()
    }
}

impl EventLoop {
    /// Makes a loop of this thread, with the default options.
    ///
    /// ```
    /// let event_loop = sessile::EventLoop::new();
    /// assert!(!event_loop.handle().is_closed());
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Sets up a loop of this thread.
    ///
    /// ```
    /// let event_loop = sessile::EventLoop::builder().capacity(1000).build();
    /// # drop(event_loop);
    /// ```
    pub fn builder() -> EventLoopBuilder {
        EventLoopBuilder { capacity: None, batch: 1024, exception: None, slow: None }
    }

    /// Hands out the owner's handle.
    ///
    /// ```
    /// let event_loop = sessile::EventLoop::new();
    /// event_loop.local().call_soon(|| println!("called on this thread"));
    /// event_loop.run_once(None)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn local(&self) -> LocalHandle {
        self.local.clone()
    }

    /// Hands out everybody else's handle.
    ///
    /// ```
    /// let event_loop = sessile::EventLoop::new();
    /// let handle = event_loop.handle();
    /// std::thread::spawn(move || handle.stop());
    /// event_loop.run()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.local.handle()
    }

    /// Runs until somebody calls `stop`, on either handle, or the loop is closed.
    ///
    /// A stop from before the run counts: one turn runs, which does not sleep. A loop that was
    /// stopped may run again; one that is closed returns at once.
    ///
    /// ```
    /// let event_loop = sessile::EventLoop::new();
    /// let local = event_loop.local();
    /// let stops = local.clone();
    /// local.call_soon(move || stops.stop());
    /// event_loop.run()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the system's poller fails; the loop may be run again. If the thread is ending, and has
    /// destroyed its thread-locals.
    pub fn run(&self) -> io::Result<()> {
        self.run_while(|| true)
    }

    /// Runs until the work of `handle` has ended, wherever that runs, or somebody calls `stop`, or the
    /// loop is closed. Says whether the work has ended.
    ///
    /// ```
    /// let event_loop = sessile::EventLoop::new();
    /// let handle = event_loop.handle();
    /// let seven = std::thread::spawn(move || handle.call(|| 7)).join().unwrap()?;
    /// assert!(event_loop.run_until(&seven)?);
    /// assert_eq!(seven.join()?, 7);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run). Of the kind [`Deadlock`](io::ErrorKind::Deadlock), at once, if it is this
    /// very thread that would have to run the work, but not this loop: it is another's, which cannot run
    /// meanwhile, or a worker's.
    pub fn run_until<R, B>(&self, handle: &JoinHandle<R, B>) -> io::Result<bool> {
        let _running = self.enter()?;
        if handle.waits_for_this_thread(self.reach().address()) && !may_run_inside_another() {
            let message = "this thread would wait for work that it has to run itself, \
                           on another loop or as a worker";
            return Err(io::Error::new(io::ErrorKind::Deadlock, message));
        }
        let waker = Waker::from(Arc::clone(self.reach()));
        if !handle.wake_at_end(&waker) {
            return Ok(true);
        }
        // Also after a panic: others may wait for the same handle, and it may be waited for again.
        struct Forget<'a, R, B>(&'a JoinHandle<R, B>, &'a Waker);
        impl<R, B> Drop for Forget<'_, R, B> {
            fn drop(&mut self) {
                self.0.forget(self.1);
            }
        }
        let _forget = Forget(handle, &waker);
        self.run_while(|| !handle.is_finished())?;
        Ok(handle.is_finished())
    }

    /// Runs until `future` has ended, and returns what it returned. The future may borrow, and need not
    /// be `Send`.
    ///
    /// The future is polled on this thread, once before a turn at most. A `stop` does not end this: it
    /// counts for the next [`run`](Self::run). A panic in the future goes on. On the same loop this may
    /// be called within a callback; that returns when this does.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let event_loop = sessile::EventLoop::new();
    /// let local = event_loop.local();
    /// let mut naps = Vec::new();
    /// event_loop.block_on(async {
    ///     for millis in 1..4 {
    ///         local.sleep(Duration::from_millis(millis)).await;
    ///         naps.push(millis); // borrowed
    ///     }
    /// })?;
    /// assert_eq!(naps, [1, 2, 3]);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run). If the loop is closed before the future has ended, also by a callback
    /// meanwhile; then the future is dropped.
    pub fn block_on<F: Future>(&self, future: F) -> io::Result<F::Output> {
        let mut future = pin!(future);
        let woken =
            Arc::new(Woken { reach: Arc::clone(self.reach()), is_set: AtomicBool::new(true) });
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        let _running = self.enter()?;
        while !self.local.local.is_closed() {
            if woken.is_set.swap(false, Ordering::AcqRel)
                && let Poll::Ready(output) = future.as_mut().poll(&mut cx)
            {
                return Ok(output);
            }
            // A wake asks for the loop's attention, so from here on it does not sleep over one.
            self.turn(Deadline::NEVER, false)?;
        }
        Err(io::Error::other("the loop was closed before the future had ended"))
    }

    /// Runs one turn, which sleeps no longer than `timeout` (`None`: until there is something to do).
    /// Says whether any callback ran; in a turn that met only cancelled ones none has, though more may be
    /// left.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let event_loop = sessile::EventLoop::new();
    /// assert!(!event_loop.run_once(Duration::ZERO)?);
    /// event_loop.local().call_soon(|| ());
    /// assert!(event_loop.run_once(Duration::from_secs(1))?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn run_once(&self, timeout: impl Into<Option<Duration>>) -> io::Result<bool> {
        let wait = timeout.into().map_or(Deadline::NEVER, Deadline::after);
        let _running = self.enter()?;
        if self.local.local.is_closed() { Ok(false) } else { self.turn(wait, false) }
    }

    /// As [`run`](Self::run), asking before each turn. An instance of this thread that is ordered
    /// closed from afar leads to a turn.
    pub(crate) fn run_while(&self, goes_on: impl Fn() -> bool) -> io::Result<()> {
        let _running = self.enter()?;
        while goes_on() && !self.local.local.is_closed() {
            let stops = self.reach().take_stop();
            self.turn(Deadline::NEVER, stops)?;
            if stops || self.reach().take_stop() {
                break;
            }
        }
        Ok(())
    }

    /// This loop is the current one, and instances of this thread that are ordered closed from afar
    /// wake it.
    fn enter(&self) -> io::Result<impl Drop> {
        struct Running<'a, A, B> {
            event_loop: &'a EventLoop,
            _current: A,
            _nudged: B,
        }
        impl<A, B> Drop for Running<'_, A, B> {
            fn drop(&mut self) {
                self.event_loop.count_out();
            }
        }
        let current = self.local.enter()?;
        let bell = Waker::from(Arc::clone(self.reach()));
        self.count_in();
        let running =
            Running { event_loop: self, _current: current, _nudged: crate::thread::set_bell(bell) };
        // An order that came before the bell hung there has rung none: it is looked for once more.
        let _ = crate::thread::enter();
        Ok(running)
    }

    fn count_in(&self) {
        let local = &self.local.local;
        local.running.set(local.running.get() + 1);
        #[cfg(unix)]
        if let (1, Some(outside)) = (local.running.get(), self.outside.get()) {
            outside.begin(local);
        }
    }

    fn count_out(&self) {
        let local = &self.local.local;
        local.running.set(local.running.get() - 1);
        #[cfg(unix)]
        if let (0, Some(outside)) = (local.running.get(), self.outside.get()) {
            outside.end(local);
        }
    }

    fn reach(&self) -> &Arc<Reach> {
        &self.local.local.reach
    }

    // ---- a turn -------------------------------------------------------------------------------

    fn turn(&self, wait: Deadline, stops: bool) -> io::Result<bool> {
        let local = &self.local.local;
        let reach = self.reach();
        let mut room = self.options.batch;
        self.take_soon();
        self.take_post(&mut room);
        let has_work = self.has_work();
        let idle = !stops && !has_work;
        let wait =
            if idle { self.until_next_timer(wait).remaining() } else { Some(Duration::ZERO) };
        let is_inside = local.on_loan.get().is_some();
        if local.sources.borrow().is_empty() && !is_inside {
            if wait != Some(Duration::ZERO) {
                reach.sleep(&local.inbox, wait);
            }
        } else if !has_work || !self.has_looked.get() || is_inside {
            // Run inside another, which may tell of each source only once: none may be passed over.
            self.has_looked.set(true);
            let sleeps = wait != Some(Duration::ZERO) && reach.falls_asleep(&local.inbox, true);
            Sources::wait(local, if sleeps { wait } else { Some(Duration::ZERO) })?;
        } else {
            // It takes several system calls to look: where there is something to do, every other turn.
            self.has_looked.set(false);
        }
        if reach.take_attention() {
            // Instances of this thread that were ordered closed are closed now.
            let _ = crate::thread::enter();
            local.woken.borrow_mut().extend(reach.take_woken());
        }
        // What came while it slept, or looked.
        self.take_post(&mut room);
        self.take_ready_sources();
        self.take_woken();
        self.take_due();
        Ok(self.call_ready())
    }

    /// Whether something is to be called before the loop may sleep.
    fn has_work(&self) -> bool {
        let Local { ready, woken, sources, .. } = &*self.local.local;
        // `soon` has given to `ready` what it had, or a batch.
        !ready.borrow().is_empty() || !woken.borrow().is_empty() || sources.borrow().has_ready()
    }

    /// A share of what was asked for on this thread is called in this turn.
    fn take_soon(&self) {
        let local = &self.local.local;
        let (mut soon, mut ready) = (local.soon.borrow_mut(), local.ready.borrow_mut());
        let share = soon.len().min(self.options.batch);
        soon.drain(..share).for_each(|entry| ready.push_back(entry));
    }

    /// A share of the letters: what there is still room for.
    fn take_post(&self, room: &mut usize) {
        let local = &self.local.local;
        let mut ready = local.ready.borrow_mut();
        let known = ready.letters();
        let letters = (local.inbox.count(known + *room) - known).min(*room);
        *room -= letters;
        ready.push_letters(letters);
    }

    /// A share of the sources that are ready.
    fn take_ready_sources(&self) {
        let local = &self.local.local;
        let (mut sources, mut ready) = (local.sources.borrow_mut(), local.ready.borrow_mut());
        for _ in 0..self.options.batch {
            let Some(key) = sources.next_ready() else { break };
            ready.push_back(Entry::new(Callback::Ready(key)));
        }
    }

    /// A share of the tasks that were woken.
    fn take_woken(&self) {
        let local = &self.local.local;
        let (mut woken, mut ready) = (local.woken.borrow_mut(), local.ready.borrow_mut());
        let share = woken.len().min(self.options.batch);
        woken.drain(..share).for_each(|id| ready.push_back(Entry::new(Callback::Poll(id))));
    }

    fn until_next_timer(&self, wait: Deadline) -> Deadline {
        self.next_timer().map_or(wait, |at| wait.earlier(Deadline::at(at)))
    }

    /// A share of the timers that are due.
    fn take_due(&self) {
        let local = &self.local.local;
        if local.timers.borrow().is_empty() {
            return;
        }
        let now = Instant::now();
        let (mut timers, mut ready) = (local.timers.borrow_mut(), local.ready.borrow_mut());
        for _ in 0..self.options.batch {
            let Some(entry) = timers.pop_due(now) else { break };
            ready.push_back(entry);
        }
    }

    /// Calls what this turn has taken. What that makes ready is for a later turn.
    fn call_ready(&self) -> bool {
        let Local { ready, inbox, .. } = &*self.local.local;
        let mut called = false;
        loop {
            // In a statement of its own, so that the queue is not borrowed while foreign code runs.
            let next = ready.borrow_mut().pop_front();
            let Some(entry) = next else { return called };
            if self.reach().is_inherited() {
                // A callback has forked, and the child has come back to here: it is its parent's.
                std::mem::forget(entry);
                return called;
            }
            if entry.is_cancelled() {
                drop_each([entry]);
            } else if matches!(entry.callback, Callback::Posted(_)) && !inbox.has_post() {
                // Its poster is about to write it: it will be found again in the next turn.
                ready.borrow_mut().leave_letters();
                thread::yield_now();
            } else {
                called = true;
                self.call(entry.callback);
            }
        }
    }

    fn call(&self, callback: Callback) {
        let begun = self.options.slow.as_ref().map(|_| Instant::now());
        let local = &self.local.local;
        let result = catch_unwind(AssertUnwindSafe(|| match callback {
            Callback::Local(callback) => callback(),
            Callback::Posted(_) => {
                if let Some(letter) = local.inbox.take() {
                    local.reach.mailbox.give_room(1);
                    letter.run();
                }
            }
            Callback::Ready(key) => Sources::call(local, key),
            Callback::Poll(id) => local.poll_task(id),
        }));
        if let Err(payload) = result {
            let told = match &self.options.exception {
                Some(handler) => contain(|| handler(payload)),
                None => contain(|| drop(payload)),
            };
            drop(told);
        }
        if let (Some((limit, handler)), Some(begun)) = (&self.options.slow, begun) {
            let took = begun.elapsed();
            if took > *limit {
                let _ = contain(|| handler(took));
            }
        }
    }

    /// Says when the first timer is due, if there is one.
    ///
    /// Who runs this loop [inside another](#impl-AsFd-for-EventLoop) asks for it after each turn, on
    /// systems other than Linux: there a descriptor does not tell of timers.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let event_loop = sessile::EventLoop::new();
    /// assert_eq!(event_loop.next_timer(), None);
    /// let timer = event_loop.local().call_later(Duration::from_secs(1), || ());
    /// assert_eq!(event_loop.next_timer(), timer.when());
    /// timer.cancel();
    /// assert_eq!(event_loop.next_timer(), None);
    /// ```
    #[must_use]
    pub fn next_timer(&self) -> Option<Instant> {
        self.local.local.next_due()
    }

    /// Takes no more work, and drops what is queued without calling it: see the
    /// [module's page](self#when-the-loop-closes). Closing twice does no harm.
    ///
    /// ```
    /// let event_loop = sessile::EventLoop::new();
    /// let called = event_loop.handle().call(|| 7)?;
    /// event_loop.close();
    /// let work = called.join().unwrap_err().into_body().expect("it has not run");
    /// assert_eq!(work(), 7);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn close(&self) {
        let local = &self.local.local;
        if local.closed.replace(true) {
            return;
        }
        if self.reach().is_inherited() {
            return self.leave_behind();
        }
        // Foreign code, all of it, to be dropped with nothing borrowed; and it may panic.
        drop(local.inbox.close());
        let ready = local.ready.borrow_mut().take();
        drop_each(ready);
        drop_each(local.soon.take());
        local.woken.take();
        let timers = local.timers.borrow_mut().take_all();
        drop_each(timers);
        drop_each(local.tasks.take());
        Sources::clear(local);
        local.reach.mailbox.wake_up(); // nobody rings any more
    }

    /// In a forked child: what is queued is the parent's, who will call and drop it. The poller is the
    /// same as the parent's, so that it must not even be closed in good order.
    fn leave_behind(&self) {
        let local = &self.local.local;
        std::mem::forget(local.ready.borrow_mut().take());
        std::mem::forget(local.soon.take());
        std::mem::forget(local.timers.borrow_mut().take_all());
        std::mem::forget(local.tasks.take());
        std::mem::forget(local.sources.take());
    }
}

#[cfg(not(unix))]
fn may_run_inside_another() -> bool {
    false
}

/// Wakes the future of [`EventLoop::block_on`].
struct Woken {
    reach: Arc<Reach>,
    is_set: AtomicBool,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_set.swap(true, Ordering::AcqRel) {
            self.reach.attract();
        }
    }
}

impl Default for EventLoop {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for EventLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { local, options, .. } = self;
        f.debug_struct("EventLoop")
            .field("is_closed", &local.local.is_closed())
            .field("options", options)
            .finish_non_exhaustive()
    }
}
