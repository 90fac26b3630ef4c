//! A loop that is run inside another: its descriptor is readable when it has something to do.
//!
//! The outer loop sleeps, and the inner one must wake it. So between two of its runs a loop whose
//! descriptor was asked for sleeps as if it slept in its poller: a post, a wake or a stop rings there.
//! What is to be done already rings at once. The poller's descriptor is readable when the bell has rung
//! or a source is ready; and when the first timer is due, by an alarm of the system's, where that has one.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Instant;

use polling::Poller;

use super::EventLoop;
use super::local::LocalHandle;
use super::readiness::{Interest, Source};
use super::state::Local;

std::thread_local! {
    /// How many loops of this thread may be run inside others.
    static ON_LOAN: Cell<usize> = const { Cell::new(0) };
}

/// Whether a loop of this thread may be run inside another, while that runs.
pub(super) fn may_run_inside_another() -> bool {
    ON_LOAN.with(Cell::get) > 0
}

/// What a loop has if its descriptor was asked for.
pub(super) struct Outside {
    poller: Arc<Poller>,
    /// Readable when the first timer is due.
    alarm: Option<Source<OwnedFd>>,
    is_set: Cell<bool>,
}

impl Outside {
    fn new(local: &LocalHandle) -> io::Result<Self> {
        let Local { sources, reach, on_loan, .. } = &*local.local;
        let (poller, alarm) = if local.local.is_closed() {
            (Arc::new(Poller::new()?), None) // it will never be readable
        } else {
            let poller = sources.borrow_mut().poller(reach)?;
            (poller, alarm(local)?)
        };
        let _ = on_loan.set(Arc::clone(&poller));
        ON_LOAN.with(|all| all.set(all.get() + 1));
        Ok(Self { poller, alarm, is_set: Cell::new(false) })
    }

    /// A run begins: the loop is awake.
    pub(super) fn begin(&self, local: &Local) {
        local.reach.mailbox.wake_up();
        self.set_alarm(None);
    }

    /// A run ends: until the next one, the descriptor tells what there is to do.
    pub(super) fn end(&self, local: &Local) {
        if local.is_closed() {
            return;
        }
        let due = local.next_due();
        self.set_alarm(due);
        let has_work = !local.soon.borrow().is_empty()
            || !local.ready.borrow().is_empty()
            || !local.woken.borrow().is_empty()
            || local.sources.borrow().has_ready();
        if !local.reach.falls_asleep(&local.inbox, true) || has_work {
            local.stir();
        }
    }

    fn set_alarm(&self, due: Option<Instant>) {
        let Some(alarm) = &self.alarm else { return };
        if due.is_some() || self.is_set.get() {
            self.is_set.set(due.is_some());
            set(alarm, due);
        }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        ON_LOAN.with(|all| all.set(all.get() - 1));
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn alarm(local: &LocalHandle) -> io::Result<Option<Source<OwnedFd>>> {
    // A run puts it out before it looks at its sources, so it is never seen ringing.
    local.add(crate::sys::timer()?, Interest::READABLE, |_, _| ()).map(Some)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn set(alarm: &OwnedFd, due: Option<Instant>) {
    let left = due.map(|due| due.saturating_duration_since(Instant::now()));
    // It fails only for times that no clock can show, which these are not.
    let _ = crate::sys::set_timer(alarm.as_fd(), left);
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn alarm(_: &LocalHandle) -> io::Result<Option<Source<OwnedFd>>> {
    Ok(None)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn set(_: &OwnedFd, _: Option<Instant>) {}

/// A descriptor that is readable when the loop has something to do, so that it can be run inside
/// another loop: one of this crate, of tokio (`AsyncFd`), of GLib.
///
/// - The outer loop watches it for reading, level-triggered, and calls
///   [`run_once(Duration::ZERO)`](EventLoop::run_once) when it is readable; on the inner loop's thread,
///   of course. Nothing is to be read from it.
/// - It becomes readable by a post, a stop, a woken future, a source that is ready; by what is
///   scheduled on this thread while the inner loop does not run; and on Linux by a timer that is due. On
///   other systems the outer loop also calls `run_once` when [`next_timer`](EventLoop::next_timer) has
///   come.
/// - An edge-triggered watcher, as `AsyncFd` is, calls `run_once` until that says `false`.
/// - It may be readable for nothing. After a turn it stays readable as long as something is left to do.
/// - It is the same descriptor all the time, until the loop is dropped. Of a loop that is closed it is
///   never readable. It must not be used in a forked child.
///
/// ```
/// use std::time::Duration;
///
/// use sessile::EventLoop;
/// use sessile::event_loop::Interest;
///
/// let (outer, inner) = (EventLoop::new(), EventLoop::new());
/// let handle = inner.handle();
/// let _inside = outer.local().add(inner, Interest::READABLE, |inner: &EventLoop, _| {
///     inner.run_once(Duration::ZERO).unwrap();
/// })?;
/// let (seven, stop) = (handle.call(|| 7)?, outer.handle());
/// let asks = std::thread::spawn(move || {
///     let seven = seven.join();
///     stop.stop();
///     seven
/// });
/// outer.run()?;
/// assert_eq!(asks.join().unwrap()?, 7);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
///
/// # Panics
///
/// If the system has no descriptors left, the first time. A source that is added before makes the poller,
/// with an error instead.
impl AsFd for EventLoop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        let is_new = self.outside.get().is_none();
        let outside = self.outside.get_or_init(|| {
            let outside = Outside::new(&self.local);
            outside
                .expect("the system has descriptors left for an event loop that is to be watched")
        });
        if is_new && self.local.local.running.get() == 0 {
            outside.end(&self.local.local);
        }
        outside.poller.as_fd()
    }
}

/// As [`AsFd`](#impl-AsFd-for-EventLoop), for those who ask for a number.
impl AsRawFd for EventLoop {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}
