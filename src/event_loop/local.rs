//! The owner's handle to its own loop.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handle::Handle;
use super::queue::{Callback, Entry};
use super::reach::this_thread;
use super::readiness::{AsSource, Interest, Readiness, Source, Sources};
use super::state::Local;
use super::timers::{Cancelled, after};
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

thread_local! {
    static CURRENT: RefCell<Option<LocalHandle>> = const { RefCell::new(None) };
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
        self.local.spawn(future)
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
