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
//! What was posted is queued behind what is ready; then the loop sleeps, if there is nothing to do,
//! until post, a source or a timer wakes it; then it queues what became ready and what is due, and
//! calls what is queued. What a callback schedules runs in the next turn. While there is something to do
//! it looks at its sources every other turn. At most [`batch`](EventLoopBuilder::batch) callbacks run in
//! one, so that sources and timers are not starved.
//!
//! # When the loop closes
//!
//! [`close`](EventLoop::close), or dropping the loop, drops what is queued without calling it: handles
//! of [`Handle::call`] resolve as cancelled, with the work; futures are dropped. Every later post is an
//! error that hands the work back.

mod handle;
mod local;
pub(crate) mod mailbox;
#[cfg(all(test, sessile_loom))]
mod models;
mod reach;
mod readiness;
mod spawn;
mod timers;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use self::handle::Refusal;
pub use self::handle::{Call, Handle, PostError};
use self::local::{Callback, Entry, Local, Ready};
pub use self::local::{LocalHandle, Scheduled};
use self::reach::Reach;
pub(crate) use self::readiness::AsSource;
use self::readiness::Sources;
pub use self::readiness::{Interest, Readiness, Source};
use self::timers::{Next, Timers};
use crate::contain::{contain, drop_each};
use crate::deadline::Deadline;
use crate::task::JoinHandle;

type ExceptionHandler = Box<dyn Fn(Box<dyn Any + Send>)>;
type SlowHandler = Box<dyn Fn(Duration)>;

/// A loop, on the thread that made it. `!Send`.
pub struct EventLoop {
    local: LocalHandle,
    options: EventLoopBuilder,
    /// The last turn has looked at the sources.
    has_looked: Cell<bool>,
}

/// Sets up an [`EventLoop`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct EventLoopBuilder {
    capacity: Option<usize>,
    batch: usize,
    exception: Option<ExceptionHandler>,
    slow: Option<(Duration, SlowHandler)>,
}

impl EventLoopBuilder {
    /// How many posts from other threads may wait at once. Beyond, a post is refused as
    /// [full](PostError::is_full).
    ///
    /// Default: any number. With zero every post is refused.
    pub fn capacity(mut self, posts: impl Into<Option<usize>>) -> Self {
        self.capacity = posts.into();
        self
    }

    /// How many callbacks at most run in a turn.
    ///
    /// Default: 1024. Zero counts as one.
    pub fn batch(mut self, callbacks: usize) -> Self {
        self.batch = callbacks.max(1);
        self
    }

    /// Who is told of a panic in a callback, with what the panic carried. The loop goes on.
    ///
    /// Default: nobody; the panic hook has printed its message. A panic in [`Handle::call`]'s work
    /// goes to its handle, not here.
    pub fn exception_handler(mut self, handler: impl Fn(Box<dyn Any + Send>) + 'static) -> Self {
        self.exception = Some(Box::new(handler));
        self
    }

    /// Who is told of a callback that took longer than `duration`, with the time it took.
    ///
    /// Default: nobody, and no clock is read.
    pub fn slow_callback(
        mut self,
        duration: Duration,
        handler: impl Fn(Duration) + 'static,
    ) -> Self {
        self.slow = Some((duration, Box::new(handler)));
        self
    }

    /// Makes the loop, of this thread.
    #[must_use]
    pub fn build(self) -> EventLoop {
        let (reach, inbox) = Reach::new(self.capacity);
        let local = Local {
            reach,
            inbox,
            ready: RefCell::new(Ready::default()),
            timers: RefCell::new(Timers::default()),
            sources: RefCell::new(Sources::default()),
            tasks: RefCell::new(HashMap::new()),
            next_task: Cell::new(0),
            closed: Cell::new(false),
        };
        let local = LocalHandle { local: Rc::new(local) };
        EventLoop { local, options: self, has_looked: Cell::new(false) }
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
    /// A loop of this thread, with the default options.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Sets up a loop of this thread.
    pub fn builder() -> EventLoopBuilder {
        EventLoopBuilder { capacity: None, batch: 1024, exception: None, slow: None }
    }

    /// The owner's handle.
    #[must_use]
    pub fn local(&self) -> LocalHandle {
        self.local.clone()
    }

    /// Everybody else's handle.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.local.handle()
    }

    /// Runs until somebody calls `stop`, on either handle, or the loop is closed.
    ///
    /// A stop from before the run counts: one turn runs, which does not sleep. A loop that was
    /// stopped may run again; one that is closed returns at once.
    ///
    /// # Errors
    ///
    /// If the system's poller fails. The loop may be run again.
    pub fn run(&self) -> io::Result<()> {
        self.run_while(|| true)
    }

    /// Runs until the work of `handle` has ended, wherever that runs, or somebody calls `stop`, or the
    /// loop is closed. Says whether the work has ended.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn run_until<R, B>(&self, handle: &JoinHandle<R, B>) -> io::Result<bool> {
        let waker = Waker::from(Arc::clone(self.reach()));
        if handle.wake_at_end(&waker) {
            self.run_while(|| !handle.is_finished())?;
        }
        Ok(handle.is_finished())
    }

    /// Runs one turn, which sleeps no longer than `timeout` (`None`: until there is something to do).
    /// Says whether any callback ran.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn run_once(&self, timeout: impl Into<Option<Duration>>) -> io::Result<bool> {
        let wait = timeout.into().map_or(Deadline::NEVER, Deadline::after);
        let _running = self.enter();
        if self.local.local.closed.get() { Ok(false) } else { self.turn(wait, false) }
    }

    /// As [`run`](Self::run), asking before each turn. An instance of this thread that is ordered
    /// closed from afar leads to a turn.
    pub(crate) fn run_while(&self, goes_on: impl Fn() -> bool) -> io::Result<()> {
        let _running = self.enter();
        while goes_on() && !self.local.local.closed.get() {
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
    fn enter(&self) -> impl Drop + use<> {
        struct Running<A, B> {
            _current: A,
            _nudged: B,
        }
        impl<A, B> Drop for Running<A, B> {
            fn drop(&mut self) {}
        }
        let bell = Waker::from(Arc::clone(self.reach()));
        let running =
            Running { _current: self.local.enter(), _nudged: crate::thread::set_bell(bell) };
        // An order that came before the bell hung there has rung none: it is looked for once more.
        let _ = crate::thread::enter();
        running
    }

    fn reach(&self) -> &Arc<Reach> {
        &self.local.local.reach
    }

    // ---- a turn -------------------------------------------------------------------------------

    fn turn(&self, wait: Deadline, stops: bool) -> io::Result<bool> {
        let local = &self.local.local;
        let reach = self.reach();
        self.take_post();
        let idle = !stops && local.ready.borrow().is_empty();
        let wait =
            if idle { self.until_next_timer(wait).remaining() } else { Some(Duration::ZERO) };
        if local.sources.borrow().is_empty() {
            if wait != Some(Duration::ZERO) {
                reach.sleep(&local.inbox, wait);
            }
        } else if local.ready.borrow().is_empty() || !self.has_looked.get() {
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
            let mut ready = local.ready.borrow_mut();
            for id in reach.take_woken() {
                ready.push_back(Entry::new(Callback::Poll(id)));
            }
        }
        self.take_post();
        self.take_due();
        Ok(self.call_ready())
    }

    /// Letters become ready, as many as fit into a batch.
    fn take_post(&self) {
        let local = &self.local.local;
        let mut ready = local.ready.borrow_mut();
        let room = self.options.batch.saturating_sub(ready.len());
        let known = ready.letters();
        let letters = local.inbox.count(known + room) - known;
        ready.push_letters(letters.min(room));
    }

    fn until_next_timer(&self, wait: Deadline) -> Deadline {
        self.local.local.weed_timers();
        loop {
            let next = self.local.local.timers.borrow_mut().next();
            match next {
                Next::At(at) => return wait.earlier(Deadline::at(at)),
                Next::Nothing => return wait,
                Next::Cancelled(entry) => drop_each([entry]),
            }
        }
    }

    fn take_due(&self) {
        let local = &self.local.local;
        if local.timers.borrow().is_empty() {
            return;
        }
        let now = Instant::now();
        let mut ready = local.ready.borrow_mut();
        while let Some(entry) = local.timers.borrow_mut().pop_due(now) {
            ready.push_back(entry);
        }
    }

    /// Calls what is ready now; what that makes ready is for the next turn.
    fn call_ready(&self) -> bool {
        let Local { ready, inbox, .. } = &*self.local.local;
        let batch = ready.borrow().len().min(self.options.batch);
        let mut called = false;
        for _ in 0..batch {
            // In a statement of its own, so that the queue is not borrowed while foreign code runs.
            let next = ready.borrow_mut().pop_front();
            let Some(entry) = next else { break };
            if entry.is_cancelled() {
                drop_each([entry]);
            } else if matches!(entry.callback, Callback::Posted(_)) && !inbox.has_post() {
                // Its poster is about to write it: it will be found again in the next turn.
                thread::yield_now();
            } else {
                called = true;
                self.call(entry.callback);
            }
        }
        called
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
            Callback::Poll(id) => spawn::poll(local, id),
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

    /// Takes no more work, and drops what is queued without calling it: see the
    /// [module's page](self#when-the-loop-closes). Closing twice does no harm.
    pub fn close(&self) {
        let local = &self.local.local;
        if local.closed.replace(true) {
            return;
        }
        // Foreign code, all of it, to be dropped with nothing borrowed; and it may panic.
        drop(local.inbox.close());
        let ready = local.ready.borrow_mut().take();
        drop_each(ready);
        let timers = local.timers.borrow_mut().take_all();
        drop_each(timers);
        drop_each(local.tasks.take());
        Sources::clear(local);
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
            .field("is_closed", &local.local.closed.get())
            .field("options", options)
            .finish_non_exhaustive()
    }
}
