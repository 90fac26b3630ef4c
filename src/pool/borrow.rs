//! A use, beyond its fast path: this thread's instance, looked after or made anew.

use std::sync::Arc;

use super::inner::Inner;
use super::instance::Instance;
use super::lease::Lease;
use crate::deadline::Deadline;
use crate::error::{Kind, PoolError};
use crate::slot::{Mode, Notice};
use crate::thread::Resident;

impl<T> Inner<T> {
    /// Everything that the fast path leaves over: this thread's instance, looked after or made anew.
    /// If it has to wait for room it waits for as long as given, else for the pool's usual time.
    #[cold]
    #[inline(never)]
    pub(crate) fn borrow<const SHARED: bool>(
        self: &Arc<Self>,
        wait: Option<Deadline>,
    ) -> Result<Lease<'_, T, SHARED>, PoolError> {
        self.try_borrow(wait).map_err(|kind| self.error(kind))
    }

    pub(super) fn try_borrow<const SHARED: bool>(
        self: &Arc<Self>,
        wait: Option<Deadline>,
    ) -> Result<Lease<'_, T, SHARED>, Kind> {
        let entered = crate::thread::enter().map_err(|_| Kind::ThreadExiting)?;
        let mode = Lease::<T, SHARED>::MODE;
        loop {
            let Some(instance) = self.place.resident(&entered) else {
                let wait = wait.unwrap_or_else(|| self.limits.usual_wait());
                let (instance, granted) = self.create(&entered, wait, mode, None)?;
                return Ok(Lease::of(&instance, granted));
            };
            if let Some(lease) = self.borrow_this(&instance)? {
                return Ok(lease);
            }
        }
    }

    /// Borrows an instance of this thread, after the checks that are due. `None` if it is gone.
    pub(super) fn borrow_this<const SHARED: bool>(
        &self,
        instance: &Arc<Instance<T>>,
    ) -> Result<Option<Lease<'_, T, SHARED>>, Kind> {
        let mode = Lease::<T, SHARED>::MODE;
        let (notice, granted) = instance.slot.borrow(mode).map_err(|_| Kind::Reentrant)?;
        match notice {
            Notice::Live => return Ok(Some(Lease::of(instance, granted))),
            Notice::Stale => match instance.check() {
                Ok(()) => return Ok(Some(Lease::of(instance, granted))),
                Err(reason) => instance.close_borrowed(reason),
            },
            Notice::Revoked(_) | Notice::Taken(_) => {
                Arc::clone(instance).attend();
            }
        }
        Ok(None)
    }

    /// An instance that this thread keeps for a key, beside the one it has in its table: the one in
    /// `kept`, or, if that is gone, a new one, which takes its place.
    pub(crate) fn borrow_keyed(
        self: &Arc<Self>,
        kept: &mut Option<Arc<Instance<T>>>,
        key: impl Fn() -> String,
    ) -> Result<Lease<'_, T, false>, PoolError> {
        self.try_borrow_keyed(kept, key).map_err(|kind| self.error(kind))
    }

    pub(super) fn try_borrow_keyed(
        self: &Arc<Self>,
        kept: &mut Option<Arc<Instance<T>>>,
        key: impl Fn() -> String,
    ) -> Result<Lease<'_, T, false>, Kind> {
        let entered = crate::thread::enter().map_err(|_| Kind::ThreadExiting)?;
        if let Some(instance) = kept {
            if let Some(lease) = self.borrow_this(instance)? {
                return Ok(lease);
            }
            *kept = None;
        }
        let wait = self.limits.usual_wait();
        let (instance, granted) = self.create(&entered, wait, Mode::Exclusive, Some(key()))?;
        let lease = Lease::of(&instance, granted);
        *kept = Some(instance);
        Ok(lease)
    }
}
