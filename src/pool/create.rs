//! How an instance is made.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::inner::Inner;
use super::instance::Instance;
use crate::contain::contain;
use crate::deadline::Deadline;
use crate::error::Kind;
use crate::manager::{CloseReason, CreateContext};
use crate::registry::event::InstanceEventKind;
use crate::slot::{Granted, Mode, Notice};
use crate::thread::Entered;

pub(super) type Borrowed<T> = (Arc<Instance<T>>, Granted);

impl<T> Inner<T> {
    /// Makes this thread's instance, and borrows it.
    ///
    /// One that was cleared while it was being made is made anew: once, and if there is time for it.
    /// The next is used, whatever comes. So a use makes two at most, also where somebody clears the
    /// pool again and again, be it the manager itself; and who uses the pool after a clear has
    /// returned gets none that was begun before it, for that one is closed after the use at hand.
    pub(super) fn create(
        self: &Arc<Self>,
        entered: &Entered,
        wait: Deadline,
        mode: Mode,
        key: Option<String>,
    ) -> Result<Borrowed<T>, Kind> {
        let mut again = true;
        loop {
            if let Some(made) = self.make(entered, wait, mode, key.clone(), again)? {
                return Ok(made);
            }
            again = false;
        }
    }

    /// [`create`](Self::create), for one time. `None`: it was cleared meanwhile, and should be made
    /// `again`.
    pub(super) fn make(
        self: &Arc<Self>,
        entered: &Entered,
        wait: Deadline,
        mode: Mode,
        key: Option<String>,
        again: bool,
    ) -> Result<Option<Borrowed<T>>, Kind> {
        if self.closed.load(Ordering::SeqCst) || self.is_closed_here() {
            return Err(Kind::Closed);
        }
        let watched = self.registry.enroll(self);
        self.note_watch(&watched);
        self.books().backoff().permits()?;
        let is_keyed = key.is_some();
        let instance = Instance::opening(self, entered.this_thread(), key);
        if !is_keyed {
            // In its place before anything else happens, so that a use from within the creation, or
            // from a close that makes room for it, is found out.
            self.place.move_in(Arc::clone(&instance), entered);
        }
        let mut opening = Opening {
            instance: &instance,
            admitted: false,
            told: false,
            was_panicking: std::thread::panicking(),
        };
        if let Err(error) = &watched {
            self.tell(&instance, InstanceEventKind::ReaperFailed { error });
        }
        self.admit(wait)?;
        opening.admitted = true;
        self.books().instances.insert(instance.id, Arc::clone(&instance));
        // Whoever has begun to wait, and has not found it on the books, is seen here.
        if self.is_waited_for() {
            instance.slot.alert();
        }
        // On the books first, then these two are read; a close or clear writes them first, then
        // reads the books. So either it finds the instance, or we find it here.
        let generation = self.generation.load(Ordering::SeqCst);
        instance.generation.store(generation, Ordering::Relaxed);
        if self.closed.load(Ordering::SeqCst) {
            return Err(Kind::Closed);
        }
        let cx = CreateContext {
            id: instance.id,
            name: format!("{}-{}", self.name, instance.id),
            owner: instance.thread.owner.clone(),
            key: instance.key.clone(),
            generation,
        };
        let begun = Instant::now();
        let value = match self.manager.create(&cx) {
            Ok(value) => value,
            Err(error) => {
                opening.failed(&error);
                drop(opening);
                return Err(Kind::CreateFailed(error));
            }
        };
        let took = begun.elapsed();
        // A panic there costs the handle, not the instance: there is one now, to be closed in time.
        if let Ok(Some(interrupt)) = contain(|| self.manager.interrupt(&value)) {
            let _ = instance.interrupt.set(interrupt);
        }
        if let Ok(Some(note)) = contain(|| self.manager.describe(&value)) {
            let _ = instance.note.set(note.into());
        }
        opening.succeeded();
        let books = self.books();
        books.backoff().reset();
        books.tally.created.fetch_add(1, Ordering::Relaxed);
        let granted = instance.install(value);
        self.tell(&instance, InstanceEventKind::Created { took });
        if self.closed.load(Ordering::SeqCst) {
            instance.close_borrowed(CloseReason::PoolClosed);
            return Err(Kind::Closed);
        }
        let is_cleared = instance.slot.notice() == Notice::Revoked(CloseReason::Cleared);
        if is_cleared && again && wait.remaining().is_none_or(|left| left >= took) {
            instance.close_borrowed(CloseReason::Cleared);
            return Ok(None);
        }
        // Any other order lets the use at hand go ahead and closes after it: else threads could go on
        // for ever without one of them getting to use what it has made.
        // Only now: what was told above is foreign code, and could keep a shared borrow of its own.
        instance.slot.settle(mode);
        Ok(Some((instance, granted)))
    }
}

/// An instance that is being made. Dropped before it has [`succeeded`](Self::succeeded), it settles
/// all accounts, also while a panic of the manager's unwinds.
struct Opening<'a, T: 'static> {
    instance: &'a Instance<T>,
    admitted: bool,
    told: bool,
    /// The creation runs in a destructor while another panic unwinds, which proves nothing.
    was_panicking: bool,
}

impl<T> Opening<'_, T> {
    fn failed(&mut self, error: &anyhow::Error) {
        self.told = true;
        let pool = &self.instance.pool;
        let books = pool.books();
        books.tally.create_failed.fetch_add(1, Ordering::Relaxed);
        books.backoff().lengthen(pool.limits.backoff);
        pool.tell(self.instance, InstanceEventKind::CreateFailed { error });
    }

    fn succeeded(self) {
        std::mem::forget(self);
    }
}

impl<T> Drop for Opening<'_, T> {
    fn drop(&mut self) {
        let pool = &self.instance.pool;
        if std::thread::panicking() && !self.was_panicking && !self.told {
            self.failed(&anyhow::anyhow!("the manager panicked"));
        }
        pool.place.move_out(self.instance.id);
        if self.admitted {
            pool.remove(self.instance.id);
        }
    }
}
