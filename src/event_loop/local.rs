//! The owner's handle to its own loop.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use polling::Poller;

use super::handle::Handle;
use super::mailbox::Inbox;
use super::reach::{Reach, this_thread};
use super::readiness::{AsSource, Interest, Readiness, Source, Sources};
use super::spawn::{self, LocalFuture};
use super::timers::{Cancelled, Next, Timers};
use crate::contain::drop_each;
use crate::task::JoinHandle;

/// The owner's handle to its loop. `!Send`: it queues without waking, which is right on the loop's
/// own thread, where the loop is awake, and nowhere else.
///
/// On another thread it does not compile; a [`Handle`] does:
///
/// ```compile_fail,E0277
/// let event_loop = sessile::EventLoop::new();
/// let handle = event_loop.local();
/// std::thread::spawn(move || drop(handle));
/// ```
///
/// ```
/// let event_loop = sessile::EventLoop::new();
/// let handle = event_loop.handle();
/// std::thread::spawn(move || drop(handle));
/// ```
#[derive(Clone)]
pub struct LocalHandle {
    pub(super) local: Rc<Local>,
}

/// What a loop has, all of it on its own thread.
pub(super) struct Local {
    pub(super) reach: Arc<Reach>,
    pub(super) inbox: Inbox,
    /// What the turn is to call.
    pub(super) ready: RefCell<Ready>,
    /// What was asked for on this thread, for a later turn.
    pub(super) soon: RefCell<VecDeque<Entry>>,
    /// Tasks that were woken, for a later turn.
    pub(super) woken: RefCell<VecDeque<u64>>,
    pub(super) timers: RefCell<Timers>,
    pub(super) sources: RefCell<Sources>,
    pub(super) tasks: RefCell<HashMap<u64, Pin<Box<dyn LocalFuture>>>>,
    pub(super) next_task: Cell<u64>,
    pub(super) closed: Cell<bool>,
    /// How many runs of it are going on, one within the other.
    pub(super) running: Cell<usize>,
    /// The poller, if another loop watches that: see [`outside`](super::outside).
    pub(super) on_loan: OnceCell<Arc<Poller>>,
}

impl Local {
    /// Whether it calls nothing any more: it was closed, or is a forked child's, inherited.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.get() || self.reach.is_inherited()
    }

    /// There is something to do. An outer loop is told, if this one is not awake.
    pub(super) fn stir(&self) {
        if self.running.get() == 0
            && let Some(poller) = self.on_loan.get()
        {
            // It fails only where the poller itself has; then the run that follows fails as well.
            let _ = poller.notify();
        }
    }

    /// When the first timer is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.weed_timers();
        loop {
            let next = self.timers.borrow_mut().next();
            match next {
                Next::At(at) => return Some(at),
                Next::Nothing => return None,
                Next::Cancelled(entry) => drop_each([entry]), // after the borrow
            }
        }
    }

    /// Drops timers that were cancelled, if they are many.
    pub(super) fn weed_timers(&self) {
        let weeds = self.timers.borrow_mut().weed();
        drop_each(weeds); // after the borrow: they are foreign code
    }
}

thread_local! {
    static CURRENT: RefCell<Option<LocalHandle>> = const { RefCell::new(None) };
}

/// Something that the loop is to call.
pub(super) struct Entry {
    pub(super) callback: Callback,
    cancelled: Option<Rc<Cell<bool>>>,
}

pub(super) enum Callback {
    Local(Box<dyn FnOnce()>),
    /// So many letters, which are the next in the inbox.
    Posted(usize),
    Ready(u64),
    Poll(u64),
}

impl Entry {
    pub(super) fn new(callback: Callback) -> Self {
        Self { callback, cancelled: None }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.as_ref().is_some_and(|cancelled| cancelled.get())
    }
}

/// What a turn is to call, in order: a share of each source. Letters stay in the inbox until they are
/// called: here is only how many.
#[derive(Default)]
pub(super) struct Ready {
    queue: VecDeque<Entry>,
    /// How many calls it stands for.
    len: usize,
    /// How many of these are of letters.
    letters: usize,
}

impl Ready {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn letters(&self) -> usize {
        self.letters
    }

    pub(super) fn push_back(&mut self, entry: Entry) {
        self.len += 1;
        self.queue.push_back(entry);
    }

    pub(super) fn push_letters(&mut self, letters: usize) {
        if letters > 0 {
            self.len += letters;
            self.letters += letters;
            self.queue.push_back(Entry::new(Callback::Posted(letters)));
        }
    }

    /// What is to be called next; of letters one at a time.
    pub(super) fn pop_front(&mut self) -> Option<Entry> {
        let front = self.queue.front_mut()?;
        self.len -= 1;
        if let Callback::Posted(letters) = &mut front.callback {
            self.letters -= 1;
            if *letters > 1 {
                *letters -= 1;
                return Some(Entry::new(Callback::Posted(1)));
            }
        }
        self.queue.pop_front()
    }

    /// The next letter is not there yet, so those behind it are left in the inbox, too.
    pub(super) fn leave_letters(&mut self) {
        if let Some(Entry { callback: Callback::Posted(letters), .. }) = self.queue.front() {
            self.len -= letters;
            self.letters -= letters;
            self.queue.pop_front();
        }
    }

    pub(super) fn take(&mut self) -> VecDeque<Entry> {
        std::mem::take(self).queue
    }
}

/// A callback that a loop was asked to call. Dropping it changes nothing.
///
/// ```
/// use std::time::Duration;
///
/// let event_loop = sessile::EventLoop::new();
/// let scheduled = event_loop.local().call_later(Duration::from_secs(60), || ());
/// scheduled.cancel();
/// assert!(scheduled.is_cancelled());
/// ```
#[derive(Clone)]
pub struct Scheduled {
    cancelled: Rc<Cell<bool>>,
    /// When it is due, and where its loop counts timers that are cancelled.
    timer: Option<(Instant, Cancelled)>,
}

impl Scheduled {
    /// Keeps the callback from being called, if it has not been.
    ///
    /// ```
    /// let event_loop = sessile::EventLoop::new();
    /// event_loop.local().call_soon(|| panic!("never called")).cancel();
    /// event_loop.run_once(std::time::Duration::ZERO)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn cancel(&self) {
        if !self.cancelled.replace(true)
            && let Some((_, cancelled)) = &self.timer
        {
            cancelled.set(cancelled.get() + 1);
        }
    }

    /// Says whether it has been cancelled. A callback that a closed loop was asked for has.
    ///
    /// ```
    /// let event_loop = sessile::EventLoop::new();
    /// assert!(!event_loop.local().call_soon(|| ()).is_cancelled());
    /// event_loop.close();
    /// assert!(event_loop.local().call_soon(|| ()).is_cancelled());
    /// ```
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.get()
    }

    /// Says when it is due; `None` if as soon as possible.
    ///
    /// ```
    /// use std::time::Instant;
    ///
    /// let event_loop = sessile::EventLoop::new();
    /// let now = Instant::now();
    /// assert_eq!(event_loop.local().call_at(now, || ()).when(), Some(now));
    /// assert_eq!(event_loop.local().call_soon(|| ()).when(), None);
    /// ```
    #[must_use]
    pub fn when(&self) -> Option<Instant> {
        self.timer.as_ref().map(|(when, _)| *when)
    }
}

impl fmt::Debug for Scheduled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduled")
            .field("when", &self.when())
            .field("is_cancelled", &self.is_cancelled())
            .finish()
    }
}

/// A delay too long to be represented is as good as for ever: thirty years.
pub(super) fn after(delay: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(delay).unwrap_or_else(|| now + Duration::from_secs(30 * 365 * 24 * 60 * 60))
}

impl LocalHandle {
    /// Finds the loop that is running on this thread, if one is.
    ///
    /// ```
    /// use sessile::EventLoop;
    /// use sessile::event_loop::LocalHandle;
    ///
    /// assert!(LocalHandle::current().is_none());
    /// let event_loop = EventLoop::new();
    /// event_loop.local().call_soon(|| LocalHandle::current().expect("within a loop").stop());
    /// event_loop.run()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn current() -> Option<Self> {
        let current = CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()?;
        (!current.local.reach.is_inherited()).then_some(current)
    }

    /// Makes this loop the current one, as long as the guard lives.
    ///
    /// # Errors
    ///
    /// If the thread has destroyed its thread-locals: nothing can be current any more.
    pub(super) fn enter(&self) -> io::Result<impl Drop + use<>> {
        struct Restore(Option<LocalHandle>);
        impl Drop for Restore {
            fn drop(&mut self) {
                let _ = CURRENT.try_with(|current| current.replace(self.0.take()));
            }
        }
        let ending = || {
            let message = "the thread is ending and its thread-locals are being destroyed: \
                           no loop can run on it any more";
            io::Error::other(message)
        };
        if self.local.reach.thread.is_none() || this_thread().is_none() {
            return Err(ending());
        }
        let before = CURRENT.try_with(|current| current.replace(Some(self.clone())));
        before.map(Restore).map_err(|_| ending())
    }

    fn schedule(&self, when: Option<Instant>, callback: impl FnOnce() + 'static) -> Scheduled {
        let cancelled = Rc::new(Cell::new(false));
        let entry = Entry {
            callback: Callback::Local(Box::new(callback)),
            cancelled: Some(Rc::clone(&cancelled)),
        };
        if self.local.is_closed() {
            cancelled.set(true); // never called, and it shows
        } else {
            match when {
                None => self.local.soon.borrow_mut().push_back(entry),
                Some(at) => {
                    self.local.timers.borrow_mut().add(at, entry);
                    self.local.weed_timers();
                }
            }
            self.local.stir();
        }
        let counted = |at| (at, Rc::clone(self.local.timers.borrow().cancelled()));
        Scheduled { cancelled, timer: when.map(counted) }
    }

    /// Has the loop call `callback` in its next turn, after what is queued already.
    ///
    /// On a loop that is closed it is dropped, and what is returned says cancelled.
    ///
    /// ```
    /// use std::cell::Cell;
    /// use std::rc::Rc;
    ///
    /// let event_loop = sessile::EventLoop::new();
    /// let called = Rc::new(Cell::new(false)); // it need not be `Send`
    /// let calls = Rc::clone(&called);
    /// event_loop.local().call_soon(move || calls.set(true));
    /// event_loop.run_once(None)?;
    /// assert!(called.get());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn call_soon(&self, callback: impl FnOnce() + 'static) -> Scheduled {
        self.schedule(None, callback)
    }

    /// Has the loop call `callback` after `delay`.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let event_loop = sessile::EventLoop::new();
    /// let local = event_loop.local();
    /// let stops = local.clone();
    /// local.call_later(Duration::from_millis(1), move || stops.stop());
    /// event_loop.run()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn call_later(&self, delay: Duration, callback: impl FnOnce() + 'static) -> Scheduled {
        self.schedule(Some(after(delay)), callback)
    }

    /// Has the loop call `callback` at `when`, or in its next turn if that has passed. Those due at
    /// the same moment are called in the order of asking.
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    ///
    /// let event_loop = sessile::EventLoop::new();
    /// let noon = Instant::now() + Duration::from_secs(3600);
    /// let scheduled = event_loop.local().call_at(noon, || println!("noon"));
    /// assert_eq!(event_loop.next_timer(), scheduled.when());
    /// ```
    pub fn call_at(&self, when: Instant, callback: impl FnOnce() + 'static) -> Scheduled {
        self.schedule(Some(when), callback)
    }

    /// Takes `source` in, a socket or a pipe in non-blocking mode, and has `callback` called whenever
    /// it is ready for what `interest` names, for as long as it is.
    ///
    /// The loop owns the source until [`Source::remove`], or until the [`Source`] is dropped.
    ///
    /// ```
    /// use std::io::{Read, Write};
    ///
    /// use sessile::EventLoop;
    /// use sessile::event_loop::Interest;
    ///
    /// let event_loop = EventLoop::new();
    /// let (reader, mut writer) = std::io::pipe()?;
    /// let _source = event_loop.local().add(reader, Interest::READABLE, |mut reader, _| {
    ///     let mut byte = [0];
    ///     reader.read_exact(&mut byte).unwrap();
    /// })?;
    /// writer.write_all(b"x")?;
    /// assert!(event_loop.run_once(None)?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the system cannot watch it: it is closed, or a plain file. If the loop is closed.
    pub fn add<S: AsSource + 'static>(
        &self,
        source: S,
        interest: Interest,
        callback: impl FnMut(&S, Readiness) + 'static,
    ) -> io::Result<Source<S>> {
        Sources::add(&self.local, source, Some((interest, callback)))
    }

    /// Takes `source` in, a socket or a pipe in non-blocking mode, for futures to await: by
    /// [`Source::readable`] and [`Source::writable`].
    ///
    /// All else is as with [`add`](Self::add).
    ///
    /// ```
    /// use std::io::{Read, Write};
    /// use std::os::unix::net::UnixStream;
    ///
    /// use sessile::EventLoop;
    ///
    /// let event_loop = EventLoop::new();
    /// let local = event_loop.local();
    /// let (here, mut there) = UnixStream::pair()?;
    /// here.set_nonblocking(true)?;
    /// let here = local.watch(here)?;
    /// let echo = local.spawn_local(async move {
    ///     here.readable().await?;
    ///     let mut word = [0; 5];
    ///     (&*here).read_exact(&mut word)?;
    ///     (&*here).write_all(&word)
    /// });
    /// there.write_all(b"hello")?;
    /// event_loop.block_on(echo)??.unwrap();
    /// let mut word = [0; 5];
    /// there.read_exact(&mut word)?;
    /// assert_eq!(&word, b"hello");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add).
    pub fn watch<S: AsSource + 'static>(&self, source: S) -> io::Result<Source<S>> {
        Sources::add(&self.local, source, None::<(Interest, fn(&S, Readiness))>)
    }

    /// Runs a future on the loop. It need not be `Send`. It is first polled in the next turn.
    ///
    /// Cancelling the handle has the loop drop the future in its next turn; closing the loop drops it
    /// at once. A panic in it goes to the handle.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let event_loop = sessile::EventLoop::new();
    /// let local = event_loop.local();
    /// let sleeper = local.clone();
    /// let spawned = local.spawn_local(async move {
    ///     sleeper.sleep(Duration::from_millis(1)).await;
    ///     7
    /// });
    /// assert_eq!(event_loop.block_on(spawned)??, 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn spawn_local<F>(&self, future: F) -> JoinHandle<F::Output, ()>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        spawn::spawn(&self.local, future)
    }

    /// Counts the callbacks that are queued behind the one that is being called now.
    ///
    /// With none, it is the moment for what one puts off to do it once for many: to flush a buffer.
    ///
    /// ```
    /// let event_loop = sessile::EventLoop::new();
    /// let local = event_loop.local();
    /// assert_eq!(local.queued(), 0);
    /// local.call_soon(|| ());
    /// assert_eq!(local.queued(), 1);
    /// ```
    #[must_use]
    pub fn queued(&self) -> usize {
        self.local.ready.borrow().len() + self.local.soon.borrow().len()
    }

    /// Has the loop end its run after the turn it is in, or after its next.
    ///
    /// ```
    /// let event_loop = sessile::EventLoop::new();
    /// event_loop.local().stop();
    /// event_loop.run()?; // one turn
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn stop(&self) {
        self.local.reach.stop();
    }

    /// Hands out the handle for other threads.
    ///
    /// ```
    /// let event_loop = sessile::EventLoop::new();
    /// let handle = event_loop.local().handle();
    /// std::thread::spawn(move || handle.stop());
    /// event_loop.run()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle { reach: Arc::clone(&self.local.reach) }
    }
}

impl fmt::Debug for LocalHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalHandle").finish_non_exhaustive()
    }
}
