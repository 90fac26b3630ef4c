//! How a sleeping owner is reached.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::task::Wake;
use std::time::Duration;

use polling::Poller;

use super::mailbox::{Inbox, Job, Mailbox, Posted, Refused};
use crate::contain::contain;
use crate::sync::thread::{self, Thread};
use crate::sync::{AtomicBool, Ordering, in_one_order, look_out};
use crate::task::RunsOn;

/// This thread. The standard library does not know it any more once it has destroyed its own
/// thread-locals, and panics; destructors of POSIX thread-specific data may come after that.
pub(super) fn this_thread() -> Option<Thread> {
    contain(thread::current).ok()
}

/// What the two handles of a loop, and its wakers, have in common: its mailbox and its bell.
pub(crate) struct Reach {
    pub(crate) mailbox: Arc<Mailbox>,
    /// The owner; unknown if it is so far at its end that it does not know itself. Then no loop runs.
    pub(crate) thread: Option<Thread>,
    pub(crate) runs_on: RunsOn,
    /// There is something other than post: a stop, a task to poll, an instance to look after.
    attention: AtomicBool,
    /// Made with the first source; without one the owner parks, which is faster. It is the owner's, and
    /// goes with the loop: who can reach the loop may live on.
    poller: OnceLock<Weak<Poller>>,
    /// Where the owner sleeps: in the poller, or parked.
    in_poller: AtomicBool,
    stop: AtomicBool,
    woken: Mutex<Vec<u64>>,
}

impl Reach {
    /// Of this thread; and its inbox.
    pub(crate) fn new(capacity: Option<usize>) -> (Arc<Self>, Inbox) {
        let (mailbox, inbox) = Mailbox::new(capacity);
        let reach = Arc::new(Self {
            mailbox,
            thread: this_thread(),
            runs_on: contain(|| std::thread::current().id())
                .map_or(RunsOn::Anybody, RunsOn::Thread),
            attention: AtomicBool::new(false),
            poller: OnceLock::new(),
            in_poller: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            woken: Mutex::new(Vec::new()),
        });
        (reach, inbox)
    }

    /// What tells this loop from others, as long as it has handles. Not to be followed.
    pub(crate) fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    // ---- anybody ------------------------------------------------------------------------------

    /// Posts a job, and says whether the owner had to be woken for it.
    pub(crate) fn post<J: Job>(&self, job: J) -> Result<Posted, Refused<J>> {
        let posted = self.mailbox.post(job)?;
        if posted == Posted::Wake {
            self.ring();
        }
        Ok(posted)
    }

    #[cold]
    fn ring(&self) {
        if self.in_poller.load(Ordering::SeqCst) {
            // Gone, the owner sleeps no more. It fails only where the poller itself has: then the
            // owner's wait fails as well.
            if let Some(poller) = self.poller.get().and_then(Weak::upgrade) {
                let _ = poller.notify();
            }
        } else if let Some(thread) = &self.thread {
            thread.unpark();
        }
    }

    /// Whether this is a forked child, and the owner its parent's.
    pub(crate) fn is_inherited(&self) -> bool {
        self.mailbox.is_inherited()
    }

    /// Has the owner look up from its sleep, or once more before it falls asleep.
    pub(crate) fn attract(&self) {
        if self.is_inherited() {
            return; // the bell is the parent's
        }
        self.attention.store(true, Ordering::SeqCst);
        in_one_order();
        if self.mailbox.rouse() == Posted::Wake {
            self.ring();
        }
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.attract();
    }

    pub(crate) fn task_woken(&self, task: u64) {
        if self.is_inherited() {
            return; // the lock may be held for ever
        }
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).push(task);
        self.attract();
    }

    // ---- the owner ----------------------------------------------------------------------------

    /// The owner will sleep in this one from now on.
    pub(crate) fn set_poller(&self, poller: &Arc<Poller>) {
        let _ = self.poller.set(Arc::downgrade(poller)); // there is one for each loop
    }

    pub(crate) fn take_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed) && self.stop.swap(false, Ordering::SeqCst)
    }

    pub(crate) fn take_attention(&self) -> bool {
        self.attention.load(Ordering::Relaxed) && self.attention.swap(false, Ordering::SeqCst)
    }

    pub(crate) fn take_woken(&self) -> Vec<u64> {
        std::mem::take(&mut *self.woken.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sleeps until there is post or attention is asked for, or the time is over. With `sleep`
    /// instead of parking, if the owner sleeps elsewhere.
    pub(crate) fn sleep(&self, inbox: &Inbox, wait: Option<Duration>) {
        if look_out(|| inbox.has_post() || self.attention.load(Ordering::Relaxed)) {
            return;
        }
        if self.falls_asleep(inbox, false) {
            // A token left over from elsewhere ends the sleep early: the owner just looks again.
            match wait {
                None => thread::park(),
                Some(wait) => thread::park_timeout(wait),
            }
        }
        self.mailbox.wake_up();
    }

    /// Announces the sleep. `false` if there is something to do; then the owner is awake.
    pub(crate) fn falls_asleep(&self, inbox: &Inbox, in_poller: bool) -> bool {
        self.in_poller.store(in_poller, Ordering::SeqCst);
        // Attention is asked for by storing it, then looking at who sleeps: as with post.
        inbox.fall_asleep() && !self.attention.load(Ordering::SeqCst)
    }
}

impl Wake for Reach {
    fn wake(self: Arc<Self>) {
        self.attract();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.attract();
    }
}
